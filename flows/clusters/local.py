"""Worker processes on this machine, reachable from this machine only."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from multiprocessing import resource_tracker
from tempfile import TemporaryDirectory

from dask.system import CPU_COUNT
from distributed import Client, LocalCluster

from flows.clusters import Workers
from flows.clusters.workers import described, limit_blas, scale
from flows.signals import SIGNALS
from pipeline.config import AUTO, NONE, ClusterConfig


@contextmanager
def start(settings: ClusterConfig) -> Iterator[Workers]:
    """Run tasks in worker processes; a nanny restarts one that dies."""
    threads = settings.threads_per_worker
    if settings.maximum == NONE and settings.workers == AUTO:
        settings = replace(settings, workers=max(1, CPU_COUNT // threads))
    fixed = settings.maximum == NONE
    with ExitStack() as stack:
        # Of the workers; what a killed one leaves goes with it.
        folder = stack.enter_context(TemporaryDirectory(prefix="romzarr-workers-"))
        with kept_from_children():
            cluster = LocalCluster(
                n_workers=settings.workers if fixed else settings.minimum,
                threads_per_worker=threads,
                memory_limit=settings.memory_limit,
                processes=True,
                host="127.0.0.1",
                # No dashboard, and a port of its own: the usual one may belong to another job.
                dashboard_address="127.0.0.1:0",
                scheduler_kwargs={"dashboard": False},
                local_directory=folder,
                silence_logs=logging.ERROR,
            )
            stack.enter_context(cluster)
        client = stack.enter_context(Client(cluster))
        if not fixed:
            scale(cluster, settings)
        limit_blas(client)
        yield Workers(described(settings, f"processes of {threads} thread(s)"), client)


@contextmanager
def kept_from_children() -> Iterator[None]:
    """Context in which threads are started that get no signals, nor do processes they start.

    A terminal, systemd and SLURM tell all processes of a job to end. Workers that do so by
    themselves are taken for crashed and started again, while they are stopped in order.
    """
    # Starting it later would let signals through in the thread that does.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

"""Worker processes on this machine, reachable from this machine only."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import resource_tracker
from tempfile import TemporaryDirectory
from typing import Any

import dask
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster
from distributed.utils import LoopRunner

from romzarr.config import AUTO, NONE, ClusterConfig
from romzarr_flows.clusters import Workers
from romzarr_flows.clusters.workers import described, limit_blas, scale
from romzarr_flows.signals import SIGNALS


@contextmanager
def start(settings: ClusterConfig) -> Iterator[Workers]:
    """Run tasks in worker processes; a nanny restarts one that dies."""
    threads = settings.threads_per_worker
    if settings.maximum == NONE and settings.workers == AUTO:
        settings = replace(settings, workers=max(1, CPU_COUNT // threads))
    fixed = settings.maximum == NONE
    with (
        # Of scheduler and workers; what a killed one leaves goes with it.
        TemporaryDirectory(prefix="romzarr-workers-") as folder,
        dask.config.set(temporary_directory=folder),
        loop_without_signals() as loop,
        LocalCluster(
            n_workers=settings.workers if fixed else settings.minimum,
            threads_per_worker=threads,
            memory_limit=settings.memory_limit,
            processes=True,
            host="127.0.0.1",
            # No dashboard, and a port of its own: the usual one may belong to another job.
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            # Failures reach the caller; workers that go with their scheduler need not complain.
            silence_logs=logging.CRITICAL,
            loop=loop,
        ) as cluster,
        Client(cluster) as client,
    ):
        if not fixed:
            scale(cluster, settings)
        limit_blas(client)
        yield Workers(described(settings, f"processes of {threads} thread(s)"), client)


@contextmanager
def loop_without_signals() -> Iterator[Any]:
    """The event loop of a thread that gets no signals, nor do the processes that it starts.

    A terminal, systemd and SLURM tell all processes of a job to end. Workers that do so by
    themselves are taken for crashed and started again, while they are stopped in order.
    """
    runner = LoopRunner()
    # The tracker of resources ignores the others itself, and lets them through where it is started.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    try:
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        runner.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        yield runner.loop
    finally:
        runner.stop()

"""Worker processes on this machine that listen on loopback only."""

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
        # For scheduler and workers, so that nothing remains of killed ones.
        TemporaryDirectory(prefix="romzarr-workers-") as folder,
        dask.config.set(temporary_directory=folder),
        loop_without_signals() as loop,
        LocalCluster(
            n_workers=settings.workers if fixed else settings.minimum,
            threads_per_worker=threads,
            memory_limit=settings.memory_limit,
            processes=True,
            host="127.0.0.1",
            # No dashboard, and a free port: another job may use the default one.
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            # Failures reach the caller; workers that stop with their scheduler need not log errors.
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
    """Run an event loop in a thread that blocks signals, as do the processes that it starts.

    A terminal, systemd and SLURM signal all processes of a job. Workers that end by themselves
    would be taken for crashed and restarted, while they are being stopped in order.
    """
    runner = LoopRunner()
    # The resource tracker ignores SIGINT and SIGTERM itself and unblocks them when it starts.
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

"""Worker processes on this machine, reachable from this machine only."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from dask.system import CPU_COUNT
from distributed import Client, LocalCluster

from flows.clusters import Workers
from pipeline.config import ClusterConfig


@contextmanager
def start(settings: ClusterConfig) -> Iterator[Workers]:
    """Run tasks in ``settings.workers`` processes; a nanny restarts one that dies.

    The nanny gives every process one BLAS thread, so threads never exceed the cores unless
    more workers than cores are asked for.
    """
    threads = settings.threads_per_worker
    workers = max(1, CPU_COUNT // threads) if settings.workers == "auto" else settings.workers
    with (
        LocalCluster(
            n_workers=workers,
            threads_per_worker=threads,
            memory_limit=settings.memory_limit,
            processes=True,
            host="127.0.0.1",
            # No dashboard, and a port of its own: the usual one may belong to another job.
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield Workers(f"{workers} processes of {threads} thread(s)", client)

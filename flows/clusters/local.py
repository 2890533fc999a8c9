"""Worker processes on this machine, reachable from this machine only."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from dask.system import CPU_COUNT
from distributed import Client, LocalCluster

from flows.clusters import Workers
from flows.clusters.workers import described, limit_blas, scale
from pipeline.config import AUTO, NONE, ClusterConfig


@contextmanager
def start(settings: ClusterConfig) -> Iterator[Workers]:
    """Run tasks in worker processes; a nanny restarts one that dies."""
    threads = settings.threads_per_worker
    if settings.maximum == NONE and settings.workers == AUTO:
        settings = replace(settings, workers=max(1, CPU_COUNT // threads))
    fixed = settings.maximum == NONE
    with (
        LocalCluster(
            n_workers=settings.workers if fixed else settings.minimum,
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
        if not fixed:
            scale(cluster, settings)
        limit_blas(client)
        yield Workers(described(settings, f"processes of {threads} thread(s)"), client)

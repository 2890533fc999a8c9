"""Dask threads in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dask
from dask.system import CPU_COUNT
from threadpoolctl import threadpool_limits

from romzarr.config import ClusterConfig
from romzarr_flows.clusters import Workers


@contextmanager
def start(settings: ClusterConfig) -> Iterator[Workers]:
    """Run tasks on ``settings.workers`` threads, and limit BLAS to the remaining cores."""
    threads = CPU_COUNT if settings.workers == "auto" else settings.workers
    blas = max(1, CPU_COUNT // threads)
    # Set here, so that a dask.yaml in the home directory has no effect.
    scheduler = dask.config.set(scheduler="threads", num_workers=threads, pool=None)
    with scheduler, threadpool_limits(blas, user_api="blas"):
        yield Workers(f"{threads} threads in this process")

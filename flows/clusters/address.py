"""A Dask scheduler that somebody else started."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from distributed import Client

from flows.clusters import ClusterError, Workers
from flows.clusters.workers import ready
from pipeline.config import ClusterConfig

PATIENCE_SECONDS = 10


@contextmanager
def start(settings: ClusterConfig) -> Iterator[Workers]:
    """Connect to the scheduler at ``settings.kind``.

    Raises
    ------
    ClusterError
        If no scheduler answers, it has no worker, or a worker lacks this version of romzarr.
        A job sent there would hang or fail at its first task.
    """
    address = settings.kind
    try:
        client = Client(address, timeout=PATIENCE_SECONDS)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"cluster.kind: no Dask scheduler answered at {address} within {PATIENCE_SECONDS} s; "
            "start one (dask scheduler), correct the address, or use --cluster threads"
        ) from error
    advice = f"start some: dask worker {address}"
    with (
        client,
        ready(client, f"the workers of {address}", PATIENCE_SECONDS / 60, advice) as workers,
    ):
        yield workers

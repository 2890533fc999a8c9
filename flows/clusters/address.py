"""A Dask scheduler that somebody else started."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

from distributed import Client

from flows.clusters import ClusterError, Workers
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
    with client:
        check_workers(client, address)
        yield Workers(f"the {len(client.nthreads())} workers of {address}", client)


def check_workers(client: Client, address: str) -> None:
    """Refuse a cluster without workers, or whose workers have another romzarr."""
    try:
        client.wait_for_workers(1, timeout=PATIENCE_SECONDS)
    except TimeoutError as error:
        raise ClusterError(
            f"the scheduler at {address} has had no worker for {PATIENCE_SECONDS} s; "
            f"start some: dask worker {address}"
        ) from error
    here = version("romzarr")
    for worker, found in client.run(version, "romzarr", on_error="return").items():
        if found != here:
            problem = "no romzarr" if isinstance(found, Exception) else f"romzarr {found}"
            raise ClusterError(
                f"worker {worker} has {problem}, this process has {here}; "
                "install the same version on both"
            )

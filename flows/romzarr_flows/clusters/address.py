"""A running Dask scheduler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from distributed import Client

from romzarr.config import ClusterConfig
from romzarr_flows.clusters import ClusterError, Workers
from romzarr_flows.clusters.security import security_of
from romzarr_flows.clusters.workers import ready

# A scheduler answers in milliseconds; names may take some seconds to resolve.
PATIENCE_SECONDS = 10


@contextmanager
def start(settings: ClusterConfig) -> Iterator[Workers]:
    """Connect to the scheduler at ``settings.kind``.

    Raises
    ------
    ClusterError
        If no scheduler answers, it has no worker, or a worker has other versions of packages. A
        job sent there would hang or fail at its first task.
    ConfigError
        If ``settings.tls`` names files that cannot be used.
    """
    address, security = settings.kind, security_of(settings)
    # Without our settings Dask uses its own.
    encrypted = {} if security is None else {"security": security}
    try:
        client = Client(address, timeout=PATIENCE_SECONDS, **encrypted)
    # TypeError: there are no certificates for TLS.
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        tls = "give its certificates (cluster.tls), " if address.startswith("tls://") else ""
        raise ClusterError(
            f"cluster.kind: no Dask scheduler answered at {address} within {PATIENCE_SECONDS} s; "
            f"start one (dask scheduler), correct the address, {tls}or use --cluster threads "
            f"({_cause(error)})"
        ) from error
    advice = f"start some: dask worker {address}"
    with (
        client,
        ready(client, f"the workers of {address}", PATIENCE_SECONDS / 60, advice) as workers,
    ):
        yield workers


def _cause(error: BaseException) -> str:
    """Describe the root cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())}"

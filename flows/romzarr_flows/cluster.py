"""Connects to workers of any kind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec

from romzarr.config import ClusterConfig
from romzarr.errors import ConfigError
from romzarr_flows.clusters import ClusterError, Workers

# Packages that some kinds need; each is in the extra named like the kind.
PACKAGES = {"slurm": "dask_jobqueue", "kubernetes": "dask_kubernetes", "gateway": "dask_gateway"}
# What distributed raises for failures outside this program, and what to do. By name, so that
# threads need not import distributed.
FAILURES = {
    "KilledWorker": "tasks killed every worker that took them, most often by using more memory "
    "than it has; raise cluster.memory_limit",
    "CommClosedError": "the connection to the Dask scheduler was lost",
    "FutureCancelledError": "the Dask scheduler was lost",
    "CancelledError": "the Dask scheduler was lost",
}


@contextmanager
def connect(settings: ClusterConfig) -> Iterator[Workers]:
    """Make Dask run tasks where `settings` says while the context lasts.

    Parameters
    ----------
    settings : ClusterConfig
        ``kind`` names a module of `romzarr_flows.clusters` or is the address of a scheduler.

    Returns
    -------
    context manager of Workers
        Every Dask computation inside runs there. Workers that were started are stopped at the end.

    Raises
    ------
    ConfigError
        If a package that the kind needs is not installed.
    ClusterError
        If the workers cannot be started or reached, or are lost while the context lasts.

    Examples
    --------
    >>> with connect(ClusterConfig(kind="threads", workers=2)) as workers:
    ...     print(workers.description)
    2 threads in this process
    """
    kind = settings.family
    package = PACKAGES.get(kind)
    if package and find_spec(package) is None:
        raise ConfigError(
            f"cluster.kind: {kind!r} needs {package}, which is not installed; "
            f"pip install 'romzarr[{kind}]', or use another kind"
        )
    # Imported by name: a kind may need packages that are not installed.
    with import_module(f"romzarr_flows.clusters.{kind}").start(settings) as workers:
        try:
            yield workers
        except Exception as error:
            if type(error).__name__ not in FAILURES:
                raise
            details = " ".join(str(error).split())
            raise ClusterError(
                f"{FAILURES[type(error).__name__]}; no store was changed. Check that "
                f"{workers.description} are running, and run the command again ({details})"
            ) from error

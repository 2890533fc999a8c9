"""Where the work runs: one way in, whatever the kind."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib import import_module

from flows.clusters import Workers
from pipeline.config import ClusterConfig


def connect(settings: ClusterConfig) -> AbstractContextManager[Workers]:
    """Make Dask run tasks where `settings` says, for as long as the context lasts.

    Parameters
    ----------
    settings : ClusterConfig
        ``kind`` is a file of `flows.clusters` or the address of a scheduler.

    Returns
    -------
    context manager of Workers
        Inside it every Dask computation runs there; what was started is stopped at the end.

    Examples
    --------
    >>> with connect(ClusterConfig(kind="threads", workers=2)) as workers:
    ...     print(workers.description)
    2 threads in this process
    """
    kind = "address" if "://" in settings.kind else settings.kind
    # Imported by name: a kind may need packages that only its users have.
    started: AbstractContextManager[Workers] = import_module(f"flows.clusters.{kind}").start(
        settings
    )
    return started

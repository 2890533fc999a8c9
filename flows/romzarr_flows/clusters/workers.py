"""Preparation of workers, for every kind of cluster with a Dask scheduler."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from distributed import Client, WorkerPlugin

from romzarr.config import NONE, ClusterConfig
from romzarr_flows.clusters import ClusterError, Workers

log = logging.getLogger(__name__)

# Versions of these have to agree: they define messages between machines and the store format.
PACKAGES = ("romzarr", "dask", "distributed", "zarr")


class OneBlasThread(WorkerPlugin):
    """Limits BLAS to one thread in every worker, including those that start later.

    A nanny sets this through the environment, but not every worker has a nanny.
    """

    name = "romzarr-one-blas-thread"

    def setup(self, worker: Any) -> None:
        # Only loaded libraries are limited, and scipy has its own BLAS.
        import scipy.linalg  # noqa: F401
        from threadpoolctl import threadpool_limits

        self.limit = threadpool_limits(1)

    def teardown(self, worker: Any) -> None:
        self.limit.restore_original_limits()


def scale(cluster: Any, settings: ClusterConfig) -> None:
    """Request a fixed number of workers, or as many as the work needs, as `settings` say."""
    if settings.maximum == NONE:
        cluster.scale(settings.workers)
    else:
        cluster.adapt(minimum=settings.minimum, maximum=settings.maximum)


def described(settings: ClusterConfig, what: str) -> str:
    """Describe the number and kind of workers."""
    if settings.maximum == NONE:
        return f"{settings.workers} {what}"
    return f"{settings.minimum} to {settings.maximum} {what}"


@contextmanager
def ready(client: Client, description: str, minutes: float, advice: str) -> Iterator[Workers]:
    """Wait for the first worker, check its versions, and prepare all workers.

    Raises
    ------
    ClusterError
        If no worker starts within `minutes` (the message ends with `advice`), or one has other
        versions than this process.
    """
    if not client.nthreads():
        log.info("waiting up to %g minutes for the first worker", minutes)
    try:
        client.wait_for_workers(1, timeout=60 * minutes)
    except TimeoutError as error:
        raise ClusterError(f"no worker started within {minutes:g} minutes; {advice}") from error
    check_versions(client)
    limit_blas(client)
    yield Workers(description, client)


def check_versions(client: Client) -> None:
    """Refuse workers whose Python or packages differ from those of this process.

    Raises
    ------
    ClusterError
        Naming the worker and both versions.
    """
    here = ".".join(platform.python_version_tuple()[:2])
    for worker, found in client.run(platform.python_version_tuple).items():
        if ".".join(found[:2]) != here:
            raise _unlike(worker, f"Python {'.'.join(found[:2])}", here)
    for package in PACKAGES:
        # A function of the standard library: a worker without romzarr cannot load ours.
        answers = client.run(version, package, on_error="return")
        for worker, found in answers.items():
            if isinstance(found, Exception):
                raise _unlike(worker, f"no {package}", version(package))
            if found != version(package):
                raise _unlike(worker, f"{package} {found}", version(package))


def _unlike(worker: str, found: str, here: str) -> ClusterError:
    return ClusterError(
        f"worker {worker} has {found}, this process has {here}; install the same on both"
    )


def limit_blas(client: Client) -> None:
    """Limit BLAS to one thread on every worker; this loads numpy, scipy and romzarr there.

    Raises
    ------
    ClusterError
        If a worker cannot load them.
    """
    try:
        client.register_plugin(OneBlasThread())
    # A broken installation may raise anything.
    except Exception as error:
        raise ClusterError(
            f"a worker cannot load romzarr ({type(error).__name__}: {error}); repair its "
            "installation"
        ) from error


def or_cluster_error(make: Callable[[], Any], problem: str) -> Any:
    """Call `make` and turn any failure into a `ClusterError`."""
    try:
        return make()
    # Each kind of cluster has its own errors.
    except Exception as error:
        raise ClusterError(f"{problem} ({type(error).__name__}: {error})") from error

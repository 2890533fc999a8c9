"""What every kind with a Dask scheduler does before the work starts."""

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

# Other versions of these change what travels between machines, or what a store holds.
PACKAGES = ("romzarr", "dask", "distributed", "zarr")


class OneBlasThread(WorkerPlugin):
    """Gives BLAS one thread in every worker, those that start later too.

    A nanny asks for it by the environment, but not every worker has a nanny, and several
    workers of several threads each may share a machine.
    """

    name = "romzarr-one-blas-thread"

    def setup(self, worker: Any) -> None:
        # Libraries count as soon as they are loaded: scipy brings a BLAS of its own.
        import scipy.linalg  # noqa: F401
        from threadpoolctl import threadpool_limits

        self.limit = threadpool_limits(1)

    def teardown(self, worker: Any) -> None:
        self.limit.restore_original_limits()


def scale(cluster: Any, settings: ClusterConfig) -> None:
    """Ask for the workers of `settings`: a fixed number, or as many as the work needs."""
    if settings.maximum == NONE:
        cluster.scale(settings.workers)
    else:
        cluster.adapt(minimum=settings.minimum, maximum=settings.maximum)


def described(settings: ClusterConfig, what: str) -> str:
    """How many workers of which sort, in words."""
    if settings.maximum == NONE:
        return f"{settings.workers} {what}"
    return f"{settings.minimum} to {settings.maximum} {what}"


@contextmanager
def ready(client: Client, description: str, minutes: float, advice: str) -> Iterator[Workers]:
    """Wait for the first worker, see that it can do the work, and prepare all of them.

    Raises
    ------
    ClusterError
        If no worker comes within `minutes` (the message ends with `advice`), or one has
        other versions than this process.
    """
    if not client.nthreads():
        log.info("waiting for the first worker, %g minutes at most", minutes)
    try:
        client.wait_for_workers(1, timeout=60 * minutes)
    except TimeoutError as error:
        raise ClusterError(f"no worker has come within {minutes:g} minutes; {advice}") from error
    check_versions(client)
    limit_blas(client)
    yield Workers(description, client)


def check_versions(client: Client) -> None:
    """Refuse workers with another Python or other packages than this process.

    Raises
    ------
    ClusterError
        Naming the worker, what it has, and what is here.
    """
    here = ".".join(platform.python_version_tuple()[:2])
    for worker, found in client.run(platform.python_version_tuple).items():
        if ".".join(found[:2]) != here:
            raise _unlike(worker, f"Python {'.'.join(found[:2])}", here)
    for package in PACKAGES:
        # By name: a worker without romzarr does not know functions of ours.
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
    """Give every worker one BLAS thread, which loads numpy, scipy and romzarr there.

    Raises
    ------
    ClusterError
        If a worker cannot load them.
    """
    try:
        client.register_plugin(OneBlasThread())
    # What is wrong with an installation shows in any way.
    except Exception as error:
        raise ClusterError(
            f"a worker cannot load what it needs ({type(error).__name__}: {error}); "
            "repair its installation of romzarr"
        ) from error


def or_cluster_error(make: Callable[[], Any], problem: str) -> Any:
    """What `make` returns; its failure, whatever it is, as a `ClusterError`."""
    try:
        return make()
    # Each kind of cluster fails in ways of its own and of its transport.
    except Exception as error:
        raise ClusterError(f"{problem} ({type(error).__name__}: {error})") from error

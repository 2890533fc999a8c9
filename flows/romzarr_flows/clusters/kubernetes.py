"""Workers in pods that the Dask operator of a Kubernetes cluster starts."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import kr8s
from dask.utils import parse_bytes
from dask_kubernetes.operator import KubeCluster, make_cluster_spec
from distributed import Client

from romzarr.config import NONE, ClusterConfig
from romzarr_flows.clusters import Workers
from romzarr_flows.clusters.workers import described, or_cluster_error, ready

# The operator deletes a cluster that was idle for this long, since its owner was killed: longer
# than a client computes between two graphs.
IDLE_SECONDS = 3600


@contextmanager
def start(settings: ClusterConfig) -> Iterator[Workers]:
    """Create a DaskCluster with the permissions of this process, and delete it at the end.

    Raises
    ------
    ClusterError
        If Kubernetes does not answer or refuses the cluster, or no pod starts in time.
    """
    problem = (
        f"no DaskCluster in namespace {settings.namespace!r}; check that kubectl works there, that "
        "the Dask operator is installed and that you may create daskclusters"
    )
    # A KubeCluster that fails to start would not be closed.
    or_cluster_error(lambda: list(kr8s.get("daskclusters", namespace=settings.namespace)), problem)
    with or_cluster_error(lambda: _cluster(settings), problem) as cluster:
        if settings.maximum != NONE:
            cluster.adapt(minimum=settings.minimum, maximum=settings.maximum)
        advice = (
            f"kubectl --namespace {settings.namespace} get events shows why pods of "
            f"{cluster.name} do not start; or raise cluster.start_minutes"
        )
        what = described(settings, f"pods of {settings.threads_per_worker} thread(s)")
        with Client(cluster) as client, ready(client, what, settings.start_minutes, advice) as all_:
            yield all_


def _cluster(settings: ClusterConfig) -> KubeCluster:
    return KubeCluster(
        namespace=settings.namespace,
        custom_cluster_spec=specification(settings, f"romzarr-{secrets.token_hex(4)}"),
        resource_timeout=int(60 * settings.start_minutes),
        quiet=True,
    )


def specification(settings: ClusterConfig, name: str) -> dict[str, Any]:
    """Make the DaskCluster resource: a scheduler, and workers sized by `settings`."""
    size = {
        "cpu": str(settings.threads_per_worker),
        "memory": str(parse_bytes(settings.memory_limit)),
    }
    spec: dict[str, Any] = make_cluster_spec(
        name,
        image=settings.image,
        n_workers=settings.workers if settings.maximum == NONE else settings.minimum,
        resources={"requests": size, "limits": size},
        worker_command=["dask", "worker", "--nthreads", str(settings.threads_per_worker)],
        env=[],
        idle_timeout=IDLE_SECONDS,
    )
    containers = [spec["spec"][part]["spec"]["containers"][0] for part in ("scheduler", "worker")]
    # Dask no longer has a command dask-scheduler.
    containers[0]["args"] = ["dask", "scheduler", "--host", "0.0.0.0"]
    if settings.secret != NONE:
        for container in containers:
            container["envFrom"] = [{"secretRef": {"name": settings.secret}}]
    return spec

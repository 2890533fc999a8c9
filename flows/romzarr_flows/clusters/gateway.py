"""Workers started by a Dask Gateway."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dask_gateway import GatewayCluster

from romzarr.config import NONE, ClusterConfig
from romzarr_flows.clusters import Workers
from romzarr_flows.clusters.workers import described, or_cluster_error, ready, scale


@contextmanager
def start(settings: ClusterConfig) -> Iterator[Workers]:
    """Start a cluster at ``settings.gateway`` and stop it at the end.

    The authentication is a setting of Dask, ``gateway.auth`` (``DASK_GATEWAY__AUTH__TYPE``).

    Raises
    ------
    ClusterError
        If the gateway does not answer or refuses the cluster, or no worker starts in time.
    """
    options = {} if settings.options == NONE else dict(settings.options)
    problem = (
        f"cluster.gateway: no cluster at {settings.gateway}; correct the address, "
        f"cluster.options {options}, or the authentication (DASK_GATEWAY__AUTH__TYPE)"
    )
    with or_cluster_error(lambda: GatewayCluster(settings.gateway, **options), problem) as cluster:
        scale(cluster, settings)
        advice = (
            f"ask the administrators of {settings.gateway} about cluster {cluster.name}, or raise "
            "cluster.start_minutes"
        )
        what = described(settings, f"workers of {settings.gateway}")
        with (
            cluster.get_client() as client,
            ready(client, what, settings.start_minutes, advice) as workers,
        ):
            yield workers

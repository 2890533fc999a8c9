"""The kinds of cluster, one module each; `romzarr_flows.cluster.connect` selects one.

Each has ``start(settings: ClusterConfig) -> context manager of Workers`` and may import packages
that only this kind needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from romzarr.errors import PipelineError

if TYPE_CHECKING:
    from distributed import Client


class ClusterError(PipelineError):
    """The workers cannot be reached or cannot be used."""


@dataclass(frozen=True)
class Workers:
    """Where tasks run: in this process, or on the workers of `client`."""

    description: str
    client: Client | None = None

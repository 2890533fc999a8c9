"""The kinds of cluster, one file each; `romzarr_flows.cluster.connect` chooses.

Each file has ``start(settings: ClusterConfig) -> context manager of Workers`` and may import what
only its kind needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from romzarr.errors import PipelineError

if TYPE_CHECKING:
    from distributed import Client


class ClusterError(PipelineError):
    """The workers that were asked for cannot be reached or cannot be used."""


@dataclass(frozen=True)
class Workers:
    """Where tasks run while the context lasts: in this process, or behind `client`."""

    description: str
    client: Client | None = None

"""Reads blocks of a variable without time as those of a single snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from romzarr.contracts import BlockSource, ReadBlock, Region


@dataclass(frozen=True)
class SingleSnapshot:
    """Blocks of a source with an axis of length 1 in front, which is time."""

    source: BlockSource

    def graph(self) -> Mapping[Any, Any]:
        return self.source.graph()

    def task(self, region: Region) -> tuple[Any, ...]:
        return (_in_time, self.source.task(region[1:]))


def _in_time(block: ReadBlock) -> ReadBlock:
    return replace(block, values=block.values[None])

"""The later snapshots of an archive, as an archive of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from romzarr.archive.archive import Archive
from romzarr.contracts import ArchivedVariable, BlockSource, ReadBlock, Region, TimeAxis


def later_part(archive: Archive, first: int) -> Archive:
    """The snapshots of an archive from number `first` on; its times count from there."""
    axis = archive.time
    values = axis.values[first:]
    variables = tuple(_later(variable, first) for variable in archive.variables)
    carried = archive.carried
    if axis.dim in carried.dims:
        carried = carried.isel({axis.dim: slice(first, None)})
    return replace(
        archive,
        variables=variables,
        time=TimeAxis(axis.dim, values - values[0], axis.units),
        carried=carried,
        raw_bytes=sum(variable.nbytes for variable in variables),
    )


def _later(variable: ArchivedVariable, first: int) -> ArchivedVariable:
    axis, lengths = variable.time_axis, variable.chunks[variable.time_axis]
    ends = list(accumulate(lengths))
    kept = next(k for k, end in enumerate(ends) if end > first)
    # The chunk in which they begin is read whole.
    begin = ends[kept] - lengths[kept]
    along = (ends[kept] - first, *lengths[kept + 1 :])
    return replace(
        variable,
        shape=(*variable.shape[:axis], variable.shape[axis] - first, *variable.shape[axis + 1 :]),
        chunks=(*variable.chunks[:axis], along, *variable.chunks[axis + 1 :]),
        source=LaterSource(variable.source, axis, first, begin),
    )


@dataclass(frozen=True)
class LaterSource:
    """Blocks of a source from snapshot ``first`` on, which lies in the chunk that begins at
    ``begin``."""

    source: BlockSource
    axis: int
    first: int
    begin: int

    def graph(self) -> Mapping[Any, Any]:
        return self.source.graph()

    def task(self, region: Region) -> tuple[Any, ...]:
        part = region[self.axis]
        start = self.begin if part.start == 0 else part.start + self.first
        whole = slice(start, part.stop + self.first)
        read = self.source.task((*region[: self.axis], whole, *region[self.axis + 1 :]))
        return (_Cut(self.axis, part.start + self.first - start), read)


@dataclass(frozen=True)
class _Cut:
    axis: int
    first: int

    def __call__(self, block: ReadBlock) -> ReadBlock:
        kept = (slice(None),) * self.axis + (slice(self.first, None),)
        return replace(block, values=block.values[kept])

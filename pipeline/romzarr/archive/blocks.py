"""Grids of blocks: lengths per dim, as dask.array keeps them; integers only."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, product

from romzarr.contracts import Region

Chunks = tuple[tuple[int, ...], ...]

# Large enough that a task's overhead does not show, small enough for a few per worker.
PIECE_BYTES = 16 * 2**20


def regular(shape: tuple[int, ...], lengths: tuple[int, ...]) -> Chunks:
    """Grid of chunks of `lengths` each, the last one of a dim cut at the end of `shape`."""
    return tuple(
        tuple(min(length, size - start) for start in range(0, size, length))
        for size, length in zip(shape, lengths, strict=True)
    )


def merged_along(
    shape: tuple[int, ...], lengths: tuple[int, ...], axis: int, itemsize: int
) -> tuple[int, ...]:
    """`lengths` with the one of `axis` raised to a multiple, up to about `PIECE_BYTES`."""
    block = itemsize
    for size, length in zip(shape, lengths, strict=True):
        block *= min(size, length)
    factor = max(1, PIECE_BYTES // block) if block else 1
    raised = min(lengths[axis] * factor, max(shape[axis], 1))
    return (*lengths[:axis], raised, *lengths[axis + 1 :])


@dataclass(frozen=True)
class Grid:
    """A grid of chunks that knows which of them a region touches."""

    chunks: Chunks

    @cached_property
    def _ends(self) -> Chunks:
        # Kept, because a plan asks once per task and a dim may have 10^5 chunks.
        return tuple(tuple(accumulate(lengths)) for lengths in self.chunks)

    def touched(self, region: Region) -> Iterator[tuple[int, ...]]:
        """Grid positions of the chunks that overlap `region`, in C order."""
        return product(*self.ranges(region))

    def ranges(self, region: Region) -> tuple[range, ...]:
        """Per dim, the numbers of the chunks that overlap `region`."""
        return tuple(
            range(bisect_right(ends, part.start), bisect_left(ends, part.stop) + 1)
            for ends, part in zip(self._ends, region, strict=True)
        )

    def positions(self) -> Iterator[tuple[int, ...]]:
        """Every grid position, in C order."""
        return product(*(range(len(lengths)) for lengths in self.chunks))

    def region(self, index: tuple[int, ...]) -> Region:
        """Region of the chunk at grid position `index`."""
        return tuple(
            slice(ends[i] - lengths[i], ends[i])
            for lengths, ends, i in zip(self.chunks, self._ends, index, strict=True)
        )

    def __len__(self) -> int:
        return math.prod(len(lengths) for lengths in self.chunks)


def describe(region: Region) -> str:
    return "[" + ", ".join(f"{part.start}:{part.stop}" for part in region) + "]"

"""Grids of chunks: lengths per dim, as in dask.array."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, product
from typing import Any

from numpy.typing import NDArray

from romzarr.contracts import Region

Chunks = tuple[tuple[int, ...], ...]

# Reading takes far longer than the overhead of a task, and a worker's memory holds many.
PIECE_BYTES = 16 * 2**20


def regular(shape: tuple[int, ...], lengths: tuple[int, ...]) -> Chunks:
    """Make a grid of chunks of `lengths`; the last chunk of a dim ends with `shape`."""
    return tuple(
        tuple(min(length, size - start) for start in range(0, size, length))
        for size, length in zip(shape, lengths, strict=True)
    )


def merged_along(
    shape: tuple[int, ...], lengths: tuple[int, ...], axis: int, itemsize: int
) -> tuple[int, ...]:
    """Multiply the length along `axis`, up to about `PIECE_BYTES` per chunk."""
    block = itemsize
    for size, length in zip(shape, lengths, strict=True):
        block *= min(size, length)
    factor = max(1, PIECE_BYTES // block) if block else 1
    raised = min(lengths[axis] * factor, max(shape[axis], 1))
    return (*lengths[:axis], raised, *lengths[axis + 1 :])


@dataclass(frozen=True)
class Grid:
    """A grid of chunks that finds those overlapping a region."""

    chunks: Chunks

    @cached_property
    def _ends(self) -> Chunks:
        # Cached: a plan needs it for every task, and a dim may have 10^5 chunks.
        return tuple(tuple(accumulate(lengths)) for lengths in self.chunks)

    def touched(self, region: Region) -> Iterator[tuple[int, ...]]:
        """Return the grid positions of the chunks that overlap `region`, in C order."""
        return product(*self.ranges(region))

    def ranges(self, region: Region) -> tuple[range, ...]:
        """Return per dim the numbers of the chunks that overlap `region`."""
        return tuple(
            range(bisect_right(ends, part.start), bisect_left(ends, part.stop) + 1)
            for ends, part in zip(self._ends, region, strict=True)
        )

    def positions(self) -> Iterator[tuple[int, ...]]:
        """Return all grid positions, in C order."""
        return product(*(range(len(lengths)) for lengths in self.chunks))

    def region(self, index: tuple[int, ...]) -> Region:
        """Return the region of the chunk at grid position `index`."""
        return tuple(
            slice(ends[i] - lengths[i], ends[i])
            for lengths, ends, i in zip(self.chunks, self._ends, index, strict=True)
        )

    def __len__(self) -> int:
        return math.prod(len(lengths) for lengths in self.chunks)


def native(values: NDArray[Any]) -> NDArray[Any]:
    """Convert values to the byte order of this machine."""
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def describe(region: Region) -> str:
    return "[" + ", ".join(f"{part.start}:{part.stop}" for part in region) + "]"

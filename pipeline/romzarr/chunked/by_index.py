"""What is done with each index of some dims apart: moments, scaled values, errors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from romzarr.chunked.blocks import Lengths, Tile
from romzarr.chunked.gaps import FilledSource, NumbersSource
from romzarr.contracts import BlockSource, Floats, Mask, Matrix, ReadBlock, ReadCost, Region
from romzarr.inner_product import InnerProduct
from romzarr.numerics.error_blocks import ErrorGrid
from romzarr.numerics.gaps import gap_codes
from romzarr.numerics.moments import MomentsWithGaps

# A place of tiles in space, an index, and a group of snapshots.
Key = tuple[Lengths, Lengths, int]


@dataclass(frozen=True)
class IndexMoments:
    """Moments of the numbers of one index in one part of space, and whether any varies in time."""

    moments: MomentsWithGaps
    varies: bool

    @classmethod
    def of(cls, values: Floats, known: Mask, inner: InnerProduct) -> IndexMoments:
        """Those of snapshots (m, n) of which some values are known."""
        first = values[np.argmax(known, axis=0), np.arange(values.shape[1])]
        varies = bool((known & (values != first)).any())
        return cls(MomentsWithGaps.of(values, known, inner), varies)

    def joined(self, other: IndexMoments) -> IndexMoments:
        """Those of both, at the same points."""
        one, two = self.moments, other.moments
        both = (one.counts > 0) & (two.counts > 0)
        differ = bool((one.mean[both] != two.mean[both]).any())
        return IndexMoments(one.joined(two), self.varies or other.varies or differ)


@dataclass(frozen=True)
class FoundMoments:
    """Moments by part of space, index and group of snapshots, and what reading cost."""

    parts: Mapping[Key, IndexMoments] = field(default_factory=dict)
    cost: ReadCost = field(default_factory=ReadCost)


def joined_moments(several: Sequence[FoundMoments]) -> FoundMoments:
    """Those of several tiles."""
    parts: dict[Key, IndexMoments] = {}
    for each in several:
        for key, part in each.parts.items():
            parts[key] = parts[key].joined(part) if key in parts else part
    return FoundMoments(parts, sum((each.cost for each in several), ReadCost()))


@dataclass(frozen=True)
class MeasureMoments:
    """Task: moments of the indices of ``axes`` in a tile; what is ``special`` is no number.

    Each snapshot belongs to one of the ``groups`` (m,), which have moments of their own.
    """

    time_axis: int
    axes: tuple[int, ...]
    inner: InnerProduct
    special: Floats
    groups: NDArray[np.int64]

    def __call__(self, block: ReadBlock, tile: Tile) -> FoundMoments:
        values = np.moveaxis(block.values, self.time_axis, 0)
        groups = self.groups[tile.region[self.time_axis]]
        present = gap_codes(values, self.special) == 0
        region, place = _space(tile.region, self.time_axis), _space(tile.index, self.time_axis)
        inner, axes = self.inner.on(region), [_in_space(a, self.time_axis) for a in self.axes]
        found = {}
        for group in np.unique(groups).tolist():
            times = slice(None) if (groups == group).all() else groups == group
            for index, points in _indices(region, axes):
                some = (times, *points)
                flat = values[some].reshape(-1, math.prod(values[:1][(slice(None), *points)].shape))
                known = present[some].reshape(flat.shape)
                found[place, index, group] = IndexMoments.of(flat, known, inner.on(points).flat)
        return FoundMoments(found, block.cost)


def _indices(region: Region, axes: Sequence[int]) -> Iterator[tuple[Lengths, tuple[Any, ...]]]:
    """The indices along some axes of a region of space, and what selects the points of each."""
    for index in product(*(range(region[a].start, region[a].stop) for a in axes)):
        points: list[Any] = [slice(None)] * len(region)
        for a, i in zip(axes, index, strict=True):
            points[a] = slice(i - region[a].start, i - region[a].start + 1)
        yield index, tuple(points)


def _space(items: Sequence[Any], time_axis: int) -> tuple[Any, ...]:
    return (*items[:time_axis], *items[time_axis + 1 :])


def _in_space(axis: int, time_axis: int) -> int:
    """Number of an axis among those of space."""
    return axis - (axis > time_axis)


# --- values to code -----------------------------------------------------------------------


@dataclass(frozen=True)
class ScaledSource:
    """Blocks of a variable divided by factors that broadcast over its shape, in a `dtype`.

    What is ``left_out``, of the same shape as the factors, is NaN.
    """

    source: BlockSource
    factors: Matrix
    left_out: Mask
    dtype: np.dtype[Any]

    def graph(self) -> Mapping[Any, Any]:
        return self.source.graph()

    def task(self, region: Region) -> tuple[Any, ...]:
        part = broadcast_part(self.factors.shape, region)
        scale = _ScaleBlock(self.factors[part], self.left_out[part], self.dtype)
        return (scale, self.source.task(region))


def scaled_source(
    source: BlockSource, time_axis: int, factors: Matrix, left_out: Mask, dtype: np.dtype[Any]
) -> BlockSource:
    """Scaled blocks. Gaps are filled after that: indices of other sizes lie beside them."""
    if not isinstance(source, FilledSource):
        return ScaledSource(source, factors, left_out, dtype)
    numbers = NumbersSource(source.source, source.special)
    mean = source.mean / np.squeeze(factors, time_axis)
    mean[np.broadcast_to(np.squeeze(left_out, time_axis), mean.shape)] = np.nan
    return source.again(ScaledSource(numbers, factors, left_out, dtype), mean.astype(dtype))


def broadcast_part(shape: Lengths, region: Region) -> Region:
    """The part of an array of this shape that belongs to a region of what it broadcasts over."""
    both = zip(shape, region, strict=True)
    return tuple(slice(0, 1) if n == 1 else part for n, part in both)


@dataclass(frozen=True)
class _ScaleBlock:
    factors: Matrix
    left_out: Mask
    dtype: np.dtype[Any]

    def __call__(self, block: ReadBlock) -> ReadBlock:
        # Fill values that nobody declared may become infinite, and are found as such.
        with np.errstate(over="ignore", under="ignore"):
            values = np.divide(block.values, self.factors.astype(self.dtype), dtype=self.dtype)
        if self.left_out.any():
            values[np.broadcast_to(self.left_out, values.shape)] = np.nan
        return ReadBlock(values, block.bytes_read, block.chunks_read)


# --- errors -------------------------------------------------------------------------------


class Decoder(Protocol):
    """A store as its readers will see it; works in any process."""

    def decode(self, variable: str, time_axis: int, region: Region) -> NDArray[Any]: ...


@dataclass(frozen=True)
class FoundErrors:
    """Sums of squared errors by index, in the shape of what is scaled, and by block; and what
    reading cost."""

    squares: Matrix
    blocks: Matrix
    cost: ReadCost


def joined_errors(several: Sequence[FoundErrors]) -> FoundErrors:
    """Those of several tiles."""
    squares: Matrix = np.sum([each.squares for each in several], axis=0)
    blocks: Matrix = np.sum([each.blocks for each in several], axis=0)
    return FoundErrors(squares, blocks, sum((each.cost for each in several), ReadCost()))


@dataclass(frozen=True)
class MeasureErrors:
    """Task: squared errors of what a store decodes to, by index, in an array of this ``shape``, and
    by block of a ``grid``."""

    decoder: Decoder
    variable: str
    time_axis: int
    inner: InnerProduct
    shape: Lengths
    grid: ErrorGrid

    def __call__(self, block: ReadBlock, tile: Tile) -> FoundErrors:
        axis, space = self.time_axis, _space(tile.region, self.time_axis)
        time = tile.region[axis]
        decoded = self.decoder.decode(self.variable, axis, tile.region)
        with np.errstate(over="ignore", invalid="ignore"):
            errors = block.values.astype(np.float64) - decoded
            # What is no number is kept exactly, and fill values are their own difference.
            errors[~np.isfinite(block.values)] = 0.0
            squares = np.moveaxis(errors, axis, 0) ** 2
            during = np.add.reduceat(squares, self.grid.cuts(0, time), axis=0)
        during = self.inner.on(space).weighted(during)
        weighted = np.sum(during, axis=0)
        alone = tuple(a for a, n in enumerate(self.shape) if n == 1)
        sums = np.zeros(self.shape)
        part = broadcast_part(self.shape, tile.region)
        sums[part] = np.sum(np.expand_dims(weighted, axis), axis=alone, keepdims=True)
        return FoundErrors(sums, self.grid.collected((time, *space), during), block.cost)

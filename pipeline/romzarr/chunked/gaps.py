"""Gaps of a variable, tile by tile: where they are, and values to code in their place."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import xor
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from romzarr.chunked.blocks import Lengths, Tile, TileWriter
from romzarr.coding.exact import ExactCoding, encode_exact
from romzarr.coding.fill import fill_gaps
from romzarr.contracts import BlockSource, Floats, Mask, ReadBlock, ReadCost, Region
from romzarr.inner_product import InnerProduct
from romzarr.numerics.gaps import Codes, gap_codes
from romzarr.numerics.moments import MomentsWithGaps

# Gaps of a variable that are listed one by one, at most: a list in JSON takes more bytes than an
# array long before.
MOST_LISTED = 1 << 16


@dataclass(frozen=True)
class Listed:
    """Positions of gaps among all values, time first, and their codes."""

    positions: NDArray[np.int64]
    codes: Codes


@dataclass(frozen=True)
class FoundGaps:
    """What is known of the gaps of some tiles.

    ``counts`` are the values of each code. ``moments`` are those of the numbers, by part of space.
    ``listed`` are gaps at points that have numbers in their tile (None: too many); at the others
    stands what ``empty`` counts, by code. ``digest`` is of all codes, whatever the order of
    tiles, and ``nbytes`` what these take.
    """

    counts: NDArray[np.int64]
    empty: NDArray[np.int64]
    moments: Mapping[Lengths, MomentsWithGaps] = field(default_factory=dict)
    listed: Listed | None = None
    digest: int = 0
    nbytes: int = 0
    cost: ReadCost = field(default_factory=ReadCost)


def joined_gaps(parts: Sequence[FoundGaps]) -> FoundGaps:
    """Put together what is known of tiles."""
    moments: dict[Lengths, MomentsWithGaps] = {}
    for part in parts:
        for place, each in part.moments.items():
            moments[place] = moments[place].joined(each) if place in moments else each
    return FoundGaps(
        np.sum([part.counts for part in parts], axis=0),
        np.sum([part.empty for part in parts], axis=0),
        moments,
        _all_listed([part.listed for part in parts]),
        reduce(xor, (part.digest for part in parts)),
        sum(part.nbytes for part in parts),
        sum((part.cost for part in parts), ReadCost()),
    )


def _all_listed(several: Sequence[Listed | None]) -> Listed | None:
    listed = [each for each in several if each is not None]
    if len(listed) < len(several) or sum(len(each.codes) for each in listed) > MOST_LISTED:
        return None
    return Listed(
        np.concatenate([each.positions for each in listed]),
        np.concatenate([each.codes for each in listed]),
    )


@dataclass(frozen=True)
class FindGaps:
    """Task: find the gaps of a tile, and write their codes, if there is a ``writer``."""

    variable: str
    shape: Lengths
    time_axis: int
    inner: InnerProduct
    special: Floats
    coding: ExactCoding
    writer: TileWriter | None = None

    def __call__(self, block: ReadBlock, tile: Tile) -> FoundGaps:
        codes = gap_codes(block.values, self.special)
        content = encode_exact(codes, tile.shape, self.coding)
        if self.writer is not None:
            self.writer.write_tile(self.variable, tile.index, content)
        axis = self.time_axis
        by_time = np.moveaxis(codes, axis, 0)
        values, flat = np.moveaxis(block.values, axis, 0), by_time.reshape(len(by_time), -1)
        space = (*tile.region[:axis], *tile.region[axis + 1 :])
        present = flat == 0
        inner = self.inner.on(space).flat
        moments = MomentsWithGaps.of(values.reshape(flat.shape), present, inner)
        some = present.any(axis=0)
        hashed = hashlib.sha256(repr(tile.index).encode() + np.ascontiguousarray(codes).tobytes())
        sizes = len(self.special) + 1
        return FoundGaps(
            np.bincount(codes.ravel(), minlength=sizes),
            np.bincount(flat[:, ~some].ravel(), minlength=sizes),
            {(*tile.index[:axis], *tile.index[axis + 1 :]): moments},
            self._listed(by_time, some.reshape(by_time.shape[1:]), tile),
            int.from_bytes(hashed.digest()[:16]),
            len(content),
            block.cost,
        )

    def _listed(self, codes: Codes, some: Mask, tile: Tile) -> Listed | None:
        where = np.nonzero((codes > 0) & some)
        if len(where[0]) > MOST_LISTED:
            return None
        axis = self.time_axis
        first = (tile.region[axis], *tile.region[:axis], *tile.region[axis + 1 :])
        shape = (self.shape[axis], *self.shape[:axis], *self.shape[axis + 1 :])
        places = tuple(i + part.start for i, part in zip(where, first, strict=True))
        return Listed(np.ravel_multi_index(places, shape).astype(np.int64), codes[where])


# --- values to code -----------------------------------------------------------------------


@dataclass(frozen=True)
class FilledSource:
    """Blocks of a variable with something smooth in its gaps, which costs few bits.

    What is beyond the temporal mean of each point is continued into the gaps from around them, in
    space and in time. Points without any number are NaN. ``origin`` names the task that has the
    temporal mean (*space) of the numbers of each point, NaN where there are none.
    """

    source: BlockSource
    time_axis: int
    special: Floats
    origin: str
    mean: Floats

    def graph(self) -> Mapping[Any, Any]:
        return {**self.source.graph(), self.origin: self.mean}

    def again(self, source: BlockSource, mean: Floats) -> FilledSource:
        """Blocks of another source, which has NaN in the same gaps, filled in the same way."""
        special = np.array([np.nan], mean.dtype)
        return FilledSource(source, self.time_axis, special, f"{self.origin}-{uuid4().hex}", mean)

    def task(self, region: Region) -> tuple[Any, ...]:
        read = self.source.task(region)
        return (_FillBlock(self.time_axis, self.special, region), read, self.origin)


@dataclass(frozen=True)
class _FillBlock:
    time_axis: int
    special: Floats
    region: Region

    def __call__(self, block: ReadBlock, mean: Floats) -> ReadBlock:
        axis = self.time_axis
        values = np.moveaxis(block.values, axis, 0)
        present = gap_codes(values, self.special) == 0
        origin = mean[(*self.region[:axis], *self.region[axis + 1 :])]
        known = None
        if not (present | np.isnan(origin)).all():
            values, known = _filled(values, present, origin), np.moveaxis(present, 0, axis)
        elif not present.all():
            values = np.where(present, values, values.dtype.type(np.nan))
        return replace(block, values=np.moveaxis(values, 0, axis), present=known)


def _filled(values: Floats, present: Mask, origin: Floats) -> Floats:
    wide = np.result_type(values.dtype, np.float32)
    about = np.zeros(values.shape, wide)
    np.subtract(values, origin, out=about, where=present, casting="same_kind")
    smooth = origin + fill_gaps(about, present)
    return np.where(present, values, smooth.astype(values.dtype))


@dataclass(frozen=True)
class NumbersSource:
    """Blocks of a variable with NaN in place of all its gaps."""

    source: BlockSource
    special: Floats

    def graph(self) -> Mapping[Any, Any]:
        return self.source.graph()

    def task(self, region: Region) -> tuple[Any, ...]:
        return (_Numbers(self.special), self.source.task(region))


@dataclass(frozen=True)
class _Numbers:
    special: Floats

    def __call__(self, block: ReadBlock) -> ReadBlock:
        known = gap_codes(block.values, self.special) == 0
        nan = block.values.dtype.type(np.nan)
        return ReadBlock(np.where(known, block.values, nan), block.bytes_read, block.chunks_read)

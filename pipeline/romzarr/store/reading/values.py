"""Decodes fields, values, residuals and masks at requested points.

Positions along each axis are increasing; `rows` are those of time, `wanted` those of space.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from romzarr.coding.coefficients import Coefficients
from romzarr.coding.tiles import region_of
from romzarr.contracts import Floats, Region
from romzarr.errors import StoreError
from romzarr.numerics.products import ROWS
from romzarr.numerics.rounding import rounded_sum
from romzarr.store.layout import SHARED_FIELDS
from romzarr.store.reading.arrays import ChunkPlace, StoredArrays
from romzarr.store.reading.fields import AlignedRows, FieldPart, FieldTile, prefixed_errors
from romzarr.store.reading.indexing import Piece, Positions, pieces, points
from romzarr.store.reading.variables import StoredVariable

Wanted = Sequence[Positions]
# Tells decoded fields in the cache from their first one.
_DECODED = "decoded"
# Values summed at once: 1 to 2 MB, about a second-level cache.
SUMMED = 1 << 18


def mask_of(
    arrays: StoredArrays, stored: StoredVariable, tile: tuple[int, ...], shape: tuple[int, ...]
) -> NDArray[np.bool_] | None:
    """Read the mask of a tile of space; None if the variable has no mask."""
    if stored.mask is None:
        return None
    return arrays.selected(f"basis/{stored.mask}/mask", region_of(tile, stored.space_shape, shape))


@dataclass(frozen=True)
class TiledValues:
    """A variable coded without POD, minus an offset: all snapshots, or those of episodes."""

    arrays: StoredArrays
    stored: StoredVariable
    array: str = "values"

    @property
    def path(self) -> str:
        return f"basis/{self.stored.group}/{self.array}"

    def values(
        self, rows: Positions, wanted: Wanted, dtype: DTypeLike | None = None
    ) -> NDArray[Any]:
        """Decode values in the variable's order of dims."""
        shape = [len(places) for places in wanted]
        shape.insert(self.stored.time_axis, len(rows))
        values = np.empty(shape, dtype or self.stored.dtype)
        out = np.moveaxis(values, self.stored.time_axis, 0)
        for region, part in self._parts(rows, wanted):
            rounded_sum(part, np.float64(self.stored.offset), out[region])
        return values

    def mean(self, wanted: Wanted) -> Floats:
        """Compute the temporal mean of its snapshots, in float64."""
        snapshots = self.arrays.layouts[self.path].shape[0]
        total = np.zeros([len(places) for places in wanted])
        for region, part in self._parts(np.arange(snapshots), wanted):
            total[region[1:]] += part.sum(axis=0, dtype=np.float64)
        mean: Floats = total / snapshots + self.stored.offset
        return mean

    def _parts(self, rows: Positions, wanted: Wanted) -> Iterator[tuple[Region, Floats]]:
        """Yield values minus the offset, time first, tile by tile."""
        for tile, inside, region in self.arrays.pieces(self.path, (rows, *wanted)):
            values = self.arrays.cached((self.path, tile), partial(self._tile, tile))
            yield region, points(values[None], inside)[0]

    def _tile(self, tile: tuple[int, ...]) -> Floats:
        """Decode one tile of values minus the offset; NaN at masked points."""
        values = self.arrays.decoded(self.path, tile)
        mask = mask_of(self.arrays, self.stored, tile[1:], self.arrays.chunk(self.path)[1:])
        if mask is not None:
            values = np.where(mask, np.array(np.nan, values.dtype), values)
            values.flags.writeable = False
        return values


@dataclass(frozen=True)
class Residuals:
    """The residuals that are added to the decoded values of a variable."""

    arrays: StoredArrays
    stored: StoredVariable

    def add_to(self, values: NDArray[np.float64], rows: Positions, wanted: Wanted) -> None:
        """Add residuals to decoded values in the variable's order of dims."""
        path, axis = f"basis/{self.stored.group}/residuals", self.stored.time_axis
        places = [*wanted[:axis], rows, *wanted[axis:]]
        for tile, inside, region in pieces(places, self.arrays.chunk(path)):
            read = partial(self.arrays.coefficients, path, tile)
            coded = self.arrays.cached((path, tile), read)
            if len(coded.places):
                with prefixed_errors(f"{self.arrays.url}: array {path} cannot be read"):
                    values[region] += points(coded.array()[None], inside)[0]


@dataclass(frozen=True)
class FieldValues:
    """The fields of a variable: its mean and modes."""

    arrays: StoredArrays
    stored: StoredVariable

    @property
    def path(self) -> str:
        return f"basis/{self.stored.group}/fields"

    @property
    def tile_shape(self) -> tuple[int, ...]:
        if self.stored.column is not None:
            return self.stored.space_shape
        return self.arrays.chunk(self.path)[1:]

    def first(self, wanted: Wanted) -> Floats:
        """Decode the first field only."""
        path = self.path if self.stored.column is None else SHARED_FIELDS
        dtype = np.dtype(self.arrays.layouts[path].dtype)
        values: Floats = np.empty([len(places) for places in wanted], dtype)
        for tile, inside, region in pieces(wanted, self.tile_shape):
            values[region] = points(self._first(tile)[None], inside)[0]
        return values

    def parts(self, wanted: Wanted) -> Iterator[tuple[Region, FieldPart]]:
        """Yield the fields at the requested points of each tile, and the region of these points."""
        for tile, inside, region in self._pieces(wanted):
            key = self.path, tile, _DECODED
            yield region, self.arrays.cached(key, partial(self._tile, tile)).part(inside)

    def first_chunks(self, wanted: Wanted) -> list[ChunkPlace]:
        """Return the chunks that `parts` reads first, as far as they are not cached."""
        if self.stored.column is not None:
            return (
                [] if self.arrays.kept((SHARED_FIELDS,)) is not None else [(SHARED_FIELDS, (0, 0))]
            )
        return self.arrays.first_chunks(self.path, wanted, _DECODED)

    def _pieces(self, wanted: Wanted) -> Iterator[Piece]:
        if self.stored.column is not None:
            return pieces(wanted, self.tile_shape)
        return self.arrays.pieces(self.path, wanted, _DECODED)

    def modes(self, wanted: Wanted, sigma: NDArray[np.float64], out: Floats) -> None:
        """Divide the leading fields, except the first, by `sigma`; 0 at masked points."""
        scales = sigma[: len(out)].reshape(-1, *(1 for _ in wanted))
        for region, part in self.parts(wanted):
            place = out[(slice(None), *region)]
            np.divide(part.modes[: len(out)], scales, out=place, casting="same_kind")

    def _first(self, tile: tuple[int, ...]) -> Floats:
        kept: FieldTile | None = self.arrays.kept((self.path, tile, _DECODED))
        if kept is not None:
            return kept.first
        if self.stored.column is not None:
            return self._shared(self.stored.column)[0, ...]
        region = region_of(tile, self.stored.space_shape, self.tile_shape)
        with prefixed_errors(f"{self.arrays.url}: array {self.path}"):
            first = self._coefficients(tile).first()[_within(region)]
        mask = mask_of(self.arrays, self.stored, tile, self.tile_shape)
        if mask is not None:
            first[mask] = np.nan
        return first

    def _tile(self, tile: tuple[int, ...]) -> FieldTile:
        if self.stored.column is not None:
            return FieldTile.of(self._shared(self.stored.column), None)
        fields: Floats = self.arrays.decoded(self.path, (0, *tile))
        return FieldTile.of(fields, mask_of(self.arrays, self.stored, tile, self.tile_shape))

    def _shared(self, first: int) -> Floats:
        """Return its fields from those that it shares with other variables."""
        read = partial(self.arrays.decoded, SHARED_FIELDS, (0, 0))
        shared: Floats = self.arrays.cached((SHARED_FIELDS,), read)
        part = shared[:, first : first + math.prod(self.stored.space_shape)]
        with np.errstate(over="ignore"):
            fields = part * shared.dtype.type(self.stored.step)
        if not np.isfinite(fields).all():
            raise StoreError(f"{self.arrays.url}: fields of {self.stored.name!r} are not finite")
        return fields.reshape(len(shared), *self.stored.space_shape)

    def _coefficients(self, tile: tuple[int, ...]) -> Coefficients:
        return self.arrays.coefficients(self.path, (0, *tile))


@dataclass(frozen=True)
class Term:
    """Fields, and the weights of their modes, (blocks, ROWS, r)."""

    fields: FieldValues
    weights: Floats


def write_sums(
    terms: Sequence[Term], mean_weight: float, rows: AlignedRows, wanted: Wanted, out: NDArray[Any]
) -> None:
    """Write the sum of all `terms` and the mean, which is the first field of the first term.

    Terms are added in float64, and rounded once to the dtype of `out` (m, *space).
    """
    home, *others = terms
    for region, part in home.fields.parts(wanted):
        some = [places[piece] for places, piece in zip(wanted, region, strict=True)]
        more = [
            (where, each, term.weights)
            for term in others
            for where, each in term.fields.parts(some)
        ]
        wide = np.float64 if more else part.first.dtype
        mean = part.first.astype(wide) * np.asarray(mean_weight, wide)
        for blocks, snapshots, inside in rows.parts(max(1, SUMMED // (ROWS * part.width))):
            sums = part.sums(home.weights[blocks]).astype(wide, copy=False)
            for where, each, weights in more:
                sums[(slice(None), *where)] += each.sums(weights[blocks])
            rounded_sum(sums[inside], mean, out[(snapshots, *region)])


def _within(region: Region) -> Region:
    """Return the part of a tile inside the array, given its region there."""
    return tuple(slice(0, part.stop - part.start) for part in region)

"""Values of variables at wanted points, by the way they are coded.

Positions increase along each axis; those of time are `rows`, those of space `wanted`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from pipeline.coding.tiles import region_of
from pipeline.contracts import Floats, Region
from pipeline.store.arrays import StoredArrays
from pipeline.store.fields import CodedTile, DecodedTile, FieldTile, Inside, located
from pipeline.store.indexing import Positions, pieces, points
from pipeline.store.variables import StoredVariable

Wanted = Sequence[Positions]


def mask_of(
    arrays: StoredArrays, stored: StoredVariable, tile: tuple[int, ...], shape: tuple[int, ...]
) -> NDArray[np.bool_] | None:
    """Where nothing is in a tile of space; None where all of the variable is valid."""
    if stored.mask is None:
        return None
    return arrays.selected(f"basis/{stored.mask}/mask", region_of(tile, stored.space_shape, shape))


@dataclass(frozen=True)
class ExactValues:
    """A variable kept to the bit."""

    arrays: StoredArrays
    stored: StoredVariable

    def values(self, rows: Positions, wanted: Wanted) -> NDArray[Any]:
        """Values, dims in the variable's order."""
        path, axis = f"basis/{self.stored.group}/exact", self.stored.time_axis
        places = [*wanted[:axis], rows, *wanted[axis:]]
        tile_shape = self.arrays.chunk(path)
        values = np.empty([len(each) for each in places], self.stored.dtype)
        for tile, inside, region in pieces(places, tile_shape):
            whole = region_of(tile, self.stored.shape, tile_shape)
            read = partial(self.arrays.selected, path, whole)
            decoded = self.arrays.remembered((path, tile), read)
            values[region] = points(decoded[None], inside)[0]
        return values

    def mean(self, wanted: Wanted) -> Floats:
        """Temporal mean; NaN where a value ever is."""
        axis, snapshots = self.stored.time_axis, self.stored.shape[self.stored.time_axis]
        total = np.zeros([len(places) for places in wanted])
        length = self.arrays.chunk(f"basis/{self.stored.group}/exact")[axis]
        for start in range(0, snapshots, length):
            rows = np.arange(start, min(start + length, snapshots))
            values = self.values(rows, wanted)
            with np.errstate(over="ignore", invalid="ignore"):
                total += values.sum(axis=axis, dtype=np.float64)
        mean: Floats = total / snapshots
        return mean


@dataclass(frozen=True)
class DirectValues:
    """A variable coded without POD, about an offset: all snapshots, or those of episodes."""

    arrays: StoredArrays
    stored: StoredVariable
    array: str = "values"

    @property
    def path(self) -> str:
        return f"basis/{self.stored.group}/{self.array}"

    def values(
        self, rows: Positions, wanted: Wanted, dtype: DTypeLike | None = None
    ) -> NDArray[Any]:
        """Values, dims in the variable's order."""
        shape = [len(places) for places in wanted]
        shape.insert(self.stored.time_axis, len(rows))
        values = np.empty(shape, dtype or self.stored.dtype)
        out = np.moveaxis(values, self.stored.time_axis, 0)
        for region, part in self._parts(rows, wanted):
            # In float64, then rounded once. Only a store made to harm lets sums overflow.
            with np.errstate(over="ignore"):
                np.add(
                    part, self.stored.offset, out=out[region], dtype=np.float64, casting="same_kind"
                )
        return values

    def mean(self, wanted: Wanted) -> Floats:
        """Temporal mean of its snapshots, in float64."""
        snapshots = self.arrays.layouts[self.path].shape[0]
        total = np.zeros([len(places) for places in wanted])
        for region, part in self._parts(np.arange(snapshots), wanted):
            total[region[1:]] += part.sum(axis=0, dtype=np.float64)
        mean: Floats = total / snapshots + self.stored.offset
        return mean

    def _parts(self, rows: Positions, wanted: Wanted) -> Iterator[tuple[Region, Floats]]:
        """Values about the offset, time first, tile by tile."""
        for tile, inside, region in pieces((rows, *wanted), self.arrays.chunk(self.path)):
            values = self.arrays.remembered((self.path, tile), partial(self._tile, tile))
            yield region, points(values[None], inside)[0]

    def _tile(self, tile: tuple[int, ...]) -> Floats:
        """One tile of values about the offset; NaN where nothing is."""
        values = self.arrays.decoded(self.path, tile)
        mask = mask_of(self.arrays, self.stored, tile[1:], self.arrays.chunk(self.path)[1:])
        if mask is not None:
            values = np.where(mask, np.array(np.nan, values.dtype), values)
            values.flags.writeable = False
        return values


@dataclass(frozen=True)
class Residuals:
    """What is added to the decoded values of a variable."""

    arrays: StoredArrays
    stored: StoredVariable

    def add_to(self, values: NDArray[np.float64], rows: Positions, wanted: Wanted) -> None:
        """Add residuals to predicted values, dims in the variable's order."""
        path, axis = f"basis/{self.stored.group}/residuals", self.stored.time_axis
        places = [*wanted[:axis], rows, *wanted[axis:]]
        for tile, inside, region in pieces(places, self.arrays.chunk(path)):
            read = partial(self.arrays.coefficients, path, tile)
            coded = self.arrays.remembered((path, tile), read)
            if len(coded.places):
                with located(f"{self.arrays.url}: array {path} cannot be read"):
                    values[region] += points(coded.array()[None], inside)[0]


@dataclass(frozen=True)
class FieldValues:
    """The fields of a variable: mean and modes, or the values of a constant as the only one."""

    arrays: StoredArrays
    stored: StoredVariable

    @property
    def path(self) -> str:
        constant = self.stored.coding == "constant"
        return f"basis/{self.stored.group}/{'mean' if constant else 'fields'}"

    @property
    def tile_shape(self) -> tuple[int, ...]:
        chunk = self.arrays.chunk(self.path)
        return chunk if self.stored.coding == "constant" else chunk[1:]

    def tiles(self, wanted: Wanted, sums: int) -> Iterator[tuple[Region, Inside, FieldTile]]:
        """Tiles, as it pays for that many `sums`, with the wanted points inside each
        and where these go among all of them."""
        for tile, inside, region in pieces(wanted, self.tile_shape):
            if self.stored.coding == "constant":
                made: FieldTile = self._constant(tile)
            else:
                made = self._tile(tile, sums)
            yield region, inside, made

    def modes(self, wanted: Wanted, sigma: NDArray[np.float64], out: Floats) -> None:
        """The leading fields but the first, by their `sigma`, (r, *space); 0 where nothing is."""
        weights = np.eye(len(out), len(sigma) + 1, 1) / np.append(1.0, sigma)
        for region, inside, tile in self.tiles(wanted, len(out)):
            tile.combine(weights, inside, 0, out[(slice(None), *region)])
        out[np.isnan(out)] = 0

    def _constant(self, tile: tuple[int, ...]) -> DecodedTile:
        """One chunk of a constant variable, as the only field."""

        def read() -> DecodedTile:
            region = region_of(tile, self.stored.space_shape, self.tile_shape)
            return DecodedTile(self.arrays.selected(self.path, region)[None])

        return self.arrays.remembered((self.path, tile), read)

    def _tile(self, tile: tuple[int, ...], sums: int) -> DecodedTile | CodedTile:
        """One tile, decoded if it is already, or if that pays."""
        decoded: DecodedTile | None = self.arrays.kept((self.path, tile, "decoded"))
        if decoded is not None:
            return decoded
        coded = self._coded(tile)
        return self._decoded(tile) if coded.is_worth_decoding(sums) else coded

    def _decoded(self, tile: tuple[int, ...]) -> DecodedTile:
        return self.arrays.remembered(
            (self.path, tile, "decoded"), lambda: self._coded(tile).decoded()
        )

    def _coded(self, tile: tuple[int, ...]) -> CodedTile:
        def read() -> CodedTile:
            region = region_of(tile, self.stored.space_shape, self.tile_shape)
            mask = mask_of(self.arrays, self.stored, tile, self.tile_shape)
            inside = tuple(slice(0, part.stop - part.start) for part in region)
            coefficients = self.arrays.coefficients(self.path, (0, *tile))
            where = f"{self.arrays.url}: array {self.path}"
            return CodedTile(coefficients, inside, mask, where)

        return self.arrays.remembered((self.path, tile, "coded"), read)

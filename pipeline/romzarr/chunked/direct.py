"""Coding of a variable without POD: tiles of time and space, each coded by one task.

Where a spectrum decays slowly, modes cost more than they save, and a wavelet transform of
the values themselves is the better basis. The values are rebuilt from the POD, which is on
the cluster and has dropped only a little: nothing of the archive is read again, and a tile
need not respect its chunks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask.delayed import Delayed

from romzarr.chunked.fields import (
    LazyTiles,
    MaskedTileWriter,
    PODTile,
    Sample,
    gather,
    on_tile,
    pasted,
)
from romzarr.chunked.pod import HeldBlocks
from romzarr.chunked.tables import Table, stacked
from romzarr.coding.field import encode_field
from romzarr.coding.rates import Rates, rates
from romzarr.coding.tiles import code_values, coded_values, tiles, value_levels, value_tile
from romzarr.contracts import ArchivedVariable, BlockSpan, Floats, Mask, Matrix, Region
from romzarr.numerics.error_blocks import ErrorGrid
from romzarr.numerics.pod.factors import RowBlock


@dataclass(frozen=True)
class ValueTile(PODTile):
    """One tile of values, time first, from which ``offset`` is taken off."""

    offset: float


@dataclass(frozen=True)
class LazyValues(LazyTiles):
    """Tiles of values, and how much of all values lies in them.

    ``series`` are for each the parts of what the rows of blocks are multiplied by at its times.
    """

    series: tuple[list[Delayed], ...] = ()
    share: float = 1.0

    def map(self, function: Callable[..., Any], *args: Any) -> list[Delayed]:
        """``function(pieces, tile, series, *args)`` of every tile."""
        return [
            on_tile(function, tile)(list(pieces), series, *args)
            for pieces, tile, series in zip(self.pieces, self.tiles, self.series, strict=True)
        ]


def lazy_values(
    held: HeldBlocks,
    series: Table,
    number: int,
    variable: ArchivedVariable,
    offset: float,
    sample: Sample | None = None,
) -> LazyValues:
    """Tiles of the values of variable `number`.

    Parameters
    ----------
    held : HeldBlocks
        Of the POD.
    series : Table, (m, K)
        What the rows of its blocks are multiplied by to give the snapshots.
    number : int
    variable : ArchivedVariable
    offset : float
        Taken off all values.
    sample : Sample, optional
        Only parts of a few tiles.
    """
    shape = (len(series), *variable.space_shape)
    full = even_tile(variable, len(series))
    grid = held.plan.grid_of(number)
    # Tiles that follow one another in time are made of the same pieces.
    cuts: dict[Any, tuple[tuple[Region, ...], tuple[Delayed, ...]]] = {}
    found, pieces, times = [], [], []
    regions = list(tiles(shape, full))
    for index, region in regions if sample is None else sample.of(regions):
        space = region[1:]
        key = tuple((s.start, s.stop) for s in space)
        if key not in cuts:
            cuts[key] = gather(grid, held.blocks, space)
        places, parts = cuts[key]
        inner = variable.inner_product.on(space)
        found.append(ValueTile(index, region, full, places, inner, offset))
        pieces.append(parts)
        times.append(series.rows(BlockSpan(region[0].start, region[0].stop)))
    share = sum(math.prod(tile.extent) for tile in found) / math.prod(shape)
    return LazyValues(tuple(found), tuple(pieces), tuple(times), share)


def even_tile(variable: ArchivedVariable, snapshots: int) -> tuple[int, ...]:
    """Shape of the tiles of so many snapshots, time first; they need not fit any chunks."""
    longest = (variable.longest[variable.time_axis], *variable.longest_space)
    return value_tile((snapshots, *variable.space_shape), longest)


# --- tasks --------------------------------------------------------------------------------


def value_rates(
    pieces: Sequence[RowBlock], tile: ValueTile, series: Sequence[Matrix], unit: float
) -> tuple[Rates, float]:
    """Rates of one tile, errors as far as they count, and how much of it counts."""
    values, valid = _values(pieces, tile, series)
    found = rates(values[None], (0, *value_levels(values.shape)), unit)
    inner = tile.inner.within(valid)
    counted = len(values) * inner.total(values[0].size)
    return Rates(found.errors * inner.mean_weight, found.bits), counted


def value_bits(
    pieces: Sequence[RowBlock], tile: ValueTile, series: Sequence[Matrix], step: float
) -> int:
    """Bits of one tile."""
    values, _ = _values(pieces, tile, series)
    return 8 * len(encode_field(values, step, value_levels(values.shape)))


def value_loss(
    pieces: Sequence[RowBlock],
    tile: ValueTile,
    series: Sequence[Matrix],
    step: float,
    dtype: np.dtype[Any],
) -> Matrix:
    """Squared error of one tile once it is coded, and how much of it counts."""
    values, valid = _values(pieces, tile, series)
    return _loss(values - coded_values(values, tile.shape, step, dtype), valid, tile)


def write_values(
    pieces: Sequence[RowBlock],
    tile: ValueTile,
    series: Sequence[Matrix],
    step: float,
    dtype: np.dtype[Any],
    writer: MaskedTileWriter,
    variable: str,
    masked: bool,
    grid: ErrorGrid,
) -> Matrix:
    """Code one tile and put it into the store; returns squared errors by block.

    Of the tiles that share a part of space, the first in time writes the mask.
    """
    values, valid = _values(pieces, tile, series)
    content, decoded = code_values(values, tile.shape, step, dtype)
    writer.write_tile(variable, tile.index, content)
    if masked and tile.index[0] == 0:
        mask = np.zeros(values.shape[1:], bool) if valid is None else ~valid
        writer.write_mask(variable, tile.region[1:], mask)
    squares = (values - decoded) ** 2
    during = np.add.reduceat(squares, grid.cuts(0, tile.region[0]), axis=0)
    return grid.collected(tile.region, tile.inner.within(valid).weighted(during))


def _loss(lost: Matrix, valid: Mask | None, tile: ValueTile) -> Matrix:
    inner = tile.inner.within(valid)
    squares = np.einsum("t...,t...->...", lost, lost)
    return np.array([inner.sum(squares), len(lost) * inner.total(squares.size)])


def _values(
    pieces: Sequence[RowBlock], tile: ValueTile, series: Sequence[Matrix]
) -> tuple[Matrix, Mask | None]:
    """Values about the offset, filled in where masked, and the mask."""
    some = stacked(series)

    def snapshots(piece: RowBlock) -> Floats:
        return piece.mean - tile.offset + some.astype(piece.rows.dtype) @ piece.rows

    return pasted(pieces, tile.places, tile.extent, snapshots)

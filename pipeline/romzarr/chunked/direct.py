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
from typing import Any, Protocol

import numpy as np
from dask.delayed import Delayed, delayed

from romzarr.chunked.fields import Sample, gather, pasted
from romzarr.chunked.plan import PODPlan
from romzarr.coding.field import encode_field
from romzarr.coding.rates import Rates, rates
from romzarr.coding.tiles import coded_values, encode_values, tiles, value_levels, value_tile
from romzarr.contracts import ArchivedVariable, Floats, Mask, Matrix, Region
from romzarr.inner_product import InnerProduct
from romzarr.numerics.pod.factors import RowBlock


class ValueWriter(Protocol):
    """Where tasks put tiles; works in any process."""

    def write_tile(self, variable: str, index: tuple[int, ...], content: bytes) -> None: ...

    def write_mask(self, variable: str, region: Region, mask: Mask) -> None: ...


@dataclass(frozen=True)
class ValueTile:
    """One tile of a variable's values, time first, and what tasks need to make it.

    ``places`` are where in space its pieces go; ``shape`` is that of a full tile, which
    ``region`` may not fill at the edge; ``offset`` is taken off the values.
    """

    index: tuple[int, ...]
    region: Region
    shape: tuple[int, ...]
    places: tuple[Region, ...]
    inner: InnerProduct
    offset: float

    @property
    def extent(self) -> tuple[int, ...]:
        return tuple(s.stop - s.start for s in self.region)


@dataclass(frozen=True)
class LazyValues:
    """Tiles of one variable whose space blocks are on the cluster.

    ``pieces`` are those of each tile; ``series`` (m, K) is what their rows are multiplied by,
    and ``share`` how much of all values lies in these tiles.
    """

    tiles: tuple[ValueTile, ...]
    pieces: tuple[tuple[Delayed, ...], ...]
    series: Delayed
    share: float

    def map(self, function: Callable[..., Any], *args: Any) -> list[Delayed]:
        """``function(pieces, series, tile, *args)`` of every tile."""
        task = delayed(function, pure=False)
        return [
            task(list(pieces), self.series, tile, *args)
            for pieces, tile in zip(self.pieces, self.tiles, strict=True)
        ]


def lazy_values(
    plan: PODPlan,
    blocks: Sequence[Delayed],
    series: Matrix,
    number: int,
    variable: ArchivedVariable,
    offset: float,
    sample: Sample | None = None,
) -> LazyValues:
    """Tiles of the values of variable `number`.

    Parameters
    ----------
    plan, blocks
        The POD's; `blocks` give a RowBlock for each of ``plan.rows``.
    series : (m, K) float64
        What their rows are multiplied by to give the snapshots.
    number : int
    variable : ArchivedVariable
    offset : float
        Taken off all values.
    sample : Sample, optional
        Only parts of a few tiles.
    """
    shape = (len(series), *variable.space_shape)
    full = value_tile(shape)
    grid = plan.grid_of(number)
    # Tiles that follow one another in time are made of the same pieces.
    cuts: dict[Any, tuple[tuple[Region, ...], tuple[Delayed, ...]]] = {}
    found, pieces = [], []
    regions = list(tiles(shape, full))
    for index, region in regions if sample is None else sample.of(regions):
        space = region[1:]
        key = tuple((s.start, s.stop) for s in space)
        if key not in cuts:
            cuts[key] = gather(grid, blocks, space)
        places, parts = cuts[key]
        inner = variable.inner_product.on(space)
        found.append(ValueTile(index, region, full, places, inner, offset))
        pieces.append(parts)
    share = sum(math.prod(tile.extent) for tile in found) / math.prod(shape)
    return LazyValues(tuple(found), tuple(pieces), delayed(series), share)


# --- tasks --------------------------------------------------------------------------------


def value_rates(
    pieces: Sequence[RowBlock], series: Matrix, tile: ValueTile, unit: float
) -> tuple[Rates, float]:
    """Rates of one tile, errors as far as they count, and how much of it counts."""
    values, valid = _values(pieces, series, tile)
    found = rates(values[None], (0, *value_levels(values.shape)), unit)
    inner = tile.inner.within(valid)
    counted = len(values) * inner.total(values[0].size)
    return Rates(found.errors * inner.mean_weight, found.bits), counted


def value_bits(pieces: Sequence[RowBlock], series: Matrix, tile: ValueTile, step: float) -> int:
    """Bits of one tile."""
    values, _ = _values(pieces, series, tile)
    return 8 * len(encode_field(values, step, value_levels(values.shape)))


def value_loss(
    pieces: Sequence[RowBlock],
    series: Matrix,
    tile: ValueTile,
    step: float,
    dtype: np.dtype[Any],
) -> Matrix:
    """Squared error of one tile once it is coded, and how much of it counts."""
    values, valid = _values(pieces, series, tile)
    return _loss(values, valid, tile, step, dtype)


def write_values(
    pieces: Sequence[RowBlock],
    series: Matrix,
    tile: ValueTile,
    step: float,
    dtype: np.dtype[Any],
    writer: ValueWriter,
    variable: str,
    masked: bool,
) -> Matrix:
    """Code one tile and put it into the store; returns the same.

    Of the tiles that share a part of space, the first in time writes the mask.
    """
    values, valid = _values(pieces, series, tile)
    writer.write_tile(variable, tile.index, encode_values(values, tile.shape, step))
    if masked and tile.index[0] == 0:
        mask = np.zeros(values.shape[1:], bool) if valid is None else ~valid
        writer.write_mask(variable, tile.region[1:], mask)
    return _loss(values, valid, tile, step, dtype)


def _loss(
    values: Matrix, valid: Mask | None, tile: ValueTile, step: float, dtype: np.dtype[Any]
) -> Matrix:
    lost = values - coded_values(values, tile.shape, step, dtype)
    inner = tile.inner.within(valid)
    squares = np.einsum("t...,t...->...", lost, lost)
    return np.array([inner.sum(squares), len(values) * inner.total(squares.size)])


def _values(
    pieces: Sequence[RowBlock], series: Matrix, tile: ValueTile
) -> tuple[Matrix, Mask | None]:
    """Values about the offset, filled in where masked, and the mask."""
    some = series[tile.region[0]]

    def snapshots(piece: RowBlock) -> Floats:
        return piece.mean - tile.offset + some.astype(piece.rows.dtype) @ piece.rows

    return pasted(pieces, tile.places, tile.extent, snapshots)

"""The fields of each variable, tile by tile: what they would cost, what is lost, and coding.

Fields are the temporal mean times sqrt(m) and the modes times their singular values: in
these units the error of each adds to the squared error of the record as it is. Tiles are
those of the store; a tile is made of the space blocks of the POD that overlap it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from dask.delayed import Delayed, delayed

from romzarr.chunked.blocks import TileWriter
from romzarr.chunked.plan import SpaceGrid
from romzarr.chunked.pod import HeldBlocks
from romzarr.chunked.spots import spread
from romzarr.coding.field import encode_field
from romzarr.coding.fill import fill_masked
from romzarr.coding.rates import Rates, rates, step_of
from romzarr.coding.tiles import code_fields, field_levels, tiles
from romzarr.contracts import ArchivedVariable, Floats, Mask, Matrix, Region
from romzarr.inner_product import InnerProduct
from romzarr.numerics.pod.factors import RowBlock
from romzarr.numerics.pod.gram import Gram


class MaskedTileWriter(TileWriter, Protocol):
    """Where tasks put tiles and masks."""

    def write_mask(self, variable: str, region: Region, mask: Mask) -> None: ...


@dataclass(frozen=True)
class PODTile:
    """One tile of a variable, which a task makes of parts of its space blocks.

    ``places`` are where in space these parts go. ``shape`` is that of a full tile, which
    ``region`` may not fill at the edge; ``inner`` is of the shape of the points in space.
    """

    index: tuple[int, ...]
    region: Region
    shape: tuple[int, ...]
    places: tuple[Region, ...]
    inner: InnerProduct

    @property
    def extent(self) -> tuple[int, ...]:
        return tuple(s.stop - s.start for s in self.region)


@dataclass(frozen=True)
class FieldTile(PODTile):
    """One tile of the fields of so many ``snapshots``."""

    snapshots: int


@dataclass(frozen=True)
class LazyTiles:
    """Tiles of one variable whose space blocks are on the cluster, and the ``pieces`` of each."""

    tiles: tuple[PODTile, ...]
    pieces: tuple[tuple[Delayed, ...], ...]

    def map(self, function: Callable[..., Any], *args: Any) -> list[Delayed]:
        """``function(pieces, tile, *args)`` of every tile."""
        return [
            on_tile(function, tile)(list(pieces), *args)
            for pieces, tile in zip(self.pieces, self.tiles, strict=True)
        ]


def on_tile(function: Callable[..., Any], tile: PODTile) -> Callable[..., Delayed]:
    """What makes a task ``function(pieces, tile, *args)`` of the pieces and arguments."""
    task: Callable[..., Delayed] = delayed(_OnTile(function, tile), pure=False)
    return task


class _OnTile:
    """A function of the pieces of one tile; Dask would look for tasks in a tile as an argument."""

    def __init__(self, function: Callable[..., Any], tile: PODTile) -> None:
        self.function, self.tile = function, tile

    def __call__(self, pieces: Sequence[RowBlock], *args: Any) -> Any:
        return self.function(pieces, self.tile, *args)


def lazy_fields(
    held: HeldBlocks,
    number: int,
    variable: ArchivedVariable,
    tile: tuple[int, ...],
    sample: Sample | None = None,
) -> LazyTiles:
    """Tiles of the fields of variable `number`.

    Parameters
    ----------
    held : HeldBlocks
        Of the POD.
    number : int
    variable : ArchivedVariable
    tile : tuple of int
        Points of a tile per space dim.
    sample : Sample, optional
        Only parts of a few tiles.
    """
    grid = held.plan.grid_of(number)
    found, pieces = [], []
    regions = list(tiles(variable.space_shape, tile))
    for index, region in regions if sample is None else sample.of(regions):
        places, parts = gather(grid, held.blocks, region)
        inner, snapshots = variable.inner_product.on(region), variable.shape[variable.time_axis]
        found.append(FieldTile(index, region, tile, places, inner, snapshots))
        pieces.append(parts)
    return LazyTiles(tuple(found), tuple(pieces))


@dataclass(frozen=True)
class Sample:
    """At most so many of all tiles, evenly spread, and of each at most so many points.

    Of small tiles more are taken, up to as many points together: a few, such as single levels, are
    not like the others.
    """

    tiles: int
    points: int

    def of(
        self, regions: Sequence[tuple[tuple[int, ...], Region]]
    ) -> list[tuple[tuple[int, ...], Region]]:
        """Of tiles (place in the grid, region), those taken, cut to their middles."""
        largest = max(math.prod(s.stop - s.start for s in region) for _, region in regions)
        most = max(self.tiles, self.tiles * self.points // max(1, largest))
        some = (regions[i] for i in spread(len(regions), most))
        return [(index, middle(region, self.points)) for index, region in some]


def middle(region: Region, most: int) -> Region:
    """The middle of a region, its longest axes halved until at most so many points are left."""
    lengths = [s.stop - s.start for s in region]
    while math.prod(lengths) > most:
        longest = int(np.argmax(lengths))
        lengths[longest] = (lengths[longest] + 1) // 2
    starts = [(s.start + s.stop - n) // 2 for s, n in zip(region, lengths, strict=True)]
    return tuple(slice(a, a + n) for a, n in zip(starts, lengths, strict=True))


def gather(
    grid: SpaceGrid, blocks: Sequence[Delayed], region: Region
) -> tuple[tuple[Region, ...], tuple[Delayed, ...]]:
    """Parts of the space blocks of a variable that make up a region, and where in it they go."""
    here = [(row, _overlap(row.region, region)) for row in grid.overlapping(region)]
    pieces = [_piece(blocks[row.number], row.region, box, len(here)) for row, box in here]
    return tuple(_relative(box, region) for _, box in here), tuple(pieces)


def _overlap(a: Region, b: Region) -> Region:
    return tuple(
        slice(max(x.start, y.start), min(x.stop, y.stop)) for x, y in zip(a, b, strict=True)
    )


def _relative(box: Region, region: Region) -> Region:
    return tuple(
        slice(s.start - r.start, s.stop - r.start) for s, r in zip(box, region, strict=True)
    )


def _piece(block: Delayed, region: Region, box: Region, count: int) -> Delayed:
    """What a tile needs of a block, cut where the block is, so that no more travels."""
    if count == 1 and box == region:
        return block
    shape = tuple(s.stop - s.start for s in region)
    return delayed(_cut, pure=False)(block, shape, _relative(box, region))


def _cut(block: RowBlock, shape: tuple[int, ...], box: Region) -> RowBlock:
    def boxed(values: Any) -> Any:
        part = values.reshape(*values.shape[:-1], *shape)[(..., *box)]
        return part.reshape(*values.shape[:-1], -1)

    valid = None if block.valid is None else boxed(block.valid)
    return RowBlock(boxed(block.mean), boxed(block.rows), valid)


# --- tasks --------------------------------------------------------------------------------


def tile_rates(pieces: Sequence[RowBlock], tile: FieldTile, turn: Matrix, unit: float) -> Rates:
    """Rates of the mean and of all modes on one tile; errors as far as they count."""
    fields, valid = fields_of(pieces, tile, turn)
    found = rates(fields, field_levels(tile.extent), unit)
    return Rates(found.errors * tile.inner.within(valid).mean_weight, found.bits)


def tile_bits(
    pieces: Sequence[RowBlock], tile: FieldTile, turn: Matrix, unit: float, position: float
) -> Matrix:
    """Bits of one tile, as its rates have it and as coded."""
    fields, _ = fields_of(pieces, tile, turn)
    levels = field_levels(tile.extent)
    content = encode_field(fields, step_of(position, unit), levels)
    return np.array([rates(fields, levels, unit).bits_at(position), 8 * len(content)])


@dataclass(frozen=True)
class CodedTile:
    """One tile of the mean and the modes, coded, and the points without values (None: none)."""

    content: bytes
    mask: Mask | None


def code_tile(
    pieces: Sequence[RowBlock],
    tile: FieldTile,
    turn: Matrix,
    rank: int,
    step: float,
    dtype: np.dtype[Any],
) -> tuple[CodedTile, Gram]:
    """Code one tile, with inner products of what is lost and what is kept.

    Returns
    -------
    CodedTile
    Gram
        Of K + 1 + rank rows: first what is lost of each of the K modes (all of it, beyond the
        rank), then what is lost of the mean, then the decoded modes.
    """
    fields, valid = fields_of(pieces, tile, turn)
    content, decoded = code_fields(fields[: rank + 1], tile.shape, step, dtype)
    mask = None if valid is None else ~valid
    return CodedTile(content, mask), products_of(fields, decoded, tile, valid)


def products_of(fields: Floats, coded: Floats, tile: FieldTile, valid: Mask | None) -> Gram:
    """The inner products that `code_tile` returns, from all fields and those `coded`."""
    lost, rank = fields.copy(), len(coded) - 1
    lost[: rank + 1] -= coded
    stack = np.concatenate([lost[1:], lost[:1], coded[1:]]).reshape(len(lost) + rank, -1)
    inner = tile.inner.flat
    if valid is not None:
        stack, inner = stack[:, valid.ravel()], inner.on(valid.ravel())
    return Gram.of(stack, inner)


def write_tile(
    coded: CodedTile, tile: FieldTile, writer: MaskedTileWriter, variable: str, masked: bool
) -> int:
    """Put one tile, and the mask where the variable has one, into the store; returns its bytes."""
    writer.write_tile(variable, tile.index, coded.content)
    if masked:
        mask = np.zeros(tile.extent, bool) if coded.mask is None else coded.mask
        writer.write_mask(variable, tile.region, mask)
    return len(coded.content)


def fields_of(
    pieces: Sequence[RowBlock], tile: FieldTile, turn: Matrix
) -> tuple[Floats, Mask | None]:
    """Mean and modes (1 + K, *extent) on one tile, filled in where masked, and the mask."""

    def stacked(piece: RowBlock) -> Matrix:
        rows = turn.T.astype(piece.rows.dtype) @ piece.rows
        return np.concatenate([tile.snapshots**0.5 * piece.mean[None], rows], dtype=np.float64)

    return pasted(pieces, tile.places, (turn.shape[1] + 1, *tile.extent), stacked)


def pasted(
    pieces: Sequence[RowBlock],
    places: Sequence[Region],
    shape: tuple[int, ...],
    function: Callable[[RowBlock], Floats],
) -> tuple[Matrix, Mask | None]:
    """Array whose trailing axes are space, from ``function(piece)`` (k, n) put in its place.

    With it, where it is valid (None: everywhere); elsewhere it is filled in.
    """
    out: Matrix = np.empty(shape)
    valid: Mask = np.ones(shape[1:], bool)
    for piece, place in zip(pieces, places, strict=True):
        extent = tuple(s.stop - s.start for s in place)
        everywhere = (slice(None), *place)
        out[everywhere] = function(piece).reshape(-1, *extent)
        if piece.valid is not None:
            valid[place] = piece.valid.reshape(extent)
    if valid.all():
        return out, None
    filled: Matrix = np.asarray(fill_masked(out, valid), np.float64)
    return filled, valid

"""Coding of a variable without POD: tiles of space and time, each read and coded by one task.

Where a spectrum decays slowly, modes cost more than they save, and a wavelet transform of
the values themselves is the better basis.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol
from uuid import uuid4

import numpy as np
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from pipeline.coding.field import coded_field, encode_field
from pipeline.coding.fill import fill_masked
from pipeline.coding.rates import Rates, rates
from pipeline.coding.tiles import even_length, extended, tiles
from pipeline.coding.wavelet import depth
from pipeline.contracts import ArchivedVariable, Floats, ReadBlock, Region

# Values of a tile: wavelets gain little beyond, and a worker holds several copies of it.
TILE_VALUES = 2**22
# Snapshots of a tile: whoever reads one decodes them all.
MOST_SNAPSHOTS = 512


class ValueWriter(Protocol):
    """Where tasks put tiles; works in any process."""

    def write_values(self, variable: str, index: tuple[int, ...], content: bytes) -> None: ...


@dataclass(frozen=True)
class ValueTile:
    """One tile of a variable with time first: its place, its region, and a full tile's shape.

    ``crop`` is the tile within what has to be read of the archive's chunks.
    """

    index: tuple[int, ...]
    shape: tuple[int, ...]
    crop: Region
    time_axis: int
    weights: Floats | None
    offset: float


def value_tile(variable: ArchivedVariable) -> tuple[int, ...]:
    """Shape of the tiles of a variable, time first: chunks of the archive, several if small.

    Chunks join along time first, then along space from the last dim on. Archives with
    chunks of many lengths are cut evenly instead; chunks are then read more than once.
    """
    chunks = [variable.chunks[variable.time_axis], *variable.space_chunks]
    lengths = [max(c) for c in chunks]
    shape = [sum(c) for c in chunks]
    for axis in (0, *range(len(shape) - 1, 0, -1)):
        others = int(np.prod(lengths, dtype=np.int64)) // max(lengths[axis], 1)
        most = max(TILE_VALUES // max(others, 1), 1)
        if axis == 0:
            most = min(most, MOST_SNAPSHOTS)
        if most >= shape[axis]:
            lengths[axis] = shape[axis]
        elif len(set(chunks[axis][:-1])) <= 1 and most >= lengths[axis]:
            lengths[axis] *= most // lengths[axis]
        elif len(set(chunks[axis][:-1])) > 1:
            lengths[axis] = even_length(shape[axis], most)
    return tuple(lengths)


def value_tiles(
    variable: ArchivedVariable, offset: float
) -> Iterator[tuple[ValueTile, Region, Region]]:
    """Tiles of a variable, the region of each (time first), and what of the archive (its own
    dims, chunk by chunk) has to be read for it."""
    axis = variable.time_axis
    shape = (variable.shape[axis], *variable.space_shape)
    tile = value_tile(variable)
    chunks = [variable.chunks[axis], *variable.space_chunks]
    edges = [[0, *accumulate(lengths)] for lengths in chunks]
    for index, region in tiles(shape, tile):
        read = [
            slice(e[bisect_right(e, s.start) - 1], e[bisect_left(e, s.stop)])
            for e, s in zip(edges, region, strict=True)
        ]
        crop = tuple(
            slice(s.start - r.start, s.stop - r.start) for s, r in zip(region, read, strict=True)
        )
        weights = None if variable.weights is None else variable.weights[region[1:]]
        own = (*read[1 : axis + 1], read[0], *read[axis + 1 :])
        yield ValueTile(index, tile, crop, axis, weights, offset), region, own


def lazy_tiles(
    variable: ArchivedVariable,
    found: Sequence[tuple[ValueTile, Region]],
    function: Any,
    *args: Any,
) -> list[Delayed]:
    """``function(block, tile, *args)`` of tiles, given with what is read for each."""
    token = uuid4().hex
    graph: dict[Any, Any] = dict(variable.source.graph())
    keys = []
    for number, (tile, region) in enumerate(found):
        keys.append((f"direct-{token}", number))
        graph[keys[-1]] = (function, variable.source.task(region), tile, *args)
    layer = HighLevelGraph.from_collections(f"direct-{token}", graph)
    return [Delayed(key, layer, layer=f"direct-{token}") for key in keys]


# --- tasks --------------------------------------------------------------------------------


def value_rates(block: ReadBlock, tile: ValueTile, unit: float) -> Rates:
    """Rates of one tile; errors as far as they count."""
    values, valid = _values(block, tile)
    found = rates(values[None], (0, *map(depth, values.shape)), unit)
    weights = np.ones(values.shape[1:]) if tile.weights is None else tile.weights
    counted = float(np.mean(weights if valid is None else np.where(valid, weights, 0)))
    return Rates(found.errors * counted, found.bits)


def value_error(block: ReadBlock, tile: ValueTile, step: float, dtype: np.dtype[Any]) -> float:
    """Squared error of one tile once it is coded."""
    values, valid = _values(block, tile)
    return _squared_error(values, valid, tile, step, dtype)


def write_values(
    block: ReadBlock,
    tile: ValueTile,
    step: float,
    dtype: np.dtype[Any],
    writer: ValueWriter,
    variable: str,
) -> float:
    """Code one tile and put it into the store; returns its squared error."""
    values, valid = _values(block, tile)
    content = encode_field(extended(values, tile.shape), step, tuple(map(depth, tile.shape)))
    writer.write_values(variable, tile.index, content)
    return _squared_error(values, valid, tile, step, dtype)


def _squared_error(
    values: Floats,
    valid: NDArray[np.bool_] | None,
    tile: ValueTile,
    step: float,
    dtype: np.dtype[Any],
) -> float:
    levels = tuple(map(depth, tile.shape))
    coded = coded_field(extended(values, tile.shape), step, levels, dtype)
    squares = (coded[tuple(slice(0, n) for n in values.shape)] - values) ** 2
    in_space = squares.sum(axis=0)
    if valid is not None:
        in_space = np.where(valid, in_space, 0.0)
    return float(np.sum(in_space if tile.weights is None else tile.weights * in_space))


def _values(block: ReadBlock, tile: ValueTile) -> tuple[Floats, NDArray[np.bool_] | None]:
    """Values (time first) about the offset, filled in where masked, and the mask."""
    values = np.moveaxis(block.values, tile.time_axis, 0)[tile.crop].astype(np.float64)
    values -= tile.offset
    missing = np.isnan(values[0])
    if not missing.any():
        return values, None
    return fill_masked(values, ~missing), ~missing

"""Fields of many variables of few points, side by side in one array and made by one task.

Each is in parts of a step of its own, so that one step codes all. A wavelet transform would gain
nothing along so few points, and metadata of an array each would be larger than the fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dask
import numpy as np
from dask.delayed import Delayed, delayed

from romzarr.chunked.fields import FieldTile, LazyTiles, fields_of, products_of, tile_rates
from romzarr.coding.field import coded_field, encode_field
from romzarr.coding.rates import Rates
from romzarr.contracts import Floats, Matrix
from romzarr.numerics.pod.factors import RowBlock
from romzarr.numerics.pod.gram import Gram

Pieces = Sequence[Sequence[RowBlock]]
STEP, LEVELS = 1.0, (0, 0)


@dataclass(frozen=True)
class SharedTiles:
    """The only tile of each of several variables, none of which has points without values.

    ``numbers`` are those of the variables; ``pieces`` gives the parts of the space blocks of
    each, gathered.
    """

    numbers: tuple[int, ...]
    tiles: tuple[Any, ...]
    pieces: Delayed

    @classmethod
    def of(cls, each: Mapping[int, LazyTiles]) -> SharedTiles:
        """Gather those of variables, by number, that have one tile each. Runs Dask."""
        pieces = [list(fields.pieces[0]) for fields in each.values()]
        # Once: every task that were given all pieces would go through all their graphs.
        (gathered,) = dask.persist(delayed(list, pure=False)(pieces))
        return cls(tuple(each), tuple(fields.tiles[0] for fields in each.values()), gathered)

    def task(self, function: Callable[..., Any], *args: Any) -> Delayed:
        """``function(pieces, tiles, *args)`` of all variables at once."""
        return delayed(_OnTiles(function, self.tiles), pure=False)(self.pieces, *args)


class _OnTiles:
    """A function of tiles; Dask would look for tasks in each of them as an argument."""

    def __init__(self, function: Callable[..., Any], tiles: tuple[Any, ...]) -> None:
        self.function, self.tiles = function, tiles

    def __call__(self, pieces: Pieces, *args: Any) -> Any:
        return self.function(pieces, self.tiles, *args)


# --- tasks --------------------------------------------------------------------------------


def shared_rates(
    pieces: Pieces, tiles: Sequence[FieldTile], turn: Matrix, units: Sequence[float]
) -> list[Rates]:
    """Compute the rates of the mean and of all modes of each variable."""
    return [
        tile_rates(parts, tile, turn, unit)
        for parts, tile, unit in zip(pieces, tiles, units, strict=True)
    ]


def shared_products(
    pieces: Pieces,
    tiles: Sequence[FieldTile],
    turn: Matrix,
    rank: int,
    steps: Sequence[float],
    dtype: np.dtype[Any],
) -> list[Gram]:
    """Compute the inner products of `romzarr.chunked.fields.code_tile`, of each variable."""
    fields = [fields_of(parts, tile, turn)[0] for parts, tile in zip(pieces, tiles, strict=True)]
    stacked = _stacked([each[: rank + 1] for each in fields], steps)
    decoded = coded_field(stacked, STEP, LEVELS, dtype)
    edges = np.cumsum([each[0].size for each in fields])[:-1]
    parts = np.split(decoded, edges, axis=1)
    return [
        products_of(each, (part * dtype.type(step)).reshape(rank + 1, *tile.extent), tile, None)
        for each, part, tile, step in zip(fields, parts, tiles, steps, strict=True)
    ]


def shared_content(
    pieces: Pieces, tiles: Sequence[FieldTile], turn: Matrix, steps: Sequence[float]
) -> bytes:
    """Code the array that all variables share."""
    fields = [fields_of(parts, tile, turn)[0] for parts, tile in zip(pieces, tiles, strict=True)]
    return encode_field(_stacked(fields, steps), STEP, LEVELS)


def _stacked(fields: Sequence[Floats], steps: Sequence[float]) -> Matrix:
    """Fields (r + 1, points) of all variables, each in parts of its step."""
    parts = [(each / step).reshape(len(each), -1) for each, step in zip(fields, steps, strict=True)]
    return np.ascontiguousarray(np.concatenate(parts, axis=1), np.float64)

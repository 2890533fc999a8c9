"""Errors by block of time and tile of space, as the parts of a store have them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from romzarr.errors import StoreError
from romzarr.numerics.error_blocks import MOST_BLOCKS, BlockErrors, ErrorGrid, decode_squares
from romzarr.store.reading.facts import BLOCK_ERRORS
from romzarr.store.reading.generation import Generation


@dataclass(frozen=True)
class StoredBlockErrors:
    """Errors of one variable in one part of a store, time first, on the blocks of a ``grid``."""

    grid: ErrorGrid
    errors: BlockErrors

    def within(self, places: Sequence[NDArray[np.int64]]) -> float:
        """Bound the norm of the error at values that have these places along each axis."""
        both = zip(places, self.grid.lengths, strict=True)
        return self.errors.within([np.unique(some // length) for some, length in both])


def block_errors_of(part: Generation, name: str) -> StoredBlockErrors | None:
    """Find the errors by block of a variable of a part; None if it does not know them.

    Raises
    ------
    StoreError
        If they do not fit the variable.
    """
    fact: Mapping[str, Any] | None = part.facts.get(BLOCK_ERRORS, {}).get(name)
    if fact is None:
        return None
    stored = part.variables[name]
    shape = (part.snapshots, *stored.space_shape)
    counts, where = tuple(fact["blocks"]), f"{part.name}: block errors of {name!r}"
    lengths = [-(-n // max(1, count)) for n, count in zip(shape, counts, strict=False)]
    grid = ErrorGrid(shape, tuple(max(1, length) for length in lengths))
    if len(counts) != len(shape) or grid.counts != counts or math.prod(counts) > MOST_BLOCKS:
        raise StoreError(f"{where}: {list(counts)} blocks do not fit shape {shape}")
    try:
        squares = decode_squares(float(fact["largest"]), fact["codes"], counts)
    except ValueError as error:
        raise StoreError(f"{where}: its codes are no {math.prod(counts)} bytes: {error}") from error
    return StoredBlockErrors(grid, BlockErrors(squares, float(fact.get("anywhere", 0.0))))

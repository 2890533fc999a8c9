"""Errors by block of time and tile of space, as the parts of a store have them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from romzarr.contracts import EXACT
from romzarr.errors import StoreError
from romzarr.numerics.error_blocks import MOST_BLOCKS, BlockErrors, ErrorGrid, decode_squares
from romzarr.store.reading.facts import BLOCK_ERRORS, l2_error_of
from romzarr.store.reading.generation import Generation
from romzarr.store.reading.reader import CoefficientStore


@dataclass(frozen=True)
class StoredBlockErrors:
    """Errors of one variable in one part of a store, time first, on the blocks of a ``grid``."""

    grid: ErrorGrid
    errors: BlockErrors

    def within(self, places: Sequence[NDArray[np.int64]]) -> float:
        """Bound the norm of the error at values that have these places along each axis."""
        both = zip(places, self.grid.lengths, strict=True)
        return self.errors.within([np.unique(some // length) for some, length in both])


def error_within(
    store: CoefficientStore,
    name: str,
    rows: NDArray[np.int64],
    places: Sequence[NDArray[np.int64]],
) -> float:
    """Bound the L2 norm of the error of a variable at some snapshots and places in space.

    Only blocks that they touch count. It is infinite where nothing is known.
    """
    squares = 0.0
    for known, start, stop in zip(
        errors_by_part(store, name), store.starts, store.starts[1:], strict=False
    ):
        own = rows[(rows >= start) & (rows < stop)] - start
        if len(own):
            squares += known.within([own, *places]) ** 2
    return min(squares**0.5, l2_error_of(store.facts, name))


def errors_by_part(store: CoefficientStore, name: str) -> list[StoredBlockErrors]:
    """Errors of a variable in each part, in one block where a part does not know its own."""
    return [_errors_of(part, name, l2_error_of(store.facts, name)) for part in store.parts]


def _errors_of(part: Generation, name: str, whole: float) -> StoredBlockErrors:
    known = block_errors_of(part, name)
    if known is not None:
        return known
    stored = part.variables[name]
    shape = (part.snapshots, *stored.space_shape)
    error = 0.0 if stored.coding in EXACT else whole
    squares = np.full((1,) * len(shape), error**2)
    return StoredBlockErrors(ErrorGrid(shape, shape), BlockErrors(squares))


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

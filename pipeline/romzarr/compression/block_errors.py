"""Errors by block of time and tile of space: where they are known, and how a store has them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from romzarr.archive import Archive
from romzarr.contracts import ArchivedVariable
from romzarr.numerics.error_blocks import MOST_IN_TIME, BlockErrors, ErrorGrid, encode_squares
from romzarr.store.reading.facts import BLOCK_ERRORS


def error_grid(
    archive: Archive, variable: ArchivedVariable, bounded: Collection[str] = ()
) -> ErrorGrid:
    """Blocks of a variable whose errors are measured value by value.

    Indices of `bounded` dims, such as levels, may be of very different sizes, so each is a block of
    its own. Points along a curve are not cut: readers have them in another order.
    """
    curves = {order.dim for order in archive.orders}
    cut = [(a, dim) for a, dim in enumerate(variable.space_dims, start=1) if dim not in curves]
    single = [a for a, dim in cut if dim in bounded]
    return ErrorGrid.cut(_shape(variable), [0, *(a for a, _ in cut)], single=single)


def time_grid(variable: ArchivedVariable) -> ErrorGrid:
    """Blocks of a variable whose errors are known by snapshot."""
    return ErrorGrid.cut(_shape(variable), [0], MOST_IN_TIME)


def _shape(variable: ArchivedVariable) -> tuple[int, ...]:
    return (variable.shape[variable.time_axis], *variable.space_shape)


def with_block_errors(facts: Mapping[str, Any], found: Mapping[str, BlockErrors]) -> dict[str, Any]:
    """The facts of a store with the errors by block of some variables.

    A single block says no more than the error of the variable as a whole.
    """
    more = {
        name: _fact(each)
        for name, each in found.items()
        if each.squares.size > 1 and np.isfinite(each.squares).all()
    }
    known = {**facts.get(BLOCK_ERRORS, {}), **more}
    return {**facts, BLOCK_ERRORS: known} if known else dict(facts)


def without_block_errors(facts: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """The facts of a store without those of some variables, whose values are others now."""
    kept = {name: each for name, each in facts.get(BLOCK_ERRORS, {}).items() if name not in names}
    others = {fact: value for fact, value in facts.items() if fact != BLOCK_ERRORS}
    return others | ({BLOCK_ERRORS: kept} if kept else {})


def _fact(errors: BlockErrors) -> dict[str, Any]:
    largest, codes = encode_squares(errors.squares)
    more = {"anywhere": _rounded_up(errors.anywhere)} if errors.anywhere else {}
    return {"blocks": list(errors.squares.shape), "largest": largest, "codes": codes, **more}


def _rounded_up(error: float) -> float:
    """The error with four digits, no smaller."""
    return float(f"{error * 1.001:.4g}")

"""Sums over time and over space, and variances, from factors or block by block.

Points are flat: answers have shape (..., points). ``error`` bounds the weighted L2 norm over time
and space of the error of all values.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from romzarr.answers.quantity import Quantity
from romzarr.contracts import Matrix
from romzarr.numerics.triangles import squared_sums


class Sums(NamedTuple):
    """Weighted sums (q, points) over time, and by which ``gains`` (q,) the ``errors`` (q,) are
    multiplied at most."""

    values: Matrix
    gains: Matrix
    errors: Matrix


class Variance(NamedTuple):
    """The variance (points,) over time, and the least number of values at a point."""

    values: Matrix
    counts: float
    error: float


def sums_over_time(quantity: Quantity, weights: Matrix, averages: bool) -> Sums:
    """Sum all snapshots with `weights` (q, m).

    Missing values are left out of `averages`, whose weights add up to 1; other sums are NaN there.
    """
    if not quantity.factored:
        return _sums_of_blocks(quantity, weights, averages)
    small, values = weights @ quantity.coefficients, np.empty((len(weights), quantity.points))
    for where, piece in quantity.pieces(small.shape[1] + len(weights)):
        values[:, where] = small @ piece.fields
    errors = quantity.errors_of_sums(weights, quantity.norm)
    return Sums(values, np.linalg.norm(weights, axis=1), errors)


def _sums_of_blocks(quantity: Quantity, weights: Matrix, averages: bool) -> Sums:
    total, count, square = (np.zeros((len(weights), quantity.points)) for _ in range(3))
    norm = 0.0
    for block in quantity.blocks():
        here, where, norm = weights[:, block.span], block.where, norm + block.square
        present = ~np.isnan(block.values)
        some_missing = not present.all()
        if averages and some_missing:
            total[:, where] += _product(here, np.where(present, block.values, 0.0))
            count[:, where] += here @ present
            square[:, where] += here**2 @ present
            continue
        sums = _product(here, block.values)
        if some_missing:
            sums[:, ~present.all(axis=0)] = np.nan
        total[:, where] += sums
        count[:, where] += here.sum(axis=1, keepdims=True)
        square[:, where] += np.sum(here**2, axis=1, keepdims=True)
    errors = quantity.errors_of_sums(weights, norm**0.5)
    if not averages:
        return Sums(total, np.linalg.norm(weights, axis=1), errors)
    with np.errstate(invalid="ignore", divide="ignore"):
        gains = np.where(count > 0, np.sqrt(square) / count, 0.0)
        return Sums(total / count, gains.max(axis=1, initial=0.0), errors)


def _product(weights: Matrix, values: Matrix) -> Matrix:
    """``weights @ values``, in which weights of 0 take nothing from infinite values."""
    if np.isfinite(values).all():
        return np.asarray(weights @ values)
    used = (np.where(row[:, None] != 0, values, 0.0) for row in weights)
    return np.stack([row @ each for row, each in zip(weights, used, strict=True)])


def variance(quantity: Quantity) -> Variance:
    """The variance over time at each point, of what is not missing."""
    count = quantity.snapshots
    if quantity.factored:
        values, triangle = np.empty(quantity.points), quantity.triangle
        for where, piece in quantity.pieces(2 * len(triangle) + 1):
            squares = squared_sums(triangle, piece.fields[1:])
            values[where] = np.where(np.isnan(piece.fields[0]), np.nan, squares / count)
        return Variance(values, count, quantity.error(quantity.norm))
    mean, counts, error = _mean_of_blocks(quantity)
    square = np.zeros(quantity.points)
    for block in quantity.blocks():
        with np.errstate(invalid="ignore"):
            about = block.values - mean[block.where]
        about[np.isnan(about)] = 0.0
        square[block.where] += np.einsum("mp,mp->p", about, about)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = square / counts
    return Variance(values, float(counts[counts > 0].min(initial=count)), error)


def _mean_of_blocks(quantity: Quantity) -> tuple[Matrix, Matrix, float]:
    """Mean of what is not missing, how many values that is, and the bound on the error of all.

    What differs from the first snapshot is summed: the mean of what is constant is that, exactly.
    """
    total, counts, first = (np.zeros(quantity.points) for _ in range(3))
    square = 0.0
    for block in quantity.blocks():
        where = block.where
        if not block.span.start:
            first[where] = np.nan_to_num(block.values[0])
        missing = np.isnan(block.values)
        with np.errstate(invalid="ignore"):
            about = block.values - first[where]
        about[missing] = 0.0
        total[where] += about.sum(axis=0)
        counts[where] += len(missing) - np.count_nonzero(missing, axis=0)
        square += block.square
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(first + total / counts), counts, quantity.error(square**0.5)


def sums_over_space(quantity: Quantity, weights: Matrix) -> tuple[Matrix, float]:
    """Sum all points with `weights` (points,); masked and missing ones count nothing.

    Returns the sums (m,), and the bound on the error of all values.
    """
    if quantity.factored:
        small = np.zeros(quantity.coefficients.shape[1])
        for where, piece in quantity.pieces(2 * len(small)):
            # Only the constant field may be NaN: copying all takes longer than the sums.
            small[0] += np.nan_to_num(piece.fields[0]) @ weights[where]
            small[1:] += piece.fields[1:] @ weights[where]
        return quantity.coefficients @ small, quantity.error(quantity.norm)
    sums, norm = np.zeros(quantity.snapshots), 0.0
    for block in quantity.blocks():
        known = np.where(np.isnan(block.values), 0.0, block.values)
        sums[block.span] += known @ weights[block.where]
        norm += block.square
    return sums, quantity.error(norm**0.5)

"""Sums over time and over space of what is selected, from factors or block by block.

Points are flat: answers have shape (..., points). Squared norms are weighted as the recorded error.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from romzarr.answers.selection import Selection
from romzarr.contracts import Matrix


class Sums(NamedTuple):
    """Weighted sums over time.

    ``values`` (q, points); ``gains`` (q,), by which the L2 norm of an error over time and space
    is multiplied at most; ``norm`` that of the selected values.
    """

    values: Matrix
    gains: Matrix
    norm: float


class Variance(NamedTuple):
    """The variance (points,) over time, the least number of values at a point, and the norm of the
    selected values."""

    values: Matrix
    counts: float
    norm: float


def sums_over_time(selected: Selection, weights: Matrix, averages: bool) -> Sums:
    """Sum all snapshots with `weights` (q, m).

    Missing values are left out of `averages`, whose weights add up to 1; other sums are NaN there.
    """
    if not selected.factored:
        return _sums_of_blocks(selected, weights, averages)
    values = (weights @ selected.coefficients) @ selected.fields
    return Sums(values, np.linalg.norm(weights, axis=1), _norm(selected))


def _sums_of_blocks(selected: Selection, weights: Matrix, averages: bool) -> Sums:
    total, count, square = (np.zeros((len(weights), len(selected.weights))) for _ in range(3))
    norm = 0.0
    for span, values in selected.blocks():
        here, present = weights[:, span], ~np.isnan(values)
        known = np.where(present, values, 0.0) if averages else values
        # An infinite value that is kept exactly makes its own answer infinite or NaN.
        with np.errstate(invalid="ignore"):
            total += _product(here, known)
        count, square = count + here @ present, square + here**2 @ present
        norm += _square(selected, np.where(np.isfinite(values), values, 0.0))
    if not averages:
        return Sums(total, np.linalg.norm(weights, axis=1), norm**0.5)
    with np.errstate(invalid="ignore", divide="ignore"):
        gains = np.where(count > 0, np.sqrt(square) / count, 0.0)
        return Sums(total / count, gains.max(axis=1, initial=0.0), norm**0.5)


def _product(weights: Matrix, values: Matrix) -> Matrix:
    """``weights @ values``, in which weights of 0 take nothing from infinite values or NaN."""
    if np.isfinite(values).all():
        return np.asarray(weights @ values)
    used = (np.where(row[:, None] != 0, values, 0.0) for row in weights)
    return np.stack([row @ each for row, each in zip(weights, used, strict=True)])


def variance(selected: Selection) -> Variance:
    """The variance over time at each point, of what is not missing."""
    count = len(selected.rows)
    if selected.factored:
        modes = selected.coefficients[:, 1:]
        # The triangle of a QR has the same squares as all snapshots, and loses no digits.
        triangle = np.linalg.qr(modes - modes.mean(axis=0), mode="r")
        values = np.sum((triangle @ selected.fields[1:]) ** 2, axis=0) / count
        masked = np.isnan(selected.fields[0])
        return Variance(np.where(masked, np.nan, values), count, _norm(selected))
    found = sums_over_time(selected, np.full((1, count), 1 / count), averages=True)
    square, counts = np.zeros(len(selected.weights)), np.zeros(len(selected.weights))
    for _, values in selected.blocks():
        with np.errstate(invalid="ignore"):
            square += np.nansum((values - found.values) ** 2, axis=0)
        counts += np.count_nonzero(~np.isnan(values), axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = square / counts
    least = float(counts[counts > 0].min(initial=count))
    return Variance(values, least, found.norm)


def sums_over_space(selected: Selection, weights: Matrix) -> tuple[Matrix, float]:
    """Sum all points with `weights` (points,); masked and missing ones count nothing.

    Returns the sums (m,), and the norm of the selected values.
    """
    if selected.factored:
        fields = np.where(np.isnan(selected.fields), 0.0, selected.fields)
        return selected.coefficients @ (fields @ weights), _norm(selected)
    sums, norm = np.empty(len(selected.rows)), 0.0
    for span, values in selected.blocks():
        known = np.where(np.isnan(values), 0.0, values)
        sums[span] = known @ weights
        norm += _square(selected, np.where(np.isfinite(known), known, 0.0))
    return sums, norm**0.5


def _norm(selected: Selection) -> float:
    triangle = np.linalg.qr(selected.coefficients, mode="r")
    fields = np.where(np.isnan(selected.fields), 0.0, selected.fields)
    return _square(selected, triangle @ fields) ** 0.5


def _square(selected: Selection, rows: Matrix) -> float:
    return float(np.sum(rows**2 @ selected.weights))

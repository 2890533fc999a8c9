"""Proper orthogonal decomposition of one block of one variable.

Every cut drops columns of an orthonormal time factor, and merges only rotate the columns
kept; so the energies of all cuts add exactly (Pythagoras in the space of snapshots). This
is hierarchical approximate POD [1]_ with its error known rather than estimated.

References
----------
.. [1] C. Himpe, T. Leibner, S. Rave, "Hierarchical approximate proper orthogonal
   decomposition", SIAM J. Sci. Comput. 40 (2018) A3267-A3292, Algorithm 1, Theorem 3.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from romzarr.contracts import Floats
from romzarr.numerics.pod.factors import Defect, Mask, Place, RowBlock, TimeFactor
from romzarr.numerics.pod.inner_products import (
    DOUBLE,
    Precision,
    affordable,
    inner_product,
    least_work,
    panels,
    spectrum,
)
from romzarr.numerics.pod.merge import merge_in_time, without_constant
from romzarr.numerics.pod.sketch import SHARPNESS, rotated, sparse_points, suffices
from romzarr.numerics.pod.truncation import Cut, kept_columns

Matrix = NDArray[np.float64]

# Snapshots factored together at most: beyond this the square of their number costs more
# than factoring halves and merging them does.
SNAPSHOTS_AT_ONCE = 256


def factor_block(
    values: Floats, weights: Floats | None, cut: Cut, precision: Precision, place: Place
) -> tuple[RowBlock, TimeFactor]:
    """POD of one block of one variable about its own mean.

    Parameters
    ----------
    values : (m, n) float
        Snapshots by rows; NaN marks masked points, which must be the same at all times.
    weights : (n,) float or None
        Non-negative weights of the squared errors.
    cut : Cut
        How much of the block's own energy may be dropped.
    precision : Precision
    place : Place

    Returns
    -------
    RowBlock, TimeFactor
        With ``defect`` set, and nothing else of use, where values are infinite, the mask moves,
        or fluctuations are so large or small that their squares leave float64. Besides `values`,
        memory for the rows and a few panels is used.
    """
    if min(values.shape) > SNAPSHOTS_AT_ONCE:
        return _factor_pieces(values, weights, cut, precision, place)
    precision = affordable(least_work(precision, *values.shape[::-1]), values.size)
    missing = np.isnan(values[0])
    valid = ~missing if missing.any() else None
    if valid is not None and not np.isnan(values[:, missing]).all():
        return _defective(values, _find_defect(values, place), place)
    points = sparse_points(values.shape[1], len(values)) if precision.sketch else None
    if points is not None:
        factored = _factor_sketched(values, valid, weights, points, cut, precision, place)
        if factored is not None:
            return factored
    doubled = replace(precision, products=DOUBLE.products, rows=DOUBLE.rows)
    for attempt in (precision, doubled):
        with np.errstate(over="ignore", invalid="ignore"):
            mean, energy, right = _decompose(values, valid, weights, attempt)
            norm = float(energy.sum()) ** 0.5
        smallest, largest = attempt.range
        if smallest < norm < largest:
            break
    else:
        defect = _find_defect(values, place)
        if defect is not None:
            return _defective(values, defect, place)
        # Points of weight zero may do what they like.
        counted = np.ones(values.shape[1]) if weights is None else weights > 0
        with np.errstate(over="ignore"):
            apart = np.nan_to_num(np.abs(values - values[0]), posinf=np.inf) * counted
        if apart.max(initial=0.0) > 0:
            time, point = np.unravel_index(int(np.argmax(apart)), apart.shape)
            found = Defect(place.start + int(time), "scale", place.row, int(point))
            return _defective(values, found, place)
    kept = kept_columns(energy[None, :], np.array([energy.sum()]), cut, attempt.rounding)
    # No more directions than these are orthogonal to the constant; the next is rounding.
    kept = min(kept, len(values) - 1)
    right = without_constant(right[:, :kept])
    rows = _project(values, mean, float(energy.sum()), valid, right, attempt)
    own = {place.variable: np.diag(energy[:kept])}
    discarded = {place.variable: float(energy[kept:].sum())}
    return RowBlock(mean, rows, valid), TimeFactor(place.start, right, own, discarded)


def _factor_sketched(
    values: Floats,
    valid: Mask | None,
    weights: Floats | None,
    points: slice,
    cut: Cut,
    precision: Precision,
    place: Place,
) -> tuple[RowBlock, TimeFactor] | None:
    """POD with directions found on some of the points, if it stays within the cut on all."""
    m, n = values.shape
    with np.errstate(over="ignore", invalid="ignore"):
        right, far = _sketched_directions(values, valid, weights, points, cut, precision)
    # Anomalies from the first snapshot, which are exact, where the mean would drown them.
    direct = valid is None and values.dtype == precision.products and not far
    reference = None if direct else values[0]
    mean = np.empty(n)
    # Not 1 / m, whose rounding would reach the energy of the mean in full.
    ones = np.ones(m, precision.products)
    energy = 0.0

    def anomalies() -> Iterator[tuple[slice, Floats]]:
        nonlocal energy
        for span in panels(n, m):
            panel = anomalies_on(values, reference, valid, span, precision.products)
            mean[span] = ones @ panel
            scaled = panel if weights is None else panel * weights[span].astype(panel.dtype)
            energy += float(np.vecdot(scaled, panel).sum(dtype=np.float64))
            yield span, panel

    with np.errstate(over="ignore", invalid="ignore"):
        rows, gram = rotated(anomalies(), right, n, weights, precision)
        mean /= m
        offset = m * float(np.vdot(mean if weights is None else weights * mean, mean))
        total = max(energy - offset, 0.0)
    smallest, largest = precision.range
    # A mean far from the reference would drown the fluctuation in rounding.
    if not smallest < total**0.5 < largest or energy > 10 * total:
        return None
    missed = total - float(np.trace(gram))
    if not suffices(missed, total, gram, cut, precision):
        return None
    if reference is not None:
        mean += reference if valid is None else np.where(valid, reference, 0)
    own, lost = {place.variable: gram}, {place.variable: max(missed, 0.0)}
    return RowBlock(mean, rows, valid), TimeFactor(place.start, right, own, lost)


def _sketched_directions(
    values: Floats,
    valid: Mask | None,
    weights: Floats | None,
    points: slice,
    cut: Cut,
    precision: Precision,
) -> tuple[Matrix, bool]:
    """Directions (m, k) that `points` ask for, and whether the mean far outweighs the rest."""
    seen = values[:, points].astype(np.float64)
    if valid is not None:
        seen = np.where(valid[points], seen, 0.0)
    mean = seen.mean(axis=0)
    seen -= mean
    if weights is not None:
        seen *= (root := np.sqrt(weights[points]))
        mean *= root
    directions, energy, _ = centred_spectrum(seen @ seen.T, len(values), precision)
    sharp = cut.split(SHARPNESS)
    kept = kept_columns(energy[None, :], np.array([energy.sum()]), sharp, precision.rounding)
    offset = len(values) * float(mean @ mean)
    right = without_constant(directions[:, : min(kept, len(values) - 1)])
    return right, offset > 4 * float(energy.sum())


def _decompose(
    values: Floats, valid: Mask | None, weights: Floats | None, precision: Precision
) -> tuple[Matrix, Matrix, Matrix]:
    """Mean (n,), energies (K,) and directions in time (m, K) of a block about its mean.

    Anomalies are taken from the first snapshot before anything is rounded, so a large
    offset costs no accuracy and a constant point comes out exactly constant. What is left
    of the mean goes in the small space, unless it outweighs the fluctuation.
    """
    m = len(values)
    mean, product = _product_about(values, values[0], valid, weights, precision)
    right, shares, offset = centred_spectrum(product, m, precision)
    if offset > 10 * shares.sum():
        mean, product = _product_about(values, mean, valid, weights, precision)
        right, shares, _ = centred_spectrum(product, m, precision)
    return mean, shares, right


def _product_about(
    values: Floats,
    reference: Floats,
    valid: Mask | None,
    weights: Floats | None,
    precision: Precision,
) -> tuple[Matrix, Matrix]:
    """Mean (n,) of a block and the inner product of its differences from `reference`."""
    m, n = values.shape
    mean = np.empty(n)
    average = np.full(m, 1 / m, precision.products)

    def anomalies() -> Iterator[tuple[slice, Floats]]:
        for span in panels(n, m):
            panel = anomalies_on(values, reference, valid, span, precision.products)
            mean[span] = average @ panel
            yield span, panel

    product = inner_product(anomalies(), m, weights, precision)
    return mean + (reference if valid is None else np.where(valid, reference, 0)), product


def centred_spectrum(product: Matrix, m: int, precision: Precision) -> tuple[Matrix, Matrix, float]:
    """Directions and energies after removal of the mean, and the energy of the mean."""
    constant = product.sum(axis=1)
    if precision.householder:
        offset = float(constant @ constant) / m
        centred = product - product.mean(axis=1, keepdims=True)
    else:
        offset = float(constant.sum()) / m
        centred = product - product.mean(axis=0) - product.mean(axis=1, keepdims=True)
        centred += product.mean()
    # Sums may overflow where what is summed does not.
    if not np.isfinite(centred).all():
        return np.zeros((m, 1)), np.array([np.nan]), 0.0
    right, shares = spectrum({0: centred}, {0: 1.0}, precision)
    return right, shares[0], offset


def anomalies_on(
    values: Floats,
    reference: Floats | None,
    valid: Mask | None,
    span: slice,
    dtype: np.dtype[Any],
) -> Floats:
    """Differences from `reference` (None: 0) on a panel of points, 0 where masked."""
    panel = values[:, span]
    if reference is not None:
        wide = np.result_type(values, dtype)
        panel = np.subtract(panel, reference[span], dtype=wide, casting="same_kind")
    if valid is not None:
        panel = np.where(valid[span], panel, panel.dtype.type(0))
    return panel.astype(dtype, copy=False)


def _project(
    values: Floats,
    mean: Matrix,
    energy: float,
    valid: Mask | None,
    right: Matrix,
    precision: Precision,
) -> Floats:
    """Rows right^T X. `right` is orthogonal to the constant, so any reference will do.

    None at all is fastest; it costs digits where the values are large beside the
    fluctuation, of norm ``sqrt(energy)``.
    """
    dtype = np.result_type(precision.products, precision.rows)
    turn = np.ascontiguousarray(right.T, dtype)
    with np.errstate(over="ignore"):
        offset = len(values) * float(mean @ mean)
    if valid is None and values.dtype == dtype and offset <= 100 * energy < np.inf:
        return (turn @ values).astype(precision.rows, copy=False)
    rows = np.empty((right.shape[1], values.shape[1]), precision.rows)
    for span in panels(values.shape[1], len(values)):
        rows[:, span] = turn @ anomalies_on(values, values[0], valid, span, dtype)
    return rows


def _find_defect(values: Floats, place: Place) -> Defect | None:
    """Earliest infinite value, or earliest change of the mask, of a block."""
    mask = np.isnan(values[0])
    for time, snapshot in enumerate(values):
        for kind, points in (
            ("inf", np.isinf(snapshot)),
            ("appears", np.isnan(snapshot) & ~mask),
            ("vanishes", mask & ~np.isnan(snapshot)),
        ):
            if points.any():
                return Defect(place.start + time, kind, place.row, int(np.argmax(points)))
    return None


def _defective(values: Floats, defect: Defect | None, place: Place) -> tuple[RowBlock, TimeFactor]:
    """Empty factors that carry a defect up the tree."""
    m, n = values.shape
    variable = place.variable
    factor = TimeFactor(
        place.start,
        np.zeros((m, 0)),
        {variable: np.zeros((0, 0))},
        {variable: 0.0},
        defect=defect,
    )
    # With its mask, or merging would take the block for one where NaN comes and goes.
    valid = ~np.isnan(values[0])
    return RowBlock(np.zeros(n), np.zeros((0, n), values.dtype), valid), factor


def _factor_pieces(
    values: Floats, weights: Floats | None, cut: Cut, precision: Precision, place: Place
) -> tuple[RowBlock, TimeFactor]:
    """`factor_block` of a long block: pieces in time, then one merge."""
    pieces = -(-len(values) // SNAPSHOTS_AT_ONCE)
    bounds = [len(values) * i // pieces for i in range(pieces + 1)]
    factors = [
        factor_block(
            values[a:b], weights, cut.split(2), precision, replace(place, start=place.start + a)
        )
        for a, b in pairwise(bounds)
    ]
    blocks, parts = zip(*factors, strict=True)
    return merge_in_time(blocks, parts, weights, cut.split(2), precision, place)

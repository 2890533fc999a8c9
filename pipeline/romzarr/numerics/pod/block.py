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
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from romzarr.contracts import Floats, Mask, Matrix
from romzarr.inner_product import InnerProduct
from romzarr.numerics.gaps import fill_value_in
from romzarr.numerics.pod.factors import Defect, Factored, Place, RowBlock, TimeFactor
from romzarr.numerics.pod.gram import Gram
from romzarr.numerics.pod.inner_products import (
    DOUBLE,
    Precision,
    affordable,
    least_work,
    panels,
    product_of_panels,
    spectrum,
)
from romzarr.numerics.pod.merge import merge_in_time, without_constant
from romzarr.numerics.pod.sketch import SHARPNESS, rotated, sparse_points, suffices
from romzarr.numerics.pod.truncation import Cut, kept_columns, widened

# Snapshots factored together at most: beyond this the square of their number costs more
# than factoring halves and merging them does.
SNAPSHOTS_AT_ONCE = 256


def factor_block(
    values: Floats, inner: InnerProduct, cut: Cut, precision: Precision, place: Place
) -> Factored:
    """POD of one block of one variable about its own mean.

    Parameters
    ----------
    values : (m, n) float
        Snapshots by rows; NaN marks masked points, which must be the same at all times.
    inner : InnerProduct
        Of points (n,).
    cut : Cut
        How much of the block's own energy may be dropped.
    precision : Precision
    place : Place

    Returns
    -------
    RowBlock, TimeFactor
        With ``defect`` set, and nothing else of use, where values are infinite or fill values, the
        mask moves, or fluctuations are so large or small that their squares leave float64. Besides
        `values`, memory for the rows and a few panels is used.
    """
    if min(values.shape) > SNAPSHOTS_AT_ONCE:
        return _factor_pieces(values, inner, cut, precision, place)
    precision = affordable(least_work(precision, *values.shape[::-1]), values.size)
    missing = np.isnan(values[0])
    block = _Block(values, ~missing if missing.any() else None, inner)
    if block.valid is not None and not np.isnan(values[:, missing]).all():
        return _defective(values, find_defect(values, place), place)
    if fill_value_in(values) is not None:
        return _defective(values, find_defect(values, place), place)
    points = sparse_points(values.shape[1], len(values)) if precision.sketch else None
    if points is not None:
        factored = _factor_sketched(block, points, cut, precision, place)
        if factored is not None:
            return factored
    doubled = replace(precision, products=DOUBLE.products, rows=DOUBLE.rows)
    for attempt in (precision, doubled):
        with np.errstate(over="ignore", invalid="ignore"):
            mean, energy, right = _decompose(block, attempt)
            norm = float(energy.sum()) ** 0.5
        smallest, largest = attempt.range
        if smallest < norm < largest:
            break
    else:
        defect = find_defect(values, place)
        if defect is not None:
            return _defective(values, defect, place)
        # Points of weight zero may do what they like.
        counted = inner.weighted(np.ones(values.shape[1])) > 0
        with np.errstate(over="ignore"):
            apart = np.nan_to_num(np.abs(values - values[0]), posinf=np.inf) * counted
        if apart.max(initial=0.0) > 0:
            time, point = np.unravel_index(int(np.argmax(apart)), apart.shape)
            found = Defect(place.start + int(time), "scale", place.row, int(point))
            return _defective(values, found, place)
    total = np.array([energy.sum()])
    cut = widened(energy[None, :], total, cut, attempt.rounding)
    kept = kept_columns(energy[None, :], total, cut, attempt.rounding)
    # No more directions than these are orthogonal to the constant; the next is rounding.
    kept = min(kept, len(values) - 1)
    right = without_constant(right[:, :kept])
    rows = _project(block, mean, float(energy.sum()), right, attempt)
    own = {place.variable: Gram(np.diag(energy[:kept]))}
    discarded = {place.variable: float(energy[kept:].sum())}
    return RowBlock(mean, rows, block.valid), TimeFactor(place.start, right, own, discarded)


@dataclass(frozen=True)
class _Block:
    """Snapshots by rows (m, n), the points that are ``valid`` (None: all), and how they count."""

    values: Floats
    valid: Mask | None
    inner: InnerProduct

    def anomalies(
        self, reference: Floats | None, dtype: np.dtype[Any]
    ) -> Iterator[tuple[slice, Floats]]:
        """Differences from `reference` (None: 0) on one panel of points after the other.

        They are 0 where masked.
        """
        for span in panels(*self.values.shape[::-1]):
            panel = self.values[:, span]
            if reference is not None:
                wide = np.result_type(self.values, dtype)
                panel = np.subtract(panel, reference[span], dtype=wide, casting="same_kind")
            if self.valid is not None:
                panel = np.where(self.valid[span], panel, panel.dtype.type(0))
            yield span, panel.astype(dtype, copy=False)

    def with_reference(self, mean: Matrix, reference: Floats) -> Matrix:
        """The mean (n,) of the values from that of the anomalies; 0 where masked."""
        return mean + (reference if self.valid is None else np.where(self.valid, reference, 0))


def _factor_sketched(
    block: _Block, points: slice, cut: Cut, precision: Precision, place: Place
) -> Factored | None:
    """POD with directions found on some of the points, if it stays within the cut on all."""
    m, n = block.values.shape
    with np.errstate(over="ignore", invalid="ignore"):
        right, far, cut = _sketched_directions(block, points, cut, precision)
    # Anomalies from the first snapshot, which are exact, where the mean would drown them.
    direct = block.valid is None and block.values.dtype == precision.products and not far
    reference = None if direct else block.values[0]
    mean = np.empty(n)
    # Not 1 / m, whose rounding would reach the energy of the mean in full.
    ones = np.ones(m, precision.products)
    energy = 0.0

    def anomalies() -> Iterator[tuple[slice, Floats]]:
        nonlocal energy
        for span, panel in block.anomalies(reference, precision.products):
            mean[span] = ones @ panel
            energy += float(block.inner.on(span).squares(panel).sum(dtype=np.float64))
            yield span, panel

    with np.errstate(over="ignore", invalid="ignore"):
        rows, gram = rotated(anomalies(), right, n, block.inner, precision)
        mean /= m
        total = max(energy - m * float(block.inner.squares(mean)), 0.0)
    smallest, largest = precision.range
    # A mean far from the reference would drown the fluctuation in rounding.
    if not smallest < total**0.5 < largest or energy > 10 * total:
        return None
    missed = total - float(np.trace(gram))
    if not suffices(missed, total, gram, cut, precision):
        return None
    if reference is not None:
        mean = block.with_reference(mean, reference)
    own, lost = {place.variable: Gram(gram)}, {place.variable: max(missed, 0.0)}
    return RowBlock(mean, rows, block.valid), TimeFactor(place.start, right, own, lost)


def _sketched_directions(
    block: _Block, points: slice, cut: Cut, precision: Precision
) -> tuple[Matrix, bool, Cut]:
    """Directions (m, k) that `points` ask for, whether the mean far outweighs the rest, and the
    cut that is taken."""
    seen = block.values[:, points].astype(np.float64)
    if block.valid is not None:
        seen = np.where(block.valid[points], seen, 0.0)
    mean = seen.mean(axis=0)
    seen -= mean
    inner = block.inner.on(points)
    seen, mean, m = inner.rooted(seen), inner.rooted(mean), len(seen)
    directions, energy, _ = centred_spectrum(seen @ seen.T, m, precision)
    total = np.array([energy.sum()])
    sharp = widened(energy[None, :], total, cut.split(SHARPNESS), precision.rounding)
    kept = kept_columns(energy[None, :], total, sharp, precision.rounding)
    right = without_constant(directions[:, : min(kept, m - 1)])
    far = m * float(mean @ mean) > 4 * float(energy.sum())
    return right, far, sharp.split(1 / SHARPNESS)


def _decompose(block: _Block, precision: Precision) -> tuple[Matrix, Matrix, Matrix]:
    """Mean (n,), energies (K,) and directions in time (m, K) of a block about its mean.

    Anomalies are taken from the first snapshot before anything is rounded, so a large
    offset costs no accuracy and a constant point comes out exactly constant. What is left
    of the mean goes in the small space, unless it outweighs the fluctuation.
    """
    m = len(block.values)
    mean, product = _product_about(block.values[0], block, precision)
    right, shares, offset = centred_spectrum(product, m, precision)
    if offset > 10 * shares.sum():
        mean, product = _product_about(mean, block, precision)
        right, shares, _ = centred_spectrum(product, m, precision)
    return mean, shares, right


def _product_about(reference: Floats, block: _Block, precision: Precision) -> tuple[Matrix, Matrix]:
    """Mean (n,) of a block and the inner product of its differences from `reference`."""
    m, n = block.values.shape
    mean = np.empty(n)
    average = np.full(m, 1 / m, precision.products)

    def anomalies() -> Iterator[tuple[slice, Floats]]:
        for span, panel in block.anomalies(reference, precision.products):
            mean[span] = average @ panel
            yield span, panel

    product = product_of_panels(anomalies(), m, block.inner, precision)
    return block.with_reference(mean, reference), product


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
    right, shares = spectrum({0: Gram(centred, precision.householder)}, {0: 1.0}, precision)
    return right, shares[0], offset


def _project(
    block: _Block, mean: Matrix, energy: float, right: Matrix, precision: Precision
) -> Floats:
    """Rows right^T X. `right` is orthogonal to the constant, so any reference will do.

    None at all is fastest; it costs digits where the values are large beside the
    fluctuation, of norm ``sqrt(energy)``.
    """
    values = block.values
    dtype = np.result_type(precision.products, precision.rows)
    turn = np.ascontiguousarray(right.T, dtype)
    with np.errstate(over="ignore"):
        offset = len(values) * float(mean @ mean)
    if block.valid is None and values.dtype == dtype and offset <= 100 * energy < np.inf:
        return (turn @ values).astype(precision.rows, copy=False)
    rows = np.empty((right.shape[1], values.shape[1]), precision.rows)
    for span, panel in block.anomalies(values[0], dtype):
        rows[:, span] = turn @ panel
    return rows


def find_defect(values: Floats, place: Place) -> Defect | None:
    """Earliest infinite or fill value, or earliest change of the mask, of a block."""
    mask, fill = np.isnan(values[0]), fill_value_in(values)
    for time, snapshot in enumerate(values):
        for kind, points in (
            ("inf", np.isinf(snapshot)),
            ("fill", snapshot == fill),
            ("appears", np.isnan(snapshot) & ~mask),
            ("vanishes", mask & ~np.isnan(snapshot)),
        ):
            if points.any():
                return Defect(place.start + time, kind, place.row, int(np.argmax(points)))
    return None


def _defective(values: Floats, defect: Defect | None, place: Place) -> Factored:
    """Empty factors that carry a defect up the tree."""
    m, n = values.shape
    variable = place.variable
    factor = TimeFactor(
        place.start,
        np.zeros((m, 0)),
        {variable: Gram(np.zeros((0, 0)))},
        {variable: 0.0},
        defect=defect,
    )
    # With its mask, or merging would take the block for one where NaN comes and goes.
    valid = ~np.isnan(values[0])
    return RowBlock(np.zeros(n), np.zeros((0, n), values.dtype), valid), factor


def _factor_pieces(
    values: Floats, inner: InnerProduct, cut: Cut, precision: Precision, place: Place
) -> Factored:
    """`factor_block` of a long block: pieces in time, then one merge."""
    pieces = -(-len(values) // SNAPSHOTS_AT_ONCE)
    bounds = [len(values) * i // pieces for i in range(pieces + 1)]
    factors = [
        factor_block(
            values[a:b], inner, cut.split(2), precision, replace(place, start=place.start + a)
        )
        for a, b in pairwise(bounds)
    ]
    return merge_in_time(factors, inner, cut.split(2), precision, place)

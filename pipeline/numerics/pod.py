"""Proper orthogonal decomposition of blocks, and its merging over space and time.

A block of snapshots X (m snapshots of n points, snapshots by rows) is kept as
``X ~ 1 mean^T + right rows``:

* ``right`` (m, k): orthonormal columns, each orthogonal to the constant;
* ``rows`` (k, n): ``right^T X``, the POD modes times their singular values;
* ``mean`` (n,): the temporal mean.

The rows live in the units of the variable. Weights and the scale of the variable enter in
the inner product alone, so points of zero weight are reconstructed like all others.

Every cut drops columns of an orthonormal ``right``, and later merges only rotate the kept
ones; so the energies of all cuts add exactly (Pythagoras in the space of snapshots). This
is hierarchical approximate POD [1]_ with its error known rather than estimated.

References
----------
.. [1] C. Himpe, T. Leibner, S. Rave, "Hierarchical approximate proper orthogonal
   decomposition", SIAM J. Sci. Comput. 40 (2018) A3267-A3292, Algorithm 1, Theorem 3.2.
.. [2] L. Sirovich, "Turbulence and the dynamics of coherent structures", Quart. Appl.
   Math. 45 (1987) 561-571. The method of snapshots (Gram kernels).
.. [3] J. Demmel, L. Grigori, M. Hoemmen, J. Langou, "Communication-optimal parallel and
   sequential QR and LU factorizations", SIAM J. Sci. Comput. 34 (2012) A206-A239
   (Householder kernels, one panel of points after the other).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from pipeline.contracts import Floats
from pipeline.errors import ArchiveError
from pipeline.numerics.truncation import Cut, kept_columns

Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]

# Snapshots factored together at most: beyond this the square of their number costs more
# than factoring halves and merging them does.
SNAPSHOTS_AT_ONCE = 256
# Squares of smaller or larger fluctuations leave the range of the dtype of the products.
RANGE = {np.dtype(np.float32): (1e-15, 1e15), np.dtype(np.float64): (1e-140, 1e140)}


@dataclass(frozen=True)
class Precision:
    """How a POD is computed.

    ``products``: dtype of the panel products that are summed into float64 Gram matrices;
    ``rows``: dtype in which rows are kept; ``householder``: QR instead of Gram matrices,
    for singular values below about 1e-8 of the first, which squaring would lose.
    """

    products: np.dtype[Any]
    rows: np.dtype[Any]
    householder: bool = False

    @property
    def rounding(self) -> float:
        """Energies under this share of the largest are rounding."""
        return 1e-30 if self.householder else 1e-15


DOUBLE = Precision(np.dtype(np.float64), np.dtype(np.float64))


def choose_precision(dtypes: Sequence[np.dtype[Any]], tolerance: float | None) -> Precision:
    """Cheapest arithmetic whose rounding stays far below `tolerance`.

    Products of float32 panels summed in float64 are good to about 1e-7 of the energy, hence
    to errors of 5e-3; float64 Gram matrices to about 1e-15 of the energy, hence to 1e-5;
    below that Householder QR. Without a tolerance (a rank is given) float64 input asks for
    Householder QR and float32 input for float64 Gram matrices.
    """
    f4, f8 = np.dtype(np.float32), np.dtype(np.float64)
    double = any(dtype.itemsize > 4 for dtype in dtypes)
    if tolerance is None:
        return Precision(f8, f8, householder=True) if double else Precision(f8, f4)
    if tolerance >= 5e-3:
        return Precision(f4, f4)
    if tolerance >= 1e-3:
        return Precision(f8, f4)
    return Precision(f8, f8, householder=tolerance < 1e-5)


@dataclass(frozen=True)
class Defect:
    """First place at which the data cannot be compressed.

    ``kind`` is "inf", or "appears" / "vanishes" for NaN that comes and goes; ``time`` the
    snapshot of the record, ``row`` the row block, ``point`` the flat index in it.
    """

    time: int
    kind: str
    row: int
    point: int


@dataclass(frozen=True)
class RowBlock:
    """Space part of a factorisation: mean (n,) float64 and rows (k, n).

    ``valid`` marks points that hold numbers (None: all do); the others are 0 here.
    """

    mean: Matrix
    rows: Floats
    valid: Mask | None = None


@dataclass(frozen=True)
class TimeFactor:
    """Time part of a factorisation, and what it cost.

    ``start`` is the first snapshot, ``right`` (m, k). By variable, in its own units squared:
    ``gram`` (k, k) the inner products of the rows, ``discarded`` what the cuts dropped.
    """

    start: int
    right: Matrix
    gram: Mapping[int, Matrix]
    discarded: Mapping[int, float]
    defect: Defect | None = None
    bytes_read: int = 0
    chunks_read: int = 0

    @property
    def snapshots(self) -> int:
        return len(self.right)


# --- inner products over panels of points -------------------------------------------------


def panels(points: int, height: int) -> Iterator[slice]:
    """Ranges of points such that a (height, range) panel fits a core's cache."""
    width = int(np.clip(2**19 // max(height, 1), 512, 8192))
    for start in range(0, points, width):
        yield slice(start, min(start + width, points))


def inner_product(
    rows: Iterable[tuple[slice, Floats]],
    height: int,
    weights: Floats | None,
    precision: Precision,
) -> Matrix:
    """Gram matrix P P^T, or R with R^T R = P P^T, of P (height, n) given by panels."""
    total = np.zeros((0 if precision.householder else height, height))
    for span, panel in rows:
        if precision.householder:
            root = 1.0 if weights is None else np.sqrt(weights[span])
            total = _r_factor(np.vstack([total, (panel * root).T]))
        elif weights is None:
            total += panel @ panel.T
        else:
            total += (panel * weights[span].astype(panel.dtype)) @ panel.T
    return total


def _r_factor(matrix: Matrix) -> Matrix:
    """R of a QR factorisation, without the checks and copies of NumPy's."""
    r: Matrix = scipy.linalg.qr(matrix, mode="r", overwrite_a=True, check_finite=False)[0]
    return r[: min(matrix.shape)]


def add_products(products: Sequence[Matrix], precision: Precision) -> Matrix:
    """Inner product of a union of points: Gram matrices add, R factors stack."""
    if precision.householder:
        return _r_factor(np.vstack(products))
    return np.sum(products, axis=0)


def spectrum(
    products: Mapping[int, Matrix], scales: Mapping[int, float], precision: Precision
) -> tuple[Matrix, Matrix]:
    """Directions of the joint inner product, and the energy of each in every variable.

    Returns
    -------
    directions : (K, K') orthonormal columns, largest joint energy first
    shares : (V, K') energies in each variable's own units squared, in the order of `products`
    """
    if precision.householder:
        stacked = np.vstack([np.sqrt(scales[v]) * r for v, r in products.items()])
        directions = scipy.linalg.svd(stacked, full_matrices=False, check_finite=False)[2].T
        shares = [np.sum((r @ directions) ** 2, axis=0) for r in products.values()]
    else:
        joint = np.sum([scales[v] * gram for v, gram in products.items()], axis=0)
        directions = scipy.linalg.eigh(joint, check_finite=False)[1][:, ::-1]
        shares = [
            np.maximum(np.einsum("ij,ij->j", directions, gram @ directions), 0.0)
            for gram in products.values()
        ]
    return np.ascontiguousarray(directions), np.array(shares)


# --- one block of one variable ------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where a block lies: variable number, row block number, first snapshot."""

    variable: int
    row: int
    start: int


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
        With ``defect`` set, and nothing else of use, where values are infinite or the mask
        moves. Besides `values`, memory for the rows and a few panels is used.

    Raises
    ------
    ArchiveError
        If fluctuations are so large or small that their squares leave float64.
    """
    if min(values.shape) > SNAPSHOTS_AT_ONCE:
        return _factor_pieces(values, weights, cut, precision, place)
    missing = np.isnan(values[0])
    valid = ~missing if missing.any() else None
    doubled = replace(precision, products=DOUBLE.products, rows=DOUBLE.rows)
    for attempt in (precision, doubled):
        with np.errstate(over="ignore", invalid="ignore"):
            mean, energy, right = _decompose(values, valid, weights, attempt)
        norm = float(energy.sum()) ** 0.5
        smallest, largest = RANGE[attempt.products]
        if smallest < norm < largest:
            break
    else:
        defect = _find_defect(values, place)
        if defect is not None:
            return _defective(values, defect, place)
        if np.nanmax(np.abs(values - values[0]), initial=0.0) > 0:
            raise ArchiveError(
                f"variable {place.variable}: fluctuations of norm {norm:g} cannot be squared in "
                f"float64; multiply the variable by a power of ten before compressing"
            )
    if valid is not None and not np.isnan(values[:, missing]).all():
        return _defective(values, _find_defect(values, place), place)
    kept = kept_columns(energy[None, :], np.array([energy.sum()]), cut, attempt.rounding)
    right = _without_constant(right[:, :kept])
    rows = _project(values, mean, float(energy.sum()), valid, right, attempt)
    own = {place.variable: np.diag(energy[:kept])}
    discarded = {place.variable: float(energy[kept:].sum())}
    return RowBlock(mean, rows, valid), TimeFactor(place.start, right, own, discarded)


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
    right, shares, offset = _centred_spectrum(product, m, precision)
    if offset > 10 * shares.sum():
        mean, product = _product_about(values, mean, valid, weights, precision)
        right, shares, _ = _centred_spectrum(product, m, precision)
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
            panel = _anomalies(values, reference, valid, span, precision.products)
            mean[span] = average @ panel
            yield span, panel

    product = inner_product(anomalies(), m, weights, precision)
    return mean + (reference if valid is None else np.where(valid, reference, 0)), product


def _centred_spectrum(
    product: Matrix, m: int, precision: Precision
) -> tuple[Matrix, Matrix, float]:
    """Directions and energies after removal of the mean, and the energy of the mean."""
    if not np.isfinite(product).all():
        return np.zeros((m, 1)), np.array([np.nan]), 0.0
    constant = product.sum(axis=1)
    if precision.householder:
        offset = float(constant @ constant) / m
        centred = product - product.mean(axis=1, keepdims=True)
    else:
        offset = float(constant.sum()) / m
        centred = product - product.mean(axis=0) - product.mean(axis=1, keepdims=True)
        centred += product.mean()
    right, shares = spectrum({0: centred}, {0: 1.0}, precision)
    return right, shares[0], offset


def _anomalies(
    values: Floats,
    reference: Floats,
    valid: Mask | None,
    span: slice,
    dtype: np.dtype[Any],
) -> Floats:
    """Differences from `reference` on a panel of points, 0 where masked."""
    wide = np.result_type(values, dtype)
    panel = np.subtract(values[:, span], reference[span], dtype=wide, casting="same_kind")
    if valid is not None:
        panel[:, ~valid[span]] = 0
    return panel.astype(dtype, copy=False)


def _without_constant(right: Matrix) -> Matrix:
    """Orthonormal columns orthogonal to the constant, to rounding of the projection."""
    if not right.size:
        return right
    return np.asarray(np.linalg.qr(right - right.mean(axis=0))[0])


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
    offset = len(values) * float(mean @ mean)
    if valid is None and values.dtype == dtype and offset <= 100 * energy:
        return (turn @ values).astype(precision.rows, copy=False)
    rows = np.empty((right.shape[1], values.shape[1]), precision.rows)
    for span in panels(values.shape[1], len(values)):
        rows[:, span] = turn @ _anomalies(values, values[0], valid, span, dtype)
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
        place.start, np.zeros((m, 0)), {variable: np.zeros((0, 0))}, {variable: 0.0}, defect
    )
    return RowBlock(np.zeros(n), np.zeros((0, n), values.dtype)), factor


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
    scales = {place.variable: 1.0}
    return merge_in_time(
        [f[0] for f in factors],
        [f[1] for f in factors],
        place.variable,
        weights,
        scales,
        cut.split(2),
        precision,
        place.row,
    )


# --- merging ------------------------------------------------------------------------------


def merge_in_space(
    parts: Sequence[tuple[int, TimeFactor]],
    scales: Mapping[int, float],
    cut: Cut,
    precision: Precision,
) -> TimeFactor:
    """Joint time factor of the row blocks of one time block.

    Only the small factors are needed: the rows of a part are orthogonal in the weighted
    inner product, so the stack of their norms times ``right^T`` has the joint right singular vectors.

    Parameters
    ----------
    parts : sequence of (variable, TimeFactor)
        One per row block, over the same snapshots.
    scales : mapping from variable to the factor on its energies
    cut : Cut
    precision : Precision
    """
    defects = [f.defect for _, f in parts if f.defect is not None]
    first = parts[0][1]
    stacks: dict[int, list[Matrix]] = {}
    discarded: dict[int, float] = {}
    for variable, factor in parts:
        norms = np.sqrt(factor.gram[variable].diagonal())
        stacks.setdefault(variable, []).append(norms[:, None] * factor.right.T)
        discarded[variable] = discarded.get(variable, 0.0) + factor.discarded[variable]
    small = {v: np.vstack(stack) for v, stack in stacks.items()}
    right, gram, lost = _joint_columns(
        small, scales, cut, replace(precision, householder=True), first.snapshots
    )
    return TimeFactor(
        first.start,
        _without_constant(right),
        gram,
        {v: discarded[v] + lost[v] for v in discarded},
        min(defects, key=lambda d: d.time) if defects else None,
        sum(f.bytes_read for _, f in parts),
        sum(f.chunks_read for _, f in parts),
    )


@dataclass(frozen=True)
class Child:
    """One time block's share of a merge in time, in one row block.

    ``mix`` (k, k_joint) turns its rows into those of the time block's joint columns (None
    where the row block's own columns are the joint ones).
    """

    block: RowBlock
    start: int
    snapshots: int
    mix: Matrix | None = None

    def panel(self, span: slice, mean: Matrix, dtype: np.dtype[Any]) -> Floats:
        """Rows of the joint columns on a panel of points, then that of the shifted mean.

        About the common mean the block is ``[rows; sqrt(m) (own mean - mean)]`` seen
        through the orthonormal columns ``[right, 1 / sqrt(m)]``.
        """
        rows = self.block.rows[:, span].astype(dtype, copy=False)
        if self.mix is not None:
            rows = self.mix.T.astype(dtype) @ rows
        shift = self.snapshots**0.5 * (self.block.mean[span] - mean[span])
        return np.vstack([rows, shift.astype(dtype)[None, :]])

    @property
    def height(self) -> int:
        return (len(self.block.rows) if self.mix is None else self.mix.shape[1]) + 1


def estimate_scales(samples: Sequence[tuple[int, TimeFactor]]) -> dict[int, float]:
    """Reciprocal mean square of each variable, from a few blocks of it.

    Any positive scale is valid; this one weighs variables of different units alike.
    """
    energy: dict[int, float] = {}
    snapshots: dict[int, set[tuple[int, int]]] = {}
    for variable, factor in samples:
        own = float(np.trace(factor.gram[variable])) + factor.discarded[variable]
        energy[variable] = energy.get(variable, 0.0) + own
        snapshots.setdefault(variable, set()).add((factor.start, factor.snapshots))
    return {
        v: sum(m for _, m in snapshots[v]) / energy[v] if energy[v] > 0 else 1.0 for v in energy
    }


def joint_mix(own: TimeFactor, joint: TimeFactor) -> Matrix:
    """What turns a row block's own rows into the rows of the joint columns."""
    return own.right.T @ joint.right


def common_mean(children: Sequence[Child]) -> Matrix:
    """Temporal mean of the union, formed from differences so that offsets cost nothing."""
    total = sum(child.snapshots for child in children)
    first = children[0].block.mean
    shift = sum(c.snapshots / total * (c.block.mean - first) for c in children[1:])
    return first + shift if len(children) > 1 else first


def merge_product(
    children: Sequence[Child], weights: Floats | None, precision: Precision
) -> Matrix:
    """Inner product of the columns of all children about their common mean, on one row block."""
    precision = _wide_enough(children, precision)
    mean = common_mean(children)
    height = sum(child.height for child in children)

    def stacked() -> Iterator[tuple[slice, Floats]]:
        for span in panels(len(mean), height):
            yield span, np.vstack([c.panel(span, mean, precision.products) for c in children])

    return inner_product(stacked(), height, weights, precision)


def merge_rows(children: Sequence[Child], turn: Matrix, precision: Precision) -> RowBlock:
    """Mean and rows of the union, for the columns that `turn` (K, k) has chosen."""
    precision = _wide_enough(children, precision)
    mean = common_mean(children)
    rows = np.empty((turn.shape[1], len(mean)), precision.rows)
    transposed = np.ascontiguousarray(turn.T, precision.rows)
    for span in panels(len(mean), len(turn)):
        stacked = np.vstack([c.panel(span, mean, precision.rows) for c in children])
        rows[:, span] = transposed @ stacked
    return RowBlock(mean, rows, children[0].block.valid)


def _wide_enough(children: Sequence[Child], precision: Precision) -> Precision:
    """`precision`, in float64 where a leaf had to leave float32 for its range."""
    kept = np.result_type(*(c.block.rows for c in children))
    if kept == precision.rows or kept.itemsize <= 4:
        return precision
    return replace(precision, products=DOUBLE.products, rows=DOUBLE.rows)


def mask_defect(children: Sequence[Child], row: int) -> Defect | None:
    """First change of the mask from one time block to the next."""
    for before, after in pairwise(children):
        old, new = before.block.valid, after.block.valid
        if old is None and new is None:
            continue
        n = len(before.block.mean)
        old = np.ones(n, bool) if old is None else old
        new = np.ones(n, bool) if new is None else new
        if (changed := old != new).any():
            point = int(np.argmax(changed))
            return Defect(after.start, "vanishes" if new[point] else "appears", row, point)
    return None


def merge_factors(
    factors: Sequence[TimeFactor],
    products: Mapping[int, Matrix],
    scales: Mapping[int, float],
    cut: Cut,
    precision: Precision,
    defects: Sequence[Defect | None] = (),
) -> tuple[TimeFactor, Matrix]:
    """Time factor of consecutive time blocks from the inner products of their columns.

    Returns
    -------
    TimeFactor
    turn : (K, k) the directions kept, for `merge_rows`
    """
    found = [d for d in (*defects, *(f.defect for f in factors)) if d is not None]
    turn, gram, lost = _joint_columns(
        products, scales, cut, precision, sum(f.snapshots for f in factors)
    )
    offsets = np.cumsum([0, *(f.right.shape[1] + 1 for f in factors)])
    pieces = []
    for factor, (a, b) in zip(factors, pairwise(offsets), strict=True):
        constant = turn[b - 1] / factor.snapshots**0.5
        pieces.append(factor.right @ turn[a : b - 1] + constant)
    merged = TimeFactor(
        factors[0].start,
        np.vstack(pieces),
        gram,
        {v: lost.get(v, 0.0) + sum(f.discarded.get(v, 0.0) for f in factors) for v in products},
        min(found, key=lambda d: d.time) if found else None,
        sum(f.bytes_read for f in factors),
        sum(f.chunks_read for f in factors),
    )
    return merged, turn


def _joint_columns(
    products: Mapping[int, Matrix],
    scales: Mapping[int, float],
    cut: Cut,
    precision: Precision,
    snapshots: int,
) -> tuple[Matrix, dict[int, Matrix], dict[int, float]]:
    """Directions kept, the inner products they keep and the energy they lose by variable."""
    turn, own = spectrum(products, scales, precision)
    scale = np.array([scales[v] for v in products])
    shares = own * scale[:, None]
    totals = shares.sum(axis=1)
    if len(totals) > 1:
        # Scaled variables have unit variance on average. One that is quiet for a while may
        # lose a share of that average, not only of the little it does here.
        totals = np.maximum(totals, snapshots / 4)
    kept = kept_columns(shares, totals, cut, precision.rounding)
    lost = {v: float(own[i, kept:].sum()) for i, v in enumerate(products)}
    turn = turn[:, :kept]
    if precision.householder:
        gram = {v: (r @ turn).T @ (r @ turn) for v, r in products.items()}
    else:
        gram = {v: turn.T @ g @ turn for v, g in products.items()}
    return turn, gram, lost


def merge_in_time(
    blocks: Sequence[RowBlock],
    factors: Sequence[TimeFactor],
    variable: int,
    weights: Floats | None,
    scales: Mapping[int, float],
    cut: Cut,
    precision: Precision,
    row: int,
) -> tuple[RowBlock, TimeFactor]:
    """Merge consecutive time blocks of a single row block in one step."""
    children = [
        Child(block, factor.start, factor.snapshots)
        for block, factor in zip(blocks, factors, strict=True)
    ]
    defect = mask_defect(children, row)
    product = merge_product(children, weights, precision)
    factor, turn = merge_factors(factors, {variable: product}, scales, cut, precision, [defect])
    return merge_rows(children, turn, precision), factor

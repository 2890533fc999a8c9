"""Merging of factored blocks: over the space blocks of one time, and over time.

Only the small factors decide what is kept; rows follow by one rotation. See
pipeline/romzarr/numerics/pod/factors.py for what a factored block is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from romzarr.contracts import Floats, Matrix, ReadCost
from romzarr.inner_product import InnerProduct
from romzarr.numerics.pod.factors import (
    Defect,
    Factored,
    LongTime,
    Place,
    RowBlock,
    TimeFactor,
)
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
from romzarr.numerics.pod.sketch import SHARPNESS, rotated, sparse_points, suffices
from romzarr.numerics.pod.truncation import Cut, kept_columns, widened


def merge_in_space(
    factors: Sequence[TimeFactor],
    variables: Sequence[int],
    scales: Mapping[int, float],
    cut: Cut,
    precision: Precision,
) -> TimeFactor:
    """Joint time factor of the row blocks of one time block.

    Only the small factors are needed: with the inner products G of the rows of each part,
    the stack of ``G^(1/2) right^T`` has the joint right singular vectors.

    Parameters
    ----------
    factors : sequence of TimeFactor
        One per row block, over the same snapshots; of the `variables`.
    variables : sequence of int
    scales : mapping from variable to the factor on its energies
    cut : Cut
    precision : Precision
    """
    stacks: dict[int, list[Matrix]] = {}
    apart: dict[int, float] = {}
    for variable, factor in zip(variables, factors, strict=True):
        stacks.setdefault(variable, []).append(factor.gram[variable].root @ factor.right.T)
        apart[variable] = apart.get(variable, 0.0) + factor.discarded[variable]
    small = {v: Gram(np.vstack(stack), factored=True) for v, stack in stacks.items()}
    right, gram, lost, _ = _joint_columns(
        small, scales, cut, replace(precision, householder=True), np.ones(factors[0].snapshots)
    )
    defect, cost = (
        first_defect(f.defect for f in factors),
        sum((f.cost for f in factors), ReadCost()),
    )
    return TimeFactor(factors[0].start, right, gram, lost, apart, defect, cost)


def first_defect(defects: Iterable[Defect | None]) -> Defect | None:
    """Return the defect that comes first in time."""
    return min((d for d in defects if d is not None), key=lambda d: d.time, default=None)


@dataclass(frozen=True)
class _Stack:
    """Rows of consecutive time blocks, each followed by the shift of its mean.

    About the common mean each block is ``[rows; sqrt(m) (own mean - mean)]`` seen through the
    orthonormal columns ``[right, 1 / sqrt(m)]`` of its time factor.
    ``mixes`` turn the rows of each block into those of the columns of its time factor; without
    one they are.
    """

    mean: Matrix
    rows: Sequence[Floats]
    shifts: Sequence[Matrix]
    mixes: Sequence[Matrix | None]

    @property
    def height(self) -> int:
        """Number of the stacked rows."""
        return sum(len(rows) + 1 for rows in self.rows)

    def panels(self, dtype: np.dtype[np.floating]) -> Iterator[tuple[slice, Floats]]:
        """The stacked rows (height, ...) on one panel of points after the other."""
        for span in panels(len(self.mean), self.height):
            yield span, self.at(span, dtype)

    def at(self, points: slice, dtype: np.dtype[np.floating]) -> Floats:
        """The stacked rows at some of the points."""
        layers = [
            layer[:, points]
            for rows, shift in zip(self.rows, self.shifts, strict=True)
            for layer in (rows, shift[None, :])
        ]
        return np.concatenate(layers, dtype=dtype, casting="same_kind")

    def mixed(self, stacked: Matrix) -> Matrix:
        """What is given for the stacked rows (height, l) for the columns of all time factors.

        These are (K, l), one factor after the other, each followed by its constant.
        """
        return self._each(stacked, [mix if mix is None else mix.T for mix in self.mixes])

    def unmixed(self, turn: Matrix) -> Matrix:
        """The transpose: what is given for the columns (K, l) for the stacked rows."""
        return self._each(turn, self.mixes)

    def _each(self, given: Matrix, factors: Sequence[Matrix | None]) -> Matrix:
        if all(factor is None for factor in factors):
            return given
        parts, start = list[Matrix](), 0
        for factor, rows in zip(factors, self.rows, strict=True):
            stop = start + (len(rows) if factor is None else factor.shape[1])
            part = given[start:stop]
            parts += [part if factor is None else factor @ part, given[stop : stop + 1]]
            start = stop + 1
        return np.vstack(parts)

    def shifted(self, inner: InnerProduct) -> float:
        """Energy of the shifts."""
        return sum(float(inner.squares(shift)) for shift in self.shifts)


def _stacked(pairs: Sequence[Factored]) -> _Stack:
    mean, blocks = common_mean(pairs), [block for block, _ in pairs]
    shifts = [factor.snapshots**0.5 * (block.mean - mean) for block, factor in pairs]
    return _Stack(mean, [b.rows for b in blocks], shifts, [b.mix for b in blocks])


def estimate_scales(factors: Sequence[TimeFactor], variables: Sequence[int]) -> dict[int, float]:
    """Reciprocal mean square of each of the `variables`, from a few blocks of it.

    Any positive scale is valid; this one weighs variables of different units alike.
    """
    energy: dict[int, float] = {}
    snapshots: dict[int, set[tuple[int, int]]] = {}
    for variable, factor in zip(variables, factors, strict=True):
        own = float(factor.gram[variable].energies.sum()) + factor.discarded[variable]
        energy[variable] = energy.get(variable, 0.0) + own
        snapshots.setdefault(variable, set()).add((factor.start, factor.snapshots))
    return {
        v: sum(m for _, m in snapshots[v]) / energy[v] if energy[v] > 0 else 1.0 for v in energy
    }


def onto_joint(block: RowBlock, own: TimeFactor, joint: TimeFactor) -> RowBlock:
    """A row block with columns of its own, seen through the joint columns of its time."""
    return replace(block, mix=own.right.T @ joint.right)


def common_mean(pairs: Sequence[Factored]) -> Matrix:
    """Temporal mean of the union, formed from differences so that offsets cost nothing."""
    total = sum(factor.snapshots for _, factor in pairs)
    first = pairs[0][0].mean
    shift = sum(factor.snapshots / total * (block.mean - first) for block, factor in pairs[1:])
    return first + shift if len(pairs) > 1 else first


def merge_product(pairs: Sequence[Factored], inner: InnerProduct, precision: Precision) -> Gram:
    """Inner product of the columns of all blocks about their common mean, on one row block."""
    stack = _stacked(pairs)
    if len(stack.mean) < stack.height:
        rows = np.asarray(stack.at(slice(None), DOUBLE.products), np.float64)
        return Gram(stack.mixed(inner.rooted(rows)).T, factored=True)
    precision = affordable(_wide_enough(pairs, precision), stack.height * len(stack.mean))
    panels = stack.panels(precision.products)
    product = product_of_panels(panels, stack.height, inner, precision)
    right = stack.mixed(product.T).T
    if precision.householder:
        return Gram(right, factored=True)
    return Gram(stack.mixed(right))


def merge_rows(pairs: Sequence[Factored], turn: Matrix, precision: Precision) -> RowBlock:
    """Mean and rows of the union, for the columns that `turn` (K, k) has chosen."""
    precision = _wide_enough(pairs, precision)
    stack = _stacked(pairs)
    rotation = np.ascontiguousarray(stack.unmixed(turn).T, precision.rows)
    rows = np.empty((turn.shape[1], len(stack.mean)), precision.rows)
    for span, panel in stack.panels(precision.rows):
        rows[:, span] = rotation @ panel
    return RowBlock(stack.mean, rows, pairs[0][0].valid)


def _wide_enough(pairs: Sequence[Factored], precision: Precision) -> Precision:
    """`precision`, in float64 where a leaf had to leave float32 for its range."""
    kept = np.result_type(*(block.rows for block, _ in pairs))
    if kept == precision.rows or kept.itemsize <= 4:
        return precision
    return replace(precision, products=DOUBLE.products, rows=DOUBLE.rows)


def mask_defect(pairs: Sequence[Factored], row: int) -> Defect | None:
    """First change of the mask from one time block to the next."""
    for (before, _), (after, factor) in pairwise(pairs):
        old, new = before.valid, after.valid
        if old is None and new is None:
            continue
        n = len(before.mean)
        old = np.ones(n, bool) if old is None else old
        new = np.ones(n, bool) if new is None else new
        if (changed := old != new).any():
            point = int(np.argmax(changed))
            return Defect(factor.start, "vanishes" if new[point] else "appears", row, point)
    return None


def merge_factors(
    factors: Sequence[TimeFactor],
    products: Mapping[int, Gram],
    scales: Mapping[int, float],
    cut: Cut,
    precision: Precision,
    defects: Sequence[Defect | None] = (),
    long: bool = False,
) -> tuple[TimeFactor, Matrix]:
    """Time factor of consecutive time blocks from the inner products of their columns.

    That of a `long` block says how its columns follow from theirs, in place of these.

    Returns
    -------
    TimeFactor
    turn : (K, k) the directions kept, for `merge_rows`
    """
    constant = _constant(factors)
    total = {v: float(product.energies.sum()) for v, product in products.items()}
    spent = _spent(factors, total, scales)
    turn, gram, lost, _ = _joint_columns(products, scales, cut, precision, constant, spent)
    return _merged(factors, turn, gram, lost, defects, long), turn


def _spent(
    factors: Sequence[TimeFactor], total: Mapping[int, float], scales: Mapping[int, float]
) -> float:
    """Share that time blocks have dropped of the energy of all, of the variable that lost most."""
    before = {v: sum(f.discarded[v] for f in factors) for v in total}
    counted = _counted(
        np.array([scales[v] * total[v] for v in total]), sum(f.snapshots for f in factors)
    )
    lost = np.array([scales[v] * before[v] for v in total])
    return float(np.max(lost / np.where(counted > 0, counted, np.inf), initial=0.0))


def _counted(energies: Matrix, snapshots: float) -> Matrix:
    """Energies (V,) of scaled variables that cuts are relative to.

    Scaled variables have unit variance on average. One that is quiet for a while may lose a share
    of that average, not only of the little it does here.
    """
    return energies if len(energies) == 1 else np.maximum(energies, snapshots / 4)


def _constant(factors: Sequence[TimeFactor]) -> Matrix:
    """The constant 1 in the columns of consecutive time blocks, each followed by its constant."""
    return np.concatenate([np.append(np.zeros(f.columns), f.snapshots**0.5) for f in factors])


def _merged(
    factors: Sequence[TimeFactor],
    turn: Matrix,
    gram: Mapping[int, Gram],
    lost: Mapping[int, float],
    defects: Sequence[Defect | None],
    long: bool,
) -> TimeFactor:
    """Time factor of the directions `turn` in the columns of consecutive time blocks."""
    offsets = np.cumsum([0, *(f.columns + 1 for f in factors)])
    turns = tuple(
        np.concatenate([turn[a : b - 1], turn[b - 1 : b] / factor.snapshots**0.5])
        for factor, (a, b) in zip(factors, pairwise(offsets), strict=True)
    )
    time = LongTime(sum(factor.snapshots for factor in factors), turns)
    right = np.zeros((0, turn.shape[1]))
    if not long:
        right = np.vstack([time.turned(f.right, part) for part, f in enumerate(factors)])
    return TimeFactor(
        factors[0].start,
        right,
        gram,
        {v: lost[v] + sum(f.discarded[v] for f in factors) for v in gram},
        {v: sum(f.apart.get(v, 0.0) for f in factors) for v in gram},
        first_defect((*defects, *(f.defect for f in factors))),
        sum((f.cost for f in factors), ReadCost()),
        time if long else None,
    )


def _joint_columns(
    products: Mapping[int, Gram],
    scales: Mapping[int, float],
    cut: Cut,
    precision: Precision,
    constant: Matrix,
    spent: float = 0.0,
) -> tuple[Matrix, dict[int, Gram], dict[int, float], Cut]:
    """Directions kept, the inner products they keep and the energy they lose by variable, and the
    cut that is taken, of which nodes below have `spent` some.

    `constant` is what the constant 1 is in the columns of `products`; the directions are
    orthogonal to it.
    """
    turn, own = spectrum(products, scales, precision)
    scale = np.array([scales[v] for v in products])
    shares = own * scale[:, None]
    totals = _counted(shares.sum(axis=1), float(constant @ constant))
    cut = widened(shares, totals, cut, precision.rounding, spent)
    kept = kept_columns(shares, totals, cut, precision.rounding)
    lost = {v: float(own[i, kept:].sum()) for i, v in enumerate(products)}
    turn = orthogonal_to(constant, turn[:, : min(kept, len(turn) - 1)])
    return turn, {v: gram.turned(turn).smaller for v, gram in products.items()}, lost, cut


def merge_in_time(
    pairs: Sequence[Factored],
    inner: InnerProduct,
    cut: Cut,
    precision: Precision,
    place: Place,
    long: bool = False,
) -> Factored:
    """Merge consecutive time blocks of a single space block in one step.

    The time factor of a `long` block says how its columns follow from theirs, in place of these.
    """
    defects = [mask_defect(pairs, place.row)]
    if precision.sketch:
        merged = _merge_sketched(pairs, inner, cut, precision, place, defects, long)
        if merged is not None:
            return merged
    columns = sum(len(block.rows) + 1 for block, _ in pairs)
    precision = least_work(precision, len(pairs[0][0].mean), columns)
    joint = {place.variable: merge_product(pairs, inner, precision)}
    scales, factors = {place.variable: 1.0}, [factor for _, factor in pairs]
    factor, turn = merge_factors(factors, joint, scales, cut, precision, defects, long)
    return merge_rows(pairs, turn, precision), factor


def _merge_sketched(
    pairs: Sequence[Factored],
    inner: InnerProduct,
    cut: Cut,
    precision: Precision,
    place: Place,
    defects: Sequence[Defect | None],
    long: bool,
) -> Factored | None:
    """Merge with directions found on some of the points, if it stays within the cut on all."""
    stack, factors = _stacked(pairs), [factor for _, factor in pairs]
    n, columns = len(stack.mean), stack.height
    points = sparse_points(n, columns)
    if points is None:
        return None
    seen = stack.at(points, DOUBLE.products)
    product = inner.on(points).gram(np.asarray(seen, np.float64))
    total = sum(float(f.gram[place.variable].energies.sum()) for f in factors)
    total += stack.shifted(inner)
    spent = _spent(factors, {place.variable: total}, {place.variable: 1.0})
    turn, _, _, sharp = _joint_columns(
        {place.variable: Gram(stack.mixed(stack.mixed(product).T))},
        {place.variable: 1.0},
        cut.split(SHARPNESS),
        precision,
        _constant(factors),
        spent / SHARPNESS,
    )
    precision = affordable(_wide_enough(pairs, precision), n * columns)
    panels = stack.panels(precision.products)
    rows, gram = rotated(panels, stack.unmixed(turn), n, inner, precision)
    missed = total - float(np.trace(gram))
    if not suffices(missed, total, gram, sharp.split(1 / SHARPNESS), precision):
        return None
    own, lost = {place.variable: Gram(gram)}, {place.variable: max(missed, 0.0)}
    factor = _merged(factors, turn, own, lost, defects, long)
    return RowBlock(stack.mean, rows, pairs[0][0].valid), factor


def without_constant(right: Matrix) -> Matrix:
    """Orthonormal columns orthogonal to the constant, to rounding of the projection."""
    return orthogonal_to(np.ones(len(right)), right)


def orthogonal_to(vector: Matrix, columns: Matrix) -> Matrix:
    """Orthonormal columns orthogonal to `vector`, where they already were up to rounding."""
    along = np.outer(vector, vector @ columns) / (vector @ vector)
    q, r = np.linalg.qr(columns - along)
    # QR may flip columns, and the inner products that belong to them would not know.
    return np.asarray(q * np.copysign(1.0, r.diagonal()))

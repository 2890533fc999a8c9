"""Directions sought on some of the points, and checked on all.

Any orthonormal directions give a valid factorisation, and what they miss is known exactly
from two norms: the energy before and the energy of the rotated rows. So a sketch can only
cost a few columns more; where it misses too much, all points are used instead.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from romzarr.contracts import Floats, Matrix
from romzarr.inner_product import InnerProduct
from romzarr.numerics.pod.inner_products import Precision
from romzarr.numerics.pod.truncation import Cut

# One point in so many is looked at. Primes, which seldom divide the length of a grid's rows,
# so that a stride through the grid meets every column.
STRIDES = (31, 13, 7)
# As many points as this for each column whose directions are sought.
POINTS_A_COLUMN = 16
# Directions are cut more sharply than needed, since the points left out may hold a little more.
SHARPNESS = 1.5


def sparse_points(points: int, columns: int) -> slice | None:
    """The points a sketch of so many columns looks at; None where it would need most of them."""
    for stride in STRIDES:
        if points >= stride * POINTS_A_COLUMN * columns:
            return slice(None, None, stride)
    return None


def rotated(
    panels: Iterable[tuple[slice, Floats]],
    turn: Matrix,
    points: int,
    inner: InnerProduct,
    precision: Precision,
) -> tuple[Floats, Matrix]:
    """Rows ``turn^T P`` (k, n) and their inner products, of P (K, n) given by panels."""
    rows = np.empty((turn.shape[1], points), precision.rows)
    gram, energy = np.zeros((len(rows), len(rows))), np.zeros(len(rows))
    rotation = np.ascontiguousarray(turn.T, precision.products)
    for span, panel in panels:
        part = rotation @ panel
        rows[:, span] = part
        gram += inner.on(span).gram(part)
        energy += inner.on(span).squares(part)
    # Sums of many lanes lose a tenth of the digits that those of matrix products lose.
    np.fill_diagonal(gram, energy)
    return rows, gram


def suffices(missed: float, total: float, gram: Matrix, cut: Cut, precision: Precision) -> bool:
    """Whether directions that miss so much of the energy `total` stay within the cut.

    Less than products can tell from rounding is not held against them.
    """
    if cut.rank is None:
        allowed = cut.share * total
    else:
        allowed = cut.of_rank(np.maximum(np.linalg.eigvalsh(gram)[::-1], 0.0))
    return missed <= max(allowed, precision.floor * total)

"""By how much errors grow on a coarser grid (`romzarr.coding.coarse`), at most."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from romzarr.coding.bands import coarse_shape
from romzarr.coding.coarse import coarsened
from romzarr.coding.tiles import extended
from romzarr.contracts import Matrix

# Points on each side that a halving depends on.
_REACH = 4
# Points of a coarse axis that tell its gains: as many at each end depend on the end, or overlap
# with some that do.
_ENOUGH = 8 * _REACH
# Halvings of which a matrix is computed together: those of ten take a second.
_DEEPEST = 6
# Columns of a matrix that are computed at a time.
_COLUMNS = 256
# The gains are sums of a few dozen rounded numbers.
_ROUNDING = 1 + 1e-12


class Gains(NamedTuple):
    """By how much coarsening multiplies errors at most: their L2 norm, and the largest one."""

    l2: float
    largest: float

    def times(self, other: Gains) -> Gains:
        """Those of one coarsening after another, or along another axis."""
        return Gains(self.l2 * other.l2, self.largest * other.largest)


NO_GAINS = Gains(1.0, 1.0)


def axis_gains(length: int, piece: int, halvings: int) -> Gains:
    """Gains of halving an axis that is cut into pieces, each of which is coarsened for itself.

    Parameters
    ----------
    length, piece : int
        Of the axis, and of a piece. The last one repeats the last value of the axis where it
        sticks out; points that stand for these are left out.
    halvings : int
    """
    if halvings > _DEEPEST and length % piece == 0:
        coarse_length, coarse_piece = coarse_shape((length, piece), (_DEEPEST, _DEEPEST))
        rest = axis_gains(coarse_length, coarse_piece, halvings - _DEEPEST)
        return axis_gains(length, piece, _DEEPEST).times(rest)
    last = (length - 1) % piece + 1
    kinds = {(last, piece)} | ({(piece, piece)} if length > piece else set())
    each = [_gains(*_shortened(valid, whole, halvings), halvings) for valid, whole in kinds]
    return Gains(max(one.l2 for one in each), max(one.largest for one in each))


def _shortened(valid: int, piece: int, halvings: int) -> tuple[int, int]:
    """Lengths that have the same gains: the middle of long pieces is alike everywhere."""
    unit = 1 << halvings
    short = min(valid, valid % unit + _ENOUGH * unit)
    return short, short + min(piece - valid, 2 * _REACH * unit)


@lru_cache(maxsize=1024)
def _gains(valid: int, piece: int, halvings: int) -> Gains:
    """Gains of a piece with so many `valid` values.

    With its matrix C, ``||C||_2**2 = ||C C'||_2 <= ||C C'||_inf``: the rows of C are nearly
    orthogonal, so little is lost. The largest sum of absolute values in a row is what the largest
    error grows by.
    """
    if not halvings:
        return NO_GAINS
    matrix = _matrix(valid, piece, halvings)
    l2 = float(np.abs(matrix @ matrix.T).sum(axis=1).max()) ** 0.5
    return Gains(l2 * _ROUNDING, float(np.abs(matrix).sum(axis=1).max()) * _ROUNDING)


def _matrix(valid: int, piece: int, halvings: int) -> Matrix:
    """The matrix (coarse points, valid ones) of `coarsened`, by what it makes of single points."""
    kept = coarse_shape((valid,), (halvings,))[0]
    matrix = np.empty((kept, valid))
    for start in range(0, valid, _COLUMNS):
        points = np.eye(min(_COLUMNS, valid - start), valid, start)
        matrix[:, start : start + len(points)] = coarsened(
            extended(points, (piece,)), (0, halvings)
        )[:, :kept].T
    return matrix

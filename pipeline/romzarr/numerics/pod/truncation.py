"""Where a POD may be cut: the share of the error budget of each node of the tree.

See Himpe, Leibner, Rave (SIAM J. Sci. Comput. 40 (2018) A3267), Section 3, for how local
tolerances add up to the bound of the whole tree.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from romzarr.contracts import Matrix
from romzarr.errors import AccuracyError

# Share of the squared error that all cuts of the tree together may use up. What they drop
# may meet the error of the coefficients in full: at four times this share stores are up to 3 %
# larger.
TREE_SHARE = 0.005
# Of it each level gets so much of what the one below does, and all that those below leave. So many
# times fewer nodes, and as much less work, are there: a column is best dropped early. None at all
# would make columns many that are alike in several blocks.
UPWARDS = 0.25
# Where it halves the columns of a node that has many, so many times the share may go: noise takes
# a column for every snapshot, would pass through all merges, and be in the way of all that follows.
WIDER, MANY = 4.0, 16
# With a given rank the tail beyond it is lost anyway; 1/500 of it changes the error by 1/1000.
RANK_SHARE = 0.002


@dataclass(frozen=True)
class Cut:
    """Energy that one node of a POD tree may drop.

    ``share`` is relative to the node's own energy, or, if `rank` is given, to the energy
    that the node's own best approximation of that rank would lose. There ``floor`` is the
    share of the node's energy that is below the precision of the arithmetic anyway. With `below`
    the share is that of the node and of all nodes below it, which may have up to so much of it.
    """

    share: float
    rank: int | None = None
    floor: float = 0.0
    below: float = 0.0

    def split(self, parts: float) -> Cut:
        """The cut of each of `parts` levels that together stay within this one."""
        return Cut(self.share / parts, self.rank, self.floor / parts, self.below / parts)

    def after(self, spent: float) -> Cut:
        """What nodes below leave of it that have dropped such a share of the node's energy."""
        return Cut(self.share - min(spent, self.below), self.rank, self.floor)

    @property
    def widest(self) -> Cut:
        """The cut where a wider one drops far more columns; with a rank there is none."""
        if self.rank is not None:
            return self
        return replace(self, share=WIDER * self.share, below=WIDER * self.below)

    def of_rank(self, energy: Matrix) -> float:
        """Energy that may go from a node with column energies (k,), where a rank is given."""
        tail = tails(energy)
        return max(self.share * float(tail[min(self.rank or 0, len(energy))]), self.floor * tail[0])


def tree_cuts(
    tolerance: float | None, rank: int | None, levels: int, floor: float = 0.0
) -> tuple[Cut, ...]:
    """Cut of the nodes on each of the `levels` of a tree, from its leaves to its root."""
    if tolerance is None:
        return (Cut(RANK_SHARE / levels, rank, floor / levels),) * levels
    parts = UPWARDS ** np.arange(levels)
    shares = TREE_SHARE * tolerance**2 * np.cumsum(parts) / parts.sum()
    return tuple(Cut(share, below=below) for below, share in pairwise([0.0, *shares.tolist()]))


def tails(energy: Matrix) -> Matrix:
    """Sums of the last entries along the last axis: (..., k) -> (..., k + 1), last one 0."""
    sums = np.cumsum(energy[..., ::-1], axis=-1)[..., ::-1]
    return np.concatenate([sums, np.zeros((*energy.shape[:-1], 1))], axis=-1)


def kept_columns(shares: Matrix, totals: Matrix, cut: Cut, rounding: float) -> int:
    """Smallest number of leading columns whose tail is within the cut, for every variable.

    Parameters
    ----------
    shares : (V, k) energy of column c in variable v, columns by falling joint energy
    totals : (V,) energy that each variable's cut is relative to
    cut : Cut
    rounding : float
        Columns under this share of the first one are rounding and always go.
    """
    joint = shares.sum(axis=0)
    if not joint.size or joint[0] <= 0:
        return 0
    significant = int(np.count_nonzero(joint > rounding * joint[0]))
    if cut.rank is not None:
        within = tails(joint) <= cut.of_rank(joint)
    else:
        within = np.all(tails(shares) <= cut.share * totals[:, None], axis=0)
    return min(int(np.argmax(within)), significant)


def widened(shares: Matrix, totals: Matrix, cut: Cut, rounding: float, spent: float = 0.0) -> Cut:
    """The cut, or the widest where that halves the columns of a node that has many.

    Of either is left what nodes below have not `spent`.
    """
    usual, widest = cut.after(spent), cut.widest.after(spent)
    kept, fewer = (kept_columns(shares, totals, each, rounding) for each in (usual, widest))
    return widest if kept > MANY and 2 * fewer <= kept else usual


def rank_within(
    shares: Matrix,
    discarded: Matrix,
    apart: Matrix,
    allowed: Matrix,
    max_rank: int | None,
    names: list[str],
) -> int:
    """Smallest rank whose truncation keeps every variable within its error.

    Parameters
    ----------
    shares : (V, k) energy of mode c in variable v
    discarded : (V,) energy dropped by the tree, orthogonal to the modes in time
    apart : (V,) energy dropped besides, whose norm adds
    allowed : (V,) error that truncation and tree together may leave
    max_rank : int or None
    names : variable names, for messages

    Raises
    ------
    AccuracyError
        If no rank, or none up to `max_rank`, meets the bound.
    """
    error = np.sqrt(tails(shares) + discarded[:, None]) + np.sqrt(apart)[:, None]
    within = np.all(error <= allowed[:, None], axis=0)
    if not within.any():
        worst = int(np.argmax(error[:, -1] - allowed))
        raise AccuracyError(
            f"variable {names[worst]!r}: the POD tree leaves an error of {error[worst, -1]:.3e}, "
            f"more than the {allowed[worst]:.3e} that the tolerance allows in all"
        )
    rank = int(np.argmax(within))
    if max_rank is not None and rank > max_rank:
        worst = int(np.argmax(error[:, max_rank] / np.maximum(allowed, np.finfo(float).tiny)))
        raise AccuracyError(
            f"variable {names[worst]!r}: the tolerance needs {rank} modes, but "
            f"compression.max_rank is {max_rank}; raise max_rank or the tolerance"
        )
    return rank

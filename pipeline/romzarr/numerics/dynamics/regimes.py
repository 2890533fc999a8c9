"""Regimes: stretches of time within which one model serves, as told by triangular factors.

The least-squares residual of any stretch follows from the merged triangles of its blocks, so
looking for changes reads no coefficients. Stretches are cut in two where that makes the residual
smallest, again and again, as long as it falls by more than what other coefficients would make
of chance [1]_, [2]_. Then each cut moves to where it is best between its neighbours.

References
----------
.. [1] A. J. Scott, M. Knott, "A cluster analysis method for grouping means in the analysis of
   variance", Biometrics 30 (1974) 507 (binary segmentation).
.. [2] Y.-C. Yao, "Estimating the number of change-points via Schwarz' criterion", Statistics &
   Probability Letters 6 (1988) 181.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from romzarr.contracts import BlockSpan, Matrix, TriangularFactor, Vector
from romzarr.numerics.dynamics.weakform import merge_factors
from romzarr.numerics.triangles import square_r

# Regimes of a record. Each is one more model to look at, and to store.
MOST_REGIMES = 8
# Rounds in which cuts move; mostly two are enough.
MOST_ROUNDS = 5
# Windows that overlap so much that they say the same once.
ALIKE = 4
# Share of b^2 that no residual is told apart below: rounding, and errors of integration.
LEAST_RESIDUAL = 1e-12


@dataclass(frozen=True)
class _Stretch:
    """The triangle of some windows."""

    r: Matrix
    terms: int
    windows: int

    def joined(self, other: TriangularFactor) -> _Stretch:
        r = square_r(np.concatenate([self.r, other.r]))
        return _Stretch(r, self.terms, self.windows + other.windows)

    @property
    def residual(self) -> Vector:
        """Squared least-squares residual (q,) of each equation."""
        left: Vector = np.sum(self.r[self.terms :, self.terms :] ** 2, axis=0)
        return left


def find_regimes(factors: Sequence[TriangularFactor], across: int) -> list[BlockSpan]:
    """Spans of blocks, in order, within which the least-squares model does not change.

    Parameters
    ----------
    factors : sequence of TriangularFactor
        Of equally long time blocks.
    across : int
        Blocks, one or more, that a change may be felt in: that in which it happens, and those
        before it whose windows reach into it. Between spans so many blocks are left out.

    Returns
    -------
    list of BlockSpan
        One of all blocks, if there is no change. Each has at least twice as many windows as
        the library has terms, and there are at most `MOST_REGIMES`.
    """
    cut = cache(lambda span: _best_cut(factors, span, across))
    spans = [BlockSpan(0, len(factors))]
    while len(spans) < MOST_REGIMES:
        span = max(spans, key=lambda each: cut(each).gain)
        if cut(span).gain <= 0:
            break
        spans = sorted({*spans, *cut(span).parts} - {span}, key=lambda each: each.start)
    for _ in range(MOST_ROUNDS):
        moved = _moved(cut, spans)
        if moved == spans:
            break
        spans = moved
    return spans


def _moved(cut: Callable[[BlockSpan], _Cut], spans: Sequence[BlockSpan]) -> list[BlockSpan]:
    """Each cut at its best between its neighbours, or gone where it is no use any more."""
    found = [spans[0]]
    for span in spans[1:]:
        both = BlockSpan(found.pop().start, span.stop)
        best = cut(both)
        found += best.parts if best.gain > 0 else [both]
    return found


@dataclass(frozen=True)
class _Cut:
    """Two parts of a span, and by how much they are better than the whole."""

    gain: float
    parts: tuple[BlockSpan, ...] = ()


def _best_cut(factors: Sequence[TriangularFactor], span: BlockSpan, across: int) -> _Cut:
    part = factors[span.start : span.stop]
    # Before[k] is of the first k + 1 blocks, after[k] of all from the k-th on.
    before, after = _cumulated(part), _cumulated(part[::-1])[::-1]
    best = _Cut(-np.inf)
    for number in range(1, len(part) - across):
        left, right = before[number - 1], after[number + across]
        if min(left.windows, right.windows) >= 2 * left.terms:
            # Squares may leave the finite numbers; what is compared with them is no gain.
            with np.errstate(all="ignore"):
                gain, cut = _gain(before[-1], left, right), span.start + number
            if gain > best.gain and np.isfinite(gain):
                parts = BlockSpan(span.start, cut), BlockSpan(cut + across, span.stop)
                best = _Cut(gain, parts)
    return best


def _cumulated(factors: Sequence[TriangularFactor]) -> list[_Stretch]:
    first = factors[0]
    found = [_Stretch(first.r, first.terms, first.windows)]
    for factor in factors[1:]:
        found.append(found[-1].joined(factor))
    return found


def _gain(whole: _Stretch, left: _Stretch, right: _Stretch) -> float:
    """Difference of Schwarz' criterion: as likely as two models are, less what they cost."""
    p, windows = whole.terms, left.windows + right.windows
    size = np.sum(whole.r[:, p:] ** 2, axis=0) / whole.windows
    least = LEAST_RESIDUAL * size + np.finfo(float).tiny
    one = whole.residual / whole.windows + least
    two = (left.residual + right.residual) / windows + least
    alone = whole.windows / ALIKE
    return float(alone * np.log(one / two).sum() - len(one) * p * np.log(max(alone, 2.0)))


def serving(factors: Sequence[TriangularFactor], spans: Sequence[BlockSpan]) -> NDArray[np.intp]:
    """Number of the span (blocks,) whose model serves each block.

    Between spans it is the one on either side that leaves the smaller residual there.
    """
    numbers = np.zeros(len(factors), np.intp)
    if len(spans) == 1:
        return numbers
    models = [_least_squares(factors[span.start : span.stop]) for span in spans]
    for number, span in enumerate(spans):
        numbers[span.start : span.stop] = number
    for number, (left, right) in enumerate(pairwise(spans)):
        for block in range(left.stop, right.start):
            r, p = factors[block].r, factors[block].terms
            sides = models[number : number + 2]
            missed = [np.linalg.norm(r[:, p:] - r[:, :p] @ xi) for xi in sides]
            numbers[block] = number + int(np.argmin(missed))
    return numbers


def _least_squares(factors: Sequence[TriangularFactor]) -> Matrix:
    merged = merge_factors(factors)
    features, slopes = np.split(merged.r, [merged.terms], axis=1)
    return np.asarray(np.linalg.lstsq(features, slopes, rcond=1e-10)[0], np.float64)

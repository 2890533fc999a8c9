"""The distribution of values, from all of them or from a sample, with bounds.

If e is the error of the values and N what they count, the root mean square of e is at most
``E / sqrt(N)``: so much work it takes to move the distribution of decoded values to the true one,
that is, it bounds their Wasserstein distance of order 2. What a share of them may become, or a
quantile, is what that work can do at most.

References
----------
.. [1] C. Villani, "Topics in Optimal Transportation" (2003), Theorem 2.18: on the line, sorted
   values are moved to sorted ones.
.. [2] P. Massart, "The tight constant in the Dvoretzky-Kiefer-Wolfowitz inequality", Ann. Probab.
   18 (1990) 1269-1283: by how much shares in a sample are off.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from romzarr.answers.bounds import largest_error
from romzarr.answers.quantity import Quantity, Where
from romzarr.contracts import Matrix
from romzarr.errors import AnswerError

# Of a sample: with this probability it is off by more than the bound says.
DOUBT = 1e-9
# Samples whose factors are multiplied at a time: some MB.
_SOME = 1 << 16


class Bounded(NamedTuple):
    """Numbers, and the least and the largest that each may be in truth."""

    found: Matrix
    least: Matrix
    largest: Matrix

    @property
    def bound(self) -> Matrix:
        """The largest error of each."""
        return np.maximum(self.largest - self.found, self.found - self.least)


@dataclass(frozen=True)
class Distribution:
    """Decoded values and what is known of the true ones.

    Attributes
    ----------
    values : ndarray, shape (n,)
        Increasing.
    shares : ndarray, shape (n,)
        What each counts; they add up to 1.
    error : float
        Root mean square of the error at most.
    doubt : float
        By how much shares may be off since values are a sample.
    largest : float
        Bound on the error of each single value.
    """

    values: Matrix
    shares: Matrix
    error: float
    doubt: float
    largest: float = np.inf

    def share_below(self, edges: Matrix) -> Bounded:
        """Shares of values that are at most so large."""
        total = np.insert(np.cumsum(self.shares), 0, 0.0)
        stops = np.searchsorted(self.values, edges, side="right")
        found = total[stops]
        pairs = list(zip(edges, stops, strict=True))
        more = [self._moved(self.values[stop:] - edge, self.shares[stop:]) for edge, stop in pairs]
        # Going down from the edge.
        less = [
            self._moved((edge - self.values[:stop])[::-1], self.shares[:stop][::-1])
            for edge, stop in pairs
        ]
        return Bounded(
            found,
            np.maximum(found - np.array(less) - self.doubt, 0.0),
            np.minimum(found + np.array(more) + self.doubt, 1.0),
        )

    def quantile(self, shares: Matrix) -> Bounded:
        """The least values below which there are these shares."""
        total = np.cumsum(self.shares)
        found = self.values[_first(total, shares)]
        if not (self.error or self.doubt):
            return Bounded(found, found, found)
        largest = [self._raised(share + self.doubt) for share in shares]
        mirrored = replace(self, values=-self.values[::-1], shares=self.shares[::-1])
        least = [-mirrored._raised(1 - share + self.doubt) for share in shares]
        return Bounded(found, np.array(least), np.array(largest))

    def _moved(self, distances: Matrix, shares: Matrix) -> float:
        """The largest share that can be moved so far, where distances increase."""
        near = int(np.searchsorted(distances, self.largest, side="right")) if self.error else 0
        distances, shares = distances[:near], shares[:near]
        work, moved = np.cumsum(shares * distances**2), np.insert(np.cumsum(shares), 0, 0.0)
        stop = int(np.searchsorted(work, self.error**2, side="right"))
        if stop == len(work):
            return float(moved[-1])
        left = self.error**2 - (work[stop - 1] if stop else 0.0)
        return float(moved[stop] + left / distances[stop] ** 2)

    def _raised(self, share: float) -> float:
        """The largest u that the quantile of `share` can be raised to.

        All values from it on that are below u have to become u.
        """
        total = np.cumsum(self.shares)
        first = int(np.searchsorted(total, share, side="right"))
        if first >= len(total):
            return np.inf
        most = float(self.values[first]) + self.largest
        if not np.isfinite(self.error):
            return most
        above, shares = self.values[first:] - self.values[first], self.shares[first:].copy()
        # Of the first one only what is above the share.
        shares[0] = total[first] - share
        count, once, twice = (np.cumsum(shares * above**power) for power in (0, 1, 2))
        work = above * (above * count - 2 * once) + twice
        last = max(int(np.searchsorted(work, self.error**2, side="right")) - 1, 0)
        # From there all are raised alike: a square equation, solved without cancellation.
        lacking, part = above[last] - above[: last + 1], shares[: last + 1]
        square, linear = float(part @ lacking**2), float(part @ lacking)
        left = max(self.error**2 - square, 0.0)
        raised = left / (linear + (linear**2 + count[last] * left) ** 0.5) if left else 0.0
        return min(most, float(self.values[first] + above[last] + raised))


def distribution(quantity: Quantity, most: int, rng: np.random.Generator) -> Distribution:
    """The distribution over all snapshots and points of values that are finite.

    Points count what they do in the recorded error. If there are more than `most` values, so many
    of them are drawn, independently of each other; they are decoded where there are no factors.

    Raises
    ------
    AnswerError
        If there is no value.
    """
    if quantity.snapshots * quantity.points <= most:
        return _of_all(quantity)
    rows = np.sort(rng.integers(quantity.snapshots, size=most))
    sampled = _of_factors if quantity.factored else _of_blocks
    values, counted, error = sampled(quantity, rows, rng)
    doubt = (np.log(2 / DOUBT) / (2 * max(1, len(values)))) ** 0.5
    return _distribution(quantity, values, np.ones(len(values)), counted, error, float(doubt))


def _of_all(quantity: Quantity) -> Distribution:
    values, norm = quantity.values()
    weights = np.broadcast_to(quantity.weights, values.shape)
    known = np.isfinite(values)
    values, weights = values[known], weights[known]
    return _distribution(quantity, values, weights, float(weights.sum()), quantity.error(norm), 0.0)


def _of_factors(
    quantity: Quantity, rows: NDArray[np.int64], rng: np.random.Generator
) -> tuple[Matrix, float, float]:
    """Sampled values, what all of them count, and the bound on the error of these."""
    weights = np.where(quantity.masked, 0.0, quantity.weights)
    points = _drawn(weights, len(rows), rng)
    values = np.empty(len(rows))
    for where, piece in quantity.pieces(quantity.coefficients.shape[1]):
        place = _places(quantity, where)
        here = np.flatnonzero(place[points] >= 0)
        for some in np.array_split(here, 1 + len(here) // _SOME):
            fields = piece.fields[:, place[points[some]]]
            values[some] = np.einsum("nk,kn->n", quantity.coefficients[rows[some]], fields)
    return values, quantity.snapshots * float(weights.sum()), quantity.error(quantity.norm)


def _of_blocks(
    quantity: Quantity, rows: NDArray[np.int64], rng: np.random.Generator
) -> tuple[Matrix, float, float]:
    points = _drawn(quantity.weights, len(rows), rng)
    found, counted, square = [], 0.0, 0.0
    for block in quantity.blocks():
        first, last = np.searchsorted(rows, [block.span.start, block.span.stop])
        places = _places(quantity, block.where)[points[first:last]]
        here = places >= 0
        found.append(block.values[rows[first:last][here] - block.span.start, places[here]])
        counted += float(np.sum(np.isfinite(block.values) @ quantity.weights[block.where]))
        square += block.square
    values = np.concatenate(found)
    return values[np.isfinite(values)], counted, quantity.error(square**0.5)


def _places(quantity: Quantity, where: Where) -> NDArray[np.int64]:
    """The number in a piece of each point of the whole, -1 where it is in another one."""
    places = np.full(quantity.points, -1)
    places[where] = np.arange(len(places[where]))
    return places


def _drawn(weights: Matrix, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Numbers of points, each as often as its weight says."""
    if not weights.sum() > 0:
        return np.zeros(count, np.int64)
    return rng.choice(len(weights), size=count, p=weights / weights.sum())


def _distribution(
    quantity: Quantity, values: Matrix, weights: Matrix, counted: float, error: float, doubt: float
) -> Distribution:
    if not counted > 0:
        raise AnswerError(
            f"variable {quantity.first.stored.name!r} has no values in what is selected; select "
            "points that are not masked"
        )
    order = np.argsort(values, kind="stable")
    shares = weights[order] / weights.sum()
    # Nothing is summed: values that are decoded as they are, are not rounded again.
    error = quantity.error(0.0) if quantity.is_decoded else error
    return Distribution(values[order], shares, error / counted**0.5, doubt, _largest(quantity))


def _largest(quantity: Quantity) -> float:
    """Bound on the error of each single value; inf if none is known."""
    if not quantity.is_decoded:
        return np.inf
    return largest_error(quantity.first)


def _first(total: Matrix, shares: Matrix) -> NDArray[np.int64]:
    """The first value below which, it included, is such a share; rounding forgiven."""
    slack = len(total) * np.finfo(np.float64).eps
    return np.minimum(np.searchsorted(total, shares - slack), len(total) - 1)

"""Terms of a model of given states: search with windows, then weigh by the likelihood.

Windows find a first set of terms, generously, as they need no guess. Then, in turn: the most
likely model with these terms (`romzarr.numerics.dynamics.likelihood`), and the best set in the
linear system about it, all terms of all equations together. The criterion is the extended
Bayesian one [1]_: minus twice the logarithm of the likelihood, and log n + 2 log K for each term,
n the number of values in the records and K that of terms to choose from, in all equations.

References
----------
.. [1] J. Chen, Z. Chen, "Extended Bayesian information criteria for model selection with large
   model spaces", Biometrika 95 (2008) 759.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from romzarr.contracts import BlockSpan, Mask, Matrix, TriangularFactor, Vector
from romzarr.numerics.dynamics.library import Library
from romzarr.numerics.dynamics.likelihood import (
    Fit,
    LinearSystem,
    first_noise,
    most_likely,
    rounding,
)
from romzarr.numerics.dynamics.robust import robust
from romzarr.numerics.dynamics.shooting import Columns, Record
from romzarr.numerics.dynamics.stlsq import PRICE, stlsq
from romzarr.numerics.dynamics.subsets import IN_SPAN, Score, gains_of, local_search
from romzarr.numerics.dynamics.weakform import merge_factors, plan_windows, triangular_factor
from romzarr.numerics.triangles import square_r

# Prices of a term in first sets, in units of log(windows): about that of Akaike's criterion, and
# one that leaves no false terms. Terms too many go later, but in between they may mislead.
FIRST_PRICES = (0.75, PRICE)
# Terms to choose from at once: their columns are held together.
MOST_COLUMNS = 400
MOST_ROUNDS = 12  # of fitting and choosing, which take two or three


@dataclass(frozen=True)
class Selection:
    """A fit, with terms of ``library``; the score of its terms, and how probable each (p, q) is."""

    library: Library
    fit: Fit
    score: float
    probability: Matrix


@dataclass(frozen=True)
class Choice:
    """The linear system of all terms of all equations about a fit, whitened and reduced.

    Columns ``a`` (k, k) of length one for the ``pairs`` (k,) of terms and equations, their right
    side ``y`` (k,) and ``rest``, its squared part that they do not reach; ``size`` values in all,
    of which the variance is at least ``floor``; ``lengths`` (k,) that the columns had.
    """

    pairs: Columns
    a: Matrix
    y: Vector
    rest: float
    size: int
    floor: float
    lengths: Vector

    def scores(self, price: float) -> Score:
        """The criterion where a term costs `price`."""

        def score(squares: float, terms: int) -> float:
            variance = max((squares + self.rest) / self.size, self.floor)
            return self.size * math.log(variance) + price * terms

        return score


class _Candidate(NamedTuple):
    library: Library
    fit: Fit
    score: float
    choice: Choice


def weak_triangle(
    records: Sequence[Record],
    library: Library,
    *,
    test_function: str = "bell",
    support: float | str = "auto",
    spacing: float | str = "auto",
) -> TriangularFactor:
    """Triangle of the weak systems of all records, each with its own windows (`plan_windows`)."""
    factors = []
    for record in records:
        plan = plan_windows(
            record.times,
            record.states,
            test_function=test_function,
            support=support,
            spacing=spacing,
        )
        span = BlockSpan(0, len(record.times))
        factors.append(triangular_factor(record.states, record.times, library, plan, span))
    return merge_factors(factors)


def select_terms(
    records: Sequence[Record], libraries: Sequence[Library], triangle: TriangularFactor
) -> Selection | None:
    """The best terms of the best library.

    Parameters
    ----------
    records : sequence of Record
    libraries : sequence of Library
        From small to large: the terms of each are the first of the next, and what was best in
        one is where the search in the next begins too. Terms of a small library cost less, as
        there are fewer to choose from.
    triangle : TriangularFactor
        Of the weak system of the largest library (`weak_triangle`).

    Returns
    -------
    Selection or None
        None if no model can be fitted: all that were tried run away.
    """
    best: _Candidate | None = None
    for library in libraries:
        part = leading(triangle, library)
        starts = [stlsq(part, price=price).coefficients for price in FIRST_PRICES]
        if best is not None:
            missing = library.size - best.library.size
            starts.insert(0, np.pad(best.fit.coefficients, ((0, missing), (0, 0))))
        for found in _followed(records, library, starts):
            if best is None or found.score < best.score:
                best = found
    return None if best is None else _selection(records, best)


def weigh_terms(
    records: Sequence[Record], library: Library, coefficients: Matrix
) -> Selection | None:
    """The most likely model with the terms of `coefficients` (p, q), which are a first guess."""
    found = _path(records, library, coefficients != 0, coefficients, set())
    first = next(found, None)
    return None if first is None else _selection(records, first)


def _selection(records: Sequence[Record], best: _Candidate) -> Selection:
    price = term_price(records, best.library)
    probability = probabilities(best.choice, best.fit.support, price)
    fit = robust(records, best.library, best.fit)
    return Selection(best.library, fit, best.score, probability)


def leading(factor: TriangularFactor, library: Library) -> TriangularFactor:
    """The triangle of the first terms alone, those of `library`."""
    chosen = [*range(library.size), *range(factor.terms, factor.r.shape[1])]
    noise = None if factor.noise is None else square_r(factor.noise[:, chosen])
    return TriangularFactor(square_r(factor.r[:, chosen]), library.size, factor.windows, noise)


def _followed(
    records: Sequence[Record], library: Library, starts: Sequence[Matrix]
) -> Iterator[_Candidate]:
    """Fits on the ways from the `starts` (p, q).

    If none of them is a trajectory of its model, some term is missing that no single addition
    shows: then also from the best with terms that are added at the prices of Schwarz (log n)
    and Akaike (2).
    """
    seen: set[bytes] = set()
    best: _Candidate | None = None
    for start in starts:
        for found in _path(records, library, start != 0, start, seen):
            yield found
            if best is None or found.score < best.score:
                best = found
    size = sum(record.states.size for record in records)
    for price in (math.log(size), 2.0):
        if best is None or best.fit.guess.broken == 0:
            break
        support = _chosen_support(best.choice, best.fit.support, price)
        for found in _path(records, library, support, best.fit.coefficients, seen):
            yield found
            if found.score < best.score:
                best = found


def _path(
    records: Sequence[Record], library: Library, support: Mask, guess: Matrix, seen: set[bytes]
) -> Iterator[_Candidate]:
    """Fits to the terms `support` (p, q), and to those chosen about the last fit, in turn, until
    they have been `seen` or cannot be fitted."""
    price, noise = term_price(records, library), first_noise(records)
    for _ in range(MOST_ROUNDS):
        if support.tobytes() in seen:
            break
        seen.add(support.tobytes())
        fit = most_likely(records, library, support, guess, noise)
        choice = None if fit is None else _choice(records, library, fit)
        if fit is None or choice is None:
            break
        score = fit.deviance + price * np.count_nonzero(support)
        yield _Candidate(library, fit, score, choice)
        support = _chosen_support(choice, support, price)
        guess, noise = fit.coefficients, fit.guess.noise


def term_price(records: Sequence[Record], library: Library) -> float:
    """Of one term, in units of minus twice the logarithm of the likelihood."""
    size = sum(record.states.size for record in records)
    return math.log(size) + 2 * math.log(library.size * library.states)


def _choice(records: Sequence[Record], library: Library, fit: Fit) -> Choice | None:
    """The linear system of the promising terms about a fit; None if the model runs away."""
    try:
        system = LinearSystem(records, library, fit.guess)
    except np.linalg.LinAlgError:
        return None
    right = system.right()
    pairs = _promising(system, right, fit.support)
    columns = system.columns(*np.unravel_index(pairs, fit.support.shape))
    k = len(pairs)
    lengths = np.linalg.norm(columns, axis=0)
    lengths[lengths == 0] = 1.0
    r = square_r(np.column_stack([columns / lengths, right]))
    floor = float(np.mean((rounding(records) / fit.guess.noise) ** 2))
    return Choice(pairs, r[:k, :k], r[:k, k], float(r[k, k] ** 2), system.size, floor, lengths)


def _promising(system: LinearSystem, right: Vector, support: Mask) -> Columns:
    """Numbers of the pairs of terms and equations to choose from, increasing.

    All of them, or those there are and the `MOST_COLUMNS` that alone would lower the residual
    most.
    """
    there = np.flatnonzero(support)
    if support.size <= MOST_COLUMNS:
        return np.arange(support.size)
    q, _ = np.linalg.qr(system.columns(*np.unravel_index(there, support.shape)))
    residual = right - q @ (q.T @ right)
    gains = np.zeros(support.size)
    for some in np.array_split(np.arange(support.size), -(-support.size // MOST_COLUMNS)):
        columns = system.columns(*np.unravel_index(some, support.shape))
        gains[some] = gains_of(columns - q @ (q.T @ columns), residual)
    return np.union1d(there, np.argsort(-gains, kind="stable")[:MOST_COLUMNS])


def _chosen_support(choice: Choice, support: Mask, price: float) -> Mask:
    chosen = np.zeros(support.size, bool)
    start = np.flatnonzero(support.ravel()[choice.pairs]).tolist()
    best = local_search(choice.a, choice.y, start, choice.scores(price))
    chosen[choice.pairs[best]] = True
    return chosen.reshape(support.shape)


def probabilities(choice: Choice, support: Mask, price: float) -> Matrix:
    """Of each term (p, q), among the set `support` and all that differ from it by one term
    dropped, added, or put in the place of another. Terms that are combinations of those there are
    do not count: of redundant terms the first that was found stands alone.

    A set weighs ``exp(-score / 2)``, as in D. Madigan, A. E. Raftery, "Model selection and
    accounting for model uncertainty in graphical models using Occam's window", J. Am. Stat.
    Assoc. 89 (1994) 1535.
    """
    inside = support.ravel()[choice.pairs]
    members = np.flatnonzero(inside)
    q, _ = np.linalg.qr(choice.a[:, members])
    new = np.sum((choice.a - q @ (q.T @ choice.a)) ** 2, axis=0) > IN_SPAN
    others = np.flatnonzero(~inside & new)
    sets, scores, score = [], [], choice.scores(price)
    for kept in (members, *(np.delete(members, i) for i in range(len(members)))):
        q, _ = np.linalg.qr(choice.a[:, kept])
        residual = choice.y - q @ (q.T @ choice.y)
        gains = gains_of(choice.a - q @ (q.T @ choice.a), residual)[others]
        squares = float(residual @ residual)
        left = [squares, *np.maximum(squares - gains, 0.0)]
        held = np.zeros((len(left), len(inside)), bool)
        held[:, kept] = True
        held[np.arange(1, len(left)), others] = True
        sets.append(held)
        scores += [score(each, len(kept) + (i > 0)) for i, each in enumerate(left)]
    weights = np.exp(-(np.array(scores) - min(scores)) / 2)
    share = np.zeros(support.size)
    # Sums in two orders: what rounding leaves above 1 is none.
    share[choice.pairs] = np.minimum(weights @ np.concatenate(sets) / weights.sum(), 1.0)
    return share.reshape(support.shape)

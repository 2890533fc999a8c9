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
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from romzarr.contracts import BlockSpan, Mask, Matrix, TriangularFactor, Vector
from romzarr.numerics.dynamics.library import Library
from romzarr.numerics.dynamics.likelihood import (
    Fit,
    first_noise,
    linear_system,
    most_likely,
    rounding,
)
from romzarr.numerics.dynamics.shooting import Record
from romzarr.numerics.dynamics.stlsq import stlsq
from romzarr.numerics.dynamics.subsets import Score, gains_of, local_search
from romzarr.numerics.dynamics.weakform import merge_factors, plan_windows, triangular_factor

# Price of a term in the first set, in units of log(windows): about that of Akaike's criterion.
# Terms too many go later, those too few are harder to find.
FIRST_PRICE = 0.75
MOST_ROUNDS = 12  # of fitting and choosing, which take two or three


@dataclass(frozen=True)
class Selection:
    """A fit, the score of its terms, and how probable each term (p, q) is."""

    fit: Fit
    score: float
    probability: Matrix


@dataclass(frozen=True)
class _Choice:
    """Columns (K, K) of length one for all terms of all equations, and their right side."""

    a: Matrix
    y: Vector
    score: Score
    shape: tuple[int, int]


def weak_triangle(records: Sequence[Record], library: Library) -> TriangularFactor:
    """Triangle of the weak systems of all records, each with its own windows."""
    factors = []
    for record in records:
        plan = plan_windows(record.times, record.states)
        span = BlockSpan(0, len(record.times))
        factors.append(triangular_factor(record.states, record.times, library, plan, span))
    return merge_factors(factors)


def select_terms(records: Sequence[Record], library: Library) -> Selection | None:
    """The best terms of the library, as far as fitting and choosing in turn lead; None if no
    model can be fitted."""
    first = stlsq(weak_triangle(records, library), price=FIRST_PRICE).coefficients
    noise = first_noise(records)
    price = term_price(records, library)
    best: Selection | None = None
    seen: list[Mask] = []
    support, guess = first != 0, first
    for _ in range(MOST_ROUNDS):
        seen.append(support)
        fit = most_likely(records, library, support, guess, noise)
        if fit is None:
            break
        score = fit.deviance + price * np.count_nonzero(support)
        choice = _choice(records, library, fit, price)
        if best is None or score < best.score:
            best = Selection(fit, score, probabilities(choice, support))
        support = _chosen_support(choice, support)
        if any(np.array_equal(support, each) for each in seen):
            break
        guess = np.where(support, fit.coefficients, 0.0)
        noise = fit.guess.noise
    return best


def term_price(records: Sequence[Record], library: Library) -> float:
    """Of one term, in units of minus twice the logarithm of the likelihood."""
    size = sum(record.states.size for record in records)
    return math.log(size) + 2 * math.log(library.size * library.states)


def _choice(records: Sequence[Record], library: Library, fit: Fit, price: float) -> _Choice:
    """The linear system of all terms about a fit, and the criterion for sets of them."""
    everything = np.ones(fit.support.shape, bool)
    system = linear_system(records, library, fit.guess, everything)
    count, k = system.columns.shape
    sizes = np.linalg.norm(system.columns, axis=0)
    sizes[sizes == 0] = 1.0
    r = np.linalg.qr(np.column_stack([system.columns / sizes, system.right]), mode="r")
    rest = float(np.sum(r[k:, k] ** 2))
    floor = float(np.mean((rounding(records) / fit.guess.noise) ** 2))

    def score(squares: float, terms: int) -> float:
        return count * math.log(max((squares + rest) / count, floor)) + price * terms

    return _Choice(r[:k, :k], r[:k, k], score, fit.support.shape)


def _chosen_support(choice: _Choice, support: Mask) -> Mask:
    chosen = np.zeros(support.size, bool)
    start = np.flatnonzero(support.ravel()).tolist()
    chosen[local_search(choice.a, choice.y, start, choice.score)] = True
    return chosen.reshape(support.shape)


def probabilities(choice: _Choice, support: Mask) -> Matrix:
    """Of each term (p, q), among the set `support` and all that differ from it by one term
    dropped, added, or put in the place of another.

    A set weighs ``exp(-score / 2)``, as in D. Madigan, A. E. Raftery, "Model selection and
    accounting for model uncertainty in graphical models using Occam's window", J. Am. Stat.
    Assoc. 89 (1994) 1535.
    """
    members = np.flatnonzero(support.ravel())
    others = np.flatnonzero(~support.ravel())
    q, _ = np.linalg.qr(choice.a[:, members])
    reference = _score(choice, choice.y - q @ (q.T @ choice.y), len(members))
    held, total = np.zeros(support.size), 0.0
    for kept in (members, *(np.delete(members, i) for i in range(len(members)))):
        q, _ = np.linalg.qr(choice.a[:, kept])
        residual = choice.y - q @ (q.T @ choice.y)
        gains = gains_of(choice.a - q @ (q.T @ choice.a), residual)[others]
        squares = float(residual @ residual)
        alone = math.exp((reference - choice.score(squares, len(kept))) / 2)
        larger = [choice.score(max(squares - gain, 0.0), len(kept) + 1) for gain in gains]
        weights = np.exp((reference - np.array(larger)) / 2)
        held[kept] += alone + weights.sum()
        held[others] += weights
        total += alone + weights.sum()
    return (held / total).reshape(support.shape)


def _score(choice: _Choice, residual: Vector, terms: int) -> float:
    return choice.score(float(residual @ residual), terms)

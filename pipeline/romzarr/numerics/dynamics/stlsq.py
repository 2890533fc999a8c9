"""Sparse regression b ~ G Xi on the triangular factor of [G b]; G and b are not needed.

Every fit is a QR of columns of the triangle, never normal equations. Columns are scaled to
length one and each right side too, so a coefficient is the term's *contribution*
|xi_i| ||G_i|| / ||b_j||, and thresholds, ridge and residuals mean the same for every term.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from romzarr.contracts import Matrix, SparseModel, TriangularFactor, Vector
from romzarr.numerics.dynamics.paths import Columns, Problem, addition, elimination
from romzarr.numerics.dynamics.subsets import Score, local_search
from romzarr.numerics.triangles import canonical_r

RANK_TOLERANCE = 1e-9  # sine of the angle of a column to those before it
LEAST_SIGNAL = 0.1  # share of a direction's energy that is kept at least, however noisy
# Windows that count as one observation: the peak of the spectrum of psi' (of psi) over its
# mean is 5.2 (7.1) where windows start every half a standard deviation.
OVERLAP = 8
# Of one term, in units of log(windows). Over known systems at 0 to 10 % noise, lifted or not,
# right terms are lost above 4 and false ones come in below 2.
PRICE = 2.5
SMALL_RESIDUAL = 1e-7  # of float32 samples: what is smaller is rounding
GROUP_SIZE = 2**18  # numbers held at once; equations in one group share numpy's calls


def stlsq(
    factor: TriangularFactor,
    *,
    threshold: float | None = None,
    ridge: float = 0.0,
    max_iterations: int = 50,
    names: Sequence[str] | None = None,
    price: float = PRICE,
) -> SparseModel:
    """Sequentially thresholded least squares.

    Parameters
    ----------
    factor : TriangularFactor
        If it holds ``noise``, the bias of noise is taken out first (`without_noise`).
    threshold : float, optional
        Terms that contribute less than this share of ``||b_j||`` are dropped, the rest is
        fitted again, and so on until nothing changes. None: chosen for each equation
        (`_chosen_terms`); the model then reports the smallest contribution it kept.
    ridge : float
        Weight of the squared contributions; 0 is plain least squares.
    max_iterations : int
        Rounds of dropping and fitting, for a given threshold.
    names : sequence of str, optional
        Names of the terms, for the report on dependent columns.
    price : float
        Of one term in the information criterion, in units of log(windows).

    Returns
    -------
    SparseModel
        Always: zero columns, a zero right side, fewer windows than terms or numbers that
        are not finite end in a model and its ``stop_reason``. Columns that are
        combinations of earlier ones get no coefficient and are listed in ``dependent``, so
        of redundant terms the first (in a library: the simplest) stands alone.

    References
    ----------
    .. [1] S. L. Brunton, J. L. Proctor, J. N. Kutz, "Discovering governing equations from
       data by sparse identification of nonlinear dynamical systems", PNAS 113 (2016) 3932.
    """
    _check_settings(threshold, ridge, max_iterations)
    p = factor.terms
    states = factor.r.shape[1] - p
    labels = tuple(names) if names is not None else tuple(f"term {k + 1}" for k in range(p))
    if not np.isfinite(factor.r).all():
        return _empty(p, states, threshold, "the weak system is not finite")
    if factor.windows == 0:
        return _empty(p, states, threshold, "no window fits the record")
    r = without_noise(factor).r
    free, dependent = _independent_columns(r[:, :p], labels)
    live = np.flatnonzero(np.linalg.norm(r[:, p:], axis=0)).tolist() if free else []
    sets: list[list[int]] = []
    iterations, reasons = 0, []
    if len(live) < states:
        reasons.append("zero right side" if free else "no independent terms")
    if live:
        problem = _problem(r, factor.noise, free, live, p, ridge)
        if threshold is None:
            sets, iterations = _chosen_terms(problem, factor.windows, states, free, price)
            reasons.append("information criterion")
        else:
            sets, iterations, outcomes = _thresholded(problem, threshold, max_iterations)
            reasons += outcomes
    kept = {j: [free[c] for c in columns] for j, columns in zip(live, sets, strict=True) if columns}
    coefficients, smallest, condition = _refitted(factor, kept, ridge)
    return SparseModel(
        coefficients=coefficients,
        threshold=threshold if threshold is not None else (smallest if smallest < 1e300 else 0.0),
        residual=_residual(factor.r, coefficients),
        stop_reason="; ".join(dict.fromkeys(reasons)),
        iterations=iterations,
        condition=condition,
        dependent=dependent,
    )


def _problem(
    r: Matrix,
    noise: Matrix | None,
    columns: list[int],
    equations: list[int],
    terms: int,
    ridge: float,
) -> Problem:
    """The library's `columns` and the `equations`, scaled; of equal least squares, k rows."""
    chosen = [*columns, *(terms + j for j in equations)]
    both = r[:, chosen]
    scale = np.linalg.norm(both, axis=0)
    both = both / scale
    k = len(columns)
    if ridge > 0:
        both = np.concatenate([both, math.sqrt(ridge) * np.eye(k, len(chosen))])
    triangle: Matrix = np.asarray(np.linalg.qr(both, mode="r"))
    return Problem(
        triangle[:k, :k],
        triangle[:k, k:],
        np.sum(triangle[k:, k:] ** 2, axis=0),
        np.zeros((0, len(chosen))) if noise is None else noise[:, chosen] / scale,
    )


def _refitted(
    factor: TriangularFactor, kept: Mapping[int, list[int]], ridge: float
) -> tuple[Matrix, float, float]:
    """Coefficients (p, q) of the terms kept in each equation, the smallest contribution (infinite:
    there is none), and the largest condition."""
    p = factor.terms
    coefficients, smallest, condition = np.zeros((p, factor.r.shape[1] - p)), math.inf, 1.0
    for j, columns in kept.items():
        values, span = _refit(factor, columns, j, ridge)
        smallest = min(smallest, float(np.min(np.abs(values))))
        condition = max(condition, span)
        size = float(np.linalg.norm(factor.r[:, p + j]))
        coefficients[columns, j] = values * size / np.linalg.norm(factor.r[:, columns], axis=0)
    return coefficients, smallest, condition


def _refit(
    factor: TriangularFactor, kept: list[int], equation: int, ridge: float
) -> tuple[Vector, float]:
    """Contributions of the terms `kept` and the condition of their columns.

    The noise is taken out of these columns alone: in the whole library some directions
    may hold nothing but noise, and what is kept of them would leak into the terms.
    """
    columns = [*kept, factor.terms + equation]
    alone = TriangularFactor(
        _triangle(factor.r[:, columns]),
        len(kept),
        factor.windows,
        None if factor.noise is None else _triangle(factor.noise[:, columns]),
    )
    scale = np.linalg.norm(alone.r, axis=0)
    k = len(kept)
    r = without_noise(alone).r / scale
    penalty = math.sqrt(ridge) * np.eye(k, k + 1)
    both = np.concatenate([r, penalty])
    values, _, _, spectrum = np.linalg.lstsq(both[:, :k], both[:, k], rcond=None)
    # Of a mode that has just come the features are still zero.
    with np.errstate(divide="ignore", invalid="ignore"):
        return values, float(np.divide(spectrum[0], spectrum[-1]))


def _triangle(columns: Matrix) -> Matrix:
    return canonical_r(columns)[: columns.shape[1]]


def _check_settings(threshold: float | None, ridge: float, max_iterations: int) -> None:
    if threshold is not None and not 0 <= threshold < math.inf:
        raise ValueError(f"threshold must be 0 or more, got {threshold!r}")
    if not 0 <= ridge < math.inf:
        raise ValueError(f"ridge must be 0 or more, got {ridge!r}")
    if max_iterations < 1:
        raise ValueError(f"max_iterations must be 1 or more, got {max_iterations!r}")


def _empty(terms: int, states: int, threshold: float | None, reason: str) -> SparseModel:
    return SparseModel(np.zeros((terms, states)), threshold or 0.0, np.ones(states), reason)


def _residual(r: Matrix, coefficients: Matrix) -> Vector:
    p = len(coefficients)
    left = np.linalg.norm(r[:, p:] - r[:, :p] @ coefficients, axis=0)
    size = np.linalg.norm(r[:, p:], axis=0)
    return np.divide(left, size, out=np.zeros_like(left), where=size > 0)


def without_noise(factor: TriangularFactor) -> TriangularFactor:
    """Factor of ``r.T r - noise.T noise``, for b only in its products with G.

    With ``noise r^-1 = N`` the difference is ``r.T (I - N.T N) r``, whose square root is
    symmetric and well conditioned, so nothing is squared that was small. Eigenvalues of
    the middle are kept above `LEAST_SIGNAL`: in a direction where noise is all there is,
    its estimate is as random as the signal. The noise of b itself stays, as it belongs to
    the residual.
    """
    if factor.noise is None or not np.isfinite(factor.noise).all():
        return factor
    p = factor.terms
    _, s, vt = np.linalg.svd(factor.r)
    kept = s > 1e-12 * s[0]
    whiten = vt[kept].T / s[kept]
    shares = factor.noise @ whiten
    own = factor.noise[:, p:] @ whiten[p:]
    values, vectors = np.linalg.eigh(np.eye(shares.shape[1]) - shares.T @ shares + own.T @ own)
    root = (vectors * np.sqrt(np.maximum(values, LEAST_SIGNAL))) @ vectors.T
    r = canonical_r((root * s[kept]) @ vt[kept])
    r = np.pad(r, ((0, len(factor.r) - len(r)), (0, 0)))
    return TriangularFactor(r, p, factor.windows)


def _independent_columns(
    columns: Matrix, names: tuple[str, ...]
) -> tuple[list[int], tuple[str, ...]]:
    """Columns that are no combination of earlier ones, and the others in words."""
    sizes = np.linalg.norm(columns, axis=0)
    largest = float(sizes.max(initial=0.0))
    basis = np.zeros_like(columns)
    kept: list[int] = []
    words: list[str] = []
    for i in range(columns.shape[1]):
        if sizes[i] <= 1e-14 * largest or sizes[i] == 0.0:
            words.append(f"{names[i]} = 0")
            continue
        unit = columns[:, i] / sizes[i]
        q = basis[:, : len(kept)]
        for _ in range(2):  # twice is enough (Kahan, Parlett)
            unit = unit - q @ (q.T @ unit)
        sine = float(np.linalg.norm(unit))
        if sine > RANK_TOLERANCE and len(kept) < len(columns):
            basis[:, len(kept)] = unit / sine
            kept.append(i)
        else:
            words.append(f"{names[i]} = {_combination(columns, sizes, kept, i, names)}")
    return kept, tuple(words)


def _combination(
    columns: Matrix, sizes: Vector, kept: list[int], i: int, names: tuple[str, ...]
) -> str:
    """Column i as a combination of the columns `kept`, its five largest parts."""
    scaled = columns[:, kept] / sizes[kept]
    parts = np.linalg.lstsq(scaled, columns[:, i] / sizes[i], rcond=None)[0]
    order = np.argsort(-np.abs(parts), kind="stable")
    shown = [k for k in order[:5] if abs(parts[k]) > 1e-6]
    text = " + ".join(
        f"{parts[k] * sizes[i] / sizes[kept[k]]:.4g} ({names[kept[k]]})" for k in shown
    )
    more = int(np.count_nonzero(np.abs(parts) > 1e-6)) - len(shown)
    return text + (f" + {more} more" if more else "")


def _thresholded(
    problem: Problem, threshold: float, max_iterations: int
) -> tuple[list[list[int]], int, list[str]]:
    """Columns of each equation, the most rounds that one took, and why each ended."""
    sets, most, reasons = [], 0, []
    for y in problem.y.T:
        columns, rounds, reason = list(range(len(y))), 0, "iteration limit"
        while rounds < max_iterations:
            rounds += 1
            values = np.linalg.lstsq(problem.a[:, columns], y, rcond=None)[0]
            large = [c for c, v in zip(columns, values, strict=True) if abs(v) >= threshold]
            if len(large) == len(columns):
                reason = "fixed point" if large else "every term below the threshold"
                break
            columns = large
        sets.append(columns)
        most = max(most, rounds)
        reasons.append(reason)
    return sets, most, reasons


def _chosen_terms(
    problem: Problem, windows: int, states: int, free: list[int], price: float
) -> tuple[list[list[int]], int]:
    """Columns of each equation by an information criterion, and how many sets it compared.

    The criterion is the Bayesian one, ``n log(residual) + price * terms * log(windows)``, with
    the windows counted as ``n = windows / OVERLAP`` observations because they share samples,
    and a price for the size of the library after Chen & Chen, "Extended Bayesian information
    criteria for model selection with large model spaces", Biometrika 95 (2008) 759.
    """
    criterion = _Criterion(windows / OVERLAP, price * math.log(max(windows, 2)))
    k, equations = problem.y.shape
    group = max(1, GROUP_SIZE // k**2)
    sets: list[list[int]] = []
    compared = 0
    for first in range(0, equations, group):
        some = problem.equations(slice(first, first + group))
        found, count = _best_sets(some, _nested_libraries(free, states), criterion)
        sets += found
        compared = max(compared, count)
    return sets, compared


@dataclass(frozen=True)
class _Criterion:
    """Observations n and the price of one term."""

    observations: float
    price: float

    def scores(self, found: list[tuple[Columns, Vector]], noise: Vector) -> Matrix:
        """Scores (s, q) of sets of terms with their squared residuals; the least is the best.

        `noise` (q,) belongs to the residuals too, but was taken out of the system.
        """
        residuals = np.array([residual for _, residual in found])
        sizes = np.array([columns.shape[1] for columns, _ in found])
        scores: Matrix = self.observations * np.log(residuals + noise + SMALL_RESIDUAL**2)
        return scores + self.price * sizes[:, None]

    def of_one(self, rest: float) -> Score:
        """Score of a set for one equation, with `rest` of its squared residual apart."""

        def score(squares: float, terms: int) -> float:
            return self.observations * math.log(squares + rest) + self.price * terms

        return score


def _best_sets(
    problem: Problem, libraries: list[int], criterion: _Criterion
) -> tuple[list[list[int]], int]:
    """The best set of columns on several paths, for each equation; how many were compared.

    Paths: dropping one term at a time, that with the smallest loss first, from each smaller
    library that the whole contains (on short or periodic records high degrees mimic low ones)
    and from the whole; adding one at a time; and, from the best set that adding found,
    dropping again. What is best on these paths is where `local_search` starts.
    """
    equations = problem.y.shape[1]
    found: list[tuple[Columns, Vector]] = []
    for count in libraries:
        whole = len(found)
        found += elimination(problem, np.arange(count)[None])
    noise = np.zeros(equations)
    scores = criterion.scores(found, noise)
    # No set has a smaller residual than the whole library, which bounds the size of better ones.
    spare = float(np.max((scores.min(axis=0) - scores[whole]) / criterion.price))
    eliminated = len(found)
    found += addition(problem, len(problem.a) + int(spare))
    for _ in range(2):  # what the first choice says of the noise serves for the second
        best = np.argmin(criterion.scores(found, noise), axis=0)
        sets = [found[s][0][e] for e, s in enumerate(best)]
        noise = np.array([problem.noise_of(columns, e) for e, columns in enumerate(sets)])
    for e in np.flatnonzero(best >= eliminated):
        path = list(elimination(problem.equations(slice(e, e + 1)), sets[e][None]))
        sets[e] = path[int(np.argmin(criterion.scores(path, noise[e : e + 1])))][0][0]
    rests = problem.rest + noise + SMALL_RESIDUAL**2
    chosen = [
        local_search(problem.a, y, columns, criterion.of_one(float(rest)))
        for y, columns, rest in zip(problem.y.T, sets, rests, strict=True)
    ]
    return chosen, len(found)


def _nested_libraries(free: list[int], states: int) -> list[int]:
    """How many of the columns `free` are monomials up to degree 1, 2, ..., and all of them."""
    counts, degree = {len(free)}, 1
    while math.comb(states + degree, degree) <= free[-1]:
        terms = math.comb(states + degree, degree)
        counts.add(sum(1 for column in free if column < terms))
        degree += 1
    return sorted(counts - {0})

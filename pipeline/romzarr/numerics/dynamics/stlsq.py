"""Sparse regression b ~ G Xi on the triangular factor of [G b]; G and b are not needed.

Every fit is a QR of columns of the triangle, never normal equations. Columns are scaled to
length one and each right side too, so a coefficient is the term's *contribution*
|xi_i| ||G_i|| / ||b_j||, and thresholds, ridge and residuals mean the same for every term.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from romzarr.contracts import Matrix, SparseModel, TriangularFactor, Vector
from romzarr.numerics.dynamics.subsets import Score, local_search
from romzarr.numerics.triangles import canonical_r

Columns = NDArray[np.intp]

RANK_TOLERANCE = 1e-9  # sine of the angle of a column to those before it
LEAST_SIGNAL = 0.1  # share of a direction's energy that is kept at least, however noisy
# Windows that count as one observation: the peak of the spectrum of psi' (of psi) over its
# mean is 5.2 (7.1) where windows start every half a standard deviation.
OVERLAP = 8
# Of one term, in units of log(windows). Over known systems at 0 to 10 % noise, lifted or not,
# right terms are lost above 4 and false ones come in below 2.
PRICE = 2.5
SMALL_RESIDUAL = 1e-7  # of float32 samples: what is smaller is rounding
LONGEST_ADDITION = 40
ADDED_SINE = 1e-6  # as RANK_TOLERANCE, while terms are added: squares lose half the digits
ONE_BY_ONE = 48  # columns above this are eliminated a tenth at a time
GROUP_SIZE = 2**18  # numbers held at once; equations in one group share numpy's calls


@dataclass(frozen=True)
class _Problem:
    """Scaled columns `a` (k, k), scaled right sides `y` (k, q) of all equations, and `rest`
    (q,), the squared part of y that no column reaches. `noise` (m, k + q) was taken out of
    the columns and right sides (none of it, if m is 0)."""

    a: Matrix
    y: Matrix
    rest: Vector
    noise: Matrix

    def equations(self, some: slice) -> _Problem:
        """The problem of some equations."""
        k = len(self.a)
        noise = np.concatenate([self.noise[:, :k], self.noise[:, k:][:, some]], axis=1)
        return _Problem(self.a, self.y[:, some], self.rest[some], noise)

    def noise_of(self, columns: Columns, equation: int) -> float:
        """Squared residual that the noise of these columns makes in the least-squares fit.

        That of the right side is in its residual already (`without_noise`).
        """
        if not len(self.noise):
            return 0.0
        values = np.linalg.lstsq(self.a[:, columns], self.y[:, equation], rcond=None)[0]
        own = self.noise[:, len(self.a) + equation]
        both = own - self.noise[:, columns] @ values
        return max(float(both @ both - own @ own), 0.0)


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
    coefficients = np.zeros((p, states))
    smallest, condition, iterations = math.inf, 1.0, 0
    reasons = []
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
        for j, columns in zip(live, sets, strict=True):
            if columns:
                kept = [free[c] for c in columns]
                values, span = _refit(factor, kept, j, ridge)
                smallest = min(smallest, float(np.min(np.abs(values))))
                condition = max(condition, span)
                size = float(np.linalg.norm(factor.r[:, p + j]))
                coefficients[kept, j] = values * size / np.linalg.norm(factor.r[:, kept], axis=0)
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
) -> _Problem:
    """The library's `columns` and the `equations`, scaled; of equal least squares, k rows."""
    chosen = [*columns, *(terms + j for j in equations)]
    both = r[:, chosen]
    scale = np.linalg.norm(both, axis=0)
    both = both / scale
    k = len(columns)
    if ridge > 0:
        both = np.concatenate([both, math.sqrt(ridge) * np.eye(k, len(chosen))])
    triangle: Matrix = np.asarray(np.linalg.qr(both, mode="r"))
    return _Problem(
        triangle[:k, :k],
        triangle[:k, k:],
        np.sum(triangle[k:, k:] ** 2, axis=0),
        np.zeros((0, len(chosen))) if noise is None else noise[:, chosen] / scale,
    )


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
    problem: _Problem, threshold: float, max_iterations: int
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
    problem: _Problem, windows: int, states: int, free: list[int], price: float
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
    problem: _Problem, libraries: list[int], criterion: _Criterion
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
        found += _elimination(problem, np.arange(count)[None])
    noise = np.zeros(equations)
    scores = criterion.scores(found, noise)
    # No set has a smaller residual than the whole library, which bounds the size of better ones.
    spare = float(np.max((scores.min(axis=0) - scores[whole]) / criterion.price))
    eliminated = len(found)
    found += _addition(problem, len(problem.a) + int(spare))
    for _ in range(2):  # what the first choice says of the noise serves for the second
        best = np.argmin(criterion.scores(found, noise), axis=0)
        sets = [found[s][0][e] for e, s in enumerate(best)]
        noise = np.array([problem.noise_of(columns, e) for e, columns in enumerate(sets)])
    for e in np.flatnonzero(best >= eliminated):
        path = list(_elimination(problem.equations(slice(e, e + 1)), sets[e][None]))
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


def _elimination(problem: _Problem, start: Columns) -> Iterator[tuple[Columns, Vector]]:
    """Fewer and fewer columns (q, m) of each equation, and their squared residuals (q,).

    Row i of the pseudoinverse is the part of column i that is orthogonal to the others, over
    its squared length. So the coefficients are ``rows @ y``, to drop column i adds
    ``(coefficient i / |row i|)^2`` to the squared residual, and the other rows then lose their
    part along row i. That is a step of Gram-Schmidt and squares nothing; but rounding stays of
    the size of the first rows, so they are made anew when three quarters of the columns are
    gone. Many columns go a tenth at a time.
    """
    y = problem.y.T[:, :, None]
    each = np.arange(len(y))[:, None]
    columns = start  # one row: all equations share the first pseudoinverse
    while columns.shape[1]:
        rows = _pseudoinverse(problem.a, columns)
        rows = np.broadcast_to(rows, (len(y), *rows.shape[1:]))
        columns = np.broadcast_to(columns, rows.shape[:2])
        values = rows @ y
        left = y - problem.a.T[columns].swapaxes(1, 2) @ values
        residual = np.sum(left[:, :, 0] ** 2, axis=1) + problem.rest
        quarter = columns.shape[1] // 4
        while columns.shape[1] > quarter:
            yield columns, residual
            m = columns.shape[1]
            drop = 1 if m <= ONE_BY_ONE else m // 10
            losses = values[:, :, 0] ** 2 / np.einsum("emk,emk->em", rows, rows)
            order = np.argsort(losses, axis=1, kind="stable")
            gone, stay = order[:, :drop], order[:, drop:]
            away = _orthonormal(rows[each, gone])
            parts = away @ y
            residual = residual + np.sum(parts[:, :, 0] ** 2, axis=1)
            rows, values, columns = rows[each, stay], values[each, stay], columns[each, stay]
            shared = rows @ away.swapaxes(1, 2)
            rows -= shared @ away
            values -= shared @ parts
    yield columns, np.sum(problem.y**2, axis=0) + problem.rest


def _pseudoinverse(a: Matrix, columns: Columns) -> Matrix:
    """Pseudoinverses (e, m, k) of the `columns` (e, m) of `a`."""
    q, r = np.linalg.qr(a.T[columns].swapaxes(1, 2))
    inverse: Matrix = np.linalg.solve(r, q.swapaxes(1, 2))
    return inverse


def _orthonormal(rows: Matrix) -> Matrix:
    """Orthonormal rows that span each of `rows` (e, d, k)."""
    if rows.shape[1] == 1:
        return rows / np.linalg.norm(rows, axis=2, keepdims=True)
    return np.linalg.qr(rows.swapaxes(1, 2))[0].swapaxes(1, 2)


def _addition(problem: _Problem, most: int) -> Iterator[tuple[Columns, Vector]]:
    """More and more columns (q, m) of each equation, up to `most`, and squared residuals (q,).

    Always the column that lowers the residual most: orthogonal least squares after S. Chen,
    S. A. Billings, W. Luo, "Orthogonal least squares methods and their application to
    non-linear system identification", Int. J. Control 50 (1989) 1873.
    """
    k, equations = problem.y.shape
    each = np.arange(equations)
    residual = problem.y.T.copy()
    # Squared lengths of what the columns have outside the span of the chosen ones.
    sizes = np.tile(np.sum(problem.a**2, axis=0), (equations, 1))
    basis = np.zeros((equations, 0, k))
    columns = np.zeros((equations, 0), np.intp)
    for _ in range(min(most, k, LONGEST_ADDITION)):
        sizes[sizes < ADDED_SINE**2] = np.inf
        best = np.argmax((residual @ problem.a) ** 2 / sizes, axis=1)
        if np.isinf(sizes[each, best]).any():
            return
        direction = problem.a.T[best][:, None]
        for _ in range(2):  # twice is enough (Kahan, Parlett)
            direction = direction - (direction @ basis.swapaxes(1, 2)) @ basis
        direction /= np.linalg.norm(direction, axis=2, keepdims=True)
        basis = np.concatenate([basis, direction], axis=1)
        columns = np.concatenate([columns, best[:, None]], axis=1)
        residual -= np.sum(direction[:, 0] * residual, axis=1, keepdims=True) * direction[:, 0]
        sizes -= (direction[:, 0] @ problem.a) ** 2
        sizes[each, best] = np.inf
        yield columns, np.sum(residual**2, axis=1) + problem.rest

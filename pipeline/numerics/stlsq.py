"""Sparse regression b ~ G Xi on the triangular factor of [G b]; G and b are not needed.

Every fit is a QR of columns of the triangle, never normal equations. Columns are scaled to
length one and each right side too, so a coefficient is the term's *contribution*
|xi_i| ||G_i|| / ||b_j||, and thresholds, ridge and residuals mean the same for every term.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dtrtri, dtrtrs

from pipeline.contracts import SparseModel, TriangularFactor
from pipeline.numerics.weakform import canonical_r

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

RANK_TOLERANCE = 1e-9  # sine of the angle of a column to those before it
LEAST_SIGNAL = 0.1  # share of a direction's energy that is kept at least, however noisy
OVERLAP = 8  # neighbouring windows share samples: so many count as one observation
PRICE = 4  # of one term, in units of log(windows)
SMALL_RESIDUAL = 1e-7  # of float32 samples: what is smaller is rounding
LONGEST_FORWARD = 40
ONE_BY_ONE = 48  # columns above this are eliminated a tenth at a time


@dataclass(frozen=True)
class _Fit:
    """Least squares on a set of scaled columns."""

    columns: tuple[int, ...]
    values: Vector
    residual: float  # squared, relative to ||b||^2
    losses: Vector  # rise of the residual's norm when one column is taken away


@dataclass(frozen=True)
class _Problem:
    """One equation: scaled columns `a` (k, p), scaled right side `y` (k,), `rest` = the
    squared part of y that no column reaches."""

    a: Matrix
    y: Vector
    rest: float
    ridge: float

    def fit(self, columns: Sequence[int]) -> _Fit:
        chosen = tuple(columns)
        if not chosen:
            empty = np.zeros(0)
            return _Fit(chosen, empty, float(self.y @ self.y) + self.rest, empty)
        both = np.column_stack([self.a[:, chosen], self.y])
        if self.ridge > 0:
            penalty = math.sqrt(self.ridge) * np.eye(len(chosen), len(chosen) + 1)
            both = np.concatenate([both, penalty])
        k = len(chosen)
        triangle: Matrix = np.asarray(np.linalg.qr(both, mode="r"))
        r, projection = triangle[:k, :k], triangle[:k, k]
        values, singular = dtrtrs(r, projection)
        if singular:
            values = np.linalg.lstsq(r, projection, rcond=None)[0]
        inverse, singular = dtrtri(r)
        losses = np.zeros(k) if singular else np.abs(values) / np.linalg.norm(inverse, axis=1)
        left = self.y - self.a[:, chosen] @ values
        return _Fit(chosen, values, float(left @ left) + self.rest, losses)


def stlsq(
    factor: TriangularFactor,
    *,
    threshold: float | None = None,
    ridge: float = 0.0,
    max_iterations: int = 50,
    names: Sequence[str] | None = None,
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
    coefficients = np.zeros((p, states))
    smallest, condition, iterations, reasons = math.inf, 1.0, 0, []
    for j in range(states):
        size = float(np.linalg.norm(r[:, p + j]))
        if size == 0.0 or not free:
            reasons.append("zero right side" if size == 0.0 else "no independent terms")
            continue
        fit, rounds, reason = _search(
            _problem(r, free, p, j, ridge), threshold, max_iterations, factor.windows, states, free
        )
        reasons.append(reason)
        iterations = max(iterations, rounds)
        if fit.columns:
            kept = [free[c] for c in fit.columns]
            fit, span = _refit(factor, kept, j, ridge)
            smallest = min(smallest, float(np.min(np.abs(fit.values))))
            condition = max(condition, span)
            size = float(np.linalg.norm(factor.r[:, p + j]))
            coefficients[kept, j] = fit.values * size / np.linalg.norm(factor.r[:, kept], axis=0)
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
    r: Matrix, columns: Sequence[int], terms: int, equation: int, ridge: float
) -> _Problem:
    """Equation `equation` with the library's `columns`, scaled."""
    a, y = r[:, list(columns)], r[:, terms + equation]
    size = float(np.linalg.norm(y))
    return _Problem(
        a[:terms] / np.linalg.norm(a, axis=0),
        y[:terms] / size,
        float(np.sum((y[terms:] / size) ** 2)),
        ridge,
    )


def _search(
    problem: _Problem,
    threshold: float | None,
    max_iterations: int,
    windows: int,
    states: int,
    free: list[int],
) -> tuple[_Fit, int, str]:
    if threshold is None:
        return _chosen_terms(problem, windows, states, free)
    return _thresholded(problem, threshold, max_iterations)


def _refit(
    factor: TriangularFactor, kept: list[int], equation: int, ridge: float
) -> tuple[_Fit, float]:
    """Fit of the terms `kept` and the condition of their columns.

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
    r = without_noise(alone).r / scale
    k = len(kept)
    problem = _Problem(r[:k, :k], r[:k, k], float(r[k, k] ** 2), ridge)
    return problem.fit(range(k)), float(np.linalg.cond(problem.a))


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


def _thresholded(problem: _Problem, threshold: float, max_iterations: int) -> tuple[_Fit, int, str]:
    fit = problem.fit(range(problem.a.shape[1]))
    for rounds in range(1, max_iterations + 1):
        large = [c for c, v in zip(fit.columns, fit.values, strict=True) if abs(v) >= threshold]
        if len(large) == len(fit.columns):
            return fit, rounds, "fixed point" if large else "every term below the threshold"
        fit = problem.fit(large)
    return fit, max_iterations, "iteration limit"


def _chosen_terms(
    problem: _Problem, windows: int, states: int, free: list[int]
) -> tuple[_Fit, int, str]:
    """The best set of terms on several paths, by an extended information criterion.

    Paths: thresholding one term at a time, that with the smallest loss first, from the whole
    library and from each smaller one that it contains (the terms up to degree 1, 2, ...:
    on short or periodic records high degrees mimic low ones); and adding terms one at a
    time (orthogonal matching pursuit). The criterion is the Bayesian one,
    ``n log(residual) + price * terms * log(windows)``, with the windows counted as
    ``n = windows / OVERLAP`` observations because they share samples, and a price for the size
    of the library after Chen & Chen, "Extended Bayesian information criteria for model
    selection with large model spaces", Biometrika 95 (2008) 759. Its two constants were set on
    Lorenz, Van der Pol, Lotka-Volterra and a linear oscillator at 0 to 10 % noise.
    """
    fits = _forward(problem)
    for count in _nested_libraries(free, states):
        fits += _backward(problem, count)
    scores = [
        windows / OVERLAP * math.log(fit.residual + SMALL_RESIDUAL**2)
        + PRICE * math.log(max(windows, 2)) * len(fit.columns)
        for fit in fits
    ]
    return fits[int(np.argmin(scores))], len(fits), "information criterion"


def _nested_libraries(free: list[int], states: int) -> list[int]:
    """How many of the columns `free` are monomials up to degree 1, 2, ..., and all of them."""
    counts, degree = {len(free)}, 1
    while math.comb(states + degree, degree) <= free[-1]:
        terms = math.comb(states + degree, degree)
        counts.add(sum(1 for column in free if column < terms))
        degree += 1
    return sorted(counts - {0})


def _backward(problem: _Problem, count: int) -> list[_Fit]:
    columns = list(range(count))
    fits = []
    while columns:
        fit = problem.fit(columns)
        fits.append(fit)
        drop = 1 if len(columns) <= ONE_BY_ONE else len(columns) // 10
        least = set(np.argsort(fit.losses, kind="stable")[:drop].tolist())
        columns = [c for k, c in enumerate(columns) if k not in least]
    return [*fits, problem.fit(())]


def _forward(problem: _Problem) -> list[_Fit]:
    left, residual = problem.a.copy(), problem.y.copy()
    chosen: list[int] = []
    fits = []
    none = np.zeros(0)  # coefficients are not needed to compare these sets
    for _ in range(min(problem.a.shape[1], LONGEST_FORWARD)):
        size = np.sum(left * left, axis=0)
        usable = size > RANK_TOLERANCE**2
        usable[chosen] = False
        if not usable.any():
            break
        gain = np.where(usable, (residual @ left) ** 2 / np.where(usable, size, 1.0), -1.0)
        best = int(np.argmax(gain))
        direction = left[:, best] / math.sqrt(size[best])
        left -= np.outer(direction, direction @ left)
        residual -= direction * (direction @ residual)
        chosen.append(best)
        energy = float(residual @ residual) + problem.rest
        fits.append(_Fit(tuple(sorted(chosen)), none, energy, none))
    return fits

"""The most likely coefficients of a model with given terms, and how sure they are.

Gauss-Newton's method for the least squares of `romzarr.numerics.dynamics.shooting`. The variance
of the noise is unknown, and so is by how much the record breaks the model: both are those of the
largest likelihood. A record that is no trajectory of the model at all then gives wide errors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.linalg import solve_triangular

from romzarr.contracts import Mask, Matrix, Vector
from romzarr.numerics.dynamics.integrate import Dynamics
from romzarr.numerics.dynamics.library import Library
from romzarr.numerics.dynamics.shooting import Columns, Record, Whitening, advance, linearised
from romzarr.numerics.triangles import is_regular

# What is smaller of a state's rms is rounding: half a unit in the last place of float32.
ROUNDING = 2.0**-24
# Differences up to this order are tried: of samples dense enough to be modelled, higher ones
# of the signal do not become smaller than its rounding.
MOST_DIFFERENCES = 10
# Variance, over that of the noise, by which each step may break the model at first, so that states
# are those of smoothing over a few samples; and the ratio of one such variance to the next.
FIRST_BROKEN, BROKEN_RATIO = 0.1, 0.1
# The last before none: noise that wanders so little in so many steps shows in no record.
LAST_BROKEN = 1e-7
# With noise and model of a like size records are smoothed no more.
MOST_BROKEN = 1e3
MOST_STEPS = 15  # of Gauss and Newton, which take three to six
SETTLED = 0.01  # change in standard errors that ends them, and relative one of the noise
# Substeps of the method of order 8 from sample to sample: at first, at most, and the share of the
# noise that its error may be.
SUBSTEPS, MOST_SUBSTEPS, STEP_ERROR = 2, 32, 0.1


@dataclass(frozen=True)
class Guess:
    """Coefficients (p, q), states of each record, noise (q,) and ``broken``, the variance by
    which a step may break the model over that of the noise; integrated in ``substeps``."""

    coefficients: Matrix
    states: tuple[Matrix, ...]
    noise: Vector
    broken: float
    substeps: int = SUBSTEPS


@dataclass(frozen=True)
class Fit:
    """The most likely `guess` for the terms `support` (p, q).

    ``deviance`` is minus twice the logarithm of the likelihood but for a constant, ``variance``
    of the whitened residuals (1 where the noise is all there is), ``covariance`` (k, k) that of
    the coefficients in the order of ``np.nonzero(support)``.
    """

    guess: Guess
    support: Mask
    deviance: float
    variance: float
    covariance: Matrix
    converged: bool

    @property
    def coefficients(self) -> Matrix:
        return self.guess.coefficients

    @cached_property
    def standard_errors(self) -> Matrix:
        """(p, q), zero for terms that are not there."""
        errors = np.zeros(self.support.shape)
        errors[self.support] = np.sqrt(np.diag(self.covariance))
        return errors


class _Linearised:
    """The constraint of one record about a guess, whitened."""

    def __init__(self, record: Record, states: Matrix, model: Dynamics, guess: Guess) -> None:
        steps = linearised(model, states[:-1], np.diff(record.times), guess.substeps)
        self._steps, self._noise = steps, guess.noise
        self.whitening = Whitening(steps.start * guess.noise / guess.noise[:, None], guess.broken)
        away = np.einsum("mij,mj->mi", steps.start, record.states[:-1] - states[:-1])
        defect = (record.states[1:] - steps.end - away) / guess.noise
        self.defect = self.whitening(defect.reshape(-1, 1))[:, 0]

    def columns(self, terms: Columns, equations: Columns) -> Matrix:
        columns = self._steps.columns(terms, equations) / self._noise[:, None]
        return self.whitening(columns.reshape(len(self.defect), len(terms)))


class LinearSystem:
    """The whitened ``y = B xi`` of all records about a guess.

    Raises
    ------
    numpy.linalg.LinAlgError
        If the model leaves the finite numbers.
    """

    def __init__(self, records: Sequence[Record], library: Library, guess: Guess) -> None:
        self._parts, self._coefficients = _linearised(records, library, guess), guess.coefficients

    @property
    def size(self) -> int:
        """Number of rows."""
        return sum(len(part.defect) for part in self._parts)

    def columns(self, terms: Columns, equations: Columns) -> Matrix:
        """B for the k pairs of a term and its equation, (size, k)."""
        return np.concatenate([part.columns(terms, equations) for part in self._parts])

    def right(self) -> Vector:
        """y (size,)."""
        support = np.nonzero(self._coefficients)
        defect = np.concatenate([part.defect for part in self._parts])
        return defect + self.columns(*support) @ self._coefficients[support]


def _linearised(records: Sequence[Record], library: Library, guess: Guess) -> list[_Linearised]:
    model = Dynamics(library, guess.coefficients)
    return [
        _Linearised(record, states, model, guess)
        for record, states in zip(records, guess.states, strict=True)
    ]


def rounding(records: Sequence[Record]) -> Vector:
    """What is rounding of each state (q,)."""
    every = np.concatenate([record.states for record in records])
    return np.asarray(ROUNDING * np.sqrt(np.mean(every**2, axis=0)))


def first_noise(records: Sequence[Record]) -> Vector:
    """Standard deviation (q,) of noise, from above: the least that differences leave.

    Differences of order k multiply the variance of white noise by binomial (2 k, k), and take
    away more and more of a signal that is sampled finely.
    """
    least = np.full(records[0].states.shape[1], np.inf)
    for order in range(1, MOST_DIFFERENCES + 1):
        differences = [np.diff(record.states, order, axis=0) for record in records]
        every = np.concatenate(differences)
        if len(every):
            least = np.minimum(least, np.mean(every**2, axis=0) / math.comb(2 * order, order))
    return np.sqrt(least + rounding(records) ** 2)


def most_likely(
    records: Sequence[Record], library: Library, support: Mask, coefficients: Matrix, noise: Vector
) -> Fit | None:
    """The fit of the terms `support` (p, q), from a first guess of coefficients and noise.

    None if there is none: the model runs away between samples, however much it may be broken.
    """
    states = tuple(record.states for record in records)
    guess = Guess(np.where(support, coefficients, 0.0), states, noise, FIRST_BROKEN)
    found: list[Fit] = []
    while guess.broken >= LAST_BROKEN:
        fit = _step(records, library, guess, support)
        if fit is None:
            break
        found.append(fit)
        guess = replace(fit.guess, broken=guess.broken * BROKEN_RATIO)
    else:
        unbroken = _settled(records, library, replace(guess, broken=0.0), support)
        found += [unbroken] if unbroken else []
    return _chosen(records, library, support, found)


def _chosen(
    records: Sequence[Record], library: Library, support: Mask, found: list[Fit]
) -> Fit | None:
    """The likeliest of the fits `found`, settled; a model that is broken has to pay."""
    if not found:
        return None
    if found[-1] is not found[0] and found[-1].guess.broken == 0:
        size = sum(record.states[1:].size for record in records)
        least = min(fit.deviance for fit in found)
        if found[-1].deviance <= least + math.log(size):
            return found[-1]
    best = min(found, key=lambda fit: fit.deviance)
    if best is found[0]:
        best = _more_broken(records, library, support, best)
    return _settled(records, library, best.guess, support)


def _more_broken(records: Sequence[Record], library: Library, support: Mask, best: Fit) -> Fit:
    while best.guess.broken < MOST_BROKEN:
        guess = replace(best.guess, broken=best.guess.broken / BROKEN_RATIO)
        fit = _step(records, library, guess, support)
        if fit is None or fit.deviance >= best.deviance:
            break
        best = fit
    return best


def _settled(
    records: Sequence[Record], library: Library, guess: Guess, support: Mask
) -> Fit | None:
    """The fit on which the method settles.

    With enough substeps for the noise that it leaves, and with more where it does not settle as
    its derivatives are too coarse. None if no substeps are enough: what is then fitted is a map,
    that of the numerical method, and not the equations.
    """
    best, substeps = None, _substeps(records, library, guess)
    while substeps is not None:
        fit = _repeated(records, library, replace(guess, substeps=substeps), support)
        if fit is None or (best is not None and fit.deviance >= best.deviance):
            return best
        enough = _substeps(records, library, fit.guess)
        if enough == substeps:
            best = fit
            if fit.converged or fit.guess.broken > 0 or substeps >= MOST_SUBSTEPS:
                return best
            enough = 2 * substeps
        guess, substeps = fit.guess, enough
    return best


def _repeated(
    records: Sequence[Record], library: Library, guess: Guess, support: Mask
) -> Fit | None:
    """Steps of Gauss and Newton until nothing changes; without broken steps the noise too.

    Over many Lyapunov times the method may lead away again, as it leaves out how the constraint
    curves: the likeliest step counts.
    """
    best = None
    for _ in range(MOST_STEPS):
        fit = _step(records, library, guess, support)
        if fit is None or (best is not None and fit.deviance > best.deviance + SETTLED):
            break
        after = fit.guess
        if guess.broken == 0:
            after = replace(after, noise=_noise_left(records, after, int(support.sum())))
        change = np.abs(after.coefficients - guess.coefficients)[support]
        errors = fit.standard_errors[support]
        settled = bool((change <= SETTLED * errors).all()) and bool(
            np.max(np.abs(after.noise / guess.noise - 1)) <= SETTLED
        )
        guess, best = after, replace(fit, guess=after, converged=settled)
        if settled:
            break
    return best


def _substeps(records: Sequence[Record], library: Library, guess: Guess) -> int | None:
    """As many that twice as many change no step by more than `STEP_ERROR` of the noise; None if
    so many are too many."""
    model = Dynamics(library, guess.coefficients)
    substeps = guess.substeps
    coarse = _ends(records, model, guess.states, substeps)
    while substeps <= MOST_SUBSTEPS:
        fine = _ends(records, model, guess.states, 2 * substeps)
        with np.errstate(all="ignore"):
            error = np.sqrt(np.mean((fine - coarse) ** 2, axis=0)) / guess.noise
        if (error <= STEP_ERROR).all():
            return substeps
        substeps, coarse = 2 * substeps, fine
    return None


def _ends(
    records: Sequence[Record], model: Dynamics, states: Sequence[Matrix], substeps: int
) -> Matrix:
    """Where all steps from the `states` of each record lead."""
    return np.concatenate(
        [
            advance(model, each[:-1], np.diff(record.times), substeps)
            for record, each in zip(records, states, strict=True)
        ]
    )


def _noise_left(records: Sequence[Record], guess: Guess, terms: int) -> Vector:
    """Noise (q,) that the states leave of the records, for as many free numbers as there are."""
    squares = [
        np.sum((record.states - states) ** 2, axis=0)
        for record, states in zip(records, guess.states, strict=True)
    ]
    each = sum(len(record.states) for record in records)
    q = len(guess.noise)
    free = max(each * q - terms - q * len(records), 1)
    return np.sqrt(np.sum(squares, axis=0) * q / free + rounding(records) ** 2)


def _step(records: Sequence[Record], library: Library, guess: Guess, support: Mask) -> Fit | None:
    """One step of Gauss and Newton; None if it leads out of the finite numbers."""
    try:
        parts = _linearised(records, library, guess)
    except np.linalg.LinAlgError:
        return None
    terms, equations = np.nonzero(support)
    each = [part.columns(terms, equations) for part in parts]
    columns = np.concatenate(each)
    before = guess.coefficients[terms, equations]
    right = np.concatenate([part.defect for part in parts]) + columns @ before
    if not (np.isfinite(columns).all() and np.isfinite(right).all()):
        return None
    values, inverse = _least_squares(columns, right)
    residuals = [
        part.defect - part_columns @ (values - before)
        for part, part_columns in zip(parts, each, strict=True)
    ]
    states = tuple(
        record.states - part.whitening.noise(left) * guess.noise
        for record, part, left in zip(records, parts, residuals, strict=True)
    )
    coefficients = np.zeros_like(guess.coefficients)
    coefficients[terms, equations] = values
    floor = float(np.mean((rounding(records) / guess.noise) ** 2))
    size = len(right)
    variance = max(sum(float(left @ left) for left in residuals) / size, floor)
    determinant = sum(part.whitening.log_determinant for part in parts)
    determinant += 2 * size * float(np.mean(np.log(guess.noise)))
    return Fit(
        replace(guess, coefficients=coefficients, states=states),
        support,
        size * math.log(variance) + determinant,
        variance,
        inverse * variance,
        converged=False,
    )


def _least_squares(columns: Matrix, right: Vector) -> tuple[Vector, Matrix]:
    """Least squares, of combinations the shortest, and the inverse of the Gram matrix."""
    size = np.linalg.norm(columns, axis=0)
    size[size == 0] = 1.0
    k = len(size)
    both = np.column_stack([columns / size, right])
    triangle: Matrix = np.asarray(np.linalg.qr(both, mode="r"))
    r, y = triangle[:k, :k], triangle[:k, k]
    if k and is_regular(r):
        inverse = solve_triangular(r, np.eye(k), check_finite=False)
    else:
        inverse = np.linalg.pinv(r, rcond=1e-13)
    return inverse @ y / size, inverse @ inverse.T / np.outer(size, size)

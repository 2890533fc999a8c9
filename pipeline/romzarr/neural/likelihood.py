"""The likelihood of a noisy record under da/dt = Theta(a) Xi.

Over each interval of time an equation says ``a(t + h) - a(t) = int Theta(a) dt Xi``. These are
test functions of the shortest length there is, and windows of every longer one are sums of
them: together, with their exact covariance, they say all that windows of several lengths say,
and nothing is counted twice. Noise of the states enters each interval through the difference
and through the integral; the covariance of what it adds to all of them is a band matrix N.
Generalised least squares with N (weak form: [1]_) is maximum likelihood to first order in the
noise; with the equations taken at states from which the estimated noise has been removed,
again and again, it is so without the bias of noise in the features (the adjustment of implicit
models: [2]_, [3]_).

Errors of networks are noise of their columns, the same each time the record comes by the same
states: few random weights of known columns, with which N grows by a matrix of low rank.

References
----------
.. [1] D. M. Bortz, D. A. Messenger, V. Dukic, "Direct estimation of parameters in ODE models
   using WENDy: weak-form estimation of nonlinear dynamics", Bull. Math. Biol. 85 (2023) 110,
   section 2.
.. [2] H. I. Britt, R. H. Luecke, "The estimation of parameters in nonlinear, implicit models",
   Technometrics 15 (1973) 233-247.
.. [3] W. A. Fuller, "Measurement error models", Wiley 1987, section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray
from scipy.linalg import cholesky_banded
from scipy.linalg.lapack import dtbtrs

from romzarr.contracts import Matrix, Vector
from romzarr.errors import LibraryError
from romzarr.neural.network_errors import network_error
from romzarr.numerics.dynamics.neural_library import NeuralLibrary

# Samples through which the integrand is interpolated: an error of order 6 in the step, below
# 1e-6 of the integral at 20 samples a period.
POINTS = 6
# Noise that is reckoned with at least, of a state's rms. With less the record sees so finely what
# networks err by, 1e-5 and more, that no smooth random function describes it.
LEAST_NOISE = 1e-5
LEAST_SPREAD = 1e-3  # of a feature's size: below, it is a constant
STEP = 1e-4  # of a state's spread, for derivatives of features
Chosen = NDArray[np.bool_]


@dataclass(frozen=True)
class Estimate:
    """States (m, q) without the noise, coefficients (p, q), and noise (q,) of each state."""

    states: Matrix
    coefficients: Matrix
    noise: Vector


@dataclass(frozen=True)
class Record:
    """A record `observed` (m, q) at `times`, and the terms of a library that may explain it.

    Attributes
    ----------
    observed : (m, q) float64
    times : (m,) float64, strictly increasing, evenly spaced or not
    library : NeuralLibrary
    candidates : sequence of int
        The p terms.
    """

    observed: Matrix
    times: Vector
    library: NeuralLibrary
    candidates: tuple[int, ...]

    def __post_init__(self) -> None:
        m, steps = len(self.times), np.diff(self.times)
        if m < 3 or len(self.observed) != m or not (steps > 0).all():
            raise LibraryError(
                f"equations need 3 or more increasing times and as many states, got {m} times "
                f"and {len(self.observed)} states"
            )
        if not np.isfinite(self.observed).all():
            raise LibraryError("states of the record are not all finite; leave those samples out")

    @property
    def rows(self) -> int:
        """How many observations there are: each interval in each equation."""
        return (len(self.times) - 1) * self.observed.shape[1]

    @cached_property
    def difference(self) -> Any:
        """Sparse (m - 1, m): of successive samples."""
        m = len(self.times)
        return sparse.diags([-np.ones(m - 1), np.ones(m - 1)], [0, 1], shape=(m - 1, m)).tocsr()

    @cached_property
    def integral(self) -> Any:
        """Sparse (m - 1, m): over each interval, of the polynomial through nearby samples."""
        m = len(self.times)
        points = min(POINTS, m)
        first = np.clip(np.arange(m - 1) - points // 2 + 1, 0, m - points)
        where = first[:, None] + np.arange(points)
        steps = np.diff(self.times)[:, None]
        places = (self.times[where] - self.times[:-1, None]) / steps
        powers = places[:, None, :] ** np.arange(points)[None, :, None]
        moments = np.broadcast_to(1 / np.arange(1.0, points + 1), (m - 1, points))
        weights = steps * np.linalg.solve(powers, moments[:, :, None])[:, :, 0]
        rows = np.repeat(np.arange(m - 1), points)
        return sparse.csr_matrix((weights.ravel(), (rows, where.ravel())), shape=(m - 1, m))

    def features(self, states: Matrix) -> Matrix:
        """Values (m, p) of the candidates."""
        return self.library.evaluate(states, np.array(self.candidates, np.intp))

    def jacobian(self, estimate: Estimate) -> Matrix:
        """Derivatives (m, q, q) of the right-hand sides with respect to the states."""
        active = np.flatnonzero(estimate.coefficients.any(axis=1))
        columns = np.array(self.candidates, np.intp)[active]
        xi = estimate.coefficients[active]
        a, q = estimate.states, self.observed.shape[1]
        slopes = np.zeros((len(a), q, q))
        for state, spread in enumerate(np.std(a, axis=0)):
            shift = np.zeros(q)
            shift[state] = STEP * spread if spread > 0 else STEP
            ahead, behind = (self.library.evaluate(a + s, columns) for s in (shift, -shift))
            slopes[:, :, state] = (ahead - behind) @ xi / (2 * shift[state])
        return slopes


class Linearised:
    """The equations of a record at an estimate, linear in coefficients and noise.

    ``target = features @ xi + noise``, of all equations together, with the covariance of the
    noise. The numbers of coefficients run as those of a flattened (p, q) matrix. Without
    ``slopes`` noise enters the intervals through the difference alone, which is most of it, and
    the equations are independent but for network errors.

    Attributes
    ----------
    root : (k, p q + 1) float64
        Features and (last) target, weighted by the noise and turned into few rows: their
        squared length is what generalised least squares minimises.
    size : (p,) float64
        Half the range of each feature; its absolute value if it is all but constant.
    determinant : float
        Logarithm of the determinant of the covariance.
    """

    def __init__(self, record: Record, at: Estimate, *, slopes: bool = True) -> None:
        self.record, self.at = record, at
        self.theta = record.features(at.states)
        largest, spread = np.abs(self.theta).max(axis=0), np.ptp(self.theta, axis=0) / 2
        # About an equilibrium terms cancel but for what varies; the constant does not vary.
        self.size: Vector = np.where(spread > LEAST_SPREAD * largest, spread, largest)
        errors, left = self._network_errors()
        self._through, self._factor = self._noise(slopes, left)
        moved = (record.observed - at.states).ravel()
        target = (record.difference @ at.states).ravel() + self._through @ moved
        # Each term in each equation, zero in the others.
        features = np.kron(record.integral @ self.theta, np.eye(at.states.shape[1]))
        e = errors.shape[1]
        self._white = _solved(self._factor, np.hstack([errors, features, target[:, None]]))
        # Weights of network errors are standard normal; elimination leaves what they cannot be.
        rows = np.vstack([np.eye(e, self._white.shape[1]), self._white])
        triangle: Matrix = np.asarray(np.linalg.qr(rows, mode="r"), np.float64)
        weights = np.linalg.solve(triangle[:e, :e], triangle[:e, e:])
        self._weights: Matrix = np.asarray(weights, np.float64)
        self.root: Matrix = triangle[e:, e:]
        inner = np.log(np.abs(np.diag(triangle)[:e])).sum()
        self.determinant = float(2 * (np.log(self._factor[0]).sum() + inner))

    def _noise(self, across: bool, left: Matrix) -> tuple[Any, Matrix]:
        """How noise of the states enters the intervals, and the Cholesky factor of N.

        `left` (m, q) are variances of the right-hand sides that are independent of all else.
        """
        record, at = self.record, self.at
        m, q = at.states.shape
        through = sparse.csr_matrix(sparse.kron(record.difference, sparse.eye_array(q)))
        integral = sparse.csr_matrix(sparse.kron(record.integral, sparse.eye_array(q)))
        if across:
            slopes = sparse.bsr_matrix((record.jacobian(at), np.arange(m), np.arange(m + 1)))
            through = sparse.csr_matrix(through - integral @ slopes)
        covariance = through @ sparse.diags(np.tile(at.noise**2, m)) @ through.T
        if left.any():
            covariance = covariance + integral @ sparse.diags(left.ravel()) @ integral.T
        covariance = covariance.tocoo()
        below = covariance.row - covariance.col
        lower = below >= 0
        band = np.zeros((int(below.max()) + 1, record.rows))
        band[below[lower], covariance.col[lower]] = covariance.data[lower]
        return through, cholesky_banded(band, lower=True, check_finite=False)

    def _network_errors(self) -> tuple[Matrix, Matrix]:
        """Columns (rows, e) of the errors of the networks that the estimate uses, and the
        variances (m, q) that these leave."""
        record, xi = self.record, self.at.coefficients
        columns, left = [np.zeros((record.rows, 0))], np.zeros(self.at.states.shape)
        for k in np.flatnonzero(xi.any(axis=1)):
            term = record.candidates[int(k)]
            error, rest = network_error(record.library, term, self.at.states)
            columns.append(np.kron(record.integral @ error, xi[k][:, None]))
            left += np.outer(rest, xi[k] ** 2)
        return np.hstack(columns), left

    def fitted(self, chosen: Chosen, widths: Matrix) -> tuple[Estimate, Matrix]:
        """Estimate with the terms `chosen` (p, q), and standard errors (p, q).

        Coefficients are normal with standard deviation `widths` (p, q) before anything is
        known.
        """
        own = np.flatnonzero(chosen.ravel())
        triangle = eliminated(self.root[:, [*own, -1]], widths.ravel()[own], 0)
        inverse = np.linalg.inv(triangle[: len(own), : len(own)])
        xi, errors = np.zeros(chosen.size), np.zeros(chosen.size)
        xi[own] = inverse @ triangle[: len(own), -1]
        errors[own] = np.linalg.norm(inverse, axis=1)
        noise = self._noise_of(xi)
        observed = self.record.observed
        least = LEAST_NOISE * np.sqrt(np.mean(observed**2, axis=0)) + np.finfo(float).tiny ** 0.25
        level = np.maximum(np.sqrt(np.sum(noise**2, axis=0) / (len(observed) - 1)), least)
        estimate = Estimate(observed - noise, xi.reshape(chosen.shape), level)
        return estimate, errors.reshape(chosen.shape)

    def _noise_of(self, xi: Vector) -> Matrix:
        """The noise (m, q) of the states that is most likely given coefficients."""
        left = np.concatenate([-xi, [1.0]])
        rows = self._white @ np.concatenate([-self._weights @ left, left])
        rows = _solved(self._factor, rows[:, None], transposed=True)[:, 0]
        m, q = self.at.states.shape
        return np.asarray((np.tile(self.at.noise**2, m) * (self._through.T @ rows)).reshape(m, q))


def eliminated(columns: Matrix, widths: Vector, first: int) -> Matrix:
    """Triangle of `columns` (k, n) with prior rows ``1 / widths`` for the leading ones.

    The columns from `first` on, less what the `first` ones before them explain, are its rows
    and columns from there on.
    """
    prior = np.zeros((len(widths), columns.shape[1]))
    np.fill_diagonal(prior, 1 / widths)
    triangle: Matrix = np.asarray(np.linalg.qr(np.vstack([prior, columns]), mode="r"))
    return triangle[first:, first:]


def _solved(factor: Matrix, columns: Matrix, *, transposed: bool = False) -> Matrix:
    """L^-1 (or L^-T) `columns`, for a lower band matrix L in the layout of LAPACK."""
    solution, info = dtbtrs(factor, columns, uplo="L", trans="T" if transposed else "N")
    if info != 0:
        raise np.linalg.LinAlgError(f"the covariance of the noise is singular in row {info}")
    return np.asarray(solution)


def unfitted(record: Record) -> Estimate:
    """Nothing is known yet but the observed states."""
    q = record.observed.shape[1]
    spread = np.maximum(np.std(record.observed, axis=0), np.finfo(float).tiny ** 0.25)
    return Estimate(record.observed, np.zeros((len(record.candidates), q)), spread)

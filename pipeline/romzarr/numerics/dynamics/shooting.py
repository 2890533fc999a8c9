"""A record as the noisy trajectory of a model: multiple shooting from every sample.

With states u on a trajectory of the model, ``u[i + 1] = phi(u[i]; Xi)``, and a record
``x = u + e`` of white noise, maximum likelihood is least squares in e under that constraint [1]_.
About a guess (u, Xi) the constraint is linear::

    y[i] = B[i] xi + e[i + 1] - A[i] e[i],   A = d phi / d u,  B = d phi / d xi

so that its right side has a covariance that is known and block tridiagonal. Whitening with its
Cholesky factor leaves plain least squares of y on the columns of B, one for each term of each
equation; the inverse of its Gram matrix is the Cramer-Rao bound. Unlike quadrature over windows
phi is exact however far apart samples are, and nothing of the record is filtered away.

While the guess is far off, the constraint may be broken by a little at each step, less and less:
the annealing of [2]_.

References
----------
.. [1] H. G. Bock, "Recent advances in parameter identification techniques for O.D.E.", in
   "Numerical Treatment of Inverse Problems in Differential and Integral Equations" (1983) 95.
.. [2] J. Ye et al., "Improved variational methods in statistical data assimilation",
   Nonlinear Process. Geophys. 22 (2015) 205.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import DOP853
from scipy.linalg import cholesky_banded
from scipy.linalg.lapack import dtbtrs

from romzarr.contracts import Matrix, Vector
from romzarr.numerics.dynamics.integrate import Dynamics, RightHandSide
from romzarr.numerics.dynamics.library import Library, PolynomialLibrary

Columns = NDArray[np.intp]
Batch = NDArray[np.float64]  # (m, q, q): a matrix for each sample


@dataclass(frozen=True)
class Record:
    """States (m, q) at increasing times (m,)."""

    states: Matrix
    times: Vector


@dataclass(frozen=True)
class Steps:
    """From each sample to the next: where the model goes, and how that depends on the start.

    ``end`` (m - 1, q); ``start`` (m - 1, q, q) is A; ``weights`` make B with the features at
    as many ``nodes`` (m - 1, q): the derivative by the coefficient of term p in equation j is the
    sum over them of ``weights[k][:, :, j]`` times the feature.
    """

    end: Matrix
    start: Batch
    weights: tuple[Batch, ...]
    nodes: tuple[Matrix, ...]
    library: Library

    def columns(self, terms: Columns, equations: Columns) -> Batch:
        """B (m - 1, q, k) for the k pairs of a term and its equation."""
        needed, place = np.unique(terms, return_inverse=True)
        m, q = self.end.shape
        weights = np.stack([each.reshape(m, q * q) for each in self.weights], axis=2)
        features = np.stack([self.library.evaluate(node, needed) for node in self.nodes], axis=1)
        # One product for all terms in all equations is faster than those asked for one by one.
        every = np.matmul(weights, features).reshape(m, q, q, len(needed))
        return np.asarray(every[:, :, equations, place])


def advance(model: RightHandSide, a: Matrix, dt: Vector, substeps: int) -> Matrix:
    """States (m, q) after their own times (m,), by Dormand and Prince's method of order 8."""
    h = dt[:, None] / substeps
    with np.errstate(all="ignore"):
        for _ in range(substeps):
            slopes = np.empty((DOP853.n_stages, *a.shape))
            for s in range(DOP853.n_stages):
                slopes[s] = model(a + h * _combined(DOP853.A[s, :s], slopes[:s]))
            a = a + h * _combined(DOP853.B, slopes)
    return a


def _combined(weights: Vector, slopes: Batch) -> Matrix:
    """Sum of slopes (s, m, q) with weights (s,)."""
    shape = slopes.shape[1:]
    combined: Matrix = weights @ slopes.reshape(len(slopes), math.prod(shape))
    return combined.reshape(shape)


def jacobian(model: Dynamics, a: Matrix) -> Batch:
    """d f_j / d a_l at states (m, q), as (m, q, q) with j first."""
    library = model.library
    if isinstance(library, PolynomialLibrary):
        return _polynomial_jacobian(library, model.coefficients, a)
    steps = 1e-6 * np.maximum(np.abs(a).max(axis=0), 1e-300)
    return np.stack(
        [
            (model(a + step * unit) - model(a - step * unit)) / (2 * step)
            for step, unit in zip(steps, np.eye(len(steps)), strict=True)
        ],
        axis=2,
    )


def _polynomial_jacobian(library: PolynomialLibrary, coefficients: Matrix, a: Matrix) -> Batch:
    number = {term: k for k, term in enumerate(library.factors)}
    q = library.states
    derivative = np.zeros((library.size, q, q))
    for term in np.flatnonzero(coefficients.any(axis=1)):
        factors = library.factors[term]
        for state in set(factors):
            rest = list(factors)
            rest.remove(state)
            derivative[number[tuple(rest)], :, state] += factors.count(state) * coefficients[term]
    active = np.flatnonzero(derivative.any(axis=(1, 2)))
    values = library.evaluate(a, active)
    return (values @ derivative[active].reshape(len(active), q * q)).reshape(len(a), q, q)


def linearised(model: Dynamics, a: Matrix, dt: Vector, substeps: int) -> Steps:
    """Steps from the states `a` (m - 1, q), each over its own time.

    The ends are those of an accurate method. Their derivatives are the classical Runge-Kutta
    method's for the variational equation, over two substeps at a time, with the model's Jacobian
    at accurate states.
    """
    panels = max(1, substeps // 2)
    start: Batch = np.broadcast_to(np.eye(a.shape[1]), (len(a), a.shape[1], a.shape[1]))
    weights, nodes = list[Batch](), list[Matrix]()
    with np.errstate(all="ignore"):  # of a model that runs away the numbers become infinite
        for _ in range(panels):
            middle = advance(model, a, dt / (2 * panels), 1)
            end = advance(model, middle, dt / (2 * panels), 1)
            jacobians = [jacobian(model, at) for at in (a, middle, end)]
            along, added = _panel(jacobians, dt / panels)
            start = along @ start
            weights = [*(along @ each for each in weights), *added]
            nodes += [a, middle, end]
            a = end
    return Steps(a, start, tuple(weights), tuple(nodes), model.library)


def _panel(jacobians: Sequence[Batch], dt: Vector) -> tuple[Batch, list[Batch]]:
    """Derivatives of the end of a step by its start, and by the forces at its three nodes."""
    first, middle, last = jacobians
    h, one = dt[:, None, None], np.eye(first.shape[1])
    k2 = middle @ (one + h / 2 * first)
    k3 = middle @ (one + h / 2 * k2)
    k4 = last @ (one + h * k3)
    twice = middle @ middle
    weights = [
        h / 6 * (one + h * middle + h**2 / 2 * twice + h**3 / 4 * (last @ twice)),
        h / 6 * (4 * one + h * middle + h * last @ (one + h / 2 * middle)),
        h / 6 * np.broadcast_to(one, first.shape),
    ]
    return one + h / 6 * (first + 2 * k2 + 2 * k3 + k4), weights


class Whitening:
    """Cholesky factor of the covariance of ``e[i + 1] - A[i] e[i] + w[i]``.

    e has variance 1, w `broken` in every state.

    Raises
    ------
    numpy.linalg.LinAlgError
        If that covariance is not finite, or singular to rounding.
    """

    def __init__(self, start: Batch, broken: float) -> None:
        m, q, _ = start.shape
        self._start = start
        with np.errstate(all="ignore"):
            blocks = start @ start.swapaxes(1, 2) + (1 + broken) * np.eye(q)
        banded = np.zeros((2 * q, m * q))
        for column in range(q):
            for row in range(q):
                if row >= column:
                    banded[row - column, column::q] = blocks[:, row, column]
                banded[q + row - column, column : (m - 1) * q : q] = -start[1:, row, column]
        if not np.isfinite(banded).all():
            raise np.linalg.LinAlgError("the model leaves the finite numbers")
        self._factor = cholesky_banded(banded, lower=True, check_finite=False)

    @property
    def log_determinant(self) -> float:
        """Of the covariance."""
        return 2 * float(np.sum(np.log(self._factor[0])))

    def __call__(self, columns: Matrix) -> Matrix:
        """Columns (m q, k) whitened."""
        if not columns.size:  # which the wrapper of LAPACK does not bear
            return columns
        return np.asarray(dtbtrs(self._factor, columns, uplo="L")[0])

    def noise(self, whitened: Vector) -> Matrix:
        """The most likely e (m + 1, q) that leaves this right side (m q,)."""
        m, q, _ = self._start.shape
        multiplier = dtbtrs(self._factor, whitened[:, None], uplo="L", trans="T")[0]
        each = np.asarray(multiplier).reshape(m, q)
        e = np.zeros((m + 1, q))
        e[1:] = each
        e[:-1] -= np.einsum("mji,mj->mi", self._start, each)
        return e

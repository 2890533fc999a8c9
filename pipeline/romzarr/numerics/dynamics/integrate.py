"""Trajectories of a sparse model: fixed steps, many at once, never endless.

The decoder runs this too, on other machines: the scheme is explicit and its number of
steps is fixed, so a stiff or unstable model gives useless numbers, not a hanging reader.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from romzarr.contracts import Matrix
from romzarr.numerics.dynamics.library import Library, PolynomialLibrary
from romzarr.numerics.products import ROWS, product

RightHandSide = Callable[[Matrix], Matrix]


class _Polynomial(NamedTuple):
    """Monomials by degree: an integrator asks often, so in few calls.

    ``constant`` (1, q) and ``linear`` (q, q) are Xi of the lowest degrees; ``products`` the
    numbers of the coefficients multiplied (degree, p) and Xi (p, q) of each higher one.
    """

    constant: Matrix
    linear: Matrix
    products: tuple[tuple[NDArray[np.intp], Matrix], ...]

    @classmethod
    def of(cls, library: PolynomialLibrary, coefficients: Matrix) -> _Polynomial:
        active = np.flatnonzero(coefficients.any(axis=1))
        factors = [library.factors[term] for term in active]
        linear, constant = np.zeros((library.states, coefficients.shape[1])), np.zeros(1)
        products = []
        for degree in sorted({len(each) for each in factors}):
            terms = [k for k, each in zip(active, factors, strict=True) if len(each) == degree]
            states = np.array([library.factors[term] for term in terms], np.intp).T
            if degree == 0:
                constant = coefficients[terms]
            elif degree == 1:
                linear[states[0]] = coefficients[terms]
            else:
                products.append((states, coefficients[terms]))
        return cls(constant, linear, tuple(products))

    def at(self, a: Matrix) -> Matrix:
        """Time derivative (w, q) at states (w, q)."""
        total: Matrix = _product(a, self.linear)
        total += self.constant
        for factors, coefficients in self.products:
            values = a.take(factors[0], axis=1)
            for more in factors[1:]:
                values *= a.take(more, axis=1)
            total += _product(values, coefficients)
        return total


def _product(left: Matrix, right: Matrix) -> Matrix:
    """``left @ right``; a whole number of blocks of rows in such, as readers need it."""
    if len(left) % ROWS:
        return np.asarray(left @ right)
    # Spelt out: of no terms at all no length can be inferred.
    blocks = product(left.reshape(len(left) // ROWS, ROWS, left.shape[1]), right)
    return np.asarray(blocks.reshape(len(left), right.shape[1]))


@dataclass(frozen=True)
class Dynamics:
    """Right-hand side ``Theta(a) Xi`` for the leading q modes; terms that are 0 cost nothing."""

    library: Library
    coefficients: Matrix

    @property
    def modes(self) -> int:
        return int(self.coefficients.shape[1])

    @property
    def operations(self) -> int:
        """About how many additions and products one evaluation at one state takes."""
        active = int(np.count_nonzero(self.coefficients.any(axis=1)))
        return active * (self.library.operations + 2 * self.modes)

    @property
    def separate(self) -> bool:
        """Whether blocks of `ROWS` states give the same to the bit whatever others there are."""
        return isinstance(self.library, PolynomialLibrary)

    @cached_property
    def _function(self) -> RightHandSide:
        if isinstance(self.library, PolynomialLibrary):
            return _Polynomial.of(self.library, self.coefficients).at
        active = np.flatnonzero(self.coefficients.any(axis=1))
        coefficients = self.coefficients[active]
        return lambda a: _product(self.library.evaluate(a, active), coefficients)

    def __call__(self, a: Matrix) -> Matrix:
        """Time derivative (w, q) at states (w, q)."""
        return self._function(a)


def runge_kutta_step(f: RightHandSide, a: Matrix, dt: Matrix, substeps: int) -> Matrix:
    """Advance states (w, q) by their own time steps (w,) with the classical scheme.

    The Runge-Kutta method of order four in `substeps` equal parts (Hairer, Norsett,
    Wanner, "Solving Ordinary Differential Equations I", 2nd ed., Section II.1). Overflow
    gives inf or NaN, without a warning.
    """
    h = dt[:, None] / substeps
    half, third, sixth = h / 2, h / 3, h / 6
    with np.errstate(all="ignore"):
        for _ in range(substeps):
            k1 = f(a)
            k2 = f(a + half * k1)
            k3 = f(a + half * k2)
            k4 = f(a + h * k3)
            a = a + sixth * (k1 + k4) + third * (k2 + k3)
    return a


def trajectories(
    f: RightHandSide, a: Matrix, times: Matrix, start: NDArray[np.int64], substeps: int
) -> Iterator[Matrix]:
    """States (w, q) at snapshots start + 1, start + 2, ... of each trajectory, without end.

    A trajectory that has left the finite numbers stays NaN; one past the last snapshot
    stands still.
    """
    last = len(times) - 1
    for step in range(len(times)):
        now = np.minimum(start + step, last)
        dt = times[np.minimum(now + 1, last)] - times[now]
        a = runge_kutta_step(f, a, dt, substeps)
        yield a

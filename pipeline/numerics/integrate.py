"""Trajectories of a sparse model: fixed steps, many at once, never endless.

The decoder runs this too, on other machines: the scheme is explicit and its number of
steps is fixed, so a stiff or unstable model gives useless numbers, not a hanging reader.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.numerics.library import Library

Matrix = NDArray[np.float64]
RightHandSide = Callable[[Matrix], Matrix]


@dataclass(frozen=True)
class Dynamics:
    """Right-hand side ``Theta(a) Xi`` for the leading q modes; terms that are 0 cost nothing."""

    library: Library
    coefficients: Matrix

    @property
    def modes(self) -> int:
        return int(self.coefficients.shape[1])

    @cached_property
    def _active(self) -> NDArray[np.intp]:
        return np.flatnonzero(self.coefficients.any(axis=1))

    def __call__(self, a: Matrix) -> Matrix:
        """Time derivative (w, q) at states (w, q)."""
        if not self._active.size:
            return np.zeros_like(a)
        with np.errstate(all="ignore"):
            features = self.library.evaluate(a, self._active)
            derivative: Matrix = features @ self.coefficients[self._active]
        return derivative


def runge_kutta_step(f: RightHandSide, a: Matrix, dt: Matrix, substeps: int) -> Matrix:
    """Advance states (w, q) by their own time steps (w,) with the classical scheme.

    The Runge-Kutta method of order four in `substeps` equal parts (Hairer, Norsett,
    Wanner, "Solving Ordinary Differential Equations I", 2nd ed., Section II.1). Overflow
    gives inf or NaN, without a warning.
    """
    h = dt[:, None] / substeps
    with np.errstate(all="ignore"):
        for _ in range(substeps):
            k1 = f(a)
            k2 = f(a + 0.5 * h * k1)
            k3 = f(a + 0.5 * h * k2)
            k4 = f(a + h * k3)
            a = a + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
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

"""Models that stay where the data are: an ellipsoid about the record that no trajectory leaves.

An identified model is a polynomial, and away from its data it may run away. Where its quadratic
part preserves energy there may be a trapping region [1]_, which can be asked for in the fit [2]_;
that holds for quadratic models alone, and costs accuracy where a system has no such energy. Here
coefficients stay as they are: between two ellipsoids about the data the outward part of the
velocity is taken out, more and more, so that the outer one is a trapping region of any model.
Within the inner one nothing changes.

References
----------
.. [1] M. Schlegel, B. R. Noack, "On long-term boundedness of Galerkin models", J. Fluid Mech.
   765 (2015) 325.
.. [2] A. A. Kaptanoglu, J. L. Callaham, A. Aravkin, C. J. Hansen, S. L. Brunton, "Promoting global
   stability in data-driven models of quadratic nonlinear dynamics", Phys. Rev. Fluids 6 (2021)
   094401.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from romzarr.contracts import Matrix, Vector
from romzarr.numerics.dynamics.integrate import RightHandSide

# Where the outward velocity begins to be taken out, and where none is left, in units of the
# largest distance in the record: a true trajectory that is longer goes a little farther.
INNER, OUTER = 1.1, 1.4


@dataclass(frozen=True)
class Region:
    """Ellipsoids about `centre` (q,): distances are roots of ``d^T metric d`` (q, q), over that of
    the farthest sample."""

    centre: Vector
    metric: Matrix

    @classmethod
    def of(cls, states: Sequence[Matrix]) -> Region:
        """About the states (m, q) of records, along their principal axes."""
        every = np.concatenate(states)
        centre = every.mean(axis=0)
        metric = np.linalg.pinv(np.atleast_2d(np.cov(every.T)), hermitian=True)
        away = every - centre
        farthest = float(np.max(np.sum((away @ metric) * away, axis=1)))
        return cls(centre, np.asarray(metric / max(farthest, np.finfo(float).tiny), np.float64))

    def distance(self, states: Matrix) -> Vector:
        """Of states (..., q) from the centre; at most 1 in the record."""
        away = states - self.centre
        squares: Vector = np.sum((away @ self.metric) * away, axis=-1)
        return np.sqrt(np.maximum(squares, 0.0))

    def trapped(self, function: RightHandSide) -> RightHandSide:
        """A right-hand side that is the same within, and points outwards nowhere at the edge."""

        def derivative(states: Matrix) -> Matrix:
            velocity, away = function(states), states - self.centre
            distance = self.distance(states)
            beyond = np.clip((distance - INNER) / (OUTER - INNER), 0.0, 1.0)
            if not beyond.any():
                return velocity
            direction = away / np.maximum(distance, INNER)[:, None]
            outward = np.maximum(np.sum((direction @ self.metric) * velocity, axis=1), 0.0)
            share = beyond**2 * (3 - 2 * beyond)
            return np.asarray(velocity - (share * outward)[:, None] * direction)

        return derivative

"""What a record says of all coefficients of a model: a quadratic, in any coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from romzarr.contracts import Mask, Matrix, Vector
from romzarr.numerics.change_of_basis import Move
from romzarr.numerics.dynamics.library import PolynomialLibrary
from romzarr.numerics.dynamics.likelihood import Guess, LinearSystem, rounding
from romzarr.numerics.dynamics.moving import monomial_map
from romzarr.numerics.dynamics.shooting import Record
from romzarr.numerics.triangles import is_regular, square_r


@dataclass(frozen=True)
class Evidence:
    """The whitened linear system of all coefficients of a model about a fit, reduced.

    Coefficients xi (p, q) leave ``|y - rows . xi|^2 + rest`` with ``rows`` (k, p, q): minus twice
    the logarithm of the likelihood is `deviance` of that. ``size`` values in all, of which the
    variance is at least ``floor``.
    """

    library: PolynomialLibrary
    rows: Matrix
    y: Vector
    rest: float
    size: int
    floor: float

    @classmethod
    def of(cls, records: Sequence[Record], library: PolynomialLibrary, guess: Guess) -> Evidence:
        """About a guess; the records hold the coordinates in which noise is independent.

        Raises
        ------
        numpy.linalg.LinAlgError
            If the model leaves the finite numbers.
        """
        system = LinearSystem(records, library, guess)
        p, q = library.size, library.states
        columns = system.columns(*np.divmod(np.arange(p * q), q))
        r = square_r(np.column_stack([columns, system.right()]))
        if not np.isfinite(r).all():
            raise np.linalg.LinAlgError("the model leaves the finite numbers")
        k = p * q
        floor = float(np.mean((rounding(records) / guess.noise) ** 2))
        rows = r[:k, :k].reshape(k, p, q)
        return cls(library, rows, r[:k, k], float(r[k, k] ** 2), system.size, floor)

    def deviance(self, squares: float) -> float:
        """Minus twice the logarithm of the likelihood but for a constant, of what is left of y."""
        return self.size * math.log(self.variance(squares))

    def variance(self, squares: float) -> float:
        """Of the whitened residuals."""
        return max((squares + self.rest) / self.size, self.floor)

    def rows_in(self, frame: Move) -> Matrix:
        """``rows`` (k, p, q) of coefficients in other coordinates.

        Those of a are ``features @ xi @ inverse(turn)^T``.
        """
        turned = self.rows @ np.linalg.inv(frame.turn)
        return np.matmul(monomial_map(self.library, frame).T, turned)

    def most_likely(self) -> Matrix:
        """The coefficients (p, q) that leave least of y."""
        k = len(self.y)
        return solved(self.rows.reshape(k, k), self.y)[0].reshape(self.rows.shape[1:])


def solved(columns: Matrix, right: Vector) -> tuple[Vector, Matrix]:
    """Least squares with columns scaled to length one; of combinations the shortest.

    Also gives an orthonormal basis of the columns.
    """
    length = np.linalg.norm(columns, axis=0)
    length[length == 0] = 1.0
    basis, triangle = np.linalg.qr(columns / length)
    values: Vector
    if is_regular(triangle):
        values = scipy.linalg.solve_triangular(triangle, basis.T @ right, check_finite=False)
    else:
        values = np.linalg.lstsq(columns / length, right, rcond=1e-12)[0]
    return values / length, basis


def columns_of(rows: Matrix, support: Mask) -> Matrix:
    """Columns (k, terms) of the terms of a support (p, q), of rows (k, p, q)."""
    chosen: Matrix = rows[:, support]
    return chosen

"""Modes of a stream: snapshots are projected onto them, and new directions appended.

References
----------
.. [1] T. Fukaya, Y. Nakatsukasa, Y. Yanagisawa, Y. Yamamoto, "CholeskyQR2: a simple and
   communication-avoiding algorithm for computing a tall-skinny QR factorization", ScalA 14
   (2014) 31-38.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg

from romzarr.contracts import Matrix, Vector
from romzarr.inner_product import InnerProducts

# Of the largest energy: what of it is smaller, inner products do not tell.
SQUARED = 1e-12
# Least eigenvalue of the inner products of unit vectors with which Cholesky's method, carried
# out twice, is as good as Householder's.
APART = 1e-10


class Basis:
    """Modes in an inner product of all variables, each of which counts by a factor.

    Attributes
    ----------
    modes : (r, n) float64
        Orthonormal in the `joint` inner product; not quite if they were adopted.
    lengths : (r, V) float64
        Their squared norms in each variable.
    factors : (V,) float64
    joint : InnerProduct
    """

    def __init__(self, inner: InnerProducts, points: int) -> None:
        self.inner = inner
        self.weigh(np.ones(len(inner.parts)))
        self.replace(np.zeros((0, points)), orthonormal=True)

    def weigh(self, factors: Vector) -> None:
        """Set the factors (V,) of the variables; modes stay as they are."""
        self.factors, self.joint = factors, self.inner.joint(factors)

    def replace(self, modes: Matrix, orthonormal: bool = False) -> None:
        """Take others (r, n) for the modes."""
        self.modes, self.lengths = modes, self.inner.squares(modes)
        self._unmix: Matrix | None = None
        if not orthonormal and len(modes):
            # Of a mode that decodes to nothing, nothing is asked any more.
            gram = self.joint.gram(modes)
            self._unmix = np.asarray(np.linalg.pinv(gram, rtol=SQUARED, hermitian=True))

    def project(self, values: Matrix, first: int = 0) -> tuple[Matrix, Matrix]:
        """Coefficients (b, r) of the modes from `first` on, and what is left (b, n)."""
        modes = self.modes[first:]
        a = self.joint.products(values, modes)
        if self._unmix is not None and not first:
            a = a @ self._unmix
        return a, values - a @ modes

    def append(self, directions: Matrix) -> Matrix:
        """Make directions (k, n) modes, but for those that are rounding of the modes.

        Returns the modes that are new.
        """
        along = np.sum(self.joint.products(directions, self.modes) ** 2, axis=1)
        directions = directions[2 * along < self.joint.sum(directions**2, axis=1)]
        if len(directions):
            directions, unmix = self._orthonormal(directions), self._unmix
            self.replace(np.concatenate([self.modes, directions]), orthonormal=True)
            if unmix is not None:
                self._unmix = scipy.linalg.block_diag(unmix, np.eye(len(directions)))
        return directions

    def _orthonormal(self, directions: Matrix) -> Matrix:
        """Directions (k, n) made orthonormal, and to the modes."""
        for _ in range(2):  # twice is enough (Kahan, Parlett)
            _, directions = self.project(directions)
            r = self._r_of(directions)
            directions = scipy.linalg.solve_triangular(r, directions, trans="T")
        return directions

    def _r_of(self, directions: Matrix) -> Matrix:
        """R (k, k) of directions (k, n): by Cholesky's method where they are well apart [1]_."""
        lengths = np.sqrt(self.joint.sum(directions**2, axis=1))
        unit = directions / lengths[:, None]
        gram = self.joint.gram(unit)
        if np.linalg.eigvalsh(gram)[0] > APART:
            r = scipy.linalg.cholesky(gram)
        else:
            r = scipy.linalg.qr(self.joint.rooted(unit).T, mode="r")[0][: len(unit)]
        return np.asarray(r * lengths)

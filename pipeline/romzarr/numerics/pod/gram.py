"""Inner products of rows over the points of one variable, by whichever matrix is smaller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from romzarr.contracts import Floats, Matrix
from romzarr.inner_product import InnerProduct


@dataclass(frozen=True)
class Gram:
    """Inner products G (k, k) of k rows: ``matrix`` is G or, if `factored`, a root of it.

    A root is any R (p, k) with ``R^T R = G``. Over n points G has a rank of n at most, so where
    rows are more than points, the values at these are a root with fewer numbers than G. NumPy
    takes it for the array G.
    """

    matrix: Matrix
    factored: bool = False

    @classmethod
    def of(cls, rows: Floats, inner: InnerProduct) -> Gram:
        """Compute the inner products of rows (k, n), in float64."""
        values: Matrix = rows.astype(np.float64, copy=False)
        if values.shape[1] < len(values):
            return cls(inner.rooted(values).T, factored=True)
        return cls(inner.gram(values))

    def __len__(self) -> int:
        """Number of the rows."""
        return self.matrix.shape[1]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.full, dtype, copy=copy)

    @property
    def full(self) -> Matrix:
        """G itself."""
        return self.matrix.T @ self.matrix if self.factored else self.matrix

    @property
    def root(self) -> Matrix:
        """A root (p, k); that of a diagonal G is exact."""
        if self.factored:
            return self.matrix
        if np.array_equal(self.matrix, np.diag(self.matrix.diagonal())):
            return np.diag(np.sqrt(self.matrix.diagonal()))
        energy, turn = np.linalg.eigh(self.matrix)
        return np.asarray(np.sqrt(np.maximum(energy, 0.0))[:, None] * turn.T)

    @property
    def energies(self) -> Matrix:
        """Squared norms (k,) of the rows."""
        if self.factored:
            return np.asarray(np.sum(self.matrix**2, axis=0))
        return np.maximum(self.matrix.diagonal(), 0.0)

    def along(self, directions: Matrix) -> Matrix:
        """Squared norms (l,) of the combinations of rows that the directions (k, l) are."""
        turned = self.matrix @ directions
        if self.factored:
            return np.asarray(np.sum(turned**2, axis=0))
        return np.maximum(np.sum(directions * turned, axis=0), 0.0)

    def with_products(self, products: Matrix) -> float:
        """Sum of squared norms of combinations of rows whose factors have these `products` (k, k)
        with one another."""
        turned = self.matrix @ products if self.factored else products
        return float(np.sum(turned * self.matrix))

    def turned(self, turn: Matrix) -> Gram:
        """Inner products of the combinations of rows that the columns of `turn` (k, l) are."""
        turned = self.matrix @ turn
        return Gram(turned, factored=True) if self.factored else Gram(turn.T @ turned)

    def part(self, rows: slice) -> Gram:
        """Inner products of some of the rows alone."""
        part = self.matrix[:, rows] if self.factored else self.matrix[rows, rows]
        return Gram(part, self.factored)

    def between(self, rows: slice, others: slice) -> tuple[Matrix, Matrix]:
        """Factors L (p, l) and R (p, k) of the inner products ``L^T R`` of rows with others."""
        if self.factored:
            return self.matrix[:, rows], self.matrix[:, others]
        products = self.matrix[rows, others]
        return np.eye(len(products)), products

    def scaled(self, factors: Matrix) -> Gram:
        """Inner products of the rows times `factors` (k,)."""
        scaled = self.matrix * factors
        return Gram(scaled if self.factored else factors[:, None] * scaled, self.factored)

    @property
    def smaller(self) -> Gram:
        """The same by the smaller matrix."""
        return self if len(self.matrix) < len(self) else Gram(self.full)

    def __add__(self, other: Gram) -> Gram:
        """Inner products over the points of both."""
        if self.factored and other.factored:
            return Gram(np.vstack([self.matrix, other.matrix]), factored=True).smaller
        return Gram(self.full + other.full)


def joint_gram(grams: Sequence[Gram], scales: Sequence[float] | Matrix) -> Matrix:
    """Inner products (k, k) of rows over the points of all variables, each with its factor."""
    joint = np.zeros((len(grams[0]), len(grams[0])))
    roots = [np.sqrt(s) * g.matrix for g, s in zip(grams, scales, strict=True) if g.factored]
    for gram, scale in zip(grams, scales, strict=True):
        if not gram.factored:
            joint += scale * gram.matrix
    if roots:
        stacked = np.vstack(roots)
        joint += stacked.T @ stacked
    return joint

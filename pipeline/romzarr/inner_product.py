"""The inner product of snapshots: how much an error at each point of space counts.

All that is squared, projected or made orthogonal in space is measured by it. This one is
diagonal, so the points of a block are all that a task needs; another norm is another class with
these methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
F = TypeVar("F", bound=np.floating[Any])
Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class InnerProduct:
    """The sum over all points of ``weights * x * y``; without weights every point counts 1.

    Weights are not negative, and have the shape of the points: (n,) wherever rows (k, n) are
    given.
    """

    weights: Floats | None = None

    @property
    def even(self) -> bool:
        """Whether all points count alike: then it holds no array."""
        return self.weights is None

    def on(self, points: Any) -> InnerProduct:
        """Restrict it to some of the points, by what indexes an array of them."""
        return self if self.weights is None else InnerProduct(self.weights[points])

    def within(self, valid: Mask | None) -> InnerProduct:
        """Let only the ``valid`` points count (None: all are), of the same shape."""
        if valid is None:
            return self
        return InnerProduct(np.where(valid, 1.0 if self.weights is None else self.weights, 0.0))

    @property
    def flat(self) -> InnerProduct:
        """The same for points (n,) in a row, whatever their shape."""
        return self if self.weights is None else InnerProduct(self.weights.ravel())

    @property
    def mean_weight(self) -> float:
        """What a point counts on average."""
        return 1.0 if self.weights is None else float(np.mean(self.weights))

    def divided(self, by: float) -> InnerProduct:
        """Divide all weights, where there are any."""
        return self if self.weights is None else InnerProduct(self.weights / by)

    def total(self, points: int) -> float:
        """What all points together count, of which there are so many."""
        return float(points) if self.weights is None else float(np.sum(self.weights))

    def weighted(self, rows: NDArray[F]) -> NDArray[F]:
        """Multiply rows so that their product with others is the inner product."""
        if self.weights is None:
            return rows
        return rows * self.weights.astype(rows.dtype, copy=False)

    def rooted(self, rows: NDArray[F]) -> NDArray[F]:
        """Multiply rows so that their product with others so multiplied is the inner product."""
        return rows if self.weights is None else rows * np.sqrt(self.weights)

    def products(self, rows: NDArray[F], others: NDArray[F]) -> NDArray[F]:
        """Inner products (k, l) of rows (k, n) with others (l, n)."""
        return self.weighted(rows) @ others.T

    def gram(self, rows: NDArray[F]) -> NDArray[F]:
        """Inner products (k, k) of rows (k, n)."""
        return self.products(rows, rows)

    def squares(self, rows: Floats) -> Floats:
        """Squared norms (...) of rows (..., n)."""
        squares: Floats = np.vecdot(self.weighted(rows), rows)
        return squares

    def sum(self, values: Floats, axis: int | None = None) -> Any:
        """Sum of values by the weight of their points."""
        return np.sum(self.weighted(values), axis=axis)


@dataclass(frozen=True)
class InnerProducts:
    """An inner product for each variable of snapshots (..., n) that hold several.

    ``whole`` is that of all points, ``parts`` (V,) where each variable lies.
    """

    whole: InnerProduct
    parts: tuple[slice, ...]

    @classmethod
    def of(cls, each: Sequence[InnerProduct], sizes: Sequence[int]) -> InnerProducts:
        """Those of variables with so many points."""
        parts = tuple(slice(a, b) for a, b in pairwise(np.cumsum([0, *sizes]).tolist()))
        if all(inner.even for inner in each):
            return cls(InnerProduct(), parts)
        both = zip(each, sizes, strict=True)
        weights = [inner.flat.weighted(np.ones(size)) for inner, size in both]
        return cls(InnerProduct(np.concatenate(weights)), parts)

    @property
    def points(self) -> int:
        return self.parts[-1].stop

    def within(self, valid: Mask | None) -> InnerProducts:
        """Let only the ``valid`` points (n,) count (None: all are)."""
        return InnerProducts(self.whole.within(valid), self.parts)

    def joint(self, factors: Matrix) -> InnerProduct:
        """One for all variables together, times a factor (V,) for each."""
        sizes = [part.stop - part.start for part in self.parts]
        return InnerProduct(self.whole.weighted(np.repeat(factors, sizes)))

    def products(self, rows: Matrix, others: Matrix) -> Matrix:
        """Inner products (k, V) of rows with others, one by one."""
        weighted = self.whole.weighted(rows)
        parts = [np.vecdot(weighted[:, part], others[:, part]) for part in self.parts]
        return np.stack(parts, axis=1)

    def squares(self, rows: Matrix) -> Matrix:
        """Squared norms (k, V) of rows (k, n)."""
        return self.products(rows, rows)

    def grams(self, rows: Matrix, others: Matrix) -> Matrix:
        """Inner products (V, k, l) of rows (k, n) with others (l, n)."""
        weighted = self.whole.weighted(rows)
        return np.array([weighted[:, part] @ others[:, part].T for part in self.parts])

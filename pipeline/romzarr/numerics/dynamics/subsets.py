"""Local search among sets of columns for the one that a criterion likes best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from romzarr.contracts import Matrix, Vector

# Of a squared residual and a number of columns; less is better.
Score = Callable[[float, int], float]

CANDIDATES = 12  # added in turn: one that lowers the residual less hardly ever stays
# Sine, squared, of the angle of a column to the chosen ones below which it is one of their span:
# squares lose half the digits.
IN_SPAN = 1e-12


@dataclass(frozen=True)
class _Subset:
    """Chosen columns, the rows (m, k) of their pseudoinverse, coefficients (m,), residual (k,)."""

    columns: list[int]
    rows: Matrix
    values: Vector
    residual: Vector

    @classmethod
    def of(cls, a: Matrix, y: Vector, columns: Sequence[int]) -> _Subset:
        q, r = np.linalg.qr(a[:, list(columns)])
        rows = np.linalg.solve(r, q.T)
        return cls(list(columns), rows, rows @ y, y - q @ (q.T @ y))

    def score(self, score: Score) -> float:
        return score(float(self.residual @ self.residual), len(self.columns))

    def with_column(self, column: int, part: Vector, outside: Vector) -> _Subset:
        """With one more, whose `part` along the others and what is `outside` them are known."""
        row = outside / (outside @ outside)
        value = row @ self.residual
        return _Subset(
            [*self.columns, column],
            np.vstack([self.rows - np.outer(part, row), row]),
            np.append(self.values - part * value, value),
            self.residual - value * outside,
        )

    def without(self, position: int) -> _Subset:
        row = self.rows[position]
        along = np.delete(self.rows @ row / (row @ row), position)
        value = self.values[position]
        return _Subset(
            [c for i, c in enumerate(self.columns) if i != position],
            np.delete(self.rows, position, axis=0) - np.outer(along, row),
            np.delete(self.values, position) - along * value,
            self.residual + value / (row @ row) * row,
        )

    def reduced(self, score: Score) -> _Subset:
        """Without the column that matters least, and so on, as long as the score falls."""
        subset = self
        while subset.columns:
            losses = subset.values**2 / np.sum(subset.rows**2, axis=1)
            smaller = subset.without(int(np.argmin(losses)))
            if smaller.score(score) >= subset.score(score):
                break
            subset = smaller
        return subset


def local_search(a: Matrix, y: Vector, start: Sequence[int], score: Score) -> list[int]:
    """A set of columns that no single addition, with what can then go, makes better.

    Parameters
    ----------
    a : (k, k) float64
        Columns of length one.
    y : (k,) float64
        Right side of the least squares ``y ~ a[:, columns] x``.
    start : sequence of int
        Columns to begin with; those that are combinations of earlier ones are left out.
    score : callable
        Criterion of a squared residual and a number of columns.

    Returns
    -------
    list of int
        Increasing. Its score is no worse than that of `start`.
    """
    best = _Subset.of(a, y, _independent(a, start)).reduced(score)
    while True:
        # Made anew, so that rounding does not pile up.
        best = _Subset.of(a, y, best.columns)
        better = _improved(a, best, score)
        if better is None:
            return sorted(best.columns)
        best = better


def _independent(a: Matrix, columns: Sequence[int]) -> list[int]:
    """Those of the columns that are no combination of earlier ones."""
    kept: list[int] = []
    outside = a
    for column in columns:
        direction = outside[:, column]
        square = float(direction @ direction)
        if square > IN_SPAN:
            kept.append(column)
            outside = outside - np.outer(direction / square, direction @ outside)
    return kept


def _improved(a: Matrix, subset: _Subset, score: Score) -> _Subset | None:
    """The first of the best `CANDIDATES` additions, reduced, that has a better score."""
    parts = subset.rows @ a
    outside = a - a[:, subset.columns] @ parts
    gains = gains_of(outside, subset.residual)
    gains[subset.columns] = 0.0
    before = subset.score(score)
    for column in np.argsort(-gains, kind="stable")[:CANDIDATES]:
        if gains[column] == 0.0:
            break
        larger = subset.with_column(int(column), parts[:, column], outside[:, column])
        reduced = larger.reduced(score)
        if reduced.score(score) < before - _rounding(before):
            return reduced
    return None


def _rounding(score: float) -> float:
    """What two ways to the same set may differ by."""
    return 1e-9 * max(1.0, abs(score))


def gains_of(outside: Matrix, residual: Vector) -> NDArray[np.float64]:
    """By how much each of the columns would lower the squared residual, from what is outside the
    span of those there are."""
    sizes = np.sum(outside**2, axis=0)
    gains = np.zeros(len(sizes))
    new = sizes > IN_SPAN
    gains[new] = (residual @ outside[:, new]) ** 2 / sizes[new]
    return gains

"""Paths through sets of columns: dropping what matters least, or adding what matters most.

All equations of a system go their ways at once, so that they share numpy's calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from romzarr.contracts import Matrix, Vector

Columns = NDArray[np.intp]

LONGEST_ADDITION = 40
ADDED_SINE = (
    1e-6  # of the angle of a column to the chosen ones, at least: squares lose half the digits
)
ONE_BY_ONE = 48  # columns above this are eliminated a tenth at a time


@dataclass(frozen=True)
class Problem:
    """Scaled columns `a` (k, k), scaled right sides `y` (k, q) of all equations, and `rest`
    (q,), the squared part of y that no column reaches. `noise` (m, k + q) was taken out of
    the columns and right sides (none of it, if m is 0)."""

    a: Matrix
    y: Matrix
    rest: Vector
    noise: Matrix

    def equations(self, some: slice) -> Problem:
        """The problem of some equations."""
        k = len(self.a)
        noise = np.concatenate([self.noise[:, :k], self.noise[:, k:][:, some]], axis=1)
        return Problem(self.a, self.y[:, some], self.rest[some], noise)

    def noise_of(self, columns: Columns, equation: int) -> float:
        """Squared residual that the noise of these columns makes in the least-squares fit.

        That of the right side is in its residual already (`without_noise`).
        """
        if not len(self.noise):
            return 0.0
        values = np.linalg.lstsq(self.a[:, columns], self.y[:, equation], rcond=None)[0]
        own = self.noise[:, len(self.a) + equation]
        both = own - self.noise[:, columns] @ values
        return max(float(both @ both - own @ own), 0.0)


def elimination(problem: Problem, start: Columns) -> Iterator[tuple[Columns, Vector]]:
    """Fewer and fewer columns (q, m) of each equation, and their squared residuals (q,).

    Row i of the pseudoinverse is the part of column i that is orthogonal to the others, over
    its squared length. So the coefficients are ``rows @ y``, to drop column i adds
    ``(coefficient i / |row i|)^2`` to the squared residual, and the other rows then lose their
    part along row i. That is a step of Gram-Schmidt and squares nothing; but rounding stays of
    the size of the first rows, so they are made anew when three quarters of the columns are
    gone. Many columns go a tenth at a time.
    """
    y = problem.y.T[:, :, None]
    each = np.arange(len(y))[:, None]
    columns = start  # one row: all equations share the first pseudoinverse
    while columns.shape[1]:
        rows = _pseudoinverse(problem.a, columns)
        rows = np.broadcast_to(rows, (len(y), *rows.shape[1:]))
        columns = np.broadcast_to(columns, rows.shape[:2])
        values = rows @ y
        left = y - problem.a.T[columns].swapaxes(1, 2) @ values
        residual = np.sum(left[:, :, 0] ** 2, axis=1) + problem.rest
        quarter = columns.shape[1] // 4
        while columns.shape[1] > quarter:
            yield columns, residual
            m = columns.shape[1]
            drop = 1 if m <= ONE_BY_ONE else m // 10
            losses = values[:, :, 0] ** 2 / np.einsum("emk,emk->em", rows, rows)
            order = np.argsort(losses, axis=1, kind="stable")
            gone, stay = order[:, :drop], order[:, drop:]
            away = _orthonormal(rows[each, gone])
            parts = away @ y
            residual = residual + np.sum(parts[:, :, 0] ** 2, axis=1)
            rows, values, columns = rows[each, stay], values[each, stay], columns[each, stay]
            shared = rows @ away.swapaxes(1, 2)
            rows -= shared @ away
            values -= shared @ parts
    yield columns, np.sum(problem.y**2, axis=0) + problem.rest


def _pseudoinverse(a: Matrix, columns: Columns) -> Matrix:
    """Pseudoinverses (e, m, k) of the `columns` (e, m) of `a`."""
    q, r = np.linalg.qr(a.T[columns].swapaxes(1, 2))
    inverse: Matrix = np.linalg.solve(r, q.swapaxes(1, 2))
    return inverse


def _orthonormal(rows: Matrix) -> Matrix:
    """Orthonormal rows that span each of `rows` (e, d, k)."""
    if rows.shape[1] == 1:
        return rows / np.linalg.norm(rows, axis=2, keepdims=True)
    return np.linalg.qr(rows.swapaxes(1, 2))[0].swapaxes(1, 2)


def addition(problem: Problem, most: int) -> Iterator[tuple[Columns, Vector]]:
    """More and more columns (q, m) of each equation, up to `most`, and squared residuals (q,).

    Always the column that lowers the residual most: orthogonal least squares after S. Chen,
    S. A. Billings, W. Luo, "Orthogonal least squares methods and their application to
    non-linear system identification", Int. J. Control 50 (1989) 1873.
    """
    k, equations = problem.y.shape
    each = np.arange(equations)
    residual = problem.y.T.copy()
    # Squared lengths of what the columns have outside the span of the chosen ones.
    sizes = np.tile(np.sum(problem.a**2, axis=0), (equations, 1))
    basis = np.zeros((equations, 0, k))
    columns = np.zeros((equations, 0), np.intp)
    for _ in range(min(most, k, LONGEST_ADDITION)):
        sizes[sizes < ADDED_SINE**2] = np.inf
        best = np.argmax((residual @ problem.a) ** 2 / sizes, axis=1)
        if np.isinf(sizes[each, best]).any():
            return
        direction = problem.a.T[best][:, None]
        for _ in range(2):  # twice is enough (Kahan, Parlett)
            direction = direction - (direction @ basis.swapaxes(1, 2)) @ basis
        direction /= np.linalg.norm(direction, axis=2, keepdims=True)
        basis = np.concatenate([basis, direction], axis=1)
        columns = np.concatenate([columns, best[:, None]], axis=1)
        residual -= np.sum(direction[:, 0] * residual, axis=1, keepdims=True) * direction[:, 0]
        sizes -= (direction[:, 0] @ problem.a) ** 2
        sizes[each, best] = np.inf
        yield columns, np.sum(residual**2, axis=1) + problem.rest

"""Triangular factors R of tall matrices whose rows arrive in pieces.

Every later least-squares problem and every principal axis depends on the rows only through R
with ``R.T @ R = rows.T @ rows``. Rows may count less as they age, and columns may be replaced
by combinations of them: both act on R alone [1]_.

References
----------
.. [1] G. H. Golub, C. F. Van Loan, "Matrix Computations", 4th ed., section 6.5.3 (appending
   rows to a QR factorisation).
"""

from __future__ import annotations

import numpy as np
from scipy.linalg.blas import dtrmm

from romzarr.contracts import Matrix

# Least distance of a column of length one from those before it at which a triangle is solved, a
# quarter of the work of singular values: rounding then stays below 1e-9 of the coefficients.
REGULAR = 1e-6
# Columns whose sums stay in a second-level cache.
_TOGETHER = 4096


def canonical_r(rows: Matrix) -> Matrix:
    """R factor of `rows`, its rows flipped so that the diagonal is non-negative."""
    r: Matrix = np.asarray(np.linalg.qr(rows, mode="r"))
    # QR fixes R up to row signs only, and LAPACK builds choose differently.
    return r * np.copysign(np.ones_like(r.diagonal()), r.diagonal())[:, None]


def square_r(rows: Matrix) -> Matrix:
    """R factor of `rows`, as many rows as columns: zeros below where there are fewer."""
    r = canonical_r(rows)
    missing = r.shape[1] - len(r)
    return np.pad(r, ((0, missing), (0, 0))) if missing else r


def is_regular(triangle: Matrix) -> bool:
    """Whether columns of length one whose QR has this triangle are far from combinations."""
    diagonal = np.abs(triangle.diagonal())
    square = triangle.shape[0] == triangle.shape[1]
    return square and bool(diagonal.min(initial=1.0) > REGULAR)


class Triangle:
    """R of rows that arrive in pieces.

    Parameters
    ----------
    columns : int
    batch : int
        Rows held before they are factored: twice the columns and more make the cost of a row
        about ``columns**2``, however few arrive at once.
    """

    def __init__(self, columns: int, batch: int) -> None:
        self._batch = batch
        self._r: Matrix = np.zeros((0, columns))
        self._waiting: list[Matrix] = []
        self._height = 0

    def add(self, rows: Matrix) -> None:
        """Rows (k, columns); they are not copied before they are factored."""
        self._waiting.append(rows)
        self._height += len(rows)
        if self._height >= self._batch:
            self._factor()

    def grow(self, more: int) -> None:
        """Add columns, in which all rows so far are zero: nothing has to be factored."""
        self._r = np.pad(self._r, ((0, 0), (0, more)))

    def fade(self, share: float) -> None:
        """Let the squares of all rows so far count `share` of what they did."""
        self._r = self._r * share**0.5
        self._waiting = [rows * share**0.5 for rows in self._waiting]

    def move(self, combinations: Matrix) -> None:
        """Replace the columns by combinations (columns, new columns) of them."""
        self._factor()
        self._r = canonical_r(self._r @ combinations)

    def result(self) -> Matrix:
        """R (columns, columns)."""
        self._factor()
        height, columns = self._r.shape
        return np.pad(self._r, ((0, columns - height), (0, 0)))

    def _factor(self) -> None:
        if not self._waiting:
            return
        rows = np.zeros((len(self._r) + self._height, self._r.shape[1]))
        start = 0
        for part in (self._r, *self._waiting):  # some came before columns were added
            rows[start : start + len(part), : part.shape[1]] = part
            start += len(part)
        self._r = canonical_r(rows)
        self._waiting, self._height = [], 0


def centred_triangle(rows: Matrix) -> Matrix:
    """The triangle (r, r) of a QR of `rows` (m, r) about their mean; zeros fill up fewer rows."""
    found = np.linalg.qr(rows - rows.mean(axis=0), mode="r")
    triangle = np.zeros((rows.shape[1],) * 2)
    triangle[: len(found)] = found
    return triangle


def squared_sums(triangle: Matrix, fields: Matrix) -> Matrix:
    """The squared norm of each column of ``triangle @ fields``.

    Parameters
    ----------
    triangle : ndarray, shape (r, r)
        Upper triangular: with the triangle of a QR of coefficients (m, r) these are the sums over
        all m rows of ``(coefficients @ fields)**2``, and no digits are lost.
    fields : ndarray, shape (r, points), float64
    """
    squares = np.zeros(fields.shape[1])
    if not len(triangle):
        return squares
    for start in range(0, len(squares), _TOGETHER):
        some = slice(start, start + _TOGETHER)
        # Zeros below the diagonal take no time.
        sums = dtrmm(1.0, triangle.T, fields[:, some].T, side=1, lower=1)
        np.einsum("pr,pr->p", sums, sums, out=squares[some])
    return squares

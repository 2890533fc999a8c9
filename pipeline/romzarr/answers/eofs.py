"""Empirical orthogonal functions of what is selected: its POD about its mean in time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from romzarr.answers.quantity import Quantity
from romzarr.contracts import Matrix
from romzarr.errors import AnswerError

# The Gram matrix of so many snapshots takes 512 MB.
MOST_SNAPSHOTS = 8192


@dataclass(frozen=True)
class Eofs:
    """The leading k empirical orthogonal functions.

    Attributes
    ----------
    fields : ndarray, shape (k, points)
        Orthonormal in the weights of the points; NaN where points are masked.
    coefficients : ndarray, shape (m, k)
        Of the fields in every snapshot, about their mean.
    singular_values : ndarray, shape (k,)
    error : float
        Bound on the root of the sum of squared errors of all singular values.
    angles : ndarray, shape (k,)
        Bounds on the sine of the angle between each field and the true one.
    """

    fields: Matrix
    coefficients: Matrix
    singular_values: Matrix
    error: float
    angles: Matrix


def eofs(quantity: Quantity, count: int) -> Eofs:
    """Find the leading `count` empirical orthogonal functions.

    From factors they follow from two small triangles; otherwise from the Gram matrix of the
    snapshots, for which values are decoded twice, some points at a time.

    Raises
    ------
    AnswerError
        If values have to be decoded and there are too many snapshots for a Gram matrix.

    References
    ----------
    .. [1] L. Mirsky, "Symmetric gauge functions and unitarily invariant norms", Quart. J. Math. 11
       (1960) 50-59: errors of singular values, in squares, add up to no more than those of the
       matrix.
    .. [2] P.-A. Wedin, "Perturbation bounds in connection with singular value decomposition", BIT
       12 (1972) 99-111: the sine of the angle of one singular vector to the true one is at most
       ``sqrt(2)`` errors by the gap between its value and all others of the true matrix.
    """
    if quantity.factored:
        left, values, error = _left_of_factors(quantity)
    else:
        left, values, error = _left_of_gram(quantity)
    gaps = _gaps(values)[:count] - error
    left, kept = left[:, :count], values[:count]
    with np.errstate(divide="ignore", invalid="ignore"):
        angles = np.where(gaps > 0, np.minimum(1.0, 2**0.5 * error / gaps), 1.0)
        scaled = np.where(kept > 0, left / kept, 0.0)
    return Eofs(_combined(quantity, scaled), left * kept, kept, error, angles)


def _left_of_factors(quantity: Quantity) -> tuple[Matrix, Matrix, float]:
    """Left singular vectors (m, k), singular values and the bound on their error."""
    modes = quantity.coefficients[:, 1:]
    q, triangle = np.linalg.qr(modes - modes.mean(axis=0))
    triangles: list[Matrix] = [np.zeros((0, modes.shape[1]))]
    for where, piece in quantity.pieces(3 * (1 + modes.shape[1])):
        known = np.where(np.isnan(piece.fields[0]), 0.0, piece.fields[1:])
        triangles.append(_triangle((known * quantity.weights[where] ** 0.5).T))
    other = _triangle(np.concatenate(triangles))
    left, values, _ = np.linalg.svd(triangle @ other.T, full_matrices=False)
    return q @ left, values, quantity.error(quantity.norm)


def _triangle(rows: Matrix) -> Matrix:
    return np.asarray(np.linalg.qr(rows, mode="r"))


def _left_of_gram(quantity: Quantity) -> tuple[Matrix, Matrix, float]:
    count = quantity.snapshots
    if count > MOST_SNAPSHOTS:
        raise AnswerError(
            f"variable {quantity.first.stored.name!r} is not coded by POD alone, and {count} "
            f"snapshots are selected: at most {MOST_SNAPSHOTS} can be compared; select fewer"
        )
    gram, square = np.zeros((count, count)), 0.0
    for _, piece in quantity.pieces(3 * count):
        values, norm = piece.values()
        about = np.nan_to_num(values - values.mean(axis=0)) * piece.weights**0.5
        gram += about @ about.T
        square += norm**2
    squares, vectors = np.linalg.eigh(gram)
    values = np.sqrt(np.maximum(squares[::-1], 0.0))
    # Squares lose half the digits of small values.
    lost = (count * np.finfo(np.float64).eps) ** 0.5 * values[0]
    return vectors[:, ::-1], values, quantity.error(square**0.5) + float(lost)


def _combined(quantity: Quantity, scaled: Matrix) -> Matrix:
    """The sum over snapshots of all values times each column of `scaled`, (k, points)."""
    fields = np.empty((scaled.shape[1], quantity.points))
    if quantity.factored:
        small = scaled.T @ quantity.coefficients
        # The constant field has no part in it but for its NaN.
        small[:, 0] = 0.0
        for where, piece in quantity.pieces(2 * small.shape[1]):
            fields[:, where] = small @ piece.fields
        return fields
    for where, piece in quantity.pieces(3 * quantity.snapshots):
        values, _ = piece.values()
        fields[:, where] = scaled.T @ (values - values.mean(axis=0))
    return fields


def _gaps(values: Matrix) -> Matrix:
    """How far each singular value, in falling order, is from its neighbours; 0 follows the last."""
    below = values - np.append(values[1:], 0.0)
    return np.minimum(below, np.insert(below[:-1], 0, np.inf))

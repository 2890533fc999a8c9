"""Wavelet coefficients that are mostly zeros, and what becomes of them.

The transform is linear: a sum of arrays is what the sum of their coefficients is transformed
back to. Where few sums of many arrays are wanted, that is far less work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.coding.wavelet import invert
from pipeline.contracts import Floats
from pipeline.errors import StoreError


@dataclass(frozen=True)
class Coefficients:
    """The coefficients of an array that are not zero.

    Attributes
    ----------
    shape, levels : tuple of int
        Of the array and of its transform.
    places : ndarray of int, shape (n,)
        Where in the flat array they are, increasing.
    values : ndarray, shape (n,), float32 or float64
    """

    shape: tuple[int, ...]
    levels: tuple[int, ...]
    places: NDArray[np.signedinteger[Any]]
    values: Floats

    @property
    def nbytes(self) -> int:
        return self.places.nbytes + self.values.nbytes

    def array(self) -> Floats:
        """The array that has these coefficients.

        Raises
        ------
        StoreError
            If a value of it is not finite.
        """
        out = np.zeros(self.shape, self.values.dtype)
        out.ravel()[self.places] = self.values
        return _inverted(out, self.levels)

    def first(self) -> Floats:
        """The array at the first index of its first axis, to the bit; that has no levels."""
        shape, levels = self.shape[1:], self.levels[1:]
        stop = np.searchsorted(self.places, math.prod(shape))
        return Coefficients(shape, levels, self.places[:stop], self.values[:stop]).array()

    def combined(self, weights: Floats) -> Floats:
        """Weighted sums of what lies along the first axis, which has no levels.

        Parameters
        ----------
        weights : ndarray, shape (m, r)

        Returns
        -------
        ndarray, shape (m, *shape[1:]), dtype of `values`
            ``weights @ array()`` to the rounding of that dtype: the sums are of float64, but
            they are rounded before they are transformed, not after.

        Raises
        ------
        StoreError
            If a sum is not finite.
        """
        points = math.prod(self.shape[1:])
        ends = np.searchsorted(self.places, points * np.arange(self.shape[0] + 1))
        counts, inside = np.diff(ends), self.places % max(1, points)
        out = np.empty((len(weights), points), self.values.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            for row, place in zip(weights, out, strict=True):
                place[:] = np.bincount(inside, np.repeat(row, counts) * self.values, points)
        return _inverted(out.reshape(len(weights), *self.shape[1:]), self.levels)


def _inverted(coefficients: Floats, levels: tuple[int, ...]) -> Floats:
    with np.errstate(over="ignore", invalid="ignore"):
        invert(coefficients, levels)
        # A sum is not finite where a value is not, and needs no array of its own. It may overflow.
        suspicious = not np.isfinite(coefficients.sum())
    if suspicious and not np.isfinite(coefficients).all():
        raise StoreError(f"a coded array has values beyond {coefficients.dtype.name}")
    return coefficients

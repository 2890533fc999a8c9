"""Wavelet coefficients that are mostly zeros, and what becomes of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from romzarr.coding.wavelet import invert
from romzarr.contracts import Floats
from romzarr.errors import StoreError


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

    @classmethod
    def of(cls, array: Floats, levels: Sequence[int]) -> Coefficients:
        """Those of an array that is mostly zeros."""
        places = np.flatnonzero(array)
        if array.size < 2**31:
            places = places.astype(np.int32)
        return cls(array.shape, tuple(levels), places, array.ravel()[places])

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
        return inverted(out, self.levels)

    def first(self) -> Floats:
        """The array at the first index of its first axis, to the bit; that has no levels."""
        shape, levels = self.shape[1:], self.levels[1:]
        stop = np.searchsorted(self.places, math.prod(shape))
        return Coefficients(shape, levels, self.places[:stop], self.values[:stop]).array()


def inverted(coefficients: Floats, levels: Sequence[int]) -> Floats:
    """The array that has these coefficients, in their place.

    Raises
    ------
    StoreError
        If a value of it is not finite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        invert(coefficients, levels)
        # A sum is not finite where a value is not, and needs no array of its own. It may overflow.
        suspicious = not np.isfinite(coefficients.sum())
    if suspicious and not np.isfinite(coefficients).all():
        raise StoreError(f"a coded array has values beyond {coefficients.dtype.name}")
    return coefficients

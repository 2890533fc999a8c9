"""Wavelet transform of arrays of any shape, every axis to its full depth (CDF 9/7, by lifting).

Each axis is transformed through all its levels before the next one. These anisotropic
("hyperbolic") products of wavelets suit fields that are smooth to different degrees along
space and time better than the usual square ones, which halve all axes together.

References
----------
.. [1] I. Daubechies, W. Sweldens, "Factoring wavelet transforms into lifting steps",
   J. Fourier Anal. Appl. 4 (1998) 247-269, Section 7.3 (the lifting steps of CDF 9/7).
.. [2] R. A. DeVore, S. V. Konyagin, V. N. Temlyakov, "Hyperbolic wavelet approximation",
   Constr. Approx. 14 (1998) 1-26.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from ctypes import c_int64

import numpy as np

from romzarr.coding.kernels import address, function_for
from romzarr.contracts import Floats


def forward(values: Floats, levels: Sequence[int]) -> Floats:
    """Coefficients of `values`, in an array of the same shape and dtype.

    Parameters
    ----------
    values : ndarray of float32 or float64
    levels : sequence of int
        Levels per axis; 0 leaves an axis as it is.

    Returns
    -------
    ndarray
        Along each axis the mean part, then the details from coarse to fine (see
        `romzarr.coding.bands`). Its norm is that of `values` to a few per cent for what is not a
        single wave.
    """
    out = np.array(values, order="C")
    for axis, count in enumerate(levels):
        _transform(out, axis, count, inverse=False)
    return out


def inverse(coefficients: Floats, levels: Sequence[int]) -> Floats:
    """Values from coefficients: undoes `forward` to rounding."""
    out = np.array(coefficients, order="C")
    invert(out, levels)
    return out


def invert(coefficients: Floats, levels: Sequence[int]) -> None:
    """Overwrite a contiguous array of coefficients by the values they are of."""
    for axis, count in enumerate(levels):
        _transform(coefficients, axis, count, inverse=True)


def _transform(array: Floats, axis: int, levels: int, *, inverse: bool) -> None:
    if not levels or not array.size:
        return
    before, after = math.prod(array.shape[:axis]), math.prod(array.shape[axis + 1 :])
    failed = function_for("wavelet", array.dtype)(
        address(array),
        c_int64(before),
        c_int64(array.shape[axis]),
        c_int64(after),
        levels,
        int(inverse),
    )
    if failed:
        raise MemoryError("no memory for the wavelet transform of an axis")

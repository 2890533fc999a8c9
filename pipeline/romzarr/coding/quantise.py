"""Rounding of wavelet coefficients to integers, with the bits in view that these will take."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import c_double, c_float, c_int64
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from romzarr.coding.bands import geometry
from romzarr.coding.kernels import address, function_for
from romzarr.contracts import Floats

Integers = NDArray[np.signedinteger[Any]]

# Squared steps of error that a bit is worth. At high rates a bit more for all divides the
# error, a twelfth of a squared step, by four: 2 ln(2) / 12 = 0.116. The best is broad about 0.1.
WORTH = 0.1
# Least mean size that is believed of a place with nothing but zeros around it. With less,
# sparse noise, where zeros around say nothing, would be rounded down too eagerly.
LEAST_MEAN = 0.1
# Steps below are scaled, exactly.
_SMALLEST = 2.0**-1000
# Mean sizes around a coefficient are told apart in steps of 1 / 64, up to 64 (`quantise.c`).
_MEANS = np.arange(64 * 64) / 64


class Excess(NamedTuple):
    """How far, on average, sizes of one and larger ones lie beyond their multiples of the step."""

    one: float
    others: float


def dead_zone(mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sizes up to which `quantise` leaves nothing where they are so on average."""
    return np.asarray(0.5 + 0.5 * WORTH + _least_rounded(mean))


def _least_rounded(mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least distance from the middle between two sizes at which the larger is worth its bits.

    With a geometric distribution of that mean one step less saves the same for every size, and
    the sign besides if nothing is left.
    """
    mean = np.maximum(mean, LEAST_MEAN)
    return np.asarray(0.5 * WORTH * np.log2((1 + mean) / mean))


_LEAST = _least_rounded(_MEANS).astype(np.float32)


def quantise(
    coefficients: Floats, levels: Sequence[int], step: float, dtype: np.dtype[Any]
) -> tuple[Integers, Excess]:
    """Multiples of the step that coefficients are rounded to, and what these miss on average.

    To the nearest, or, of sizes up to 64, one below where that saves bits worth more than the
    error. How many it saves follows from the mean size of the coefficients around: where they are
    small, a larger one is a surprise.

    Parameters
    ----------
    coefficients : ndarray of finite float32 or float64
    levels : sequence of int
        Of the transform.
    step : float
    dtype : dtype
        Of the integers, int32 or int64, which has to hold them.

    References
    ----------
    .. [1] G. J. Sullivan, T. Wiegand, "Rate-distortion optimization for video compression",
       IEEE Signal Process. Mag. 15 (1998) 74-90.
    """
    if step < _SMALLEST:
        # Their inverses are beyond float64.
        coefficients, step = coefficients * np.float64(1 / _SMALLEST), step / _SMALLEST
    view = geometry(coefficients.shape, tuple(levels))
    arranged = view.arranged(coefficients)
    integers = np.zeros(arranged.shape, dtype)
    sums = np.zeros(4)
    function_for("quantise", coefficients.dtype)(
        address(arranged),
        c_double(step),
        len(view.shape) - 1,
        address(view.shape),
        c_int64(view.bands),
        address(view.extents),
        address(_LEAST),
        c_float(0.5 * WORTH),
        address(integers),
        int(dtype.itemsize == 8),
        address(sums),
    )
    one, ones, others, larger = sums
    excess = Excess(one / max(ones, 1.0), others / max(larger, 1.0))
    return view.restored(integers), excess


def restore(integers: Integers, step: float, excess: Excess, dtype: np.dtype[Any]) -> Floats:
    """Coefficients of float32 or float64: multiples of the step, moved by their excess."""
    integers = np.asarray(integers, order="C")
    coefficients = np.empty(integers.shape, dtype)
    function_for("restore", dtype)(
        address(integers),
        int(integers.itemsize == 8),
        c_int64(integers.size),
        c_double(step),
        c_double(excess.one),
        c_double(excess.others),
        address(coefficients),
    )
    return coefficients

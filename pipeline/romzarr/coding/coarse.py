"""Arrays on a coarser grid, which the low-pass filter of their wavelets gives.

An axis that is *halved* keeps every other point, from the first on. Its value becomes the mean of
the values around, with the weights of the low-pass filter of CDF 9/7, divided by their sum: a
constant stays as it is, and so does, away from the ends, what is linear. At the ends values are
mirrored. These means are the coefficients of an array but for a factor, so that no detail has to be
decoded for them.
"""

from __future__ import annotations

from collections.abc import Sequence

from romzarr.coding.bands import coarse_shape
from romzarr.coding.coefficients import Coefficients
from romzarr.coding.wavelet import forward
from romzarr.contracts import Floats


def unit_mean(halvings: Sequence[int]) -> float:
    """Factor that makes means of coefficients: each level multiplies a constant by sqrt(2)."""
    return float(2.0 ** (-sum(halvings) / 2))


def coarse_levels(levels: Sequence[int], halvings: Sequence[int]) -> tuple[int, ...]:
    """Levels that are left of an array whose axes are halved so often; none: all."""
    if not halvings:
        return tuple(levels)
    return tuple(count - halved for count, halved in zip(levels, halvings, strict=True))


def coarse_coefficients(
    mean_part: Floats, levels: Sequence[int], halvings: Sequence[int]
) -> Coefficients:
    """Coefficients of an array on a coarser grid, from those it shares with the whole array.

    Parameters
    ----------
    mean_part : ndarray of float32 or float64
        The leading coefficients of the array, of which `coarse_shape` is the shape.
    levels, halvings : sequence of int
        Levels of the array, and how many of these to leave out, for each axis.
    """
    factor = mean_part.dtype.type(unit_mean(halvings))
    return Coefficients.of(mean_part * factor, coarse_levels(levels, halvings))


def coarsened(values: Floats, halvings: Sequence[int]) -> Floats:
    """`values` (float32 or float64) on a coarser grid, each axis halved so often."""
    means = forward(values, halvings)[tuple(map(slice, coarse_shape(values.shape, halvings)))]
    return means * values.dtype.type(unit_mean(halvings))

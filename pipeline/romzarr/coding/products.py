"""Tokens from levels of their coordinates: products with directions, in integers.

Directions are rounded to 16 bits, levels are small integers of `romzarr.coding.coordinates`, and
the sums of their products are exact (`kernels/products.c`). So tokens decode to the same bits on
every machine, and faster than by floating-point numbers: vectors have twice as many of 16 bits.
"""

from __future__ import annotations

from ctypes import Structure, byref, c_int64, c_void_p
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from romzarr.coding.coordinates import MOST_LEVEL, UNIT, Levels
from romzarr.coding.kernels import address, library

Values = NDArray[np.float32]

# Rows of integers are as long as a multiple of the widest vector: nothing is left over.
_STRIDE = 32
# The largest integer of a direction, and the largest sum of sizes of one feature, for which sums
# of products with levels stay within 32 bits.
_MOST = 2**15 - 1
_MOST_SUM = (2**31 - 1) // MOST_LEVEL


class _Expansion(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("values", "levels", "directions", "scales", "mean")),
        *((name, c_int64) for name in ("tokens", "features", "stride")),
    )


@dataclass(frozen=True, eq=False)
class IntegerDirections:
    """Directions in integers, by which levels are multiplied.

    Attributes
    ----------
    integers : ndarray of int16 (features, stride)
        Zero beyond the directions; `stride` is a multiple of 32.
    scales : ndarray of float32 (features,)
        What one is worth, with steps and the unit of levels.
    """

    integers: NDArray[np.int16]
    scales: Values

    @classmethod
    def of(cls, inverse: Values, steps: Values) -> IntegerDirections:
        """Round directions (directions, features), whose coordinates have such steps.

        Each feature has as many digits as its largest direction and its sum of sizes leave room
        for: 11 bits or more for a typical direction of five hundred.
        """
        wanted = (inverse.T * steps.astype(np.float64)) / UNIT
        sizes = np.abs(wanted)
        # Rounding adds half a unit to each direction at most.
        sums = sizes.sum(axis=1) / (_MOST_SUM - len(steps) / 2)
        scales = np.maximum(sums, sizes.max(axis=1) / _MOST)
        scales = np.where(scales > 0, scales, 1.0).astype(np.float32)
        # The scale may have been rounded down.
        rounded = np.rint(wanted / scales[:, None] * (1 - 2.0**-23)).astype(np.int16)
        padded = np.pad(rounded, ((0, 0), (0, -len(steps) % _STRIDE)))
        return cls(np.ascontiguousarray(padded), scales)

    @property
    def stride(self) -> int:
        """Length of a row of levels."""
        return self.integers.shape[1]

    @property
    def nbytes(self) -> int:
        return self.integers.nbytes + self.scales.nbytes


def expand(
    levels: Levels, directions: IntegerDirections, mean: Values, features: slice = slice(None)
) -> Values:
    """Some features (tokens, features) of what levels (tokens, stride) say, and the mean."""
    some, scales, offsets = (a[features] for a in (directions.integers, directions.scales, mean))
    found = np.empty((len(levels), len(some)), np.float32)
    arrays: tuple[NDArray[Any], ...] = (found, levels, some, scales, offsets)
    task = _Expansion(*map(address, arrays), *found.shape, directions.stride)
    library().expand_levels(byref(task))
    return found


def halves(values: Values) -> NDArray[np.float16]:
    """Values in float16, as ``astype`` has them; values beyond its range become infinite."""
    plain = np.ascontiguousarray(values)
    found = np.empty(plain.shape, np.float16)
    library().round_to_halves(address(plain), address(found), c_int64(plain.size))
    return found

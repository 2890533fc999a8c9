"""Tokens from levels of their coordinates: products with directions, in integers.

Directions are rounded to 16 bits, levels are small integers of `romzarr.coding.coordinates`, and
the sums of their products are exact (`kernels/products.c`). So tokens do not depend on the vectors
of a machine, and decode faster than by floating-point numbers: vectors have twice as many of 16
bits.
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

# Features that the kernel sums together.
_FEATURES = 16
# The largest integer of a direction, and the largest sum of sizes of one feature, for which sums
# of products with levels stay within 32 bits.
_MOST = 2**15 - 1
_MOST_SUM = (2**31 - 1) // MOST_LEVEL


class _Expansion(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("values", "levels", "directions", "scales", "mean")),
        *((name, c_int64) for name in ("tokens", "features", "first", "pairs")),
    )


@dataclass(frozen=True, eq=False)
class IntegerDirections:
    """Directions in integers, by which levels are multiplied.

    Attributes
    ----------
    integers : ndarray of int16 (features / 16, directions / 2, 16, 2)
        As the kernel reads them: pairs of directions of 16 features. Filled up with zeros.
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
        features, directions = rounded.shape
        padded = np.pad(rounded, ((0, -features % _FEATURES), (0, -directions % 2)))
        blocks = padded.reshape(-1, _FEATURES, (directions + 1) // 2, 2)
        return cls(np.ascontiguousarray(blocks.swapaxes(1, 2)), scales)

    @property
    def stride(self) -> int:
        """Length of a row of levels."""
        return 2 * self.integers.shape[1]

    @property
    def nbytes(self) -> int:
        return self.integers.nbytes + self.scales.nbytes


def expand(
    levels: Levels, directions: IntegerDirections, mean: Values, features: slice = slice(None)
) -> Values:
    """Some features (tokens, features) of what levels (tokens, stride) say, and the mean."""
    first, last, _ = features.indices(len(mean))
    found = np.empty((len(levels), last - first), np.float32)
    arrays: tuple[NDArray[Any], ...] = (found, levels, directions.integers, directions.scales, mean)
    task = _Expansion(*map(address, arrays), *found.shape, first, directions.stride // 2)
    library().expand_levels(byref(task))
    return found


def turn(keys: Values, cosines: Values, sines: Values, *, interleaved: bool) -> None:
    """Turn pairs of features of keys (tokens, heads, dim), in place, by angles (tokens, pairs).

    Pairs are features 2k and 2k + 1 if `interleaved`, k and pairs + k if not; features beyond
    them stay.
    """
    pairs = cosines.shape[1]
    apart, step = (1, 2) if interleaved else (pairs, 1)
    sizes = map(c_int64, (*keys.shape, pairs, apart, step))
    library().turn_pairs(*map(address, (keys, cosines, sines)), *sizes)


def halves(values: Values) -> NDArray[np.float16]:
    """Values in float16, as ``astype`` has them; values beyond its range become infinite."""
    plain = np.ascontiguousarray(values)
    found = np.empty(plain.shape, np.float16)
    library().round_to_halves(address(plain), address(found), c_int64(plain.size))
    return found

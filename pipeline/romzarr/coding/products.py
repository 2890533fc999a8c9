"""Tokens from levels of their coordinates: products with directions, in integers.

Directions are rounded to 16 bits, levels are small integers of `romzarr.coding.coordinates`, and
the sums of their products are exact (`kernels/products.c`). So tokens do not depend on the vectors
of a machine, and decode faster than by floating-point numbers: vectors have twice as many of 16
bits.
"""

from __future__ import annotations

from ctypes import Structure, byref, c_double, c_int64, c_void_p
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from romzarr.coding.coordinates import UNIT, Levels
from romzarr.coding.kernels import address, library

Values = NDArray[np.float32]
Turns = NDArray[np.complex128]

# Features that the kernel sums together.
_FEATURES = 16
# The largest integer of a direction, and the largest sum of products of one feature with levels.
_MOST = 2**15 - 1
_MOST_SUM = 2**31 - 1


# Axes of an array that is rounded to half precision, as the kernel has them.
_AXES = 4
_Axes = c_int64 * _AXES


class _Expansion(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("values", "levels", "directions", "scales", "mean")),
        *((name, c_int64) for name in ("tokens", "features", "first", "pairs")),
    )


class _Turn(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("keys", "turns", "start")),
        ("sign", c_double),
        *((name, c_int64) for name in ("tokens", "heads", "dim", "pairs", "apart", "step")),
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
    def of(
        cls, inverse: Values, steps: Values, most_levels: NDArray[np.int64]
    ) -> IntegerDirections:
        """Round directions (directions, features), whose coordinates have such steps and levels.

        Each feature has as many digits as its largest direction and its sum of sizes leave room
        for: 11 bits or more for a typical direction of five hundred.
        """
        wanted = (inverse.T * steps.astype(np.float64)) / UNIT
        sizes = np.abs(wanted)
        # Rounding adds half a unit to each direction at most.
        sums = sizes @ most_levels / (_MOST_SUM - most_levels.sum() / 2)
        scales = np.maximum(sums, sizes.max(axis=1) / _MOST)
        scales = np.where(scales > 0, scales, 1.0).astype(np.float32)
        # The scale may have been rounded down.
        rounded = np.rint(wanted / scales[:, None] * (1 - 2.0**-23)).astype(np.int16)
        features, directions = rounded.shape
        padded = np.pad(rounded, ((0, -features % _FEATURES), (0, -directions % 2)))
        blocks = padded.reshape(-1, _FEATURES, (directions + 1) // 2, 2)
        return cls(np.ascontiguousarray(blocks.swapaxes(1, 2)), scales)

    @cached_property
    def addresses(self) -> tuple[c_void_p, c_void_p]:
        """Of integers and scales; kept, as to ask for them takes as long as some tokens do."""
        return address(self.integers), address(self.scales)

    @property
    def nbytes(self) -> int:
        return self.integers.nbytes + self.scales.nbytes


def expand(
    levels: Levels,
    tokens: int,
    directions: IntegerDirections,
    mean: Values,
    features: slice = slice(None),
) -> Values:
    """The mean and what levels (panels, pairs, PANEL, 2) say: some features (tokens, features)."""
    first, last, _ = features.indices(len(mean))
    found = np.empty((tokens, last - first), np.float32)
    arrays = (address(found), address(levels), *directions.addresses, address(mean))
    task = _Expansion(*arrays, *found.shape, first, levels.shape[1])
    library().expand_levels(byref(task))
    return found


def turn(keys: Values, turns: Turns, start: Turns, *, interleaved: bool, sign: float = 1.0) -> None:
    """Turn pairs of features of keys (tokens, heads, dim), in place.

    By the angles of points of the unit circle, ``turns[:tokens] * start``; back with a sign of -1.
    Pairs are features 2k and 2k + 1 if `interleaved`, k and pairs + k if not; features beyond
    them stay.
    """
    pairs = len(start)
    apart, step = (1, 2) if interleaved else (pairs, 1)
    places = (address(keys), address(turns), address(start))
    task = _Turn(*places, sign, *keys.shape, pairs, apart, step)
    library().turn_pairs(byref(task))


def halves(values: Values) -> NDArray[np.float16]:
    """Values in float16, as ``astype`` has them; values beyond its range become infinite.

    In C order, of up to four axes in any order of which the last has its numbers side by side.
    """
    found = np.empty(values.shape, np.float16)
    if values.strides[-1:] != (values.itemsize,) or values.ndim > _AXES:
        values = np.ascontiguousarray(values).reshape(-1)
    lacking = (1,) * (_AXES - values.ndim)
    shape = _Axes(*lacking, *values.shape)
    strides = _Axes(*lacking, *(stride // values.itemsize for stride in values.strides))
    library().round_to_halves(address(values), address(found), shape, strides)
    return found

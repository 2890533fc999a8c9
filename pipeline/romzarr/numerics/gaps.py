"""Values that are no numbers to be coded: missing ones, infinities, and undeclared fill values.

They are kept exactly, apart from all others, and named by codes: 0 is a number, k > 0 the special
value k - 1 of a list.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from romzarr.contracts import Floats, Mask

Codes = NDArray[np.uint8]
# Start, length and code of consecutive positions.
Runs = NDArray[np.int64]

# What programs write where they have no value, often without saying so in attributes: the default
# of NetCDF, powers of ten, nines, the least 16-bit integers, 2^30 and 2^100, the largest float32.
FILL_VALUES = (
    9.969209968386869e36,
    9.96921e36,
    *(10.0**k for k in (15, 20, 30, 33, 34, 35, 36, 37)),
    9.99e8,
    9.999e20,
    999.0,
    9999.0,
    99999.0,
    999999.0,
    32767.0,
    32768.0,
    2.0**30,
    2.0**100,
    float(np.finfo(np.float32).max),
)


def special_values(dtype: np.dtype[Any]) -> Floats:
    """List NaN, both infinities and all known fill values, as they are in a dtype.

    Fill values beyond its range are left out. In float64 they may have been float32 before.
    """
    native = dtype.newbyteorder("=")
    with np.errstate(over="ignore"):
        exact = np.array([sign * v for v in FILL_VALUES for sign in (1, -1)])
        fills = np.concatenate([exact, exact.astype(np.float32)]).astype(native)
    fills = np.unique(fills[np.isfinite(fills)])
    return np.concatenate([np.array([np.nan, np.inf, -np.inf], native), fills])


def gap_codes(values: Floats, special: Floats) -> Codes:
    """Code every value: 0 for a number, else 1 + its place in the list of special values."""
    codes = np.zeros(values.shape, np.uint8)
    with np.errstate(invalid="ignore"):
        least, most = np.fmin.reduce(values, axis=None), np.fmax.reduce(values, axis=None)
        for number, value in enumerate(special, start=1):
            if np.isnan(value):
                codes[np.isnan(values)] = number
            elif least <= value <= most:
                codes[values == value] = number
    return codes


def fill_value_in(values: Floats) -> float | None:
    """Return a known fill value that stands out of an array, if there is one.

    It is the least or the greatest of all values, and as far from the others as these are from each
    other, or all there is: then others are elsewhere. NaN are ignored.
    """
    with np.errstate(invalid="ignore"):
        extremes = np.fmin.reduce(values, axis=None), np.fmax.reduce(values, axis=None)
        known = special_values(values.dtype)[3:]
        for value in extremes:
            if value in known:
                others = values[(values != value) & np.isfinite(values)]
                if not others.size or _stands_out(float(value), others):
                    return float(value)
    return None


def _stands_out(value: float, others: Floats) -> bool:
    least, most = float(others.min()), float(others.max())
    return max(least - value, value - most) >= most - least


def runs_of(positions: NDArray[np.int64], codes: Codes, masked: Mask, masked_code: int = 1) -> Runs:
    """Put positions that follow one another, with equal codes, together.

    Parameters
    ----------
    positions : (k,) int64
        Places of the codes among all values (m, n) in C order, in any order.
    codes : (k,) uint8
    masked : (n,) bool
        Points without any number, which all hold the code `masked_code`: what lies on both sides of
        them, with the same code, follows one another.

    Returns
    -------
    (runs, 3) int64
        Start, length, and code.
    """
    if not len(positions):
        return np.zeros((0, 3), np.int64)
    order = np.argsort(positions)
    positions, codes = positions[order], codes[order]
    rank = np.cumsum(~masked) - 1
    live = int(rank[-1]) + 1
    ranks = positions // len(masked) * live + rank[positions % len(masked)]
    across = (np.diff(ranks) == 1) & (codes[1:] == masked_code)
    follows = ((np.diff(positions) == 1) | across) & (codes[1:] == codes[:-1])
    first = np.append(True, ~follows)
    starts = np.flatnonzero(first)
    last = np.append(starts[1:], len(positions)) - 1
    lengths = positions[last] - positions[starts] + 1
    return np.stack([positions[starts], lengths, codes[starts].astype(np.int64)], axis=1)


def codes_from(runs: Runs, row: int, points: int) -> Codes:
    """Codes (points,) of one snapshot, from the runs that reach into it."""
    codes, begin = np.zeros(points, np.uint8), row * points
    for start, length, code in runs.tolist():
        codes[max(start - begin, 0) : max(start + length - begin, 0)] = code
    return codes

"""Numbers as signed logarithms: an error of these is one relative to each number."""

from __future__ import annotations

import numpy as np

from romzarr.contracts import Floats, Matrix

# Logarithms of numbers that are not zero are at least 1 by their size.
LEAST = 0.5


def logarithms(values: Floats, unit: float) -> Matrix:
    """``sign(x) (1 + log2(|x| / unit))``, and 0 of zeros.

    ``unit`` is no larger than any number but zero.

    >>> logarithms(np.array([0.0, 1.0, -4.0]), 1.0)
    array([ 0.,  1., -3.])
    """
    wide = values.astype(np.float64)
    sizes = np.abs(wide)
    known = sizes > 0
    with np.errstate(over="ignore", invalid="ignore"):
        logs = np.log2(sizes, out=np.zeros_like(sizes), where=known) - np.log2(unit)
    return np.where(known, np.copysign(1 + logs, wide), wide)


def numbers(logs: Matrix, unit: float) -> Matrix:
    """The numbers that have these logarithms, or nearly.

    >>> numbers(np.array([0.1, 1.0, -3.0]), 1.0)
    array([ 0.,  1., -4.])
    """
    sizes = np.abs(logs)
    # Only malicious stores have numbers that overflow.
    with np.errstate(over="ignore", invalid="ignore"):
        found = np.copysign(unit * np.exp2(sizes - 1), logs)
    return np.where(sizes < LEAST, 0.0, found)


def allowed_error(relative: float, least: float, dtype: np.dtype[np.floating]) -> float:
    """Error of logarithms with which numbers that are rounded to a dtype are within a `relative`
    error. ``least`` is the smallest of their sizes.

    Raises
    ------
    ValueError
        If rounding alone is too much.
    """
    unit = float(np.finfo(dtype).eps) / 2
    if relative < 4 * unit:
        raise ValueError(f"rounding of {dtype.name} alone makes {unit:.2g} of a value")
    if least < 2 * float(np.finfo(dtype).smallest_subnormal) / relative:
        # There rounding moves a number by no more than its distance from one of the dtype.
        return float(np.log2(1 + relative / 2))
    return float(np.log2((1 + relative) / (1 + unit)))

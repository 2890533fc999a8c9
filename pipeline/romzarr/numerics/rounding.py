"""Rounding of decoded values to the dtype of their variable: the last step, made once.

A finite number never becomes infinite. What would round to more than the largest number of the
dtype becomes that number: where decoded values are finite the source is, too, so it holds
nothing larger, and the decoded value comes nearer. No bound is broken by it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from romzarr.contracts import Floats


def rounded(values: Floats, dtype: DTypeLike) -> NDArray[Any]:
    """`values` as `dtype`."""
    try:
        with np.errstate(over="raise"):
            return values.astype(dtype, copy=False)
    except FloatingPointError:
        return _cut_off(values, np.isfinite(values), dtype).astype(dtype)


def rounded_sum(first: Floats, second: Floats | float, out: NDArray[Any]) -> None:
    """``out = first + second``, summed in the wider dtype of the two, then rounded."""
    try:
        with np.errstate(over="raise"):
            np.add(first, second, out=out, dtype=np.result_type(first, second), casting="same_kind")
    except FloatingPointError:
        with np.errstate(over="ignore"):
            total = np.add(first, second, dtype=np.float64)
        finite = np.isfinite(first) & np.isfinite(second)
        np.copyto(out, _cut_off(total, finite, out.dtype), casting="same_kind")


def _cut_off(values: Floats, finite: NDArray[np.bool_], dtype: DTypeLike) -> Floats:
    """What is `finite` within the range of a dtype."""
    most = float(np.finfo(np.dtype(dtype)).max)
    return np.where(finite, np.clip(values, -most, most), values)

"""Factors of single indices of a variable, which are the same numbers on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from romzarr.contracts import Matrix

T = TypeVar("T", bound=np.generic)

# Factors are powers of the eighth root of two: finer ones would save hundredths of a bit a value.
PARTS = 8
# The roots to the last bit, whatever a machine's mathematical library makes of them.
_ROOTS = np.array(
    [
        1.0,
        1.0905077326652577,
        1.189207115002721,
        1.2968395546510096,
        1.4142135623730951,
        1.5422108254079407,
        1.6817928305074292,
        1.8340080864093424,
    ]
)
# What float64 can tell apart.
MOST = PARTS * 1000


def factors_of(exponents: NDArray[np.int64]) -> Matrix:
    """``2 ** (exponent / 8)`` of each.

    >>> factors_of(np.array([-8, 0, 4, 12]))
    array([0.5       , 1.        , 1.41421356, 2.82842712])
    """
    whole, part = np.divmod(exponents, PARTS)
    return np.ldexp(_ROOTS[part], whole.astype(np.int32))


def exponents_of(sizes: Matrix) -> NDArray[np.int64]:
    """The nearest exponents of positive numbers."""
    return np.clip(np.rint(PARTS * np.log2(sizes)), -MOST, MOST).astype(np.int64)


def along(dims: Sequence[str], some: Sequence[str], values: NDArray[T]) -> NDArray[T]:
    """Values that depend on `some` of the dims, in their order, in a shape that broadcasts over
    all."""
    lengths = iter(values.shape)
    return values.reshape([next(lengths) if dim in some else 1 for dim in dims])

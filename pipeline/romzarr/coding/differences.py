"""Extrapolation along time by polynomials, as finite differences of integers.

What the polynomial of degree d - 1 through the d values before misses of the next is their
difference of order d. Values are rounded to multiples of a step first, and the integers are
differenced: sums of integers give them back exactly on any machine, so no rounding is fed
back. The first d values are extrapolated from as many as there are before them: these are
Newton's forward differences.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from romzarr.coding.bands import depth
from romzarr.coding.wavelet import forward
from romzarr.contracts import Floats

Table = NDArray[np.int64]
Orders = NDArray[np.signedinteger[Any]]

# Each order doubles the largest integer at worst, and the rounding in all of them.
MOST_ORDER = 7
# Largest integers that are differenced: float64 holds what becomes of them exactly.
LARGEST = 2.0**45
# Largest that the choice of orders allows, as steps may be lowered after it.
_LARGEST_CHOSEN = 2.0**40
# Share of the bits of wavelets that differences have to stay below: where wavelets are small,
# the range coder makes more of them than is foretold here.
_WORTHWHILE = 0.9


def differenced(integers: Table, orders: Orders) -> Table:
    """Differences along the first axis.

    Parameters
    ----------
    integers : (n, r) int64
        Smaller than 2**63 / 2**order in size.
    orders : (r,) int
        Order for each column; 0 leaves it as it is.

    Returns
    -------
    (n, r) int64
        Row i of a column holds its difference of order ``min(i, order)``.
    """
    left = integers.copy()
    for k in range(1, orders.max(initial=0) + 1):
        left[k:, orders >= k] = np.diff(left[k - 1 :, orders >= k], axis=0)
    return left


def summed(differences: Table, orders: Orders) -> Table:
    """Integers from their differences: undoes `differenced` exactly.

    What `differenced` did not make may overflow, which wraps around.
    """
    whole = differences.copy()
    for k in range(orders.max(initial=0), 0, -1):
        whole[k - 1 :, orders >= k] = np.cumsum(whole[k - 1 :, orders >= k], axis=0)
    return whole


def bits_by_order(values: Floats, step: float) -> Floats:
    """Bits that each column should take with differences of each order; those of parts add.

    Parameters
    ----------
    values : (n, r) float64
    step : float
        What values, and coefficients of wavelets, are rounded to multiples of.

    Returns
    -------
    (`MOST_ORDER` + 1, r) float64
        In row 0 of wavelets, as far as differences have to stay below. Infinite where integers
        would be too large.
    """
    bits = np.empty((MOST_ORDER + 1, values.shape[1]))
    bits[0] = _WORTHWHILE * _bits(forward(values, (depth(len(values)), 0)) / step)
    left = np.rint(values / step)
    large = ~(np.abs(left).max(axis=0, initial=0.0) < _LARGEST_CHOSEN)
    for order in range(1, MOST_ORDER + 1):
        left[order:] = np.diff(left[order - 1 :], axis=0)
        bits[order] = np.where(large, np.inf, _bits(left))
    return bits


def best_orders(bits: Floats) -> tuple[int, ...]:
    """Order with which each column should take fewest bits (`bits_by_order`); 0 where wavelets
    take fewer.

    Returns
    -------
    tuple of int
        For the leading columns; those beyond have order 0.
    """
    return tuple(np.trim_zeros(np.argmin(bits, axis=0), "b").tolist())


def _bits(values: Floats) -> Floats:
    """Bits of each column (r,) that the sizes of its values (n, r) ask for."""
    bits: Floats = np.log2(1 + np.abs(np.rint(values))).sum(axis=0)
    return bits

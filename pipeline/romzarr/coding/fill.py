"""Values for masked points that cost few bits: a pull-push pyramid.

References
----------
.. [1] S. J. Gortler, R. Grzeszczuk, R. Szeliski, M. F. Cohen, "The lumigraph", SIGGRAPH 1996,
   43-54, Section 3.4.2 (pull-push, there with spline weights).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from romzarr.contracts import Floats

Mask = NDArray[np.bool_]


def fill_masked(values: Floats, valid: Mask) -> Floats:
    """Replace what is not valid by something smooth that joins what is.

    Each pyramid level holds the means of the valid values in cells of twice the width, until
    one is left; on the way back, what is missing is interpolated from the level above.

    Parameters
    ----------
    values : ndarray of float, shape (k, *space)
        Fields that share a mask; whatever stands where `valid` is false is not looked at.
    valid : ndarray of bool, shape (*space)
        The points that count.

    Returns
    -------
    ndarray of float, shape and dtype of `values`
        Valid values as they are, the others between the least and the greatest valid one of
        their field; zeros if nothing is valid. Takes about three times the memory of `values`.
    """
    known = np.where(valid, values, np.zeros((), values.dtype))
    if valid.all() or not valid.any():
        return known
    filled = _finer(fill_masked(*_coarser(known, valid)), values.shape)
    return np.where(valid, known, filled)


def _coarser(known: Floats, valid: Mask) -> tuple[Floats, Mask]:
    """Means of the valid values in cells of two points an axis, and which cells have any."""
    share = valid[None].astype(known.dtype)
    for axis in range(1, known.ndim):
        known, share = _halved(known, axis), _halved(share, axis)
    return known / np.maximum(share, np.finfo(known.dtype).tiny), share[0] > 0


def _halved(array: Floats, axis: int) -> Floats:
    """Means of two neighbours; the last one alone counts half, in its weight too."""
    array = np.moveaxis(array, axis, 0)
    half = 0.5 * array[0::2]
    half[: len(array) // 2] += 0.5 * array[1::2]
    return np.moveaxis(half, 0, axis)


def _finer(coarse: Floats, shape: tuple[int, ...]) -> Floats:
    """Linear interpolation between the middles of the cells, constant beyond the last ones."""
    for axis in range(1, coarse.ndim):
        cells = np.moveaxis(coarse, axis, 0)
        fine = np.repeat(0.75 * cells, 2, axis=0)
        fine[0::2] += 0.25 * np.concatenate([cells[:1], cells[:-1]])
        fine[1::2] += 0.25 * np.concatenate([cells[1:], cells[-1:]])
        coarse = np.moveaxis(fine[: shape[axis]], 0, axis)
    return coarse

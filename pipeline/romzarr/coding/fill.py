"""Values for masked points and gaps that cost few bits: a pull-push pyramid.

References
----------
.. [1] S. J. Gortler, R. Grzeszczuk, R. Szeliski, M. F. Cohen, "The lumigraph", SIGGRAPH 1996,
   43-54, Section 3.4.2 (pull-push, there with spline weights).
"""

from __future__ import annotations

from collections.abc import Iterable

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
    coarse = fill_masked(*_coarser(known, valid))
    filled = _finer(coarse, values.shape, range(1, values.ndim))
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


def _finer(coarse: Floats, shape: tuple[int, ...], axes: Iterable[int]) -> Floats:
    """Linear interpolation between the middles of the cells, constant beyond the last ones."""
    for axis in axes:
        cells = np.moveaxis(coarse, axis, 0)
        fine = np.repeat(0.75 * cells, 2, axis=0)
        fine[0::2] += 0.25 * np.concatenate([cells[:1], cells[:-1]])
        fine[1::2] += 0.25 * np.concatenate([cells[1:], cells[-1:]])
        coarse = np.moveaxis(fine[: shape[axis]], 0, axis)
    return coarse


# Neighbours along an axis that differ by no more than so many times what those along the smoothest
# one do are as good: by each halving of an axis its differences double, where values are smooth.
AS_SMOOTH = 2.0


def fill_gaps(values: Floats, present: Mask) -> Floats:
    """Replace what is not present at some times by something smooth in space and time.

    A pyramid like that of `fill_masked` over time and space, which halves only the axes along
    which neighbours differ least: what is lost for a while is interpolated in time where time is
    resolved best, and a snapshot that is missing then lies between those around it.

    Parameters
    ----------
    values : ndarray of float, shape (m, *space)
        Whatever stands where nothing is present is not looked at.
    present : ndarray of bool, of the same shape

    Returns
    -------
    ndarray of float, shape and dtype of `values`
        Zeros if nothing is present. Takes about five times the memory of `values`.
    """
    known = np.where(present, values, np.zeros((), values.dtype))
    if present.all() or not present.any():
        return known
    filled = _pyramid(known[None], present.astype(values.dtype)[None])
    return np.where(present, known, filled[0])


def _pyramid(known: Floats, share: Floats) -> Floats:
    """Means (1, *shape) of cells of which a ``share`` is known, interpolated where none is."""
    if share.all():
        return known
    axes, part = _smoothest(known, share > 0), share
    coarse: Floats = known * share
    for axis in axes:
        coarse, part = _halved(coarse, axis), _halved(part, axis)
    coarse = coarse / np.maximum(part, np.finfo(part.dtype).tiny)
    filled = _finer(_pyramid(coarse, part), known.shape, axes)
    return np.where(share > 0, known, filled)


def _smoothest(known: Floats, present: Mask) -> list[int]:
    """Axes of more than one value along which neighbours differ least."""
    long = [axis for axis in range(1, known.ndim) if known.shape[axis] > 1]
    apart = [_difference(known, present, axis) for axis in long]
    least = min(apart)
    return [axis for axis, d in zip(long, apart, strict=True) if d <= AS_SMOOTH * least]


def _difference(known: Floats, present: Mask, axis: int) -> float:
    """Root of the mean squared difference of neighbours; infinite where there are none."""
    both = np.moveaxis(present, axis, 0)
    both = both[1:] & both[:-1]
    count = int(np.count_nonzero(both))
    if not count:
        return np.inf
    apart = np.diff(np.moveaxis(known, axis, 0), axis=0)
    return float(np.sqrt(np.sum(apart**2, where=both, dtype=np.float64) / count))

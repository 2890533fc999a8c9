"""Bands of a transformed array, and how the compiled kernels are told where they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Shorter ranges have no smoothness left to gain from.
LEAST = 8
# Axes with levels that the kernels allow (`kernels.h`).
MOST_AXES = 32


class Band(NamedTuple):
    """Coefficients of one scale per axis: 0 is the mean part, then from coarse to fine."""

    scales: tuple[int, ...]
    region: tuple[slice, ...]


class Geometry(NamedTuple):
    """An array as the kernels see it.

    Attributes
    ----------
    order : tuple of int
        Axes of the array in the order of the kernels: those without levels come first, and count
        as one. Where no axis has levels, all count as if they had some.
    shape : (1 + n,) int64
        Of the array in this order.
    bands : int
    extents : (bands, n, 4) int64
        For each band and axis with levels, where it starts and stops, where the next coarser band
        along this axis starts, and the number of that band; -1 where there is none.
    """

    order: tuple[int, ...]
    shape: NDArray[np.int64]
    bands: int
    extents: NDArray[np.int64]

    def arranged(self, array: NDArray[Any]) -> NDArray[Any]:
        """A contiguous array with its axes in this order; the same one if it is so already."""
        return np.asarray(array.transpose(self.order), order="C")

    def restored(self, arranged: NDArray[Any]) -> NDArray[Any]:
        """Undoes `arranged`."""
        back = [self.order.index(axis) for axis in range(len(self.order))]
        return np.asarray(arranged.transpose(back), order="C")


def depth(length: int) -> int:
    """Levels of an axis: halved until fewer than `LEAST` values are left."""
    levels = 0
    while length >= LEAST:
        length, levels = (length + 1) // 2, levels + 1
    return levels


def bands(shape: Sequence[int], levels: Sequence[int]) -> list[Band]:
    """Parts of the coefficient array, those of coarse scales first."""
    edges = []
    for length, count in zip(shape, levels, strict=True):
        ends = [0, *reversed(lengths(length, count))]
        edges.append([slice(a, b) for a, b in pairwise(ends)])
    found = [
        Band(scales, tuple(edge[s] for edge, s in zip(edges, scales, strict=True)))
        for scales in product(*(range(len(edge)) for edge in edges))
    ]
    return sorted(found, key=lambda band: (sum(band.scales), band.scales))


def lengths(length: int, levels: int) -> list[int]:
    """Lengths of the mean part after 0, 1, ..., `levels` levels."""
    found = [length]
    for _ in range(levels):
        found.append((found[-1] + 1) // 2)
    return found


def coarse_shape(shape: Sequence[int], halvings: Sequence[int]) -> tuple[int, ...]:
    """Shape of the mean part of an array whose axes are halved so often; none: the same shape."""
    if not halvings:
        return tuple(shape)
    return tuple(lengths(n, count)[-1] for n, count in zip(shape, halvings, strict=True))


@lru_cache(maxsize=256)
def bands_until(shape: tuple[int, ...], levels: tuple[int, ...], halvings: tuple[int, ...]) -> int:
    """Number of leading bands among which are all of an array whose axes are halved so often.

    Axes are those with levels.
    """
    last = tuple(count - halved for count, halved in zip(levels, halvings, strict=True))
    return 1 + [band.scales for band in bands(shape, levels)].index(last)


@lru_cache(maxsize=256)
def geometry(shape: tuple[int, ...], levels: tuple[int, ...]) -> Geometry:
    """How the kernels see an array of this shape, transformed with these levels.

    Raises
    ------
    ValueError
        If more axes than `MOST_AXES` have levels.
    """
    inner = [axis for axis, count in enumerate(levels) if count or not any(levels)]
    outer = [axis for axis in range(len(shape)) if axis not in inner]
    if len(inner) > MOST_AXES:
        raise ValueError(f"{len(inner)} axes of an array are transformed, at most {MOST_AXES} can")
    inner_shape = [shape[axis] for axis in inner] or [1]
    every = bands(inner_shape, [levels[axis] for axis in inner] or [0])
    numbers = {band.scales: number for number, band in enumerate(every)}
    extents = np.full((len(every), len(inner_shape), 4), -1, np.int64)
    for band, places in zip(every, extents, strict=True):
        for axis, (scale, part) in enumerate(zip(band.scales, band.region, strict=True)):
            places[axis, :2] = part.start, part.stop
            # The mean parts are no parents: they do not have the size of details.
            if scale >= 2:
                above = numbers[(*band.scales[:axis], scale - 1, *band.scales[axis + 1 :])]
                places[axis, 2:] = every[above].region[axis].start, above
    whole = math.prod(shape[axis] for axis in outer)
    order = (*outer, *inner)
    return Geometry(order, np.array([whole, *inner_shape], np.int64), len(every), extents)

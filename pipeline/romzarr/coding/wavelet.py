"""Wavelet transform of arrays of any shape, every axis to its full depth (CDF 9/7, by lifting).

Each axis is transformed through all its levels before the next one. These anisotropic
("hyperbolic") products of wavelets suit fields that are smooth to different degrees along
space and time better than the usual square ones, which halve all axes together.

References
----------
.. [1] I. Daubechies, W. Sweldens, "Factoring wavelet transforms into lifting steps",
   J. Fourier Anal. Appl. 4 (1998) 247-269, Section 7.3 (the lifting steps of CDF 9/7).
.. [2] R. A. DeVore, S. V. Konyagin, V. N. Temlyakov, "Hyperbolic wavelet approximation",
   Constr. Approx. 14 (1998) 1-26.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np

from romzarr.contracts import Floats

STEPS = (-1.586134342059924, -0.052980118572961, 0.882911075530934, 0.443506852043971)
# Makes the wavelets of unit norm to a few per cent, so that all coefficients weigh alike.
SCALE = 2**0.5 / 1.230174104914001
# Values transformed together: with their two halves they fit the cache of a core or nearly so.
BLOCK = 1 << 17
# Shorter ranges have no smoothness left to gain from.
LEAST = 8


class Band(NamedTuple):
    """Coefficients of one scale per axis: 0 is the mean part, then from coarse to fine."""

    scales: tuple[int, ...]
    region: tuple[slice, ...]


def depth(length: int) -> int:
    """Levels of an axis: halved until fewer than `LEAST` values are left."""
    levels = 0
    while length >= LEAST:
        length, levels = (length + 1) // 2, levels + 1
    return levels


def forward(values: Floats, levels: Sequence[int]) -> Floats:
    """Coefficients of `values`, in an array of the same shape and dtype.

    Parameters
    ----------
    values : ndarray of float
    levels : sequence of int
        Levels per axis; 0 leaves an axis as it is.

    Returns
    -------
    ndarray
        Along each axis the mean part, then the details from coarse to fine (see `bands`). Its
        norm is that of `values` to a few per cent for what is not a single wave.
    """
    out = np.array(values, order="C")
    for axis, count in enumerate(levels):
        for block in _blocks(out, axis):
            for length in _lengths(out.shape[axis], count)[:-1]:
                _analyse(block[:, :length])
    return out


def inverse(coefficients: Floats, levels: Sequence[int]) -> Floats:
    """Values from coefficients: undoes `forward` to rounding."""
    out = np.array(coefficients, order="C")
    invert(out, levels)
    return out


def invert(coefficients: Floats, levels: Sequence[int]) -> None:
    """Overwrite a contiguous array of coefficients by the values they are of."""
    for axis, count in enumerate(levels):
        lengths = _lengths(coefficients.shape[axis], count)[-2::-1]
        for block in _blocks(coefficients, axis) if lengths else ():
            for length in lengths:
                _synthesise(block[:, :length])


def _blocks(array: Floats, axis: int) -> Iterator[Floats]:
    """Views of a contiguous array, (before, along, after) an axis, that fit a fast cache."""
    length = array.shape[axis]
    if not array.size:
        return
    whole = array.reshape(math.prod(array.shape[:axis]), length, -1)
    after = max(1, min(whole.shape[2], BLOCK // length))
    before = max(1, BLOCK // (length * after))
    for i in range(0, whole.shape[0], before):
        for j in range(0, whole.shape[2], after):
            yield whole[i : i + before, :, j : j + after]


def bands(shape: Sequence[int], levels: Sequence[int]) -> list[Band]:
    """Parts of the coefficient array, those of coarse scales first."""
    edges = []
    for length, count in zip(shape, levels, strict=True):
        ends = [0, *reversed(_lengths(length, count))]
        edges.append([slice(a, b) for a, b in pairwise(ends)])
    found = [
        Band(scales, tuple(edge[s] for edge, s in zip(edges, scales, strict=True)))
        for scales in product(*(range(len(edge)) for edge in edges))
    ]
    return sorted(found, key=lambda band: (sum(band.scales), band.scales))


def _lengths(length: int, levels: int) -> list[int]:
    """Lengths of the mean part after 0, 1, ..., `levels` levels."""
    lengths = [length]
    for _ in range(levels):
        lengths.append((lengths[-1] + 1) // 2)
    return lengths


def _analyse(x: Floats) -> None:
    """One level along the second of three axes, in place: means first, then details."""
    even, odd = x[:, 0::2].copy(), x[:, 1::2].copy()
    for number, weight in enumerate(STEPS):
        _lift(even, odd, number, weight)
    half = even.shape[1]
    np.multiply(even, SCALE, out=x[:, :half])
    np.multiply(odd, 1 / SCALE, out=x[:, half:])


def _synthesise(x: Floats) -> None:
    """Undo `_analyse`, in place."""
    half = (x.shape[1] + 1) // 2
    even, odd = x[:, :half] * (1 / SCALE), x[:, half:] * SCALE
    for number, weight in reversed(list(enumerate(STEPS))):
        _lift(even, odd, number, -weight)
    x[:, 0::2], x[:, 1::2] = even, odd


def _lift(even: Floats, odd: Floats, number: int, weight: float) -> None:
    """Add neighbours of the other parity, mirrored at the ends: steps 0 and 2 change `odd`."""
    m, n = even.shape[1], odd.shape[1]
    if number % 2 == 0:
        sums = even[:, :n] * weight
        odd += sums
        # What is the left neighbour of one is the right one of that before.
        odd[:, : n - 1] += sums[:, 1:]
        odd[:, n - 1 :] += even[:, m - 1 :] * weight
    else:
        sums = odd * weight
        even[:, :n] += sums
        even[:, 1:] += sums[:, : m - 1]
        even[:, :1] += sums[:, :1]
        even[:, n:] += sums[:, n - 1 :] if m > n else 0

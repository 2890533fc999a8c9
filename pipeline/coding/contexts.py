"""What is expected of a wavelet coefficient, from those that are coded before it.

The coefficients of a band are coded on interleaved lattices, each half as coarse as that
before it, so most have neighbours on all sides that are known already; those of the next
coarser scale at the same place are known too. Large ones keep company, so their mean size
foretells the size of the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import combinations, product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.coding.rangecoder import EDGES, UNIT, Coder, Integers, buckets_of
from pipeline.coding.wavelet import Band, bands

# Stride of the coarsest lattice, which has no neighbours to go by.
COARSEST = 8
# Expected where nothing is known: something small.
UNKNOWN = 2 * UNIT
NEIGHBOUR, PARENT = 3, 1
KINDS, SHIFT = 1, 1


class Lattice(NamedTuple):
    """Points ``parity * stride + 2 * stride * i`` per axis; `pairs` are the axes along which
    (one, or two at once) both neighbours at distance `stride` are known."""

    region: tuple[slice, ...]
    stride: int
    pairs: tuple[tuple[int, ...], ...]


@lru_cache(maxsize=4096)
def lattices(shape: tuple[int, ...]) -> tuple[Lattice, ...]:
    """Lattices of a band in coding order; together they hold each point once."""
    stride = COARSEST
    found = [Lattice((slice(None, None, stride),) * len(shape), stride, ())]
    while stride > 1:
        stride //= 2
        found += _between(shape, stride)
    return tuple(lattice for lattice in found if _points(lattice, shape))


def _between(shape: tuple[int, ...], stride: int) -> Iterator[Lattice]:
    """Lattices that refine one of twice the stride: those with two known diagonals first."""
    axes = [axis for axis, length in enumerate(shape) if length > stride]
    parities = [p for p in product((0, 1), repeat=len(axes)) if any(p)]
    done = [(0,) * len(axes)]
    for parity in sorted(parities, key=lambda p: (sum(p) % 2, sum(p), p)):
        pairs = []
        for flipped in [*combinations(range(len(axes)), 1), *combinations(range(len(axes)), 2)]:
            other = tuple(b ^ (i in flipped) for i, b in enumerate(parity))
            if other in done and not (pairs and len(flipped) > len(pairs[0])):
                pairs.append(tuple(axes[i] for i in flipped))
        starts = dict(zip(axes, parity, strict=True))
        region = tuple(
            slice(starts[axis] * stride, None, 2 * stride) if axis in starts else slice(0, 1)
            for axis in range(len(shape))
        )
        yield Lattice(region, stride, tuple(pairs))
        done.append(parity)


def _points(lattice: Lattice, shape: tuple[int, ...]) -> int:
    return int(
        np.prod([len(range(*s.indices(n))) for s, n in zip(lattice.region, shape, strict=True)])
    )


def _neighbours(sizes: Integers, lattice: Lattice) -> Integers:
    """Sum of the known neighbours of each point of a lattice."""
    total: Integers = np.zeros_like(sizes[lattice.region])
    for axes in lattice.pairs:
        for signs in product((-1, 1), repeat=len(axes)):
            view = sizes
            for axis in range(sizes.ndim):
                if axis in axes:
                    sign = signs[axes.index(axis)]
                    index = _mirrored(
                        sizes.shape[axis], lattice.region[axis], sign * lattice.stride
                    )
                    view = view.take(index, axis=axis)
                else:
                    view = view[(slice(None),) * axis + (lattice.region[axis],)]
            total += view
    return total


def _mirrored(length: int, region: slice, shift: int) -> NDArray[np.intp]:
    """Positions of the neighbours at `shift`; beyond an end, those on the other side."""
    at = np.arange(*region.indices(length))
    moved = at + shift
    return np.where((moved < 0) | (moved >= length), at - shift, moved)


def _parents(sizes: Integers, band: Band, places: dict[tuple[int, ...], Band]) -> Integers | None:
    """Mean of the next coarser coefficients at the same places, times `UNIT`."""
    shape = sizes[band.region].shape
    found = []
    for axis, scale in enumerate(band.scales):
        if scale < 2:
            continue
        coarser = places[(*band.scales[:axis], scale - 1, *band.scales[axis + 1 :])]
        parent = sizes[coarser.region]
        if 0 in parent.shape:
            continue
        index = np.minimum(np.arange(shape[axis]) // 2, parent.shape[axis] - 1)
        found.append(parent.take(index, axis=axis))
    if not found:
        return None
    return (sum(found[1:], found[0]) * UNIT // len(found)) >> SHIFT


def traverse(sizes: Integers, levels: Sequence[int], coder: Coder) -> None:
    """Pass the sizes of all coefficients through a coder, in an order both sides know."""
    every = bands(sizes.shape, levels)
    places = {band.scales: band for band in every}
    for band in every:
        values = sizes[band.region]
        if not values.size:
            continue
        parents = _parents(sizes, band, places)
        for lattice in lattices(values.shape):
            expected, weight = np.zeros(values[lattice.region].shape, np.int64), 0
            if lattice.pairs:
                count = sum(2 ** len(pair) for pair in lattice.pairs)
                expected += _neighbours(values, lattice).astype(np.int64) * (NEIGHBOUR * UNIT)
                expected //= count
                weight += NEIGHBOUR
            if parents is not None:
                expected += parents[lattice.region] * PARENT
                weight += PARENT
            expected = expected // weight if weight else expected + UNKNOWN
            b = buckets_of(expected)
            if KINDS and not lattice.pairs: b = b + len(EDGES)
            coder.transfer(values[lattice.region], b)

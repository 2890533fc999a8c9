"""What is expected of a wavelet coefficient, from those that are coded before it.

The coefficients of a band are coded on interleaved lattices, each half as coarse as that
before it, so most have neighbours on all sides that are known already; those of the next
coarser scale at the same place are known too. Large ones keep company, so their mean size
foretells the size of the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import combinations, groupby, product
from typing import Any, NamedTuple

import numpy as np

from pipeline.coding.rangecoder import UNIT, Buckets, Coder, Integers, buckets_of
from pipeline.coding.wavelet import Band, bands

# Stride of the coarsest lattice, which has no neighbours to go by.
COARSEST = 4
# Expected where nothing is known: something small.
UNKNOWN = 2 * UNIT
# Share of the neighbours where there are parents too.
NEIGHBOUR = 0.75
# Size of a coefficient as a share of its parent's.
DECAY = 0.5
# Sizes above count as this one in means of them, which then stay within 64 bits.
CAP = 2**40
FLAGS, ALONE, AMONG = range(3)


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
    total: Integers | None = None
    for axes in lattice.pairs:
        region = list(lattice.region)
        for axis in axes:
            region[axis] = slice(lattice.stride - region[axis].start, None, region[axis].step)
        view = _capped(sizes[tuple(region)])
        for axis in axes:
            view = _pair_sums(view, axis, lattice.region[axis], sizes.shape[axis])
        total = view if total is None else np.add(total, view, out=total)
    assert total is not None
    return total


def _pair_sums(known: Integers, axis: int, region: slice, length: int) -> Integers:
    """Sums of what is known on both sides of each point; at an end, twice that on one side."""
    count = len(range(*region.indices(length)))
    lead = (slice(None),) * axis
    if region.start:  # between known ones
        sums = known[(*lead, slice(0, count))].copy()
        inner = known.shape[axis] - 1
        sums[(*lead, slice(0, inner))] += known[(*lead, slice(1, None))]
        sums[(*lead, slice(inner, None))] *= 2
        return sums
    n = known.shape[axis]
    sums = np.empty((*known.shape[:axis], count, *known.shape[axis + 1 :]), known.dtype)
    sums[(*lead, slice(0, 1))] = known[(*lead, slice(0, 1))]
    sums[(*lead, slice(1, None))] = known[(*lead, slice(0, count - 1))]
    sums[(*lead, slice(0, n))] += known
    sums[(*lead, slice(n, None))] *= 2
    return sums


def _capped(sizes: Integers) -> Integers:
    return sizes if sizes.dtype == np.int32 else np.minimum(sizes, CAP)


def _parents(sizes: Integers, band: Band, places: dict[tuple[int, ...], Band], box: tuple[slice, ...]) -> Integers | None:
    """Sum of the next coarser coefficients at the same places, and their number."""
    found = []
    for axis, scale in enumerate(band.scales):
        if scale < 2:
            continue
        coarser = places[(*band.scales[:axis], scale - 1, *band.scales[axis + 1 :])]
        parent = sizes[coarser.region][box]
        if 0 in parent.shape:
            continue
        length = band.region[axis].stop - band.region[axis].start
        index = np.minimum(np.arange(length) // 2, parent.shape[axis] - 1)
        found.append(_capped(parent.take(index, axis=axis)))
    if not found:
        return None
    return sum(found[1:], found[0]) * int(UNIT * DECAY / len(found))


def _walk(values: Integers, parents: Integers | None) -> Iterator[tuple[int, Integers, Buckets]]:
    """Kind, sizes and contexts of the lattices of a band; sizes must be known for the next."""
    share = 1.0 if parents is None else NEIGHBOUR
    for lattice in lattices(values.shape):
        view = values[lattice.region]
        if lattice.pairs:
            count = sum(2 ** len(pair) for pair in lattice.pairs)
            expected = _neighbours(values, lattice)
            expected *= max(1, int(UNIT * share / count))
            if parents is not None:
                expected += parents[lattice.region] // 4
            yield AMONG, view, buckets_of(expected)
        elif parents is not None:
            yield ALONE, view, buckets_of(parents[lattice.region])
        else:
            yield ALONE, view, buckets_of(np.full(view.shape, UNKNOWN))


def traverse(sizes: Integers, levels: Sequence[int], coder: Coder) -> None:
    """Pass the sizes of all coefficients through a coder, in an order both sides know."""
    every = [band for band in bands(sizes.shape, levels) if sizes[band.region].size]
    places = {band.scales: band for band in every}
    flags = _flags(sizes, levels, every, coder)
    for _, group in groupby(every, key=lambda band: sum(band.scales)):
        walks = []
        for band in group:
            box = _box(flags, band, levels)
            if box is not None:
                walks.append(_walk(sizes[band.region][box], _parents(sizes, band, places, box)))
        while steps := [step for walk in walks if (step := next(walk, None))]:
            for kind in (ALONE, AMONG):
                some = [step for step in steps if step[0] == kind]
                if some:
                    coder.transfer([s[1] for s in some], [s[2] for s in some], kind)


def _flags(sizes: Integers, levels: Sequence[int], every: list[Band], coder: Coder) -> Integers:
    """Which bands hold anything but zeros, for each index along axes that are not transformed."""
    stacked = [any(levels) and not level for level in levels]
    flags = np.zeros([n if s else level + 1 for n, s, level in zip(sizes.shape, stacked, levels, strict=True)], np.int32)
    inner = tuple(axis for axis, s in enumerate(stacked) if not s)
    for band in every:
        flags[_flag_index(band, levels)] = sizes[band.region].any(axis=inner)
    for lattice in lattices(flags.shape):
        view = flags[lattice.region]
        b = buckets_of(_neighbours(flags, lattice) * (UNIT // sum(2 ** len(pair) for pair in lattice.pairs))) if lattice.pairs else np.full(view.shape, 15, np.uint8)
        coder.transfer([view], [b], FLAGS)
    return flags


def _flag_index(band: Band, levels: Sequence[int]) -> tuple[Any, ...]:
    return tuple(scale if level or not any(levels) else slice(None) for scale, level in zip(band.scales, levels, strict=True))


def _box(flags: Integers, band: Band, levels: Sequence[int]) -> tuple[slice, ...] | None:
    """The smallest box that holds all of a band that is not zero; None where all is."""
    alive = flags[_flag_index(band, levels)]
    if not alive.any():
        return None
    found = iter([slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(alive)] if alive.ndim else [])
    return tuple(slice(None) if level or not any(levels) else next(found) for level in levels)

"""What is expected of a wavelet coefficient, from those that are coded before it.

Large coefficients keep company, so the mean size of those nearby foretells the size of the
next. The coefficients of a band are coded on interleaved lattices, each half as coarse as that
before it, so most have neighbours on all sides that are known already; those of the next
coarser scale at the same place, their parents, are known too. A whole lattice is coded at
once, with no loop over coefficients.

Which bands hold nothing but zeros is told first: at low rates most do.

All arithmetic is of integers, so that both sides expect the same on any machine.

References
----------
.. [1] X. Wu, N. Memon, "Context-based, adaptive, lossless image coding", IEEE Trans. Commun. 45
   (1997) 437-444 (expected size as the context; its quantisation).
.. [2] J. M. Shapiro, "Embedded image coding using zerotrees of wavelet coefficients", IEEE
   Trans. Signal Process. 41 (1993) 3445-3462, Section III (parents).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import combinations, groupby, product
from typing import NamedTuple

import numpy as np

from pipeline.coding.rangecoder import UNIT, Buckets, Coder, Integers, Kind, buckets_of
from pipeline.coding.wavelet import Band, bands
from pipeline.contracts import Region

# Stride of the coarsest lattice, which has no neighbours to go by. At a distance of 8 they
# foretell no more than parents do, at 4 they save two per cent.
COARSEST = 4
# Expected where nothing is known: something small.
UNKNOWN = 2 * UNIT
# The parents' part, one in so many, where there are neighbours too: those are closer. What is
# expected hardly depends on it, from one half to one tenth.
PARENTS_PART = 4
# Size of a coefficient as a share of its parent's, as it is of data that is continuous with
# a kink here and there. A third does as well; all of it costs a per cent and a half.
DECAY = 0.5
# Sizes above count as this one in sums of them, which then stay within 64 bits.
CAP = 2**40


class Lattice(NamedTuple):
    """Points ``parity * stride + 2 * stride * i`` per axis; `pairs` are the axes along which
    (one, or two at once) both neighbours at distance `stride` are known."""

    region: Region
    stride: int
    pairs: tuple[tuple[int, ...], ...]

    @property
    def neighbours(self) -> int:
        """Number of known neighbours of a point."""
        return sum(2 ** len(axes) for axes in self.pairs)


class Step(NamedTuple):
    """Coefficients that are coded together, and what is expected of them."""

    kind: Kind
    sizes: Integers
    buckets: Buckets


def traverse(sizes: Integers, levels: Sequence[int], coder: Coder) -> None:
    """Pass the sizes of all coefficients through a coder, in an order both sides know.

    Parameters
    ----------
    sizes : ndarray of int32 or int64
        Coefficients in steps, without sign. An encoder reads them; a decoder overwrites
        zeros by them.
    levels : sequence of int
        Levels of the transform per axis.
    coder : Coder
        Either side of the range coding.
    """
    if not sizes.ndim:
        sizes, levels = sizes.reshape(1), (0,)
    every = [band for band in bands(sizes.shape, levels) if sizes[band.region].size]
    places = {band.scales: band for band in every}
    alive = _alive(sizes, levels, every, coder)
    # Bands of the same total scale are no parents of one another: they go side by side, as
    # few large pieces are coded faster than many small ones.
    for _, group in groupby(every, key=lambda band: sum(band.scales)):
        walks = [
            _band_steps(sizes, band, box, places)
            for band in group
            if (box := _box(alive[_flag_of(band, levels)], levels)) is not None
        ]
        while steps := [step for walk in walks if (step := next(walk, None))]:
            _transfer(steps, coder)


def _transfer(steps: Sequence[Step], coder: Coder) -> None:
    for kind in sorted({step.kind for step in steps}):
        some = [step for step in steps if step.kind == kind]
        coder.transfer([step.sizes for step in some], [step.buckets for step in some], kind)


def _alive(sizes: Integers, levels: Sequence[int], every: list[Band], coder: Coder) -> Integers:
    """Whether each band holds anything but zeros, passed through the coder: one flag for each
    index along the axes that are not transformed (each mode), and each scale along the others."""
    axes = _inner_axes(levels)
    counts = [n if axis not in axes else levels[axis] + 1 for axis, n in enumerate(sizes.shape)]
    alive: Integers = np.zeros(counts, np.int32)
    for band in every:
        alive[_flag_of(band, levels)] = sizes[band.region].any(axis=axes)
    for lattice in lattices(alive.shape):
        _transfer([_step(alive, None, lattice)._replace(kind=Kind.FLAG)], coder)
    return alive


def _inner_axes(levels: Sequence[int]) -> tuple[int, ...]:
    """Axes along which a flag stands for all: those that are transformed, if any is."""
    return tuple(axis for axis, count in enumerate(levels) if count or not any(levels))


def _flag_of(band: Band, levels: Sequence[int]) -> tuple[slice | int, ...]:
    axes = _inner_axes(levels)
    return tuple(scale if axis in axes else slice(None) for axis, scale in enumerate(band.scales))


def _box(alive: Integers, levels: Sequence[int]) -> Region | None:
    """The part of a band that its flags leave, from the first alive to the last; None if none."""
    if not alive.any():
        return None
    box = [slice(None)] * len(levels)
    outer = [axis for axis in range(len(levels)) if axis not in _inner_axes(levels)]
    for axis, found in zip(outer, np.argwhere(alive).T, strict=True):
        box[axis] = slice(int(found.min()), int(found.max()) + 1)
    return tuple(box)


@lru_cache(maxsize=4096)
def lattices(shape: tuple[int, ...]) -> tuple[Lattice, ...]:
    """Lattices of a band in coding order; together they hold each point once."""
    stride = COARSEST
    found = [Lattice((slice(None, None, stride),) * len(shape), stride, ())]
    while stride > 1:
        stride //= 2
        found += _between(shape, stride)
    return tuple(found)


def _between(shape: tuple[int, ...], stride: int) -> Iterator[Lattice]:
    """Lattices that refine one of twice the stride: those with two known diagonals first."""
    axes = [axis for axis, length in enumerate(shape) if length > stride]
    parities = [p for p in product((0, 1), repeat=len(axes)) if any(p)]
    done = [(0,) * len(axes)]
    for parity in sorted(parities, key=lambda p: (sum(p) % 2, sum(p), p)):
        starts = dict(zip(axes, parity, strict=True))
        region = tuple(
            slice(starts[axis] * stride, None, 2 * stride) if axis in starts else slice(0, 1)
            for axis in range(len(shape))
        )
        for distance in (1, 2):
            flips = combinations(range(len(axes)), distance)
            pairs = [f for f in flips if tuple(b ^ (i in f) for i, b in enumerate(parity)) in done]
            # Farther ones would only blur what the nearest say.
            if pairs:
                break
        yield Lattice(region, stride, tuple(tuple(axes[i] for i in pair) for pair in pairs))
        done.append(parity)


def _band_steps(
    sizes: Integers, band: Band, box: Region, places: dict[tuple[int, ...], Band]
) -> Iterator[Step]:
    """The lattices of a band; each must be known when the next is asked for."""
    values = sizes[band.region][box]
    parents = _parents(sizes, band, box, places)
    for lattice in lattices(values.shape):
        yield _step(values, parents, lattice)


def _step(values: Integers, parents: Integers | None, lattice: Lattice) -> Step:
    view = values[lattice.region]
    above = None if parents is None else parents[lattice.region]
    if lattice.pairs:
        part = UNIT if above is None else UNIT - UNIT // PARENTS_PART
        expected = _neighbour_sums(values, lattice)
        expected *= max(1, part // lattice.neighbours)
        if above is None:
            return Step(Kind.ORPHAN, view, buckets_of(expected))
        expected += above // PARENTS_PART
        return Step(Kind.AMONG, view, buckets_of(expected))
    if above is None:
        above = np.broadcast_to(np.array(UNKNOWN), view.shape)
    return Step(Kind.ALONE, view, buckets_of(above))


def _neighbour_sums(sizes: Integers, lattice: Lattice) -> Integers:
    """Sum of the known neighbours of each point of a lattice."""
    sums = [_pair_sums(sizes, lattice, axes) for axes in lattice.pairs]
    for other in sums[1:]:
        sums[0] += other
    return sums[0]


def _pair_sums(sizes: Integers, lattice: Lattice, axes: tuple[int, ...]) -> Integers:
    """Sum of the neighbours of each point on all sides along `axes`."""
    region = list(lattice.region)
    for axis in axes:
        start = region[axis].start
        region[axis] = slice(lattice.stride - start, None, 2 * lattice.stride)
    sums = capped(sizes[tuple(region)])
    for axis in axes:
        count = len(range(*lattice.region[axis].indices(sizes.shape[axis])))
        ahead = lattice.region[axis].start == 0
        sums = _both_sides(sums.swapaxes(0, axis), count, ahead).swapaxes(0, axis)
    return sums


def _both_sides(known: Integers, count: int, ahead: bool) -> Integers:
    """Sums of the two of `known` around each of `count` points, the first of which lies `ahead`
    of them all or not; at an end, twice the only one."""
    left = 1 - ahead
    sums = np.empty((count, *known.shape[1:]), known.dtype)
    sums[: 1 - left] = known[: 1 - left]
    sums[1 - left :] = known[: count - 1 + left]
    right = known[left : left + count]
    sums[: len(right)] += right
    sums[len(right) :] *= 2
    return sums


def capped(sizes: Integers) -> Integers:
    """Sizes whose sums do not overflow; those of 32 bits are small enough as they are."""
    return sizes if sizes.dtype == np.int32 else np.minimum(sizes, CAP)


def _parents(
    sizes: Integers, band: Band, box: Region, places: dict[tuple[int, ...], Band]
) -> Integers | None:
    """What the next coarser coefficients at the same places lead to expect, if there are any.

    The mean parts are none: they do not have the size of details.
    """
    found = []
    for axis, scale in enumerate(band.scales):
        coarser = places.get((*band.scales[:axis], scale - 1, *band.scales[axis + 1 :]))
        if scale < 2 or coarser is None:
            continue
        parent = capped(sizes[coarser.region][box])
        length = band.region[axis].stop - band.region[axis].start
        index = np.minimum(np.arange(length) // 2, parent.shape[axis] - 1)
        found.append(parent.take(index, axis=axis))
    if not found:
        return None
    weight = int(UNIT * DECAY / len(found))
    for other in found[1:]:
        found[0] += other
    found[0] *= weight
    return found[0]

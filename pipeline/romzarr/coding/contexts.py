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

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import combinations, groupby, product
from typing import NamedTuple

import numpy as np

from romzarr.coding.rangecoder import UNIT, Buckets, Coder, Integers, Kind, buckets_of
from romzarr.coding.wavelet import Band, bands
from romzarr.contracts import Region

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
    (one, or two at once) both neighbours at distance `stride` are known: `neighbours` in all."""

    region: Region
    stride: int
    pairs: tuple[tuple[int, ...], ...]
    neighbours: int


class Step(NamedTuple):
    """Coefficients that are coded together, and what is expected of them."""

    kind: Kind
    sizes: Integers
    buckets: Buckets


class Part(NamedTuple):
    """Sizes of the part of a band that is not told to be all zeros, and where it lies."""

    band: Band
    region: Region
    sizes: Integers


def flags_of(sizes: Integers, levels: Sequence[int]) -> Integers:
    """Whether each band holds anything but zeros: one flag for each index along the axes that
    are not transformed (each mode), and each scale along the others."""
    alive = no_flags(sizes.shape, levels)
    for band in bands(sizes.shape, levels):
        alive[_flag_of(band, levels)] = sizes[band.region].any(axis=_inner_axes(levels))
    return alive


def no_flags(shape: Sequence[int], levels: Sequence[int]) -> Integers:
    """Flags that say that there is nothing, for a decoder to overwrite."""
    axes = _inner_axes(levels)
    return np.zeros([levels[k] + 1 if k in axes else n for k, n in enumerate(shape)], np.int32)


def traverse(
    alive: Integers,
    shape: Sequence[int],
    levels: Sequence[int],
    coder: Coder,
    sizes_of: Callable[[Region], Integers],
) -> list[Part]:
    """Pass the sizes of all coefficients through a coder, in an order both sides know.

    Parameters
    ----------
    alive : ndarray of int32
        `flags_of` the sizes, for an encoder; `no_flags`, which a decoder overwrites.
    shape : sequence of int
        Of the array of coefficients, at least one axis.
    levels : sequence of int
        Levels of the transform per axis.
    coder : Coder
        Either side of the range coding.
    sizes_of : callable
        Coefficients of a region in steps, without sign, as int32 or int64. An encoder reads
        them; a decoder overwrites zeros by them.

    Returns
    -------
    list of Part
        All but zeros. It takes no more memory than they do.
    """
    for lattice in lattices(alive.shape):
        _transfer([_step(alive, None, lattice)._replace(kind=Kind.FLAG)], coder)
    every = [band for band in bands(shape, levels) if all(s.stop > s.start for s in band.region)]
    parts: dict[tuple[int, ...], Part | None] = {}
    # Bands of the same total scale are no parents of one another: they go side by side, as
    # few large pieces are coded faster than many small ones.
    for _, group in groupby(every, key=lambda band: sum(band.scales)):
        some = {band.scales: _part(band, alive, levels, sizes_of) for band in group}
        walks = [_steps(part, parts) for part in some.values() if part]
        while steps := [step for walk in walks if (step := next(walk, None))]:
            _transfer(steps, coder)
        parts |= some
    return [part for part in parts.values() if part]


def _transfer(steps: Sequence[Step], coder: Coder) -> None:
    for kind in sorted({step.kind for step in steps}):
        some = [step for step in steps if step.kind == kind]
        coder.transfer([step.sizes for step in some], [step.buckets for step in some], kind)


def _inner_axes(levels: Sequence[int]) -> tuple[int, ...]:
    """Axes along which a flag stands for all: those that are transformed, if any is."""
    return tuple(axis for axis, count in enumerate(levels) if count or not any(levels))


def _flag_of(band: Band, levels: Sequence[int]) -> tuple[slice | int, ...]:
    axes = _inner_axes(levels)
    return tuple(scale if axis in axes else slice(None) for axis, scale in enumerate(band.scales))


def _part(
    band: Band, alive: Integers, levels: Sequence[int], sizes_of: Callable[[Region], Integers]
) -> Part | None:
    """The part of a band that its flags leave, from the first alive to the last; None if none."""
    flags = np.asarray(alive[_flag_of(band, levels)])
    if not flags.any():
        return None
    region = list(band.region)
    outer = [axis for axis in range(len(levels)) if axis not in _inner_axes(levels)]
    for axis, found in zip(outer, np.nonzero(flags) if outer else (), strict=True):
        region[axis] = slice(int(found.min()), int(found.max()) + 1)
    return Part(band, tuple(region), sizes_of(tuple(region)))


def lattices(shape: tuple[int, ...]) -> tuple[Lattice, ...]:
    """Lattices of a band in coding order; together they hold each point once."""
    # Of longer axes, how long they are makes no difference.
    return _lattices(tuple(min(length, COARSEST) for length in shape))


@lru_cache(maxsize=4096)
def _lattices(shape: tuple[int, ...]) -> tuple[Lattice, ...]:
    stride = COARSEST
    found = [Lattice((slice(None, None, stride),) * len(shape), stride, (), 0)]
    while stride > 1:
        stride //= 2
        found += _between(shape, stride)
    return tuple(found)


def _between(shape: tuple[int, ...], stride: int) -> Iterator[Lattice]:
    """Lattices that refine one of twice the stride: those with two known diagonals first."""
    axes = [axis for axis, length in enumerate(shape) if length > stride]
    parities = [p for p in product((0, 1), repeat=len(axes)) if any(p)]
    done = {(0,) * len(axes)}
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
        along = tuple(tuple(axes[i] for i in pair) for pair in pairs)
        yield Lattice(region, stride, along, len(pairs) * 2**distance)
        done.add(parity)


def _steps(part: Part, parts: Mapping[tuple[int, ...], Part | None]) -> Iterator[Step]:
    """The lattices of a band; each must be known when the next is asked for."""
    parents = _parents(part, parts)
    for lattice in lattices(part.sizes.shape):
        yield _step(part.sizes, parents, lattice)


def _step(values: Integers, parents: Integers | None, lattice: Lattice) -> Step:
    view = values[lattice.region]
    above = None if parents is None else parents[lattice.region]
    if not lattice.pairs:
        if above is None:
            above = np.broadcast_to(np.array(UNKNOWN), view.shape)
        return Step(Kind.ALONE, view, buckets_of(above))
    expected = _neighbour_sums(values, lattice, view.shape)
    if above is None:
        expected *= max(1, UNIT // lattice.neighbours)
        return Step(Kind.ORPHAN, view, buckets_of(expected))
    expected *= max(1, (UNIT - UNIT // PARENTS_PART) // lattice.neighbours)
    expected += above // PARENTS_PART
    return Step(Kind.AMONG, view, buckets_of(expected))


def _neighbour_sums(sizes: Integers, lattice: Lattice, shape: tuple[int, ...]) -> Integers:
    """Sum of the known neighbours of each point of a lattice of that shape."""
    first, *others = lattice.pairs
    total = _pair_sums(sizes, lattice, shape, first)
    for axes in others:
        total += _pair_sums(sizes, lattice, shape, axes)
    return total


def _pair_sums(
    sizes: Integers, lattice: Lattice, shape: tuple[int, ...], axes: tuple[int, ...]
) -> Integers:
    """Sum of the neighbours of each point on all sides along `axes`."""
    region = list(lattice.region)
    for axis in axes:
        region[axis] = slice(lattice.stride - region[axis].start, None, 2 * lattice.stride)
    sums = capped(sizes[tuple(region)])
    for axis in axes:
        sums = _both_sides(sums, axis, shape[axis], int(lattice.region[axis].start == 0))
    return sums


def _both_sides(known: Integers, axis: int, count: int, ahead: int) -> Integers:
    """Sums of the two of `known` around each of `count` points, the first of which lies `ahead`
    of them all or not; at an end, twice the only one."""
    along = known.swapaxes(0, axis)
    missing = count + 1 - ahead - len(along)
    if ahead or missing:
        along = np.concatenate([along[:1]] * ahead + [along] + [along[-1:]] * missing)
    sums: Integers = along[:-1] + along[1:]
    return sums.swapaxes(0, axis)


def capped(sizes: Integers) -> Integers:
    """Sizes whose sums do not overflow; those of 32 bits are small enough as they are."""
    return sizes if sizes.dtype == np.int32 else np.minimum(sizes, CAP)


def _parents(part: Part, parts: Mapping[tuple[int, ...], Part | None]) -> Integers | None:
    """What the next coarser coefficients at the same places lead to expect, if there are any.

    The mean parts are none: they do not have the size of details.
    """
    scales = part.band.scales
    coarser = {
        axis: (*scales[:axis], scale - 1, *scales[axis + 1 :])
        for axis, scale in enumerate(scales)
        if scale >= 2
    }
    found = {axis: parts[above] for axis, above in coarser.items() if above in parts}
    if not found:
        return None
    total = np.zeros(part.sizes.shape, part.sizes.dtype)
    for axis, parent in found.items():
        if parent:
            _add_parent(total, part.region, parent, axis)
    total *= int(UNIT * DECAY / len(found))
    return total


def _add_parent(total: Integers, region: Region, parent: Part, axis: int) -> None:
    """Add to `total`, which lies at `region`, the sizes of what is half as fine along `axis`."""
    into, of = [slice(None)] * total.ndim, [slice(None)] * total.ndim
    for other, (here, there) in enumerate(zip(region, parent.region, strict=True)):
        if other != axis:
            first, last = max(here.start, there.start), min(here.stop, there.stop)
            into[other] = slice(first - here.start, max(first, last) - here.start)
            of[other] = slice(first - there.start, max(first, last) - there.start)
    sizes = capped(parent.sizes[tuple(of)])
    index = np.minimum(np.arange(total.shape[axis]) // 2, sizes.shape[axis] - 1)
    total[tuple(into)] += sizes.take(index, axis=axis)

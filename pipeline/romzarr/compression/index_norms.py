"""What each index of some dims of a variable is like, such as each level: a pass of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from romzarr.chunked.blocks import Lengths, aligned_tile, lazy_tiles
from romzarr.chunked.by_index import FoundMoments, IndexMoments, MeasureMoments, joined_moments
from romzarr.chunked.slices import gathered
from romzarr.chunked.spots import spread
from romzarr.coding.tiles import grid, region_of
from romzarr.contracts import ArchivedVariable, Floats, Mask, Matrix, ReadCost
from romzarr.numerics.gaps import special_values
from romzarr.numerics.moments import MomentsWithGaps
from romzarr.numerics.scaling import along

Groups = NDArray[np.int64]

# Values of a tile that is read at once.
LEAST, MOST = 1 << 18, 1 << 22
# Results that are put together at a time: each has the counts and the mean of a part of space.
SUMMANDS = 2
# Squared fluctuations below lose digits: such an index has no bound of its own.
SMALLEST = 1e-280
# Tiles of each index in a sample.
SAMPLED = 3


@dataclass(frozen=True)
class IndexNorms:
    """What is known of each index of the ``dims`` of a variable, in arrays that broadcast over it.

    ``squares`` are the squared fluctuations, ``about_mean`` those about the temporal mean, if they
    are about a mean cycle, ``counted`` the weights of all numbers, ``averages``
    their mean and ``means`` the mean square of their temporal means. Indices are ``bounded`` if
    they fluctuate, ``constant`` if they have numbers, which never change: the values of these are
    ``steady`` (*space), and NaN elsewhere.
    """

    dims: tuple[str, ...]
    squares: Matrix
    about_mean: Matrix
    counted: Matrix
    averages: Matrix
    means: Matrix
    bounded: Mask
    constant: Mask
    steady: Floats | None

    @property
    def sizes(self) -> Matrix:
        """Root of the mean square of the fluctuation of each index; 1 where it has none."""
        squares = np.where(self.bounded, self.squares, 1.0)
        return np.asarray(np.sqrt(squares / np.where(self.bounded, self.counted, 1.0)))


def index_norms(
    variable: ArchivedVariable,
    dims: tuple[str, ...],
    groups: Groups,
    gaps: bool,
    sampled: bool,
) -> tuple[IndexNorms, ReadCost]:
    """Norms of each index of some dims of a variable, and what reading it cost. Runs Dask.

    Fluctuations are about the mean of each of the `groups` (m,) that snapshots belong to; these
    means are held here. Where there are `gaps`, known fill values are no
    numbers. If it is `sampled`, a few tiles of each index are read, from which those of all are
    estimated; nothing is kept of constants then.
    """
    found = _moments(variable, dims, groups, gaps, sampled)
    norms = _norms(variable, dims, found)
    return _of_all(norms, variable) if sampled else norms, found.cost


def axes_of(variable: ArchivedVariable, dims: Sequence[str]) -> tuple[int, ...]:
    """The axes of some dims."""
    return tuple(variable.dims.index(dim) for dim in dims)


def _of_all(sample: IndexNorms, variable: ArchivedVariable) -> IndexNorms:
    """Norms of all, as far as those of a sample tell; nothing is kept of constants."""
    snapshots = variable.shape[variable.time_axis]
    whole = snapshots * variable.inner_product.total(math.prod(variable.space_shape))
    ratio = whole / max(float(sample.counted.sum()), 1e-300)
    return replace(
        sample,
        squares=ratio * sample.squares,
        about_mean=ratio * sample.about_mean,
        counted=ratio * sample.counted,
        steady=None,
    )


def _moments(
    variable: ArchivedVariable, dims: Sequence[str], groups: Groups, gaps: bool, sampled: bool
) -> FoundMoments:
    special = special_values(variable.dtype)
    task = MeasureMoments(
        variable.time_axis,
        axes_of(variable, dims),
        variable.inner_product,
        # Not a number, and infinities.
        special if gaps else special[:3],
        groups,
    )
    tile = aligned_tile(variable, LEAST, MOST)
    places = _some_of_each(variable, tile, axes_of(variable, dims)) if sampled else None
    tiles = lazy_tiles(variable, tile, task, joined_moments, places)
    found: FoundMoments = gathered(tiles, joined_moments, SUMMANDS)
    return found


def _some_of_each(variable: ArchivedVariable, tile: Lengths, axes: Sequence[int]) -> list[Lengths]:
    """A few tiles for each of their places along some axes."""
    counts = grid(variable.shape, tile)
    others = [1 if a in axes else n for a, n in enumerate(counts)]
    some = [np.unravel_index(n, others) for n in spread(math.prod(others), SAMPLED)]
    along_axes = product(*(range(n if a in axes else 1) for a, n in enumerate(counts)))
    return [
        tuple(int(i + k) for i, k in zip(place, index, strict=True))
        for index in along_axes
        for place in some
    ]


def _norms(variable: ArchivedVariable, dims: tuple[str, ...], found: FoundMoments) -> IndexNorms:
    by_index: dict[Lengths, list[MomentsWithGaps]] = {}
    by_whole: dict[Lengths, list[MomentsWithGaps]] = {}
    whole: dict[tuple[Lengths, Lengths], IndexMoments] = {}
    for (place, index, _), part in found.parts.items():
        by_index.setdefault(index, []).append(part.moments)
        before = whole.get((place, index))
        whole[place, index] = before.joined(part) if before else part
    for (_, index), part in whole.items():
        by_whole.setdefault(index, []).append(part.moments)
    varying = {index for (_, index), part in whole.items() if part.varies}
    single = variable.shape[variable.time_axis] == 1
    shape = tuple(variable.shape[a] for a in axes_of(variable, dims))

    def each(
        of: Callable[[Sequence[MomentsWithGaps]], float],
        moments: Mapping[Lengths, Sequence[MomentsWithGaps]] = by_index,
    ) -> Matrix:
        values = np.zeros(shape)
        for index, parts in moments.items():
            values[index] = of(parts)
        return along(variable.dims, dims, values)

    squares = each(_square_in_space if single else _square)
    about = each(_square_in_space if single else _square, by_whole)
    # What repeats exactly from group to group is bounded about its mean.
    squares = np.where(squares > SMALLEST, squares, about)
    counted, averages = each(_counted), each(_average)
    changes: Mask = np.zeros(shape, bool)
    for index in by_index if single else varying:
        changes[index] = True
    varies = along(variable.dims, dims, changes)
    constant = ~varies & (counted > 0)
    return IndexNorms(
        dims=dims,
        squares=squares,
        about_mean=about,
        counted=counted,
        averages=averages,
        means=each(_mean_square),
        bounded=varies & (squares > SMALLEST) & (squares < np.inf) & (counted > 0),
        constant=constant,
        steady=_steady(variable, dims, whole, constant) if constant.any() else None,
    )


def _square(parts: Sequence[MomentsWithGaps]) -> float:
    return sum(part.square for part in parts)


def _square_in_space(parts: Sequence[MomentsWithGaps]) -> float:
    """Of a single snapshot, about its average."""
    average = _average(parts)
    about = ((part, (part.mean - average) * (part.counts > 0)) for part in parts)
    return sum(float(part.inner.sum(values**2)) for part, values in about)


def _counted(parts: Sequence[MomentsWithGaps]) -> float:
    return sum(float(part.inner.sum(part.counts)) for part in parts)


def _average(parts: Sequence[MomentsWithGaps]) -> float:
    counted = _counted(parts)
    total = sum(float(part.inner.sum(part.counts * part.mean)) for part in parts)
    return total / counted if counted else 0.0


def _mean_square(parts: Sequence[MomentsWithGaps]) -> float:
    counted = _counted(parts)
    with np.errstate(over="ignore"):
        total = sum(float(part.inner.sum(part.counts * part.mean**2)) for part in parts)
    return total / counted if counted else 0.0


def _steady(
    variable: ArchivedVariable,
    dims: Sequence[str],
    whole: Mapping[tuple[Lengths, Lengths], IndexMoments],
    constant: Mask,
) -> Floats:
    """Values of indices that are constant in time, NaN elsewhere."""
    axis, shape = variable.time_axis, variable.space_shape
    tile = aligned_tile(variable, LEAST, MOST)
    lengths = (*tile[:axis], *tile[axis + 1 :])
    axes = [a - (a > axis) for a in axes_of(variable, dims)]
    steady = np.full(shape, np.nan, variable.dtype.newbyteorder("="))
    chosen = constant.reshape([shape[a] for a in axes])
    for (place, index), part in whole.items():
        if chosen[index]:
            region = list(region_of(place, shape, lengths))
            for a, i in zip(axes, index, strict=True):
                region[a] = slice(i, i + 1)
            moments = part.moments
            values = np.where(moments.counts > 0, moments.mean, np.nan)
            steady[tuple(region)] = values.reshape([part.stop - part.start for part in region])
    return steady

"""How far derivatives in space of what a store decodes are from those of the archive.

Points need their neighbours, so a tile is read and decoded with one more point on either side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from itertools import product
from typing import Any
from uuid import uuid4

import dask
import numpy as np
from dask.delayed import Delayed, delayed
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from romzarr.chunked.blocks import (
    Lengths,
    aligned_tile,
    block_edges,
    cut_of,
    joined_block,
    overlapping,
)
from romzarr.chunked.by_index import Decoder
from romzarr.chunked.slices import SLICE_RESULTS, joined, slices
from romzarr.coding.tiles import grid, region_of
from romzarr.contracts import (
    ArchivedVariable,
    Derivative,
    Floats,
    Matrix,
    ReadBlock,
    ReadCost,
    Region,
)
from romzarr.inner_product import InnerProduct
from romzarr.numerics.derivatives import derivative_of, with_neighbours
from romzarr.numerics.gaps import gap_codes
from romzarr.numerics.moments import MomentsWithGaps

# Values of a tile: some ten arrays of float64 are made of them.
LEAST, MOST = 1 << 18, 1 << 21

Parts = Sequence[tuple[tuple[int, ...], ReadBlock]]


@dataclass(frozen=True)
class DerivativeError:
    """Squared norms of the ``error`` of a derivative and of its ``fluctuation``, and what reading
    cost.

    The fluctuation is about the temporal mean of each point, or about that of each group of
    snapshots, or of a single snapshot about its average in space.
    """

    error: float
    fluctuation: float
    cost: ReadCost

    @property
    def relative(self) -> float:
        """The error by the fluctuation; infinite where there is an error of what has none."""
        if not self.error > 0:
            return 0.0 if self.error == 0 else math.inf
        return math.sqrt(self.error / self.fluctuation) if self.fluctuation > 0 else math.inf


def derivative_error(
    derivative: Derivative,
    variables: Sequence[ArchivedVariable],
    decoder: Decoder,
    special: Mapping[str, Floats],
    groups: NDArray[np.int64],
) -> DerivativeError:
    """Measure a derivative of the `variables` that it is of. Runs Dask, and reads these once.

    What is `special` in a variable is no number. Fluctuations are about the mean of each of the
    `groups` (m,) of snapshots. Weights are those of the first variable. A worker holds a tile of
    each variable, with what overlaps it, and two numbers for each point of a tile.
    """
    first, tile = variables[0], aligned_tile(variables[0], LEAST, MOST)
    measure = partial(
        _measured, derivative, decoder, special, groups, first.time_axis, first.inner_product
    )
    counts = grid(first.shape, tile)
    axis, times = first.time_axis, counts[first.time_axis]
    places = product(*(range(1 if a == axis else n) for a, n in enumerate(counts)))
    found: list[_Sums] = []
    for some in slices(places, max(1, SLICE_RESULTS // times)):
        tiles = [(*p[:axis], t, *p[axis + 1 :]) for p in some for t in range(times)]
        tasks = _tasks(variables, tile, derivative.axes, tiles, measure)
        same = (tasks[i : i + times] for i in range(0, len(tasks), times))
        ends = [delayed(_of_place, pure=False)(joined(each, _joined)) for each in same]
        found += dask.compute(*ends)
    return _of_all(found, single=first.shape[axis] == 1)


def _tasks(
    variables: Sequence[ArchivedVariable],
    tile: Lengths,
    axes: frozenset[int],
    tiles: Sequence[Lengths],
    measure: partial[_Measured],
) -> list[Delayed]:
    """The `measure` of some tiles, in a graph in which each block is read by one task."""
    token, shape = uuid4().hex, variables[0].shape
    graph: dict[Any, Any] = {}
    for variable in variables:
        graph.update(variable.source.graph())
    keys = [(f"derivative-{token}", *index) for index in tiles]
    for key, index in zip(keys, tiles, strict=True):
        own = region_of(index, shape, tile)
        region = with_neighbours(own, axes, shape)
        parts = [list(_parts(graph, each, tile, region, own, token)) for each in variables]
        graph[key] = (_Tile(measure, tuple(v.name for v in variables), region, own), *parts)
    layer = HighLevelGraph.from_collections(f"derivative-{token}", graph)
    return [Delayed(key, layer, layer=f"derivative-{token}") for key in keys]


def _parts(
    graph: dict[Any, Any],
    variable: ArchivedVariable,
    tile: Lengths,
    region: Region,
    own: Region,
    token: str,
) -> Iterator[tuple[Any, ...]]:
    """Tasks of what each block has of a region."""
    axes = zip(variable.chunks, tile, region, strict=True)
    for block in product(*(overlapping(block_edges(c, n), part) for c, n, part in axes)):
        key = (f"block-{token}", variable.name, *(each.start for each in block))
        if key not in graph:
            graph[key] = variable.source.task(block)
        yield (cut_of(block, region, own), key)


# --- tasks --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tile:
    """Task: put a region together, and measure the derivative in its ``own`` part."""

    measure: partial[_Measured]
    names: tuple[str, ...]
    region: Region
    own: Region

    def __call__(self, *parts: Parts) -> _Measured:
        both = zip(self.names, parts, strict=True)
        blocks = {name: joined_block(some, self.region) for name, some in both}
        return self.measure(blocks, self.region, self.own)


@dataclass(frozen=True)
class _Measured:
    """The squared error at some points, and the moments of the derivative by group of snapshots."""

    error: float
    moments: Mapping[int, MomentsWithGaps] = field(default_factory=dict)
    cost: ReadCost = field(default_factory=ReadCost)


def _measured(
    derivative: Derivative,
    decoder: Decoder,
    special: Mapping[str, Floats],
    groups: NDArray[np.int64],
    time_axis: int,
    inner: InnerProduct,
    blocks: Mapping[str, ReadBlock],
    region: Region,
    own: Region,
) -> _Measured:
    fields, errors = dict[str, Matrix](), dict[str, Matrix]()
    for name, block in blocks.items():
        known = gap_codes(block.values, special[name]) == 0
        values = np.where(known, block.values, np.nan).astype(np.float64)
        fields[name] = values
        errors[name] = values - decoder.decode(name, time_axis, region)
    inside = tuple(
        slice(o.start - r.start, o.stop - r.start) for o, r in zip(own, region, strict=True)
    )

    def flat(of: Mapping[str, Matrix]) -> Matrix:
        with np.errstate(over="ignore", invalid="ignore"):
            found = derivative_of(derivative, of, region)[inside]
        snapshots = np.moveaxis(found, time_axis, 0)
        return snapshots.reshape(len(snapshots), -1)

    values, missed = flat(fields), flat(errors)
    known = np.isfinite(values)
    inner = inner.on(own[:time_axis] + own[time_axis + 1 :]).flat
    numbers = groups[own[time_axis]]
    moments = {
        group: MomentsWithGaps.of(values[some], known[some], inner)
        for group in np.unique(numbers).tolist()
        for some in [numbers == group]
    }
    error = float(inner.sum(np.sum(np.where(known, missed, 0.0) ** 2, axis=0)))
    return _Measured(error, moments, sum((each.cost for each in blocks.values()), ReadCost()))


def _joined(several: Sequence[_Measured]) -> _Measured:
    """What is measured of several tiles at the same place."""
    moments: dict[int, MomentsWithGaps] = {}
    for each in several:
        for group, part in each.moments.items():
            moments[group] = moments[group].joined(part) if group in moments else part
    cost = sum((each.cost for each in several), ReadCost())
    return _Measured(sum(each.error for each in several), moments, cost)


# --- sums ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sums:
    """Of one place, with all snapshots: squares about the means of groups, and about the temporal
    mean; the weight of all values, the average of their means, and the squares of these about it.
    """

    error: float
    square: float
    about_mean: float
    weight: float
    average: float
    in_space: float
    cost: ReadCost


def _of_place(found: _Measured) -> _Sums:
    """Task: what is kept of a place."""
    whole = reduce(MomentsWithGaps.joined, found.moments.values())
    weights = whole.inner.weighted(whole.counts)
    weight = float(weights.sum())
    average = float(weights @ whole.mean) / weight if weight else 0.0
    return _Sums(
        error=found.error,
        square=sum(each.square for each in found.moments.values()),
        about_mean=whole.square,
        weight=weight,
        average=average,
        in_space=float(weights @ (whole.mean - average) ** 2),
        cost=found.cost,
    )


def _of_all(found: Sequence[_Sums], single: bool) -> DerivativeError:
    """The error of all places; of a `single` snapshot the fluctuation is that in space."""
    square = sum(each.square for each in found)
    # What repeats exactly from group to group is bounded about its mean.
    fluctuation = square if square > 0 else sum(each.about_mean for each in found)
    if single:
        weight = sum(each.weight for each in found)
        average = sum(each.weight * each.average for each in found) / (weight or 1.0)
        about = (each.weight * (each.average - average) ** 2 for each in found)
        fluctuation = sum(each.in_space for each in found) + sum(about)
    error = sum(each.error for each in found)
    return DerivativeError(error, fluctuation, sum((each.cost for each in found), ReadCost()))

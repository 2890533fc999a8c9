"""How far derivatives in space of what a store decodes are from those of the archive.

Points need their neighbours, so a tile is read and decoded with one more point on either side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
    """Squared norms of the ``error`` of a derivative and of its ``fluctuation``.

    The fluctuation is about the temporal mean of each point, or about that of each group of
    snapshots, or of a single snapshot about its average in space.
    """

    error: float
    fluctuation: float

    @property
    def relative(self) -> float:
        """The error by the fluctuation; infinite where there is an error of what has none."""
        if not self.error > 0:
            return 0.0 if self.error == 0 else math.inf
        return math.sqrt(self.error / self.fluctuation) if self.fluctuation > 0 else math.inf


def derivative_errors(
    derivatives: Sequence[Derivative],
    variables: Mapping[str, ArchivedVariable],
    decoder: Decoder,
    special: Mapping[str, Floats],
    groups: NDArray[np.int64],
) -> tuple[dict[str, DerivativeError], ReadCost]:
    """Measure derivatives of some `variables`, by name, and what that cost. Runs Dask.

    What is `special` in a variable is no number. Fluctuations are about the mean of each of the
    `groups` (m,) of snapshots. Variables at the same points have the same weights. They
    are read and decoded once for all derivatives of the same ones. A worker holds a tile of each,
    with what overlaps it, and two numbers for each point of a tile and derivative.
    """
    found, cost = dict[str, DerivativeError](), ReadCost()
    together: dict[tuple[str, ...], list[Derivative]] = {}
    for each in derivatives:
        together.setdefault(tuple(sorted(each.variables)), []).append(each)
    for names, same in together.items():
        several = [variables[name] for name in names]
        errors, read = _of_variables(same, several, decoder, special, groups)
        found.update(zip((each.name for each in same), errors, strict=True))
        cost += read
    return {each.name: found[each.name] for each in derivatives}, cost


def _of_variables(
    derivatives: Sequence[Derivative],
    variables: Sequence[ArchivedVariable],
    decoder: Decoder,
    special: Mapping[str, Floats],
    groups: NDArray[np.int64],
) -> tuple[list[DerivativeError], ReadCost]:
    """The errors of derivatives that are all of these variables."""
    first, tile = variables[0], aligned_tile(variables[0], LEAST, MOST)
    axis, halo = first.time_axis, frozenset[int]().union(*(each.axes for each in derivatives))
    measure = partial(_measured, derivatives, decoder, special, groups, axis, first.inner_product)
    counts = grid(first.shape, tile)
    places = product(*(range(1 if a == axis else n) for a, n in enumerate(counts)))
    times, found = counts[axis], list[_Place]()
    for some in slices(places, max(1, SLICE_RESULTS // times)):
        tiles = [(*p[:axis], t, *p[axis + 1 :]) for p in some for t in range(times)]
        tasks = _tasks(variables, tile, halo, tiles, measure)
        same = (tasks[i : i + times] for i in range(0, len(tasks), times))
        ends = [delayed(_of_place, pure=False)(joined(each, _joined)) for each in same]
        found += dask.compute(*ends)
    single = first.shape[axis] == 1
    sums = zip(*(each.sums for each in found), strict=True)
    cost = sum((each.cost for each in found), ReadCost())
    return [_of_all(each, single) for each in sums], cost


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
class _Sum:
    """The squared error of a derivative at some points, and its moments by group of snapshots."""

    error: float
    moments: Mapping[int, MomentsWithGaps]

    def joined(self, other: _Sum) -> _Sum:
        """That of both, at the same points."""
        moments = dict(self.moments)
        for group, part in other.moments.items():
            moments[group] = moments[group].joined(part) if group in moments else part
        return _Sum(self.error + other.error, moments)


@dataclass(frozen=True)
class _Measured:
    """The sums of some derivatives at some points, and what reading cost."""

    sums: tuple[_Sum, ...]
    cost: ReadCost


def _measured(
    derivatives: Sequence[Derivative],
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
        fields[name] = np.where(known, block.values, np.nan).astype(np.float64)
        errors[name] = fields[name] - decoder.decode(name, time_axis, region)
    inner = inner.on(own[:time_axis] + own[time_axis + 1 :]).flat
    inside = tuple(
        slice(o.start - r.start, o.stop - r.start) for o, r in zip(own, region, strict=True)
    )

    def snapshots(derivative: Derivative, of: Mapping[str, Matrix]) -> Matrix:
        with np.errstate(over="ignore", invalid="ignore"):
            found = derivative_of(derivative, of, region)[inside]
        rows = np.moveaxis(found, time_axis, 0)
        return rows.reshape(len(rows), -1)

    sums = tuple(
        _sum(snapshots(each, fields), snapshots(each, errors), inner, groups[own[time_axis]])
        for each in derivatives
    )
    return _Measured(sums, sum((each.cost for each in blocks.values()), ReadCost()))


def _sum(values: Matrix, errors: Matrix, inner: InnerProduct, groups: NDArray[np.int64]) -> _Sum:
    """That of values (m, n) of a derivative, NaN where there are none, and of their errors."""
    known = np.isfinite(values)
    moments = {
        group: MomentsWithGaps.of(values[some], known[some], inner)
        for group in np.unique(groups).tolist()
        for some in [groups == group]
    }
    return _Sum(float(inner.sum(np.sum(np.where(known, errors, 0.0) ** 2, axis=0))), moments)


def _joined(several: Sequence[_Measured]) -> _Measured:
    """What is measured of several tiles at the same place."""
    by_derivative = zip(*(each.sums for each in several), strict=True)
    cost = sum((each.cost for each in several), ReadCost())
    return _Measured(tuple(reduce(_Sum.joined, sums) for sums in by_derivative), cost)


# --- sums ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _PlaceSum:
    """Of a derivative at one place, with all snapshots: squares about the means of groups, and
    about the temporal mean; the weight of all values, the average of their means, and the squares
    of these about it."""

    error: float
    square: float
    about_mean: float
    weight: float
    average: float
    in_space: float

    @classmethod
    def of(cls, found: _Sum) -> _PlaceSum:
        whole = reduce(MomentsWithGaps.joined, found.moments.values())
        weights = whole.inner.weighted(whole.counts)
        weight = float(weights.sum())
        average = float(weights @ whole.mean) / weight if weight else 0.0
        return cls(
            error=found.error,
            square=sum(each.square for each in found.moments.values()),
            about_mean=whole.square,
            weight=weight,
            average=average,
            in_space=float(weights @ (whole.mean - average) ** 2),
        )


@dataclass(frozen=True)
class _Place:
    """What is kept of a place: numbers for each derivative, and what reading cost."""

    sums: tuple[_PlaceSum, ...]
    cost: ReadCost


def _of_place(found: _Measured) -> _Place:
    """Task: what is kept of a place."""
    return _Place(tuple(_PlaceSum.of(each) for each in found.sums), found.cost)


def _of_all(found: Sequence[_PlaceSum], single: bool) -> DerivativeError:
    """The error of all places; of a `single` snapshot the fluctuation is that in space."""
    square = sum(each.square for each in found)
    # What repeats exactly from group to group is bounded about its mean.
    fluctuation = square if square > 0 else sum(each.about_mean for each in found)
    if single:
        weight = sum(each.weight for each in found)
        average = sum(each.weight * each.average for each in found) / (weight or 1.0)
        about = (each.weight * (each.average - average) ** 2 for each in found)
        fluctuation = sum(each.in_space for each in found) + sum(about)
    return DerivativeError(sum(each.error for each in found), fluctuation)

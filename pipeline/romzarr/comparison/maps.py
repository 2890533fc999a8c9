"""Whole maps of an archive beside those of its store, for what cannot be told from blocks.

A map is one snapshot over two horizontal dims, at one place along all others; of a line it is the
line, and without space the value. Maps are taken at even distances where all would be too many.
"""

from __future__ import annotations

import math
import random
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, pairwise
from typing import Any, Protocol

import dask
import numpy as np
import xarray as xr
from dask.delayed import Delayed, delayed
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from romzarr.archive import Archive
from romzarr.archive.directions import is_scattered
from romzarr.archive.vertical import is_horizontal, vertical_among
from romzarr.chunked.plan import PODPlan, leaf_region, plan_pod
from romzarr.comparison.blocks import fill_values
from romzarr.comparison.fold import TOGETHER
from romzarr.contracts import ArchivedVariable, BlockSpan, Matrix, ReadBlock, Region
from romzarr.store.layout import Root
from romzarr.store.reading.reader import CoefficientStore, open_store

# Values of a variable in all maps that are looked at: some ten seconds of work. Of larger maps a
# few are looked at all the same; more small ones would tell no more, and take as long.
MOST_VALUES, LEAST_MAPS, MOST_MAPS = 1 << 26, 8, 4096
# Values of the maps of one task, and of a single map, whose spectrum takes some 70 bytes for each:
# of a larger one its middle is looked at.
TASK_VALUES, LARGEST = 1 << 20, 1 << 23


class MapMeasure(Protocol):
    """What is computed of single maps, and how maps add up. It is pickled."""

    def of_map(self, original: Matrix, decoded: Matrix) -> NDArray[np.float64]: ...

    def add(self, parts: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]: ...


@dataclass(frozen=True)
class Maps:
    """Which maps of a variable are looked at.

    ``axes`` number its space dims that are ``dims`` of a map; ``part`` is what is seen of each.
    ``total`` maps there are, and ``chosen`` (snapshot, place along the other dims) are looked at.
    ``scattered`` says that neighbours by number are none in space.
    """

    dims: tuple[str, ...]
    axes: tuple[int, ...]
    part: Region
    whole: bool
    total: int
    chosen: tuple[tuple[int, tuple[int, ...]], ...]
    scattered: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(each.stop - each.start for each in self.part)

    def indexers(self, place: tuple[int, ...]) -> tuple[int | slice, ...]:
        """What indexes the space dims for the maps at a place."""
        others, parts = iter(place), iter(self.part)
        count = len(place) + len(self.axes)
        return tuple(next(parts) if k in self.axes else next(others) for k in range(count))


def maps_of(
    variable: ArchivedVariable,
    coordinates: Mapping[Hashable, xr.Variable],
    snapshots: int,
    seed: str,
    most_values: int = MOST_VALUES,
) -> Maps:
    """Choose the maps of a variable: all, or one of each of as many equal parts of their order in
    time and along the other dims."""
    axes = _map_axes(variable, coordinates)
    shape = variable.space_shape
    part = _middle([shape[k] for k in axes])
    points = math.prod(each.stop - each.start for each in part)
    others = [size for k, size in enumerate(shape) if k not in axes]
    total = snapshots * math.prod(others)
    most = min(total, max(LEAST_MAPS, most_values // max(points, 1)), MOST_MAPS)
    chance = random.Random(seed)
    edges = [total * i // most for i in range(most + 1)] if most else [0]
    flat = [chance.randrange(a, b) for a, b in pairwise(edges)]
    places = (np.unravel_index(each, (snapshots, *others)) for each in flat)
    return Maps(
        dims=tuple(variable.space_dims[k] for k in axes),
        axes=axes,
        part=part,
        whole=points == math.prod(shape[k] for k in axes),
        total=total,
        chosen=tuple((int(first), tuple(int(i) for i in rest)) for first, *rest in places),
        scattered=any(is_scattered(variable.space_dims[k], coordinates) for k in axes),
    )


def _map_axes(
    variable: ArchivedVariable, coordinates: Mapping[Hashable, xr.Variable]
) -> tuple[int, ...]:
    """Horizontal dims where these are two; else the last two that are not vertical, or the last."""
    dims = variable.space_dims
    long = [k for k, size in enumerate(variable.space_shape) if size > 1]
    horizontal = [k for k in long if is_horizontal(dims[k], coordinates)]
    if len(horizontal) == 2:
        return tuple(horizontal)
    scattered = [k for k in long if is_scattered(dims[k], coordinates)]
    if scattered:
        return (scattered[-1],)
    vertical = vertical_among(dims, coordinates)
    level = [k for k in long if dims[k] not in vertical]
    return tuple((level if len(level) > 1 else long)[-2:])


def _middle(sizes: Sequence[int]) -> Region:
    """The middle of a map that is too large, of all of it else."""
    share = min(1.0, (LARGEST / max(1, math.prod(sizes))) ** (1 / max(1, len(sizes))))
    lengths = [max(1, int(size * share)) for size in sizes]
    starts = [(size - length) // 2 for size, length in zip(sizes, lengths, strict=True)]
    return tuple(slice(a, a + n) for a, n in zip(starts, lengths, strict=True))


# --- the graph ----------------------------------------------------------------------------


def over_maps(
    archive: Archive,
    opened: CoefficientStore,
    maps: Mapping[str, Maps],
    measures: Mapping[str, Mapping[str, MapMeasure]],
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Add up the `measures` of each variable over its maps. Runs Dask.

    A task takes what it needs of one block of the archive; another puts a few maps together,
    decodes them and measures; a tree of tasks adds up. A worker holds a few blocks, or a few maps.
    """
    plan, sums = plan_pod(archive.variables), {}
    for number, variable in enumerate(archive.variables):
        mine = tuple(measures[variable.name].values())
        tasks = [
            _task(archive, opened, plan, number, maps[variable.name], group, mine)
            for group in _groups(plan, number, maps[variable.name])
        ]
        while len(tasks) > 1:
            some = (tasks[i : i + TOGETHER] for i in range(0, len(tasks), TOGETHER))
            tasks = [delayed(_added, pure=False)(mine, each) for each in some]
        sums[variable.name] = tasks[0]
    with threadpool_limits(1, user_api="blas"):
        (found,) = dask.compute(sums)
    return {name: dict(zip(measures[name], each, strict=True)) for name, each in found.items()}


Group = tuple[BlockSpan, tuple[int, ...], list[int]]


def _groups(plan: PODPlan, number: int, maps: Maps) -> Iterator[Group]:
    """Maps at the same place and of the same leaf, as many as a task takes."""
    leaves = [span for block in plan.leaves[plan.rows_of(number)[0].number] for span in block]
    starts = [span.start for span in leaves]
    most = max(1, TASK_VALUES // max(1, math.prod(maps.shape)))

    def key(each: tuple[int, tuple[int, ...]]) -> tuple[int, tuple[int, ...]]:
        return int(np.searchsorted(starts, each[0], side="right")) - 1, each[1]

    for (leaf, place), same in groupby(sorted(maps.chosen, key=key), key):
        snapshots = [snapshot for snapshot, _ in same]
        for i in range(0, len(snapshots), most):
            yield leaves[leaf], place, snapshots[i : i + most]


def _task(
    archive: Archive,
    opened: CoefficientStore,
    plan: PODPlan,
    number: int,
    maps: Maps,
    group: Group,
    measures: Sequence[MapMeasure],
) -> Delayed:
    variable, (span, place, snapshots) = archive.variables[number], group
    indexers = maps.indexers(place)
    region = tuple(slice(i, i + 1) if isinstance(i, int) else i for i in indexers)
    pieces = []
    for row in plan.grid_of(number).overlapping(region):
        key = f"maps-{variable.name}-{row.number}-{span.start}-{archive.fingerprint[:12]}"
        task = variable.source.task(leaf_region(variable, row.region, span))
        read = Delayed(key, dict(variable.source.graph()) | {key: task})
        shared = tuple(
            slice(max(a.start, b.start), min(a.stop, b.stop))
            for a, b in zip(row.region, region, strict=True)
        )
        local = tuple(
            slice(s.start - r.start, s.stop - r.start)
            for s, r in zip(shared, row.region, strict=True)
        )
        numbers = [each - span.start for each in snapshots]
        picked = delayed(_picked, pure=False)(read, variable.time_axis, numbers, local)
        pieces.append((_relative(shared, region), picked))
    shape = (len(snapshots), *(each.stop - each.start for each in region))
    return delayed(_measured, pure=False)(
        measures, pieces, shape, maps.shape, (opened.url, opened.root), variable.name, snapshots,
        indexers,
    )  # fmt: skip


def _relative(part: Region, whole: Region) -> Region:
    return tuple(
        slice(a.start - b.start, a.stop - b.start) for a, b in zip(part, whole, strict=True)
    )


def _picked(read: ReadBlock, time_axis: int, numbers: Sequence[int], local: Region) -> NDArray[Any]:
    """Task: some snapshots (k, *local) of a block."""
    within = np.moveaxis(read.values, time_axis, 0)[(slice(None), *local)]
    return np.take(within, numbers, axis=0)


# The store is opened once in each process that runs tasks.
_opened_once = lru_cache(maxsize=4)(open_store)


def _measured(
    measures: Sequence[MapMeasure],
    pieces: Sequence[tuple[Region, NDArray[Any]]],
    shape: tuple[int, ...],
    map_shape: tuple[int, ...],
    store: tuple[str, Root],
    name: str,
    snapshots: Sequence[int],
    indexers: tuple[int | slice, ...],
) -> tuple[NDArray[np.float64], ...]:
    """Task: what is measured of a few maps."""
    opened = _opened_once(*store)
    original = np.empty(shape, opened.variables[name].dtype)
    for place, values in pieces:
        original[(slice(None), *place)] = values
    decoded = opened.decode(name, np.asarray(snapshots), indexers)
    axis = sum(not isinstance(i, int) for i in indexers[: opened.variables[name].time_axis])
    original = original.reshape(len(snapshots), *map_shape)
    both = _present(original, np.moveaxis(decoded, axis, 0), fill_values(opened, name))
    with np.errstate(over="ignore", invalid="ignore"):
        of_maps = [
            tuple(measure.of_map(x, y) for measure in measures) for x, y in zip(*both, strict=True)
        ]
        return _added(measures, of_maps)


def _present(
    original: NDArray[Any], decoded: NDArray[Any], fills: NDArray[Any]
) -> tuple[Matrix, Matrix]:
    """Both as float64, NaN where either is no number."""
    there = np.isfinite(original) & np.isfinite(decoded) & ~np.isin(original, fills)
    x, y = (np.where(there, each, np.nan).astype(np.float64) for each in (original, decoded))
    return x, y


def _added(
    measures: Sequence[MapMeasure], parts: Sequence[tuple[NDArray[np.float64], ...]]
) -> tuple[NDArray[np.float64], ...]:
    """Task: what is measured of some maps."""
    by_measure = zip(measures, zip(*parts, strict=True), strict=True)
    return tuple(measure.add(each) for measure, each in by_measure)

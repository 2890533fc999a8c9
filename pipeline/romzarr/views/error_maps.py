"""Where and when a store is off from its source: over time, and as a map.

Unlike `romzarr.verify`, which judges, this draws: of a large archive it reads evenly spaced
blocks only, and adds errors up in the few bins of a picture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from romzarr.archive import Archive, Source
from romzarr.chunked.plan import PODPlan, plan_pod
from romzarr.chunked.spots import spread
from romzarr.comparison.blocks import ComparedBlock, as_stored
from romzarr.comparison.by_index import dims_by_index, errors_by_index
from romzarr.comparison.fold import Block, Measure, added_fields, fold
from romzarr.comparison.joint import Joint, moments_along
from romzarr.config import Settings, given_config
from romzarr.contracts import ArchivedVariable, Matrix, Region
from romzarr.numerics.moments import MomentsWithGaps
from romzarr.recorded_config import config_of
from romzarr.reports import ErrorsByIndex
from romzarr.store.reading.reader import open_store
from romzarr.views.sections import Section

# Along each space dim of a variable, where bins begin; no array where the dim is not shown.
Places = Sequence[NDArray[np.int64] | int]

# Bytes of the archive that are read for a picture.
MOST_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Deviation:
    """Errors of one variable, measured.

    ``numbers`` (n,) of the snapshots looked at, ``relative`` (n,) the norm of the error of
    each by that of a usual fluctuation, so that its mean square is that of the relative error.
    ``map`` (*section) is the root of the mean squared error from each point of the section up to
    the next, over time and all dims not shown, in the variable's units; NaN where nothing was
    looked at. ``share`` is how much of all values was. ``by_index`` has the errors on each index of
    vertical dims.
    """

    variable: str
    numbers: NDArray[np.int64]
    relative: Matrix
    map: Matrix
    share: float
    by_index: Mapping[str, ErrorsByIndex]

    @property
    def relative_l2_error(self) -> float:
        return float(np.sqrt(np.mean(self.relative**2)))


def deviation(
    store: str,
    source: Source,
    sections: Sequence[Section],
    *,
    config: Settings | None = None,
    most_bytes: int = MOST_BYTES,
) -> tuple[Deviation, ...]:
    """Measure the error of the variables of `sections` against the source. Runs Dask.

    Reads the whole of these variables if they are smaller than `most_bytes`, else blocks at
    even distances in time and, if a single time is larger, in space. A worker holds one block
    of the archive at a time.

    Raises
    ------
    ArchiveError, StoreError
        If either side cannot be read, or they do not belong together.
    """
    opened = open_store(store)
    archive = as_stored(opened, source, given_config(config))
    named = {variable.name: variable for variable in archive.variables}
    archive = replace(archive, variables=tuple(named[s.variable] for s in sections))
    whole = sum(variable.nbytes for variable in archive.variables) <= most_bytes
    # What is looked at lies apart: the smaller the blocks, the more of them.
    plan = plan_pod(archive.variables) if whole else plan_pod(archive.variables, leaf_bytes=1)
    dims = dims_by_index(archive, (), config_of(opened).compression.per)
    axes = [tuple(v.space_dims.index(dim) for dim in dims[v.name]) for v in archive.variables]
    measures: list[tuple[Measure[Any], ...]] = [
        (_ByBin(section.indexers), *((Joint(along),) if along else ()))
        for section, along in zip(sections, axes, strict=True)
    ]
    blocks = _chosen(archive, plan, most_bytes)
    found = fold(archive, opened, blocks, measures, "time", "deviation")
    deviations = []
    for number, (variable, section) in enumerate(zip(archive.variables, sections, strict=True)):
        parts = found[number]
        each = _deviation(variable, section, parts[0])
        by_index = _by_index(archive, variable, axes[number], parts[-1])
        deviations.append(replace(each, by_index=by_index))
    return tuple(deviations)


def _by_index(
    archive: Archive,
    variable: ArchivedVariable,
    axes: Sequence[int],
    parts: Sequence[Any],
) -> dict[str, ErrorsByIndex]:
    """Errors on each index along some axes, from what `Joint` keeps of all space blocks."""
    found = {}
    for axis in axes:
        moments = moments_along(parts, axis, variable.space_shape[axis])
        dim = variable.space_dims[axis]
        found[dim] = errors_by_index(moments, dim, archive, variable)
    return found


def _chosen(archive: Archive, plan: PODPlan, most_bytes: int) -> list[Block]:
    """Choose as many times as may be read, at even distances; else some space blocks of few."""
    blocks = len(plan.time_blocks)
    each = max(1, sum(variable.nbytes for variable in archive.variables) // blocks)
    # Two times at least: nothing is said of a fluctuation that is seen at one.
    times = spread(blocks, max(2, most_bytes // each))
    share = most_bytes / (each * len(times))
    chosen: list[Block] = []
    for number in range(len(archive.variables)):
        mine = plan.rows_of(number)
        rows = [mine[i] for i in spread(len(mine), max(1, int(share * len(mine))))]
        chosen += [(row, s) for row in rows for t in times for s in plan.leaves[row.number][t]]
    return chosen


@dataclass(frozen=True)
class _Sums:
    """Sums over the blocks of one space block.

    Of each snapshot in ``numbers`` (n,) the weighted ``squared_errors`` (n,); of each bin, from
    ``corner`` on, ``squares`` of errors and how many were ``counted``; and the ``moments`` of all
    values.
    """

    numbers: NDArray[np.int64]
    squared_errors: Matrix
    corner: tuple[int, ...]
    squares: Matrix
    counted: Matrix
    moments: MomentsWithGaps


@dataclass(frozen=True)
class _ByBin(Measure[_Sums]):
    """Errors of each snapshot, and of each bin between the ``places`` of a section."""

    places: Places

    def of_block(self, block: ComparedBlock) -> _Sums:
        x, errors = block.counted
        rows = errors**2
        weights = block.inner.weighted(np.ones(rows.shape[1]))
        shape = block.values[0].shape
        shaped = (rows.reshape(shape), block.present.reshape(shape))
        corner, (sums, counts) = _binned(shaped, block.region, self.places)
        return _Sums(
            numbers=np.arange(block.span.start, block.span.stop),
            squared_errors=np.asarray(rows @ weights, np.float64),
            corner=corner,
            squares=sums,
            counted=counts,
            moments=MomentsWithGaps.of(x, block.present, block.inner),
        )

    def add(self, parts: Sequence[_Sums]) -> _Sums:
        join, total = np.concatenate, partial(np.sum, axis=0)
        return added_fields(
            parts, numbers=join, squared_errors=join, squares=total, counted=total,
            moments=partial(reduce, MomentsWithGaps.joined),
        )  # fmt: skip


def _binned(
    values: Sequence[NDArray[Any]], region: Region, places: Places
) -> tuple[tuple[int, ...], list[Matrix]]:
    """Sums of `values` (time, *region) over time and the dims not shown, by bin.

    A bin reaches from one place to the next, the last as far as the one before; what lies
    outside of all is left out. Given are the first bin touched and the bins from there on.
    """
    hidden = tuple(k + 1 for k, at in enumerate(places) if not isinstance(at, np.ndarray))
    sums = [np.asarray(each.sum(axis=(0, *hidden), dtype=np.float64)) for each in values]
    places_and_parts = zip(places, region, strict=True)
    shown = [(at, part) for at, part in places_and_parts if isinstance(at, np.ndarray)]
    corner = []
    for axis, (at, part) in enumerate(shown):
        edges = np.append(at, at[-1] + (at[-1] - at[-2] if len(at) > 1 else 1))
        within = np.arange(max(part.start, edges[0]), min(part.stop, edges[-1]))
        bins = np.searchsorted(edges, within, side="right") - 1
        starts = np.flatnonzero(np.diff(bins, prepend=-1))
        corner.append(int(bins[0]) if len(bins) else 0)
        taken = [each.take(within - part.start, axis=axis) for each in sums]
        sums = [np.add.reduceat(each, starts, axis=axis) if len(starts) else each for each in taken]
    return tuple(corner), sums


def _deviation(variable: ArchivedVariable, section: Section, parts: Sequence[_Sums]) -> Deviation:
    """Errors over time and by bin, from the sums of all space blocks."""
    numbers = parts[0].numbers
    shape = tuple(len(at) for at in section.indexers if not isinstance(at, int))
    squares, counted = np.zeros(shape), np.zeros(shape)
    for part in parts:
        at = tuple(slice(a, a + n) for a, n in zip(part.corner, part.squares.shape, strict=True))
        squares[at] += part.squares
        counted[at] += part.counted
    means = np.sqrt(squares / np.maximum(counted, 1))
    usual_square = sum(part.moments.square for part in parts) / len(numbers)
    # Of what is constant the error itself is the relative one, as everywhere.
    errors = np.sum([part.squared_errors for part in parts], axis=0) / (usual_square or 1.0)
    looked_at = len(numbers) * sum(len(part.moments.counts) for part in parts)
    return Deviation(
        variable=variable.name,
        numbers=numbers,
        relative=np.sqrt(errors),
        map=section.arranged(np.where(counted > 0, means, np.nan)),
        share=looked_at / math.prod(variable.shape),
        by_index={},
    )

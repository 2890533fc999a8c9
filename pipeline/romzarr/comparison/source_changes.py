"""Whether an archive still begins with what its store was made from."""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from romzarr.archive import Archive
from romzarr.archive.history import suspicious
from romzarr.archive.memory_source import ArraySource
from romzarr.archive.separate import labelled_among
from romzarr.archive.time_axis import named_snapshot
from romzarr.chunked.plan import PODPlan, plan_pod
from romzarr.chunked.spots import spread
from romzarr.comparison.changes import Difference, first_difference, resolution, snapshot_errors
from romzarr.comparison.fold import Block
from romzarr.contracts import ArchivedVariable, BlockSpan
from romzarr.errors import ArchiveError
from romzarr.progress import step, working_on
from romzarr.store.reading.reader import CoefficientStore

# Blocks of each variable that are compared where nothing tells which of them may have changed.
FEW = 8

# What speaks for a change of old values: other checksums of them, files that were written, or
# nothing; and how many times larger than usual an error has to be for being taken as one.
Evidence = Literal["checksums", "files", "nothing"]
DOUBT: Mapping[Evidence, float] = {"checksums": 1.0, "files": 1.0, "nothing": 3.0}


def refuse_other_variables(opened: CoefficientStore, archive: Archive) -> None:
    """Raise if an archive has other variables than its store.

    Raises
    ------
    ArchiveError
    """
    for variable in archive.variables:
        stored = opened.variables.get(variable.name)
        if stored is None or (stored.dims, stored.space_shape, stored.dtype) != (
            variable.dims, variable.space_shape, variable.dtype,
        ):  # fmt: skip
            raise ArchiveError(
                f"{archive.name}: variable {variable.name!r} is not in {opened.url}, or has other "
                f"dims, sizes or dtype there; append only what the store was made from"
            )
    if lost := opened.variables.keys() - {variable.name for variable in archive.variables}:
        raise ArchiveError(f"{archive.name}: variable {min(lost)!r} of {opened.url} is missing")


def refuse_other_labels(opened: CoefficientStore, archive: Archive) -> None:
    """Raise if an archive has other labels than its store, or the same in another order.

    Raises
    ------
    ArchiveError
        Naming the first label that differs.
    """
    decoded = xr.open_dataset(opened.url, engine="romzarr")
    dims = sorted({dim for variable in archive.variables for dim in variable.space_dims})
    for dim in labelled_among(dims, archive.carried.variables):
        if dim not in decoded.coords:
            continue
        known, found = (each[dim].values for each in (decoded, archive.carried))
        if (other := np.flatnonzero(known != found)).size:
            first = int(other[0])
            raise ArchiveError(
                f"{archive.name}: {dim}[{first}] is {str(found[first])!r}, and "
                f"{str(known[first])!r} in {opened.url}; append only what the store was made from, "
                "with labels in their order"
            )


def refuse_other_times(opened: CoefficientStore, archive: Archive) -> None:
    """Raise if the times of an archive do not begin as those of its store.

    Raises
    ------
    ArchiveError
        Naming the first time that differs or is missing.
    """
    dim, count = archive.time.dim, len(archive.time.values)
    known: NDArray[Any] = np.arange(opened.snapshots)
    found: NDArray[Any] = np.arange(count)
    decoded = xr.open_dataset(opened.url, engine="romzarr")
    if (dim in decoded.coords) != (dim in archive.carried.coords):
        raise ArchiveError(f"{archive.name}: the coordinate {dim!r} is not as it was")
    if dim in decoded.coords:
        known, found = decoded[dim].values, archive.carried[dim].values
    both = min(len(known), count)
    same = np.asarray(known[:both] == found[:both], dtype=bool)
    if not same.all():
        first = int(np.argmin(same))
        raise ArchiveError(
            f"{archive.name}: history has changed: {dim}[{first}] is {found[first]}, and "
            f"{known[first]} in {opened.url}; compress the archive anew"
        )
    if count < len(known):
        raise ArchiveError(
            f"{archive.name}: history is missing: it ends before {dim}[{count}], which is "
            f"{known[count]} in {opened.url}; restore it, or compress the archive anew"
        )


def refuse_other_values(opened: CoefficientStore, archive: Archive) -> None:
    """Raise if old values of an archive are not those that its store was made from. Runs Dask.

    Of a Zarr store those stretches of time are read where files have other sizes, or were written
    since: none, as a rule. Values held in memory have checksums, if the store was made from such.
    Of NetCDF files and Dask arrays nobody knows what was written, and a few blocks of each
    variable are looked at, among them the first and the last of the store: changes elsewhere go
    unseen.

    A store is not exact, so what is found is that a snapshot is off by more than the store can be
    (`romzarr.comparison.changes.first_difference`). What is changed by less than the store resolves
    counts as unchanged, but for values with checksums.

    Raises
    ------
    ArchiveError
        Naming the first snapshot that differs.
    """
    evidence, spans = _suspected(opened, archive)
    if not spans or not archive.variables:
        return
    blocks = _to_compare(opened, archive, evidence, spans)
    with working_on(archive.name), step("compare") as comparing:
        found = snapshot_errors(archive, opened, blocks)
        pairs = list(zip(archive.variables, found, strict=True))
        comparing.bytes = sum(v.dtype.itemsize * int(errors.values.sum()) for v, errors in pairs)
    changed: dict[str, Difference] = {}
    for variable, errors in pairs:
        difference = first_difference(errors, resolution(opened, variable, errors), DOUBT[evidence])
        if difference is not None:
            changed[variable.name] = difference
    if evidence == "checksums" and not changed:
        words = "checksums of values differ, by less than the store resolves"
        changed = {archive.variables[0].name: Difference(spans[0].start, spans[0].stop - 1, words)}
    if changed:
        # Values of two versions, if it is being written to: that is what is to be told then.
        with archive.unchanging():
            raise _told(changed, archive)


def _told(changed: Mapping[str, Difference], archive: Archive) -> ArchiveError:
    name = min(changed, key=lambda name: changed[name].last)
    found, dim = changed[name], archive.time.dim
    place = named_snapshot(archive.carried, dim, found.first)
    if found.last > found.first:
        place += f" or later, up to {dim}[{found.last}]"
    return ArchiveError(
        f"{archive.name}: history has changed at {place}: variable {name!r}: {found.words}; "
        f"compress the archive anew"
    )


# --- which blocks -------------------------------------------------------------------------


def _suspected(opened: CoefficientStore, archive: Archive) -> tuple[Evidence, list[BlockSpan]]:
    """Stretches of time that may have changed, as far as can be known without reading, and what
    speaks for it."""
    source, whole = opened.facts.get("source", {}), [BlockSpan(0, opened.snapshots)]
    if archive.stamp and archive.stamp == source.get("stamp"):
        return "files", []  # none was written since the last commit
    history = source.get(archive.history) if archive.marks else None
    if not history:
        return "nothing", whole
    evidence: Evidence = "checksums" if archive.marks_values else "files"
    return evidence, suspicious(archive.marks, history, opened.snapshots)


def _to_compare(
    opened: CoefficientStore, archive: Archive, evidence: Evidence, spans: Sequence[BlockSpan]
) -> list[Block]:
    """Blocks of every variable in stretches of time; a few of them, if nothing speaks for a
    change and they have to be read."""
    plan, found = plan_pod(archive.variables), list[Block]()
    for number, variable in enumerate(archive.variables):
        blocks = [block for span in spans for block in _blocks(plan, number, variable, span)]
        every = evidence != "nothing" or isinstance(variable.source, ArraySource)
        found += blocks if every else _few(blocks, opened.last.name)
    return found


def _blocks(plan: PODPlan, number: int, variable: ArchivedVariable, span: BlockSpan) -> list[Block]:
    """Blocks of a variable that hold a stretch of time, from chunk to chunk, and no more."""
    ends = [0, *accumulate(variable.chunks[variable.time_axis])]
    start = ends[bisect_right(ends, span.start) - 1]
    stop = ends[bisect_left(ends, span.stop)]
    rows = plan.rows_of(number)
    # All space blocks of a variable have the same leaves.
    leaves = [leaf for of_block in plan.leaves[rows[0].number] for leaf in of_block]
    parts = (BlockSpan(max(each.start, start), min(each.stop, stop)) for each in leaves)
    return [(row, part) for part in parts if part.start < part.stop for row in rows]


def _few(blocks: Sequence[Block], seed: str) -> list[Block]:
    """A few blocks at even distances in time, the first and the last among them."""
    by_time: dict[BlockSpan, list[Block]] = {}
    for block in blocks:
        by_time.setdefault(block[1], []).append(block)
    times = sorted(by_time, key=lambda span: span.start)
    chosen = [times[i] for i in spread(len(times), FEW)]
    chance, most = random.Random(seed), FEW // len(chosen)
    return [
        block
        for span in chosen
        for block in chance.sample(by_time[span], min(most, len(by_time[span])))
    ]

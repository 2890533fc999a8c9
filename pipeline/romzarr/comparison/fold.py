"""Compare an archive with its store block by block, and add up what is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import dask
import numpy as np
from dask.delayed import Delayed, delayed
from threadpoolctl import threadpool_limits

from romzarr.archive import Archive
from romzarr.chunked.plan import SpaceBlock, leaf_region
from romzarr.comparison.blocks import ComparedBlock
from romzarr.contracts import BlockSpan, ReadBlock
from romzarr.store.layout import Root
from romzarr.store.reading.reader import CoefficientStore, open_store

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Block = tuple[SpaceBlock, BlockSpan]
Sums = TypeVar("Sums")
Fields = TypeVar("Fields", bound="DataclassInstance")


# Blocks that are added at a time: a task holds the sums of so many.
TOGETHER = 8


class Measure(Protocol[Sums]):
    """What is computed of one block, and how the blocks of a group add up, in any number of steps.
    It is pickled."""

    def of_block(self, block: ComparedBlock) -> Sums: ...

    def add(self, parts: Sequence[Sums]) -> Sums: ...

    def kept(self, sums: Sums) -> Any:
        """Return what leaves the workers of the sums of a group."""
        return sums


def fold(
    archive: Archive,
    opened: CoefficientStore,
    blocks: Sequence[Block],
    measures: Sequence[Sequence[Measure[Any]]],
    along: Literal["time", "space"],
    purpose: str,
) -> list[list[tuple[Any, ...]]]:
    """Take the `measures` of each variable over `blocks`, and add them up. Runs Dask.

    Added up are the blocks `along` time that are at the same place, or those along space that
    begin at the same time. Each block is read by one task, whose key begins with `purpose`,
    compared by another, and a tree of others adds up the group; a worker holds one block at a time,
    and the sums of a few. What lies beyond the end of the store is left out. Return what is kept of
    all groups, in order, for each variable and measure.
    """

    def group(block: Block) -> tuple[int, int]:
        row, span = block
        return row.variable, row.number if along == "time" else span.start

    tasks: list[list[Delayed]] = [[] for _ in archive.variables]
    stored = [block for block in blocks if block[1].start < opened.snapshots]
    for (number, _), same in groupby(sorted(stored, key=group), key=group):
        parts = [_leaf(archive, opened, measures[number], *block, purpose) for block in same]
        while len(parts) > TOGETHER:
            some = (parts[i : i + TOGETHER] for i in range(0, len(parts), TOGETHER))
            parts = [delayed(_added, pure=False)(measures[number], each) for each in some]
        tasks[number].append(delayed(_kept, pure=False)(measures[number], parts))
    with threadpool_limits(1, user_api="blas"):
        return [list(zip(*sums, strict=True)) for sums in dask.compute(*tasks)]


def added_fields(parts: Sequence[Fields], **add: Callable[[list[Any]], Any]) -> Fields:
    """Return the first of some dataclasses, with the fields in `add` made of those of all."""
    fields = {name: how([getattr(part, name) for part in parts]) for name, how in add.items()}
    return replace(parts[0], **fields)


def _leaf(
    archive: Archive,
    opened: CoefficientStore,
    measures: Sequence[Measure[Any]],
    row: SpaceBlock,
    span: BlockSpan,
    purpose: str,
) -> Delayed:
    variable = archive.variables[row.variable]
    inner = row.inner_product(archive.variables)
    within = BlockSpan(span.start, min(span.stop, opened.snapshots))
    beside = partial(ComparedBlock, variable.name, variable.time_axis, row.region, within, inner)
    key = f"{purpose}-{variable.name}-{row.number}-{span.start}-{archive.fingerprint[:12]}"
    task = variable.source.task(leaf_region(variable, row.region, span))
    read = Delayed(key, dict(variable.source.graph()) | {key: task})
    return delayed(_measured, pure=False)(measures, beside, opened.url, opened.root, read)


# The store is opened once in each process that runs tasks.
_opened_once = lru_cache(maxsize=4)(open_store)


def _measured(
    measures: Sequence[Measure[Any]],
    beside: partial[ComparedBlock],
    url: str,
    root: Root,
    read: ReadBlock,
) -> tuple[Any, ...]:
    """Task: what is measured of one block."""
    block = beside(_opened_once(url, root), read)
    # NaN of some payloads are warned of when they are cast; infinities have no difference; and
    # what is lossless may hold any numbers, also those whose squares are none.
    with np.errstate(over="ignore", invalid="ignore"):
        return tuple(measure.of_block(block) for measure in measures)


def _added(measures: Sequence[Measure[Any]], parts: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
    """Task: what is measured of some blocks of a group."""
    by_measure = zip(measures, zip(*parts, strict=True), strict=True)
    with np.errstate(over="ignore", invalid="ignore"):
        return tuple(measure.add(sums) for measure, sums in by_measure)


def _kept(measures: Sequence[Measure[Any]], parts: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
    """Task: what is kept of a group of blocks."""
    sums = zip(measures, _added(measures, parts), strict=True)
    with np.errstate(over="ignore", invalid="ignore"):
        return tuple(measure.kept(each) for measure, each in sums)

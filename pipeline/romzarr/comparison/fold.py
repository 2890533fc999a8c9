"""Compare an archive with its store block by block, and add up what is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import dask
import numpy as np
from dask.delayed import Delayed, delayed
from threadpoolctl import threadpool_limits

from romzarr.archive import Archive
from romzarr.chunked.plan import SpaceBlock
from romzarr.comparison.blocks import ComparedBlock, block_of, opened_once, side_by_side
from romzarr.contracts import BlockSpan, Floats, ReadBlock, Region
from romzarr.store.layout import Root
from romzarr.store.reading.reader import CoefficientStore

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Block = tuple[SpaceBlock, BlockSpan]
Sums = TypeVar("Sums")
Fields = TypeVar("Fields", bound="DataclassInstance")


class Measure(Protocol[Sums]):
    """Something that is measured of each block, and adds up over blocks. It is pickled."""

    def of_block(self, block: ComparedBlock) -> Sums: ...

    def add(self, parts: Sequence[Sums]) -> Sums:
        """Join those of blocks that follow each other, in time or in space."""
        ...


def fold(
    archive: Archive,
    opened: CoefficientStore,
    groups: Sequence[Sequence[Sequence[Block]]],
    measures: Sequence[Measure[Sums]],
    purpose: str,
) -> list[list[Sums]]:
    """Measure groups of blocks of each variable, and add up each group. Runs Dask.

    One task reads a block, one compares it, and one adds up a group. A worker holds one block at
    a time. What lies beyond the end of the store is left out.

    Parameters
    ----------
    archive, opened
        Both sides.
    groups
        For each variable of the archive.
    measures
        One for each variable.
    purpose
        Begins the keys of the tasks that read.

    Returns
    -------
    list of list
        The sums of each group of each variable.
    """
    tasks = [
        [
            delayed(_added, pure=False)(
                measure, [_leaf(archive, opened, measure, *block, purpose) for block in group]
            )
            for group in mine
        ]
        for measure, mine in zip(measures, groups, strict=True)
    ]
    with threadpool_limits(1, user_api="blas"):
        return list(dask.compute(*tasks))


def added_fields(parts: Sequence[Fields], **add: Callable[[list[Any]], Any]) -> Fields:
    """Return the first of some dataclasses, with the fields in `add` made of those of all."""
    return replace(
        parts[0],
        **{name: how([getattr(part, name) for part in parts]) for name, how in add.items()},
    )


def _leaf(
    archive: Archive,
    opened: CoefficientStore,
    measure: Measure[Any],
    row: SpaceBlock,
    span: BlockSpan,
    purpose: str,
) -> Delayed:
    variable = archive.variables[row.variable]
    weights = None if variable.weights is None else variable.weights[row.region].ravel()
    return delayed(_measured, pure=False)(
        measure, block_of(archive, variable, row, span, purpose), variable.name,
        variable.time_axis, row.region, BlockSpan(span.start, min(span.stop, opened.snapshots)),
        weights, opened.url, opened.root,
    )  # fmt: skip


def _measured(
    measure: Measure[Sums],
    block: ReadBlock,
    name: str,
    time_axis: int,
    region: Region,
    span: BlockSpan,
    weights: Floats | None,
    url: str,
    root: Root,
) -> Sums:
    """Task: compare one block of the archive with what the store decodes there."""
    compared = side_by_side(block, name, time_axis, region, span, weights, opened_once(url, root))
    # NaN of some payloads are warned of when they are cast; infinities have no difference; and
    # what is lossless may hold any numbers, also those whose squares are none.
    with np.errstate(over="ignore", invalid="ignore"):
        return measure.of_block(compared)


def _added(measure: Measure[Sums], parts: Sequence[Sums]) -> Sums:
    """Task: what is measured of a group of blocks."""
    with np.errstate(over="ignore", invalid="ignore"):
        return measure.add(parts)

"""A block of an archive beside what its store decodes there."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from dask.delayed import Delayed
from numpy.typing import NDArray

from romzarr.archive import Archive, Source, open_archive
from romzarr.chunked.plan import SpaceBlock, leaf_region
from romzarr.coding.exact import same_bits
from romzarr.config import Config
from romzarr.contracts import ArchivedVariable, BlockSpan, Coding, ReadBlock, Region
from romzarr.recorded_config import config_of
from romzarr.store.layout import Root
from romzarr.store.reading.reader import CoefficientStore, open_store


def as_stored(opened: CoefficientStore, source: Source, config: Config) -> Archive:
    """The source, opened with the settings the store was made with.

    Raises
    ------
    ArchiveError
        If it cannot be opened.
    StoreError
        If its variables are others than those of the store.
    """
    made = config_of(opened).archive
    return open_archive(
        source,
        time=made.time,
        variables=made.variables,
        weights=made.weights,
        missing_chunks=config.archive.missing_chunks,
    )


def block_of(
    archive: Archive, variable: ArchivedVariable, row: SpaceBlock, span: BlockSpan, purpose: str
) -> Delayed:
    """Lazy `ReadBlock` of a leaf, read for a purpose of its own."""
    task = variable.source.task(leaf_region(variable, row.region, span))
    graph = dict(variable.source.graph())
    key = f"{purpose}-{variable.name}-{row.number}-{span.start}-{archive.fingerprint[:12]}"
    return Delayed(key, graph | {key: task})


@lru_cache(maxsize=4)
def opened_once(url: str, root: Root) -> CoefficientStore:
    """The store, opened once in each process that runs tasks."""
    return open_store(url, root)


def side_by_side(
    block: ReadBlock,
    name: str,
    time_axis: int,
    region: Region,
    span: BlockSpan,
    opened: CoefficientStore,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
    """Values (m, points) of the first snapshots of a block, those of `span`, as they are and as
    the store decodes them; and where NaN differs, or any bit of what is lossless."""
    decoded = opened.decode(name, slice(span.start, span.stop), region)
    given, found = (
        np.moveaxis(values, time_axis, 0)[: len(span)].reshape(len(span), -1)
        for values in (block.values, decoded)
    )
    lossless = opened.variables[name].coding == Coding.LOSSLESS
    unlike = ~same_bits(given, found) if lossless else np.isnan(given) != np.isnan(found)
    return given, found, unlike

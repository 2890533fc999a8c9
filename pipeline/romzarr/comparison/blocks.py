"""A block of an archive beside what its store decodes there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from dask.delayed import Delayed
from numpy.typing import NDArray

from romzarr.archive import Archive, Source, open_archive
from romzarr.chunked.plan import SpaceBlock, leaf_region
from romzarr.coding.exact import same_bits
from romzarr.config import Config
from romzarr.contracts import ArchivedVariable, BlockSpan, Floats, ReadBlock, Region
from romzarr.recorded_config import config_of
from romzarr.store.layout import Root
from romzarr.store.reading.reader import CoefficientStore, open_store

Matrix = NDArray[np.float64]


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


@dataclass(frozen=True)
class ComparedBlock:
    """Values of a variable in a block of the archive, and what the store decodes there.

    ``original`` and ``decoded`` (m, *region) have the variable's own dtype and time first;
    ``weights`` is (points,) or None. What follows from them has flat points: (m, points).
    """

    variable: str
    region: Region
    span: BlockSpan
    weights: Floats | None
    opened: CoefficientStore
    original: NDArray[Any]
    decoded: NDArray[Any]

    @property
    def lossless(self) -> bool:
        return self.opened.variables[self.variable].coding == "lossless"

    @property
    def unlike(self) -> NDArray[np.bool_]:
        """Where NaN differs, or any bit of what is lossless."""
        original, decoded = self._flat
        if self.lossless:
            return ~same_bits(original, decoded)
        return np.asarray(np.isnan(original) != np.isnan(decoded))

    @property
    def numbers(self) -> tuple[Matrix, Matrix]:
        """Original and decoded values as float64."""
        original, decoded = self._flat
        return original.astype(np.float64), decoded.astype(np.float64)

    @cached_property
    def counted(self) -> tuple[Matrix, Matrix]:
        """Original values and their errors, both zero where there is nothing to measure.

        What is lossless may hold infinities, which are `unlike` or right.
        """
        original, decoded = self.numbers
        finite = np.isfinite(original) & np.isfinite(decoded)
        counts = finite if self.lossless else ~np.isnan(original)
        errors = original - decoded
        if counts.all():
            return original, errors
        return np.where(counts, original, 0.0), np.where(counts, errors, 0.0)

    def index(self, number: int) -> tuple[int, ...]:
        """Return the snapshot and the place in each space dim of a value, by its flat number."""
        slices = (self.span, *self.region)
        within = np.unravel_index(number, [each.stop - each.start for each in slices])
        return tuple(each.start + int(i) for each, i in zip(slices, within, strict=True))

    @property
    def _flat(self) -> tuple[NDArray[Any], NDArray[Any]]:
        count = len(self.span)
        return self.original.reshape(count, -1), self.decoded.reshape(count, -1)


def side_by_side(
    block: ReadBlock,
    name: str,
    time_axis: int,
    region: Region,
    span: BlockSpan,
    weights: Floats | None,
    opened: CoefficientStore,
) -> ComparedBlock:
    """Decode what lies beside the first snapshots of a block, those of `span`."""
    decoded = opened.decode(name, slice(span.start, span.stop), region)
    original, decoded = (
        np.moveaxis(values, time_axis, 0)[: len(span)] for values in (block.values, decoded)
    )
    return ComparedBlock(name, region, span, weights, opened, original, decoded)

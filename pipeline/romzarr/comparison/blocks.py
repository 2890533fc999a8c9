"""A block of an archive beside what its store decodes there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from romzarr.archive import Archive, Source, open_archive
from romzarr.archive.time_axis import NONE
from romzarr.coding.exact import same_bits
from romzarr.config import ArchiveConfig, Config
from romzarr.contracts import NO_TIME, BlockSpan, Coding, Matrix, ReadBlock, Region
from romzarr.errors import ArchiveError, StoreError
from romzarr.inner_product import InnerProduct
from romzarr.recorded_config import config_of
from romzarr.store.reading.reader import CoefficientStore


def as_stored(opened: CoefficientStore, source: Source, config: Config) -> Archive:
    """The source, opened with the settings the store was made with.

    Raises
    ------
    ArchiveError
        If it cannot be opened.
    StoreError
        If it lacks the weights because it is another archive.
    """
    made, dim = config_of(opened).archive, opened.facts["time"]["dim"]
    # What was found then: another dim may hold most values since.
    found = dim if made.time == ArchiveConfig().time else made.time
    opening = partial(
        open_archive,
        source,
        time=NONE if dim == NO_TIME else found,
        variables=made.variables,
        exclude=made.exclude,
        columns=made.columns,
        series=made.series,
        engine=engine_of(made, config),
        missing_chunks=config.archive.missing_chunks,
    )
    try:
        return opening(weights=made.weights)
    except ArchiveError:
        refuse_other_archive(opened, opening(weights="none"))
        raise


def engine_of(made: ArchiveConfig, config: Config) -> str:
    """The engine that opens the source of a store: one that is asked for, or that it was made
    with."""
    asked = config.archive.engine
    return made.engine if asked == ArchiveConfig().engine else asked


def refuse_other_archive(opened: CoefficientStore, archive: Archive) -> None:
    """Raise if a variable of the archive has other dims or another shape in the store.

    Raises
    ------
    StoreError
    """
    for variable in archive.variables:
        stored = opened.variables.get(variable.name)
        if stored is None or (stored.dims, stored.shape) != (variable.dims, variable.shape):
            there = "missing" if stored is None else _sizes(stored.dims, stored.shape)
            raise StoreError(
                f"{opened.url} was not made from {archive.name}: variable {variable.name!r} is "
                f"{_sizes(variable.dims, variable.shape)} in the archive and {there} in the store; "
                "give the archive that the store was made from"
            )


def _sizes(dims: Sequence[str], shape: Sequence[int]) -> str:
    return " x ".join(f"{dim} {size}" for dim, size in zip(dims, shape, strict=True))


def fill_values(opened: CoefficientStore, variable: str) -> NDArray[Any]:
    """Fill values of a variable that the store keeps exactly, of any of its parts."""
    stored = [part.variables[variable] for part in opened.parts]
    found = {v for each in stored if each.gaps for v in each.gaps.special.values()}
    finite = [value for value in sorted(found, key=str) if np.isfinite(value)]
    return np.array(finite, stored[0].dtype)


@dataclass(frozen=True)
class ComparedBlock:
    """A ``block`` of the archive, and what the store decodes there.

    Compared are the snapshots of ``span``, the first of the block. Points are flat, and arrays
    (m, points), in ``inner`` and in all that follows from the `values`.
    """

    variable: str
    time_axis: int
    region: Region
    span: BlockSpan
    inner: InnerProduct
    opened: CoefficientStore
    block: ReadBlock

    @property
    def lossless(self) -> NDArray[np.bool_]:
        """Which snapshots lie in parts that are lossless."""
        parts = [
            part.variables[self.variable].coding == Coding.LOSSLESS for part in self.opened.parts
        ]
        snapshots = np.arange(self.span.start, self.span.stop)
        return np.array(parts)[np.searchsorted(self.opened.starts, snapshots, "right") - 1]

    @cached_property
    def values(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Original and decoded values (m, *region) in their own dtype."""
        times = slice(self.span.start, self.span.stop)
        decoded = self.opened.decode(self.variable, times, self.region)
        original = np.moveaxis(self.block.values, self.time_axis, 0)[: len(self.span)]
        return original, np.moveaxis(decoded, self.time_axis, 0)

    @property
    def floats(self) -> tuple[Matrix, Matrix]:
        """Original and decoded values as float64."""
        x, y = (each.reshape(len(self.span), -1).astype(np.float64) for each in self.values)
        return x, y

    @cached_property
    def present(self) -> NDArray[np.bool_]:
        """Where both are numbers, which are neither infinite nor fill values of the store."""
        x, y = (each.reshape(len(self.span), -1) for each in self.values)
        return np.isfinite(x) & np.isfinite(y) & ~np.isin(x, self._fills)

    @cached_property
    def counted(self) -> tuple[Matrix, Matrix]:
        """Original values and their errors as float64, both zero where nothing can be measured."""
        x, y = self.floats
        errors = x - y
        if not self.present.all():
            x, errors = (np.where(self.present, each, 0.0) for each in (x, errors))
        return x, errors

    @property
    def unlike(self) -> NDArray[np.bool_]:
        """Where a missing, infinite or fill value differs, or any bit of what is lossless."""
        x, y = self.values
        special = ~np.isfinite(x) | ~np.isfinite(y) | np.isin(x, self._fills)
        unlike = special & (x != y) & ~(np.isnan(x) & np.isnan(y))
        if (exact := self.lossless).any():
            unlike[exact] = ~same_bits(x[exact], y[exact])
        return unlike.reshape(len(self.span), -1)

    @cached_property
    def _fills(self) -> NDArray[Any]:
        return fill_values(self.opened, self.variable)

    def index(self, number: int) -> tuple[int, ...]:
        """Return the snapshot and the place in each space dim of a value, by its flat number."""
        within = np.unravel_index(number, self.values[0].shape)
        starts = (self.span.start, *(part.start for part in self.region))
        return tuple(start + int(i) for start, i in zip(starts, within, strict=True))

"""Blocks of snapshots, as they are given, and as rows of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from romzarr.archive.archive import Archive, archive_from
from romzarr.archive.memory_source import memory_archive
from romzarr.archive.open import dataset_of
from romzarr.archive.ordered import ordered
from romzarr.archive.time_axis import shown_time, time_axis
from romzarr.arguments import shown
from romzarr.compression.tiled import tiled
from romzarr.config import Config
from romzarr.contracts import ArchivedVariable, Matrix, PointOrder
from romzarr.errors import ArchiveError
from romzarr.inner_product import InnerProducts
from romzarr.streams.series import Series

F = TypeVar("F", bound=np.floating[Any])
Block = xr.Dataset | xr.DataArray | ArrayLike
# Keys are text in most, and any name in datasets.
Variables = Mapping[Any, xr.Variable]

NAME = "stream"
# What an array without names becomes.
VARIABLE, TIME = "x", "time"
# Snapshots a chunk has for readers, where the source says nothing.
CHUNK = 256


@dataclass(frozen=True)
class Frame:
    """What all blocks of a stream have alike: variables, inner products, all that does not
    change.

    ``archive`` describes the first block; ``time_chunk`` is the length of chunks along time.
    """

    archive: Archive
    time_chunk: int

    @classmethod
    def of(cls, block: xr.Dataset, config: Config, orders: Sequence[PointOrder] = ()) -> Frame:
        """The frame of a stream that begins with `block`, or goes on with a store whose points
        have `orders`.

        Raises
        ------
        ArchiveError
            If it cannot be compressed as it is.
        """
        settings = config.archive
        archive = archive_from(
            memory_archive(block), settings.time, settings.variables, settings.weights,
            exclude=settings.exclude,
        )  # fmt: skip
        if not archive.variables:
            raise ArchiveError(
                "the stream has no floating-point variable that changes in time; compress it as an "
                "archive, which copies all others"
            )
        variable = archive.variables[0]
        chunks = block.variables[variable.name].encoding.get("preferred_chunks", {})
        length = chunks.get(archive.time.dim, CHUNK)
        archive = tiled(ordered(archive, orders), config.layout)
        return cls(archive, length if isinstance(length, int) else CHUNK)

    @property
    def dim(self) -> str:
        return self.archive.time.dim

    @property
    def variables(self) -> tuple[ArchivedVariable, ...]:
        return self.archive.variables

    @property
    def sizes(self) -> tuple[int, ...]:
        """Points of each variable."""
        return tuple(int(np.prod(v.space_shape, dtype=np.int64)) for v in self.variables)

    @property
    def snapshot_bytes(self) -> int:
        """Bytes of all that changes in time, at one time."""
        both = zip(self.variables, self.sizes, strict=True)
        carried = self.archive.carried.variables.values()
        changing = (v.nbytes // max(1, v.sizes[self.dim]) for v in carried if self.dim in v.dims)
        return sum(size * variable.dtype.itemsize for variable, size in both) + sum(changing)

    @property
    def fixed_bytes(self) -> int:
        """Bytes of all that does not change in time."""
        carried = self.archive.carried.variables.values()
        return sum(v.nbytes for v in carried if self.dim not in v.dims)

    @property
    def edges(self) -> tuple[slice, ...]:
        """Where each variable lies in a row."""
        return self.inner.parts

    @cached_property
    def inner(self) -> InnerProducts:
        """Those of the variables, side by side in a row."""
        return InnerProducts.of([v.inner_product for v in self.variables], self.sizes)

    def length(self, block: Variables) -> int:
        """Snapshots of a block."""
        return next((v.sizes[self.dim] for v in block.values() if self.dim in v.dims), 0)

    def rows(self, block: Variables) -> Matrix:
        """Values (b, n) of a block.

        Raises
        ------
        ArchiveError
            If a variable is missing or has other dims or sizes than before.
        """
        parts = []
        for variable in self.variables:
            found = self._found(variable, block)
            values = np.asarray(found.values, np.float64)
            parts.append(self.as_stored(variable, values).reshape(len(values), -1))
        return np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]

    def values(self, block: Variables) -> dict[str, xr.Variable]:
        """The variables of a block with dims and dtypes of the first one.

        Raises
        ------
        ArchiveError
            If a variable is missing or has other dims or sizes than before.
        """
        found = {v.name: self._found(v, block).transpose(*v.dims) for v in self.variables}
        return {v.name: found[v.name].astype(v.dtype, copy=True) for v in self.variables}

    def _found(self, variable: ArchivedVariable, block: Variables) -> xr.Variable:
        """A variable of a block, with time as its first dim."""
        if variable.name not in block:
            raise ArchiveError(f"variable {variable.name!r} is missing in this block")
        found = block[variable.name]
        if set(found.dims) == set(variable.dims):
            found = found.transpose(self.dim, *variable.space_dims)
        if found.dims != (self.dim, *variable.space_dims) or (
            found.shape[1:] != variable.space_shape
        ):
            raise ArchiveError(
                f"variable {variable.name!r}: this block has {dict(found.sizes)}, allowed are "
                f"the sizes of the first block but for {self.dim!r}: "
                f"{dict(zip(variable.space_dims, variable.space_shape, strict=True))}"
            )
        return found

    def as_stored(self, variable: ArchivedVariable, values: NDArray[F]) -> NDArray[F]:
        """Values (..., *space) of a variable with points in the order of the store."""
        for order in self.archive.orders:
            if order.dim in variable.space_dims:
                axis = variable.space_dims.index(order.dim) - len(variable.space_dims)
                values = np.take(values, order.positions, axis=axis)
        return values

    def changing(self, block: Variables) -> dict[str, xr.Variable]:
        """What is carried over of a block and changes in time, its times among it.

        Raises
        ------
        ArchiveError
            If something is missing that the first block had.
        """
        found = {}
        for name, variable in self.archive.carried.variables.items():
            if self.dim in variable.dims:
                if name not in block:
                    raise ArchiveError(f"{name!r} is missing in this block")
                found[str(name)] = block[name].load()
        return found

    def span(self, series: Series, start: int = 0, stop: int | None = None) -> Archive:
        """An archive of those snapshots whose times and the like are in the `series`, to say
        what is in a part of a store; nothing can be read from it."""
        before, changing = self.archive.carried, series.variables(start, stop)
        carried = before.drop_vars(list(changing)).assign(changing)
        carried = carried.set_coords([name for name in changing if name in before.coords])
        count = len(range(*slice(start, stop).indices(len(series))))
        # Without a coordinate only its length tells of the dim.
        known = carried.assign({NAME: (self.dim, np.zeros(count))})
        times = time_axis(known, self.dim, NAME)
        variables = tuple(self._over(variable, count) for variable in self.variables)
        raw = sum(variable.nbytes for variable in variables)
        return replace(
            self.archive, variables=variables, time=times, carried=carried, raw_bytes=raw
        )

    def _over(self, variable: ArchivedVariable, count: int) -> ArchivedVariable:
        """The variable over so many snapshots, each a single chunk in space."""
        axis, chunk = variable.time_axis, self.time_chunk
        lengths = tuple(min(chunk, count - start) for start in range(0, count, chunk))
        return replace(
            variable,
            shape=(*variable.shape[:axis], count, *variable.shape[axis + 1 :]),
            chunks=(*variable.chunks[:axis], lengths, *variable.chunks[axis + 1 :]),
        )


def named(block: Block, times: ArrayLike | None, first: int) -> xr.Dataset | Variables:
    """A block with names.

    An array (b, ...) without names becomes a variable "x" with dims "time", "dim_1", ...; its
    times are `times`, or else counted from `first`. bfloat16 and the like become float32. It is
    not made a dataset, which takes longer than the work on a short snapshot.
    """
    if isinstance(block, xr.DataArray):
        block = dataset_of(block, VARIABLE)
    if isinstance(block, xr.Dataset):
        if times is not None:
            raise ArchiveError("a dataset has its own times; give times with arrays only")
        return block
    values = _numbers(block)
    if values.ndim < 2:
        raise ArchiveError(
            f"block: found an array of shape {values.shape}, allowed are arrays whose first axis "
            "is time, and whose others are space: give one snapshot as block[None], snapshots of "
            "one value each as block[:, None]"
        )
    stamps = first + np.arange(len(values)) if times is None else _array(times, "times")
    if stamps.shape != (len(values),):
        raise ArchiveError(f"{len(values)} snapshots, but times of shape {stamps.shape}")
    dims = (TIME, *(f"dim_{k}" for k in range(1, values.ndim)))
    return {VARIABLE: xr.Variable(dims, values), TIME: xr.Variable(TIME, stamps)}


def _array(given: ArrayLike, name: str) -> NDArray[Any]:
    try:
        return np.asarray(given)
    except (TypeError, ValueError) as error:
        raise ArchiveError(f"{name}: found {shown(given)}, which is no array: {error}") from error


def _numbers(block: ArrayLike) -> NDArray[Any]:
    """A block as an array of floats."""
    values = _array(block, "block")
    kind = values.dtype.kind
    if kind == "f":
        return values
    try:
        if kind in "biuVO":
            return values.astype(np.float32 if kind == "V" else np.float64)
    except (TypeError, ValueError):
        pass
    raise ArchiveError(
        f"block: found {shown(block)} of dtype {values.dtype}, allowed are arrays of real numbers"
    )


def check_follows(before: Any, times: NDArray[Any], dim: str) -> None:
    """Refuse times that do not increase, or are not after the time `before` (None: none)."""
    both = times if before is None else np.concatenate([[before], times])
    later = np.asarray(both[1:] > both[:-1], dtype=bool)
    if not later.all():
        k = int(np.argmin(later))
        one, next_one = (shown_time(both, each) for each in (k, k + 1))
        raise ArchiveError(
            f"{dim}: found {next_one} after {one}; times must increase, from block to block as well"
        )


def elapsed(times: NDArray[Any], first: Any) -> Matrix:
    """Numbers (b,) for times: seconds since the `first` where they are of a calendar."""
    since = times - first
    if since.dtype.kind == "m":
        return np.asarray(since / np.timedelta64(1, "s"), dtype=np.float64)
    if since.dtype.kind == "O":
        return np.array([each.total_seconds() for each in since])
    return np.asarray(since, dtype=np.float64)

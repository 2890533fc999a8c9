"""Reads blocks of an open xarray dataset: NumPy, Dask or xarray's lazy arrays."""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.core import flatten
from dask.optimization import cull
from dask.utils import ensure_dict

from romzarr.archive.blocks import Grid, merged_along, native, regular
from romzarr.archive.history import Mark
from romzarr.archive.location import redacted
from romzarr.archive.provider import Piece, digest_of
from romzarr.contracts import ReadBlock, Region
from romzarr.errors import ChunkError

# Values per dim in the fingerprint of a variable in memory: hashing all would take too long.
_SAMPLED = 40
# Bytes of snapshots that are copied together.
_SLAB_BYTES = 1 << 20


def block_of_array(values: np.ndarray[Any, Any]) -> ReadBlock:
    """Return a block in memory; it counts as one chunk."""
    return ReadBlock(native(np.asarray(values)), values.nbytes, 1)


def assembled(blocks: Any, depth: int, chunks: int) -> ReadBlock:
    """Assemble a block from `blocks`, lists of adjacent arrays nested to `depth`."""
    values = np.asarray(_joined(blocks, depth, 0))
    return ReadBlock(native(values), values.nbytes, chunks)


def _joined(blocks: Any, depth: int, axis: int) -> Any:
    if axis == depth:
        return blocks
    parts = [_joined(block, depth, axis + 1) for block in blocks]
    # np.concatenate would copy a single array.
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=axis)


@dataclass(frozen=True)
class ArraySource:
    """Blocks of a NumPy array, as views (a `BlockSource`)."""

    array: np.ndarray[Any, Any]

    def graph(self) -> Mapping[Any, Any]:
        return {}

    def task(self, region: Region) -> tuple[Any, ...]:
        return (block_of_array, self.array[region])


@dataclass(frozen=True)
class DaskSource:
    """Blocks of a Dask array (a `BlockSource`)."""

    array: da.Array

    @cached_property
    def _grid(self) -> Grid:
        return Grid(self.array.chunks)

    def graph(self) -> Mapping[Any, Any]:
        """Return the array's graph without unused tasks.

        It is not fused, so that variables computed from the same chunks share the tasks that read
        them when their graphs are merged.
        """
        keys = list(flatten(self.array.__dask_keys__()))
        graph: Mapping[Any, Any] = cull(ensure_dict(self.array.__dask_graph__()), keys)[0]
        return graph

    def task(self, region: Region) -> tuple[Any, ...]:
        ranges = self._grid.ranges(region)
        touched = len(list(product(*ranges)))
        return (assembled, self._keys(ranges), len(ranges), touched)

    def _keys(self, ranges: tuple[range, ...], index: tuple[int, ...] = ()) -> Any:
        if not ranges:
            return (self.array.name, *index)
        return [self._keys(ranges[1:], (*index, i)) for i in ranges[0]]


@dataclass(frozen=True)
class MemoryArchive:
    """An open dataset (a `romzarr.archive.provider.Provider`)."""

    name: str
    dataset: xr.Dataset

    def piece(self, name: str, time_axis: int) -> Piece:
        variable = self.dataset.variables[name]
        # `data` would load a lazy array.
        if isinstance(variable._data, np.ndarray):
            return _array_piece(variable.values, time_axis)
        if variable.chunks is None:
            # Opened by xarray without Dask: `values` would load everything at once.
            variable = _chunked(variable, time_axis)
        array: da.Array = variable.data
        if np.isnan(np.concatenate(array.chunks)).any():
            raise ChunkError(
                f"variable {name!r}: its Dask chunks have unknown lengths; call "
                "compute_chunk_sizes() on its data first"
            )
        return Piece(DaskSource(array), array.chunks, digest_of([array.name]))


def _array_piece(values: np.ndarray[Any, Any], time_axis: int) -> Piece:
    thin = tuple(1 if axis == time_axis else size for axis, size in enumerate(values.shape))
    lengths = merged_along(values.shape, thin, time_axis, values.dtype.itemsize)
    sample = values[tuple(slice(None, None, max(1, size // _SAMPLED)) for size in values.shape)]
    digest = digest_of([np.ascontiguousarray(sample).tobytes()])
    chunks, marks = regular(values.shape, lengths), value_marks(values, time_axis)
    return Piece(ArraySource(values), chunks, digest, marks, marks_values=True)


def value_marks(values: np.ndarray[Any, Any], time_axis: int) -> tuple[Mark, ...]:
    """Compute the mark of every snapshot's values."""
    snapshots = np.moveaxis(values, time_axis, 0)
    size, checksums = snapshots[:1].nbytes, list[int]()
    # Arrays of single snapshots would cost more than their checksums, where points are few.
    for start in range(0, len(snapshots), together := max(1, _SLAB_BYTES // max(1, size))):
        some = snapshots[start : start + together]
        slab = memoryview(some.tobytes())
        checksums += (zlib.crc32(slab[i * size : (i + 1) * size]) for i in range(len(some)))
    return tuple(Mark(stop, found, found) for stop, found in enumerate(checksums, start=1))


def _chunked(variable: xr.Variable, time_axis: int) -> xr.Variable:
    preferred: Mapping[Hashable, Any] = variable.encoding.get("preferred_chunks", {})
    lengths = tuple(
        preferred.get(dim, 1 if axis == time_axis else size)
        for axis, (dim, size) in enumerate(variable.sizes.items())
    )
    if all(isinstance(length, int) for length in lengths):
        lengths = merged_along(variable.shape, lengths, time_axis, variable.dtype.itemsize)
    return variable.chunk(dict(zip(variable.dims, lengths, strict=True)))


def memory_archive(dataset: xr.Dataset) -> MemoryArchive:
    return MemoryArchive(memory_name(dataset), dataset)


def memory_name(dataset: xr.Dataset | xr.DataArray) -> str:
    """Return the location that the dataset was opened from, without credentials."""
    source = dataset.encoding.get("source")
    return redacted(source) if source and isinstance(source, str) else "dataset in memory"

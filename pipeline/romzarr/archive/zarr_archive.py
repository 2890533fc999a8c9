"""Opens Zarr archives and finds missing chunks.

zarr silently reads a missing chunk as fill values, so the keys are listed before anything runs.
zarr also omits chunks that contain only the fill value. Where chunks are missing at all times, the
place is therefore taken as land or constant.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Container, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal

import numpy as np
import xarray as xr
import zarr
from zarr.abc.store import Store

from romzarr.archive.blocks import Chunks, Grid, regular
from romzarr.archive.cached_store import CachedMetadataStore
from romzarr.archive.guard import guarded, unreadable
from romzarr.archive.history import Mark, Stored, mark
from romzarr.archive.location import open_store, redacted
from romzarr.archive.provider import Piece, digest_of
from romzarr.archive.time_axis import named_snapshot
from romzarr.archive.zarr_listing import stored_below
from romzarr.archive.zarr_source import ZarrReader, ZarrSource, chunk_keys, storage_chunks
from romzarr.encoding import MAX_ARCHIVE_CHUNKS
from romzarr.errors import ArchiveError, ChunkError

MissingChunks = Literal["error", "fill"]

# Chunks of a variable: a few times as many as any archive has.
MOST_CHUNKS = 1 << 24
# A task holds one block. It reads larger shards by whole inner chunks, up to this size.
_LARGEST_BLOCK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class ZarrArchive:
    """A Zarr v2 or v3 store (a `romzarr.archive.provider.Provider`)."""

    location: str
    store: Store
    group: zarr.Group
    raw: xr.Dataset
    missing_chunks: MissingChunks

    @classmethod
    def open(cls, location: str, missing_chunks: MissingChunks) -> ZarrArchive:
        what = f"archive {redacted(location)!r} cannot be opened as a Zarr group"
        advice = "give the path of a group that xarray wrote, or a NetCDF (.nc) or CSV (.csv) file"
        with unreadable(what, advice):
            store = open_store(location)
            group = zarr.open_group(CachedMetadataStore(store), mode="r")
            arrays = dict(group.arrays())
            # xarray reads all chunks of coordinates when it opens a dataset.
            for name, array in arrays.items():
                refuse_many_chunks(array, name, redacted(location))
            # Given explicitly, so that xarray neither warns nor looks twice.
            consolidated = group.metadata.consolidated_metadata is not None
            raw = xr.open_zarr(
                group.store,
                consolidated=consolidated,
                zarr_format=group.metadata.zarr_format,
                decode_cf=False,
                chunks=None,
            )
            if group.metadata.zarr_format == 3:
                keep_fill_values(raw, arrays)
        if not raw.variables:
            raise ArchiveError(
                f"archive {redacted(location)!r} is a Zarr group without arrays; give the path "
                "of the group with arrays, or call zarr.consolidate_metadata() on it if its server "
                "cannot list files"
            )
        if not consolidated:
            # zarr lists the members in the order of the responses, which varies.
            raw = raw[sorted(raw.variables)]
        return cls(location, store, group, raw, missing_chunks)

    @property
    def name(self) -> str:
        return redacted(self.location)

    @cached_property
    def dataset(self) -> xr.Dataset:
        with unreadable(f"archive {self.name!r} cannot be decoded"):
            return guarded(xr.decode_cf(self.raw), self.name)

    def piece(self, name: str, time_axis: int) -> Piece:
        with unreadable(f"archive {self.name!r}: chunks of variable {name!r} cannot be listed"):
            array = self.group[name]
            assert isinstance(array, zarr.Array)
            stored = stored_below(self.store, array)
            grid = Grid(storage_chunks(array))
        absent = absent_chunks(array, grid, stored)
        if absent and self.missing_chunks == "error":
            refuse_lost_chunks(self.dataset, name, self.name, grid, absent, time_axis)
        reader = ZarrReader.of(name, self.location, array, self.raw.variables[name])
        listing = (f"{key} {each.nbytes}" for key, each in sorted(stored.items()))
        return Piece(
            ZarrSource(reader, grid, absent),
            block_chunks(array),
            digest_of(listing),
            time_marks(array, grid, stored, time_axis, reader.packing),
        )


def keep_fill_values(dataset: xr.Dataset, arrays: Mapping[str, zarr.Array[Any]]) -> None:
    """Let encodings say the fill values of Zarr v3, which xarray before 2026.7 leaves out."""
    for name, variable in dataset.variables.items():
        variable.encoding.setdefault("fill_value", arrays[str(name)].fill_value)


def refuse_many_chunks(array: zarr.Array[Any], name: str, archive: str) -> None:
    """Raise if there are too many chunks to list.

    Raises
    ------
    ArchiveError
    """
    try:
        lengths = array.shards or array.chunks
    except NotImplementedError:  # an irregular grid lists every length
        return
    counts = [-(-size // max(1, n)) for size, n in zip(array.shape, lengths, strict=True)]
    if math.prod(counts) > MOST_CHUNKS or max(counts, default=0) > MAX_ARCHIVE_CHUNKS:
        raise ArchiveError(
            f"archive {archive!r}: variable {name!r} of shape {array.shape} has chunks of "
            f"{lengths}; at most {MOST_CHUNKS} chunks, and {MAX_ARCHIVE_CHUNKS} along a dim, are "
            "allowed. Check the shape, or use larger chunks"
        )


def block_chunks(array: zarr.Array[Any]) -> Chunks:
    """Choose the blocks to read: stored objects, or parts of very large shards."""
    whole = storage_chunks(array)
    largest = array.dtype.itemsize * int(np.prod([max(n, default=0) for n in whole]))
    if largest <= _LARGEST_BLOCK_BYTES:
        return whole
    try:
        shards, inner = array.shards, array.chunks
    except NotImplementedError:  # an irregular grid has no single shape
        return whole
    if shards is None:
        return whole
    lengths, budget = list(inner), _LARGEST_BLOCK_BYTES // array.dtype.itemsize
    for axis in reversed(range(len(inner))):
        ratio = shards[axis] // inner[axis]
        most = max(1, budget // int(np.prod(lengths)))
        lengths[axis] *= max(f for f in range(1, ratio + 1) if ratio % f == 0 and f <= most)
    return regular(array.shape, tuple(lengths))


def time_marks(
    array: zarr.Array[Any],
    grid: Grid,
    stored: Mapping[str, Stored],
    time_axis: int,
    packing: tuple[tuple[str, Any], ...],
) -> tuple[Mark, ...]:
    """Compute the marks of stored chunks and their decoding, one wherever a chunk ends in time."""
    meaning = repr((array.fill_value, packing))
    lengths = grid.chunks[time_axis]
    chunks = list[dict[str, Stored]]({} for _ in lengths)
    for index, key in zip(grid.positions(), chunk_keys(array, grid.positions()), strict=True):
        if key in stored:
            chunks[index[time_axis]][key] = stored[key]
    stops = accumulate(lengths)
    return tuple(mark(stop, each, meaning) for stop, each in zip(stops, chunks, strict=True))


def absent_chunks(
    array: zarr.Array[Any], grid: Grid, stored: Container[str]
) -> dict[tuple[int, ...], str]:
    """Return grid positions and keys of the missing chunks."""
    return {
        index: key
        for index, key in zip(grid.positions(), chunk_keys(array, grid.positions()), strict=True)
        if key not in stored
    }


def refuse_lost_chunks(
    dataset: xr.Dataset,
    name: str,
    archive: str,
    grid: Grid,
    absent: Mapping[tuple[int, ...], str],
    time_axis: int,
) -> None:
    """Raise unless the missing chunks of each place are missing at all times.

    Raises
    ------
    ChunkError
        Naming the variable, and time and key of the first missing chunk.
    """
    times = len(grid.chunks[time_axis])
    places: dict[tuple[int, ...], list[tuple[int, ...]]] = defaultdict(list)
    for index in absent:
        places[index[:time_axis] + index[time_axis + 1 :]].append(index)
    everything = len(absent) == len(grid)
    lost = [i for found in places.values() if len(found) < times or everything for i in found]
    if lost:
        first = min(lost, key=lambda index: (index[time_axis], index))
        start = grid.region(first)[time_axis].start
        since = named_snapshot(dataset, str(dataset[name].dims[time_axis]), start)
        raise ChunkError(
            f"variable {name!r}: chunk {absent[first]!r} of archive {archive!r}, which begins at "
            f"{since}, is missing ({len(lost)} of {len(grid)} chunks are). Chunks may be missing "
            "only where none exists at any time. Restore it, or set archive.missing_chunks: fill "
            "if these chunks were never written because they contain only the fill value"
        )

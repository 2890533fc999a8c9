"""Opening a Zarr store: metadata, decoding, and which chunks are there.

zarr reads a missing chunk as fill values without a word, so the keys are listed before
anything runs. It also does not write chunks that hold only the fill value; a place whose
chunks are missing at all times is therefore taken as land or constant.
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
from romzarr.errors import ArchiveError, ChunkError

MissingChunks = Literal["error", "fill"]

# Of a variable: a few times as many as anybody has, and as many along a dim as a store may name.
MOST_CHUNKS, MOST_ALONG_AXIS = 1 << 24, 1 << 22
# A task holds one block; of larger shards it takes whole inner chunks, up to this size.
_LARGEST_BLOCK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class ZarrArchive:
    """A Zarr v2 or v3 store as a provider of blocks."""

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
            # xarray reads coordinates as it opens, all chunks that they say they have.
            for name, array in group.arrays():
                refuse_many_chunks(array, name, redacted(location))
            # Said outright, so that xarray neither warns nor looks twice.
            consolidated = group.metadata.consolidated_metadata is not None
            raw = xr.open_zarr(
                group.store,
                consolidated=consolidated,
                zarr_format=group.metadata.zarr_format,
                decode_cf=False,
                chunks=None,
            )
        if not raw.variables:
            raise ArchiveError(
                f"archive {redacted(location)!r} is a Zarr group without arrays; give the path "
                "of the group that holds them, or call zarr.consolidate_metadata() on it if its "
                "server lists no files"
            )
        if not consolidated:
            # zarr names the members as its requests return, in another order each time.
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


def refuse_many_chunks(array: zarr.Array[Any], name: str, archive: str) -> None:
    """Raise if metadata speak of so many chunks that to name them all would never end.

    Raises
    ------
    ArchiveError
    """
    try:
        lengths = array.shards or array.chunks
    except NotImplementedError:  # an uneven grid names every length itself
        return
    counts = [-(-size // max(1, n)) for size, n in zip(array.shape, lengths, strict=True)]
    if math.prod(counts) > MOST_CHUNKS or max(counts, default=0) > MOST_ALONG_AXIS:
        raise ArchiveError(
            f"archive {archive!r}: variable {name!r} of shape {array.shape} has chunks of "
            f"{lengths}, at most {MOST_CHUNKS} are allowed and {MOST_ALONG_AXIS} along a dim; "
            "check that the shape is right, or write it with larger chunks"
        )


def block_chunks(array: zarr.Array[Any]) -> Chunks:
    """Blocks to read: what the store keeps as one object, or parts of very large shards."""
    whole = storage_chunks(array)
    largest = array.dtype.itemsize * int(np.prod([max(n, default=0) for n in whole]))
    if largest <= _LARGEST_BLOCK_BYTES:
        return whole
    try:
        shards, inner = array.shards, array.chunks
    except NotImplementedError:  # an uneven grid has no single shape
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
    """Marks of what is stored along time, and of what it means, one wherever a chunk ends."""
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
    """Grid positions and keys of the chunks that are not `stored`."""
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
    """Raise unless every place with a missing chunk has none at any time, and others have.

    Raises
    ------
    ChunkError
        Naming the variable, and time and key of the chunk that is missing first.
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
            f"{since}, is missing ({len(lost)} of {len(grid)} chunks are), and a missing "
            "chunk is allowed only where none exists at any time; restore it, or set "
            "archive.missing_chunks: fill if these chunks were never written because they "
            "hold only the fill value"
        )

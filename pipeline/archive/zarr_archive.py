"""Opening a Zarr store: metadata, decoding, and which chunks are there.

zarr reads a missing chunk as fill values without a word, so the keys are listed before
anything runs. It also does not write chunks that hold only the fill value; a place whose
chunks are missing at all times is therefore taken as land or constant.
"""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal

import numpy as np
import xarray as xr
import zarr
from zarr.abc.store import Store
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore

from pipeline.archive.blocks import Chunks, Grid, regular
from pipeline.archive.history import Mark, mark
from pipeline.archive.location import open_store, redacted
from pipeline.archive.provider import Piece, digest_of
from pipeline.archive.remembering import RememberingStore
from pipeline.archive.zarr_source import ZarrReader, ZarrSource, chunk_keys, storage_chunks
from pipeline.errors import ArchiveError, ChunkError, StorageError
from pipeline.objects import RemoteStore
from pipeline.objects.listing import listed

MissingChunks = Literal["error", "fill"]

# A task holds one block; of larger shards it takes whole inner chunks, up to this size.
_LARGEST_BLOCK_BYTES = 64 * 2**20
_PROBES = 64


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
        store = open_store(location)
        try:
            group = zarr.open_group(RememberingStore(store), mode="r")
            # Said outright, so that xarray neither warns nor looks twice.
            consolidated = group.metadata.consolidated_metadata is not None
            raw = xr.open_zarr(
                group.store,
                consolidated=consolidated,
                zarr_format=group.metadata.zarr_format,
                decode_cf=False,
                chunks=None,
            )
        except StorageError:
            raise
        # Both libraries fail in ways of their own.
        except Exception as error:
            raise ArchiveError(
                f"archive {redacted(location)!r} cannot be opened as a Zarr group: "
                f"{type(error).__name__}: {error}; give the path of a group that xarray wrote, "
                "or a NetCDF (.nc) or CSV (.csv) file"
            ) from error
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
        return xr.decode_cf(self.raw)

    def piece(self, name: str, time_axis: int) -> Piece:
        array = self.group[name]
        assert isinstance(array, zarr.Array)
        sizes = chunk_sizes(self.store, array)
        grid = Grid(storage_chunks(array))
        absent = absent_chunks(array, grid, sizes)
        if absent and self.missing_chunks == "error":
            refuse_lost_chunks(name, self.name, grid, absent, time_axis)
        reader = ZarrReader.of(name, self.location, array, self.raw.variables[name])
        listing = (f"{key} {size}" for key, size in sorted(sizes.items()))
        return Piece(
            ZarrSource(reader, grid, absent),
            block_chunks(array),
            digest_of(listing),
            time_marks(array, grid, sizes, time_axis),
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
        room = max(1, budget // int(np.prod(lengths)))
        lengths[axis] *= max(f for f in range(1, ratio + 1) if ratio % f == 0 and f <= room)
    return regular(array.shape, tuple(lengths))


def time_marks(
    array: zarr.Array[Any], grid: Grid, sizes: dict[str, int], time_axis: int
) -> tuple[Mark, ...]:
    """Checksums of what is stored along time, in chunks that an archive that grows leaves alone."""
    lengths = grid.chunks[time_axis]
    stored = list[list[tuple[str, int]]]([] for _ in lengths)
    for index, key in zip(grid.positions(), chunk_keys(array, grid.positions()), strict=True):
        if key in sizes:
            stored[index[time_axis]].append((key, sizes[key]))
    stops, whole = list(accumulate(lengths)), _time_length(array, time_axis)
    full = stops if lengths[-1:] == (whole,) or whole is None else stops[:-1]
    return tuple(mark(stop, each) for stop, each in zip(full, stored, strict=False))


def _time_length(array: zarr.Array[Any], time_axis: int) -> int | None:
    """Length of a full chunk along time; None where chunks have any lengths."""
    try:
        return int((array.shards or array.chunks)[time_axis])
    except NotImplementedError:
        return None


def absent_chunks(
    array: zarr.Array[Any], grid: Grid, sizes: dict[str, int]
) -> dict[tuple[int, ...], str]:
    """Grid positions and keys of the chunks that are not among `sizes`."""
    return {
        index: key
        for index, key in zip(grid.positions(), chunk_keys(array, grid.positions()), strict=True)
        if key not in sizes
    }


def refuse_lost_chunks(
    name: str,
    archive: str,
    grid: Grid,
    absent: dict[tuple[int, ...], str],
    time_axis: int,
) -> None:
    """Raise unless every place with a missing chunk has none at any time, and others have.

    Raises
    ------
    ChunkError
        Naming the variable and the first missing key.
    """
    times = len(grid.chunks[time_axis])
    places: dict[tuple[int, ...], list[tuple[int, ...]]] = defaultdict(list)
    for index in absent:
        places[index[:time_axis] + index[time_axis + 1 :]].append(index)
    everything = len(absent) == len(grid)
    lost = [i for found in places.values() if len(found) < times or everything for i in found]
    if lost:
        raise ChunkError(
            f"variable {name!r}: chunk {absent[min(lost)]!r} of archive {archive!r} is missing "
            f"({len(lost)} of {len(grid)} chunks are), and a missing "
            "chunk is allowed only where none exists at any time; restore it, or set "
            "archive.missing_chunks: fill if these chunks were never written because they "
            "hold only the fill value"
        )


def chunk_sizes(store: Store, array: zarr.Array[Any]) -> dict[str, int]:
    """Stored size in bytes of every key under `array`."""
    if isinstance(store, LocalStore):
        return _local_sizes(os.fspath(store.root), array.path)
    sizes: dict[str, int] = sync(_listed_sizes(store, array.path))
    keys = list(chunk_keys(array, Grid(storage_chunks(array)).positions()))
    if any(key in sizes for key in keys):
        return sizes
    # Plain web servers list nothing: ask for each chunk.
    probed: dict[str, int] = sync(_probed_sizes(store, keys))
    return probed


def _local_sizes(root: str, path: str) -> dict[str, int]:
    sizes: dict[str, int] = {}
    folders = [path]
    while folders:
        folder = folders.pop()
        prefix = f"{folder}/" if folder else ""
        try:
            entries = list(os.scandir(os.path.join(root, folder)))
        except FileNotFoundError:
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(prefix + entry.name)
            else:
                sizes[prefix + entry.name] = entry.stat().st_size
    return sizes


async def _listed_sizes(store: Store, path: str) -> dict[str, int]:
    """Sizes of what a store lists below `path`, where it lists anything."""
    prefix = f"{path}/" if path else ""
    if isinstance(store, FsspecStore):
        root = f"{store.path}/".lstrip("/")
        try:
            found = await store.fs._find(f"{store.path}/{prefix}", detail=True)
        except (FileNotFoundError, NotImplementedError):
            return {}
        return {
            key.lstrip("/").removeprefix(root): int(info.get("size") or 0)
            for key, info in found.items()
        }
    if isinstance(store, RemoteStore):
        return {key: entry["size"] for key, entry in (await listed(store, prefix)).items()}
    keys = [key async for key in store.list_prefix(prefix)]
    return await _probed_sizes(store, keys)


async def _probed_sizes(store: Store, keys: Iterable[str]) -> dict[str, int]:
    gate = asyncio.Semaphore(_PROBES)

    async def probe(key: str) -> tuple[str, int | None]:
        async with gate:
            try:
                return key, await store.getsize(key)
            except FileNotFoundError:
                return key, None

    found = await asyncio.gather(*(probe(key) for key in keys))
    return {key: size for key, size in found if size is not None}

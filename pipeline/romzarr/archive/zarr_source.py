"""Blocks of a Zarr array, read straight from its chunks.

Reading through xarray's lazy arrays and dask costs a task or two per chunk and a decoding
pass; most archives need neither. The reader here is a few hundred bytes (path, metadata of
the array, packing attributes), so a task carries it whole: workers open no metadata, and an
archive that grows meanwhile does not confuse them.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.abc.store import Store
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.storage import MemoryStore, StorePath, WrapperStore

from romzarr.archive.blocks import Chunks, Grid, describe, regular
from romzarr.archive.location import process_store, redacted
from romzarr.contracts import ReadBlock, Region
from romzarr.errors import ChunkError, StorageError

# What CF packing and masking read; all other attributes leave the numbers alone.
_PACKING = ("_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned")


class _CountingStore(WrapperStore[Store]):
    """Counts what one read fetched, and notes the keys that were not there."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        # Appending to a list is atomic; decoding threads may do it side by side.
        self.fetched: list[tuple[str, int]] = []
        self.absent: list[str] = []

    def _note(self, key: str, buffer: Buffer | None) -> None:
        if buffer is None:
            self.absent.append(key)
        else:
            self.fetched.append((key, len(buffer)))

    async def get(self, key: str, *args: Any, **kwargs: Any) -> Buffer | None:
        buffer = await self._store.get(key, *args, **kwargs)
        self._note(key, buffer)
        return buffer

    # zarr 3.1 has neither of the two below; later ones read through them.
    def get_sync(self, key: str, **kwargs: Any) -> Buffer | None:
        store: Any = self._store
        buffer: Buffer | None = store.get_sync(key, **kwargs)
        self._note(key, buffer)
        return buffer

    async def get_ranges(self, key: str, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        store: Any = self._store
        async for group in store.get_ranges(key, *args, **kwargs):
            for _, buffer in group:
                self._note(key, buffer)
            yield group


@lru_cache(maxsize=256)
def _metadata(document: str) -> Any:
    """Metadata of an array, parsed once in a process: as long as reading a small chunk."""
    return zarr.AsyncArray(json.loads(document), StorePath(MemoryStore())).metadata


@dataclass(frozen=True)
class ZarrReader:
    """Reads regions of one array of a Zarr store; picklable, small, without secrets.

    ``location`` is the path or URL of the store, ``path`` of the array in it, ``metadata``
    the array's JSON document without attributes, ``packing`` the CF attributes that decoding
    needs (empty where the stored numbers are the values).
    """

    name: str
    location: str
    path: str
    metadata: str
    packing: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, name: str, location: str, array: zarr.Array[Any], raw: xr.Variable) -> ZarrReader:
        """Reader of `array`, which xarray opened undecoded as `raw`."""
        buffers = array.metadata.to_buffer_dict(default_buffer_prototype())
        document = json.loads(
            buffers["zarr.json" if "zarr.json" in buffers else ".zarray"].to_bytes()
        )
        document["attributes"] = {}
        return cls(name, location, array.path, json.dumps(document), packing_of(raw))

    def array(self, store: Store) -> zarr.Array[Any]:
        return zarr.Array(zarr.AsyncArray(_metadata(self.metadata), StorePath(store, self.path)))

    def read(self, region: Region, absent: frozenset[str] = frozenset()) -> ReadBlock:
        """Values of `region`, decoded as xarray does.

        `absent` are the keys of chunks known to be missing on purpose.

        Raises
        ------
        ChunkError
            If any other chunk is missing, or one cannot be decoded.
        """
        store = _CountingStore(process_store(self.location))
        try:
            values = self._decoded(np.asarray(self.array(store)[region]))
        except (MemoryError, StorageError):
            raise
        # A damaged chunk fails in the codec's own way, a storage service in its own, and packing
        # that is no number in xarray's.
        except Exception as error:
            raise self._located(region, absent, error) from error
        lost = sorted(set(store.absent) - absent)
        if lost:
            raise ChunkError(
                f"variable {self.name!r}: chunk {lost[0]!r} of archive "
                f"{redacted(self.location)!r} was there when the archive was opened and is "
                f"missing now, for region {describe(region)}; restore it and run again"
            )
        keys = {key for key, _ in store.fetched}
        return ReadBlock(values, sum(size for _, size in store.fetched), len(keys))

    def _decoded(self, raw: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if self.packing:
            packed = xr.Variable([f"dim_{i}" for i in range(raw.ndim)], raw, dict(self.packing))
            decoded = xr.conventions.decode_cf_variable(
                self.name, packed, decode_times=False, decode_timedelta=False
            )
            raw = decoded.values
        return raw.astype(raw.dtype.newbyteorder("="), copy=False)

    def _located(self, region: Region, absent: frozenset[str], error: Exception) -> ChunkError:
        """The error that names the first chunk of `region` that fails on its own."""
        array = self.array(process_store(self.location))
        grid = Grid(storage_chunks(array))
        where, reason = f"region {describe(region)}", error
        for index in grid.touched(region):
            key = chunk_key(array, index)
            if key in absent:
                continue
            try:
                array[grid.region(index)]
            except Exception as failure:  # the same unknown family as above
                where = f"chunk {key!r}, region {describe(grid.region(index))},"
                reason = failure
                break
        return ChunkError(
            f"variable {self.name!r}: {where} of archive {redacted(self.location)!r} cannot be "
            f"decoded ({type(reason).__name__}: {reason}); restore it from a copy, or leave "
            "the variable out with archive.variables"
        )


def packing_of(raw: xr.Variable) -> tuple[tuple[str, Any], ...]:
    """CF attributes of `raw` that change its numbers; empty if none does."""
    packing = {key: raw.attrs[key] for key in _PACKING if key in raw.attrs}
    if raw.dtype.kind == "f" and packing.keys() <= {"_FillValue", "missing_value"}:
        fills = [np.atleast_1d(np.asarray(value)) for value in packing.values()]
        if all(fill.dtype.kind == "f" and np.isnan(fill).all() for fill in fills):
            return ()
    return tuple(packing.items())


def storage_chunks(array: zarr.Array[Any]) -> Chunks:
    """Lengths of what the store keeps as one object: shards if there are any, else chunks."""
    if hasattr(array, "write_chunk_sizes"):  # zarr >= 3.2, which knows uneven grids
        sizes: Chunks = array.write_chunk_sizes
        return tuple(tuple(int(length) for length in lengths) for lengths in sizes)
    return regular(array.shape, array.shards or array.chunks)


def chunk_key(array: zarr.Array[Any], index: tuple[int, ...]) -> str:
    """Key in the store of the chunk (or shard) at grid position `index`."""
    return next(iter(chunk_keys(array, [index])))


def chunk_keys(array: zarr.Array[Any], positions: Iterable[tuple[int, ...]]) -> Iterator[str]:
    """Keys in the store of the chunks (or shards) at many grid positions."""
    # Looked up once: an archive may have 10^6 chunks.
    prefix, encode = f"{array.path}/" if array.path else "", array.metadata.encode_chunk_key
    return (prefix + encode(index) for index in positions)


def read_zarr(reader: ZarrReader, region: Region, absent: frozenset[str]) -> ReadBlock:
    return reader.read(region, absent)


@dataclass(frozen=True)
class ZarrSource:
    """Blocks of one Zarr array (a `romzarr.contracts.BlockSource`).

    ``absent`` maps grid positions of chunks that are missing on purpose to their keys.
    """

    reader: ZarrReader
    grid: Grid
    absent: Mapping[tuple[int, ...], str]

    def graph(self) -> Mapping[Any, Any]:
        return {}

    def task(self, region: Region) -> tuple[Any, ...]:
        absent: frozenset[str] = frozenset()
        if self.absent:
            touched = self.grid.touched(region)
            absent = frozenset(self.absent[index] for index in touched if index in self.absent)
        return (read_zarr, self.reader, region, absent)

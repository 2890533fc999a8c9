"""Reads blocks of a Zarr array directly from its chunks.

Reading through xarray's lazy arrays and Dask would cost one or two more tasks per chunk and a
decoding pass. The reader here has a few hundred bytes (path, metadata of the array, packing
attributes), so that tasks carry it: workers read no metadata, and the archive may grow meanwhile.
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

from romzarr.archive.blocks import Chunks, Grid, describe, native, regular
from romzarr.archive.location import process_store, redacted
from romzarr.contracts import ReadBlock, Region
from romzarr.errors import ChunkError, StorageError

# The attributes that CF packing and masking use.
_PACKING = ("_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned")


class _CountingStore(WrapperStore[Store]):
    """Counts the bytes of one read, and notes missing keys."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        # Appending to a list is atomic, as concurrent threads need.
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

    # zarr 3.1 has neither of these two; later versions read through them.
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
    """Parse metadata of an array once per process: it takes as long as reading a small chunk."""
    return zarr.AsyncArray(json.loads(document), StorePath(MemoryStore())).metadata


@dataclass(frozen=True)
class ZarrReader:
    """Reads regions of one array of a Zarr store; picklable, small, without secrets.

    ``location`` is the path or URL of the store, ``path`` the array in it, ``metadata`` its JSON
    document without attributes, ``packing`` the CF attributes for decoding (empty if the stored
    numbers are the values).
    """

    name: str
    location: str
    path: str
    metadata: str
    packing: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, name: str, location: str, array: zarr.Array[Any], raw: xr.Variable) -> ZarrReader:
        """Make the reader of `array`, which xarray opened without decoding as `raw`."""
        buffers = array.metadata.to_buffer_dict(default_buffer_prototype())
        document = json.loads(
            buffers["zarr.json" if "zarr.json" in buffers else ".zarray"].to_bytes()
        )
        document["attributes"] = {}
        return cls(name, location, array.path, json.dumps(document), packing_of(raw))

    def array(self, store: Store) -> zarr.Array[Any]:
        return zarr.Array(zarr.AsyncArray(_metadata(self.metadata), StorePath(store, self.path)))

    def read(self, region: Region, absent: frozenset[str] = frozenset()) -> ReadBlock:
        """Read the values of `region`, decoded as in xarray.

        `absent` has the keys of chunks that are missing on purpose.

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
        # Codecs, storage services and xarray's decoding have many kinds of errors.
        except Exception as error:
            raise self._located(region, absent, error) from error
        lost = sorted(set(store.absent) - absent)
        if lost:
            raise ChunkError(
                f"variable {self.name!r}: chunk {lost[0]!r} of archive "
                f"{redacted(self.location)!r} has disappeared since the archive was opened "
                f"(region {describe(region)}); restore it and run again"
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
        return native(raw)

    def _located(self, region: Region, absent: frozenset[str], error: Exception) -> ChunkError:
        """Make the error that names the first damaged chunk of `region`."""
        array = self.array(process_store(self.location))
        grid = Grid(storage_chunks(array))
        where, reason = f"region {describe(region)}", error
        for index in grid.touched(region):
            key = chunk_key(array, index)
            if key in absent:
                continue
            try:
                array[grid.region(index)]
            except Exception as failure:  # any kind of error, as above
                where = f"chunk {key!r}, region {describe(grid.region(index))},"
                reason = failure
                break
        return ChunkError(
            f"variable {self.name!r}: {where} of archive {redacted(self.location)!r} cannot be "
            f"decoded ({type(reason).__name__}: {reason}); restore it from a backup, or leave "
            "the variable out with archive.variables"
        )


def packing_of(raw: xr.Variable) -> tuple[tuple[str, Any], ...]:
    """Return the CF attributes of `raw` that change its numbers."""
    packing = {key: raw.attrs[key] for key in _PACKING if key in raw.attrs}
    if raw.dtype.kind == "f" and packing.keys() <= {"_FillValue", "missing_value"}:
        fills = [np.atleast_1d(np.asarray(value)) for value in packing.values()]
        if all(fill.dtype.kind == "f" and np.isnan(fill).all() for fill in fills):
            return ()
    return tuple(packing.items())


def storage_chunks(array: zarr.Array[Any]) -> Chunks:
    """Return the lengths of stored objects: shards if there are any, else chunks."""
    if hasattr(array, "write_chunk_sizes"):  # zarr >= 3.2, which has irregular grids
        sizes: Chunks = array.write_chunk_sizes
        return tuple(tuple(int(length) for length in lengths) for lengths in sizes)
    return regular(array.shape, array.shards or array.chunks)


def chunk_key(array: zarr.Array[Any], index: tuple[int, ...]) -> str:
    """Return the key of the chunk (or shard) at grid position `index`."""
    return next(iter(chunk_keys(array, [index])))


def chunk_keys(array: zarr.Array[Any], positions: Iterable[tuple[int, ...]]) -> Iterator[str]:
    """Yield the keys of the chunks (or shards) at many grid positions."""
    # Attributes are looked up once: an archive may have 10^6 chunks.
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

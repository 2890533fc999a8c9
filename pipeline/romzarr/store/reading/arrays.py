"""Checked access to the arrays of one generation."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from romzarr.coding.bands import coarse_shape
from romzarr.coding.coarse import coarsened
from romzarr.coding.coefficients import Coefficients
from romzarr.coding.layers import Payload, joined
from romzarr.coding.tiles import extended, grid, region_of
from romzarr.contracts import Floats, Region
from romzarr.errors import ResourceError, StorageError, StoreError, refuse_blame
from romzarr.store import checksums, layout
from romzarr.store.codec import WaveletCodec
from romzarr.store.layout import ArrayLayout
from romzarr.store.reading.fields import prefixed_errors
from romzarr.store.reading.indexing import OutOfRangeError, Piece, Positions, pieces
from romzarr.store.reading.tile_cache import Sized, TileCache

T = TypeVar("T", bound=Sized)
R = TypeVar("R")

# Chunks of an array that are fetched at a time: they hide latency, and take up to 8 MB or so each.
_AHEAD = 8
# Concurrent requests for checking files: they hide latency.
_FETCHED = 32


@contextmanager
def as_store_errors(what: str) -> Iterator[None]:
    """Turn any error, which malicious content may cause, into a message that begins with `what`.

    Raises
    ------
    StoreError
        Instead of any error except an invalid index of the caller.
    ResourceError
        If the system lacks resources, which is not the store's fault.
    """
    try:
        yield
    except (StoreError, StorageError, ResourceError, OutOfRangeError):
        raise
    except MemoryError as error:
        raise StoreError(f"{what}: not enough memory; read less at once") from error
    except Exception as error:
        refuse_blame(error)
        raise StoreError(f"{what}: {error or type(error).__name__}") from error


# The path of an array, and the index of a chunk.
ChunkPlace = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class StoredArrays:
    """The arrays of a generation.

    Attributes
    ----------
    url, generation : str
        The store, and its generation.
    layouts : mapping of str to ArrayLayout
    group : zarr.Group
        The generation; its arrays are read through `CheckedStore`.
    tiles : TileMemory
        Decoded tiles; several generations may share the cache.
    layers : mapping of str to sequence of str
        The layers that arrays consist of, by their paths. The layout of such an array is that of
        its last layer.
    halvings : mapping of str to tuple of int
        How often each axis of an array is halved (`romzarr.coding.coarse`), by its path: chunks of
        coded arrays, regions and selections are then those of the coarser grid.
    """

    url: str
    generation: str
    layouts: Mapping[str, ArrayLayout] = field(repr=False)
    group: zarr.Group = field(repr=False)
    tiles: TileCache = field(repr=False, compare=False)
    layers: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False)
    halvings: Mapping[str, tuple[int, ...]] = field(default_factory=dict, repr=False)

    def __contains__(self, path: str) -> bool:
        return path in self.layouts

    @property
    def is_far(self) -> bool:
        """Whether every chunk takes a request."""
        return not layout.is_local(self.url)

    def chunk(self, path: str) -> tuple[int, ...]:
        """Shape of the chunks of an array."""
        return coarse_shape(self.layouts[path].chunk, self.halvings.get(path, ()))

    def shape(self, path: str) -> tuple[int, ...]:
        """Shape of an array."""
        return coarse_shape(self.layouts[path].shape, self.halvings.get(path, ()))

    def read(self, path: str, rows: slice = slice(None)) -> NDArray[Any]:
        """Read array `path` of the generation, or some of its rows.

        Raises
        ------
        StoreError
            If a chunk is missing or damaged.
        """
        return self.selected(path, (rows,) if self.layouts[path].shape else ())

    def check_files(self) -> None:
        """Read every file of the generation, including those not needed for decoding.

        Raises
        ------
        StoreError
            Naming the first missing or damaged file.
        """
        for path, array in self.layouts.items():
            if path in self.layers:
                continue
            # Lazily: the metadata may claim far more chunks than exist.
            chunks = grid(array.shape, array.chunk)
            places = (
                tuple(map(int, np.unravel_index(n, chunks))) for n in range(math.prod(chunks))
            )
            keys = map(self._array(path).metadata.encode_chunk_key, places)
            while some := list(islice(keys, _FETCHED)):
                with self._reading(path):
                    sync(_fetched(self.group.store, [layout.joined(path, key) for key in some]))

    def _array(self, path: str) -> zarr.Array[Any]:
        array = self.group[self.layers.get(path, (path,))[-1]]
        if not isinstance(array, zarr.Array):
            raise StoreError(f"{self.url}: {path} is not an array")
        return array

    def selected(self, path: str, selection: Region) -> NDArray[Any]:
        """Read a region of an array; on a coarser grid every so many points of it."""
        array = self._array(path)
        if path in self.halvings:
            selection = _spread(selection, self.halvings[path])
        with self._reading(path):
            return np.asarray(array[selection or ...])

    def _reading(self, path: str) -> AbstractContextManager[None]:
        return as_store_errors(f"{self.url}: array {path} cannot be read")

    def finite(self, path: str, rows: slice = slice(None)) -> NDArray[Any]:
        """Read an array in which NaN and infinities are damage."""
        values = self.read(path, rows)
        _check_finite(values, f"{self.url}: {path}")
        return values

    def fetch_ahead(self, chunks: Iterable[ChunkPlace]) -> None:
        """Fetch chunks of arrays concurrently that will be asked for next, if they are far."""
        store: Any = self.group.store
        store.fetch_ahead(
            layout.joined(each, self._array(each).metadata.encode_chunk_key(index))
            for path, index in chunks
            for each in self.layers.get(path, (path,))
        )

    def pieces(self, path: str, wanted: Sequence[Positions], *key: Any) -> Iterator[Piece]:
        """Divide requested points into chunks of an array, some of which are fetched at a time.

        Decoded chunks are cached as (path, chunk, *`key`).
        """
        found = pieces(wanted, self._tile(path, wanted))
        while some := list(islice(found, _AHEAD)):
            self.fetch_ahead(self._far(path, some, *key))
            yield from some

    def first_chunks(self, path: str, wanted: Sequence[Positions], *key: Any) -> list[ChunkPlace]:
        """Return the chunks that `pieces` fetches first."""
        first = islice(pieces(wanted, self._tile(path, wanted)), _AHEAD)
        return list(self._far(path, first, *key))

    def _tile(self, path: str, wanted: Sequence[Positions]) -> tuple[int, ...]:
        chunk = self.chunk(path)
        return chunk[len(chunk) - len(wanted) :]

    def _far(self, path: str, some: Iterable[Piece], *key: Any) -> Iterator[ChunkPlace]:
        """Yield the chunks of pieces that are not cached."""
        for each in some:
            if self.kept((path, each.tile, *key)) is None:
                yield path, (*(0,) * (len(self.chunk(path)) - len(each.tile)), *each.tile)

    def cached(self, key: tuple[Any, ...], decode: Callable[[], T]) -> T:
        """Return the cached value of `key`, or decode it."""
        return self.tiles.get((self.generation, *key), decode)

    def kept(self, key: tuple[Any, ...]) -> Any:
        """Return the cached value of `key`; None if there is none."""
        return self.tiles.kept((self.generation, *key))

    def rows(self, path: str, start: int, stop: int) -> NDArray[np.float64]:
        """Decode rows of a table."""
        length, columns = self.layouts[path].chunk
        if start >= stop:
            return np.zeros((0, columns))
        first = start // length
        self.fetch_ahead(self.row_chunks(path, start, stop))
        chunks = [
            self.cached((path, number), partial(self.decoded, path, (number, 0)))
            for number in range(first, -(-stop // length))
        ]
        rows: NDArray[np.float64] = np.concatenate(chunks)
        return rows[start - first * length : stop - first * length]

    def row_chunks(self, path: str, start: int, stop: int) -> list[ChunkPlace]:
        """Return the chunks with some rows of a table that are not cached."""
        length = self.layouts[path].chunk[0]
        wanted = range(start // length, -(-stop // length))
        return [(path, (k, 0)) for k in wanted if self.kept((path, k)) is None]

    def decoded(self, path: str, index: tuple[int, ...]) -> Floats:
        """Decode one chunk of an array, without the part beyond the end of the array."""
        if path in self.layers or path in self.halvings:
            with prefixed_errors(f"{self.url}: array {path} cannot be read"):
                values = self.coefficients(path, index).array()
        else:
            values = self._read(path, index, self.codec(path).values)
        region = region_of(index, self.shape(path), self.chunk(path))
        values = values[tuple(slice(0, part.stop - part.start) for part in region)]
        values.flags.writeable = False
        return values

    def codec(self, path: str) -> WaveletCodec:
        """Return the codec of a coded array; of one in layers, that of its last layer."""
        return _codec(self._array(path))

    def coefficients(self, path: str, index: tuple[int, ...]) -> Coefficients:
        """Decode the coefficients of one chunk."""
        halvings = self.halvings.get(path, ())
        if halvings and self._sticks_out(path, index):
            return self._ended(path, index)
        return self._coefficients(path, index, halvings)

    def _sticks_out(self, path: str, index: tuple[int, ...]) -> bool:
        """Whether the array ends inside of a chunk, along an axis that is halved."""
        array = self.layouts[path]
        axes = zip(index, array.chunk, array.shape, self.halvings[path], strict=True)
        return any((i + 1) * length > n for i, length, n, halved in axes if halved)

    def _ended(self, path: str, index: tuple[int, ...]) -> Coefficients:
        """A chunk on a coarser grid, from its values inside the array and repetitions of the last.

        No error is known of what was decoded beyond. The result has no levels.
        """
        array, halvings = self.layouts[path], self.halvings[path]
        region = region_of(index, array.shape, array.chunk)
        values = self._coefficients(path, index, ()).array()
        inside = values[tuple(slice(0, part.stop - part.start) for part in region)]
        return Coefficients.of(
            coarsened(extended(inside, array.chunk), halvings), (0,) * inside.ndim
        )

    def _coefficients(
        self, path: str, index: tuple[int, ...], halvings: tuple[int, ...]
    ) -> Coefficients:
        if path not in self.layers:
            decode = partial(self.codec(path).coefficients, halvings=halvings)
            return self._read(path, index, decode)
        payloads = [self.payload(each, index) for each in self.layers[path]]
        levels, array = self.codec(path).levels, self.layouts[path]
        with prefixed_errors(f"{self.url}: array {path} cannot be read"):
            return joined(payloads, array.chunk, levels, np.dtype(array.dtype), halvings)

    def payload(self, path: str, index: tuple[int, ...]) -> Payload:
        """Fetch the payload of one chunk of a coded array, or of one of its layers."""
        array: Any = self.group[path]
        return Payload(self._content(path, array, index), _codec(array).step)

    def _read(
        self,
        path: str,
        index: tuple[int, ...],
        decode: Callable[[bytes, Sequence[int], np.dtype[Any]], R],
    ) -> R:
        """Fetch one chunk, and decode it."""
        array = self._array(path)
        content = self._content(path, array, index)
        with self._reading(path), prefixed_errors(f"{self.url}: array {path} cannot be read"):
            return decode(content, self.layouts[path].chunk, array.dtype)

    def _content(self, path: str, array: zarr.Array[Any], index: tuple[int, ...]) -> bytes:
        """Fetch one chunk."""
        key = layout.joined(path, array.metadata.encode_chunk_key(index))
        with self._reading(path):
            content: Any = sync(self.group.store.get(key, default_buffer_prototype()))
        # The checksum at the end has been checked.
        payload: bytes = content.to_bytes()[: -checksums.SIZE]
        return payload


def _spread(region: Region, halvings: Sequence[int]) -> Region:
    """The points of a region of a coarser grid on the whole one."""
    return tuple(
        slice(part.start << halved, part.stop << halved, 1 << halved)
        for part, halved in zip(region, halvings, strict=True)
    )


def _codec(array: zarr.Array[Any]) -> WaveletCodec:
    # Opening has checked that the first codec of this Zarr v3 array is ours.
    metadata: Any = array.metadata
    codec: WaveletCodec = metadata.codecs[0]
    return codec


async def _fetched(store: Any, keys: Sequence[str]) -> None:
    """Fetch files concurrently; a `CheckedStore` checks them."""
    await asyncio.gather(*(store.get(key, default_buffer_prototype()) for key in keys))


def _check_finite(values: Floats, where: str) -> None:
    # A sum needs no temporary array and is not finite if a value is not. It may also overflow.
    with np.errstate(over="ignore", invalid="ignore"):
        suspicious = not np.isfinite(values.sum())
    if suspicious and not np.isfinite(values).all():
        raise StoreError(f"{where} contains NaN or infinity; the store is damaged")

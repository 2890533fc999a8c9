"""Arrays of one generation, read through checks: whole, in parts, or as coefficients."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
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

from romzarr.coding.coefficients import Coefficients
from romzarr.coding.tiles import grid, region_of
from romzarr.contracts import Floats, Region
from romzarr.errors import ResourceError, StorageError, StoreError, refuse_blame
from romzarr.store import checksums, layout
from romzarr.store.codec import WaveletCodec
from romzarr.store.layout import ArrayLayout
from romzarr.store.reading.fields import prefixed_errors
from romzarr.store.reading.indexing import OutOfRangeError
from romzarr.store.reading.tile_cache import Sized, TileCache

T = TypeVar("T", bound=Sized)

# Files fetched side by side to be checked.
_FETCHED = 32


@contextmanager
def as_store_errors(what: str) -> Iterator[None]:
    """Begin with `what` whatever goes wrong, which it may in any way: content may mean harm.

    Raises
    ------
    StoreError
        In place of any error but that of an index that was asked for.
    ResourceError
        If the system is at its limits, which is not the store's fault.
    """
    try:
        yield
    except (StoreError, StorageError, ResourceError, OutOfRangeError):
        raise
    except MemoryError as error:
        raise StoreError(f"{what}: it takes more memory than there is; ask for less") from error
    except Exception as error:
        refuse_blame(error)
        raise StoreError(f"{what}: {error or type(error).__name__}") from error


@dataclass(frozen=True)
class StoredArrays:
    """The arrays of a generation.

    Attributes
    ----------
    url, generation : str
        The store, and the generation of it.
    layouts : mapping of str to ArrayLayout
    group : zarr.Group
        The generation; its arrays are read through `CheckedStore`.
    tiles : TileMemory
        What was decoded before; several generations may share it.
    """

    url: str
    generation: str
    layouts: Mapping[str, ArrayLayout] = field(repr=False)
    group: zarr.Group = field(repr=False)
    tiles: TileCache = field(repr=False, compare=False)

    def __contains__(self, path: str) -> bool:
        return path in self.layouts

    def chunk(self, path: str) -> tuple[int, ...]:
        return self.layouts[path].chunk

    def read(self, path: str, rows: slice = slice(None)) -> NDArray[Any]:
        """Array `path` of the generation, or some of its rows.

        Raises
        ------
        StoreError
            If a chunk is missing or damaged.
        """
        return self.selected(path, (rows,) if self.layouts[path].shape else ())

    def check_files(self) -> None:
        """Read every file of the generation, also those that decoding has no use for.

        Raises
        ------
        StoreError
            Naming the first that is missing or damaged.
        """
        for path, array in self.layouts.items():
            # One after the other: there may be far fewer than are said.
            chunks = grid(array.shape, array.chunk)
            places = (
                tuple(map(int, np.unravel_index(n, chunks))) for n in range(math.prod(chunks))
            )
            keys = map(self._array(path).metadata.encode_chunk_key, places)
            while some := list(islice(keys, _FETCHED)):
                with self._reading(path):
                    sync(_fetched(self.group.store, [layout.joined(path, key) for key in some]))
        place = layout.joined(self.url, self.generation)
        for group in layout.groups_of(self.layouts):
            where = layout.joined(place, group, layout.ROOT)
            try:
                layout.check_group(layout.read_bytes(where), where)
            except FileNotFoundError as error:
                raise StoreError(f"{where}: is missing; the store is damaged") from error

    def _array(self, path: str) -> zarr.Array[Any]:
        array = self.group[path]
        if not isinstance(array, zarr.Array):
            raise StoreError(f"{self.url}: {path} is not an array")
        return array

    def selected(self, path: str, selection: Region) -> NDArray[Any]:
        """A region of an array."""
        array = self._array(path)
        with self._reading(path):
            return np.asarray(array[selection or ...])

    def _reading(self, path: str) -> AbstractContextManager[None]:
        return as_store_errors(f"{self.url}: array {path} cannot be read")

    def finite(self, path: str, rows: slice = slice(None)) -> NDArray[Any]:
        """As `read`; NaN and infinities are damage."""
        values = self.read(path, rows)
        _check_finite(values, f"{self.url}: {path}")
        return values

    def cached(self, key: tuple[Any, ...], decode: Callable[[], T]) -> T:
        """What is remembered under `key`, else what `decode` returns."""
        return self.tiles.get((self.generation, *key), decode)

    def rows(self, path: str, start: int, stop: int) -> NDArray[np.float64]:
        """Rows of a coded table."""
        length, columns = self.layouts[path].chunk
        if start >= stop:
            return np.zeros((0, columns))
        first = start // length
        chunks = [
            self.cached((path, number), partial(self.decoded, path, (number, 0)))
            for number in range(first, -(-stop // length))
        ]
        rows: NDArray[np.float64] = np.concatenate(chunks)
        return rows[start - first * length : stop - first * length]

    def decoded(self, path: str, index: tuple[int, ...]) -> Floats:
        """One chunk of a coded array, cut off where the array ends."""
        array, coefficients = self.layouts[path], self.coefficients(path, index)
        with prefixed_errors(f"{self.url}: array {path} cannot be read"):
            values = coefficients.array()
        region = region_of(index, array.shape, array.chunk)
        values = values[tuple(slice(0, part.stop - part.start) for part in region)]
        values.flags.writeable = False
        return values

    def codec(self, path: str) -> WaveletCodec:
        """What codes the chunks of a coded array."""
        # What was opened is of Zarr's third format, and coded by our codec first of all.
        metadata: Any = self._array(path).metadata
        codec: WaveletCodec = metadata.codecs[0]
        return codec

    def coefficients(self, path: str, index: tuple[int, ...]) -> Coefficients:
        """What one chunk of a coded array says."""
        array, codec = self._array(path), self.codec(path)
        key = layout.joined(path, array.metadata.encode_chunk_key(index))
        with self._reading(path):
            content: Any = sync(self.group.store.get(key, default_buffer_prototype()))
            # The checksum at its end was right.
            payload = content.to_bytes()[: -checksums.SIZE]
            with prefixed_errors(f"{self.url}: array {path} cannot be read"):
                return codec.coefficients(payload, self.layouts[path].chunk, array.dtype)


async def _fetched(store: Any, keys: Sequence[str]) -> None:
    """Fetch files side by side; a `CheckedStore` checks them."""
    await asyncio.gather(*(store.get(key, default_buffer_prototype()) for key in keys))


def _check_finite(values: Floats, where: str) -> None:
    # A sum is not finite where a value is not, and needs no array of its own. It may overflow.
    with np.errstate(over="ignore", invalid="ignore"):
        suspicious = not np.isfinite(values.sum())
    if suspicious and not np.isfinite(values).all():
        raise StoreError(f"{where} holds NaN or infinity; the store is damaged")

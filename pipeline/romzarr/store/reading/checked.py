"""A Zarr store that checks every chunk."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import WrapperStore

from romzarr.errors import StoreError
from romzarr.store import checksums, layout
from romzarr.store.layout import ArrayLayout
from romzarr.store.limits import check_blosc

# Chunks kept that nobody has asked for yet.
_MOST_AHEAD = 64


class CheckedStore(WrapperStore[Store]):
    """Zarr store that refuses missing chunks, damaged chunks and chunks of a wrong size.

    Zarr itself reads a missing chunk as zeros, and codecs trust the size that a chunk claims.
    Pickles contain neither open files nor credentials: every process uses its own.

    Parameters
    ----------
    url : str
        The generation.
    arrays : mapping of str to ArrayLayout
        The layout of each array, by path.
    metadata : bytes, optional
        Consolidated metadata that were checked.
    inline : mapping of str to bytes, optional
        Chunks that are not files, by key (`romzarr.store.inline`).
    """

    def __init__(
        self,
        url: str,
        arrays: Mapping[str, ArrayLayout],
        metadata: bytes | None = None,
        inline: Mapping[str, bytes] | None = None,
    ) -> None:
        super().__init__(layout.zarr_store(url))
        self.url, self.arrays, self._metadata = url, arrays, metadata
        self._inline = inline or {}
        self.generation = url.rpartition("/")[2]
        self._ahead: dict[str, Buffer] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return CheckedStore, (self.url, self.arrays, None, self._inline)

    def _with_store(self, store: Store) -> CheckedStore:
        return CheckedStore(self.url, self.arrays, self._metadata, self._inline)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        if key == layout.ROOT and self._metadata is not None:
            return prototype.buffer.from_bytes(self._metadata)
        if key in self._inline:
            return prototype.buffer.from_bytes(self._inline[key])
        if byte_range is None and (ahead := self._ahead.pop(key, None)) is not None:
            return ahead
        chunk = await _found(self._store, key, prototype, byte_range)
        if chunk is None and checksums.array_of(key):
            root = await _found(layout.zarr_store(self._above), layout.ROOT, prototype)
            raise self._missing(key, None if root is None else root.to_bytes())
        return self._checked(key, chunk)

    def get_sync(
        self,
        key: str,
        *,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        # Only zarr >= 3.2 has and calls this method.
        if key in self._inline:
            return (prototype or default_buffer_prototype()).buffer.from_bytes(self._inline[key])
        if byte_range is None and (ahead := self._ahead.pop(key, None)) is not None:
            return ahead
        store: Any = self._store
        chunk = store.get_sync(key, prototype=prototype, byte_range=byte_range)
        if chunk is None and checksums.array_of(key):
            raise self._missing(key, layout.read_root(self._above))
        return self._checked(key, chunk)

    def fetch_ahead(self, keys: Iterable[str]) -> None:
        """Fetch chunks concurrently, each for the next that asks for it; local ones are near."""
        wanted = [key for key in keys if key not in self._inline]
        if not layout.is_local(self.url) and len(wanted) > 1:
            sync(self._fetch_ahead(wanted))

    async def _fetch_ahead(self, keys: Sequence[str]) -> None:
        fetched = (_found(self._store, key, default_buffer_prototype()) for key in keys)
        # Whoever asks for what failed is told why.
        found = await asyncio.gather(*fetched, return_exceptions=True)
        for key, chunk in zip(keys, found, strict=True):
            if isinstance(chunk, Buffer):
                self._ahead[key] = self._checked(key, chunk) or chunk
        for key in list(self._ahead)[:-_MOST_AHEAD]:
            self._ahead.pop(key, None)

    @property
    def _above(self) -> str:
        """The URL of the store with this generation."""
        return self.url.rpartition("/")[0]

    def _missing(self, key: str, root: bytes | None) -> StoreError:
        where = layout.joined(self.url, key)
        return layout.missing(self._above, self.generation, where, root)

    def _checked(self, key: str, chunk: Buffer | None) -> Buffer | None:
        path = checksums.array_of(key)
        if path is None or chunk is None:
            return chunk
        where = layout.joined(self.url, key)
        place = layout.joined(self.generation, key)
        payload = checksums.payload_of(chunk.to_bytes(), place, where)
        array = self.arrays[path]
        if array.compressed:
            check_blosc(payload, array.packed_bytes, where)
        elif not array.coded and len(payload) != array.chunk_bytes:
            raise StoreError(f"{where}: chunk has {len(payload)} bytes, not {array.chunk_bytes}")
        return chunk


async def _found(
    store: Store, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
) -> Buffer | None:
    """Read the value of a key; None if it is missing."""
    try:
        return await store.get(key, prototype, byte_range)
    except FileNotFoundError:
        # Zarr cannot open a missing folder.
        return None

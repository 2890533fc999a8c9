"""A Zarr store that caches metadata."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore

from romzarr.objects import is_document


class CachedMetadataStore(WrapperStore[Store]):
    """Zarr store that caches metadata documents, including missing ones, and lists of names.

    zarr and xarray both open a group, and both look for either version of the format.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._documents: dict[str, Buffer | None] = {}
        self._names: dict[str, list[str]] = {}

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        if not is_document(key) or byte_range is not None:
            return await self._store.get(key, prototype, byte_range)
        if key not in self._documents:
            self._documents[key] = await self._store.get(key, prototype)
        return self._documents[key]

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        if prefix not in self._names:
            self._names[prefix] = [name async for name in self._store.list_dir(prefix)]
        for name in self._names[prefix]:
            yield name

    async def _get_many(self, requests: Any) -> Any:
        for key, prototype, byte_range in requests:
            yield key, await self.get(key, prototype, byte_range)

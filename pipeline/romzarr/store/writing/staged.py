"""A Zarr store under construction, whose metadata stay in memory until they are complete.

Zarr checks for existing arrays and reads and writes parent groups for every new array: on object
storage, these were most of the requests for a small store.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync

from romzarr.objects import is_document
from romzarr.store.checksums import SealingStore
from romzarr.store.layout import ROOT


class StagedStore(SealingStore):
    """Zarr store at a new location in which nobody else creates arrays.

    Metadata documents are kept in memory; the one that is written has them all (`put_metadata`).
    Chunks, which other processes write as well, go directly to the store. A path without documents
    is empty.

    Parameters
    ----------
    store : Store
    generation : str
        As of `SealingStore`.
    other : StagedStore, optional
        Another view of the same location, which shares its documents.
    """

    def __init__(self, store: Store, generation: str, other: StagedStore | None = None) -> None:
        super().__init__(store, generation)
        self._documents: dict[str, Buffer] = other._documents if other else {}
        self._held: dict[str, Buffer] = other._held if other else {}
        self._holding: list[str] = other._holding if other else []

    def _with_store(self, store: Store) -> StagedStore:
        return StagedStore(store, self.generation, self)

    @property
    def documents(self) -> Mapping[str, bytes]:
        """Metadata documents by their keys."""
        return {key: document.to_bytes() for key, document in self._documents.items()}

    def put_metadata(self, content: bytes) -> None:
        """Write the metadata document of the generation, which has those of all arrays."""
        sync(self._store.set(ROOT, default_buffer_prototype().buffer.from_bytes(content)))

    @contextlib.contextmanager
    def holding(self, folder: str) -> Iterator[dict[str, Buffer]]:
        """Keep first chunks below a folder, which this process writes meanwhile, in memory.

        Yields what was kept, by key; at the end, what is still there is written.
        """
        self._holding.append(_folder(folder))
        try:
            yield self._held
        finally:
            self._holding.clear()
        for key, chunk in self._held.items():
            sync(self.set(key, chunk))
        self._held.clear()

    def _keeps(self, key: str) -> bool:
        return key.endswith(("/c", "/c/0")) and any(map(key.startswith, self._holding))

    def _holds(self, prefix: str) -> bool:
        """Tell whether there may be something below a path."""
        return any(key.startswith(_folder(prefix)) for key in self._documents)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        if is_document(key):
            return self._documents.get(key)
        return await self._store.get(key, prototype, byte_range)

    async def _get_many(self, requests: Any) -> Any:
        for key, prototype, byte_range in requests:
            yield key, await self.get(key, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        return key in self._documents if is_document(key) else await self._store.exists(key)

    async def set(self, key: str, value: Buffer) -> None:
        if is_document(key):
            self._documents[key] = value
        elif self._keeps(key):
            self._held[key] = value
        else:
            await super().set(key, value)

    def set_sync(self, key: str, value: Buffer) -> None:
        if is_document(key):
            self._documents[key] = value
        elif self._keeps(key):
            self._held[key] = value
        else:
            super().set_sync(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        if not is_document(key):
            await super().set_if_not_exists(key, value)
        elif key not in self._documents:
            self._documents[key] = value

    async def delete(self, key: str) -> None:
        if is_document(key):
            self._documents.pop(key, None)
        else:
            await self._store.delete(key)

    async def delete_dir(self, prefix: str) -> None:
        if self._holds(prefix):
            for key in [key for key in self._documents if key.startswith(_folder(prefix))]:
                del self._documents[key]
            await self._store.delete_dir(prefix)

    async def is_empty(self, prefix: str) -> bool:
        return not self._holds(prefix)

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        for key in [key for key in self._documents if key.startswith(prefix)]:
            yield key
        if self._holds(prefix):
            async for key in self._store.list_prefix(prefix):
                if not is_document(key):
                    yield key

    async def list(self) -> AsyncIterator[str]:
        async for key in self.list_prefix(""):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        # Everything directly below is or has a document, except chunks, which are not listed.
        folder = _folder(prefix)
        names = (key[len(folder) :] for key in self._documents if key.startswith(folder))
        for name in sorted({name.partition("/")[0] for name in names}):
            yield name


def _folder(prefix: str) -> str:
    return f"{prefix.rstrip('/')}/" if prefix.strip("/") else ""

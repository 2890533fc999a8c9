"""A Zarr store under construction, whose metadata stay in memory until they are complete.

Zarr checks for existing arrays and reads and writes parent groups for every new array: on object
storage, these were most of the requests for a small store.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from romzarr.objects import is_document
from romzarr.store.checksums import SealingStore
from romzarr.store.inline import chunk_bytes, chunk_place, inlined, inlined_chunk, is_one_chunk
from romzarr.store.layout import ROOT


class StagedStore(SealingStore):
    """Zarr store at a new location in which nobody else creates arrays.

    Metadata documents are kept in memory; the one that is written has them all (`put_metadata`).
    So are small arrays that will be facts (``inline``, by path). Chunks, which other processes
    write as well, go directly to the store. A path without documents is empty.

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
        self.inline: dict[str, Any] = other.inline if other else {}

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

    def put_inline(self, path: str, held: dict[str, Buffer]) -> None:
        """Move an array among the facts (`romzarr.store.inline`), if that makes it smaller.

        Parameters
        ----------
        path : str
        held : dict
            What `holding` yields, from which its chunk is taken.
        """
        document = self._documents[f"{path}/{ROOT}"]
        metadata = json.loads(document.to_bytes())
        place = chunk_place(metadata)
        chunk = held.get(f"{path}/{place}")
        if chunk is None or not is_one_chunk(metadata):
            return
        alone = MemoryStore({ROOT: document, place: chunk})
        values = np.asarray(zarr.open_array(alone, mode="r")[...])
        entry = inlined(metadata, values, len(chunk)) or inlined_chunk(metadata, chunk.to_bytes())
        if entry:
            del held[f"{path}/{place}"]
            self._move(path, entry)

    def put_inline_chunk(self, path: str) -> None:
        """Move an array of codes whose chunk was written among the facts, if that is smaller."""
        metadata = json.loads(self._documents[f"{path}/{ROOT}"].to_bytes())
        key = f"{path}/{chunk_place(metadata)}"
        if not is_one_chunk(metadata) or chunk_bytes(sync(self._store.getsize(key))) == math.inf:
            return
        chunk = sync(self._store.get(key, default_buffer_prototype()))
        if chunk is not None and (entry := inlined_chunk(metadata, chunk.to_bytes())):
            # With the folders around it.
            sync(self._store.delete_dir(path))
            self._move(path, entry)

    def _move(self, path: str, entry: dict[str, Any]) -> None:
        del self._documents[f"{path}/{ROOT}"]
        self.inline[path] = entry

    def _put_document(self, key: str, document: Buffer) -> None:
        self._documents[key] = document
        self.inline.pop(key.removesuffix(f"/{ROOT}"), None)

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
            self._put_document(key, value)
        elif self._keeps(key):
            self._held[key] = value
        else:
            await super().set(key, value)

    def set_sync(self, key: str, value: Buffer) -> None:
        if is_document(key):
            self._put_document(key, value)
        elif self._keeps(key):
            self._held[key] = value
        else:
            super().set_sync(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        if not is_document(key):
            await super().set_if_not_exists(key, value)
        elif key not in self._documents:
            self._put_document(key, value)

    async def delete(self, key: str) -> None:
        if is_document(key):
            self._documents.pop(key, None)
        else:
            await self._store.delete(key)

    async def delete_dir(self, prefix: str) -> None:
        for path in [path for path in self.inline if _folder(path).startswith(_folder(prefix))]:
            del self.inline[path]
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

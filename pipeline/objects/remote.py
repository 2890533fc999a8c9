"""Zarr stores at URLs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, ObjectStore

from pipeline.errors import StorageError
from pipeline.objects import requests
from pipeline.objects.requests import (
    asked,
    connection,
    is_object_store,
    is_passing,
    pause,
    told,
)

# Names of metadata in either version of the format.
_DOCUMENTS = frozenset({"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"})


class RemoteStore(ObjectStore[Any]):
    """Zarr store in object storage that asks again; pickles hold its URL and no credentials."""

    def __init__(self, url: str, read_only: bool = False) -> None:
        super().__init__(connection(url), read_only=read_only)
        self.url = url

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteStore, (self.url, self.read_only)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteStore) and other.__reduce__() == self.__reduce__()

    def __str__(self) -> str:
        return self.url

    def with_read_only(self, read_only: bool = False) -> Any:
        return RemoteStore(self.url, read_only)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        ask = super().get
        return await asked(f"{self.url}/{key}", lambda: ask(key, prototype, byte_range))

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        ask, ranges = super().get_partial_values, list(key_ranges)
        return await asked(self.url, lambda: ask(prototype, ranges))

    async def exists(self, key: str) -> bool:
        ask = super().exists
        return await asked(f"{self.url}/{key}", lambda: ask(key))

    async def set(self, key: str, value: Buffer) -> None:
        ask = super().set
        await asked(f"{self.url}/{key}", lambda: ask(key, value))

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        ask = super().set_if_not_exists
        await asked(f"{self.url}/{key}", lambda: ask(key, value))

    async def delete(self, key: str) -> None:
        ask = super().delete
        await asked(f"{self.url}/{key}", lambda: ask(key))

    async def getsize(self, key: str) -> int:
        ask = super().getsize
        return await asked(f"{self.url}/{key}", lambda: ask(key))

    async def listed(
        self, prefix: str | None = None, after: str | None = None
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """What storage knows of each object below `prefix`, from one on, page by page."""
        last = after
        failures = 0
        with told(self.url):
            while True:
                try:
                    async for batch in self.store.list(prefix, offset=last):
                        for item in batch:
                            yield item
                            last = item["path"]
                    return
                except Exception as error:
                    failures += 1
                    if not is_passing(error) or failures == requests.TRIES:
                        raise
                await pause(failures)

    async def list(self) -> AsyncGenerator[str, None]:
        async for each in self.listed():
            yield each["path"]

    async def list_prefix(self, prefix: str) -> AsyncGenerator[str, None]:
        async for each in self.listed(prefix):
            yield each["path"]

    async def list_dir(self, prefix: str) -> AsyncGenerator[str, None]:
        found = await asked(self.url, lambda: self.store.list_with_delimiter_async(prefix))
        for path in (*found["common_prefixes"], *(each["path"] for each in found["objects"])):
            yield path.rstrip("/").rpartition("/")[2]

    async def getsize_prefix(self, prefix: str) -> int:
        return sum([each["size"] async for each in self.listed(prefix)])


def is_document(key: str) -> bool:
    """Whether a key of a Zarr store is one of metadata."""
    return key.rpartition("/")[2] in _DOCUMENTS


def zarr_store(url: str, read_only: bool) -> Store:
    """Zarr store at `url`.

    Raises
    ------
    StorageError
        If nothing installed knows this kind of URL.
    """
    if is_object_store(url):
        return RemoteStore(url, read_only)
    try:
        return FsspecStore.from_url(url, read_only=read_only)
    except (ImportError, ValueError) as error:
        raise StorageError(f"{url}: no access to this kind of URL: {error}") from error

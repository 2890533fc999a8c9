"""Zarr stores at URLs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable, Mapping
from functools import partial
from typing import Any

from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, ObjectStore

from romzarr.errors import StorageError
from romzarr.objects import requests
from romzarr.objects.cache import cached, written
from romzarr.objects.requests import (
    connection,
    is_object_store,
    is_passing,
    pause,
    storage_errors,
    with_retries,
)
from romzarr.objects.threads import in_thread

# Names of metadata documents in either version of the format.
_DOCUMENTS = frozenset({"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"})


class RemoteStore(ObjectStore[Any]):
    """Zarr store in object storage with retries; pickles contain the URL and no credentials."""

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
        url = f"{self.url}/{key}"

        async def found() -> Any:
            with contextlib.suppress(FileNotFoundError):
                return await with_retries(url, lambda: _content(self.store, key, byte_range))

        content = await (cached(url, found) if byte_range is None else found())
        return None if content is None else prototype.buffer.from_bytes(content)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return await asyncio.gather(*(self.get(key, prototype, each) for key, each in key_ranges))

    async def exists(self, key: str) -> bool:
        try:
            await self.getsize(key)
        except FileNotFoundError:
            return False
        return True

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()
        content, url = value.as_buffer_like(), f"{self.url}/{key}"
        done = await with_retries(url, lambda: self.store.put(key, content))
        written(url, content, done["e_tag"])

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        from obstore.exceptions import AlreadyExistsError

        self._check_writable()
        content = value.as_buffer_like()
        with contextlib.suppress(AlreadyExistsError):
            await with_retries(
                f"{self.url}/{key}", lambda: self.store.put(key, content, mode="create")
            )

    async def delete(self, key: str) -> None:
        self._check_writable()
        # S3 ignores missing objects; other services do not.
        with contextlib.suppress(FileNotFoundError):
            await with_retries(f"{self.url}/{key}", lambda: self.store.delete(key))

    async def delete_dir(self, prefix: str) -> None:
        self._check_writable()
        keys = [key async for key in self.list_prefix(f"{prefix.rstrip('/')}/" if prefix else "")]
        await asyncio.gather(*(self.delete(key) for key in keys))

    async def getsize(self, key: str) -> int:
        found = await with_retries(f"{self.url}/{key}", lambda: self.store.head(key))
        return int(found["size"])

    async def listed(
        self, prefix: str | None = None, after: str | None = None
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """Describe each object below `prefix`, starting after key `after`, page by page."""
        last = after
        failures = 0
        with storage_errors(self.url):
            while True:
                pages = iter(self.store.list(prefix, offset=last))
                try:
                    while (page := await in_thread(partial(next, pages, None))) is not None:
                        for item in page:
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
        async def found() -> Any:
            return await with_retries(self.url, lambda: self.store.list_with_delimiter(prefix))

        entries = await cached(f"{self.url}/{prefix}".rstrip("/") + "/", found)
        for path in (*entries["common_prefixes"], *(each["path"] for each in entries["objects"])):
            yield path.rstrip("/").rpartition("/")[2]

    async def getsize_prefix(self, prefix: str) -> int:
        return sum([each["size"] async for each in self.listed(prefix)])


def _content(store: Any, key: str, wanted: ByteRequest | None) -> Any:
    """Read an object or a part of it."""
    if isinstance(wanted, RangeByteRequest):
        return store.get_range(key, start=wanted.start, end=wanted.end)
    if isinstance(wanted, OffsetByteRequest):
        return store.get(key, options={"range": {"offset": wanted.offset}}).bytes()
    if isinstance(wanted, SuffixByteRequest):
        return _end(store, key, wanted.suffix)
    return store.get(key).bytes()


def _end(store: Any, key: str, length: int) -> Any:
    """Read the last bytes of an object."""
    from obstore.exceptions import NotSupportedError

    try:
        return store.get(key, options={"range": {"suffix": length}}).bytes()
    except NotSupportedError:  # Azure does not support suffix requests
        size = store.head(key)["size"]
        return store.get_range(key, start=max(0, size - length), end=size)


def is_document(key: str) -> bool:
    """Tell whether a key of a Zarr store is a metadata document."""
    return key.rpartition("/")[2] in _DOCUMENTS


def zarr_store(url: str, read_only: bool) -> Store:
    """Open the Zarr store at `url`.

    Raises
    ------
    StorageError
        If no installed package supports this kind of URL.
    """
    if is_object_store(url):
        return RemoteStore(url, read_only)
    try:
        return FsspecStore.from_url(url, read_only=read_only)
    except (ImportError, ValueError) as error:
        raise StorageError(f"{url}: this kind of URL is not supported: {error}") from error

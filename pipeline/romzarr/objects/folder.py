"""Files below a URL or path: reading, listing, removal and atomic replacement."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from zarr.core.sync import collect_aiterator, sync

from romzarr.objects.cache import cached
from romzarr.objects.listing import listed
from romzarr.objects.remote import RemoteStore
from romzarr.objects.requests import file_system_of, is_object_store, with_retries


class Stored(NamedTuple):
    """Content of a file, and its version if the storage has versions."""

    content: bytes
    version: Mapping[str, str] | None


class Folder(Protocol):
    """Files below a URL, addressed by relative paths."""

    def read(self, path: str, limit: int) -> Stored:
        """Read a file, at most one byte more than `limit`; raise FileNotFoundError if missing."""
        ...

    def names(self) -> set[str]:
        """List the direct children."""
        ...

    def files(self, path: str = "") -> dict[str, Mapping[str, Any]]:
        """List every file below `path` with its ``size`` in bytes and other properties.

        If the URL is that of a file, this is the only entry, with an empty path.
        """
        ...

    def write(self, path: str, content: bytes) -> None:
        """Write a file, replacing any other."""
        ...

    def remove(self, path: str) -> None:
        """Remove everything below `path`."""
        ...

    def replace(self, path: str, content: bytes, version: Mapping[str, str] | None) -> bool:
        """Write a file if it still has this `version` (None: if it does not exist), atomically.

        Returns whether it was written.
        """
        ...


def folder(url: str) -> Folder:
    """Return the folder at a URL or path."""
    return ObjectFolder(url) if is_object_store(url) else FsspecFolder(url)


class ObjectFolder:
    """A prefix in object storage."""

    def __init__(self, url: str) -> None:
        self._url, self._zarr = url, RemoteStore(url)

    def read(self, path: str, limit: int) -> Stored:
        store, url = self._zarr.store, f"{self._url}/{path}"
        version: dict[str, str] = {}

        def request() -> bytes:
            found = store.get(path)
            version.update({k: found.meta[k] for k in ("e_tag", "version") if found.meta[k]})
            if found.meta["size"] > limit:
                return bytes(store.get_range(path, start=0, end=limit + 1))
            return bytes(found.bytes())

        content = sync(cached(url, lambda: with_retries(url, request)))
        if content is None:
            raise FileNotFoundError(url)
        return Stored(bytes(content), version or None)

    def names(self) -> set[str]:
        return set(collect_aiterator(self._zarr.list_dir("")))

    def files(self, path: str = "") -> dict[str, Mapping[str, Any]]:
        found: dict[str, Mapping[str, Any]] = sync(listed(self._zarr, path))
        return found if found or path else self._itself()

    def _itself(self) -> dict[str, Mapping[str, Any]]:
        place, _, name = self._url.rpartition("/")
        if not urlsplit(place).netloc:
            return {}
        above = RemoteStore(place).store
        try:
            return {"": sync(with_retries(self._url, lambda: above.head(name)))}
        except FileNotFoundError:
            return {}

    def write(self, path: str, content: bytes) -> None:
        store = self._zarr.store
        sync(with_retries(f"{self._url}/{path}", lambda: store.put(path, content)))

    def remove(self, path: str) -> None:
        paths = list(self.files(path))
        if paths:
            sync(with_retries(self._url, lambda: self._zarr.store.delete(paths)))

    def replace(self, path: str, content: bytes, version: Mapping[str, str] | None) -> bool:
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        condition: Any = "create" if version is None else version
        store, where = self._zarr.store, f"{self._url}/{path}"
        try:
            sync(with_retries(where, lambda: store.put(path, content, mode=condition)))
        except (AlreadyExistsError, PreconditionError):
            # An earlier attempt may have written it, and its response was lost.
            with contextlib.suppress(FileNotFoundError):
                return self.read(path, len(content)).content == content
            return False
        return True


class FsspecFolder:
    """A folder of any fsspec file system; its `replace` is unconditional."""

    def __init__(self, url: str) -> None:
        self._fs, self._root = file_system_of(url)

    def read(self, path: str, limit: int) -> Stored:
        with self._fs.open(f"{self._root}/{path}", "rb") as file:
            return Stored(file.read(limit + 1), None)

    def names(self) -> set[str]:
        self._fs.invalidate_cache()
        try:
            entries = self._fs.ls(self._root, detail=False)
        except FileNotFoundError:
            return set()
        return {str(entry).rstrip("/").rpartition("/")[2] for entry in entries}

    def files(self, path: str = "") -> dict[str, Mapping[str, Any]]:
        self._fs.invalidate_cache()
        found = self._fs.find(f"{self._root}/{path}".rstrip("/"), detail=True)
        return {name.removeprefix(self._root).lstrip("/"): each for name, each in found.items()}

    def write(self, path: str, content: bytes) -> None:
        self._fs.pipe_file(f"{self._root}/{path}", content)

    def remove(self, path: str) -> None:
        self._fs.invalidate_cache()
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm(f"{self._root}/{path}", recursive=True)

    def replace(self, path: str, content: bytes, version: Mapping[str, str] | None) -> bool:
        self.write(path, content)
        return True

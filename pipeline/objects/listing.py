"""Every file below a URL with its version, from listings alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from zarr.core.sync import collect_aiterator, sync

from pipeline.objects.remote import RemoteStore
from pipeline.objects.requests import asked, connection, is_object_store, located

# What file systems of fsspec call the version of a file, and the time when it was written.
_VERSIONS = ("ETag", "etag", "md5Hash")
_TIMES = ("LastModified", "last_modified", "updated", "mtime", "created")


class StoredFile(NamedTuple):
    """A file below a place: its path there (empty if it is the place itself), its size in bytes,
    what changes when it is written, and when it was, in seconds since 1970."""

    path: str
    nbytes: int
    version: str
    written: float


def listed(url: str) -> Iterator[StoredFile]:
    """Every file at or below `url`, in no order; none where there is nothing.

    Raises
    ------
    StorageError, OSError
        If the place cannot be listed.
    """
    return _objects(url) if is_object_store(url) else _files(url)


def _objects(url: str) -> Iterator[StoredFile]:
    found = collect_aiterator(RemoteStore(url, read_only=True).entries())
    if found:
        return (_object(entry["path"], entry) for entry in found)
    # A prefix has nothing below it where the URL is that of one object.
    parent, _, name = url.rpartition("/")
    try:
        alone = sync(asked(url, lambda: connection(parent).head_async(name)))
    except FileNotFoundError:
        return iter(())
    return iter((_object("", alone),))


def _object(path: str, facts: Mapping[str, Any]) -> StoredFile:
    written = facts["last_modified"]
    return StoredFile(path, facts["size"], facts["e_tag"] or str(written), written.timestamp())


def _files(url: str) -> Iterator[StoredFile]:
    system, root = located(url)
    system.invalidate_cache()
    for key, facts in system.find(root, detail=True).items():
        when = next((facts[name] for name in _TIMES if facts.get(name)), 0.0)
        version = next((str(facts[name]) for name in _VERSIONS if facts.get(name)), str(when))
        path = key.removeprefix(root).lstrip("/")
        yield StoredFile(path, int(facts.get("size") or 0), version, _seconds(when))


def _seconds(when: Any) -> float:
    if isinstance(when, str):
        when = datetime.fromisoformat(when)
    return when.timestamp() if isinstance(when, datetime) else float(when)

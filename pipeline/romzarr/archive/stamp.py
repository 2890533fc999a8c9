"""Whether an archive is still what it was: a digest over its files, none of which is opened.

The fingerprint of an archive follows what it holds, and a copy has the same. A stamp follows
its files: names, sizes and when each was written (object stores: ETags). One listing gives it,
for 10^6 chunks in seconds, so it is what tells a nightly run that there is nothing to do, and
tells `compress` that somebody wrote into an archive while it was read.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from romzarr import objects
from romzarr.archive.location import is_url, redacted
from romzarr.archive.provider import digest_of
from romzarr.errors import ArchiveError, StorageError

# Web servers list nothing that could be trusted.
_UNLISTED = frozenset({"http", "https"})
# What obstore and file systems of fsspec call the version of an object, and when it was written.
_VERSIONS = ("e_tag", "ETag", "etag", "md5Hash", "generation")
_TIMES = ("LastModified", "last_modified", "updated", "mtime", "created")


class StoredFile(NamedTuple):
    """A file below an archive: its path there (empty if it is the archive itself), its size in
    bytes, what changes when it is written, and when it was, in seconds since 1970."""

    path: str
    nbytes: int
    version: str
    written: float


def files_of(location: str) -> Iterator[StoredFile]:
    """Every file of the archive at a path or URL, in no order; opens none.

    Raises
    ------
    OSError
        If the place cannot be listed.
    ImportError
        If nothing installed knows this kind of URL.
    """
    return _remote_files(location) if is_url(location) else _local_files(location)


def stamp_of_files(files: Iterable[StoredFile]) -> str:
    """The stamp of an archive that has these files, in whatever order."""
    return digest_of(f"{f.path}\0{f.nbytes}\0{f.version}" for f in sorted(files))


def stamp_of(location: str) -> str:
    """The stamp of the archive at a path or URL; empty where files cannot be listed (http)."""
    if is_url(location) and urlsplit(location).scheme in _UNLISTED:
        return ""
    try:
        return stamp_of_files(files_of(location))
    except StorageError:
        raise
    except (OSError, ImportError, NotImplementedError) as error:
        raise ArchiveError(
            f"archive {redacted(location)!r} cannot be listed ({type(error).__name__}: {error}); "
            "check that it is there, and who may read it"
        ) from error


def refuse_changed(location: str, stamp: str) -> None:
    """Raise if the archive at `location` has another stamp than it had.

    Raises
    ------
    ArchiveError
    """
    if not stamp or stamp_of(location) == stamp:
        return
    newest = max(files_of(location), key=lambda file: file.written, default=None)
    written = f"; last written was {_described(newest)}" if newest else ""
    raise ArchiveError(
        f"archive {redacted(location)!r} changed while it was read{written}. Nothing was stored; "
        "wait until whoever writes there has finished, then run this again"
    )


@contextmanager
def unchanging(location: str, stamp: str) -> Iterator[None]:
    """Refuse what was made of an archive, if that changed meanwhile.

    A chunk that is being written may fail to decode, and what was read may be of two versions:
    in either case the change is what is to be told.

    Raises
    ------
    ArchiveError
        At the end of the context, whether that succeeded or not.
    """
    try:
        yield
    except Exception as error:
        try:
            refuse_changed(location, stamp)
        except ArchiveError as changed:
            raise changed from error
        raise
    refuse_changed(location, stamp)


def _described(file: StoredFile) -> str:
    name = f"{file.path!r} " if file.path else ""
    return f"{name}at {datetime.fromtimestamp(file.written, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _local_files(location: str) -> Iterator[StoredFile]:
    if not os.path.isdir(location):
        yield _local_file(location, "")
        return
    for folder, _, names in os.walk(location):
        inside = os.path.relpath(folder, location).replace(os.sep, "/")
        prefix = "" if inside == "." else f"{inside}/"
        for name in names:
            try:
                yield _local_file(os.path.join(folder, name), prefix + name)
            except FileNotFoundError:  # just removed, or a link to nothing
                yield StoredFile(prefix + name, 0, "gone", 0.0)


def _local_file(path: str, name: str) -> StoredFile:
    state = os.stat(path)
    if not stat.S_ISREG(state.st_mode):
        # To open a pipe waits for who writes to it, and a device may have no end.
        raise OSError(errno.EINVAL, "is no regular file", path)
    return StoredFile(name, state.st_size, str(state.st_mtime_ns), state.st_mtime)


def _remote_files(location: str) -> Iterator[StoredFile]:
    for path, facts in objects.folder(location).files().items():
        yield remote_file(path, facts)


def remote_file(path: str, facts: Mapping[str, Any]) -> StoredFile:
    """An object, by what storage or fsspec says of it."""
    when = next((facts[key] for key in _TIMES if facts.get(key)), 0.0)
    version = next((str(facts[key]) for key in _VERSIONS if facts.get(key)), str(when))
    return StoredFile(path, int(facts.get("size") or 0), version, _seconds(when))


def _seconds(when: Any) -> float:
    if isinstance(when, str):
        when = datetime.fromisoformat(when)
    return when.timestamp() if isinstance(when, datetime) else float(when)

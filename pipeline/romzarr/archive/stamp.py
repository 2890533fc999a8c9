"""The stamp of an archive: a digest of its file names, sizes and modification times (or ETags).

Unlike the fingerprint of an archive, which depends on its content, the stamp of a copy differs. It
takes one listing, some seconds for 10^6 chunks. Nightly runs use it to find out that there is
nothing to do, and `compress` to notice that an archive was written while it was read.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from romzarr import objects
from romzarr.archive.location import is_url, redacted
from romzarr.archive.provider import digest_of
from romzarr.errors import ArchiveError, StorageError

# The version of a file that disappears while it is listed.
GONE = "gone"
# Web servers have no reliable listings.
_UNLISTED = frozenset({"http", "https"})
# Names that obstore and file systems of fsspec use for the version of an object and its time.
_VERSIONS = ("e_tag", "ETag", "etag", "md5Hash", "generation")
_TIMES = ("LastModified", "last_modified", "updated", "mtime", "created")


class StoredFile(NamedTuple):
    """A file of an archive: its path there (empty if it is the archive itself), its size in bytes,
    its version, which changes with every write, and the time of that in seconds since 1970."""

    path: str
    nbytes: int
    version: str
    written: float


def files_of(location: str) -> Iterator[StoredFile]:
    """List the files of the archive at a path or URL, in no particular order.

    Raises
    ------
    OSError
        If the location cannot be listed.
    ImportError
        If no installed package supports this kind of URL.
    """
    return _remote_files(location) if is_url(location) else local_files(location)


def stamp_of_files(files: Iterable[StoredFile]) -> str:
    """Compute the stamp of an archive from its files, in any order."""
    return digest_of(f"{f.path}\0{f.nbytes}\0{f.version}" for f in sorted(files))


def stamp_of(location: str) -> str:
    """Compute the stamp of the archive at a path or URL; empty if files cannot be listed (http)."""
    if is_url(location) and urlsplit(location).scheme in _UNLISTED:
        return ""
    return stamp_of_files(_listed([location]))


def stamp_of_all(locations: Sequence[str]) -> str:
    """Compute the stamp of an archive at several paths or URLs; empty if one has none."""
    if len(locations) == 1:
        return stamp_of(locations[0])
    stamps = [stamp_of(location) for location in locations]
    both = zip(locations, stamps, strict=True)
    return digest_of(f"{place}\0{stamp}" for place, stamp in both) if all(stamps) else ""


def _listed(locations: Sequence[str]) -> list[StoredFile]:
    found: list[StoredFile] = []
    for location in locations:
        try:
            found += files_of(location)
        except StorageError:
            raise
        except (OSError, ImportError, NotImplementedError) as error:
            raise ArchiveError(
                f"archive {redacted(location)!r} cannot be listed ({type(error).__name__}: "
                f"{error}); check that it exists and is readable"
            ) from error
    return found


def refuse_changed(locations: Sequence[str], stamp: str) -> None:
    """Raise if the stamp of the archive at `locations` has changed.

    Raises
    ------
    ArchiveError
    """
    if not stamp or stamp_of_all(locations) == stamp:
        return
    newest = max(_listed(locations), key=lambda file: file.written, default=None)
    written = f" (last write: {_described(newest)})" if newest else ""
    more = f" and {len(locations) - 1} more" if len(locations) > 1 else ""
    raise ArchiveError(
        f"archive {redacted(locations[0])!r}{more} changed while it was read{written}. Nothing was "
        "stored; run the command again when nothing writes to the archive"
    )


@contextmanager
def unchanging(locations: Sequence[str], stamp: str) -> Iterator[None]:
    """Raise at the end of the context if the archive changed meanwhile.

    This replaces other errors: a chunk that is being written may fail to decode.

    Raises
    ------
    ArchiveError
    """
    try:
        yield
    except Exception as error:
        try:
            refuse_changed(locations, stamp)
        except ArchiveError as changed:
            raise changed from error
        raise
    refuse_changed(locations, stamp)


def _described(file: StoredFile) -> str:
    name = f"{file.path!r} " if file.path else ""
    return f"{name}at {datetime.fromtimestamp(file.written, UTC):%Y-%m-%d %H:%M:%S} UTC"


def local_files(location: str) -> Iterator[StoredFile]:
    if not os.path.isdir(location):
        yield _local_file(location, "")
        return
    for folder, _, names in os.walk(location):
        inside = os.path.relpath(folder, location).replace(os.sep, "/")
        prefix = "" if inside == "." else f"{inside}/"
        for name in names:
            try:
                yield _local_file(os.path.join(folder, name), prefix + name)
            except FileNotFoundError:  # just removed, or a broken link
                yield StoredFile(prefix + name, 0, GONE, 0.0)


def _local_file(path: str, name: str) -> StoredFile:
    state = os.stat(path)
    if not stat.S_ISREG(state.st_mode):
        # Opening a pipe waits for a writer, and a device may have no end.
        raise OSError(errno.EINVAL, "is not a regular file", path)
    return StoredFile(name, state.st_size, str(state.st_mtime_ns), state.st_mtime)


def _remote_files(location: str) -> Iterator[StoredFile]:
    for path, facts in objects.folder(location).files().items():
        yield remote_file(path, facts)


def remote_file(path: str, facts: Mapping[str, Any]) -> StoredFile:
    """Convert the description of an object by obstore or fsspec."""
    when = next((facts[key] for key in _TIMES if facts.get(key)), 0.0)
    version = next((str(facts[key]) for key in _VERSIONS if facts.get(key)), str(when))
    return StoredFile(path, int(facts.get("size") or 0), version, _seconds(when))


def _seconds(when: Any) -> float:
    if isinstance(when, str):
        when = datetime.fromisoformat(when)
    return when.timestamp() if isinstance(when, datetime) else float(when)

"""Put a file or folder in its place in one step, the old one whole until then.

A folder that takes the place of another is exchanged with it (renameat2, RENAME_EXCHANGE): at any
moment a reader finds the old one or the new one. Where a file system has no such step (NFS), the
old one is moved aside first, into the staging folder, and nothing is at its place for some
microseconds; whoever is killed there leaves it to the next writer, which moves it back.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from romzarr.errors import StoreExistsError
from romzarr.store import layout
from romzarr.store.staging import (
    OLD,
    claim,
    flush,
    flush_tree,
    give_back,
    make_parents,
    new_token,
    remove_empty,
    remove_staging,
    staging_of,
    sweep_staging,
)

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_UNKNOWN = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)


@contextmanager
def built_aside(path: Path, replaces: Callable[[], bool]) -> Iterator[Path]:
    """Give a path at which to build a file or a folder; it appears at `path` at the end.

    Parameters
    ----------
    path : Path
        Absolute, with links resolved.
    replaces : callable
        Whether something at `path` is to be replaced; raises if it may not be. It is asked
        before the building, and again before the end.

    Raises
    ------
    StoreExistsError
        If somebody else has put something at `path` meanwhile.
    """
    if not path.exists():
        # It may have been moved aside by somebody who was killed.
        sweep_beside(path)
    replaces()
    # Only where no store is: what belongs to one is for its next writer to sweep.
    sweep_beside(path)
    parents = make_parents(path)
    staging, lock = staging_of(path, new_token()), None
    try:
        lock = claim(staging)
        built = staging / "new"
        yield built
        flush_tree(built)
        flush(built)
        flush(staging)
        if replaces():
            _exchange(built, path, staging / OLD)
        else:
            _appear(built, path)
        flush(path.parent)
    finally:
        give_back(staging)
        remove_staging(staging)
        if lock is not None:
            os.close(lock)
        remove_empty(parents)


def sweep_beside(path: Path) -> None:
    """Remove what killed writers left beside `path`, and put back what they had moved."""
    sweep_staging(path, layout.GENERATION, lambda token: remove_staging(staging_of(path, token)))


def _appear(built: Path, path: Path) -> None:
    try:
        if built.is_dir():
            # Succeeds only where nothing or an empty folder is.
            os.rename(built, path)
        else:
            _link(built, path)
    except OSError as error:
        if error.errno in _TAKEN:
            raise StoreExistsError(f"{path}: somebody else has written there meanwhile") from error
        raise


def _link(built: Path, path: Path) -> None:
    """Give a file its place, where nothing is: a rename would replace another file."""
    try:
        os.link(built, path)
    except OSError as error:
        if error.errno in _TAKEN:
            raise
        # A file system without links.
        os.rename(built, path)


def _exchange(built: Path, path: Path, aside: Path) -> None:
    if built.is_file() and path.is_file():
        os.replace(built, path)
    elif not _exchanged(built, path):
        os.rename(path, aside)
        os.rename(built, path)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, TypeError):  # macOS; Windows
        return False
    names = os.fsencode(one), os.fsencode(other)
    if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNKNOWN:
        return False
    raise OSError(number, os.strerror(number), str(other))

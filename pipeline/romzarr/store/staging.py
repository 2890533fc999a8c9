"""Staging folders, in which something is built before it appears atomically.

``<name>`` is built in a hidden folder beside it, ``.<name>.partial-<token>``. Its writer keeps the
file ``lock`` in it locked (flock), so the kernel tells later writers, on any host, whether a crash
has left the folder. On file systems without locks, such folders count as in use and stay.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

from romzarr.objects import locks

LOCK = "lock"
# The previous content, while the new one is put in place in two steps.
OLD = "old"
# Concurrent flushes: they wait for the disk.
_FLUSHED = 16
# Staging folders of this process.
_claimed_here = set[Path]()


def new_token() -> str:
    """Make a unique name from the time and a random number."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"


def staging_of(path: Path, token: str) -> Path:
    """Return the staging folder of the writer with this token."""
    return path.with_name(f".{path.name}.partial-{token}")


def claim(staging: Path) -> int:
    """Make a staging folder and lock it; return the descriptor with the lock."""
    _claimed_here.add(staging)
    lock = staging / LOCK
    while True:
        staging.mkdir(exist_ok=True)
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | locks.CLOSED_IN_CHILDREN)
        except FileNotFoundError:
            continue
        # Without locks nobody takes the writer for dead.
        with contextlib.suppress(OSError):
            locks.take(descriptor, wait=True)
        # A concurrent sweep may have held the lock briefly and removed the file.
        if lock.exists():
            return descriptor
        os.close(descriptor)


def remove_staging(staging: Path) -> None:
    """Remove a staging folder, its lock last, so that incomplete removals are recognised."""
    for _ in range(10):
        for entry in _entries(staging):
            if entry.name != LOCK:
                _remove_any(entry)
        shutil.rmtree(staging, ignore_errors=True)
        # After a failure, other threads may still write and recreate the folder.
        time.sleep(0.01)
        if not staging.exists():
            return


def remove_all_of_this_process() -> None:
    """Remove all staging folders of this process, which is about to end."""
    for staging in list(_claimed_here):
        give_back(staging)
        shutil.rmtree(staging, ignore_errors=True)


def give_back(staging: Path) -> None:
    """Restore the previous content if its replacement has not appeared."""
    path = staging.with_name(staging.name[1:].rpartition(".partial-")[0])
    if os.path.lexists(staging / OLD) and not os.path.lexists(path):
        os.rename(staging / OLD, path)


def sweep_staging(path: Path, token: re.Pattern[str], discard: Callable[[str], None]) -> None:
    """Call `discard` for every token whose staging folder has no living owner."""
    prefix = f".{path.name}.partial-"
    for staging in path.parent.glob(f"{_glob_escaped(prefix)}*"):
        found = staging.name.removeprefix(prefix)
        if token.fullmatch(found):
            with abandoned(staging) as dead:
                if dead:
                    give_back(staging)
                    discard(found)


@contextlib.contextmanager
def abandoned(staging: Path) -> Iterator[bool]:
    """Tell whether the owner of `staging` is dead; nobody can claim it inside the context."""
    try:
        lock = os.open(staging / LOCK, os.O_RDWR | locks.CLOSED_IN_CHILDREN)
    except FileNotFoundError:
        yield _abandoned_without_lock(staging)
        return
    try:
        locks.take(lock)
    except OSError:
        dead = False
    else:
        dead = True
    try:
        yield dead
    finally:
        os.close(lock)


def _abandoned_without_lock(staging: Path) -> bool:
    # An empty folder belongs to an owner that died before it made the lock, or to a living one,
    # which recreates it. Otherwise a failed writer's thread recreated it, or it is being removed.
    with contextlib.suppress(OSError):
        staging.rmdir()
    return staging.exists() and _age(staging) > timedelta(minutes=1)


def _age(path: Path) -> timedelta:
    return datetime.now(UTC) - datetime.fromtimestamp(path.stat().st_mtime, UTC)


def make_parents(path: Path) -> list[Path]:
    """Make the folders above `path`; return those that were missing, the innermost last."""
    missing = [p for p in (path.parent, *path.parent.parents) if not p.exists()]
    for parent in reversed(missing):
        parent.mkdir(exist_ok=True)
    return missing[::-1]


def remove_empty(parents: Sequence[Path]) -> None:
    """Remove those folders from `make_parents` that are still empty."""
    for parent in reversed(parents):
        with contextlib.suppress(OSError):
            parent.rmdir()


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def _remove_any(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _glob_escaped(text: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in text)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on a folder, on file systems with locks."""
    with _descriptor(folder) as descriptor:
        with contextlib.suppress(OSError):
            locks.take(descriptor, wait=True)
        yield


def flush_tree(folder: Path) -> None:
    """Flush every file and folder below `folder` to the disk, concurrently."""
    found = list(os.walk(folder))
    paths = [Path(parent, name) for parent, _, names in found for name in ("", *names)]
    with ThreadPoolExecutor(_FLUSHED) as pool:
        list(pool.map(flush, paths))


def flush(path: Path) -> None:
    """Flush a file or folder to the disk."""
    with _descriptor(path) as descriptor:
        os.fsync(descriptor)


@contextlib.contextmanager
def _descriptor(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | locks.CLOSED_IN_CHILDREN)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def write_flushed(path: Path, content: bytes) -> None:
    """Write a file and flush it to the disk."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())

"""Creates and replaces stores atomically.

A writer fills a *generation*, a folder that never changes afterwards. The root metadata list the
current generations: writing this small file is the commit. There is one current generation, or
several in the order of time after appends.

Superseded generations are kept for a while for readers that opened them (`RETENTION`). The root
metadata list them with the time of their replacement, and the next writer removes those that have
expired. They stay listed until they are completely removed, so that a later writer continues after
a crash. Generations that no root metadata have listed are never removed, and none while the root
metadata are damaged.

On a local file system the generation is built in a hidden folder beside the destination,
``.<name>.partial-<generation>``, with ``lock`` and ``store/`` (`romzarr.store.staging`).

On an object store the generation is written directly below the destination, without a lock;
leftovers of crashed writers are removed after a week.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from romzarr import objects
from romzarr.errors import StorageError, StoreError, StoreExistsError
from romzarr.store import layout, limits
from romzarr.store.layout import Part, Root, Superseded
from romzarr.store.staging import (
    claim,
    flush,
    flush_tree,
    locked,
    make_parents,
    new_token,
    remove_empty,
    remove_staging,
    staging_of,
    sweep_staging,
    write_flushed,
)

# Analyses and graphs that use a superseded generation may run for some time, but archives should
# not take twice the space for long.
RETENTION = timedelta(hours=1)
# A stream may replace generations many times a second. Of more than this many the oldest are
# removed, so that the root metadata stay small.
MOST_SUPERSEDED = 128
# Longer than any writer takes.
_ABANDONED = timedelta(days=7)


class Commit(Protocol):
    """One attempt to create or replace a store."""

    generation: str

    @property
    def url(self) -> str:
        """Where the generation is written before the commit."""
        ...

    def begin(self) -> None:
        """Check the destination, remove leftovers of crashed writers, prepare `url`."""
        ...

    def publish(self, parts: tuple[Part, ...]) -> Root:
        """Commit: make the generation at `url`, after existing ones, the store.

        Returns the new root metadata.
        """
        ...

    def abort(self) -> None:
        """Remove everything written, unless it is published."""
        ...


def committer(
    target: str | os.PathLike[str],
    overwrite: bool,
    forbid: Sequence[str],
    onto: Root | None = None,
) -> Commit:
    """Choose the way to commit at `target`, which must not overlap with any place in `forbid`.

    An existing store may be replaced with `overwrite`, or if its root metadata are still `onto`:
    then its parts may stay current.

    Raises
    ------
    StoreError
        If `target` is a place in `forbid`, or one contains the other.
    """
    url = layout.normalised(target)
    for place in map(layout.normalised, forbid):
        if f"{url}/".startswith(f"{place}/") or f"{place}/".startswith(f"{url}/"):
            raise StoreError(
                f"{url}: overlaps with the archive at {place}; choose a destination outside of it"
            )
    generation = new_token()
    if layout.is_local(url):
        return LocalCommit(Path(url), generation, overwrite, onto)
    return ObjectCommit(url, generation, overwrite, onto)


def sweep(target: str | os.PathLike[str]) -> None:
    """Remove expired generations (`RETENTION`) and leftovers of crashed writers."""
    url = layout.normalised(target)
    if layout.is_local(url):
        _sweep(Path(url))
    elif (root := _current(url)) is not None and (over := _outlived(root.superseded)):
        folder = objects.folder(url)
        for name in over & folder.names():
            folder.remove(name)


def check_root(url: str) -> None:
    """Refuse root metadata that are damaged or outdated.

    On object storage, newer generations cannot be distinguished from leftovers of dead writers.

    Raises
    ------
    StoreError
        If the root metadata are missing or damaged, or a local store has a newer generation that
        they do not list and that no writer is about to commit.
    """
    names = objects.folder(url).names() if layout.is_local(url) else set[str]()
    root = layout.current_root(url)
    newest = max(_begun(name) for name in root.generations)
    others = {name for name in names - root.named if layout.GENERATION.fullmatch(name)}
    for name in sorted(name for name in others if _begun(name) > newest):
        if not staging_of(Path(url), name).exists() and layout.current_root(url) == root:
            raise StoreError(
                f"{url}: {layout.ROOT} does not list {name}, which is newer: it was replaced by an "
                "older version, or the store was copied while it was written. Restore the newer "
                f"{layout.ROOT}, or remove {name} if it is not needed"
            )


def _stamp(time: datetime) -> str:
    return time.strftime("%Y%m%dT%H%M%S")


def _begun(generation: str) -> str:
    """Return when the writer of a generation began."""
    return generation.partition("-")[0]


def _outlived(superseded: Sequence[Superseded]) -> frozenset[str]:
    """Return the expired generations."""
    oldest = _stamp(datetime.now(UTC) - RETENTION)
    kept = sorted(superseded, key=lambda each: each.since)[-MOST_SUPERSEDED:]
    return frozenset(
        each.generation for each in superseded if each.since < oldest or each not in kept
    )


def _root_after(parts: tuple[Part, ...], before: Root | None, there: Collection[str]) -> Root:
    """Make root metadata of `parts` that supersede `before`; `there` lists existing generations.

    If the earlier root metadata are unknown, all existing generations are superseded.
    """
    now = _stamp(datetime.now(UTC))
    known = {} if before is None else {each.generation: each for each in before.superseded}
    names = {*known, *(there if before is None else before.generations)}
    names -= {part.generation for part in parts}
    superseded = tuple(known.get(name) or Superseded(name, now) for name in sorted(names))
    gone = _outlived(superseded).difference(there)
    return Root(parts, tuple(each for each in superseded if each.generation not in gone))


def _exists_error(url: str) -> StoreExistsError:
    return StoreExistsError(
        f"{url}: already exists; pass overwrite=True to replace the store there"
    )


def _changed_error(url: str) -> StoreError:
    return StoreError(
        f"{url}: was changed by another writer since it was opened; nothing was written. Open it "
        "again"
    )


def _current(url: str) -> Root | None:
    """Read the root metadata at `url`; None if there is no romzarr store of a known format."""
    try:
        return layout.parse_root(layout.read_bytes(layout.joined(url, layout.ROOT)), url)
    except (FileNotFoundError, StoreError):
        return None


class LocalCommit:
    """Commits by `os.rename` and `os.replace`, after flushing everything to the disk.

    Parameters
    ----------
    path : Path
        The store, absolute and with links resolved.
    generation : str
        Name of the new generation.
    overwrite : bool
        Whether a store at `path` may be replaced.
    onto : Root, optional
        The root metadata that it must have to be replaced.
    """

    def __init__(
        self, path: Path, generation: str, overwrite: bool, onto: Root | None = None
    ) -> None:
        self.path, self.generation, self.overwrite = path, generation, overwrite
        self._onto = onto
        self._staging = staging_of(path, generation)
        self._lock: int | None = None
        self._parents: list[Path] = []

    @property
    def url(self) -> str:
        return str(self._staging / "store" / self.generation)

    def begin(self) -> None:
        if not self.path.name:
            raise StoreError(f"{self.path}: the root of a file system cannot be a store")
        self._check_destination()
        self._parents = make_parents(self.path)
        _sweep(self.path)
        self._lock = claim(self._staging)
        Path(self.url).mkdir(parents=True)

    def _check_destination(self) -> bool:
        """Tell whether an existing store is to be replaced."""
        if self._onto is not None:
            if _current(str(self.path)) != self._onto:
                raise _changed_error(str(self.path))
            return True
        if not self.path.exists():
            return False
        if not self.overwrite:
            raise _exists_error(str(self.path))
        if self.path.is_dir() and not any(self.path.iterdir()):
            return False
        if holds_store(str(self.path)):
            return True
        raise StoreError(
            f"{self.path}: exists and is not a romzarr store, so overwrite=True does not replace "
            "it; remove it yourself, or choose another destination"
        )

    def publish(self, parts: tuple[Part, ...]) -> Root:
        built = self._staging / "store"
        flush_tree(built)
        if self._check_destination():
            return self._replace(built, parts)
        root = Root(parts)
        self._appear(built, layout.root_document(root))
        return root

    def _appear(self, built: Path, root: bytes) -> None:
        write_flushed(built / layout.ROOT, root)
        flush(built)
        try:
            # Succeeds only if nothing or an empty folder exists there.
            os.rename(built, self.path)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise _exists_error(str(self.path)) from error
            raise
        flush(self.path.parent)

    def _replace(self, built: Path, parts: tuple[Part, ...]) -> Root:
        prepared = self._staging / layout.ROOT
        with locked(self.path):
            # Nobody else can replace the root after this check.
            self._check_destination()
            root = _root_after(parts, _current(str(self.path)), _generations(self.path))
            write_flushed(prepared, layout.root_document(root))
            os.rename(built / self.generation, self.path / self.generation)
            flush(self.path)
            os.replace(prepared, self.path / layout.ROOT)
            flush(self.path)
        for name in _outlived(root.superseded):
            shutil.rmtree(self.path / name, ignore_errors=True)
        return root

    def abort(self) -> None:
        if self._lock is not None or os.path.exists(self._staging):
            _discard(self.path, self.generation)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        remove_empty(self._parents)


def holds_store(url: str) -> bool:
    """Tell whether a romzarr store of any format, or an incomplete copy of one, is at `url`."""
    try:
        layout.parse_root(layout.read_bytes(layout.joined(url, layout.ROOT)), url)
    except layout.OtherFormatError:
        return True
    except (FileNotFoundError, StoreError):
        return layout.is_local(url) and Path(url).is_dir() and _is_remainder(Path(url))
    return True


def _is_remainder(path: Path) -> bool:
    """Tell whether a folder has only generations and perhaps damaged root metadata."""
    names = {entry.name for entry in path.iterdir()} - {layout.ROOT}
    return bool(names) and all(layout.GENERATION.fullmatch(name) for name in names)


def _sweep(path: Path) -> None:
    """Remove expired generations, and leftovers of crashed but not of living writers."""
    sweep_staging(path, layout.GENERATION, lambda generation: _discard(path, generation))
    root = _current(str(path))
    for name in _outlived(root.superseded) if root else ():
        shutil.rmtree(path / name, ignore_errors=True)


def _generations(path: Path) -> list[str]:
    """List the generations in a folder."""
    return [entry.name for entry in path.iterdir() if layout.GENERATION.fullmatch(entry.name)]


def _discard(path: Path, generation: str) -> None:
    """Remove a staging folder, and its generation if that was moved but not committed."""
    counts = _current(str(path))
    if counts is not None and generation not in counts.generations:
        shutil.rmtree(path / generation, ignore_errors=True)
    remove_staging(staging_of(path, generation))


class ObjectCommit:
    """Commits by one conditional PUT of the root metadata.

    Object storage does this atomically (If-None-Match, If-Match), so one of two concurrent writers
    is refused. Other file systems at URLs have no conditional writes: a concurrent writer is only
    noticed if it published earlier.

    Parameters
    ----------
    url : str
        The store, with its scheme.
    generation, overwrite, onto
        As for `LocalCommit`.
    """

    def __init__(
        self, url: str, generation: str, overwrite: bool, onto: Root | None = None
    ) -> None:
        self._root, self.generation, self.overwrite = url, generation, overwrite
        self._onto = onto
        self._folder = objects.folder(url)
        self._before: objects.Stored | None = None
        self._names = set[str]()
        self._published = False

    @property
    def url(self) -> str:
        return layout.joined(self._root, self.generation)

    def begin(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._before = self._folder.read(layout.ROOT, limits.MAX_METADATA_BYTES)
        if self._onto is not None:
            self._check_unchanged()
        elif self._before is not None and not self.overwrite:
            raise _exists_error(self._root)
        self._names = self._folder.names()
        others = {n for n in self._names if not layout.GENERATION.fullmatch(n)}
        if self._onto is None and others and not holds_store(self._root):
            raise StoreError(
                f"{self._root}: contains other data ({min(others)!r}); choose another destination"
            )

    def _check_unchanged(self) -> None:
        if _current(self._root) != self._onto:
            raise _changed_error(self._root)

    def publish(self, parts: tuple[Part, ...]) -> Root:
        if self._onto is not None:
            self._check_unchanged()
        version, before = None, None
        if self._before is not None:
            version = self._before.version
            with contextlib.suppress(StoreError):
                before = layout.parse_root(self._before.content, self._root)
        # Without root metadata, existing generations belong to other writers, alive or dead.
        root = _root_after(parts, before or Root(()), self._names)
        try:
            done = self._folder.replace(layout.ROOT, layout.root_document(root), version)
        except StorageError as error:
            raise StoreError(
                f"{self._root}: it is unknown whether the commit succeeded, but either the old or "
                f"the new store is intact: see romzarr info, or run again ({error})"
            ) from error
        if not done:
            changed = self._onto is not None or self._before is not None
            raise _changed_error(self._root) if changed else _exists_error(self._root)
        self._published = True
        # Otherwise a later writer removes it.
        with contextlib.suppress(OSError):
            self._remove_unused(root)
        return root

    def _remove_unused(self, root: Root) -> None:
        """Remove expired generations and leftovers of crashed writers."""
        oldest = _stamp(datetime.now(UTC) - _ABANDONED)
        abandoned = {n for n in self._names if layout.GENERATION.fullmatch(n) and n < oldest}
        for name in self._names & (_outlived(root.superseded) | (abandoned - root.named)):
            self._folder.remove(name)

    def abort(self) -> None:
        if self._published:
            return
        # If storage does not answer, the generation may be committed and has to stay.
        with contextlib.suppress(StorageError):
            counts = _current(self._root)
            if counts is None or self.generation not in counts.generations:
                self._folder.remove(self.generation)

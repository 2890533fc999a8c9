"""How a store appears, or replaces another, in one step.

A writer fills a *generation*, a folder that is never changed afterwards. The root metadata
name the generations that count: writing that one small file is the commit. As a rule one counts;
where something was appended, several do, in the order of time.

Generations that do not count any more stay for whoever opened them (`RETENTION`): the root
metadata name them too, with the time when they were replaced, and whoever writes there next
removes those whose time is over. They are named as long as anything of them is there, so that
whoever is killed while he removes them leaves them to the next. Nothing is ever removed that no
root metadata have named, or while these are damaged.

On a local file system the generation is built in a hidden folder beside the destination,
``.<name>.partial-<generation>``, holding ``lock`` and ``store/`` (`romzarr.store.staging`).

On an object store the generation is written under the destination at once and no lock
exists: what crashed writers left is removed when it is a week old.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
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
    remove_staging,
    staging_of,
    sweep_staging,
    write_flushed,
)

# How long a generation stays that was replaced. An analysis that was begun on it, or a graph built
# on it, goes on for some time; archives are not held twice for long.
RETENTION = timedelta(hours=1)
# A stream may replace generations many times a second: of more than so many the oldest go.
MOST_SUPERSEDED = 128
_ABANDONED = timedelta(days=7)


class Commit(Protocol):
    """One attempt to put a store in place."""

    generation: str

    @property
    def url(self) -> str:
        """Where the generation is written before it counts."""
        ...

    def begin(self) -> None:
        """Check the destination, remove what crashed writers left, prepare `url`."""
        ...

    def publish(self, parts: tuple[Part, ...]) -> Root:
        """Make these the store: the generation at `url`, after others already there.

        Returns what the root metadata say now.
        """
        ...

    def abort(self) -> None:
        """Remove everything written, unless it has been published."""
        ...


def committer(
    target: str | os.PathLike[str],
    overwrite: bool,
    forbid: Sequence[str],
    onto: Root | None = None,
) -> Commit:
    """The way to commit at `target`, which must not touch any place in `forbid`.

    A store that is there may be replaced with `overwrite`, or if it is `onto`, which was read
    from it: then parts of it may go on to count.

    Raises
    ------
    StoreError
        If `target` is a place in `forbid`, or one contains the other.
    """
    url = layout.normalised(target)
    for place in map(layout.normalised, forbid):
        if f"{url}/".startswith(f"{place}/") or f"{place}/".startswith(f"{url}/"):
            raise StoreError(
                f"{url}: writing here would touch the archive at {place}; choose a destination "
                "outside of it"
            )
    generation = f"{_stamp(datetime.now(UTC))}-{secrets.token_hex(4)}"
    if layout.is_local(url):
        return LocalCommit(Path(url), generation, overwrite, onto)
    return ObjectCommit(url, generation, overwrite, onto)


def sweep(target: str | os.PathLike[str]) -> None:
    """Remove what is of no use any more, as the next writer would.

    That is generations that were replaced long ago (`RETENTION`), and what crashed writers left
    beside a local store.
    """
    url = layout.normalised(target)
    if layout.is_local(url):
        _sweep(Path(url))
    elif (root := _current(url)) is not None and (over := _outlived(root.superseded)):
        folder = objects.folder(url)
        for name in over & folder.names():
            folder.remove(name)


def check_root(url: str) -> None:
    """Refuse root metadata that are damaged, or older than what lies beside them.

    On object storage nobody can tell a newer generation from what a writer that died has left.

    Raises
    ------
    StoreError
        If there are none, or they are not whole; or a local store holds a newer generation that
        they do not name and no writer is about to.
    """
    names = objects.folder(url).names() if layout.is_local(url) else set[str]()
    root = layout.current_root(url)
    newest = max(_begun(name) for name in root.generations)
    others = {name for name in names - root.named if layout.GENERATION.fullmatch(name)}
    for name in sorted(name for name in others if _begun(name) > newest):
        if not staging_of(Path(url), name).exists() and layout.current_root(url) == root:
            raise StoreError(
                f"{url}: {layout.ROOT} does not name {name}, which is newer: an older one was put "
                "back, or the store was copied while it was written to; restore the newer one, or "
                f"remove {name} if it is of no use"
            )


def _stamp(time: datetime) -> str:
    return time.strftime("%Y%m%dT%H%M%S")


def _begun(generation: str) -> str:
    """When the writer of a generation began."""
    return generation.partition("-")[0]


def _outlived(superseded: Sequence[Superseded]) -> frozenset[str]:
    """Generations that nobody is expected to read any more."""
    oldest = _stamp(datetime.now(UTC) - RETENTION)
    kept = sorted(superseded, key=lambda each: each.since)[-MOST_SUPERSEDED:]
    return frozenset(
        each.generation for each in superseded if each.since < oldest or each not in kept
    )


def _root_after(parts: tuple[Part, ...], before: Root | None, there: Collection[str]) -> Root:
    """Root metadata of `parts` in place of those `before`, where the generations `there` are.

    Where nothing tells what counted, all that is there is what was to be replaced.
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
        f"{url}: was changed by another writer since it was opened; nothing was written, open it "
        "again"
    )


def _current(url: str) -> Root | None:
    """What counts at `url`; None where no romzarr store of a format known here is."""
    try:
        return layout.parse_root(layout.read_bytes(layout.joined(url, layout.ROOT)), url)
    except (FileNotFoundError, StoreError):
        return None


class LocalCommit:
    """Commit by `os.rename` and `os.replace`, everything on disk before either.

    Parameters
    ----------
    path : Path
        The store, absolute and with links resolved.
    generation : str
        Name of the new generation.
    overwrite : bool
        Whether a store at `path` may be replaced.
    onto : Root, optional
        What it has to be for that.
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
        self._make_parents()
        _sweep(self.path)
        self._lock = claim(self._staging)
        Path(self.url).mkdir(parents=True)

    def _check_destination(self) -> bool:
        """Whether a store has to be replaced."""
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
            "it; remove it yourself or choose another destination"
        )

    def _make_parents(self) -> None:
        missing = [p for p in (self.path.parent, *self.path.parent.parents) if not p.exists()]
        for parent in reversed(missing):
            parent.mkdir(exist_ok=True)
            self._parents.append(parent)

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
            # Succeeds only where nothing or an empty folder is.
            os.rename(built, self.path)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise _exists_error(str(self.path)) from error
            raise
        flush(self.path.parent)

    def _replace(self, built: Path, parts: tuple[Part, ...]) -> Root:
        prepared = self._staging / layout.ROOT
        with locked(self.path):
            # Nobody else can replace the root between this look and the end.
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
        self._remove_parents()

    def _remove_parents(self) -> None:
        for parent in reversed(self._parents):
            # A published store, or anybody's file, keeps its folder.
            with contextlib.suppress(OSError):
                parent.rmdir()


def holds_store(url: str) -> bool:
    """Whether a romzarr store of any format lies at `url`, or part of one that was half copied."""
    try:
        layout.parse_root(layout.read_bytes(layout.joined(url, layout.ROOT)), url)
    except layout.OtherFormatError:
        return True
    except (FileNotFoundError, StoreError):
        return layout.is_local(url) and Path(url).is_dir() and _is_remainder(Path(url))
    return True


def _is_remainder(path: Path) -> bool:
    """Whether a folder holds generations, and nothing else but perhaps damaged root metadata."""
    names = {entry.name for entry in path.iterdir()} - {layout.ROOT}
    return bool(names) and all(layout.GENERATION.fullmatch(name) for name in names)


def _sweep(path: Path) -> None:
    """Remove what crashed writers of `path` left, and nothing of writers still alive."""
    sweep_staging(path, layout.GENERATION, lambda generation: _discard(path, generation))
    root = _current(str(path))
    for name in _outlived(root.superseded) if root else ():
        shutil.rmtree(path / name, ignore_errors=True)


def _generations(path: Path) -> list[str]:
    """Names of all generations that are in a folder."""
    return [entry.name for entry in path.iterdir() if layout.GENERATION.fullmatch(entry.name)]


def _discard(path: Path, generation: str) -> None:
    """Remove a staging folder, and its generation where it was moved in but never counted."""
    counts = _current(str(path))
    if counts is not None and generation not in counts.generations:
        shutil.rmtree(path / generation, ignore_errors=True)
    remove_staging(staging_of(path, generation))


class ObjectCommit:
    """Commit by one PUT of the root metadata, if they are as they were when it began.

    Object storage does that in one step (If-None-Match, If-Match), so of two writers at once
    one is refused. Other file systems at URLs have no such step: there two are told apart
    only if one has published before the other looks.

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
                f"{self._root}: holds other data ({min(others)!r}); choose another destination"
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
        # Without a root, what is there are generations of other writers, alive or not.
        root = _root_after(parts, before or Root(()), self._names)
        try:
            done = self._folder.replace(layout.ROOT, layout.root_document(root), version)
        except StorageError as error:
            raise StoreError(
                f"{self._root}: whether the store was put in place is not known, but the old or "
                f"the new one is there and whole: see romzarr info, or run again ({error})"
            ) from error
        if not done:
            changed = self._onto is not None or self._before is not None
            raise _changed_error(self._root) if changed else _exists_error(self._root)
        self._published = True
        # What cannot be removed now goes when it is a week old.
        with contextlib.suppress(OSError):
            self._remove_unused(root)
        return root

    def _remove_unused(self, root: Root) -> None:
        """Remove what was replaced long ago, and what crashed writers left."""
        oldest = _stamp(datetime.now(UTC) - _ABANDONED)
        abandoned = {n for n in self._names if layout.GENERATION.fullmatch(n) and n < oldest}
        for name in self._names & (_outlived(root.superseded) | (abandoned - root.named)):
            self._folder.remove(name)

    def abort(self) -> None:
        if self._published:
            return
        # Where storage does not answer, the generation may count: it stays.
        with contextlib.suppress(StorageError):
            counts = _current(self._root)
            if counts is None or self.generation not in counts.generations:
                self._folder.remove(self.generation)

"""What a decoded archive may be written over: other archives, and never what it came from."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from romzarr.archive import Archive, open_archive
from romzarr.archive.history import suspicious
from romzarr.archive.stamp import stamp_of
from romzarr.errors import PipelineError, StoreError, StoreExistsError
from romzarr.store import layout
from romzarr.store.commit import holds_store
from romzarr.store.reading.reader import CoefficientStore

_GROUP = frozenset({"zarr.json", ".zgroup"})
_ARRAY = frozenset({".zarray"})
_METADATA = _GROUP | _ARRAY | {".zattrs", ".zmetadata"}
# Chunks: "c" of version 3 and their folders, numbers with "." or "/" of both versions.
_CHUNK = re.compile(r"c|(c\.)?\d+(\.\d+)*")
_NETCDF_SIGNATURES = (b"\x89HDF\r\n\x1a\n", b"CDF\x01", b"CDF\x02", b"CDF\x05")


@dataclass(frozen=True)
class Destination:
    """A local place at which what a store decodes to is to appear.

    Attributes
    ----------
    path : Path
        Absolute, with links resolved.
    store : CoefficientStore
    overwrite : bool
        Whether an archive there may be replaced.
    """

    path: Path
    store: CoefficientStore
    overwrite: bool

    def replaces(self) -> bool:
        """Whether there is an archive to be replaced.

        Raises
        ------
        StoreExistsError
            If something is there that may not be.
        StoreError
            If it is the store, or what the store was made from, or one is part of the other.
        """
        self._refuse_around()
        if not os.path.lexists(self.path):
            return False
        if not self.overwrite:
            raise StoreExistsError(
                f"{self.path}: exists; pass overwrite=True to replace an archive there"
            )
        if self.path.is_dir():
            for place in _groups(self.path):
                self._refuse_store_or_source(place)
        else:
            self._refuse_store_or_source(self.path)
        foreign = foreign_to_archives(self.path)
        if foreign is not None:
            raise StoreExistsError(
                f"{self.path}: exists, and {foreign} is no part of a Zarr archive or NetCDF file, "
                "which alone overwrite=True replaces; remove it yourself or choose another place"
            )
        return True

    def _refuse_around(self) -> None:
        """Refuse a place inside the store, its archive or another store, or above the store."""
        if layout.is_local(self.store.url):
            store = Path(self.store.url)
            if self.path == store or self.path in store.parents:
                raise StoreError(
                    f"{self.path}: is or holds the store that is decoded; choose another "
                    "destination"
                )
        for place in self.path.parents:
            if any((place / name).exists() for name in _GROUP):
                self._refuse_store_or_source(place)

    def _refuse_store_or_source(self, place: Path) -> None:
        if holds_store(str(place)):
            raise StoreError(
                f"{self.path}: a romzarr store is at {place}, which reconstruct never writes to; "
                "choose another destination"
            )
        if made_from(self.store, place):
            raise StoreError(
                f"{self.path}: {place} is the archive that the store was made from, and what is "
                "decoded is not what it holds; choose another destination"
            )


def foreign_to_archives(path: Path) -> str | None:
    """What at `path` is no part of a Zarr archive or a NetCDF file; None if there is no such."""
    if path.is_file():
        with path.open("rb") as file:
            found = file.read(8).startswith(_NETCDF_SIGNATURES)
        return None if found else path.name
    if not path.is_dir():
        return path.name
    return next(_strangers(path), None)


def _strangers(folder: Path) -> Iterator[str]:
    """Names below the folder of a Zarr group or array that Zarr has no use for."""
    names = {entry.name for entry in folder.iterdir()}
    if not names & (_GROUP | _ARRAY):
        yield folder.name
        return
    for entry in sorted(folder.iterdir()):
        if entry.name in _METADATA or _CHUNK.fullmatch(entry.name):
            continue
        if entry.is_dir() and not entry.is_symlink():
            yield from _strangers(entry)
        else:
            yield entry.name


def _groups(folder: Path) -> Iterator[Path]:
    """Folders below which there may be an archive or a store: those of groups, `folder` first."""
    yield folder
    if any((folder / name).exists() for name in _GROUP):
        for entry in sorted(folder.iterdir()):
            inside = entry.is_dir() and not entry.is_symlink()
            if inside and not _CHUNK.fullmatch(entry.name):
                yield from _groups(entry)


def made_from(store: CoefficientStore, place: Path) -> bool:
    """Whether the archive at `place` is what the store was made from, grown since or not."""
    source = store.facts["source"]
    name, stamp = str(source.get("name", "")), source.get("stamp")
    if os.path.isabs(name) and os.path.realpath(name) == str(place):
        return True
    if stamp and stamp_of(str(place)) == stamp:
        return True
    if os.path.basename(name) != place.name:
        return False
    made = store.facts["config"].get("archive", {})
    try:
        found = open_archive(
            place,
            time=made.get("time", "auto"),
            variables=made.get("variables", "all"),
            weights=made.get("weights", "none"),
            missing_chunks="fill",
            engine=made.get("engine", "auto"),
        )
    # Whatever cannot be opened is no archive that a store could have been made from.
    except (PipelineError, OSError):
        return False
    return _has_what_was_stored(found, store)


def _has_what_was_stored(archive: Archive, store: CoefficientStore) -> bool:
    """Whether an archive of the name that is recorded is the one."""
    source, snapshots = store.facts["source"], store.snapshots
    if archive.fingerprint == source.get("fingerprint") or len(archive.time.values) > snapshots:
        return True
    history = source.get(archive.history) or []
    doubtful = suspicious(archive.marks, history, snapshots)
    return sum(map(len, doubtful)) < snapshots

"""Small files in local folders and at URLs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from romzarr.objects import Folder as ObjectsFolder

# Run records and catalogue entries are far smaller.
LARGEST_BYTES = 1 << 26


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces `path` when the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield unfinished
        shutil.rmtree(path, ignore_errors=True)
        unfinished.rename(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@dataclass(frozen=True)
class LocalFolder:
    """Small files below a folder, each written atomically."""

    root: Path

    def read(self, name: str) -> bytes:
        """Return the content of a file; raise FileNotFoundError if there is none."""
        return (self.root / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # Reports are written without a lock: two processes must not share a temporary file.
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            with open(unfinished, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove temporary files of killed writers; call it only while nobody writes."""
        for path in self.root.rglob(".*.partial"):
            path.unlink(missing_ok=True)

    def names(self) -> list[str]:
        """List all files recursively, except those that are being written."""
        found = (path for path in self.root.rglob("*") if path.name[0] != "." and path.is_file())
        return sorted(path.relative_to(self.root).as_posix() for path in found)


@dataclass(frozen=True)
class RemoteFolder:
    """Small objects below a URL; storage replaces each atomically."""

    root: str

    def read(self, name: str) -> bytes:
        """Return the content of an object; raise FileNotFoundError if there is none."""
        with self._folder() as folder:
            return folder.read(name, LARGEST_BYTES).content

    def write(self, name: str, content: bytes) -> None:
        with self._folder() as folder:
            folder.write(name, content)

    def sweep(self) -> None:
        """Do nothing: incomplete objects never become visible."""

    def names(self) -> list[str]:
        """List all objects recursively; none if the folder does not exist yet."""
        with self._folder() as folder:
            try:
                return sorted(folder.files())
            except FileNotFoundError:
                return []

    @contextmanager
    def _folder(self) -> Iterator[ObjectsFolder]:
        """Open the folder; any failure becomes an OSError."""
        # Imports Zarr, which the command line starts without.
        from romzarr import objects

        try:
            yield objects.folder(self.root)
        except OSError:
            raise
        # The errors of fsspec's file systems and their clients have no common base class.
        except Exception as error:
            raise OSError(f"{self.root}: {type(error).__name__}: {error}") from error


Folder = LocalFolder | RemoteFolder


def folder_at(place: str) -> Folder:
    """Return the folder at a path or URL."""
    return RemoteFolder(place.rstrip("/")) if "://" in place else LocalFolder(Path(place))

"""Small helpers around the file system."""

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

# A run record or a page of the catalogue is far smaller.
LARGEST_BYTES = 1 << 26


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path` that takes its place when the block succeeds."""
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
    """Small files below a folder; each is there wholly or not at all, also after a crash."""

    root: Path

    def read(self, name: str) -> bytes:
        """Content of a file; FileNotFoundError if there is none."""
        return (self.root / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.partial")
        try:
            with open(unfinished, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what killed writers left; only while nobody writes."""
        for path in self.root.rglob(".*.partial"):
            path.unlink(missing_ok=True)

    def names(self) -> list[str]:
        """Files however deep, by name; without those that are being written."""
        found = (path for path in self.root.rglob("*") if path.name[0] != "." and path.is_file())
        return sorted(path.relative_to(self.root).as_posix() for path in found)


@dataclass(frozen=True)
class RemoteFolder:
    """Small objects below a URL; a store replaces each in one step."""

    root: str

    def read(self, name: str) -> bytes:
        """Content of an object; FileNotFoundError if there is none."""
        with self._reached() as folder:
            return folder.read(name, LARGEST_BYTES).content

    def write(self, name: str, content: bytes) -> None:
        with self._reached() as folder:
            folder.write(name, content)

    def sweep(self) -> None:
        """Nothing: of an object that was not wholly written there is nothing to see."""

    def names(self) -> list[str]:
        """Objects however deep, by name; none where there is no folder yet."""
        with self._reached() as folder:
            try:
                return sorted(folder.files())
            except FileNotFoundError:
                return []

    @contextmanager
    def _reached(self) -> Iterator[ObjectsFolder]:
        """What is there, by `romzarr.objects`; any failure becomes an OSError."""
        # Zarr and what it brings come only where a URL is: the command line starts without.
        from romzarr import objects

        try:
            yield objects.folder(self.root)
        except OSError:
            raise
        # What file systems of fsspec and their clients raise has no common root.
        except Exception as error:
            raise OSError(f"{self.root}: {type(error).__name__}: {error}") from error


Folder = LocalFolder | RemoteFolder


def folder_at(place: str) -> Folder:
    """Small files below a path or URL."""
    return RemoteFolder(place.rstrip("/")) if "://" in place else LocalFolder(Path(place))

"""Reads blocks of a NetCDF file: netCDF4 through h5netcdf, netCDF3 through scipy.

Workers open the file themselves, from its path or URL.
"""

from __future__ import annotations

import atexit
import io
import math
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, BinaryIO, Literal

import h5py
import numpy as np
import xarray as xr

from romzarr.archive.blocks import describe, merged_along, native, regular
from romzarr.archive.guard import guarded, unreadable
from romzarr.archive.location import is_url, redacted
from romzarr.archive.provider import Piece, digest_of
from romzarr.contracts import ReadBlock, Region
from romzarr.errors import ArchiveError, ChunkError
from romzarr.objects import file_system_of

_HDF5_SIGNATURE = b"\x89HDF"
_NETCDF3_SIGNATURE = b"CDF"
# HDF5 serialises calls in a process anyway; the lock allows counting the bytes of each read.
_READING = threading.Lock()
# Pieces of a file in its digest: a few requests notice a rewritten file.
_SAMPLES, _SAMPLE_BYTES = 16, 4096


class _CountingFile(io.RawIOBase):
    """A file that counts the bytes read from it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.bytes_read = 0

    def readinto(self, buffer: Any, /) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self.bytes_read += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()


@dataclass(frozen=True)
class FileReader:
    """Reads regions of one variable of a NetCDF file; picklable, small, without secrets.

    ``stamp`` identifies the version of the file, so that a process notices its replacement.
    """

    name: str
    location: str
    stamp: str
    chunks_per_dim: tuple[int, ...]

    def read(self, region: Region) -> ReadBlock:
        """Read the values of `region`, decoded by xarray.

        Raises
        ------
        ChunkError
            If the file is missing or the region cannot be decoded.
        """
        with _READING:
            try:
                file, dataset = _opened(self.location, self.stamp)
                before = file.bytes_read
                variable = dataset.variables[self.name]
                values = np.asarray(variable[region].values)
            except MemoryError:
                raise
            # HDF5, its filters and remote file systems have many kinds of errors.
            except Exception as error:
                raise ChunkError(
                    f"variable {self.name!r}: region {describe(region)} of archive "
                    f"{redacted(self.location)!r} cannot be read ({type(error).__name__}: "
                    f"{error}); restore the file from a backup"
                ) from error
            fetched = file.bytes_read - before
            if not fetched:  # memory-mapped: count the bytes of the region
                fetched = values.size * variable.encoding.get("dtype", values.dtype).itemsize
        touched = math.prod(
            -(-part.stop // length) - part.start // length
            for part, length in zip(region, self.chunks_per_dim, strict=True)
        )
        return ReadBlock(native(values), fetched, touched)


@lru_cache(maxsize=8)
def _opened(location: str, stamp: str) -> tuple[_CountingFile, xr.Dataset]:
    file = _CountingFile(_binary(location))
    try:
        engine = _engine(file, location)
        if engine == "h5netcdf":
            # Where this fails, h5netcdf would print a traceback when it is finalised.
            with h5py.File(file, "r") as readable:
                readable.attrs.get("_nc3_strict")
            file.seek(0)
        # scipy memory-maps a local path, but reads an open file completely.
        mapped = engine == "scipy" and not is_url(location)
        opened: Any = location if mapped else file
        dataset = xr.open_dataset(opened, engine=engine, chunks=None, cache=False)
    except BaseException:
        file.close()
        raise
    return file, dataset


# h5netcdf cannot close its files during interpreter shutdown.
atexit.register(_opened.cache_clear)


def _binary(location: str) -> BinaryIO:
    if is_url(location):
        files, path = file_system_of(location)
        file: BinaryIO = files.open(path, "rb")
        return file
    return open(location, "rb", buffering=0)  # closed by the counting file


def _engine(file: io.RawIOBase, location: str) -> Literal["h5netcdf", "scipy"]:
    start = file.read(8) or b""
    file.seek(0)
    if start.startswith(_HDF5_SIGNATURE):
        return "h5netcdf"
    if start.startswith(_NETCDF3_SIGNATURE):
        return "scipy"
    raise ArchiveError(
        f"archive {redacted(location)!r} is neither netCDF4/HDF5 nor netCDF3 (it starts with "
        f"{start!r}); give a NetCDF or CSV file, the folder of a Zarr group, or the engine with "
        "which xarray opens it (--engine, archive.engine)"
    )


def read_file(reader: FileReader, region: Region) -> ReadBlock:
    return reader.read(region)


@dataclass(frozen=True)
class FileSource:
    """Blocks of one variable of a NetCDF file (a `romzarr.contracts.BlockSource`)."""

    reader: FileReader

    def graph(self) -> Mapping[Any, Any]:
        return {}

    def task(self, region: Region) -> tuple[Any, ...]:
        return (read_file, self.reader, region)


@dataclass(frozen=True)
class FileArchive:
    """A NetCDF file (a `romzarr.archive.provider.Provider`)."""

    location: str

    @property
    def name(self) -> str:
        return redacted(self.location)

    @cached_property
    def dataset(self) -> xr.Dataset:
        what = f"archive {self.name!r} cannot be opened as NetCDF"
        with unreadable(what, "check that the file is complete"):
            return guarded(_opened(self.location, self._stamp)[1], self.name)

    @cached_property
    def _stamp(self) -> str:
        if not is_url(self.location):
            state = os.stat(self.location)
            return f"{state.st_size}-{state.st_mtime_ns}"
        system, path = file_system_of(self.location)
        return f"{system.size(path)}-{system.ukey(path)}"

    def piece(self, name: str, time_axis: int) -> Piece:
        variable = self.dataset.variables[name]
        stored = variable.encoding.get("chunksizes") or _contiguous(variable.shape)
        itemsize = variable.dtype.itemsize
        # A contiguous variable is cut along its first axis, a chunked one along time by whole
        # chunks: both read contiguous bytes.
        axis = time_axis if variable.encoding.get("chunksizes") else 0
        blocks = regular(variable.shape, merged_along(variable.shape, stored, axis, itemsize))
        lengths = tuple(variable.encoding.get("chunksizes") or variable.shape)
        reader = FileReader(name, self.location, self._stamp, lengths)
        return Piece(FileSource(reader), blocks, self._digest)

    @cached_property
    def _digest(self) -> str:
        return digest_of_file(self.location)


def digest_of_file(location: str) -> str:
    """Digest of a file's size and a few pieces of it, which is cheap for remote files too."""
    system, path = file_system_of(location)
    size = system.size(path)
    starts = [size * i // _SAMPLES for i in range(_SAMPLES)]
    pieces = (system.cat_file(path, start=start, end=start + _SAMPLE_BYTES) for start in starts)
    return digest_of([str(size), *pieces])


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1, *shape[1:])

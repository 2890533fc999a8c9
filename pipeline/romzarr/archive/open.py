"""Opens archives of any format."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import xarray as xr

from romzarr.archive.archive import Archive, archive_from
from romzarr.archive.csv_table import read_csv
from romzarr.archive.file_source import FileArchive
from romzarr.archive.location import is_url, normalised, redacted, suffix
from romzarr.archive.memory_source import MemoryArchive, memory_archive, memory_name
from romzarr.archive.provider import Provider
from romzarr.archive.stamp import stamp_of
from romzarr.archive.zarr_archive import MissingChunks, ZarrArchive
from romzarr.arguments import as_place, wrong_type

CSV = frozenset({".csv", ".tsv", ".txt", ".dat"})
_ZARR = frozenset({".zarr", ".zip"})
NETCDF = frozenset({".nc", ".nc4", ".cdf", ".h5", ".hdf5", ".netcdf"})


Source = str | os.PathLike[str] | xr.Dataset | xr.DataArray


def open_archive(
    source: Source,
    *,
    time: str = "auto",
    variables: Literal["all"] | Sequence[str] = "all",
    weights: str = "none",
    missing_chunks: MissingChunks = "error",
    exclude: Literal["none"] | Sequence[str] = "none",
) -> Archive:
    """Open an archive and check everything that can be checked without reading values.

    Parameters
    ----------
    source : path, URL, xarray.Dataset or xarray.DataArray
        A Zarr group (v2 or v3), a NetCDF file, a CSV file whose rows are variables, or an open
        dataset. URLs are read with obstore if it is installed and supports the scheme, else with
        fsspec; credentials come from the environment. Missing chunks of an open dataset go
        unnoticed.
    time : str, default "auto"
        Time dim or coordinate; see `romzarr.archive.time_axis.time_axis`.
    variables : "all" or sequence of str
        Names and patterns of data variables to compress. Other floating-point variables that change
        in time are left out; everything else is copied.
    weights : str, default "none"
        "none", "cos(latitude)", or the name of a coordinate or variable.
    missing_chunks : {"error", "fill"}
        Whether missing chunks of a Zarr store are refused or read as the fill value. Where no
        chunk exists at any time, the fill value is read in either case.
    exclude : "none" or sequence of str
        Names and patterns of data variables to leave out, whatever they are.

    Returns
    -------
    Archive

    Raises
    ------
    ArchiveError
        If the archive cannot be opened, or contains something that cannot be compressed.
    ChunkError
        If a chunk is missing.
    """
    if isinstance(source, xr.Dataset | xr.DataArray):
        provider = _provider(source, missing_chunks)
        return archive_from(provider, time, variables, weights, exclude=exclude)
    location = normalised(source)
    # Before anything is read, so that later writes are noticed.
    stamp = stamp_of(location)
    provider = _provider(location, missing_chunks)
    opened = archive_from(provider, time, variables, weights, exclude=exclude)
    return replace(opened, location=location, stamp=stamp)


def lazy_dataset(source: Source, missing_chunks: MissingChunks) -> xr.Dataset:
    """Open the lazy dataset of a source."""
    return _provider(source, missing_chunks).dataset


def name_of(source: Source) -> str:
    """Name `source` for the log, without credentials and without opening it."""
    if isinstance(source, xr.Dataset | xr.DataArray):
        return memory_name(source)
    if not isinstance(source, str | os.PathLike):
        raise wrong_type("source", source, "a path or a URL, or an xarray Dataset or DataArray")
    return redacted(as_place(source, "source"))


def dataset_of(array: xr.DataArray, name: str) -> xr.Dataset:
    """Convert an array to a dataset; `name` is used if the array has no valid name."""
    named = array.name is not None and array.name not in array.coords
    while not named and name in array.coords:
        name += "_"
    return array.to_dataset(name=array.name if named else name)


def _provider(source: Source, missing_chunks: MissingChunks) -> Provider:
    if isinstance(source, xr.DataArray):
        source = dataset_of(source, "data")
    if isinstance(source, xr.Dataset):
        return memory_archive(source)
    location = normalised(source)
    kind = suffix(location)
    if os.path.isdir(location) or kind in _ZARR:
        return ZarrArchive.open(location, missing_chunks)
    if kind in CSV:
        return MemoryArchive(redacted(location), read_csv(location))
    # A local file with another suffix must be NetCDF, which its first bytes will show.
    if kind in NETCDF or not is_url(location):
        return FileArchive(location)
    return ZarrArchive.open(location, missing_chunks)

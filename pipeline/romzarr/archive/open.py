"""Opens archives of any format."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from romzarr.archive.archive import Archive, archive_from
from romzarr.archive.csv_table import read_table
from romzarr.archive.engine_source import AUTO, CFGRIB, GRIB, EngineArchive
from romzarr.archive.file_source import FileArchive
from romzarr.archive.location import is_url, normalised, redacted, suffix
from romzarr.archive.memory_source import MemoryArchive, memory_archive, memory_name
from romzarr.archive.provider import Provider
from romzarr.archive.several import files_of_pattern, several_archive
from romzarr.archive.stamp import stamp_of_all
from romzarr.archive.zarr_archive import MissingChunks, ZarrArchive
from romzarr.arguments import as_place, wrong_type
from romzarr.contracts import Layout, Series
from romzarr.errors import ArchiveError

CSV = frozenset({".csv", ".tsv", ".txt", ".dat"})
_ZARR = frozenset({".zarr", ".zip"})
NETCDF = frozenset({".nc", ".nc4", ".cdf", ".h5", ".hdf5", ".netcdf"})


TableReader = Callable[[str], xr.Dataset]
Array = NDArray[Any] | da.Array
Place = str | os.PathLike[str]
Source = Place | Sequence[Place] | xr.Dataset | xr.DataArray | Array
# What a source in memory is.
IN_MEMORY = (xr.Dataset, xr.DataArray, np.ndarray, da.Array)


def open_archive(
    source: Source,
    *,
    time: str = "auto",
    variables: Literal["all"] | Sequence[str] = "all",
    weights: str = "none",
    missing_chunks: MissingChunks = "error",
    exclude: Literal["none"] | Sequence[str] = "none",
    columns: str = Layout.AUTO,
    series: str = Series.ONE,
    engine: str = AUTO,
) -> Archive:
    """Open an archive and check everything that can be checked without reading values.

    Parameters
    ----------
    source : path, URL, sequence of them, xarray.Dataset or xarray.DataArray
        A Zarr group (v2 or v3), a NetCDF file, a CSV file of time series, or an open dataset; of a
        run in many files a glob, their folder, or a list. These are put in the order of time. URLs
        are read with obstore if it is installed and supports the scheme, else with fsspec;
        credentials come from the environment. Missing chunks of an open dataset go unnoticed.
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
    columns : {"auto", "series", "times"}
        What the columns of a CSV file are; see `romzarr.contracts.Layout`.
    series : {"one", "each"}
        What the named series of a CSV file are; see `romzarr.contracts.Series`.
    engine : str, default "auto"
        Name of the xarray engine that opens a path or URL, or each of several. "auto": romzarr's
        own readers of Zarr, NetCDF and CSV, and cfgrib for GRIB. That a URL is written to
        meanwhile goes unnoticed with an engine. Sources in memory are open already.

    Returns
    -------
    Archive

    Raises
    ------
    ArchiveError
        If the archive cannot be opened, or contains something that cannot be compressed.
    ChunkError
        If a chunk is missing.
    ConfigError
        If xarray does not know the engine.
    """
    name_of(source)  # refuses what is none
    locations = () if isinstance(source, IN_MEMORY) else _watched(source)
    # Before anything is read, so that later writes are noticed, and pipes refused.
    stamp = stamp_of_all(locations) if locations and _listable(locations, engine) else ""
    provider = _provider(source, missing_chunks, time, _reader(columns, series), engine)
    opened = archive_from(provider, time, variables, weights, exclude=exclude)
    return replace(opened, locations=locations, stamp=stamp)


def lazy_dataset(
    source: Source,
    missing_chunks: MissingChunks,
    time: str = "auto",
    columns: str = Layout.AUTO,
    series: str = Series.ONE,
    engine: str = AUTO,
) -> xr.Dataset:
    """Open the lazy dataset of a source."""
    tables = _reader(columns, series)
    return _provider(source, missing_chunks, time, tables, engine).dataset


def _reader(columns: str, series: str) -> TableReader:
    """What reads tables."""
    return partial(read_table, layout=Layout(columns), series=Series(series))


def _listable(locations: Sequence[str], engine: str) -> bool:
    """Whether files can be listed; of a URL an engine may make what it likes."""
    return engine == AUTO or not any(map(is_url, locations))


def name_of(source: Source) -> str:
    """Name `source` for the log, without credentials and without opening it."""
    if isinstance(source, np.ndarray | da.Array):
        return "array in memory"
    if isinstance(source, xr.Dataset | xr.DataArray):
        return memory_name(source)
    if isinstance(source, str | os.PathLike):
        return redacted(as_place(source, "source"))
    if isinstance(source, Sequence) and source:
        first, *others = [redacted(as_place(each, "source")) for each in source]
        return f"{first} and {len(others)} more" if others else first
    raise wrong_type(
        "source",
        source,
        "a path or a URL, a list of them, an xarray Dataset or DataArray, or an array",
    )


def dataset_of(array: xr.DataArray, name: str) -> xr.Dataset:
    """Convert an array to a dataset; `name` is used if the array has no valid name."""
    named = array.name is not None and array.name not in array.coords
    while not named and name in array.coords:
        name += "_"
    return array.to_dataset(name=array.name if named else name)


def _with_dims(array: Array) -> xr.DataArray:
    """An array of snapshots with names: variable "x" with the dims "time", "dim_1", ..."""
    if array.ndim == 0:
        raise ArchiveError(
            "source: found an array without axes, allowed are snapshots along the first"
        )
    return xr.DataArray(array, dims=("time", *(f"dim_{k}" for k in range(1, array.ndim))), name="x")


def places_of(source: Source) -> list[Place]:
    """Paths and URLs of the files of a source; none of what is in memory."""
    if isinstance(source, IN_MEMORY):
        return []
    if not isinstance(source, str | os.PathLike):
        return list(source)
    several = files_of_pattern(as_place(source, "source"), sorted(NETCDF | GRIB))
    return [source] if several is None else [*several]


def _locations(source: Source) -> tuple[str, ...]:
    return tuple(normalised(each) for each in places_of(source))


def _watched(source: Place | Sequence[Place]) -> tuple[str, ...]:
    """What changes if any file of a source does: a folder itself, in which files may appear."""
    if isinstance(source, str | os.PathLike) and os.path.exists(os.path.expanduser(source)):
        return (normalised(source),)
    return _locations(source)


def _provider(
    source: Source, missing_chunks: MissingChunks, time: str, tables: TableReader, engine: str
) -> Provider:
    if isinstance(source, np.ndarray | da.Array):
        source = _with_dims(source)
    if isinstance(source, xr.DataArray):
        source = dataset_of(source, "data")
    if isinstance(source, xr.Dataset):
        return memory_archive(source)
    locations = _locations(source)
    if len(locations) == 1:
        return _single(locations[0], missing_chunks, tables, engine)
    return several_archive(
        name_of(source), locations, time, lambda each: _single(each, missing_chunks, tables, engine)
    )


def _single(
    location: str, missing_chunks: MissingChunks, tables: TableReader, engine: str
) -> Provider:
    if engine != AUTO:
        return EngineArchive(location, engine)
    kind = suffix(location)
    if os.path.isdir(location) or kind in _ZARR:
        return ZarrArchive.open(location, missing_chunks)
    if suffix(location.removesuffix(".gz")) in CSV:
        return MemoryArchive(redacted(location), tables(location))
    if kind in GRIB:
        return EngineArchive(location, CFGRIB)
    # A local file with another suffix must be NetCDF, which its first bytes will show.
    if kind in NETCDF or not is_url(location):
        return FileArchive(location)
    return ZarrArchive.open(location, missing_chunks)

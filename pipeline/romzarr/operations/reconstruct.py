"""Decode a store into an ordinary archive: Zarr, or a NetCDF file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import dask
import numpy as np
import xarray as xr

from romzarr.archive.location import suffix
from romzarr.archive.open import CSV, NETCDF
from romzarr.arguments import as_flag, as_whole
from romzarr.contracts import NO_TIME
from romzarr.errors import ConfigError, PipelineError, StoreError, refuse_blame
from romzarr.loss import CONTAINER, QUANTIZATION, Loss, quantization_variable
from romzarr.objects import is_document
from romzarr.reconstruction.destination import Destination
from romzarr.reconstruction.exchange import built_aside
from romzarr.reconstruction.remote_archive import MARK, built_at_url
from romzarr.store import layout
from romzarr.store.reading.reader import open_store

# What a NetCDF-4 file says of compression that every reader knows.
_DEFLATED = {"zlib": True, "complevel": 4, "shuffle": True}

_PACKING = frozenset({"scale_factor", "add_offset"})


def reconstruct(
    store: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    start: int | None = None,
    stop: int | None = None,
    level: int = 0,
    modes: int | None = None,
    overwrite: bool = False,
) -> None:
    """Write the dataset that a store decodes to, with its original encodings.

    Runs on the current Dask scheduler or cluster, a few chunks per worker in memory; a NetCDF
    file is written by threads of this process. What appears at `out` is complete: it is built
    aside (`romzarr.reconstruction.exchange`), and what was there is whole until then. Where
    variables are not exact it has a variable ``romzarr_quantization`` more (CF-1.12, section 8.4).

    Parameters
    ----------
    store : path or URL
    out : path or URL
        Zarr archive to write, or by its suffix (.nc) a NetCDF-4 file, for which encodings are
        kept that NetCDF knows. At a URL only Zarr, and only where nothing is.
    start, stop : int, optional
        Range of snapshots, as in a slice.
    level : int
        Grid of every ``2**level``-th point, in place of the whole one.
    modes : int, optional
        Number of leading POD modes, in place of all.
    overwrite : bool
        Replace a Zarr archive or a NetCDF file at `out`. The store itself, other stores and the
        archive that the store was made from are never replaced.

    Raises
    ------
    StoreExistsError
        If `out` exists and may not be replaced.
    ConfigError
        If the range holds no snapshot, the store has no such level, or `out` is of a kind that is
        not written.
    StoreError
        If the store is damaged, or `out` cannot be written or must not be.
    """
    target, overwrite = layout.normalised(out, "out"), as_flag(overwrite, "overwrite")
    start = None if start is None else as_whole(start, "start")
    stop = None if stop is None else as_whole(stop, "stop")
    opened, kind = open_store(store), suffix(target)
    if kind in CSV or kind == ".zip":
        raise ConfigError(f"{out}: found {kind}, allowed are Zarr (.zarr) and NetCDF (.nc)")
    dataset = xr.open_dataset(store, engine="romzarr", chunks={}, level=level, modes=modes)
    dim, given = opened.facts["time"]["dim"], {"start": start, "stop": stop}
    named = ", ".join(f"{name}={n}" for name, n in given.items() if n is not None)
    if not len(range(*slice(start, stop).indices(opened.snapshots))):
        raise ConfigError(
            f"{named}: found no snapshot, allowed are ranges within 0 to {opened.snapshots}"
        )
    chosen = dataset if dim == NO_TIME else dataset.isel({dim: slice(start, stop)})
    chosen = _marked(chosen, opened.facts["versions"].get("romzarr", "unknown"))
    write = _write_netcdf if kind in NETCDF else _write_zarr
    refuse_names(chosen)
    with _reported(target):
        if not layout.is_local(target):
            if kind in NETCDF:
                raise ConfigError(f"{out}: NetCDF files are written to local paths only")
            with built_at_url(target, overwrite) as place:
                _write_zarr(chosen, place)
            return
        destination = Destination(Path(target), opened, overwrite)
        with built_aside(destination.path, destination.replaces) as built:
            write(chosen, built)


def _marked(dataset: xr.Dataset, version: str) -> xr.Dataset:
    """The dataset as CF has lossy variables in files, if there are any.

    They name a variable without data, which says how values were changed. What another tool says
    of a variable that it has quantised before stays.
    """
    losses = {name: Loss.of(each.attrs) for name, each in dataset.data_vars.items()}
    if not any(losses.values()):
        return dataset
    container = xr.Variable((), np.int32(0), quantization_variable(version))
    marked = dataset.assign({CONTAINER: container})
    for name, loss in losses.items():
        if loss is not None:
            variable = marked[name]
            said = loss.packed() if _is_packed(variable.variable) else loss
            variable.attrs = {QUANTIZATION: CONTAINER} | said.within(variable.attrs)
    return marked


def _is_packed(variable: xr.Variable) -> bool:
    """Whether a file has other numbers than those that are decoded."""
    given = variable.encoding
    stored = np.dtype(given.get("dtype") or variable.dtype)
    narrower = stored.kind != "f" or stored.itemsize < variable.dtype.itemsize
    return narrower or not _PACKING.isdisjoint(given)


@contextmanager
def _reported(target: str) -> Iterator[None]:
    """Failures to write as errors of ours that name the place."""
    try:
        yield
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{target}: cannot be written: {error}") from error


def refuse_names(dataset: xr.Dataset) -> None:
    """Refuse variables whose names are no names of arrays below a group.

    Raises
    ------
    StoreError
    """
    for name in map(str, dataset.variables):
        if not name or "/" in name or "\0" in name or name in (".", "..") or is_document(name):
            raise StoreError(
                f"variable {name!r} cannot be an array of an archive: its name would lead out of "
                "it; read it in Python with xarray.open_dataset(..., engine='romzarr')"
            )


def _write_zarr(dataset: xr.Dataset, place: Any) -> None:
    version: Literal[2, 3] = 2 if _has_v2_codecs(dataset) else 3
    texts = {name: _texts_of(v, version) for name, v in dataset.variables.items()}
    dataset = dataset.assign({name: v for name, v in texts.items() if v is not None})
    with (
        _expressible("Zarr", "read it in Python with xarray.open_dataset(..., engine='romzarr')"),
        warnings.catch_warnings(),
    ):
        # The mark of a writer at a URL is no part of the hierarchy, and goes in the end.
        warnings.filterwarnings("ignore", message=f"Object at {MARK} is not recognized")
        dataset.to_zarr(
            place, mode="w", zarr_format=version, consolidated=version == 2, align_chunks=True
        )


@contextmanager
def _expressible(what: str, advice: str) -> Iterator[None]:
    """Say that a format cannot hold what the archive was, whose metadata may say anything.

    Raises
    ------
    StoreError
    """
    try:
        yield
    except (PipelineError, OSError, MemoryError):
        raise
    # xarray, zarr and HDF5 refuse in ways of their own.
    except Exception as error:
        refuse_blame(error)
        raise StoreError(
            f"{what} cannot hold this archive ({type(error).__name__}: {error}); {advice}"
        ) from error


def _texts_of(variable: xr.Variable, version: int) -> xr.Variable | None:
    """Texts as this version of Zarr writes them; None where a variable can stay as it is.

    Version 2 chooses their codec by itself, and refuses to be told.
    """
    told = version == 2 and "filters" in variable.encoding and variable.dtype.kind in "TU"
    if not told and variable.dtype != object:
        return None
    # xarray would load them too, with a warning.
    found = variable.compute().astype(object)
    dropped = {"filters"} if version == 2 else set()
    found.encoding = {key: v for key, v in variable.encoding.items() if key not in dropped}
    return found


def _has_v2_codecs(dataset: xr.Dataset) -> bool:
    """Whether the encodings name codecs that only Zarr v2 knows."""
    codecs = (
        codec
        for variable in dataset.variables.values()
        for codec in variable.encoding.get("compressors") or ()
    )
    return any(type(codec).__module__.startswith("numcodecs") for codec in codecs)


def _write_netcdf(dataset: xr.Dataset, path: Path) -> None:
    """Write a NetCDF-4 file, chunk by chunk.

    By threads of this process: one file is not written by several, and a few chunks are in memory
    at a time.
    """
    encoded = dataset.copy()
    for name, variable in encoded.variables.items():
        variable.encoding = netcdf_encoding(variable)
        if variable.dtype == np.float16:
            # NetCDF has no such type, and every value of it has a place in the next.
            encoded[name] = variable.astype(np.float32)
    with (
        _expressible("NetCDF", "write a Zarr archive instead"),
        dask.config.set(scheduler="threads"),
    ):
        encoded.to_netcdf(path, engine="h5netcdf", format="NETCDF4")


def netcdf_encoding(variable: xr.Variable) -> dict[str, Any]:
    """The encoding of a variable in words of NetCDF; xarray leaves out what it has none for."""
    given = dict(variable.encoding)
    chunks = given.get("chunksizes") or given.get("chunks")
    if chunks and variable.ndim == len(chunks):
        given["chunksizes"] = tuple(map(min, chunks, variable.shape))
    if given.get("compressors") and variable.dtype.kind in "biufc":
        given = _DEFLATED | given
    if given.get("dtype") == np.float16:
        given["dtype"] = np.dtype(np.float32)
    return given

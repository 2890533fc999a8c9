"""Decode a store into an ordinary archive: Zarr, or a NetCDF file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import dask
import numpy as np
import xarray as xr
import zarr

from romzarr.archive.location import suffix
from romzarr.archive.open import CSV, NETCDF
from romzarr.archive.stamp import stamp_of
from romzarr.arguments import as_flag, as_whole
from romzarr.contracts import NO_TIME
from romzarr.errors import ConfigError, PipelineError, StoreError, refuse_blame
from romzarr.loss import CONTAINER, QUANTIZATION, Loss, quantization_variable
from romzarr.objects import is_document
from romzarr.reconstruction.destination import Destination
from romzarr.reconstruction.exchange import built_aside
from romzarr.reconstruction.remote_archive import MARK, built_at_url
from romzarr.store import layout
from romzarr.store.reading.reader import CoefficientStore, open_store
from romzarr.store.trees import Tree, read_tree, store_of

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
    A tree becomes an archive with the same groups, which opens as an `xarray.DataTree`.

    Parameters
    ----------
    store : path or URL
    out : path or URL
        Zarr archive to write, or by its suffix (.nc) a NetCDF-4 file, for which encodings are
        kept that NetCDF knows. At a URL only Zarr, and only where nothing is.
    start, stop : int, optional
        Range of snapshots, as in a slice; not of a tree, whose groups have times of their own.
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
    kind, given = suffix(target), {"start": start, "stop": stop}
    if kind in CSV or kind == ".zip":
        raise ConfigError(f"{out}: found {kind}, allowed are Zarr (.zarr) and NetCDF (.nc)")
    view = partial(xr.open_dataset, engine="romzarr", chunks={}, level=level, modes=modes)
    tree = read_tree(layout.normalised(store))
    if tree is None:
        chosen = _chosen(store, given, view)
        _write([open_store(store)], {"/": chosen}, target, overwrite, lambda _: False)
        return
    if start is not None or stop is not None:
        raise ConfigError(
            f"{_named(given)}: found a range of a tree, whose groups have times of their own; give "
            "one group (--group NAME, in Python romzarr.groups(STORE)[NAME])"
        )
    stores = {each.path: store_of(layout.normalised(store), each) for each in tree.stores}
    decoded = {
        each.path: _chosen(stores[each.path], given, view)
        if each.store
        else xr.Dataset(attrs=each.attrs)
        for each in tree.branches
    }
    opened = [open_store(each) for each in stores.values()]
    _write(opened, decoded, target, overwrite, partial(_is_source, tree))


def _is_source(tree: Tree, path: Path) -> bool:
    """Whether what is at `path` may be what a tree was made from."""
    name, stamp = tree.made.get("name"), tree.made.get("stamp")
    return path.exists() and (path.name == name or (bool(stamp) and stamp_of(str(path)) == stamp))


def _named(given: Mapping[str, int | None]) -> str:
    return ", ".join(f"{name}={n}" for name, n in given.items() if n is not None)


def _chosen(
    store: str | os.PathLike[str],
    given: Mapping[str, int | None],
    view: Callable[[str | os.PathLike[str]], xr.Dataset],
) -> xr.Dataset:
    """The snapshots of a store that are to be written, as files have them."""
    opened, span = open_store(store), slice(given["start"], given["stop"])
    dataset = view(store)
    dim = opened.facts["time"]["dim"]
    if not len(range(*span.indices(opened.snapshots))):
        raise ConfigError(
            f"{_named(given)}: found no snapshot, allowed are ranges within 0 to {opened.snapshots}"
        )
    chosen = dataset if dim == NO_TIME else dataset.isel({dim: span})
    chosen = _marked(chosen, opened.facts["versions"].get("romzarr", "unknown"))
    refuse_names(chosen)
    return chosen


def _write(
    opened: Sequence[CoefficientStore],
    groups: Mapping[str, xr.Dataset],
    target: str,
    overwrite: bool,
    is_source: Callable[[Path], bool],
) -> None:
    """Write datasets as the groups of an archive, parents first."""
    is_file = suffix(target) in NETCDF
    with _reported(target):
        if not layout.is_local(target):
            if is_file:
                raise ConfigError(f"{target}: NetCDF files are written to local paths only")
            with built_at_url(target, overwrite) as place:
                _write_zarr(groups, place)
            return
        places = [Destination(Path(target), each, overwrite) for each in opened]

        def replaces() -> bool:
            found = [each.replaces() for each in places]
            if is_source(places[0].path):
                raise StoreError(
                    f"{target}: may be what the tree was made from; choose another destination"
                )
            return any(found)

        with built_aside(places[0].path, replaces) as built:
            (_write_netcdf if is_file else _write_zarr)(groups, built)


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


def _write_zarr(groups: Mapping[str, xr.Dataset], place: Any) -> None:
    version: Literal[2, 3] = 2 if any(map(_has_v2_codecs, groups.values())) else 3
    alone = len(groups) == 1
    with (
        _expressible("Zarr", "read it in Python with xarray.open_dataset(..., engine='romzarr')"),
        warnings.catch_warnings(),
    ):
        # The mark of a writer at a URL is no part of the hierarchy, and goes in the end.
        warnings.filterwarnings("ignore", message=f"Object at {MARK} is not recognized")
        for path, dataset in groups.items():
            texts = {name: _texts_of(v, version) for name, v in dataset.variables.items()}
            dataset.assign({name: v for name, v in texts.items() if v is not None}).to_zarr(
                place,
                group=None if path == "/" else path.strip("/"),
                mode="w",
                zarr_format=version,
                consolidated=version == 2 and alone,
                align_chunks=True,
            )
        if version == 2 and not alone:
            zarr.consolidate_metadata(place, zarr_format=2)


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


def _write_netcdf(groups: Mapping[str, xr.Dataset], path: Path) -> None:
    """Write a NetCDF-4 file, chunk by chunk.

    By threads of this process: one file is not written by several, and a few chunks are in memory
    at a time.
    """
    with (
        _expressible("NetCDF", "write a Zarr archive instead"),
        dask.config.set(scheduler="threads"),
    ):
        for group, dataset in groups.items():
            _as_netcdf(dataset).to_netcdf(
                path,
                group=None if group == "/" else group,
                mode="a" if path.exists() else "w",
                engine="h5netcdf",
                format="NETCDF4",
            )


def _as_netcdf(dataset: xr.Dataset) -> xr.Dataset:
    """A dataset with encodings and types of NetCDF."""
    encoded = dataset.copy()
    for name, variable in encoded.variables.items():
        variable.encoding = netcdf_encoding(variable)
        if variable.dtype == np.float16:
            # NetCDF has no such type, and every value of it has a place in the next.
            encoded[name] = variable.astype(np.float32)
    return encoded


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

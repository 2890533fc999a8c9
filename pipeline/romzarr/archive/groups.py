"""Trees of groups: each group with variables is an archive of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import h5py
import xarray as xr
import zarr

from romzarr.archive.guard import guarded, unreadable
from romzarr.archive.location import is_url, normalised, open_store, redacted, suffix
from romzarr.archive.open import NETCDF, Place, Source, lazy_dataset, name_of, places_of
from romzarr.archive.stamp import stamp_of, stamp_of_all
from romzarr.archive.time_axis import NONE, main_dim, time_axis, time_dims
from romzarr.archive.zarr_archive import MissingChunks, ZarrArchive
from romzarr.errors import ConfigError

# What says what a Zarr folder is.
DOCUMENTS = ("zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata")
# Written by romzarr: the groups of a store are none of an archive.
_OURS = "romzarr"


@dataclass(frozen=True)
class Groups:
    """The groups of a tree by path, as lazy datasets, and as what `open_archive` opens.

    ``name`` is without credentials. ``locations`` and ``stamp`` are as for an `Archive`.
    """

    name: str
    datasets: Mapping[str, xr.Dataset]
    sources: Mapping[str, Place | xr.Dataset]
    locations: tuple[str, ...] = ()
    stamp: str = ""


def groups_of(source: object, missing_chunks: MissingChunks, remote: bool = True) -> Groups | None:
    """The groups of a DataTree, a Zarr group or a local NetCDF file; None for a single dataset.

    Zarr groups at a URL are only looked for if `remote`, since each takes requests.

    Raises
    ------
    ArchiveError
        If there are groups that cannot be opened.
    """
    if isinstance(source, xr.DataTree):
        found = {node.path: node.to_dataset(inherit=False) for node in source.subtree}
        return Groups(f"tree in memory {source.name or ''}".strip(), found, found)
    if not isinstance(source, str | os.PathLike) or len(places_of(source)) != 1:
        return None
    location = normalised(source)
    what = f"archive {redacted(location)!r}: its groups cannot be opened"
    with unreadable(what):
        if _may_be_zarr(location):
            if is_url(location) and not remote:
                return None
            return _zarr_groups(location, missing_chunks)
        return _file_groups(location) if _has_file_groups(location) else None


def groups_by_time(
    source: Source, missing_chunks: MissingChunks, columns: str, engine: str
) -> Groups | None:
    """The variables of a dataset by time dim, as groups called like these; None if there is one.

    What has no time is in the group of the dim along which most values lie, and so is what has
    this dim among others.

    Raises
    ------
    ArchiveError
        If the source cannot be opened.
    """
    dataset = lazy_dataset(source, missing_chunks, "auto", columns, engine=engine)
    dims = time_dims(dataset)
    if len(dims) < 2:
        return None
    main, found = main_dim(dataset, dims), {"/": xr.Dataset(attrs=dataset.attrs)}
    rest = dataset
    for dim in dims:
        names = [n for n, v in rest.data_vars.items() if dim in v.dims and main not in v.dims]
        if names:
            found[f"/{dim}"] = rest[names]
            along = [n for n, v in rest.variables.items() if dim in v.dims and main not in v.dims]
            rest = rest.drop_vars(along)
    if len(found) == 1:
        return None
    found[f"/{main}"] = rest
    locations = tuple(map(str, places_of(source)))
    stamp = stamp_of_all(locations) if locations else ""
    return Groups(name_of(source), found, found, locations, stamp)


def _may_be_zarr(location: str) -> bool:
    kind = suffix(location)
    return kind == ".zarr" or os.path.isdir(location) or (is_url(location) and not kind)


def _zarr_groups(location: str, missing_chunks: MissingChunks) -> Groups | None:
    if not _is_plain(location):
        return None
    try:
        root = zarr.open_group(open_store(location), mode="r")
    # No group: whoever opens it as an archive says so.
    except Exception:
        return None
    if _OURS in root.attrs or next(iter(root.groups()), None) is None:
        return None
    stamp, datasets, sources = stamp_of(location), {}, dict[str, Place | xr.Dataset]()
    members = {"": root} | dict(root.members(max_depth=None))
    for name, group in members.items():
        if not isinstance(group, zarr.Group):
            continue
        place = f"{location}/{name}" if name else location
        if next(iter(group.arrays()), None) is None:
            datasets[f"/{name}"] = xr.Dataset(attrs=dict(group.attrs))
        else:
            datasets[f"/{name}"] = ZarrArchive.open(place, missing_chunks).dataset
        sources[f"/{name}"] = place
    return Groups(redacted(location), datasets, sources, (location,), stamp)


def _is_plain(location: str) -> bool:
    """Whether documents that say what is in a folder are files, and no pipes or devices: whoever
    opens it as an archive refuses those."""
    if is_url(location) or not os.path.isdir(location):
        return True
    folders = [location, *(entry.path for entry in os.scandir(location) if entry.is_dir())]
    places = (os.path.join(folder, name) for folder in folders for name in DOCUMENTS)
    return all(os.path.isfile(place) or not os.path.lexists(place) for place in places)


def _has_file_groups(location: str) -> bool:
    if is_url(location) or suffix(location) not in NETCDF or not h5py.is_hdf5(location):
        return False
    with h5py.File(location, "r") as file:
        return any(file.get(name, getclass=True) is h5py.Group for name in file)


def _file_groups(location: str) -> Groups:
    stamp = stamp_of(location)
    opened = xr.open_groups(location, engine="h5netcdf", chunks=None, cache=False)
    found = {path: guarded(dataset, location + path) for path, dataset in opened.items()}
    return Groups(location, found, found, (location,), stamp)


def time_of(groups: Groups, path: str, time: str) -> str:
    """The time dim of a group, which may have its coordinate from a group above.

    Returns "none" if no floating-point variable of the group has one. `time` counts in groups that
    have such a dim or coordinate.
    """
    dataset = _with_inherited(groups.datasets, path)
    known = time if time == NONE or time in {*dataset.dims, *dataset.coords} else "auto"
    dim = time_axis(dataset, known, f"{groups.name}{path}").dim
    floats = [v for v in dataset.data_vars.values() if v.dtype.kind == "f"]
    return dim if any(dim in v.dims for v in floats) else NONE


def _with_inherited(datasets: Mapping[str, xr.Dataset], path: str) -> xr.Dataset:
    found, parent = datasets[path], path
    while parent != "/":
        parent = parent.rpartition("/")[0] or "/"
        above = datasets.get(parent, xr.Dataset())
        found = found.assign_coords(
            {
                name: coordinate
                for name, coordinate in above.coords.items()
                if name not in found.variables
                and all(found.sizes.get(dim) == n for dim, n in coordinate.sizes.items())
            }
        )
    return found


def refuse_selection(variables: object, exclude: object) -> None:
    """Refuse names of variables, which may be in several groups.

    Raises
    ------
    ConfigError
    """
    if (variables, exclude) != ("all", "none"):
        raise ConfigError(
            "archive.variables, archive.exclude: cannot select variables of a tree of groups; give "
            "one group, or in Python a DataTree without the others"
        )

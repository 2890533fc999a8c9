"""Finds the time dim and converts times to numbers."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import cftime
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from romzarr.contracts import NO_TIME, TimeAxis
from romzarr.encoding import MAX_SNAPSHOTS
from romzarr.errors import ArchiveError

logger = logging.getLogger(__name__)

# What `archive.time` says of an archive that has none, and of one with several side by side.
NONE, EACH = "none", "each"
_NAMES = ("time", "t")
SECONDS = {"s": 1.0, "h": 3600.0, "d": 86400.0}
_NANOSECONDS = 1e9
# Differences that are this much smaller than a time step are taken for rounding errors.
ROUNDING_OF_STEP = 1e6


def time_axis(dataset: xr.Dataset, time: str, archive: str) -> TimeAxis:
    """Find and check the time axis of `dataset`.

    Parameters
    ----------
    dataset : xarray.Dataset
    time : str
        Name of a dim or of a one-dimensional coordinate; "none" for an archive without time; or
        "auto": the dim called time or t, that of a coordinate with CF axis "T" or standard_name
        "time", or that of a datetime or cftime coordinate; else that of a timedelta, else the
        unlimited dim, else none. Where several dims are, that along which most floating-point
        values lie, and of equal ones the first in this order. "each" is the same, where
        `romzarr.archive.groups.groups_by_time` has left one.
    archive : str
        Name of the archive in messages.

    Returns
    -------
    TimeAxis
        Times since the first snapshot. Calendar times are in s, h or d, whichever is the largest
        that does not exceed twice the median step.

    Raises
    ------
    ArchiveError
        If the time dim is named but missing, or of length zero, or times are missing, unsorted or
        duplicate.
    """
    looked_for = time in ("auto", EACH)
    found = _found(dataset, archive) if looked_for else _named(dataset, time, archive)
    if found is None:
        return TimeAxis(NO_TIME, np.zeros(1), "1")
    dim, coordinate = found
    size = dataset.sizes[dim]
    if size == 0:
        raise ArchiveError(
            f"archive {archive!r}: there are no snapshots along {dim!r}; set archive.time if "
            f"{dim!r} is not time"
        )
    if size > MAX_SNAPSHOTS:
        raise ArchiveError(
            f"archive {archive!r}: {size} snapshots along {dim!r}, at most {MAX_SNAPSHOTS} are "
            "allowed; check its shape, or set archive.time"
        )
    if coordinate is None:
        return TimeAxis(dim, np.arange(size, dtype=np.float64), "1")
    times = np.asarray(dataset[coordinate].values)
    _refuse_missing(times, coordinate, archive)
    _refuse_unsorted(times, coordinate, archive)
    values, units = _as_numbers(times, str(dataset[coordinate].attrs.get("units", "1")))
    # Different times may be equal in float64.
    _refuse_unsorted(values, coordinate, archive)
    return TimeAxis(dim, values, units)


def is_calendar(variable: xr.Variable) -> bool:
    """Tell whether `variable` holds datetimes, timedeltas or cftime objects; reads one value."""
    if variable.dtype.kind in "mM":
        return True
    if variable.dtype.kind != "O" or variable.size == 0:
        return False
    first = variable[(0,) * variable.ndim].values.item()
    return isinstance(first, cftime.datetime)


def named_snapshot(dataset: xr.Dataset, dim: str, number: int) -> str:
    """Name a snapshot by its number and, if there is a coordinate, its time.

    Examples
    --------
    >>> named_snapshot(xr.Dataset(coords={"time": [0.0, 0.5]}), "time", 1)
    'time[1] (0.5)'
    """
    place = f"{dim}[{number}]"
    if dim not in dataset.coords:
        return place
    return f"{place} ({shown_time(dataset[dim].values, number)})"


def shown_time(times: NDArray[Any], number: int) -> str:
    """Format one of several times with the digits that distinguish it from its neighbours.

    Examples
    --------
    >>> shown_time(0.1 * np.arange(300), 201)
    '20.1'
    >>> shown_time(np.array(["2031-07-01T06", "2031-07-01T12"], "datetime64[ns]"), 1)
    '2031-07-01T12:00'
    """
    time = times[number]
    if times.dtype.kind == "M":
        return str(np.datetime_as_string(time, unit="auto"))
    if times.dtype.kind != "f" or not np.isfinite(time):
        return str(time)
    value, near = float(time), np.abs(np.diff(times[max(number - 1, 0) : number + 2]))
    gap, rounding = float(min(near[near > 0], default=0.0)), 2 * float(np.spacing(abs(time)))
    off = min(gap / 4, max(gap / ROUNDING_OF_STEP, rounding)) if gap else rounding
    rounded = (float(f"{value:.{digits}g}") for digits in range(1, 18))
    return str(next(each for each in rounded if abs(each - value) <= off))


def _named(dataset: xr.Dataset, time: str, archive: str) -> tuple[str, str | None] | None:
    if time == NONE and time not in dataset.dims:
        return None
    if time in dataset.dims:
        return time, coordinate_along(dataset, time)
    if time in dataset.coords and dataset[time].ndim == 1:
        return str(dataset[time].dims[0]), time
    raise ArchiveError(
        f"archive {archive!r}: archive.time is {time!r}, which is neither a dim nor a coordinate "
        f"with one dim; dims are {_listed(dataset.sizes)}"
    )


def _found(dataset: xr.Dataset, archive: str) -> tuple[str, str | None] | None:
    if found := time_dims(dataset):
        dim = _main(dataset, found, archive)
        return dim, coordinate_along(dataset, dim)
    if dataset.sizes:
        logger.warning(
            "archive %r: no dim looks like time (called time or t, CF axis T, datetimes, or "
            "unlimited), so all values are taken for one snapshot; if one of %s is time, set "
            "archive.time to it",
            archive,
            _listed(dataset.sizes),
        )
    return None


def time_dims(dataset: xr.Dataset) -> list[str]:
    """All dims that may be time, those by which it is known best alone."""
    lines = [name for name, coord in dataset.coords.items() if coord.ndim == 1]
    named = [dim for dim in dataset.dims if str(dim).casefold() in _NAMES]
    marked = [dataset[name].dims[0] for name in lines if _is_cf_time(dataset[name])]
    dated = [dataset[name].dims[0] for name in lines if _is_date(dataset[name].variable)]
    spans = [dataset[name].dims[0] for name in lines if is_calendar(dataset[name].variable)]
    unlimited = [dim for dim in dataset.encoding.get("unlimited_dims", ()) if dim in dataset.dims]
    known = ([*named, *marked, *dated], spans, unlimited)
    return list(dict.fromkeys(map(str, next((found for found in known if found), []))))


def main_dim(dataset: xr.Dataset, dims: Sequence[str]) -> str:
    """The dim of most floating-point values among several, the first of equals."""
    floats = [v for v in dataset.data_vars.values() if v.dtype.kind == "f"]
    return max(dims, key=lambda dim: sum(v.size for v in floats if dim in v.dims))


def _main(dataset: xr.Dataset, dims: Sequence[str], archive: str) -> str:
    """The main dim among several that may be time, which is told."""
    floats = [v for v in dataset.data_vars.values() if v.dtype.kind == "f"]
    main = main_dim(dataset, dims)
    others = {dim for dim in dims if dim != main}
    if any(others.intersection(v.dims) and main not in v.dims for v in floats):
        logger.warning(
            "archive %r: time is %r, along which most values lie, and not %s; variables without "
            "it are copied losslessly; for another set archive.time (--time), to code along all of "
            "them to 'each'",
            archive,
            main,
            _listed(others),
        )
    return main


def _is_date(variable: xr.Variable) -> bool:
    return variable.dtype.kind != "m" and is_calendar(variable)


def _is_cf_time(coordinate: xr.DataArray) -> bool:
    return (
        str(coordinate.attrs.get("axis", "")).upper() == "T"
        or coordinate.attrs.get("standard_name") == "time"
    )


def coordinate_along(dataset: xr.Dataset, dim: str) -> str | None:
    """Find the coordinate with the times of `dim`: its own, or the only candidate."""
    if dim in dataset.coords:
        return dim
    along = [str(name) for name, coord in dataset.coords.items() if coord.dims == (dim,)]
    times = [n for n in along if _is_cf_time(dataset[n]) or is_calendar(dataset[n].variable)]
    return times[0] if len(times) == 1 else None


def _refuse_missing(times: NDArray[Any], coordinate: str, archive: str) -> None:
    if times.dtype.kind == "O":
        missing = np.array([not isinstance(time, cftime.datetime) for time in times])
    elif times.dtype.kind in "mM":
        missing = np.isnat(times)
    elif times.dtype.kind in "iuf":
        missing = ~np.isfinite(times)
    else:
        raise ArchiveError(
            f"archive {archive!r}: times in {coordinate!r} have dtype {times.dtype}, allowed are "
            "calendar times and numbers; convert them, or set archive.time"
        )
    if missing.any():
        index = int(missing.argmax())
        raise ArchiveError(
            f"archive {archive!r}: {coordinate}[{index}] is {times[index]!s}, a missing time "
            f"({int(missing.sum())} of {len(times)} are missing); drop these snapshots or fill in "
            "their times"
        )


def _refuse_unsorted(times: NDArray[Any], coordinate: str, archive: str) -> None:
    # Compared, because differences of unsigned integers wrap around.
    wrong = ~np.asarray(times[1:] > times[:-1], dtype=bool)
    if not wrong.any():
        return
    index = int(wrong.argmax()) + 1
    problem = "duplicates" if times[index - 1] == times[index] else "is before"
    before, after = (shown_time(times, k) for k in (index - 1, index))
    raise ArchiveError(
        f"archive {archive!r}: {coordinate}[{index}] = {after} {problem} "
        f"{coordinate}[{index - 1}] = {before}, but times must increase strictly; "
        f"use dataset.sortby({coordinate!r}) and .drop_duplicates({coordinate!r})"
    )


def _as_numbers(times: NDArray[Any], units: str) -> tuple[NDArray[np.float64], str]:
    if times.dtype.kind in "iuf":
        # Integers are subtracted exactly before they are rounded to float64.
        values = (times - times[0]).astype(np.float64)
        return values, units
    if times.dtype.kind == "O":
        elapsed = [time - times[0] for time in times]
        seconds = np.array([e.days * 86400.0 + e.seconds + e.microseconds / 1e6 for e in elapsed])
    else:
        nanoseconds = (times - times[0]).astype("timedelta64[ns]").astype(np.int64)
        seconds = nanoseconds / _NANOSECONDS
    step = float(np.median(np.diff(seconds))) if len(seconds) > 1 else 1.0
    unit = max((u for u in SECONDS if SECONDS[u] <= 2 * step), key=SECONDS.__getitem__, default="s")
    return seconds / SECONDS[unit], unit


def _listed(names: Iterable[Any]) -> str:
    return ", ".join(repr(str(name)) for name in sorted(names, key=str)) or "none"

"""Records of a few time series, from arrays, xarray objects and files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from romzarr.archive.csv_table import read_table
from romzarr.archive.engine_source import AUTO
from romzarr.archive.location import normalised, redacted, suffix
from romzarr.archive.open import CSV, lazy_dataset
from romzarr.archive.separate import labelled_among
from romzarr.archive.time_axis import time_axis
from romzarr.contracts import LEAST_SAMPLES, Layout, Matrix, Vector
from romzarr.errors import ArchiveError

# Largest values of a series: squares of products of four are still numbers.
SMALLEST, LARGEST = 1e-38, 1e38
States = ArrayLike | xr.DataArray | xr.Dataset


@dataclass(frozen=True)
class Series:
    """States (m, q) at increasing times (m,), with their names and the unit of time."""

    states: Matrix
    times: Vector
    names: tuple[str, ...]
    units: str = "1"


def as_series(
    states: States, times: ArrayLike | None, names: Sequence[str] | None, time: str, place: str
) -> Series:
    """One record from an array (m, q), a DataArray or a Dataset.

    Parameters
    ----------
    states : array_like, xarray.DataArray or xarray.Dataset
        An xarray object may have any order of dims; all but that of time are flattened.
    times : (m,) array_like, optional
        Default: the time coordinate of an xarray object, else the numbers of the samples.
    names : sequence of str, optional
        One for each state. Default: names of variables, labels of the other dim of a single
        variable, else x, y, z or x1, x2, ...
    time : str
        Time dim of an xarray object, or "auto".
    place : str
        What to call the record in messages.

    Raises
    ------
    ArchiveError
        If shapes do not fit, values are missing, times do not increase, or there are too few.
    """
    if isinstance(states, xr.DataArray | xr.Dataset):
        found = _from_xarray(states, times, time, place)
    else:
        found = _from_array(states, times, place)
    if names is not None:
        if len(names) != len(found.names) or len(set(names)) < len(names):
            raise ArchiveError(
                f"names: found {list(names)!r} for {len(found.names)} series of {place}; give "
                "one different name for each"
            )
        found = Series(found.states, found.times, tuple(map(str, names)), found.units)
    _check(found, place)
    return found


def read_series(
    location: str, layout: Layout = Layout.AUTO, time: str = "auto", engine: str = AUTO
) -> Series:
    """The series of a CSV file, a NetCDF file or a Zarr group, or of what an engine opens.

    Raises
    ------
    ArchiveError
        If the file cannot be read, or as for `as_series`.
    """
    name = redacted(location)
    if engine == AUTO and suffix(normalised(location)) in CSV:
        dataset = read_table(location, layout)
    else:
        dataset = lazy_dataset(location, "error", engine=engine)
    return as_series(dataset, None, None, time, name)


def _from_xarray(
    states: xr.DataArray | xr.Dataset, times: ArrayLike | None, time: str, place: str
) -> Series:
    dataset = _split(states)
    axis = time_axis(dataset, time, place)
    if len(axis.values) < LEAST_SAMPLES:
        raise ArchiveError(
            f"{place}: found {len(axis.values)} samples along {axis.dim or 'no time dim'!r}, at "
            f"least {LEAST_SAMPLES} are needed; give longer series, or name their time (--time)"
        )
    columns: dict[str, Any] = {}
    for name, variable in dataset.data_vars.items():
        if axis.dim not in variable.dims or variable.dtype.kind not in "fiu":
            continue
        others = [dim for dim in variable.dims if dim != axis.dim]
        values = variable.transpose(axis.dim, *others).values.reshape(axis.values.size, -1)
        labels = [f"{name}{k + 1}" for k in range(values.shape[1])] if others else [str(name)]
        columns |= dict(zip(labels, values.T, strict=True))
    if not columns:
        raise ArchiveError(
            f"{place}: found no numbers along {axis.dim!r}; give variables that change in time"
        )
    values = np.column_stack([np.asarray(each, np.float64) for each in columns.values()])
    if times is None:
        return Series(values, axis.values, tuple(columns), axis.units)
    return Series(values, np.asarray(times, np.float64), tuple(columns))


def _split(states: xr.DataArray | xr.Dataset) -> xr.Dataset:
    """A variable for each label of a dim of texts, where there is a single variable."""
    if isinstance(states, xr.DataArray):
        states = states.to_dataset(name="x" if states.name is None else states.name)
    if len(states.data_vars) != 1:
        return states
    (only,) = states.data_vars.values()
    for dim in labelled_among(tuple(map(str, only.dims)), states.variables):
        labels = map(str, states[dim].values)
        return xr.Dataset({label: only.isel({dim: k}, drop=True) for k, label in enumerate(labels)})
    return states


def _from_array(states: ArrayLike, times: ArrayLike | None, place: str) -> Series:
    values = np.asarray(states, np.float64)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2:
        raise ArchiveError(
            f"{place}: found an array of shape {values.shape}; give one of (samples, series)"
        )
    count = values.shape[1]
    names = tuple("xyz"[:count]) if count <= 3 else tuple(f"x{k + 1}" for k in range(count))
    if times is None:
        return Series(values, np.arange(len(values), dtype=np.float64), names)
    return Series(values, np.asarray(times, np.float64), names)


def _check(series: Series, place: str) -> None:
    states, times = series.states, series.times
    if times.shape != (len(states),):
        raise ArchiveError(
            f"{place}: found times of shape {times.shape} for {len(states)} samples; give one "
            "time for each sample (series are columns: transpose an array of rows)"
        )
    if len(states) < LEAST_SAMPLES:
        raise ArchiveError(
            f"{place}: found {len(states)} samples, a model needs {LEAST_SAMPLES} or more; give "
            "a longer record"
        )
    if not np.isfinite(states).all():
        sample, column = np.argwhere(~np.isfinite(states))[0]
        raise ArchiveError(
            f"{place}: {series.names[column]!r} is {states[sample, column]} at sample {sample}; "
            "leave out such samples, or give what lies between them as a list of records"
        )
    for name, size in zip(series.names, np.abs(states).max(axis=0).tolist(), strict=True):
        if size and not SMALLEST <= size <= LARGEST:
            raise ArchiveError(
                f"{place}: {name!r} is {size:.2g} at most, allowed are {SMALLEST:g} to "
                f"{LARGEST:g}; give it in other units"
            )
    steps = np.diff(times)
    if not (np.isfinite(times).all() and (steps > 0).all()):
        late = int(np.argmin(np.where(np.isfinite(steps), steps, -np.inf))) + 1
        raise ArchiveError(
            f"{place}: times have to increase, found {times[late]} at sample {late} after "
            f"{times[late - 1]}; sort the samples, and give several runs as a list of records"
        )

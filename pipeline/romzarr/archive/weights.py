"""Weights of the error norm: cell areas, or the cosine of latitude."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr

from romzarr.contracts import Floats
from romzarr.errors import ArchiveError

_LATITUDE_UNITS = frozenset(
    {"degrees_north", "degree_north", "degree_n", "degrees_n", "degreen", "degreesn"}
)
_LATITUDE_NAMES = ("lat", "latitude", "nav_lat")
# At a pole, latitudes in float32 may give a cosine this far below zero.
_POLE = 1e-6


def weights_of(
    dataset: xr.Dataset, name: str, time_dim: str, weights: str, archive: str
) -> Floats | None:
    """Return the weights of data variable `name`.

    Parameters
    ----------
    weights : str
        "none", "cos(latitude)", or the name of a coordinate or variable over space dims.

    Returns
    -------
    ndarray, float64, shape of the variable without time, or None
        A read-only broadcast view if `weights` has fewer dims.

    Raises
    ------
    ArchiveError
        If there is no such coordinate or variable, its dims do not fit, or values are negative, not
        finite, or all zero.
    """
    if weights == "none":
        return None
    variable = dataset.variables[name]
    space = {str(dim): size for dim, size in variable.sizes.items() if dim != time_dim}
    if weights == "cos(latitude)":
        found = _cosine(_latitude(dataset, name, space, archive))
    elif weights in dataset.variables:
        found = dataset.variables[weights]
    else:
        raise ArchiveError(
            f"archive {archive!r}: there is no variable {weights!r} (archive.weights); use none, "
            f"cos(latitude), or one of {', '.join(sorted(map(repr, map(str, dataset.variables))))}"
        )
    if not set(found.dims) <= set(space) or found.dtype.kind not in "iuf":
        raise ArchiveError(
            f"archive {archive!r}: archive.weights {weights!r} has dims {found.dims} and dtype "
            f"{found.dtype}; for variable {name!r} it must hold numbers over some of "
            f"{tuple(space)}"
        )
    values = np.asarray(found.values, dtype=np.float64)
    _refuse_bad(values, weights, archive)
    return np.asarray(xr.Variable(found.dims, values).set_dims(space).values)


def _refuse_bad(values: Floats, weights: str, archive: str) -> None:
    bad = ~(np.isfinite(values) & (values >= 0))
    if bad.any():
        place = tuple(int(i) for i in np.argwhere(bad)[0])
        problem = (
            f"{weights!r} is {float(values[place])!r} at {place} ({int(bad.sum())} such points)"
        )
    elif not values.any():
        problem = f"{weights!r} is zero everywhere"
    else:
        return
    raise ArchiveError(
        f"archive {archive!r}: archive.weights {problem}; weights must be finite, non-negative "
        "and not all zero; use 0 for points that do not count"
    )


def _latitude(dataset: xr.Dataset, name: str, space: dict[str, int], archive: str) -> xr.Variable:
    """Find the latitude of variable `name`: by standard_name, else by units, else by name."""
    rules: tuple[Callable[[str, xr.Variable], bool], ...] = (
        lambda _, v: v.attrs.get("standard_name") == "latitude",
        lambda _, v: str(v.attrs.get("units", "")).casefold() in _LATITUDE_UNITS,
        lambda n, _: n.casefold() in _LATITUDE_NAMES,
    )
    fitting = {
        str(key): variable
        for key, variable in dataset.variables.items()
        if variable.ndim in (1, 2) and set(variable.dims) <= set(space)
    }
    for rule in rules:
        found = [key for key, variable in fitting.items() if rule(key, variable)]
        if len(found) == 1:
            return fitting[found[0]]
        if found:
            break
    else:
        found = sorted(fitting)
    raise ArchiveError(
        f"archive {archive!r}: archive.weights cos(latitude) needs one latitude coordinate over "
        f"the dims {tuple(space)} of variable {name!r} (standard_name latitude, units "
        "degrees_north, or called lat, latitude or nav_lat); candidates are "
        f"{', '.join(map(repr, found)) or 'none'}; set the standard_name of one of them, or give "
        "the name of a variable as weights"
    )


def _cosine(latitude: xr.Variable) -> xr.Variable:
    values = np.asarray(latitude.values, dtype=np.float64)
    if str(latitude.attrs.get("units", "")).casefold() not in ("radian", "radians", "rad"):
        values = np.deg2rad(values)
    cosine = np.cos(values)
    return xr.Variable(latitude.dims, np.where(np.abs(cosine) < _POLE, np.abs(cosine), cosine))

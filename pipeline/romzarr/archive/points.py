"""Meshes: which dims of an archive number points that have two or three coordinates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from romzarr.contracts import Curve, Floats

# How coordinates say what they are: standard names, units, axes (CF conventions, chapter 4), and
# names, among them those of ICON (clon, vlat) and MPAS (lonCell, yEdge).
_LONGITUDE, _LATITUDE = (
    frozenset({long, short, f"nav_{short}", *(f"{c}{short}" for c in "cev"), degrees})
    | {f"degree{s}{d}{way}" for s in ("", "s") for d in ("", "_") for way in (word, word[0])}
    | {f"{short}{place}" for place in ("cell", "edge", "vertex", "node", "face")}
    for long, short, degrees, word in (
        ("longitude", "lon", "degrees_east", "east"),
        ("latitude", "lat", "degrees_north", "north"),
    )
)
_X, _Y, _Z = (
    frozenset({axis, f"projection_{axis}_coordinate"})
    | {f"{axis}{place}" for place in ("cell", "edge", "vertex", "node", "face")}
    for axis in "xyz"
)
_RADIANS = frozenset({"radian", "radians", "rad"})
# Largest latitude in radians, with what rounding may add.
_RIGHT_ANGLE = 1.5708


@dataclass(frozen=True)
class Points:
    """The points that a dim numbers: names and values (n,) of what a ``curve`` goes through."""

    dim: str
    curve: Curve
    names: tuple[str, ...]
    values: tuple[Floats, ...]


def points_of(carried: xr.Dataset, dim: str) -> Points | None:
    """Find the coordinates of the points of a dim; None if it numbers none.

    Longitude and latitude come before x, y and z, and what a variable or a mesh of the UGRID
    conventions names as coordinates before all others. They have to be finite numbers that are
    stored as they are, which the same order can be made of again. Reads them.
    """
    found = {
        str(name): variable
        for name, variable in carried.variables.items()
        if variable.dims == (dim,) and name != dim and _is_plain(variable)
    }
    # What is said to be a coordinate comes first.
    first = [*_named(carried), *map(str, carried.coords)]
    found = {name: found[name] for name in dict.fromkeys([*first, *found]) if name in found}
    for roles in ((_LONGITUDE, _LATITUDE), (_X, _Y, _Z), (_X, _Y)):
        names = tuple(name for role in roles if (name := _first(found, role)) is not None)
        if len(set(names)) == len(roles):
            values = tuple(np.asarray(found[name].values) for name in names)
            if all(np.isfinite(each).all() for each in values):
                units = {str(found[name].attrs.get("units", "")).lower() for name in names}
                return Points(dim, _curve(len(roles), roles[0], units, values), names, values)
    return None


def _named(carried: xr.Dataset) -> Iterator[str]:
    """Names of coordinates that meshes list (UGRID conventions 1.0)."""
    for variable in carried.variables.values():
        if variable.attrs.get("cf_role") == "mesh_topology":
            for key, value in variable.attrs.items():
                if str(key).endswith("_coordinates"):
                    yield from str(value).split()


def _is_plain(variable: xr.Variable) -> bool:
    """Whether numbers are stored as they are decoded."""
    encoding = variable.encoding
    stored = np.dtype(encoding.get("dtype", variable.dtype))
    packed = {"scale_factor", "add_offset"} & set(encoding)
    same = stored.newbyteorder("=") == variable.dtype.newbyteorder("=")
    return variable.dtype.kind in "fiu" and same and not packed


def _first(found: Mapping[str, xr.Variable], role: frozenset[str]) -> str | None:
    """The variable that has a role: by its attributes, else by its name, else by a word of it."""
    tests = (_told, _name, _words)
    return next(
        (n for words in tests for n, variable in found.items() if role & words(n, variable)), None
    )


def _told(_: str, variable: xr.Variable) -> set[str]:
    keys = ("standard_name", "units", "axis")
    return {str(variable.attrs.get(key, "")).lower() for key in keys}


def _name(name: str, variable: xr.Variable) -> set[str]:
    # Attributes that make it an angle count more than the name.
    return set() if _told(name, variable) & (_LONGITUDE | _LATITUDE) else {name.lower()}


def _words(name: str, variable: xr.Variable) -> set[str]:
    """Words of names like ``cell_lon``."""
    return set(name.lower().split("_")) if _name(name, variable) else set()


def _curve(count: int, role: frozenset[str], units: set[str], values: tuple[Floats, ...]) -> Curve:
    if role is not _LONGITUDE:
        return Curve.PLANE if count == 2 else Curve.SPACE
    untold = units == {""} and float(np.max(np.abs(values[1]), initial=0.0)) < _RIGHT_ANGLE
    return Curve.RADIANS if units & _RADIANS or untold else Curve.DEGREES

"""Tells which dims of a variable go along x, y and z, and which go nowhere, as cells of a mesh."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from enum import StrEnum

import numpy as np
import xarray as xr

from romzarr.archive.vertical import is_horizontal, vertical_among
from romzarr.contracts import Vector


class Direction(StrEnum):
    """A direction in space, in the order of the components of a vector."""

    X = "x"
    Y = "y"
    Z = "z"


# By the CF conventions (sections 4.1 and 4.2, and projection coordinates in 5.6).
_STANDARD = {
    Direction.X: re.compile(r"(.*_)?longitude|projection_x_.*|grid_longitude"),
    Direction.Y: re.compile(r"(.*_)?latitude|projection_y_.*|grid_latitude"),
}
_UNITS = {
    Direction.X: re.compile(r"degrees?_?(east|e)", re.IGNORECASE),
    Direction.Y: re.compile(r"degrees?_?(north|n)", re.IGNORECASE),
}
# In wide use, with the grids of velocities of ocean models.
_NAMES = {
    Direction.X: re.compile(r"x|[rn]?lon|longitude|x[hqtu]|x[tu]_ocean|xi_(rho|u|v|psi)|west_east"),
    Direction.Y: re.compile(
        r"y|[rn]?lat|latitude|y[hqtu]|y[tu]_ocean|eta_(rho|u|v|psi)|south_north"
    ),
}
_DEGREES = re.compile(r"degrees?(_?(north|east|n|e))?", re.IGNORECASE)
_RADIANS = re.compile(r"rad(ians?)?", re.IGNORECASE)
_ANGLES = re.compile(r"r?(lon|lat)|longitude|latitude", re.IGNORECASE)
# Dims that number places which lie anywhere: neighbours by number are none in space.
_UNORDERED = re.compile(
    r"(n|num_?)?(cell|cells|ncells|col|node|nodes|nod2|nod2d|station|stations|particle|particles"
    r"|trajectory|obs|point|points|face|faces|site|sites)(_?\d+)?|n?mesh2?d?_?n?(face|node|edge)s?",
    re.IGNORECASE,
)


def directions_of(
    dims: Sequence[str], coordinates: Mapping[Hashable, xr.Variable]
) -> dict[Direction, str]:
    """Return the dim that goes along x, y and z, where there is one: by ``axis``, standard name or
    units of its coordinate in the CF conventions, or by a name in wide use.

    Examples
    --------
    >>> level = xr.Variable("k", [0.0, 1.0], {"axis": "Z"})
    >>> {str(d): dim for d, dim in directions_of(("k", "lat", "n"), {"k": level}).items()}
    {'y': 'lat', 'z': 'k'}
    """
    found: dict[Direction, str] = {}
    for direction in (Direction.X, Direction.Y):
        along = [dim for dim in dims if _goes_along(direction, dim, coordinates)]
        if len(along) == 1:
            found[direction] = along[0]
    vertical = vertical_among(dims, coordinates) or tuple(dim for dim in dims if dim == "z")
    if len(vertical) == 1:
        found[Direction.Z] = vertical[0]
    return found


def angles_of(dim: str, coordinates: Mapping[Hashable, xr.Variable]) -> Vector | None:
    """The coordinate of a dim in radians, if it is a longitude or latitude; None if it is none."""
    own = coordinates.get(dim)
    if own is None or own.dims != (dim,) or own.dtype.kind not in "iuf":
        return None
    values, units = np.asarray(own.values, np.float64), str(own.attrs.get("units", "")).strip()
    if _RADIANS.fullmatch(units):
        return values
    by_name = not units and _ANGLES.fullmatch(dim) is not None
    return np.deg2rad(values) if by_name or _DEGREES.fullmatch(units) else None


def is_scattered(dim: str, coordinates: Mapping[Hashable, xr.Variable]) -> bool:
    """Whether a dim numbers places that lie anywhere: by its name, or two horizontal coordinates
    along it."""
    along = {name: each for name, each in coordinates.items() if each.dims == (dim,)}
    named = [
        name for name, each in along.items()
        if is_horizontal(str(name), {name: xr.Variable((str(name),), [0], each.attrs)})
    ]  # fmt: skip
    return len(named) > 1 or _UNORDERED.fullmatch(dim) is not None


def _goes_along(
    direction: Direction, dim: str, coordinates: Mapping[Hashable, xr.Variable]
) -> bool:
    own = coordinates.get(dim)
    attrs = {} if own is None or own.dims != (dim,) else own.attrs
    axis, standard, units = (
        str(attrs.get(key, "")).strip() for key in ("axis", "standard_name", "units")
    )
    if axis:
        return axis.lower() == direction
    for said, patterns in ((standard, _STANDARD), (units, _UNITS)):
        if any(pattern.fullmatch(said) for pattern in patterns.values()):
            return patterns[direction].fullmatch(said) is not None
    return _NAMES[direction].fullmatch(dim.casefold()) is not None

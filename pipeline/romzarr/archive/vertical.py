"""Tells which dims of a variable are vertical: depth, height, pressure, model levels."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import xarray as xr

# Standard names of vertical coordinates (CF conventions 1.12, section 4.3 and appendix D, and the
# table of standard names).
_STANDARD = re.compile(
    r"(air_|sea_water_)?pressure|altitude|height(_above_.*)?|depth(_below_.*)?"
    r"|geopotential_height|model_level_number(_.*)?|(atmosphere|ocean)_.*_coordinate(_g[12])?|.*_potential_temperature"
)
# Pressure says vertical by itself (section 4.3.1 there).
_PRESSURE = frozenset(
    {"pa", "hpa", "kpa", "mb", "mbar", "millibar", "millibars", "bar", "dbar", "decibar"}
)
# Names in wide use, with or without a number at the end: NEMO (deptht, nav_lev), MITgcm (Zl, Zp1),
# MOM (st_ocean, zl), POP (z_t), ROMS and FVCOM (s_rho, siglay), WRF (bottom_top), CAM (ilev),
# GFDL (pfull), MPAS (nVertLevels), FESOM (nz1), ecCodes (isobaricInhPa, hybrid).
# z alone may be one of three like dims.
_NAMES = re.compile(
    r"(nav_|[inpoa]|model_?|pressure_?|nvert|hybrid_?)?(lev|level|levels)(_?\d+|_soil|_bnds|sp1)?"
    r"|(depth|deptht|depthu|depthv|depthw|height|altitude|elevation|plev|layer|layers)s?(_?\d+)?"
    r"|z(_?[tluw]|_?i|_?rho|p1|mc|ifc|_?\d+|_?[tw]_\d+)|nz(_?\d+)?|grid_z[tw]|s_(rho|w)"
    r"|s[tw]_ocean|sig(ma|lay|lev)|bottom_top(_stag)?|soil_layers_stag|p(full|half)"
    r"|isobaricin(h)?pa|hybrid|generalverticallayer|heightaboveground|depthbelowlandlayer"
)
_HORIZONTAL_UNITS = re.compile(r"degrees?_?(north|east|n|e)", re.IGNORECASE)
_HORIZONTAL = frozenset(
    {"x", "y", "lon", "lat", "longitude", "latitude", "rlon", "rlat", "nlon", "nlat", "xt_ocean"}
    | {"yt_ocean", "xh", "yh", "xq", "yq", "eta_rho", "xi_rho", "west_east", "south_north"}
)
_HORIZONTAL_NAMES = re.compile(r"(.*_)?(longitude|latitude)|projection_[xy]_coordinate")


def vertical_among(
    dims: Sequence[str], coordinates: Mapping[Hashable, xr.Variable]
) -> tuple[str, ...]:
    """Return those of `dims` along which levels lie one above the other, in their order.

    A dim is vertical if the coordinate of its name is: by ``axis: Z``, by ``positive``, by a
    standard name or units of the CF conventions (section 4.3), or, where attributes say neither
    this nor another axis, by a name in wide use such as lev or depth. Failing that, other
    coordinates along it alone count, by their attributes only, unless the dim has horizontal ones
    as well: stations have altitudes, and lie side by side. Reads no values.

    Parameters
    ----------
    dims : sequence of str
        Of a variable; leave out time.
    coordinates : mapping of names to xarray.Variable
        Those of the dataset, e.g. ``Dataset.coords``' variables.

    Examples
    --------
    >>> depth = xr.Variable(("k",), [5.0, 15.0], {"positive": "down"})
    >>> vertical_among(("k", "y", "x"), {"depth": depth}), vertical_among(("lev", "lat"), {})
    (('k',), ('lev',))
    """
    return tuple(dim for dim in dims if _is_vertical(dim, coordinates))


def is_horizontal(dim: str, coordinates: Mapping[Hashable, xr.Variable]) -> bool:
    """Whether the coordinate of a dim is horizontal by the CF conventions (sections 4.1 and 4.2),
    or else its name by wide use; arguments are those of `vertical_among`."""
    own = coordinates.get(dim)
    attrs = {} if own is None or own.dims != (dim,) else own.attrs
    if _says_vertical(attrs) or _text(attrs, "axis").upper() == "T":
        return False
    return _says_other(attrs) or dim.casefold() in _HORIZONTAL


def _is_vertical(dim: str, coordinates: Mapping[Hashable, xr.Variable]) -> bool:
    along = {name: each.attrs for name, each in coordinates.items() if each.dims == (dim,)}
    own = along.pop(dim, {})
    if _says_vertical(own):
        return True
    if _says_other(own) or any(_says_other(attrs) for attrs in along.values()):
        return False
    by_name = _NAMES.fullmatch(dim.casefold()) is not None
    return by_name or any(_says_vertical(attrs) for attrs in along.values())


def _says_vertical(attrs: Mapping[Any, Any]) -> bool:
    """Whether attributes of a coordinate call it vertical."""
    if _says_other(attrs):
        return False
    return (
        _text(attrs, "axis").upper() == "Z"
        or _text(attrs, "positive").lower() in ("up", "down")
        or _STANDARD.fullmatch(_text(attrs, "standard_name")) is not None
        or _text(attrs, "units").lower() in _PRESSURE
    )


def _says_other(attrs: Mapping[Any, Any]) -> bool:
    """Whether attributes of a coordinate call it horizontal, or that of time."""
    return (
        _text(attrs, "axis").upper() in ("X", "Y", "T")
        or _HORIZONTAL_NAMES.fullmatch(_text(attrs, "standard_name")) is not None
        or _HORIZONTAL_UNITS.fullmatch(_text(attrs, "units")) is not None
    )


def _text(attrs: Mapping[Any, Any], key: str) -> str:
    return str(attrs.get(key, "")).strip()

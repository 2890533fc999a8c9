"""Which dims of an archive are vertical."""

from __future__ import annotations

import xarray as xr

from romzarr.archive.archive import Archive

# Standard names of vertical coordinates, dimensionless ones included (CF conventions 1.12, section
# 4.3 and appendix D).
STANDARD_NAMES = frozenset(
    {
        "air_pressure",
        "altitude",
        "atmosphere_hybrid_height_coordinate",
        "atmosphere_hybrid_sigma_pressure_coordinate",
        "atmosphere_ln_pressure_coordinate",
        "atmosphere_sigma_coordinate",
        "atmosphere_sleve_coordinate",
        "depth",
        "geopotential_height",
        "height",
        "height_above_mean_sea_level",
        "model_level_number",
        "ocean_double_sigma_coordinate",
        "ocean_s_coordinate",
        "ocean_s_coordinate_g1",
        "ocean_s_coordinate_g2",
        "ocean_sigma_coordinate",
        "ocean_sigma_z_coordinate",
        "sea_water_pressure",
    }
)
# Dims that models call so, where no attribute says more. z alone may be one of three like dims.
NAMES = frozenset(
    {
        *("lev", "level", "levels", "layer", "plev", "pressure_level", "isobaricinhpa"),
        *("model_level", "hybrid", "sigma", "depth", "deptht", "depthu", "depthv", "depthw"),
        *("height", "altitude", "bottom_top", "s_rho", "s_w", "olevel", "alevel", "ilev"),
    }
)


def vertical_dims(archive: Archive) -> tuple[str, ...]:
    """The vertical dims of the variables to be compressed, sorted.

    A dim is vertical if a coordinate along it alone says so by ``axis: Z``, ``positive``, or its
    standard name (CF conventions, section 4.3), or if it is called like a vertical one and no
    coordinate of it has another axis.
    """
    coords = archive.carried.coords.values()
    dims = {dim for variable in archive.variables for dim in variable.space_dims}
    return tuple(
        sorted(dim for dim in dims if _is_vertical(dim, [c for c in coords if c.dims == (dim,)]))
    )


def _is_vertical(dim: str, coords: list[xr.DataArray]) -> bool:
    said = [axis for coord in coords if (axis := str(coord.attrs.get("axis", "")).upper())]
    if said:
        return "Z" in said
    if any(_says_vertical(coord) for coord in coords):
        return True
    return dim.lower() in NAMES


def _says_vertical(coord: xr.DataArray) -> bool:
    positive = str(coord.attrs.get("positive", "")).lower() in ("up", "down")
    return positive or coord.attrs.get("standard_name") in STANDARD_NAMES

"""Vertical dims are found by what the CF conventions and models call them."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from romzarr.archive.vertical import vertical_among

IN_USE = """
lev level levels ilev nlev nav_lev model_level pressure_level plev plev19 lev_2 depth deptht depthw
height height_2 altitude z_t z_l Zl Zp1 nz nz1 st_ocean s_rho siglay sigma bottom_top
bottom_top_stag pfull nVertLevels isobaricInhPa hybrid soil_layers_stag
"""
OTHERS = """
x y lat lon latitude longitude i j nx ny time member band wavelength ncells cell station eta_rho
xi_rho west_east south_north frequency ensemble component species zone sw z Z
"""


def along(dim: str, **attrs: str) -> xr.Variable:
    return xr.Variable((dim,), np.arange(3.0), attrs)


@pytest.mark.parametrize(
    "attrs",
    [
        {"axis": "Z"},
        {"positive": "down"},
        {"positive": "Up"},
        {"standard_name": "air_pressure"},
        {"standard_name": "depth"},
        {"standard_name": "model_level_number"},
        {"standard_name": "atmosphere_hybrid_sigma_pressure_coordinate"},
        {"standard_name": "ocean_s_coordinate_g2"},
        {"standard_name": "height_above_mean_sea_level"},
        {"units": "hPa"},
    ],
)
@pytest.mark.parametrize("name", ["k", "c"])
def test_attributes_say_so_of_any_coordinate_along_a_dim(attrs, name):
    assert vertical_among(("y", "k", "x"), {name: along("k", **attrs)}) == ("k",)


@pytest.mark.parametrize("name", IN_USE.split())
def test_names_in_wide_use_suffice(name):
    assert vertical_among(("lat", name, "lon"), {}) == (name,)
    assert vertical_among((name,), {name: along(name, units="m")}) == (name,)


@pytest.mark.parametrize("name", OTHERS.split())
def test_other_names_do_not(name):
    assert vertical_among((name,), {}) == ()
    assert vertical_among((name,), {name: along(name, units="m")}) == ()


@pytest.mark.parametrize(
    "attrs",
    [{"axis": "Y"}, {"standard_name": "latitude"}, {"units": "degrees_east"}],
)
def test_attributes_outweigh_a_name(attrs):
    assert vertical_among(("level",), {"level": along("level", **attrs)}) == ()


def test_stations_lie_side_by_side_whatever_their_altitude():
    coordinates = {
        "altitude": along("station", standard_name="altitude", positive="up"),
        "lat": along("station", standard_name="latitude", units="degrees_north"),
    }
    assert vertical_among(("station",), coordinates) == ()


def test_coordinates_of_several_dims_do_not_count():
    depth = xr.Variable(("y", "x"), np.ones((2, 2)), {"positive": "down"})
    assert vertical_among(("y", "x"), {"depth": depth}) == ()


def test_all_vertical_among_are_named_in_order():
    assert vertical_among(("lev", "y", "depth"), {}) == ("lev", "depth")

"""Weights of the points: cosine of latitude or a named variable, in the variable's shape."""

import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose, assert_array_equal

from romzarr.archive import open_archive
from romzarr.errors import ArchiveError

LAT = np.array([-90.0, -45.0, 0.0, 60.0])


def sample(dims=("time", "lat", "lon"), **coords):
    sizes = {"time": 6, "lat": 4, "lon": 3}
    return xr.Dataset({"u": (dims, np.ones([sizes[dim] for dim in dims]))}, coords=coords)


def weights(dataset, name):
    (variable,) = open_archive(dataset, weights=name).variables
    found = variable.inner_product.weights
    assert found is None or found.shape == variable.space_shape
    return found


def test_none_are_none():
    assert weights(sample(), "none") is None


@pytest.mark.parametrize(
    ("coords", "dims"),
    [
        ({"lat": LAT}, ("time", "lat", "lon")),
        ({"lat": LAT}, ("lon", "time", "lat")),
        ({"latitude": ("lat", LAT)}, ("time", "lat", "lon")),
        ({"phi": ("lat", LAT, {"units": "degrees_north"})}, ("lat", "lon", "time")),
        ({"phi": ("lat", LAT, {"standard_name": "latitude"})}, ("time", "lon", "lat")),
        (
            {"phi": ("lat", np.deg2rad(LAT), {"standard_name": "latitude", "units": "radians"})},
            ("time", "lat", "lon"),
        ),
        ({"nav_lat": (("lon", "lat"), np.tile(LAT, (3, 1)))}, ("time", "lat", "lon")),
    ],
)
def test_the_cosine_of_latitude_has_the_shape_of_the_variables_space(coords, dims):
    found = weights(sample(dims, **coords), "cos(latitude)")
    expected = np.tile([0.0, np.sqrt(0.5), 1.0, 0.5], (3, 1))
    if [dim for dim in dims if dim != "time"] == ["lat", "lon"]:
        expected = expected.T
    assert_allclose(found, expected, atol=1e-15)


def test_a_standard_name_wins_over_a_name():
    true = ("lat", LAT, {"standard_name": "latitude"})
    found = weights(sample(lat=np.zeros(4), phi=true), "cos(latitude)")
    assert_allclose(found[:, 0], np.cos(np.deg2rad(LAT)), atol=1e-15)


@pytest.mark.parametrize("dims", [("time", "lat", "lon"), ("lon", "lat", "time")])
def test_a_named_variable_is_broadcast(dims):
    area = np.arange(4.0)
    found = weights(sample(dims).assign(area=("lat", area)), "area")
    expected = np.broadcast_to(area[:, None], (4, 3))
    assert_array_equal(found, expected if dims[0] == "time" else expected.T)


@pytest.mark.parametrize(
    ("coords", "name", "message"),
    [
        ({}, "cos(latitude)", "needs one latitude.*candidates are none"),
        ({"y": ("lat", LAT)}, "cos(latitude)", "candidates are 'y'"),
        ({"lat": LAT, "latitude": ("lat", LAT)}, "cos(latitude)", "are 'lat', 'latitude'; set"),
        ({"lat": 2 * LAT}, "cos(latitude)", r"is -1.*weights must be finite, non-negative"),
        ({}, "area", r"there is no variable 'area' \(archive.weights\); use none"),
        ({"area": ("time", np.ones(6))}, "area", r"has dims \('time',\).*over some of"),
        ({"area": ("lat", list("abcd"))}, "area", "must hold numbers"),
        ({"area": ("lat", [1.0, -2, -3, 1])}, "area", r"-2.* at \(1,\) \(2 such points\)"),
        ({"area": ("lat", [1.0, 2, np.nan, 1])}, "area", r"nan.* at \(2,\)"),
        ({"area": ("lat", [1.0, 2, np.inf, 1])}, "area", r"inf.* at \(2,\)"),
        ({"area": ("lat", np.zeros(4))}, "area", "'area' is zero everywhere"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(coords, name, message):
    with pytest.raises(ArchiveError, match=message):
        weights(sample(**coords), name)

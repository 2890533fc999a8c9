"""Which dims number points with coordinates, by the conventions of several models."""

import numpy as np
import pytest
import xarray as xr

from romzarr.archive.points import points_of
from romzarr.contracts import Curve

N = 5
A, B, C = np.random.default_rng(0).uniform(-1, 1, (3, N))
MESH = (
    (),
    0,
    {"cf_role": "mesh_topology", "face_coordinates": "one two", "node_coordinates": "p q"},
)
DIRECTIONS = {"one": {"standard_name": "longitude"}, "two": {"standard_name": "latitude"}}

CASES = {
    "CF": ({"a": A, "b": B}, {"a": {"units": "degrees_east"}, "b": {"units": "degree_N"}},
           ("a", "b"), Curve.DEGREES),
    "ICON": ({"clat": A, "clon": B}, {"clon": {"units": "radian"}, "clat": {"units": "radian"}},
             ("clon", "clat"), Curve.RADIANS),
    "MPAS": ({"latCell": A, "lonCell": 4 + B, "xCell": C, "yCell": C, "zCell": C}, {},
             ("lonCell", "latCell"), Curve.RADIANS),
    "degrees without units": ({"lat": 40 * A, "lon": 4 + B}, {}, ("lon", "lat"), Curve.DEGREES),
    "plane": ({"x": A, "y": B}, {}, ("x", "y"), Curve.PLANE),
    "space": ({"cz": A, "x": B, "y": C}, {"cz": {"axis": "Z"}}, ("x", "y", "cz"), Curve.SPACE),
    "words": ({"cell_x": A, "cell_y": B}, {}, ("cell_x", "cell_y"), Curve.PLANE),
    "projection": ({"east": A, "north": B},
                   {"east": {"standard_name": "projection_x_coordinate"},
                    "north": {"standard_name": "projection_y_coordinate"}},
                   ("east", "north"), Curve.PLANE),
    "UGRID": ({"lon": A, "lat": B, "one": C, "two": A},
              {**DIRECTIONS, "lon": DIRECTIONS["one"], "lat": DIRECTIONS["two"]},
              ("one", "two"), Curve.RADIANS),
    "one alone": ({"x": A}, {}, None, None),
    "not finite": ({"x": A, "y": np.where(B > 0, np.nan, B)}, {}, None, None),
    "texts": ({"x": A, "y": B.astype("U")}, {}, None, None),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_coordinates_are_found(case):
    values, attrs, names, curve = CASES[case]
    variables = {name: ("cell", each, attrs.get(name, {})) for name, each in values.items()}
    carried = xr.Dataset(variables)
    if case == "UGRID":
        carried["mesh"] = MESH
    found = points_of(carried, "cell")
    if names is None:
        assert found is None
        return
    assert (found.names, found.curve) == (names, curve)
    assert all(np.array_equal(a, values[name]) for a, name in zip(found.values, names, strict=True))


def test_dims_of_a_grid_number_no_points():
    grid = xr.Dataset(coords={"lon": np.arange(4.0), "lat": np.arange(3.0)})
    curvilinear = xr.Dataset(coords={"lon": (("y", "x"), np.ones((3, 4)))})
    assert all(points_of(grid, dim) is None for dim in ("lon", "lat"))
    assert all(points_of(curvilinear, dim) is None for dim in ("y", "x"))


def test_coordinates_come_before_other_variables():
    carried = xr.Dataset({"stress_x": ("cell", C), "stress_y": ("cell", C)})
    carried = carried.assign_coords(cx=("cell", A, {"axis": "X"}), cy=("cell", B, {"axis": "Y"}))
    assert points_of(carried, "cell").names == ("cx", "cy")


def test_packed_coordinates_are_left_alone():
    """The store has other numbers than those that they decode to."""
    carried = xr.Dataset(coords={"x": ("cell", A), "y": ("cell", B)})
    carried["x"].encoding = {"dtype": "int16", "scale_factor": 1e-3}
    assert points_of(carried, "cell") is None

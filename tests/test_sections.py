"""What a picture shows of a space: whatever the dims, few points, the right way up."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from romzarr.views.sections import MOST_POINTS, section_of


def lazily(dims: dict[str, int], **coords: xr.Variable) -> xr.Dataset:
    """A dataset of one variable of any size that takes no memory."""
    values = np.broadcast_to(np.float32(0), tuple(dims.values()))
    return xr.Dataset({"u": (tuple(dims), values)}, coords)


@pytest.mark.parametrize(
    ("dims", "kind", "labels", "fixed"),
    [
        ({"time": 5}, "value", [], {}),
        ({"time": 5, "x": 7}, "line", ["x"], {}),
        ({"x": 7, "time": 5, "y": 6}, "map", ["x", "y"], {}),
        ({"time": 5, "y": 6, "x": 7}, "map", ["x", "y"], {}),
        ({"time": 5, "x": 7, "z": 4}, "map", ["x", "z"], {}),
        ({"time": 5, "z": 30, "lat": 8, "lon": 9}, "map", ["lon", "lat"], {0: 15}),
        ({"time": 5, "member": 2, "i": 8, "j": 9}, "map", ["j", "i"], {0: 1}),
        ({"time": 5, "one": 1, "x": 9}, "line", ["x"], {0: 0}),
    ],
)
def test_dims_shown_are_those_that_make_a_picture(dims, kind, labels, fixed):
    section = section_of(lazily(dims), "u", "time")
    assert section.kind == kind
    assert [axis.label.split(" ")[0] for axis in section.axes] == labels
    at = {k: place for k, place in enumerate(section.indexers) if isinstance(place, int)}
    assert at == fixed


def test_the_horizontal_axis_is_last_however_the_dims_are_ordered():
    for dims in ({"time": 2, "x": 7, "y": 6}, {"time": 2, "y": 6, "x": 7}):
        dataset = lazily(dims)
        x = xr.DataArray(np.arange(7.0), dims="x").broadcast_like(dataset.u.isel(time=0))
        section = section_of(dataset, "u", "time")
        values = section.arranged(x.transpose(*[d for d in dims if d != "time"]).values)
        assert values.shape == (6, 7)
        np.testing.assert_array_equal(values[0], np.arange(7.0))


@pytest.mark.parametrize(
    "names", [("clon", "clat", "longitude", "latitude"), ("lon_cell", "lat_cell", "", "")]
)
def test_cells_with_two_coordinates_are_scattered(names):
    across, up, *standard = names
    coords = {
        across: xr.Variable("cell", np.arange(20.0), {"standard_name": standard[0]}),
        up: xr.Variable("cell", -np.arange(20.0), {"standard_name": standard[1]}),
    }
    section = section_of(lazily({"time": 3, "cell": 20}, **coords), "u", "time")
    assert section.kind == "scatter"
    assert [axis.label for axis in section.axes] == [across, up]
    np.testing.assert_array_equal(section.axes[1].values, -np.arange(20.0))


@pytest.mark.parametrize(
    "dims",
    [
        {"time": 10, "y": 200_000, "x": 300_000},
        {"time": 10, "z": 5000, "y": 5000, "x": 5000},
        {"time": 10, "cell": 10**10},
    ],
)
def test_of_a_grid_too_large_to_decode_a_part_is_shown_and_said(dims):
    section = section_of(lazily(dims), "u", "time")
    spans = [int(p[-1] - p[0]) + 1 for p in section.indexers if not isinstance(p, int)]
    assert np.prod([float(span) for span in spans]) <= MOST_POINTS
    assert all(len(p) <= 1000 for p in section.indexers if not isinstance(p, int))
    assert " to " in section.note


def test_an_axis_has_the_coordinate_with_its_units_or_else_numbers():
    lev = xr.Variable("lev", [1000.0, 500.0, 100.0], {"units": "hPa", "positive": "down"})
    y = xr.Variable("y", [0.0, 2.0, 1.0, 3.0])
    section = section_of(lazily({"time": 2, "lev": 3, "y": 4}, lev=lev, y=y), "u", "time")
    by_label = {axis.label: axis for axis in section.axes}
    assert by_label["lev (hPa)"].down
    np.testing.assert_array_equal(by_label["y (number)"].values, np.arange(4.0))

"""Files of a few time series, whichever way round their tables are."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from romzarr.archive.series import read_series
from romzarr.contracts import Layout
from romzarr.errors import ArchiveError

VALUES = np.random.default_rng(0).standard_normal((12, 3))
TIMES = 0.5 * np.arange(12) ** 1.1
DATES = [f"2001-01-{day:02d}" for day in range(1, 13)]


def saved(folder, rows, delimiter=","):
    path = folder / "a.csv"
    path.write_text("\n".join(delimiter.join(map(str, row)) for row in rows) + "\n")
    return str(path)


def table(names, times, place=0, values=VALUES):
    """Rows of a table with one column per series, and one of times at `place`."""
    rows = [[repr(float(value)) for value in row] for row in values]
    if names:
        rows.insert(0, list(names))
    if times is not None:
        column = (["time"] if names else []) + [str(each) for each in times]
        rows = [[*row[:place], cell, *row[place:]] for row, cell in zip(rows, column, strict=True)]
    return rows


@given(
    names=st.sampled_from([None, ["u", "v", "wind speed"]]),
    times=st.sampled_from([None, "even", "uneven", "dates"]),
    place=st.integers(0, 3),
    delimiter=st.sampled_from([",", ";", "\t"]),
    turned=st.booleans(),
)
def test_a_table_is_read_whichever_way_round_it_is(
    tmp_path_factory, names, times, place, delimiter, turned
):
    if times in ("uneven", "dates") and not names:
        return  # nothing tells that these are times
    column = {"even": 0.5 * np.arange(12), "uneven": TIMES, "dates": DATES}.get(times)
    place = place if names and not turned else 0
    rows = table(names, column, place)
    if turned:
        rows = [list(cells) for cells in zip(*rows, strict=True)]
    found = read_series(saved(tmp_path_factory.mktemp("csv"), rows, delimiter))
    assert_array_equal(found.states, VALUES)
    assert found.names == tuple(names or ("x1", "x2", "x3"))
    expected = {None: np.arange(12), "dates": np.arange(12), "even": 0.5 * np.arange(12)}
    if times != "uneven":
        np.testing.assert_allclose(found.times, expected[times])
    assert found.units == ("d" if times == "dates" else "1")


def test_the_layout_can_be_said(tmp_path):
    square = saved(tmp_path, np.arange(100.0).reshape(10, 10) ** 2)
    assert read_series(square, Layout.SERIES).states[0, 1] == 1
    assert read_series(square, Layout.TIMES).states[0, 1] == 100


def test_a_frame_with_an_index_is_read(tmp_path):
    rows = [["", "u"], *[[k, value] for k, value in enumerate(VALUES[:, 0])]]
    found = read_series(saved(tmp_path, rows))
    assert found.names == ("u",)
    assert_array_equal(found.times, np.arange(12))


def test_a_first_column_that_alone_increases_evenly_is_time(tmp_path):
    found = read_series(
        saved(tmp_path, [["year", "u"], *zip(range(1900, 1912), VALUES[:, 0], strict=True)])
    )
    assert found.names == ("u",)
    assert found.units == "year"
    assert_array_equal(found.times, np.arange(12))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            [["u", "v"], *[[1, 2]] * 3, [3, "x"], *[[1, 2]] * 9],
            "line 5, column 2: 'x' is not a number",
        ),
        ([["u", "u"], *[[1, 2]] * 12], "'u'"),
        ([["u", "v", "w"], [1, 2, 3], [4, 5]], "line 3"),
        ([["time", "u"], *[[k, 1] for k in range(4)]], "found 4 samples"),
    ],
)
def test_a_wrong_cell_is_named_by_its_place_in_the_file(tmp_path, rows, words):
    with pytest.raises(ArchiveError, match=words):
        read_series(saved(tmp_path, rows))


def test_other_archives_serve_too(tmp_path):
    data = xr.Dataset(
        {"u": ("time", VALUES[:, 0]), "p": (("time", "x"), VALUES[:, 1:])}, {"time": TIMES}
    )
    data.to_netcdf(tmp_path / "a.nc")
    found = read_series(str(tmp_path / "a.nc"))
    assert found.names == ("u", "p1", "p2")
    assert_array_equal(found.states, VALUES)

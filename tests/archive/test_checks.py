"""What is compressed, what is carried over, and what is refused from metadata alone."""

import logging

import dask.array as da
import numpy as np
import pytest
import xarray as xr

from romzarr.archive import open_archive
from romzarr.errors import ArchiveError


def sample():
    months = xr.date_range("2001-01", periods=6, freq="MS", calendar="360_day", use_cftime=True)
    return xr.Dataset(
        {
            "v": (("time", "x"), np.ones((6, 3), "f4")),
            "u": (("x", "time"), np.ones((3, 6)), {"units": "m/s", "grid_mapping": "crs"}),
            "half": (("time", "x"), np.ones((6, 3), "f2")),
            "flag": (("time", "x"), np.ones((6, 3), "i1")),
            "valid": (("time",), np.ones(6, bool)),
            "seen": (("time",), months.values),
            "when": (("time",), np.arange(6).astype("datetime64[ns]")),
            "time_bnds": (("time", "nv"), np.ones((6, 2))),
            "depth": (("x",), np.ones(3)),
            "crs": ((), 0, {"grid_mapping_name": "latitude_longitude"}),
        },
        coords={
            "time": ("time", months, {"bounds": "time_bnds"}),
            "level": 2.5,
            "age": ("time", np.arange(6.0)),
            "name": ("x", ["a", "b", "c"]),
        },
        attrs={"title": "a run", "version": np.int32(3)},
    )


CARRIED = ["flag", "valid", "seen", "when", "time_bnds", "depth", "crs"]


def test_floats_that_change_in_time_are_compressed_and_all_else_is_carried():
    archive = open_archive(sample())
    assert [variable.name for variable in archive.variables] == ["v", "u", "half"]
    assert [variable.time_axis for variable in archive.variables] == [0, 1, 0]
    assert archive.order == tuple(sample().data_vars)
    assert archive.raw_bytes == 18 * (4 + 8 + 2)
    xr.testing.assert_identical(archive.carried, sample().drop_vars(["v", "u", "half"]))
    assert list(archive.carried.data_vars) == CARRIED
    assert archive.attrs["title"] == "a run"
    assert archive.variable_attrs["u"] == {"units": "m/s", "grid_mapping": "crs"}


def test_variables_that_were_not_asked_for_are_left_out_and_logged(caplog):
    with caplog.at_level(logging.INFO, logger="romzarr.archive.checks"):
        archive = open_archive(sample(), variables=["u"])
    assert [variable.name for variable in archive.variables] == ["u"]
    assert archive.order == ("u", *CARRIED)
    assert list(archive.carried.data_vars) == CARRIED
    assert "v, half" in caplog.text


def test_nothing_is_read_but_times_and_coordinates():
    def load():
        raise AssertionError("values were read while opening")

    array = da.map_blocks(load, chunks=((6,), (3,)), dtype="f4", meta=np.empty((0, 0), "f4"))
    dataset = sample()[["u"]].assign(
        lazy=(("time", "x"), array), mask=(("time", "x"), array.astype("i4"))
    )
    archive = open_archive(dataset)
    assert [variable.name for variable in archive.variables] == ["u", "lazy"]
    assert archive.carried.mask.chunks is not None


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"variables": ["U"]}, "no data variable 'U'.*nearest is 'u'"),
        ({}, {"variables": ["depht", "u"]}, "nearest is 'depth'"),
        ({}, {"variables": ["level"]}, "no data variable 'level'"),
        ({}, {"variables": []}, "no floating-point variable has dim 'time'.*among no variables"),
        ({}, {"variables": ["flag"]}, "no floating-point variable has dim 'time'.*among 'flag'"),
        ({"o": ("time", np.array([{}] * 6))}, {}, r"'o' holds objects \(dict\)"),
        ({"q": ("time", np.ones(6, np.longdouble))}, {}, "'q' has dtype float128"),
        ({}, {"exclude": ["z*"]}, r"no data variable 'z\*' \(archive.exclude\)"),
        ({"a/b": ("time", np.ones(6))}, {}, "'a/b' cannot be a path"),
        ({".hidden": ("time", np.ones(6))}, {}, "'.hidden' cannot be a path"),
        ({7: ("time", np.ones(6))}, {}, "name 7 cannot be a path"),
    ],
)
def test_what_cannot_be_compressed_is_refused(change, options, message):
    with pytest.raises(ArchiveError, match=message):
        open_archive(sample().assign(change), **options)


def test_all_that_is_no_float_is_carried():
    more = {
        "s": ("time", list("abcdef")),
        "b": ("time", np.array([b"a"] * 6)),
        "o": ("time", np.array(["a", None, "c"] * 2, object)),
        "c": ("time", np.ones(6, "c16")),
        "z": (("time", "e"), np.ones((6, 0))),
    }
    archive = open_archive(sample().assign(more))
    assert list(archive.carried.data_vars) == [*CARRIED, *more]


def test_names_may_be_patterns():
    dataset = sample().assign({f"t_{k}": ("time", np.ones(6)) for k in range(3)})
    archive = open_archive(dataset, variables=["t_*", "u"], exclude=["t_[12]", "flag", "d*"])
    assert [variable.name for variable in archive.variables] == ["u", "t_0"]
    assert list(archive.carried.data_vars) == [n for n in CARRIED if n not in ("flag", "depth")]


def test_an_archive_without_time_dependent_floats_is_refused():
    with pytest.raises(ArchiveError, match="no floating-point variable has dim 'time'"):
        open_archive(sample()[["depth"]].assign_coords(time=np.arange(6.0)))

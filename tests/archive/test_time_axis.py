"""Times as numbers: which dim, which units, and what is refused."""

import cftime
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from romzarr.archive import open_archive
from romzarr.archive.time_axis import shown_time, time_axis
from romzarr.contracts import NO_TIME
from romzarr.errors import ArchiveError


def along(dim, times=None, size=6, name=None, **attrs):
    dataset = xr.Dataset({"u": ((dim, "x"), np.zeros((size if times is None else len(times), 2)))})
    if times is None:
        return dataset
    return dataset.assign_coords({name or dim: (dim, times, attrs)})


def axis(dataset, time="auto"):
    return time_axis(dataset, time, "a.zarr")


DAYS = np.arange("2001-01-01", "2001-01-08", dtype="datetime64[D]").astype("datetime64[ns]")


@pytest.mark.parametrize(
    ("dataset", "dim"),
    [
        (along("time"), "time"),
        (along("t", np.arange(6.0)), "t"),
        (along("Time", np.arange(6.0)), "Time"),
        (along("step", np.arange(6.0), axis="T"), "step"),
        (along("step", np.arange(6.0), name="when", standard_name="time"), "step"),
        (along("day", DAYS), "day"),
        (along("record", DAYS, name="date"), "record"),
        (along("month", xr.date_range("2000-01", periods=6, freq="MS", use_cftime=True)), "month"),
    ],
)
def test_the_time_dim_is_found(dataset, dim):
    assert axis(dataset).dim == dim


def test_the_unlimited_dim_is_time_where_nothing_else_says_so():
    dataset = along("frame")
    dataset.encoding["unlimited_dims"] = {"frame"}
    assert axis(dataset).dim == "frame"


@pytest.mark.parametrize("time", ["step", "when"])
def test_time_may_be_named_by_its_dim_or_its_coordinate(time):
    dataset = along("step", np.array([0.0, 1, 2, 4, 8]), name="when", units="ms", axis="T")
    found = axis(dataset, time)
    assert (found.dim, found.units) == ("step", "ms")
    assert_array_equal(found.values, [0, 1, 2, 4, 8])


def test_times_without_a_coordinate_are_counted():
    found = axis(along("time"))
    assert found.units == "1"
    assert_array_equal(found.values, np.arange(6.0))


@pytest.mark.parametrize(
    ("step", "units", "value"),
    [
        ("10ms", "s", 0.01),
        ("20min", "s", 1200.0),
        ("30min", "h", 0.5),
        ("6h", "h", 6.0),
        ("12h", "d", 0.5),
        ("1D", "d", 1.0),
        ("30D", "d", 30.0),
    ],
)
@pytest.mark.parametrize("calendar", ["datetime64", "360_day", "noleap"])
def test_units_of_calendar_times_follow_the_median_step(step, units, value, calendar):
    if calendar == "datetime64":
        times = xr.date_range("2001-01-01", periods=6, freq=step).values
    else:
        times = xr.date_range(
            "2001-01-01", periods=6, freq=step, calendar=calendar, use_cftime=True
        )
    found = axis(along("time", times))
    assert found.units == units
    assert_allclose(found.values, value * np.arange(6), rtol=1e-14)


def test_a_360_day_calendar_has_february_30():
    times = [cftime.Datetime360Day(2001, month, 30) for month in range(1, 8)]
    assert_array_equal(axis(along("time", times)).values, 30.0 * np.arange(7))


def test_monthly_means_keep_their_uneven_steps():
    months = np.arange("2001-01", "2002-01", dtype="datetime64[M]").astype("datetime64[ns]")
    found = axis(along("time", months))
    assert found.units == "d"
    assert_array_equal(np.diff(found.values), [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30])


@given(
    start=st.integers(-(10**9), 10**9),
    steps=st.lists(st.integers(1, 10**6), min_size=5, max_size=20),
    kind=st.sampled_from(["f4", "f8", "i4", "u4", "i8", "timedelta64[ns]"]),
)
@settings(deadline=None)
def test_numbers_are_counted_from_the_first_snapshot(start, steps, kind):
    elapsed = np.cumsum([0, *steps])
    if kind == "f4":
        start, elapsed = start % 100, np.arange(len(elapsed))
    times = ((abs(start) if kind == "u4" else start) + elapsed).astype(kind)
    found = axis(along("time", times))
    seconds = 1e-9 * elapsed if kind.startswith("timedelta") else elapsed
    scale = {"s": 1.0, "h": 3600.0, "d": 86400.0}.get(found.units, 1.0)
    assert_allclose(found.values * scale, seconds, rtol=1e-14)


NAT = np.datetime64("NaT", "ns")
MISSING = xr.date_range("2000-01", periods=6, freq="MS", use_cftime=True).values.copy()
MISSING[2] = np.nan


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (along("time", [0.0, 1, np.nan, 3, 4]), r"time\[2\] is nan, a missing time \(1 of 5"),
        (along("time", [0.0, 1, 2, 3, np.inf]), r"time\[4\] is inf, a missing time"),
        (along("time", np.where(np.arange(7) == 3, NAT, DAYS)), r"time\[3\] is NaT, a missing"),
        (along("time", MISSING), r"time\[2\] is nan, a missing time"),
        (
            along("time", [0.0, 1, 2, 2, 3]),
            r"time\[3\] = 2.0 duplicates time\[2\] = 2.0.*drop_duplicates\('time'\)",
        ),
        (
            along("time", DAYS[[0, 1, 4, 3, 2]]),
            r"time\[3\] = 2001-01-04.* is before time\[2\] = 2001-01-05.*sortby\('time'\)",
        ),
        (along("time", np.arange(9, dtype="u8")[::-1]), r"time\[1\] = 7 is before time\[0\] = 8"),
        (along("time", list("abcdef")), "allowed are calendar times and numbers"),
        (along("time", size=0), "no snapshots along 'time'"),
    ],
)
def test_times_that_cannot_be_used_are_refused(dataset, message):
    with pytest.raises(ArchiveError, match=f"(?s)'a.zarr'.*{message}"):
        axis(dataset)


@pytest.mark.parametrize(
    ("times", "number", "shown"),
    [
        (0.1 * np.arange(300), 201, "20.1"),
        (np.cumsum(np.full(1000, 0.1)), 900, "90.1"),
        (0.1 * np.arange(300, dtype="f4"), 201, "20.1"),
        (np.array([20.1, 20.099999999999998]), 1, "20.099999999999998"),
        (np.array([20.1, 20.1]), 1, "20.1"),
        (np.array([1e9 + 0.25, 1e9 + 0.5]), 1, "1000000000.5"),
        (np.array([0.0, 2.0]), 0, "0.0"),
        (np.array([np.nan, 2.0]), 0, "nan"),
        (np.arange(5), 2, "2"),
        (np.array(["2031-07-09", "2031-07-10"], "M8[ns]"), 1, "2031-07-10"),
        (np.array(["2031-07-01T06:00:30.5"], "M8[ns]"), 0, "2031-07-01T06:00:30.500"),
    ],
)
def test_times_are_shown_with_the_digits_that_tell_them_apart(times, number, shown):
    assert shown_time(times, number) == shown


def test_an_unknown_time_names_the_dims():
    with pytest.raises(ArchiveError, match=r"archive.time is 'tiem'.*dims are 'time', 'x'"):
        axis(along("time"), "tiem")


@pytest.mark.parametrize("calendar", ["standard", "360_day"])
def test_calendars_survive_a_zarr_store(tmp_path, calendar):
    times = xr.date_range("2001-01-01", periods=9, freq="36h", calendar=calendar, use_cftime=True)
    along("time", times).to_zarr(tmp_path / "a.zarr", consolidated=False)
    found = open_archive(tmp_path / "a.zarr").time
    assert found.units == "d"
    assert_allclose(found.values, 1.5 * np.arange(9), rtol=1e-14)


def test_without_anything_like_time_there_is_one_snapshot(caplog):
    found = time_axis(along("frame"), "auto", "a.zarr")
    assert (found.dim, found.values.tolist()) == (NO_TIME, [0.0])
    assert "set archive.time" in caplog.text
    caplog.clear()
    assert time_axis(along("time"), "none", "a.zarr").dim == NO_TIME
    assert not caplog.text


def test_dates_are_time_before_lead_times():
    """Forecasts: when they begin, and how far they look ahead."""
    dataset = xr.Dataset(
        {"u": (("start", "lead"), np.zeros((6, 4)))},
        {"start": DAYS[:6], "lead": np.arange(4) * np.timedelta64(6, "h")},
    )
    assert time_axis(dataset, "auto", "a.zarr").dim == "start"

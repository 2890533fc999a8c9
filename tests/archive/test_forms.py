"""Several time dims, forecasts and ensembles keep their form; each variable keeps its bound."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import romzarr
from romzarr.archive import open_archive
from romzarr.errors import ArchiveError
from romzarr_flows.cli import main


@pytest.fixture(autouse=True)
def _one_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


BEGIN = np.datetime64("2001-01-01", "ns")
X, TOLERANCE = np.linspace(0, 6, 30), 1e-2


def wave(*lengths: int) -> np.ndarray:
    """A wave over x, last, whose phase moves along every other dim."""
    counts = np.meshgrid(*map(np.arange, lengths), indexing="ij")
    phase = sum(0.3 * (axis + 1) * count for axis, count in enumerate(counts))
    return np.sin(phase[..., None] + X) + 0.1 * np.cos(3 * X)


def dates(n: int, hours: int) -> np.ndarray:
    return BEGIN + hours * np.arange(n) * np.timedelta64(1, "h")


def error(ds: xr.Dataset, decoded: xr.Dataset, name: str, time: str) -> float:
    true, found = ds[name].astype("f8"), decoded[name].astype("f8")
    about = true - true.mean(time)
    return float(np.linalg.norm(found - true) / np.linalg.norm(about))


FORMS = {
    "forecast": (("time", "lead", "x"), (12, 4)),
    "hindcast": (("init", "member", "lead", "x"), (10, 3, 4)),
    "ensemble": (("number", "time", "x"), (3, 20)),
    "cycle": (("year", "time", "x"), (4, 12)),
}


@pytest.mark.parametrize("form", FORMS)
def test_forecasts_and_ensembles_keep_their_form_and_bound(tmp_path, form):
    dims, lengths = FORMS[form]
    coords = {"time": dates(99, 24), "init": dates(99, 24), "x": X, "number": np.arange(99)}
    coords["lead"] = np.arange(99) * np.timedelta64(6, "h")
    sizes = dict(zip(dims, (*lengths, len(X)), strict=True))
    ds = xr.Dataset(
        {"u": (dims, wave(*lengths).astype("f4"))},
        {d: coords[d][: sizes[d]] for d in dims if d in coords},
    )
    ds.to_netcdf(tmp_path / "a.nc")
    romzarr.compress(tmp_path / "a.nc", tmp_path / "s", tolerance=TOLERANCE)
    decoded = xr.open_dataset(tmp_path / "s", engine="romzarr", decode_timedelta=True)
    assert error(ds, decoded, "u", "init" if "init" in dims else "time") <= TOLERANCE
    xr.testing.assert_equal(decoded.drop_vars("u"), ds.drop_vars("u"))
    assert decoded.u.dims == dims
    assert romzarr.verify(tmp_path / "s", tmp_path / "a.nc").ok


def hourly_and_daily(hours: int = 48, days: int = 9) -> xr.Dataset:
    return xr.Dataset(
        {"u": (("hour", "x"), wave(hours)), "v": (("time", "x"), wave(days))},
        {"hour": dates(hours, 1), "time": dates(days, 24), "x": X},
    )


@given(hours=st.integers(6, 40), days=st.integers(6, 40))
@settings(
    deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_the_dim_of_most_values_is_time_and_the_rest_is_exact(tmp_path, hours, days):
    ds = hourly_and_daily(hours, days)
    report = romzarr.compress(ds, tmp_path / "s", tolerance=TOLERANCE, overwrite=True)
    # Of equal ones the dim that is called time.
    name, time, other = ("u", "hour", "v") if hours > days else ("v", "time", "u")
    decoded = xr.open_dataset(tmp_path / "s", engine="romzarr").load()
    assert 0 < error(ds, decoded, name, time) <= TOLERANCE
    xr.testing.assert_identical(decoded[other], ds[other])
    assert report.variables[other].coding == "carried"
    assert report.variables[other].why == f"it has no dim {time!r}"
    assert romzarr.verify(tmp_path / "s", ds).ok


def test_the_choice_is_told_and_another_may_be_made(tmp_path, capsys, caplog):
    hourly_and_daily().to_netcdf(tmp_path / "a.nc")
    with caplog.at_level(logging.WARNING):
        assert open_archive(tmp_path / "a.nc").time.dim == "hour"
    assert "time is 'hour', along which most values lie, and not 'time'" in caplog.text
    arguments = ["compress", str(tmp_path / "a.nc"), str(tmp_path / "s"), "--time", "time"]
    assert main(arguments) == 0
    assert "copied, lossless: it has no dim 'time'" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["memory", "netcdf"])
def test_each_of_several_times_may_have_a_group_and_its_bound(tmp_path, kind):
    def saved(hours: int, days: int) -> tuple[xr.Dataset, xr.Dataset | Path]:
        ds = hourly_and_daily(hours, days).assign(area=("x", X), flag=("time", np.arange(days) % 3))
        ds.attrs["title"] = "two times"
        if kind == "netcdf":
            ds.to_netcdf(tmp_path / "a.nc")
        return ds, {"memory": ds, "netcdf": tmp_path / "a.nc"}[kind]

    store, each = tmp_path / "s", {"archive.time": "each"}
    _, source = saved(48, 9)
    romzarr.compress(source, store, tolerance=TOLERANCE, config=each)
    ds, source = saved(72, 17)
    assert romzarr.append(store, source).appended == 24
    tree = xr.open_datatree(store, engine="romzarr")
    assert set(romzarr.groups(store)) == {"/hour", "/time"}
    for name, time in (("u", "hour"), ("v", "time")):
        assert 0 < error(ds, tree[time].to_dataset().load(), name, time) <= TOLERANCE
    xr.testing.assert_equal(tree["time/flag"].load(), ds.flag)
    xr.testing.assert_equal(tree["hour/area"].load(), ds.area)
    assert tree.attrs == ds.attrs
    assert romzarr.verify(store, source).ok
    # Of one time there is nothing to be told apart.
    romzarr.compress(ds[["u"]], tmp_path / "one", tolerance=TOLERANCE, config=each)
    assert "u" in xr.open_dataset(tmp_path / "one", engine="romzarr")


def test_a_store_keeps_its_time_when_another_dim_outgrows_it(tmp_path):
    """The choice is made once: an archive may grow along either dim."""
    source, store = tmp_path / "a.nc", tmp_path / "s"
    hourly_and_daily(20, 19).to_netcdf(source)
    romzarr.compress(source, store, tolerance=TOLERANCE)
    hourly_and_daily(20, 21).to_netcdf(source)
    assert open_archive(source).time.dim == "time"
    found = romzarr.verify(store, source).problems
    assert {each.split()[0] for each in found} == {"'time'", "'v'"}


def test_what_differs_from_file_to_file_without_time_is_refused(tmp_path):
    """Only the values of the first file would be kept."""
    ds = hourly_and_daily(48, 6)
    for k, days in itertools.product(range(2), [slice(0, 3)]):
        part = ds.isel(hour=slice(24 * k, 24 * k + 24), time=days)
        (part + (k if k else 0.0)).to_netcdf(tmp_path / f"{k}.nc")
    with pytest.raises(ArchiveError, match=r"1.nc.*variable 'v' has no dim 'hour', but other val"):
        romzarr.compress(tmp_path / "*.nc", tmp_path / "s")

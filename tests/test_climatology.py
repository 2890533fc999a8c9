"""Tolerances relative to anomalies about the mean of each month, or hour of a month."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr

import romzarr
from romzarr.errors import ConfigError

CLIMATOLOGY = {"compression.fluctuation": "climatology"}


@pytest.fixture(autouse=True)
def _one_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def seasons(times: np.ndarray, seed: int = 0, n: int = 30) -> xr.Dataset:
    """A large cycle of the year and of the day, and small anomalies."""
    rng, x = np.random.default_rng(seed), np.linspace(0, 6, n)
    days = (times - times[0]) / np.timedelta64(1, "D")
    year = 10 * np.outer(np.sin(2 * np.pi * days / 365.25), np.cos(x))
    day = 5 * np.outer(np.sin(2 * np.pi * days), np.sin(x))
    anomalies = 0.2 * np.cumsum(rng.standard_normal((len(times), n)), axis=1) * 0.1
    return xr.Dataset({"u": (("time", "x"), year + day + anomalies + 15)}, {"time": times})


def monthly(years: int) -> np.ndarray:
    return np.arange("2001-01", f"{2001 + years}-01", dtype="M8[M]").astype("M8[ns]")


def six_hourly(days: int) -> np.ndarray:
    return np.datetime64("2001-01-01", "ns") + np.arange(4 * days) * np.timedelta64(6, "h")


def anomaly_error(original: xr.DataArray, decoded: xr.DataArray, groups: xr.DataArray) -> float:
    squares = 0.0
    for group in np.unique(groups):
        some = original.values[groups.values == group]
        squares += float(((some - some.mean(axis=0)) ** 2).sum())
    return float(np.sqrt(((decoded - original) ** 2).sum() / squares))


@pytest.mark.parametrize("times", [monthly(8), six_hourly(60)], ids=["monthly", "six hours"])
def test_errors_are_relative_to_anomalies(times, tmp_path):
    source = seasons(times)
    groups = source.time.dt.month * 24 + source.time.dt.hour
    found = {}
    for reference in ("mean", "climatology"):
        config = {"compression.fluctuation": reference}
        report = romzarr.compress(source, tmp_path / "s", config=config, overwrite=True)
        decoded = xr.open_dataset(tmp_path / "s", engine="romzarr").u
        found[reference] = anomaly_error(source.u, decoded, groups)
    assert found["mean"] > 0.02
    assert 0.007 < found["climatology"] <= 0.01
    # A bound: what the tree of the POD has dropped counts as if it met the error of coding in full.
    assert 1 <= report.relative_l2_error["u"] / found["climatology"] <= 1.002
    verified = romzarr.verify(tmp_path / "s", source)
    assert verified.ok
    assert verified.relative_l2_error["u"] == pytest.approx(found["climatology"], rel=1e-6)


def test_each_level_has_a_climatology(tmp_path):
    times = monthly(6)
    both = xr.concat([seasons(times, 1).u, 1e-3 * seasons(times, 2).u], "lev").transpose(
        "time", ...
    )
    source = both.to_dataset(name="u")
    romzarr.compress(source, tmp_path / "s", config=CLIMATOLOGY)
    decoded = xr.open_dataset(tmp_path / "s", engine="romzarr").u
    for k in range(2):
        pair = (each.isel(lev=k) for each in (source.u, decoded))
        assert anomaly_error(*pair, source.time.dt.month) <= 0.01


def test_appended_years_keep_the_bound(tmp_path):
    source = seasons(monthly(6))
    romzarr.compress(source.isel(time=slice(36)), tmp_path / "s", config=CLIMATOLOGY)
    for stop in (48, 72):
        part = source.isel(time=slice(stop))
        romzarr.append(tmp_path / "s", part)
        decoded = xr.open_dataset(tmp_path / "s", engine="romzarr").u
        assert anomaly_error(part.u, decoded, part.time.dt.month) <= 0.01
        assert romzarr.verify(tmp_path / "s", part).ok


def test_a_cycle_that_repeats_exactly_is_bounded_about_its_mean(tmp_path):
    values = np.tile(np.random.default_rng(3).random((12, 20)), (3, 1))
    source = xr.Dataset({"u": (("time", "x"), values)}, {"time": monthly(3)})
    romzarr.compress(source, tmp_path / "s", config=CLIMATOLOGY)
    decoded = xr.open_dataset(tmp_path / "s", engine="romzarr").u
    about = source.u - source.u.mean("time")
    assert float(((decoded - source.u) ** 2).sum()) <= 1e-4 * float((about**2).sum())
    assert romzarr.verify(tmp_path / "s", source).ok


@pytest.mark.parametrize(
    ("times", "words"),
    [(np.arange(30.0), "not those of a calendar"), (monthly(1), "12 snapshots")],
)
def test_what_has_no_climatology_is_refused(times, words, tmp_path):
    values = np.random.default_rng(4).random((len(times), 5))
    source = xr.Dataset({"u": (("time", "x"), values)}, {"time": times})
    with pytest.raises(ConfigError, match=words):
        romzarr.compress(source, tmp_path / "s", config=CLIMATOLOGY)

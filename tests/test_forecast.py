"""Fields beyond a record: near the truth for as long as is said; refused where there are none."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr

import romzarr
from romzarr.errors import ConfigError, PipelineError
from romzarr_flows.cli import main
from tests.systems_of_odes import LORENZ

SAMPLES, BEYOND, POINTS = 1000, 200, 60


@pytest.fixture(scope="module")
def whole():
    """A field of Lorenz's system in two dims, of which the store gets the beginning."""
    rng = np.random.default_rng(0)
    times, states = LORENZ.record(SAMPLES + BEYOND)
    patterns = rng.standard_normal((3, POINTS)) / states.std(axis=0)[:, None]
    field = 5 + states @ patterns
    noisy = field + 0.01 * rng.standard_normal(field.shape)
    shape = (-1, POINTS // 6, 6)
    clean = xr.Dataset({"u": (("time", "y", "x"), field.reshape(shape))}, {"time": 7 + times})
    return clean, clean.assign(u=(clean.u.dims, noisy.reshape(shape))).isel(time=slice(SAMPLES))


@pytest.fixture(scope="module")
def store(whole, tmp_path_factory):
    path = tmp_path_factory.mktemp("forecast") / "lorenz.romzarr"
    romzarr.compress(whole[1], path, tolerance=0.01)
    return str(path)


@pytest.fixture(scope="module")
def forecast(store):
    return romzarr.forecast(store, 7 + LORENZ.step * (SAMPLES + BEYOND - 1))


def test_fields_are_near_the_truth_for_as_long_as_they_are_trusted(whole, forecast):
    clean = whole[0].u.isel(time=slice(SAMPLES, None))
    assert forecast.u.dims == clean.dims
    np.testing.assert_allclose(forecast.time, clean.time)
    trusted = forecast.sel(time=slice(forecast.attrs["trusted_until"]))
    assert trusted.sizes["time"] > 20
    away = trusted.u - clean.isel(time=slice(trusted.sizes["time"])).values
    assert float(np.sqrt((away**2).mean())) < 0.3 * float(whole[0].u.std("time").mean())
    # Where the ensemble says so, most values are within three of its standard deviations.
    assert float((np.abs(away) < 3 * trusted.u_std + 0.05).mean()) > 0.9


def test_chaos_and_scores_are_reported(forecast):
    assert forecast.attrs["lyapunov_exponent"] == pytest.approx(0.9, rel=0.2)
    # Two time units are held back; the error is small for one at least.
    assert forecast.attrs["score_length"] == pytest.approx(2.0)
    assert forecast.attrs.get("score_error_passes", 2.0) > 1
    assert forecast.attrs["score_within_two"] > 0.5
    assert "runs_away_at" not in forecast.attrs


def test_fields_are_lazy_and_states_are_theirs(forecast):
    assert forecast.u.chunks is not None
    assert forecast.u_std.chunks is not None
    assert list(forecast.state.values) == ["z1", "z2", "z3"]
    assert float(forecast.state_std.max()) < 3


def test_the_command_prints_writes_and_refuses(store, tmp_path, capsys):
    out = tmp_path / "next.nc"
    assert main(["forecast", store, "--until", "17.5", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "can be trusted for" in text
    assert "Lyapunov time: " in text
    with xr.open_dataset(out, engine="h5netcdf") as written:
        assert written.sizes["time"] == 51
        assert written.u.isnull().sum() == 0
    flags = ["--json", "--unbounded", "--degree", "2"]
    assert main(["forecast", store, "--until", "17.5", *flags]) == 0
    assert json.loads(capsys.readouterr().out)["trusted_for"] > 0
    assert main(["forecast", store, "--until", "17.5", "--out", str(out)]) == 2
    assert main(["forecast", store, "--until", "3"]) == 2
    assert "after the record ends" in capsys.readouterr().err


def test_what_cannot_be_foretold_is_said(store, tmp_path):
    with pytest.raises(ConfigError, match="until: found 'never'; give a number"):
        romzarr.forecast(store, "never")
    still = xr.Dataset({"u": (("time", "x"), np.ones((40, 300)))})
    romzarr.compress(still, tmp_path / "still")
    with pytest.raises(PipelineError, match="no equations can be fitted"):
        romzarr.forecast(tmp_path / "still", 50)


def test_dates_stay_dates(tmp_path):
    days = np.arange(400)
    wave = np.cos(np.linspace(0, 6, 50) - 2 * np.pi * days[:, None] / 40)
    times = np.datetime64("2001-01-01", "ns") + days.astype("timedelta64[D]")
    romzarr.compress(xr.Dataset({"u": (("time", "x"), wave)}, {"time": times}), tmp_path / "s")
    found = romzarr.forecast(tmp_path / "s", "2002-03-01")
    assert found.time.values[0] == times[-1] + np.timedelta64(1, "D")
    assert found.time.values[-1] == np.datetime64("2002-03-01")
    later = np.cos(np.linspace(0, 6, 50) - 2 * np.pi * (400 + np.arange(25))[:, None] / 40)
    assert float(np.abs(found.u.values - later).max()) < 0.1
    assert "lyapunov_exponent" not in found.attrs

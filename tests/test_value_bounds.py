"""Bounds on single values that are relative: to the range of a variable, or to each value."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import romzarr
from romzarr.compression import written
from romzarr.compression.pointwise import AIM
from romzarr.config import Config, load_config
from romzarr.errors import AccuracyError, ConfigError
from romzarr.numerics.logarithm import allowed_error
from romzarr.store.reading.reader import open_store
from romzarr_flows.cli import main
from tests.oracles import relative_error
from tests.strategies import seeds


@pytest.fixture(autouse=True)
def _one_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def magnitudes(rng: np.random.Generator, m: int, decades: float, signs: bool) -> np.ndarray:
    """Fields (m, 8, 20) over many orders of magnitude, with zeros."""
    t, y, x = np.meshgrid(0.2 * np.arange(m), np.arange(8), np.linspace(0, 6, 20), indexing="ij")
    values = 10 ** (decades * np.sin(t + x + 0.1 * y) + 0.02 * rng.standard_normal(t.shape))
    values[:, 2, 3:6] = 0
    values[m // 2, 5] = 0
    return values * np.sign(np.cos(2 * t - x)) if signs else values


def largest_of_value(original: np.ndarray, decoded: np.ndarray) -> float:
    x, y = (np.asarray(each, np.longdouble) for each in (original, decoded))
    zero = x == 0
    assert (y[zero] == 0).all()
    known = ~zero & np.isfinite(x)
    return float(np.max(np.abs(y[known] - x[known]) / np.abs(x[known])))


@given(
    seed=seeds,
    m=st.sampled_from([1, 3, 12, 40]),
    decades=st.sampled_from([0.1, 3.0, 12.0]),
    signs=st.booleans(),
    dtype=st.sampled_from(["f2", "f4", ">f4", "f8"]),
    percent=st.sampled_from([0.5, 1.0, 10.0, 40.0]),
    gap=st.booleans(),
    tolerance=st.sampled_from([None, 1e-2]),
)
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_every_value_is_within_its_share(
    seed, m, decades, signs, dtype, percent, gap, tolerance, tmp_path_factory
):
    rng = np.random.default_rng(seed)
    # Of float16 also what lies between zero and its normal numbers.
    decades = 4.0 if dtype == "f2" and decades > 4 else decades
    values = magnitudes(rng, m, decades, signs).astype(dtype)
    if gap:
        values[0, 1, 1], values[m - 1, 3, 2] = np.nan, np.inf
    source = xr.Dataset({"q": (("time", "y", "x"), values)}).chunk(time=9, y=5)
    path = tmp_path_factory.mktemp("value") / "s"
    bound = {"q": f"{percent:g}% of value"}
    report = romzarr.compress(source, path, max_error=bound, tolerance=tolerance)
    decoded = xr.open_dataset(path, engine="romzarr").q.values
    assert decoded.dtype == values.dtype
    np.testing.assert_array_equal(np.isnan(decoded), np.isnan(values))
    np.testing.assert_array_equal(decoded[np.isinf(values)], values[np.isinf(values)])
    assert largest_of_value(values, decoded) <= percent / 100
    assert report.max_relative_error == {"q": percent / 100}
    if tolerance and not gap and m > 1:
        assert relative_error(values, decoded) <= tolerance
    found = romzarr.verify(path, source)
    assert found.ok, found.problems
    assert found.largest_relative_error["q"] == pytest.approx(largest_of_value(values, decoded))


@pytest.mark.parametrize("bound", ["1%", {"u": "1%", "v": "1% of range"}])
def test_a_share_of_the_range_bounds_every_value(bound, tmp_path):
    rng = np.random.default_rng(1)
    u = np.cumsum(rng.standard_normal((40, 50)), axis=1)
    source = xr.Dataset({"u": (("time", "x"), u.copy()), "v": (("time", "x"), 1e6 * u + 3)})
    source["u"][3, 4] = -9999.0
    report = romzarr.compress(source, tmp_path / "s", max_error=bound)
    decoded = xr.open_dataset(tmp_path / "s", engine="romzarr")
    # The fill value is no part of the range.
    allowed = {"u": 0.01 * float(np.ptp(np.delete(u, 3 * 50 + 4))), "v": 1e4 * float(np.ptp(u))}
    for name in "uv":
        error = float(abs(decoded[name] - source[name]).max())
        assert 0.5 * allowed[name] < error <= allowed[name]
        assert report.max_error[name] <= allowed[name] * (1 + 1e-12)
    assert romzarr.verify(tmp_path / "s", source).ok


def test_a_share_that_modes_cannot_aim_at_is_left_out(monkeypatch, tmp_path):
    real = written.write_archive

    def only_the_usual(*args):
        if args[-1] != AIM:
            raise AccuracyError("too fine")
        return real(*args)

    monkeypatch.setattr(written, "write_archive", only_the_usual)
    source = xr.Dataset({"u": (("time", "x"), np.random.default_rng(6).random((20, 30)))})
    report = romzarr.compress(source, tmp_path / "s", max_error="1%")
    assert report.largest_pointwise_error["u"] <= report.max_error["u"]


def test_tolerances_of_logarithms_may_be_about_a_climatology(tmp_path):
    times = np.arange("2001-01", "2006-01", dtype="M8[M]").astype("M8[ns]")
    season = np.sin(np.arange(60) * np.pi / 6)[:, None] + np.zeros(20)
    anomalies = 0.1 * np.random.default_rng(7).standard_normal((60, 20))
    source = xr.Dataset({"q": (("time", "x"), np.exp(season + anomalies))}, {"time": times})
    config = {"compression.fluctuation": "climatology"}
    bound = {"q": "20% of value"}
    romzarr.compress(source, tmp_path / "s", tolerance=1e-2, max_error=bound, config=config)
    decoded = xr.open_dataset(tmp_path / "s", engine="romzarr").q
    by_month = source.q.groupby("time.month")
    about = by_month - by_month.mean()
    assert float(((decoded - source.q) ** 2).sum()) <= 1e-4 * float((about**2).sum())
    assert romzarr.verify(tmp_path / "s", source).ok


def test_a_bound_below_normal_numbers_leaves_room_for_rounding():
    # An error of nearly 40 % of 4 units is rounded to 2 of them, which is half.
    dtype = np.dtype(np.float16)
    unit = float(np.finfo(dtype).smallest_subnormal)
    for relative in (0.01, 0.1, 0.4):
        allowed = allowed_error(relative, unit, dtype)
        true = unit * np.arange(1, 200)
        for sign in (-1, 1):
            found = (true * 2 ** (sign * allowed)).astype(dtype).astype("f8")
            assert (abs(found - true) <= relative * true * (1 + 1e-9)).all()


def test_lossless_stores_need_no_share(tmp_path):
    source = xr.Dataset({"u": (("time", "x"), np.random.default_rng(8).random((9, 5), "f4"))})
    romzarr.compress(source, tmp_path / "s", tolerance=0, max_error="1e-6% of value")
    xr.testing.assert_equal(xr.open_dataset(tmp_path / "s", engine="romzarr").load(), source)


def test_what_never_changes_is_exact(tmp_path):
    steady = np.broadcast_to([[0.0, 2.5, -3.0]], (9, 3)).copy()
    source = xr.Dataset({"a": (("time", "x"), steady), "b": (("time", "x"), 0 * steady)})
    for bound in ("1%", "1% of value"):
        romzarr.compress(source, tmp_path / "s", max_error=bound, overwrite=True)
        xr.testing.assert_equal(xr.open_dataset(tmp_path / "s", engine="romzarr"), source)


def test_the_mean_is_that_of_the_numbers(tmp_path):
    values = magnitudes(np.random.default_rng(2), 30, 2.0, signs=True)
    source = xr.Dataset({"q": (("time", "y", "x"), values)})
    romzarr.compress(source, tmp_path / "s", max_error="1% of value")
    decoded = xr.open_dataset(tmp_path / "s", engine="romzarr").q
    np.testing.assert_allclose(open_store(tmp_path / "s").mean("q"), decoded.mean("time"))


def test_values_have_the_same_bits_in_every_selection(tmp_path):
    values = magnitudes(np.random.default_rng(3), 30, 2.0, signs=True).astype("f4")
    source = xr.Dataset({"q": (("time", "y", "x"), values)})
    romzarr.compress(source, tmp_path / "s", max_error="1% of value")
    lazy = xr.open_dataset(tmp_path / "s", engine="romzarr").q
    chosen = {"time": [7, 2], "y": slice(1, 6, 2), "x": 4}
    xr.testing.assert_identical(lazy.isel(chosen).load(), lazy.load().isel(chosen))


@pytest.mark.parametrize(
    "bound", ["0%", "101%", "41% of value", "1% of time", "half", {"u": "1"}, {"u": "-1%"}]
)
def test_other_shares_are_refused(bound):
    with pytest.raises(ConfigError, match=r"compression\.max_error"):
        load_config(overrides={"compression.max_error": bound})


def test_a_share_below_rounding_is_refused(tmp_path):
    source = xr.Dataset({"u": (("time", "x"), np.random.default_rng(4).random((9, 5), "f4"))})
    with pytest.raises(AccuracyError, match="rounding of float32"):
        romzarr.compress(source, tmp_path / "s", max_error="1e-6% of value")


def test_one_share_is_that_of_all_variables():
    config = load_config(overrides={"compression.max_error": "1%"}).compression
    assert config.for_variables(["u", "v"]).bounds.keys() == {"u", "v"}
    assert Config().compression.bounds == {}


def test_shares_are_flags_too(tmp_path, capsys):
    values = magnitudes(np.random.default_rng(5), 20, 1.0, signs=False)
    archive, store, threads = str(tmp_path / "a.nc"), str(tmp_path / "s"), ["--cluster", "threads"]
    xr.Dataset({"q": (("time", "y", "x"), values)}).to_netcdf(archive)
    assert main(["compress", archive, store, "--max-error", "q=1% of value", *threads]) == 0
    assert "of at most 0.01" in capsys.readouterr().out
    assert main(["verify", store, archive, *threads]) == 0

"""Errors by index and further measures are those of plain NumPy on whole arrays."""

from __future__ import annotations

import json
from functools import partial
from importlib import import_module

import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose

import romzarr
from romzarr.chunked.plan import plan_pod
from romzarr.comparison import maps as maps_module
from romzarr.comparison.maps import maps_of
from romzarr.contracts import ArchivedVariable, FurtherMeasure
from romzarr.errors import ConfigError
from romzarr.reports import VerifyReport

LEVELS = (1.0, 0.1, 0.01, 1e-3)


@pytest.fixture(scope="module")
def archive() -> xr.Dataset:
    """Waves on levels of very different amplitude, with land and with a sample lost."""
    rng = np.random.default_rng(0)
    t, y, x = np.ogrid[0:40, 0:18, 0:26]
    wave = np.sin(x / 4 + 0.3 * t) * np.cos(y / 3 - 0.1 * t)
    levels = [a * (wave + 0.05 * rng.standard_normal(wave.shape)) + 3 for a in LEVELS]
    temp = np.stack(levels, axis=1)
    salt = np.moveaxis(temp, 0, -1).astype(np.float32).copy()
    land = temp.copy()
    land[:, :, :6, 20:] = np.nan
    land[7, 1, 9, 9] = np.nan
    depth = ("lev", [5.0, 50.0, 500.0, 5000.0], {"units": "m", "positive": "down"})
    return xr.Dataset(
        {
            "temp": (("time", "lev", "lat", "lon"), temp),
            "salt": (("lev", "lat", "lon", "time"), salt),
            "land": (("time", "lev", "lat", "lon"), land),
            "series": (("time",), temp[:, 0, 4, 4]),
        },
        {"lev": depth, "lat": np.linspace(-60, 60, 18), "time": np.arange(40.0)},
    )


@pytest.fixture(scope="module")
def store(archive, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("measures") / "store"
    # One bound over all levels, which ruins some of them.
    romzarr.compress(archive, path, tolerance=1e-2, config={"compression.per": "none"})
    return str(path)


@pytest.fixture(scope="module")
def decoded(store) -> xr.Dataset:
    return xr.open_dataset(store, engine="romzarr").load()


@pytest.fixture(scope="module")
def report(archive, store) -> VerifyReport:
    return romzarr.verify(store, archive, per="lon", measures="all")


def errors_on(x: xr.DataArray, y: xr.DataArray, dim: str) -> np.ndarray:
    others = [each for each in x.dims if each != dim]
    fluctuation = ((x - x.mean("time")) ** 2).sum(others)
    return np.sqrt(((y - x) ** 2).sum(others) / fluctuation).values


@pytest.fixture
def small_leaves(monkeypatch):
    """Every chunk is a block of its own, so that sums of many are added up."""
    module = import_module("romzarr.operations.verify")
    monkeypatch.setattr(module, "plan_pod", partial(plan_pod, leaf_bytes=1))


# --- by index -----------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [None, {"time": 7, "lev": 3, "lon": 10}, {"time": 1}])
def test_each_index_is_judged_by_its_own_fluctuation(archive, store, decoded, chunks, small_leaves):
    source = archive if chunks is None else archive.chunk(chunks)
    found = romzarr.verify(store, source, per=["lon"]).by_index
    assert set(found) == {"temp", "salt", "land"}
    for name, dims in found.items():
        x, y = archive[name].astype(np.float64), decoded[name].astype(np.float64)
        assert set(dims) == {"lev", "lon"}
        for dim, each in dims.items():
            expected = errors_on(x, y, dim)
            assert_allclose(each.relative_l2_error, expected, rtol=1e-8)
            assert each.worst == np.argmax(expected)
            others = [other for other in x.dims if other != dim]
            assert_allclose(each.rms_error, np.sqrt(((y - x) ** 2).mean(others)), rtol=1e-8)


def test_a_ruined_level_is_warned_of_and_breaks_no_bound(report):
    assert report.ok
    for name in ("temp", "salt", "land"):
        (words,) = report.by_index[name]["lev"].warnings
        assert words in report.warnings
        assert f"variable {name!r}: the error at lev=3 (5000.0 m) is " in words
        whole = report.relative_l2_error[name]
        worst = report.by_index[name]["lev"].relative_l2_error[3]
        assert worst > 10 * whole
        assert f"{worst:.3g} of the fluctuation there, {worst / whole:.0f} times" in words
        assert report.by_index[name]["lon"].warnings == ()


def test_errors_by_index_are_weighted_as_the_store_was_made(archive, tmp_path):
    romzarr.compress(archive[["temp"]], tmp_path / "s", weights="cos(latitude)")
    x, y = archive.temp, xr.open_dataset(tmp_path / "s", engine="romzarr").temp
    root = np.sqrt(np.cos(np.deg2rad(archive.lat)))
    (found,) = romzarr.verify(tmp_path / "s", archive[["temp"]]).by_index["temp"].values()
    assert_allclose(found.relative_l2_error, errors_on(root * x, root * y, "lev"), rtol=1e-8)


def test_where_nothing_fluctuates_an_error_has_no_size(tmp_path):
    rng = np.random.default_rng(0)
    u = rng.standard_normal((30, 3, 50))
    u[:, 1] = 7.0
    made = xr.Dataset({"u": (("time", "lev", "x"), u)})
    romzarr.compress(made, tmp_path / "s", tolerance=0.1)
    moved = made.copy(deep=True)
    moved["u"][:, 1, 3] += 0.5
    (found,) = romzarr.verify(tmp_path / "s", moved).by_index["u"].values()
    assert found.relative_l2_error[1] is None
    assert found.rms_error[1] >= 0.5 / np.sqrt(50) * 0.9
    assert any("nothing fluctuates at lev=1, where the RMS error is" in w for w in found.warnings)


def test_a_single_snapshot_is_judged_about_the_mean_of_each_level(tmp_path):
    rng = np.random.default_rng(0)
    u = np.array([[100.0], [5.0]]) + np.array([[3.0], [0.5]]) * rng.standard_normal((2, 400))
    made = xr.Dataset({"u": (("lev", "x"), u)})
    romzarr.compress(made, tmp_path / "s", tolerance=0.05, config={"archive": {"time": "none"}})
    y = xr.open_dataset(tmp_path / "s", engine="romzarr").u.values
    expected = np.linalg.norm(y - u, axis=1) / np.linalg.norm(u - u.mean(1, keepdims=True), axis=1)
    (found,) = romzarr.verify(tmp_path / "s", made).by_index["u"].values()
    assert_allclose(found.relative_l2_error, expected, rtol=1e-8)


def test_a_sample_leaves_open_what_it_has_not_seen(archive, store):
    chunked = archive[["temp"]].chunk({"lev": 1, "time": 40})
    whole = xr.merge([chunked, archive.drop_vars("temp")])
    found = romzarr.verify(store, whole, sample=True)
    errors = found.by_index["temp"]["lev"].relative_l2_error
    assert len(errors) == 4
    json.dumps(found.to_dict(), allow_nan=False)


def test_dims_that_are_unknown_or_time_are_refused(archive, store):
    for dim in ("level", "time"):
        with pytest.raises(ConfigError, match=rf"per: found '{dim}'.* allowed are lat, lev, lon"):
            romzarr.verify(store, archive, per=[dim])


# --- further measures ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["temp", "salt", "land", "series"])
def test_bias_and_correlation_are_those_of_all_values(archive, decoded, report, name):
    x, y = archive[name].astype(np.float64), decoded[name].astype(np.float64)
    found = report.measures[name]
    assert_allclose(found["bias"]["value"], float((y - x).mean()), atol=1e-12, rtol=1e-8)
    usual = float(np.sqrt(((x - x.mean("time")) ** 2).mean()))
    assert_allclose(found["bias"]["relative"], float((y - x).mean()) / usual, atol=1e-12, rtol=1e-8)
    there = np.isfinite(x.values)
    expected = np.corrcoef(x.values[there], y.values[there])[0, 1]
    assert_allclose(found["correlation"]["value"], expected, rtol=1e-10)
    a, b = (each - each.mean("time") for each in (x, y))
    expected = np.corrcoef(a.values[there], b.values[there])[0, 1]
    assert_allclose(found["correlation"]["anomalies"], expected, rtol=1e-10)


@pytest.mark.parametrize("name", ["temp", "salt", "land", "series"])
def test_extremes_are_exact_and_quantiles_within_their_resolution(archive, decoded, report, name):
    found = report.measures[name]["extremes"]
    there = np.isfinite(archive[name].values)
    for i, (side, data) in enumerate((("original", archive), ("decoded", decoded))):
        values = data[name].values[there].astype(np.float64)
        exact = np.quantile(values, found["quantiles"], method="inverted_cdf")
        assert np.abs(np.array(found[side]) - exact).max() <= found["resolution"]
        assert (found["minimum"][i], found["maximum"][i]) == (values.min(), values.max())
        assert found["resolution"] < 1e-4 * np.ptp(values)


def test_gradients_are_those_of_all_maps(archive, decoded, report):
    for name in ("temp", "salt", "land"):
        found = report.measures[name]["gradient"]
        assert (found["maps"], found["of"], found["dims"]) == (160, 160, ["lat", "lon"])
        x, y = archive[name].astype(np.float64), decoded[name].astype(np.float64)
        for dim, error in found["relative_l2_error"].items():
            expected = ((y - x).diff(dim) ** 2).sum() / (x.diff(dim) ** 2).sum()
            assert_allclose(error, float(np.sqrt(expected)), rtol=1e-8)


def test_spectra_are_means_over_maps(archive, decoded, report):
    found = report.measures["temp"]["spectrum"]
    assert found["without_gaps"] == 160
    x, y = archive.temp.values, decoded.temp.values
    for side, values in (("original", x), ("decoded", y), ("error", y - x)):
        expected = np.zeros(13)
        taper = np.outer(*(np.sin(np.pi * np.arange(1, n + 1) / (n + 1)) ** 2 for n in (18, 26)))
        radius = np.hypot(np.fft.fftfreq(18)[:, None], np.fft.fftfreq(26)[None]) * 26
        mean = values.mean((2, 3), keepdims=True)
        power = np.mean(np.abs(np.fft.fft2((values - mean) * taper)) ** 2, axis=(0, 1))
        for band in range(1, 14):
            expected[band - 1] = power[np.rint(radius) == band].sum() / (18 * 26 * (taper**2).sum())
        assert_allclose(found[side], expected, rtol=1e-8)
    assert found["resolved_wavelength"] == 2.0


def test_what_is_measured_does_not_depend_on_chunks(archive, store, report, small_leaves):
    chunked = archive.chunk({"time": 9, "lev": 2, "lat": 7, "lon": 10})
    found = romzarr.verify(store, chunked, measures=list(FurtherMeasure)).measures

    def compare(one, other):
        if isinstance(one, dict):
            assert one.keys() == other.keys()
            for key in one:
                compare(one[key], other[key])
        elif isinstance(one, str) or one is None:
            assert one == other
        else:
            assert np.asarray(one).dtype.kind == "U" or np.allclose(one, other, 1e-6, 1e-9)

    compare(report.measures, found)


@pytest.mark.parametrize(
    ("name", "measure", "why"),
    [
        ("land", "spectrum", "every map has gaps"),
        ("series", "spectrum", "no dims of space"),
        ("series", "gradient", "no dims of space"),
        ("series", "ssim", "no maps of two dims"),
    ],
)
def test_what_does_not_apply_says_why(report, name, measure, why):
    assert why in report.measures[name][measure]["not_applicable"]


@pytest.mark.parametrize(
    ("dims", "shape", "coords", "measure", "why"),
    [
        (("y", "x"), (5, 7), {}, "spectrum", "maps of 5 x 7 points are below 8"),
        (("y", "x"), (10, 30), {}, "ssim", "maps of 10 x 30 points are below 11"),
        (("x",), (60,), {}, "ssim", "no maps of two dims"),
        (("ncells",), (60,), {}, "gradient", "neighbours along 'ncells'"),
        (("place",), (60,), {"lat": "place", "lon": "place"}, "spectrum", "neighbours along"),
        (("y", "x"), (12, 1), {}, "ssim", "no maps of two dims"),
    ],
)
def test_spaces_without_such_maps_say_so(tmp_path, dims, shape, coords, measure, why):
    rng = np.random.default_rng(0)
    u = np.sin(np.arange(20.0) / 3)[(...,) + (None,) * len(shape)] * rng.standard_normal(shape)
    made = xr.Dataset({"u": (("time", *dims), u)}).assign_coords(
        {name: (dim, rng.random(shape[0])) for name, dim in coords.items()}
    )
    romzarr.compress(made, tmp_path / "s", tolerance=0.1)
    found = romzarr.verify(tmp_path / "s", made, measures=measure).measures["u"]
    assert list(found) == [measure]
    assert why in found[measure]["not_applicable"]


def test_constants_and_lossless_stores_have_words_in_json(tmp_path):
    rng = np.random.default_rng(0)
    u = rng.standard_normal((12, 16, 16)).astype(np.float32)
    u[3, 2, 2], u[4, 1, 1] = np.inf, np.nan
    made = xr.Dataset(
        {
            "u": (("time", "y", "x"), u),
            "c": (("time", "y", "x"), np.full(u.shape, 3.0)),
            "n": (("time", "y", "x"), np.full(u.shape, np.nan)),
        }
    )
    romzarr.compress(made, tmp_path / "s", tolerance=0)
    found = romzarr.verify(tmp_path / "s", made, measures="all")
    assert found.ok
    json.dumps(found.to_dict(), allow_nan=False)
    assert found.measures["u"]["correlation"]["value"] == 1
    assert found.measures["u"]["bias"] == {"value": 0.0, "relative": 0.0}
    assert found.measures["u"]["ssim"]["mean"] == pytest.approx(1)
    assert found.measures["u"]["spectrum"]["without_gaps"] == 10
    assert "not_applicable" in found.measures["c"]["correlation"]
    assert all("not_applicable" in each for each in found.measures["n"].values())


@pytest.mark.parametrize("names", ["all", ["all"], ["ssim", "bias"], "bias", ()])
def test_measures_are_those_that_were_asked_for(archive, store, names):
    found = romzarr.verify(store, archive[["series"]].assign(archive), measures=names).measures
    expected = {"all": set(FurtherMeasure), "bias": {"bias"}}
    wanted = expected.get(names if isinstance(names, str) else (*names, "")[0], set(names))
    assert all(set(each) == wanted for each in found.values())
    assert bool(found) == bool(names)


def test_an_unknown_measure_is_refused_with_the_nearest(archive, store):
    with pytest.raises(ConfigError, match=r"found 'sim', allowed are bias, .*did you mean 'ssim'"):
        romzarr.verify(store, archive, measures=["sim"])


# --- which maps ---------------------------------------------------------------------------


def variable(dims: tuple[str, ...], shape: tuple[int, ...]) -> ArchivedVariable:
    return ArchivedVariable(
        "u", dims, shape, np.dtype("f4"), tuple((n,) for n in shape), dims.index("time"), None
    )


@pytest.mark.parametrize(
    ("dims", "expected"),
    [
        (("time", "lev", "lat", "lon"), ("lat", "lon")),
        (("lon", "lat", "lev", "time"), ("lon", "lat")),
        (("time", "lat", "lon", "band"), ("lat", "lon")),
        (("time", "member", "j", "i"), ("j", "i")),
        (("time", "z", "x"), ("z", "x")),
        (("time", "z"), ("z",)),
        (("time", "lev", "ncells"), ("ncells",)),
        (("time",), ()),
    ],
)
def test_maps_are_horizontal_where_that_is_known(dims, expected):
    found = maps_of(variable(dims, (30,) * len(dims)), {}, 30, "seed")
    assert found.dims == expected
    assert found.total == 30 ** (len(dims) - len(expected))


def test_maps_are_spread_over_time_and_levels_where_they_are_many():
    found = maps_of(variable(("time", "lev", "y", "x"), (1000, 50, 64, 64)), {}, 1000, "seed")
    assert (found.total, len(found.chosen)) == (50_000, 4096)
    times = np.array([time for time, _ in found.chosen])
    assert np.abs(times - np.arange(4096) * 1000 / 4096).max() <= 1
    assert {place for _, place in found.chosen} == {(k,) for k in range(50)}
    assert len(set(found.chosen)) == 4096


def test_of_huge_maps_the_middle_is_looked_at():
    found = maps_of(variable(("time", "y", "x"), (9, 10_000, 20_000)), {}, 9, "seed")
    assert len(found.chosen) == 8
    assert np.prod(found.shape) <= maps_module.LARGEST
    assert not found.whole
    assert [part.start + part.stop for part in found.part] == pytest.approx([10_000, 20_000], abs=1)


def test_sampled_maps_are_counted(archive, store, monkeypatch):
    monkeypatch.setattr(maps_module, "MOST_MAPS", 12)
    found = romzarr.verify(store, archive, measures=["ssim", "gradient"]).measures["temp"]
    assert (found["ssim"]["maps"], found["ssim"]["of"]) == (12, 160)
    assert 0 < found["gradient"]["relative_l2_error"]["lat"] < 1

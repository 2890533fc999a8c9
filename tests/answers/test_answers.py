"""Answers are those of decoded values, and within their bound those of the archive."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import romzarr
from romzarr.errors import AnswerError

# Of points without values, with the oldest xarray.
pytestmark = pytest.mark.filterwarnings("ignore:Degrees of freedom:RuntimeWarning")

FACTORS = {"few modes": 0.0, "modes": 0.01, "noise": 1.0}


def dataset(rng, noise, dtype="f4", m=60, gaps=0):
    time = np.arange("2001-01-01", "2005-01-01", 24, dtype="datetime64[D]")[:m]
    modes = rng.standard_normal((3, 6, 9))
    phases = rng.uniform(0.1, 1, (3, 1)) * np.arange(m) + rng.uniform(0, 6, (3, 1))
    u = np.tensordot(np.cos(phases).T, modes, 1) + rng.uniform(-9, 9)
    u = u + noise * rng.standard_normal(u.shape)
    u[:, rng.random((6, 9)) < 0.2] = np.nan
    u[rng.integers(0, m, gaps), rng.integers(0, 6, gaps), rng.integers(0, 9, gaps)] = np.nan
    coords = {"time": time.astype("datetime64[ns]"), "lat": np.linspace(-60, 60, 6)}
    return xr.Dataset({"u": (("time", "lat", "x"), u.astype(dtype))}, coords)


def wide(archive):
    return archive.astype("f8").u


def slope(values, series):
    about = series - series.mean()
    return (values * xr.DataArray(about / (about @ about), dims="time")).sum("time", skipna=False)


def asked(selected, series, area):
    """Each answer beside what computes the same from values, and the dims of its norm."""
    answers = selected.romzarr
    days = (selected.time - selected.time[0]).values / np.timedelta64(1, "D")
    space = ("lat", "x")
    return {
        "mean": (answers.mean("time"), lambda v: v.mean("time"), space),
        "std": (answers.std(), lambda v: v.std("time"), space),
        "var": (answers.var(), lambda v: v.var("time"), space),
        "month": (
            answers.climatology("time.month"), lambda v: v.groupby("time.month").mean(), space,
        ),
        "trend": (answers.trend(), lambda v: slope(v, days), space),
        "regress": (answers.regress(series), lambda v: slope(v, series), space),
        "covariance": (
            answers.covariance(series), lambda v: slope(v, series) * series.var(), space,
        ),
        "integrate": (answers.integrate(area), lambda v: (v * area).sum(space), ("time",)),
    }  # fmt: skip


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    noise=st.sampled_from(sorted(FACTORS.values())),
    tolerance=st.sampled_from([0.1, 1e-2, 1e-4, 0]),
    dtype=st.sampled_from(["f4", "f8"]),
    weights=st.sampled_from(["none", "cos(latitude)"]),
    gaps=st.sampled_from([0, 3]),
    bounds=st.sampled_from(
        [{}, {"max_error": {"u": 0.05}}, {"max_error": {"u": "1% of value"}}, {"per": ["lat"]}]
    ),
)
def test_the_truth_is_within_the_bound(
    tmp_path_factory, seed, noise, tolerance, dtype, weights, gaps, bounds
):
    rng = np.random.default_rng(seed)
    store = tmp_path_factory.mktemp("answers") / "s.romzarr"
    archive = dataset(rng, noise, dtype, gaps=gaps)
    config = {"archive": {"weights": weights}, "compression": bounds if tolerance else {}}
    romzarr.compress(archive, store, tolerance=tolerance, config=config)
    some = {"time": slice(int(rng.integers(0, 20)), None), "x": [4, 1, 1, 7]}
    for chosen in ({}, some):
        truth = wide(archive.isel(chosen))
        selected = xr.open_dataset(store, engine="romzarr").isel(chosen)
        series = rng.standard_normal(selected.sizes["time"])
        area = xr.DataArray(rng.random(6), dims="lat")
        counted = np.cos(np.deg2rad(truth.lat)) if weights != "none" else xr.ones_like(truth.lat)
        decoded = wide(xr.open_dataset(store, engine="romzarr").isel(chosen).load())
        for name, (answer, law, dims) in asked(selected, series, area).items():
            scale = float(abs(law(abs(decoded))).max()) + float(abs(decoded).max())
            same = law(decoded)
            xr.testing.assert_allclose(
                answer.u, same.transpose(*answer.u.dims), rtol=0, atol=scale * 2e-5 + 1e-12
            )
            error = abs(answer.u - law(truth))
            weight = counted if "lat" in dims else 1.0
            power = 1 if name == "var" else 2
            size = (weight * error**power).sum(dims) ** (1 / power)
            assert (size <= answer.u_bound).all(), (name, size, answer.u_bound)


def test_bounds_are_not_idle(tmp_path):
    ratios = {"mean": [], "var": []}
    for seed in range(5):
        archive = dataset(np.random.default_rng(seed), 0.01)
        romzarr.compress(archive, tmp_path / f"{seed}.romzarr", tolerance=1e-2)
        answers, truth = romzarr.open(tmp_path / f"{seed}.romzarr"), wide(archive)
        mean, var = answers.mean(), answers.var()
        error = np.sqrt(((mean.u - truth.mean("time")) ** 2).sum())
        ratios["mean"].append(float(mean.u_bound / error))
        ratios["var"].append(float(var.u_bound / abs(var.u - truth.var("time")).sum()))
    assert max(np.median(each) for each in ratios.values()) <= 30, ratios


def test_an_appended_store_answers_for_all_of_it(tmp_path):
    archive = dataset(np.random.default_rng(1), 0.01)
    romzarr.compress(archive.isel(time=slice(40)), tmp_path / "s", tolerance=1e-2)
    romzarr.append(tmp_path / "s", archive)
    answers = romzarr.open(tmp_path / "s")
    error = np.sqrt(((answers.mean().u - wide(archive).mean("time")) ** 2).sum())
    assert error <= answers.mean().u_bound


def test_what_is_no_selection_is_refused(tmp_path):
    romzarr.compress(dataset(np.random.default_rng(0), 0.0), tmp_path / "s", tolerance=1e-2)
    answers = romzarr.open(tmp_path / "s")
    with pytest.raises(AnswerError, match="lazily"):
        (answers.dataset * 2).romzarr.mean()
    with pytest.raises(AnswerError, match="no dim of time"):
        answers.dataset.isel(time=0).romzarr.mean()
    with pytest.raises(AnswerError, match="average"):
        answers.mean("lat")
    assert answers.average().u.shape == (60,)
    assert answers.modes.u.shape[0] == answers.coefficients.sizes["mode"] == answers.info.rank

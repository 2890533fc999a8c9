"""Few modes below, values above: seasons that ride on weather, within the bound."""

from __future__ import annotations

from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import romzarr
from romzarr.archive import open_archive
from romzarr.compression import choose_coding, write_archive
from romzarr.compression.survey import survey
from romzarr.contracts import Coding
from romzarr.store.reading.reader import open_store
from romzarr_flows.tables import info_table
from tests.format_page import decoded_by_hand
from tests.oracles import assert_same_but_values, decoded_errors
from tests.strategies import seeds


@pytest.fixture(autouse=True)
def _one_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def weather(rng: np.random.Generator, m: int, shape: tuple[int, int]) -> np.ndarray:
    """Red noise in time and space, of unit variance."""
    ky, kx = np.fft.fftfreq(shape[0], 1 / shape[0]), np.fft.rfftfreq(shape[1], 1 / shape[1])
    size = 1 / (1 + np.hypot(ky[:, None], kx) ** 2 / 9) ** 1.25
    state, rows = np.zeros((shape[0], len(kx)), complex), []
    for _ in range(m):
        fresh = rng.standard_normal(state.shape) + 1j * rng.standard_normal(state.shape)
        state = 0.8 * state + 0.6 * size * fresh
        rows.append(np.fft.irfft2(state, shape))
    found = np.array(rows)
    return found / found.std()


def seasons(
    seed: int, *, m: int = 240, shape=(24, 40), names=("sst",), noise: float = 0.3, land=False
) -> xr.Dataset:
    """A seasonal cycle of drifting amplitude on red noise, in the ocean."""
    rng = np.random.default_rng(seed)
    t, lat = np.arange(m) / 12, np.linspace(-1, 1, shape[0])[:, None]
    drift = 1 + 0.2 * np.cumsum(rng.standard_normal(m)) / m**0.5
    cycle = [drift * np.cos(2 * np.pi * t), np.sin(2 * np.pi * t), np.cos(4 * np.pi * t)]
    variables = {}
    for number, name in enumerate(names):
        patterns = weather(rng, 3, shape) * [[[1.0]], [[0.3]], [[0.2]]] + lat
        values = 15 + np.tensordot(np.array(cycle).T, patterns, 1)
        values += noise * weather(rng, m, shape)
        if land:
            values[:, 4:9, 10:25] = np.nan
        # Time in the middle for the second variable.
        dims = ("time", "lat", "lon") if number == 0 else ("lat", "time", "lon")
        variables[name] = (dims, np.moveaxis(values, 0, dims.index("time")).astype(np.float32))
    return xr.Dataset(variables, {"time": t})


def stored(source: xr.Dataset, folder: Path, **options):
    report = romzarr.compress(source, folder / "s.romzarr", overwrite=True, **options)
    return report, xr.open_dataset(folder / "s.romzarr", engine="romzarr")


def codings_of(folder: Path) -> set[str]:
    return {each["coding"] for each in romzarr.info(folder / "s.romzarr").variables.values()}


@pytest.mark.parametrize(("tolerance", "smaller"), [(1e-1, 0.97), (1e-2, 0.9)])
def test_seasons_are_modes_and_weather_is_values(tmp_path, monkeypatch, tolerance, smaller):
    source = seasons(0, m=480, shape=(30, 60), land=True)
    report, decoded = stored(source, tmp_path, tolerance=tolerance)
    assert codings_of(tmp_path) == {Coding.HYBRID}
    assert 2 <= report.rank <= 8
    assert "values of the rest" in info_table(romzarr.info(tmp_path / "s.romzarr").to_dict(), "s")
    assert_same_but_values(source, decoded)
    error = decoded_errors(source, decoded)["sst"]
    assert error <= report.relative_l2_error["sst"] <= tolerance
    # Nothing is left unspent.
    assert error > 0.97 * tolerance
    assert romzarr.verify(tmp_path / "s.romzarr", source).ok
    monkeypatch.setattr(choose_coding, "plan_leading", lambda *_: None)
    other, _ = stored(source, tmp_path, tolerance=tolerance)
    assert codings_of(tmp_path) <= {Coding.POD, Coding.DIRECT}
    assert report.stored_bytes < smaller * other.stored_bytes


@given(
    seed=seeds,
    names=st.sampled_from([("u",), ("u", "v")]),
    land=st.booleans(),
    noise=st.sampled_from([0.1, 0.3, 1.0]),
    chunk=st.sampled_from([1, 37, 240]),
    tolerance=st.sampled_from([0.2, 0.03, 1e-3]),
)
@settings(
    deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_the_bound_holds(tmp_path, seed, names, land, noise, chunk, tolerance):
    source = seasons(seed, names=names, land=land, noise=noise).chunk(time=chunk)
    report, decoded = stored(source, tmp_path, tolerance=tolerance)
    assert_same_but_values(source, decoded)
    for name, error in decoded_errors(source, decoded).items():
        assert error <= report.relative_l2_error[name] <= tolerance


def test_any_part_decodes_to_what_the_whole_does(tmp_path):
    _, decoded = stored(seasons(1, names=("u", "v"), land=True), tmp_path, tolerance=1e-2)
    assert codings_of(tmp_path) == {Coding.HYBRID}
    store, whole = open_store(tmp_path / "s.romzarr"), decoded.load()
    rng = np.random.default_rng(1)
    for name in ("u", "v"):
        axis = whole[name].dims.index("time")
        for times in (slice(90, 110), slice(200, 20, -7), rng.integers(0, 240, 40)):
            part = store.decode(name, times, [slice(3, 9), slice(None)])
            rows = np.moveaxis(whole[name].values, axis, 0)[times][:, 3:9, :]
            np.testing.assert_array_equal(part, np.moveaxis(rows, 0, axis))


def large_estimate(source, monkeypatch):
    """From a sample, as of a large archive."""
    with monkeypatch.context() as patch:
        patch.setattr("romzarr.operations.estimate.LEAST_BYTES", 0)
        return romzarr.estimate(source, tolerances=[1e-2])


def test_large_archives_of_seasons_go_through_a_pod_though_weather_need_not(tmp_path, monkeypatch):
    """A sample of half of the runs says that their modes save bits of the others."""
    monkeypatch.setattr(write_archive, "LEAST_BYTES", 0)
    source = seasons(5, m=600, noise=0.6, shape=(30, 60)).chunk(time=50)
    noise = seasons(5, m=600, noise=1e4, shape=(30, 60)).chunk(time=50)
    stored(source, tmp_path, tolerance=1e-2)
    assert codings_of(tmp_path) == {Coding.HYBRID}
    found = open_archive(noise), open_archive(source)
    (calm,), (seasonal,) = (survey(each, [1e-2], [0])[0] for each in found)
    assert (calm.rides, seasonal.rides) == (False, True)
    for found in (
        romzarr.estimate(source, tolerances=[1e-2]),
        large_estimate(source, monkeypatch),
    ):
        assert found.estimates[0].variables["sst"].coding == Coding.HYBRID
        ratio = romzarr.info(tmp_path / "s.romzarr").compression_ratio
        assert found.estimates[0].compression_ratio == pytest.approx(ratio, rel=0.15)
    monkeypatch.setattr("romzarr.compression.survey.MOST_FACTORED", 0)
    stored(source, tmp_path, tolerance=1e-2)
    assert codings_of(tmp_path) == {Coding.DIRECT}


def test_single_values_keep_their_bound_too(tmp_path):
    source = seasons(2)
    report, decoded = stored(source, tmp_path, tolerance=5e-2, max_error={"sst": 0.1})
    assert float(abs(source.sst.astype("f8") - decoded.sst).max()) <= 0.1
    assert report.largest_pointwise_error["sst"] <= 0.1


def test_what_comes_later_is_appended(tmp_path):
    source = seasons(3, m=360)
    stored(source.isel(time=slice(240)), tmp_path, tolerance=1e-2)
    assert codings_of(tmp_path) == {Coding.HYBRID}
    report = romzarr.append(tmp_path / "s.romzarr", source)
    decoded = xr.open_dataset(tmp_path / "s.romzarr", engine="romzarr")
    assert decoded.sizes["time"] == 360
    assert decoded_errors(source, decoded)["sst"] <= report.relative_l2_error["sst"] <= 1e-2


def test_the_snippet_of_the_format_page_decodes_it(tmp_path):
    _, decoded = stored(seasons(4, names=("u", "v"), land=True), tmp_path, tolerance=0.02)
    assert codings_of(tmp_path) == {Coding.HYBRID}
    for name in ("u", "v"):
        found = decoded_by_hand(tmp_path / "s.romzarr", name)
        np.testing.assert_allclose(found, decoded[name].values, rtol=1e-5, atol=1e-5)

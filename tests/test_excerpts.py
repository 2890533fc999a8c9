"""Parts of a store to look at agree with the whole, and errors with those measured in full."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose, assert_array_equal

import romzarr
from romzarr.contracts import BlockSpan
from romzarr.store.reading.reader import open_store
from romzarr.views.error_maps import deviation
from romzarr.views.excerpts import SNAPSHOTS, coefficients, modes_at, rows_at, snapshot_at, spectrum
from romzarr.views.sections import section_of
from tests.oracles import relative_error, singular_values, snapshots_by_rows

M, NY, NX = 700, 16, 24


def flow() -> xr.Dataset:
    """A travelling wave with its harmonic, and a hole in the one of two variables."""
    t, x, y = np.arange(M) * 0.1, np.linspace(0, 6, NX), np.linspace(-1, 1, NY)
    phase = x - t[:, None, None]
    u = np.sin(phase) * np.exp(-(y[:, None] ** 2)) + 0.2 * np.cos(2 * phase) * y[:, None]
    v = np.cos(phase + y[:, None]) * 5
    u[:, 7:10, 4:8] = np.nan
    return xr.Dataset(
        {"u": (("time", "y", "x"), u), "v": (("time", "y", "x"), v)},
        {"time": ("time", t, {"units": "s"}), "x": x, "y": y},
    )


@pytest.fixture(scope="module")
def wave(tmp_path_factory):
    folder = tmp_path_factory.mktemp("excerpts")
    source = flow()
    source.chunk(time=50, y=10).to_zarr(folder / "wave.zarr", consolidated=False)
    romzarr.compress(folder / "wave.zarr", folder / "wave", tolerance=1e-4)
    return source, folder / "wave", folder / "wave.zarr"


def test_what_modes_leave_out_is_what_an_svd_says(wave):
    source, store, _ = wave
    found = spectrum(open_store(store))
    rows = [snapshots_by_rows(source[name].values) for name in ("u", "v")]
    scaled = np.concatenate([r / np.linalg.norm(r - r.mean(axis=0)) for r in rows], axis=1)
    sigma = singular_values(scaled)
    assert_allclose(found.singular_values, sigma[: len(found.singular_values)], rtol=1e-3)
    left = np.sqrt(np.cumsum((sigma**2)[::-1])[::-1][: len(found.left_out)] / 2)
    assert_allclose(found.left_out[:-1], left[: len(found.left_out) - 1], rtol=1e-2)


def test_parts_of_modes_and_snapshots_are_those_of_the_whole(wave):
    _, path, _ = wave
    store, decoded = open_store(path), xr.open_dataset(path, engine="romzarr")
    section = section_of(decoded, "u", "time")
    phi = modes_at(store, section, 2)
    hole = np.isnan(decoded.u.values[0])
    assert_array_equal(np.isnan(phi[0]), hole)
    whole = store.modes("u")[:2]
    assert_allclose(phi[:, ~hole], whole[:, ~hole], rtol=1e-4, atol=1e-6 * np.abs(whole).max())
    assert_allclose(snapshot_at(decoded, section, "time", 7), decoded.u.values[7], rtol=1e-6)
    numbers, rows = rows_at(decoded, section, "time")
    assert numbers[0] == 0
    assert numbers[-1] == M - 1
    assert_allclose(rows, decoded.u.values[numbers], rtol=1e-5, atol=1e-6)


def test_coefficients_of_a_long_record_are_its_middle_and_its_range(wave):
    _, path, _ = wave
    store = open_store(path)
    found = coefficients(store, 2)
    whole = store.last.latent.span(BlockSpan(0, M))[:, :2]
    assert len(found.numbers) == SNAPSHOTS
    assert_allclose(found.coded, whole[found.numbers])
    assert_array_equal(found.parts.ravel()[[0, -1]], [0, M - 1])
    assert_allclose(found.lowest.min(axis=0), whole.min(axis=0))
    assert_allclose(found.highest.max(axis=0), whole.max(axis=0))
    kept = np.intersect1d(found.numbers, store.last.latent.index)
    assert_array_equal(found.numbers[found.kept], kept)


def test_each_sample_is_gone_on_from_by_the_model_of_its_regime(tmp_path):
    """An oscillator that turns three times as fast from snapshot 1100 on, in closed form."""
    phase = np.cumsum(np.repeat([0.05, 0.15], [1100, 1460]))
    shapes = np.linalg.qr(np.random.default_rng(0).standard_normal((60, 2)))[0].T
    rows = np.stack([np.cos(phase), np.sin(phase)], axis=1) @ shapes
    source = xr.Dataset({"u": (("time", "x"), rows)}, {"time": 0.05 * np.arange(len(phase))})
    romzarr.compress(source, tmp_path / "s", tolerance=1e-4)
    latent = open_store(tmp_path / "s").last.latent
    found = coefficients(open_store(tmp_path / "s"), 2)
    assert found.numbers[0] < 1024 < 1280 < found.numbers[-1]
    served = latent.block_model[found.numbers // 256]
    assert {0, 1} <= set(served.tolist())
    # Where a model serves, it stays near what is decoded with its corrections.
    off = np.abs(found.modelled - found.coded).max(axis=1) / np.abs(found.coded).max()
    begun = found.numbers >= found.numbers[found.kept[0]]
    whole = begun & np.isin(found.numbers // 256, [2, 3, 5, 6])
    assert off[whole].max() < 0.05


def test_the_model_goes_on_from_each_sample_as_its_equations_say(wave):
    """SciPy integrates the equations that `romzarr.equations` prints."""
    from scipy.integrate import solve_ivp

    _, path, _ = wave
    store = open_store(path)
    latent = store.last.latent
    found, model = coefficients(store, latent.rank), latent.models[0]
    start = int(found.kept[0])
    first = found.coded[start, : model.modes]
    times = latent.times[found.numbers[start : start + 6]]
    exact = solve_ivp(
        lambda _, a: model(a[None])[0], times[[0, -1]], first, t_eval=times, rtol=1e-9, atol=1e-12
    ).y.T
    got = found.modelled[start : start + 6, : model.modes]
    assert_allclose(got, exact, atol=1e-5 * np.abs(first).max())


def test_an_equation_that_explains_nothing_has_no_curve(wave, monkeypatch):
    store = open_store(wave[1])
    latent = store.last.latent
    before, (residual,) = coefficients(store, latent.rank).modelled, latent.stored_models.residuals
    monkeypatch.setattr("romzarr.views.excerpts.UNEXPLAINED", max(residual))
    after = coefficients(store, latent.rank).modelled
    worst = int(np.argmax(residual))
    assert np.isfinite(before[:, worst]).any()
    assert np.isnan(after[:, worst]).all()
    assert_array_equal(np.delete(after, worst, axis=1), np.delete(before, worst, axis=1))


def test_errors_by_time_and_place_are_those_of_the_decoded_values(wave):
    source, store, archive = wave
    decoded = xr.open_dataset(store, engine="romzarr")
    sections = [section_of(decoded, name, "time") for name in ("u", "v")]
    for found, section in zip(deviation(store, str(archive), sections), sections, strict=True):
        name = section.variable
        x, y = source[name].values, decoded[name].values
        assert found.share == 1
        assert_allclose(found.relative_l2_error, relative_error(x, y), rtol=1e-6)
        hole = np.isnan(x[0])
        by_place = np.sqrt(np.mean((x - y) ** 2, axis=0))
        assert_array_equal(np.isnan(found.map), hole)
        assert_allclose(found.map[~hole], by_place[~hole], rtol=1e-5)
        by_time = np.nansum((x - y) ** 2, axis=(1, 2))
        assert_allclose(
            found.relative**2 / found.relative.max() ** 2, by_time / by_time.max(), rtol=1e-5
        )


def test_of_a_large_archive_few_blocks_are_read(wave):
    source, store, archive = wave
    decoded = xr.open_dataset(store, engine="romzarr")
    sections = [section_of(decoded, "v", "time")]
    (found,) = deviation(store, str(archive), sections, most_bytes=source.v.nbytes // 6)
    assert found.share < 0.35
    assert found.numbers[0] == 0
    assert found.numbers[-1] == M - 1
    error = np.linalg.norm((source.v - decoded.v).values[found.numbers], axis=(1, 2))
    assert_allclose(found.relative / found.relative.max(), error / error.max(), rtol=1e-5)
    # Not even one time fits: some space blocks, and the rest of the map stays empty.
    (less,) = deviation(store, str(archive), sections, most_bytes=1)
    assert less.share < found.share
    assert np.isnan(less.map).any()
    assert np.isfinite(less.map).any()


def test_bins_of_a_coarse_map_hold_all_values_between_their_edges():
    from romzarr.views.error_maps import _binned

    rng = np.random.default_rng(0)
    values = rng.standard_normal((3, 10, 4, 50))
    places = (np.array([0, 4, 8]), None, np.arange(10, 40, 7))
    whole = _binned([values], (slice(0, 10), slice(0, 4), slice(0, 50)), places)[1][0]
    expected = [
        [values[:, a : a + 4, :, b : b + 7].sum() for b in range(10, 40, 7)] for a in (0, 4, 8)
    ]
    assert_allclose(whole, expected)
    # Blocks add up to the whole, wherever they are cut.
    total = np.zeros_like(whole)
    for part in (slice(0, 17), slice(17, 30), slice(30, 50)):
        corner, (sums,) = _binned([values[..., part]], (slice(0, 10), slice(0, 4), part), places)
        at = tuple(slice(a, a + n) for a, n in zip(corner, sums.shape, strict=True))
        total[at] += sums
    assert_allclose(total, whole)

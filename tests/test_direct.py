"""Variables coded without POD: chosen where that is smaller, and the bound holds all the same."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import romzarr
from romzarr.coding import tiles
from romzarr.compression import choose_coding, direct, write_archive
from romzarr.errors import AccuracyError, WorkerMemoryError
from romzarr.store.reading.reader import open_store
from romzarr.store.writing.tiles import TileWriter
from romzarr_flows.tables import info_table
from tests.oracles import (
    assert_same_but_values,
    chunks_read,
    decaying_matrix,
    decoded_errors,
)
from tests.strategies import grids, seeds, time_axes


@pytest.fixture(autouse=True)
def _one_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def compressed(source: xr.Dataset, folder: Path, **options):
    """Report, how each variable was coded, and the dataset that comes back."""
    store = folder / "store.romzarr"
    shutil.rmtree(store, ignore_errors=True)
    report = romzarr.compress(source, store, **options)
    codings = {name: v["coding"] for name, v in romzarr.info(store).variables.items()}
    return report, codings, xr.open_dataset(store, engine="romzarr")


def noise(rng: np.random.Generator, sizes: dict[str, int], dims: tuple[str, ...]) -> xr.DataArray:
    return xr.DataArray(rng.standard_normal([sizes[d] for d in dims]), dims=dims, name="u")


def waves(sizes: dict[str, int]) -> xr.DataArray:
    """Two modes, exactly: cheap by POD, dear by any transform of the values alone."""
    rng = np.random.default_rng(5)
    t = np.linspace(0, 40, sizes["time"])
    first, second = rng.standard_normal((2, sizes["x"]))
    rows = np.outer(np.sin(t), first) + np.outer(np.cos(1.3 * t), second)
    return xr.DataArray(rows, dims=("time", "x"), name="u")


@st.composite
def noisy(draw: st.DrawFn) -> xr.Dataset:
    """One or two variables of white noise, with all that may vary about them."""
    sizes = {
        "time": draw(st.integers(8, 60)),
        "y": draw(st.integers(2, 12)),
        "x": draw(st.integers(8, 30)),
    }
    rng = np.random.default_rng(draw(seeds))
    variables = {}
    for name in "uv"[: draw(st.integers(1, 2))]:
        space = draw(st.sampled_from([("x",), ("y", "x")]))
        dims = tuple(draw(st.permutations(["time", *space])))
        dtype, offset = draw(
            st.sampled_from([("f4", 0.0), ("f4", -300.0), ("f8", 1e6), (">f8", 0)])
        )
        variable = draw(st.sampled_from([1e-3, 1.0, 1e5])) * noise(rng, sizes, dims) + offset
        if draw(st.booleans()):
            kept = noise(rng, sizes, tuple(d for d in dims if d != "time")) < 0.3
            kept[dict.fromkeys(kept.dims, 0)] = True
            variable = variable.where(kept).transpose(*dims)
        grid = draw(grids(variable.shape, most=3))
        variables[name] = variable.astype(dtype).chunk(dict(zip(dims, grid, strict=True)))
    return xr.Dataset(variables, {"time": draw(time_axes(sizes["time"]))})


varied = settings(
    deadline=None,
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@given(
    source=noisy(),
    tolerance=st.sampled_from([0.3, 1e-1, 1e-2, 1e-4, 1e-6]),
    values=st.sampled_from([tiles.VALUES, 1000, 150]),
)
@varied
def test_the_bound_holds_for_noise_of_any_shape(tmp_path, source, tolerance, values):
    """In one tile and in many; each chunk is read once, and once more where values are coded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "VALUES", values)
        patch.setattr(tiles, "MOST_SNAPSHOTS", 16)
        report, codings, decoded = compressed(source, tmp_path, tolerance=tolerance)
    assert_same_but_values(source, decoded)
    for name, error in decoded_errors(source, decoded).items():
        assert error <= report.relative_l2_error[name] <= tolerance, (name, codings)
    assert report.chunks_read == chunks_read(source, codings)


@pytest.mark.parametrize("tolerance", [1e-1, 1e-2, 1e-3])
@pytest.mark.parametrize("dims", [("time", "x"), ("x", "time"), ("y", "time", "x")])
def test_noise_is_coded_as_it_is_at_the_cost_of_noise(tmp_path, dims, tolerance):
    sizes = {"time": 120, "y": 16, "x": 64}
    source = noise(np.random.default_rng(0), sizes, dims).to_dataset().chunk(time=17)
    _, codings, decoded = compressed(source, tmp_path, tolerance=tolerance)
    assert codings == {"u": "direct"}
    assert decoded_errors(source, decoded)["u"] <= tolerance
    # Shannon: no code of white noise does with less than log2(1 / tolerance) bits a value.
    # Scalar quantisation takes 1/4 of a bit more, wavelets that are not orthogonal about as much.
    least = -np.log2(tolerance) * source.u.size / 8
    spent = romzarr.info(tmp_path / "store.romzarr").bytes_by_part["basis"]
    assert least < spent < least + 0.6 * source.u.size / 8 + 1000


def test_each_variable_is_coded_the_way_that_suits_it(tmp_path):
    """Noise must not cost what is coherent its modes, whatever the order of the dims."""
    sizes = {"time": 200, "y": 5, "x": 100}
    rng = np.random.default_rng(1)
    source = xr.Dataset(
        {
            "rough": noise(rng, sizes, ("x", "time")),
            "smooth": waves(sizes),
            "still": ("x", rng.standard_normal(100)),
            "land": (("time", "x"), np.ones((200, 100))),
        },
        {"time": np.arange(200) * 0.1},
    )
    source["smooth"][:, 3] = np.nan
    alone, _, _ = compressed(source[["smooth"]], tmp_path, tolerance=1e-2)
    report, codings, decoded = compressed(source, tmp_path, tolerance=1e-2)
    assert codings == {"rough": "direct", "smooth": "pod", "land": "constant"}
    assert report.rank == alone.rank == 2
    assert max(decoded_errors(source, decoded).values()) <= 1e-2
    xr.testing.assert_identical(decoded.land, source.land)
    store = open_store(tmp_path / "store.romzarr")
    assert store.modes("smooth").shape == (2, 100)
    assert not store.modes("rough").any()
    xr.testing.assert_allclose(
        source.rough.mean("time").variable, xr.Variable("x", store.mean("rough")), atol=1e-2
    )
    assert romzarr.verify(tmp_path / "store.romzarr", source).ok


def test_coherent_data_keep_their_modes(tmp_path):
    source = waves({"time": 150, "x": 80}).to_dataset()
    source = source.assign_coords(time=np.arange(150.0))
    for tolerance in (1e-1, 1e-2, 1e-4):
        report, codings, _ = compressed(source, tmp_path, tolerance=tolerance)
        assert (codings, report.rank) == ({"u": "pod"}, 2)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_chosen_is_hardly_larger_than_what_is_not(tmp_path, monkeypatch, seed):
    """Spectra where either may win: the estimate is right to some per cent."""
    rng = np.random.default_rng(seed)
    rows = decaying_matrix(rng, 80, 300, 2 + seed) + 10.0 ** -(1 + seed) * rng.standard_normal(
        (80, 300)
    )
    source = xr.Dataset({"u": (("time", "x"), rows)}, {"time": np.arange(80.0)})
    for tolerance in (3e-2, 1e-3):
        sizes = {}
        for name in ("chosen", "pod", "direct"):
            with monkeypatch.context() as patch:
                if name == "pod":
                    patch.setattr(choose_coding, "plan_direct", lambda *_: {})
                if name == "direct":
                    patch.setattr(choose_coding, "_is_open", lambda *_: True)
                    patch.setattr(choose_coding, "_pod_bits", lambda plan, _: 1e99 * len(plan.live))
                _, codings, _ = compressed(source, tmp_path, tolerance=tolerance)
            assert name == "chosen" or codings == {"u": name}
            info = romzarr.info(tmp_path / "store.romzarr").bytes_by_part
            sizes[name] = info["basis"] + info["latent"]
        assert sizes["chosen"] <= 1.1 * min(sizes.values()) + 500


def test_the_bound_holds_in_the_weighted_norm(tmp_path):
    """Weights of zero, and points where nothing is, count for nothing."""
    rng = np.random.default_rng(2)
    sizes = {"time": 90, "lat": 20, "lon": 24}
    lat = np.linspace(-90, 90, 20)
    values = 280 + noise(rng, sizes, ("time", "lat", "lon"))
    values[:, 4:9, 5:20] = np.nan
    source = xr.Dataset({"t": values}, {"time": np.arange(90.0)})
    source = source.assign_coords(lat=("lat", lat, {"units": "degrees_north"})).chunk(
        time=31, lat=7
    )
    report, codings, decoded = compressed(source, tmp_path, tolerance=1e-2, weights="cos(latitude)")
    weights = {"t": np.cos(np.deg2rad(source.lat)).clip(min=0)}
    error = decoded_errors(source, decoded, weights)["t"]
    assert codings == {"t": "direct"}
    assert 0.97e-2 < error <= report.relative_l2_error["t"] <= 1e-2


def test_a_store_without_any_modes_does_all_that_stores_do(tmp_path):
    rng = np.random.default_rng(3)
    source = xr.Dataset(
        {"u": noise(rng, {"time": 60, "x": 40}, ("time", "x")), "w": ("x", np.arange(40))},
        {"time": np.arange(60) * 0.5},
    )
    report, _, decoded = compressed(source, tmp_path, tolerance=1e-2)
    store = tmp_path / "store.romzarr"
    assert (report.rank, report.kept_samples, report.nonzero_terms) == (0, 0, 0)
    info = romzarr.info(store)
    assert info.energy_by_mode == ()
    assert "u: time 60, x 40; float64; values, without POD" in info_table(info.to_dict(), "s")
    assert "coded without POD" in romzarr.equations(store).text()
    assert romzarr.verify(store, source).ok
    romzarr.reconstruct(store, tmp_path / "out.zarr", start=10, stop=20)
    again = xr.open_zarr(tmp_path / "out.zarr", consolidated=False)
    xr.testing.assert_equal(again.u, decoded.u.isel(time=slice(10, 20)))


@pytest.fixture
def unreadable(monkeypatch):
    """Values are coded from the POD, as those of streams are."""
    factor = write_archive.factor_archive
    monkeypatch.setattr(
        write_archive, "factor_archive", lambda *args: replace(factor(*args), readable=False)
    )


def test_masks_are_written_once_and_steps_lowered_until_the_bound_holds(
    tmp_path, monkeypatch, unreadable
):
    """A step that is far too large at first: what it wrote is dropped, and the bound holds."""
    written: list[Counter[str]] = []
    monkeypatch.setattr(tiles, "VALUES", 500)
    monkeypatch.setattr(tiles, "MOST_SNAPSHOTS", 16)
    settled, write_mask = direct._settled, TileWriter.write_mask
    create = direct.StoreWriter.create_values

    def counted(self, variable, region, mask):
        written[-1][str(region)] += 1
        write_mask(self, variable, region, mask)

    def created(self, *args):
        written.append(Counter())
        create(self, *args)

    monkeypatch.setattr(direct, "_settled", lambda *args: 3 * settled(*args))
    monkeypatch.setattr(TileWriter, "write_mask", counted)
    monkeypatch.setattr(direct.StoreWriter, "create_values", created)
    source = noise(np.random.default_rng(4), {"time": 50, "x": 70}, ("time", "x"))
    source = source.to_dataset()
    source["u"][:, 10:30] = np.nan
    report, _, decoded = compressed(source, tmp_path, tolerance=1e-2)
    assert len(written) > 1
    for masks in written:
        assert set(masks.values()) == {1}
        assert len(masks) > 1
    assert decoded_errors(source, decoded)["u"] <= report.relative_l2_error["u"] <= 1e-2


def test_where_no_step_is_enough_nothing_is_left(tmp_path, monkeypatch, unreadable):
    monkeypatch.setattr(direct, "_settled", lambda *args: 1e9)
    monkeypatch.setattr(direct, "AIM_UNSEEN", 1e9)
    source = noise(np.random.default_rng(4), {"time": 50, "x": 70}, ("time", "x"))
    with pytest.raises(AccuracyError, match=r"variable 'u': no quantisation step"):
        romzarr.compress(source.to_dataset(), tmp_path / "store", tolerance=1e-2)
    assert list(tmp_path.iterdir()) == []


def test_values_are_coded_where_modes_need_more_memory_than_workers_have(tmp_path, monkeypatch):
    def refused(*_: object) -> None:
        raise WorkerMemoryError("snapshots 0 to 9: a merge of 9 columns needs 9 MB")

    monkeypatch.setattr(write_archive, "LEAST_BYTES", 0)
    monkeypatch.setattr(write_archive, "factor_archive", refused)
    source = waves({"time": 256, "x": 400}).to_dataset().assign_coords(time=np.arange(256.0))
    source = source.chunk(time=64)
    report = romzarr.compress(source, tmp_path / "s.romzarr", tolerance=1e-2)
    assert report.rank == 0
    assert romzarr.verify(tmp_path / "s.romzarr", source).ok
    # Of variables with bounds on single values no sample was taken.
    with pytest.raises(WorkerMemoryError, match="9 columns"):
        romzarr.compress(
            source, tmp_path / "t.romzarr", tolerance=1e-2, max_error=dict.fromkeys(source, 0.1)
        )

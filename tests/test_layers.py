"""A store in layers is the store, and its first layers are a coarser one within their bound."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import romzarr
from romzarr.errors import ConfigError, StoreError
from romzarr.store.reading.reader import open_store
from tests.forgery import metadata_of, put_metadata, sign_metadata
from tests.strategies import seeds

LAYERS = (0.2, 0.05)
BOUND = "romzarr_relative_l2_error"


@pytest.fixture(autouse=True)
def _one_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def archive(kind: str, m: int = 160, seed: int = 0) -> xr.Dataset:
    """Waves of many modes, or noise that is smooth in space."""
    rng = np.random.default_rng(seed)
    t, y, x = np.arange(m), np.linspace(0, 1, 24), np.linspace(0, 1, 40)
    if kind == "waves":
        u = sum(
            np.cos(0.1 * k * t + k)[:, None, None]
            * np.sin(3 * k * y + k)[:, None]
            * np.cos(2 * k * x + k * k)
            / k
            for k in range(1, 9)
        )
    else:
        u = rng.standard_normal((m, 24, 40)).cumsum(1).cumsum(2)
    dataset = xr.Dataset(
        {"u": (("time", "lat", "x"), u.astype("f4"))}, {"time": t, "lat": 60 * y, "x": x}
    )
    return dataset.chunk(time=40)


def relative_error(found: xr.DataArray, source: xr.DataArray, weights=1.0) -> float:
    """Over the numbers of the source, about their mean in time."""
    found, source = found.astype("f8").load(), source.astype("f8").load()
    lost = (weights * (found - source).where(np.isfinite(source)) ** 2).sum()
    known = source.where(np.isfinite(source))
    return float((lost / (weights * (known - known.mean("time")) ** 2).sum()) ** 0.5)


def chunk_bytes(store: Path, arrays: str) -> int:
    found = store.glob(f"2*/basis/{arrays}/c/**/*")
    return sum(file.stat().st_size for file in found if file.is_file())


def with_gaps(source: xr.Dataset) -> xr.Dataset:
    missing = (source.x < 0.2) & (source.time % 7 == 0)
    return source.assign(u=source.u.where(~missing))


def positive(source: xr.Dataset) -> xr.Dataset:
    return source.assign(u=np.exp(3 * source.u))


CASES = {
    "modes": ("waves", None, {}),
    "values": ("rough", None, {}),
    "masked": ("waves", lambda s: s.where(s.x < 0.8), {}),
    "gaps": ("waves", with_gaps, {}),
    "weights": ("waves", None, {"archive.weights": "cos(latitude)"}),
    "bounds on single values": ("waves", None, {"compression.max_error": {"u": 0.05}}),
    "bounds by index": ("waves", None, {"compression.per": ["lat"]}),
    "logarithms": ("waves", positive, {"compression.max_error": {"u": "5% of value"}}),
}


@pytest.mark.parametrize("case", CASES)
def test_values_are_those_without_layers_and_coarse_ones_are_within_their_bound(case, tmp_path):
    kind, change, config = CASES[case]
    source = archive(kind) if change is None else change(archive(kind))
    romzarr.compress(source, tmp_path / "plain", tolerance=1e-2, config=config)
    layered = config | {"compression.layers": list(LAYERS)}
    romzarr.compress(source, tmp_path / "s", tolerance=1e-2, config=layered)
    plain = xr.open_dataset(tmp_path / "plain", engine="romzarr").load()
    xr.testing.assert_identical(xr.open_dataset(tmp_path / "s", engine="romzarr").load(), plain)
    assert romzarr.verify(tmp_path / "s", source).ok
    weights = np.cos(np.deg2rad(source.lat)) if "archive.weights" in config else 1.0
    for tolerance in LAYERS:
        coarse = xr.open_dataset(tmp_path / "s", engine="romzarr", tolerance=tolerance)
        bound = coarse.u.attrs[BOUND]
        error = relative_error(coarse.u, source.u, weights)
        assert error <= bound * (1 + 1e-6) <= tolerance * (1 + 1e-6)
        # The bound is not idle, and layers are there.
        assert error > 0.4 * tolerance
        np.testing.assert_array_equal(np.isnan(coarse.u), np.isnan(source.u))
        assert coarse.u.attrs["romzarr_tolerance"] == tolerance
        assert "romzarr_largest_error" not in coarse.u.attrs


@pytest.mark.slow
@given(
    seed=seeds, m=st.integers(5, 80), shape=st.tuples(st.integers(2, 12), st.integers(1, 30)),
    dtype=st.sampled_from(["f2", "f4", ">f8"]), rank=st.integers(1, 20), land=st.booleans(),
    noise=st.sampled_from([0.0, 0.01, 1.0]), tolerance=st.sampled_from([0.05, 1e-2, 1e-3]),
    asked=st.lists(st.sampled_from([0.9, 0.5, 0.1, 0.06]), min_size=1, max_size=3, unique=True),
)  # fmt: skip
@settings(deadline=None, max_examples=20)
def test_every_layer_is_within_its_bound(
    seed, m, shape, dtype, rank, land, noise, tolerance, asked
):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((m, rank)) @ rng.standard_normal((rank, np.prod(shape)))
    values += noise * rng.standard_normal(values.shape) + 3
    values = values.reshape(m, *shape).astype(dtype)
    if land:
        values[:, 0, 0] = np.nan
    source = xr.Dataset({"u": (("time", "y", "x"), values)}, {"time": np.arange(m)})
    with TemporaryDirectory() as folder:
        config = {"compression.layers": asked}
        romzarr.compress(source, f"{folder}/s", tolerance=tolerance, config=config)
        romzarr.compress(source, f"{folder}/plain", tolerance=tolerance)
        whole = xr.open_dataset(f"{folder}/s", engine="romzarr").load()
        plain = xr.open_dataset(f"{folder}/plain", engine="romzarr").load()
        xr.testing.assert_identical(whole, plain)
        for each in asked:
            coarse = xr.open_dataset(f"{folder}/s", engine="romzarr", tolerance=each).u.load()
            bound = coarse.attrs.get(BOUND, 0.0)
            assert bound <= max(each, whole.u.attrs.get(BOUND, 0.0))
            if np.nanstd(values.astype("f8")) > 0:
                assert relative_error(coarse, source.u) <= bound * (1 + 1e-6)


def test_only_the_layers_that_are_needed_are_read(tmp_path):
    noise = np.random.default_rng(1).standard_normal((160, 24, 40))
    source = archive("waves").assign(u=(("time", "lat", "x"), noise))
    config = {"compression.layers": list(LAYERS)}
    romzarr.compress(source, tmp_path / "s", tolerance=1e-2, config=config)
    for tolerance, last in zip(LAYERS, (1, 2), strict=True):
        romzarr.compress(source, tmp_path / f"direct-{last}", tolerance=tolerance)
        needed = sum(chunk_bytes(tmp_path / "s", f"u/*_{k + 1}") for k in range(last))
        assert needed < 1.2 * chunk_bytes(tmp_path / f"direct-{last}", "u/*")
    for folder in (tmp_path / "s").glob("2*/basis/u/*_[23]"):
        shutil.rmtree(folder)
    coarse = xr.open_dataset(tmp_path / "s", engine="romzarr", tolerance=0.2).load()
    assert relative_error(coarse.u, source.u) <= 0.2
    with pytest.raises(StoreError, match="missing"):
        xr.open_dataset(tmp_path / "s", engine="romzarr").load()


def test_a_store_without_layers_is_read_whole_and_says_so(tmp_path):
    source = archive("waves")
    romzarr.compress(source, tmp_path / "s", tolerance=1e-2)
    found = xr.open_dataset(tmp_path / "s", engine="romzarr", tolerance=0.5)
    assert found.u.attrs[BOUND] == romzarr.info(tmp_path / "s").relative_l2_error["u"]
    whole = xr.open_dataset(tmp_path / "s", engine="romzarr")
    np.testing.assert_array_equal(found.u, whole.u)


def test_appended_snapshots_have_layers_too(tmp_path):
    whole = archive("rough", 240)
    config = {"compression.layers": list(LAYERS)}
    romzarr.compress(whole.isel(time=slice(160)), tmp_path / "s", tolerance=1e-2, config=config)
    romzarr.append(tmp_path / "s", whole)
    assert all(part.arrays.layers for part in open_store(tmp_path / "s").parts)
    assert relative_error(xr.open_dataset(tmp_path / "s", engine="romzarr").u, whole.u) <= 1e-2
    coarse = xr.open_dataset(tmp_path / "s", engine="romzarr", tolerance=0.2)
    assert 0.05 < relative_error(coarse.u, whole.u) <= coarse.u.attrs[BOUND]


def test_layers_that_become_fewer_leave_none_behind(tmp_path):
    """A second look at the steps of a series of noise on a wave finds that one is enough."""
    t, rng = np.arange(300.0), np.random.default_rng(0)
    series = {f"s{k}": np.sin(0.1 * k * t) + 0.01 * rng.standard_normal(300) for k in range(5)}
    source = xr.Dataset({name: ("time", each) for name, each in series.items()}, {"time": t})
    config = {"compression.layers": [0.3, 0.1]}
    romzarr.compress(source, tmp_path / "s", tolerance=1e-2, config=config)
    assert len(romzarr.info(tmp_path / "s").layers["s0"]) == 1
    assert romzarr.verify(tmp_path / "s", source).ok
    coarse = xr.open_dataset(tmp_path / "s", engine="romzarr", tolerance=0.3)
    for name in series:
        assert relative_error(coarse[name], source[name]) <= coarse[name].attrs[BOUND] * (1 + 1e-6)


def test_names_that_end_like_layers_are_names(tmp_path):
    source = (
        archive("rough").rename(u="values_1", x="x_1").assign_coords(lat_1=("lat", np.arange(24)))
    )
    for config in ({}, {"compression.layers": list(LAYERS)}):
        romzarr.compress(source, tmp_path / "s", tolerance=1e-2, config=config, overwrite=True)
        found = xr.open_dataset(tmp_path / "s", engine="romzarr").load()
        xr.testing.assert_equal(found.drop_vars("values_1"), source.drop_vars("values_1"))
        assert relative_error(found.values_1, source.values_1) <= 1e-2


def test_tolerances_that_the_error_nearly_reaches_have_no_layer(tmp_path):
    source = archive("waves")
    config = {"compression.layers": [0.011]}
    romzarr.compress(source, tmp_path / "s", tolerance=1e-2, config=config)
    assert not open_store(tmp_path / "s").last.arrays.layers


@pytest.mark.parametrize("value", [[], [0.1, 0.1], [2.0], "0.1", [0.1] * 9])
def test_settings_that_cannot_be_are_refused(value, tmp_path):
    with pytest.raises(ConfigError, match="layers"):
        romzarr.compress(archive("waves"), tmp_path / "s", config={"compression.layers": value})


def test_layers_finer_than_the_store_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match=r"found 0\.001, allowed are numbers above .* of 0\.01"):
        romzarr.compress(
            archive("waves"), tmp_path / "s", config={"compression.layers": [0.1, 1e-3]}
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("tolerance", [3, -0.1, 1, "0.1", None])
def test_a_tolerance_that_cannot_be_is_refused(layered, tolerance):
    with pytest.raises(ConfigError, match="tolerance: found"):
        xr.open_dataset(layered, engine="romzarr", tolerance=tolerance)


@pytest.fixture(scope="module")
def layered(tmp_path_factory):
    path = tmp_path_factory.mktemp("layers") / "s"
    config = {"compression.layers": list(LAYERS)}
    romzarr.compress(archive("rough"), path, tolerance=1e-2, config=config)
    return path


def rename(arrays, old, new):
    arrays[f"basis/u/values_{new}"] = arrays.pop(f"basis/u/values_{old}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda facts, arrays: facts["variables"]["u"].pop("layers"), "3 layers, but 0 are"),
        (lambda facts, arrays: facts["variables"]["u"].update(layers=[0.1]), "but 2 are described"),
        (lambda facts, arrays: facts["variables"]["u"].update(layers=[0.1, "x"]), "positive numb"),
        (lambda facts, arrays: facts["variables"]["u"].update(layers=[0.1] * 9), "fewer than"),
        (lambda facts, arrays: rename(arrays, 2, 8), "do not fit one another"),
        (lambda facts, arrays: rename(arrays, 1, 7), "is missing"),
        (
            lambda facts, arrays: arrays["basis/u/values_2"].update(data_type="float64"),
            "do not fit one another",
        ),
    ],
)
def test_forged_layers_are_refused(layered, tmp_path, change, message):
    shutil.copytree(layered, tmp_path / "s")
    (generation,) = (tmp_path / "s").glob("2*")
    document = metadata_of(generation)
    change(document["attributes"]["romzarr"], document["arrays"])
    put_metadata(generation, json.loads(json.dumps(document)))
    sign_metadata(tmp_path / "s")
    with pytest.raises(StoreError, match=message):
        xr.open_dataset(tmp_path / "s", engine="romzarr").load()

"""A value has the same bits however it is asked for: its place in the store decides alone."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from threadpoolctl import threadpool_limits

import romzarr
from romzarr.contracts import BlockSpan
from romzarr.store.reading.reader import _opened, open_store
from tests.oracles import decaying_matrix

SIZES = {"time": 230, "y": 9, "x": 31}


def record() -> xr.Dataset:
    """A wave, many modes with a mask, noise, a constant."""
    rng = np.random.default_rng(0)
    t, x = 0.1 * np.arange(SIZES["time"])[:, None, None], np.linspace(0, 6, SIZES["x"])
    phase = x + 0.2 * np.arange(SIZES["y"])[:, None] - t - 0.3 * np.sin(t)
    many = decaying_matrix(rng, SIZES["time"], SIZES["y"] * SIZES["x"], 5, rank=90)
    many = 5 + many.reshape(*SIZES.values())
    many[:, 2:4, 5:9] = np.nan
    wave = np.sin(phase) + 0.2 * np.cos(2 * phase)
    dims = tuple(SIZES)
    return xr.Dataset(
        {
            "wave": (dims, wave.astype(np.float32)),
            "many": (dims, many),
            "half": (dims, (wave * 1e3).astype(np.float16)),
            "noise": (dims, rng.standard_normal(wave.shape).astype(np.float32)),
            "still": (dims, np.broadcast_to(wave[:1], wave.shape)),
        },
        {"time": t[:, 0, 0]},
    ).transpose("y", "time", "x")


def oscillator(snapshots: int = 1500) -> xr.Dataset:
    """A decaying oscillation, which a model foretells so well that the store decodes with it."""
    t = 0.05 * np.arange(snapshots)
    states = np.exp(-0.02 * t)[:, None] * np.stack([np.cos(t), np.sin(t)], axis=1)
    shapes = np.random.default_rng(2).standard_normal((2, SIZES["y"], SIZES["x"]))
    values = np.einsum("tk,kyx->ytx", states, shapes)
    return xr.Dataset({"wave": (("y", "time", "x"), values)}, {"time": t})


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Stores written in every way, and what reading all of each gives."""
    folder, source = tmp_path_factory.mktemp("bits"), record()
    several = source[["wave", "many", "half", "still"]]
    with dask.config.set(scheduler="synchronous"):
        romzarr.compress(source, folder / "batch", tolerance=1e-3)
        romzarr.compress(oscillator(), folder / "model", tolerance=1e-5)
        bounds = {"many": 1e-3, "noise": 0.1}
        romzarr.compress(source, folder / "bounded", tolerance=1e-2, max_error=bounds)
        config = {"compression.tolerance": 1e-3, "compression.compact": "none"}
        romzarr.compress(several.isel(time=slice(90)), folder / "parts", config=config)
        for stop in (110, 113, 170, SIZES["time"]):
            romzarr.append(folder / "parts", several.isel(time=slice(stop)))
    paths = {path.name: path for path in folder.iterdir()}
    assert (open_store(paths["model"]).last.latent.block_model >= 0).any()
    assert len(open_store(paths["parts"]).parts) > 1
    found = {}
    for name, path in paths.items():
        _opened.cache_clear()
        found[name] = path, xr.open_dataset(path, engine="romzarr").load()
    return found


def places(length: int) -> st.SearchStrategy:
    """Indexers of an axis of any kind."""
    ends = st.one_of(st.none(), st.integers(-length, length))
    steps = st.sampled_from([None, 1, 2, 7, -1, -3])
    return st.one_of(
        st.builds(slice, ends, ends, steps),
        st.integers(-length, length - 1),
        st.lists(st.integers(-length, length - 1), max_size=6).map(lambda n: np.array(n, int)),
    )


@pytest.mark.filterwarnings("ignore:The specified chunks")
@given(
    name=st.sampled_from(["batch", "model", "bounded", "parts"]),
    chunks=st.sampled_from([None, {}, {"time": 7}, {"x": 5, "y": 2}]),
    asked=st.lists(st.fixed_dictionaries({d: places(n) for d, n in SIZES.items()}), max_size=4),
    threads=st.sampled_from([1, 2]),
    remembered=st.sampled_from([0, 20_000, 2**28]),
    fresh=st.booleans(),
)
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
def test_any_selection_has_the_bits_of_the_whole(
    stores, name, chunks, asked, threads, remembered, fresh
):
    path, whole = stores[name]
    with pytest.MonkeyPatch.context() as patch, threadpool_limits(threads, user_api="blas"):
        if fresh:
            _opened.cache_clear()
        # Whatever a process has room for.
        patch.setattr(open_store(path).last.arrays.tiles, "limit", remembered)
        dataset = xr.open_dataset(path, engine="romzarr", chunks=chunks)
        for indexers in asked:
            for variable in whole.data_vars:
                found, expected = (each[variable].isel(indexers) for each in (dataset, whole))
                assert found.values.tobytes() == expected.values.tobytes()
    _opened.cache_clear()


def test_the_coefficients_of_a_snapshot_depend_on_nothing_else(stores):
    path, _ = stores["model"]
    latent = open_store(path).last.latent
    whole = latent.span(BlockSpan(0, latent.snapshots))
    rng = np.random.default_rng(0)
    for _ in range(60):
        first, last = np.sort(rng.integers(0, latent.snapshots + 1, 2))
        assert_array_equal(latent.span(BlockSpan(first, last)), whole[first:last])
        some = np.flatnonzero(rng.random(latent.snapshots) < 0.02)
        assert_array_equal(latent.at(some), whole[some])


def test_threads_at_once_read_what_one_reads(stores):
    for path, whole in stores.values():
        _opened.cache_clear()
        dataset = xr.open_dataset(path, engine="romzarr")
        with ThreadPoolExecutor(4) as pool:
            rows = list(pool.map(lambda n, d=dataset: d.isel(time=n).load(), range(0, 230, 9)))
        for number, row in zip(range(0, 230, 9), rows, strict=True):
            xr.testing.assert_identical(row, whole.isel(time=number))


PROCESS = """
import hashlib, sys, xarray as xr
chunks = {"none": None, "all": {}, "time": {"time": 7}}[sys.argv[1]]
for path in sys.argv[2:]:
    dataset = xr.open_dataset(path, engine="romzarr", chunks=chunks)
    for name in sorted(dataset.data_vars):
        print(hashlib.sha1(dataset[name].values.tobytes()).hexdigest())
"""


@pytest.mark.parametrize("chunks", ["none", "all", "time"])
def test_another_process_reads_the_same(stores, chunks):
    paths = [str(path) for path, _ in stores.values()]
    asked = [sys.executable, "-c", PROCESS, chunks, *paths]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    expected = [
        hashlib.sha1(whole[name].values.tobytes()).hexdigest()
        for _, whole in stores.values()
        for name in sorted(map(str, whole.data_vars))
    ]
    assert done.stdout.split() == expected

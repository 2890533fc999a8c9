"""Tiles are no longer than asked for, however a store is written, and all its bounds hold."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr

import romzarr
from romzarr import StreamCompressor
from romzarr.errors import ConfigError
from romzarr.operations import when_to_compact
from romzarr.store.reading.checked import CheckedStore
from tests.oracles import assert_same_but_values, decoded_errors

TOLERANCE = 1e-2
# Lengths that do not divide those of the dims.
LENGTHS = {"lev": 2, "y": 7, "time": 11}
TILED = {"layout.tile": LENGTHS}


@pytest.fixture(autouse=True)
def _one_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def dataset(snapshots: int = 48) -> xr.Dataset:
    """Waves, for modes, and noise, which has none; time is no first dim of it."""
    t, z, y, x = np.ogrid[:snapshots, :5, :12, :20]
    waves = sum(np.sin(0.2 * k * t + k * x / 3 + y / 5) * (1 + z / k) for k in (1, 2, 3))
    rough = np.random.default_rng(0).standard_normal((snapshots, 5, 12, 20)).cumsum(3)
    noise = xr.DataArray(rough.astype("f4"), dims=("time", "lev", "y", "x"))
    return xr.Dataset(
        {
            "u": (("time", "lev", "y", "x"), 3 + waves),
            "w": noise.transpose("lev", "time", "y", "x"),
        },
        {"time": np.arange(snapshots), "lev": np.arange(5.0)},
    )


def chunks_of(store: Path) -> Iterator[tuple[str, dict[str, int], dict[str, int]]]:
    """Path, sizes and chunks by dim of all arrays of decoded variables, from plain metadata."""
    for generation in store.glob("2*/zarr.json"):
        variables = xr.open_dataset(store, engine="romzarr").variables
        arrays = json.loads(generation.read_bytes())["consolidated_metadata"]["metadata"]
        for path, meta in arrays.items():
            *_, name, kind = ["", *path.split("/")]
            if kind in ("fields", "values", "exact", "residuals"):
                chunk = meta["chunk_grid"]["configuration"]
                dims = list(variables[name].dims)
                if kind in ("fields", "values"):
                    dims.remove("time")
                    dims.insert(0, "mode" if kind == "fields" else "time")
                sizes = dict(zip(dims, meta["shape"], strict=True))
                yield path, sizes, dict(zip(dims, chunk["chunk_shape"], strict=True))


def assert_tiled(store: Path, lengths: Mapping[str, int] = LENGTHS) -> set[str]:
    """All arrays have tiles of these lengths at most; returns what kinds there are."""
    kinds = set()
    for path, sizes, chunk in chunks_of(store):
        kinds.add(path.rpartition("/")[2])
        for dim, most in lengths.items():
            if dim in sizes:
                assert chunk[dim] <= most, path
    return kinds


def assert_within(store: Path, source: xr.Dataset, tolerance: float = TOLERANCE) -> None:
    decoded = xr.open_dataset(store, engine="romzarr").load()
    assert_same_but_values(source, decoded)
    assert all(error <= tolerance for error in decoded_errors(source, decoded).values())


@pytest.mark.parametrize(
    ("config", "kinds"),
    [
        ({}, {"fields", "values"}),
        ({"compression.max_error": {"u": 1e-4, "w": 1e-2}}, {"fields", "values", "residuals"}),
        ({"compression.tolerance": 0}, {"exact"}),
    ],
)
def test_every_array_has_tiles_of_that_length(tmp_path, config, kinds):
    source = dataset()
    romzarr.compress(
        source, tmp_path / "s", config={"compression.tolerance": TOLERANCE} | TILED | config
    )
    assert assert_tiled(tmp_path / "s") == kinds
    assert_within(tmp_path / "s", source)


def test_any_part_has_the_bits_of_the_whole(tmp_path):
    romzarr.compress(dataset(), tmp_path / "s", tolerance=TOLERANCE, config=TILED)
    whole = xr.open_dataset(tmp_path / "s", engine="romzarr").load()
    for some in ({"time": 13, "lev": 4}, {"y": [11, 0], "lev": slice(1, 4)}, {"time": [40, 3]}):
        part = xr.open_dataset(tmp_path / "s", engine="romzarr", cache=False).isel(some)
        for name in ("u", "w"):
            np.testing.assert_array_equal(part[name], whole[name].isel(some))


@pytest.mark.parametrize("variable", ["u", "w"])
def test_a_level_is_read_without_the_tiles_of_others(tmp_path, monkeypatch, variable):
    config = {"layout.tile": {"lev": 1}}
    romzarr.compress(dataset(), tmp_path / "s", tolerance=TOLERANCE, config=config)
    fetched, check = [], CheckedStore._checked

    def noticed(self, key, chunk):
        fetched.append(key)
        return check(self, key, chunk)

    monkeypatch.setattr(CheckedStore, "_checked", noticed)
    _ = xr.open_dataset(tmp_path / "s", engine="romzarr")[variable].isel(lev=3, time=5).values
    tiles = [key for key in fetched if f"basis/{variable}/" in key and "/c/" in key]
    assert tiles
    assert len(tiles) == 1, tiles


def test_appends_merges_and_streams_keep_it(tmp_path, monkeypatch):
    monkeypatch.setattr(when_to_compact, "EARLY_SHARE", 2.0)
    source, store = dataset(96), tmp_path / "s"
    romzarr.compress(source.isel(time=slice(48)), store, tolerance=TOLERANCE, config=TILED)
    romzarr.append(store, source)
    assert_tiled(store)
    assert_within(store, source)
    assert romzarr.compact(store).compacted
    assert_tiled(store)
    assert_within(store, source)
    config = TILED | {"compression.tolerance": TOLERANCE}
    with StreamCompressor(tmp_path / "t", config=config, commit_steps=20) as stream:
        for start in range(0, 96, 16):
            stream.update(source.isel(time=slice(start, start + 16)))
            assert_tiled(tmp_path / "t")
    assert assert_tiled(tmp_path / "t")
    assert_within(tmp_path / "t", source)


def test_an_estimate_knows_what_short_tiles_take(tmp_path):
    source, shares = dataset(), []
    for config in ({}, {"layout.tile": {"lev": 1, "y": 4, "x": 5}}):
        (found,) = romzarr.estimate(source, tolerances=[TOLERANCE], config=config).estimates
        romzarr.compress(source, tmp_path / "s", tolerance=TOLERANCE, config=config, overwrite=True)
        nbytes = sum(each.stat().st_size for each in (tmp_path / "s").rglob("2*/*/**/c/**/*"))
        shares.append((found.compression_ratio, nbytes))
    (long_ratio, long_bytes), (short_ratio, short_bytes) = shares
    assert short_bytes > 1.02 * long_bytes
    assert short_ratio < long_ratio / 1.02


@pytest.mark.parametrize("lengths", [{"level": 1}, {"lev": 1, "z": 2}])
def test_unknown_dims_are_refused_by_name(tmp_path, lengths):
    with pytest.raises(ConfigError, match=r"layout\.tile: found dim '(level|z)'; allowed .*'lev'"):
        romzarr.compress(dataset(), tmp_path / "s", config={"layout.tile": lengths})
    tree = xr.DataTree.from_dict({"/a": dataset(), "/b": dataset()})
    with pytest.raises(ConfigError, match=r"layout\.tile: no group has a dim '(level|z)'"):
        romzarr.compress(tree, tmp_path / "t", config={"layout.tile": lengths})


@pytest.mark.parametrize("lengths", [{}, {"lev": 0}, {"lev": 1.5}, "long", [3]])
def test_other_lengths_are_refused(lengths):
    with pytest.raises(ConfigError, match=r"layout\.tile: found .*, allowed is 'auto' or a map"):
        romzarr.load_config(overrides={"layout.tile": lengths})


def test_groups_of_a_tree_have_what_is_said_of_their_dims(tmp_path):
    plain = dataset().isel(lev=0, drop=True)
    tree = xr.DataTree.from_dict({"/a": dataset(), "/b": plain})
    romzarr.compress(tree, tmp_path / "t", tolerance=TOLERANCE, config=TILED)
    stores = [
        each.parent
        for each in (tmp_path / "t").rglob("zarr.json")
        if b"open_with" in each.read_bytes()
    ]
    assert len(stores) == 2
    assert all(assert_tiled(each) for each in stores)

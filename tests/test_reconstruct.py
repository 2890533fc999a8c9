"""`reconstruct` writes what the store decodes to, with the encodings of the archive."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import pipeline
from pipeline.errors import ConfigError, StoreError, StoreExistsError
from tests.oracles import decaying_matrix


@pytest.fixture
def archive(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    rows = 280 + decaying_matrix(rng, 50, 40, 3, rank=8)
    source = xr.Dataset(
        {"t": (("time", "x"), rows.astype(np.float32), {"units": "K"}), "area": ("x", rows[0])},
        {
            "time": np.datetime64("2001-01-01", "ns") + np.arange(50) * np.timedelta64(1, "h"),
            "x": np.arange(40) * 0.1,
        },
        {"title": "made up"},
    )
    encoding = {
        "t": {"chunks": (10, 16), "dtype": "float32"},
        "time": {"units": "hours since 1900-01-01", "dtype": "float64"},
    }
    source.to_zarr(tmp_path / "archive.zarr", encoding=encoding, consolidated=False)
    return tmp_path / "archive.zarr"


@pytest.fixture
def store(archive, tmp_path) -> Path:
    pipeline.compress(archive, tmp_path / "store", tolerance=1e-2)
    return tmp_path / "store"


def opened(path: Path) -> xr.Dataset:
    return xr.open_zarr(path, consolidated=False)


def test_what_is_written_is_what_is_decoded(archive, store, tmp_path):
    pipeline.reconstruct(store, tmp_path / "out.zarr")
    out = opened(tmp_path / "out.zarr")
    xr.testing.assert_identical(out, xr.open_dataset(store, engine="romzarr"))
    source = opened(archive)
    assert out.t.encoding["chunks"] == source.t.encoding["chunks"]
    assert out.t.dtype == source.t.dtype
    assert out.time.encoding["units"] == source.time.encoding["units"]
    assert pipeline.verify(store, tmp_path / "out.zarr").ok
    assert sorted(os.listdir(tmp_path)) == ["archive.zarr", "out.zarr", "store"]


@pytest.mark.parametrize(("start", "stop"), [(None, 7), (13, None), (11, 32), (-5, None), (49, 50)])
def test_a_range_is_that_slice(store, tmp_path, start, stop):
    pipeline.reconstruct(store, tmp_path / "out.zarr", start=start, stop=stop)
    decoded = xr.open_dataset(store, engine="romzarr").isel(time=slice(start, stop))
    xr.testing.assert_identical(opened(tmp_path / "out.zarr"), decoded)


def test_an_empty_range_is_refused_with_what_there_is(store, tmp_path):
    with pytest.raises(ConfigError, match=r"found no snapshot.*0 to 50"):
        pipeline.reconstruct(store, tmp_path / "out.zarr", start=20, stop=20)
    assert not (tmp_path / "out.zarr").exists()


def test_what_exists_is_kept_unless_it_is_zarr_and_may_be_replaced(store, tmp_path):
    out = tmp_path / "out.zarr"
    pipeline.reconstruct(store, out, stop=5)
    with pytest.raises(StoreExistsError, match="--overwrite"):
        pipeline.reconstruct(store, out)
    assert opened(out).sizes["time"] == 5
    pipeline.reconstruct(store, out, overwrite=True)
    assert opened(out).sizes["time"] == 50
    precious = tmp_path / "thesis.tex"
    precious.write_text("data")
    with pytest.raises(StoreExistsError):
        pipeline.reconstruct(store, precious, overwrite=True)
    assert precious.read_text() == "data"


def test_a_damaged_store_leaves_nothing(store, tmp_path):
    victim = next(path for path in store.rglob("basis/t/fields/c/**/*") if path.is_file())
    victim.write_bytes(victim.read_bytes()[:-5])
    with pytest.raises(StoreError, match="damaged"):
        pipeline.reconstruct(store, tmp_path / "out.zarr")
    assert sorted(os.listdir(tmp_path)) == ["archive.zarr", "store"]

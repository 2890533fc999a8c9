"""`reconstruct` writes what the store decodes to, with the encodings of the archive."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

import romzarr
from romzarr import objects
from romzarr.errors import ConfigError, StoreError, StoreExistsError
from romzarr.reconstruction import exchange as exchanging
from tests import dying
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
    romzarr.compress(archive, tmp_path / "store", tolerance=1e-2)
    return tmp_path / "store"


def opened(path: Path) -> xr.Dataset:
    return xr.open_zarr(path, consolidated=False)


def without_cf(out: xr.Dataset) -> xr.Dataset:
    """An archive without what CF-1.12 asks of lossy variables beside their own attributes."""
    assert "algorithm" in out.romzarr_quantization.attrs
    assert out.t.attrs["quantization"] == "romzarr_quantization"
    out = out.drop_vars("romzarr_quantization")
    out.t.attrs.pop("quantization")
    return out


def test_what_is_written_is_what_is_decoded(archive, store, tmp_path):
    romzarr.reconstruct(store, tmp_path / "out.zarr")
    out = opened(tmp_path / "out.zarr")
    xr.testing.assert_identical(without_cf(out), xr.open_dataset(store, engine="romzarr"))
    source = opened(archive)
    assert out.t.encoding["chunks"] == source.t.encoding["chunks"]
    assert out.t.dtype == source.t.dtype
    assert out.time.encoding["units"] == source.time.encoding["units"]
    assert romzarr.verify(store, tmp_path / "out.zarr").ok
    assert sorted(os.listdir(tmp_path)) == ["archive.zarr", "out.zarr", "store"]


@pytest.mark.parametrize(("start", "stop"), [(None, 7), (13, None), (11, 32), (-5, None), (49, 50)])
def test_a_range_is_that_slice(store, tmp_path, start, stop):
    romzarr.reconstruct(store, tmp_path / "out.zarr", start=start, stop=stop)
    decoded = xr.open_dataset(store, engine="romzarr").isel(time=slice(start, stop))
    xr.testing.assert_identical(without_cf(opened(tmp_path / "out.zarr")), decoded)


def test_an_empty_range_is_refused_with_what_there_is(store, tmp_path):
    with pytest.raises(ConfigError, match=r"found no snapshot.*0 to 50"):
        romzarr.reconstruct(store, tmp_path / "out.zarr", start=20, stop=20)
    assert not (tmp_path / "out.zarr").exists()


def test_what_exists_is_kept_unless_it_is_zarr_and_may_be_replaced(store, tmp_path):
    out = tmp_path / "out.zarr"
    romzarr.reconstruct(store, out, stop=5)
    with pytest.raises(StoreExistsError, match="overwrite=True"):
        romzarr.reconstruct(store, out)
    assert opened(out).sizes["time"] == 5
    romzarr.reconstruct(store, out, overwrite=True)
    assert opened(out).sizes["time"] == 50
    precious = tmp_path / "thesis.tex"
    precious.write_text("data")
    with pytest.raises(StoreExistsError):
        romzarr.reconstruct(store, precious, overwrite=True)
    assert precious.read_text() == "data"


def test_a_damaged_store_leaves_nothing(store, tmp_path):
    victim = next(path for path in store.rglob("basis/t/fields/c/**/*") if path.is_file())
    victim.write_bytes(victim.read_bytes()[:-5])
    with pytest.raises(StoreError, match="damaged"):
        romzarr.reconstruct(store, tmp_path / "out.zarr")
    assert sorted(os.listdir(tmp_path)) == ["archive.zarr", "store"]


# --- what it replaces, and what never --------------------------------------------------------


def everything(folder: Path) -> dict[str, bytes]:
    """Content of every file below a folder, by its path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def grown(archive: Path) -> None:
    more = opened(archive).load().isel(time=slice(-10, None))
    more = more.assign_coords(time=more.time + np.timedelta64(10, "h")).drop_vars(["area", "x"])
    more.to_zarr(archive, append_dim="time", consolidated=False)


PLACES = {
    "the store": "store",
    "inside the store": "store/again.zarr",
    "above the store": ".",
    "another store": "other",
    "inside another store": "other/again.zarr",
    "the archive": "archive.zarr",
    "the archive moved": "moved.zarr",
    "the archive grown": "grown/archive.zarr",
    "inside the archive": "archive.zarr/again",
    "a group with the archive in it": "group",
    "a link to the archive": "link",
}


@pytest.fixture
def surrounded(archive, store, tmp_path) -> Path:
    """The store among what must not be written to."""
    shutil.copytree(store, tmp_path / "other")
    shutil.copytree(archive, tmp_path / "moved.zarr")
    (tmp_path / "grown").mkdir()
    shutil.copytree(archive, tmp_path / "grown" / "archive.zarr")
    grown(tmp_path / "grown" / "archive.zarr")
    zarr.create_group(tmp_path / "group")
    shutil.copytree(archive, tmp_path / "group" / "inner")
    (tmp_path / "link").symlink_to(tmp_path / "archive.zarr")
    return tmp_path


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("overwrite", [False, True])
def test_the_store_and_its_archive_are_never_written_to(surrounded, place, overwrite):
    before = everything(surrounded)
    with pytest.raises(StoreError):
        romzarr.reconstruct(surrounded / "store", surrounded / place, overwrite=overwrite)
    assert everything(surrounded) == before


@pytest.mark.parametrize("strange", ["thesis.tex", "t/thesis.tex", "sub/thesis.tex"])
def test_a_folder_that_holds_more_than_zarr_is_not_replaced(store, tmp_path, strange):
    out = tmp_path / "out.zarr"
    romzarr.reconstruct(store, out, stop=5)
    (out / strange).parent.mkdir(exist_ok=True)
    (out / strange).write_text("data")
    before = everything(out)
    with pytest.raises(StoreExistsError, match="is no part of a Zarr archive"):
        romzarr.reconstruct(store, out, overwrite=True)
    assert everything(out) == before


@pytest.mark.parametrize("exchange", [True, False], ids=["in one step", "in two"])
@pytest.mark.parametrize("old", ["out.zarr", "out.nc"])
def test_an_archive_of_either_kind_is_replaced_and_nothing_is_left(
    store, tmp_path, monkeypatch, exchange, old
):
    if not exchange:
        monkeypatch.setattr(exchanging, "_exchanged", lambda one, other: False)
    romzarr.reconstruct(store, tmp_path / old, stop=5)
    for new in ("out.zarr", "out.nc"):
        os.rename(tmp_path / old, tmp_path / new)
        romzarr.reconstruct(store, tmp_path / new, overwrite=True)
        assert (tmp_path / new).is_dir() == new.endswith("zarr")
        assert sorted(os.listdir(tmp_path)) == ["archive.zarr", new, "store"]
        os.rename(tmp_path / new, tmp_path / old)


@pytest.mark.parametrize("name", ["out.zarr", "out.nc"])
@pytest.mark.parametrize("exchange", [True, False], ids=["in one step", "in two"])
def test_a_kill_before_any_step_leaves_the_old_or_the_new_and_the_next_cleans_up(
    store, tmp_path, exchange, name
):
    out, step, status = tmp_path / name, 0, 9
    romzarr.reconstruct(store, out, stop=5)
    while status == 9:
        status = dying.status_of(dying.reconstruct, step, exchange, str(store), str(out))
        # The next one looks first; without --overwrite it changes nothing but what was left.
        with pytest.raises(StoreExistsError):
            romzarr.reconstruct(store, out)
        assert decoded_length(out) in ((5, 50) if status else (50,))
        romzarr.reconstruct(store, out, stop=5, overwrite=True)
        assert sorted(os.listdir(tmp_path)) == ["archive.zarr", name, "store"]
        step += 1
    assert status == 0
    assert step >= 3


def decoded_length(out: Path) -> int:
    if out.is_dir():
        return opened(out).sizes["time"]
    with xr.open_dataset(out, engine="h5netcdf") as dataset:
        return dataset.sizes["time"]


def test_what_somebody_put_there_meanwhile_stays(store, tmp_path, monkeypatch):
    real, out = xr.Dataset.to_zarr, tmp_path / "out.zarr"

    def slow(self, *arguments, **keywords):
        result = real(self, *arguments, **keywords)
        out.mkdir()
        (out / "mine").write_text("data")
        return result

    monkeypatch.setattr(xr.Dataset, "to_zarr", slow)
    with pytest.raises(StoreExistsError):
        romzarr.reconstruct(store, out)
    assert (out / "mine").read_text() == "data"
    assert sorted(os.listdir(tmp_path)) == ["archive.zarr", "out.zarr", "store"]


# --- NetCDF ----------------------------------------------------------------------------------


def test_a_netcdf_file_holds_what_is_decoded(archive, store, tmp_path):
    romzarr.reconstruct(store, tmp_path / "out.nc")
    decoded = xr.open_dataset(store, engine="romzarr")
    with xr.open_dataset(tmp_path / "out.nc", engine="h5netcdf") as out:
        xr.testing.assert_identical(without_cf(out.load()), decoded.load())
        assert out.t.encoding["chunksizes"] == opened(archive).t.encoding["chunks"]
        assert out.t.encoding["zlib"]
        assert out.time.encoding["units"] == opened(archive).time.encoding["units"]
    assert romzarr.verify(store, tmp_path / "out.nc").ok


def test_the_packing_of_a_netcdf_archive_is_kept(tmp_path):
    rows = 280 + decaying_matrix(np.random.default_rng(0), 50, 40, 3, rank=8)
    source = xr.Dataset({"t": (("time", "x"), rows)}, {"time": np.arange(50.0)})
    packed = {"dtype": "int16", "scale_factor": 0.5, "add_offset": 280.0, "_FillValue": -9999}
    source.to_netcdf(tmp_path / "a.nc", engine="h5netcdf", encoding={"t": {**packed, "zlib": True}})
    romzarr.compress(tmp_path / "a.nc", tmp_path / "store", tolerance=1e-2)
    romzarr.reconstruct(tmp_path / "store", tmp_path / "out.nc")
    with xr.open_dataset(tmp_path / "out.nc", engine="h5netcdf", mask_and_scale=False) as out:
        assert out.t.dtype == np.int16
        assert {name: out.t.attrs[name] for name in ("scale_factor", "add_offset")} == {
            "scale_factor": 0.5,
            "add_offset": 280.0,
        }


def test_values_of_float16_are_the_same_in_netcdf(tmp_path):
    rows = decaying_matrix(np.random.default_rng(0), 50, 40, 3, rank=8).astype(np.float16)
    source = xr.Dataset({"t": (("time", "x"), rows)}, {"time": np.arange(50.0)})
    romzarr.compress(source, tmp_path / "store", tolerance=1e-2)
    romzarr.reconstruct(tmp_path / "store", tmp_path / "out.nc")
    with xr.open_dataset(tmp_path / "out.nc", engine="h5netcdf") as out:
        decoded = xr.open_dataset(tmp_path / "store", engine="romzarr").t
        assert out.t.dtype == np.float32
        np.testing.assert_array_equal(out.t, decoded.astype(np.float32))


@pytest.mark.parametrize("name", ["out.zip", "out.csv"])
def test_a_kind_that_is_not_written_is_refused_first(store, tmp_path, name):
    with pytest.raises(ConfigError, match=r"allowed are Zarr \(\.zarr\) and NetCDF"):
        romzarr.reconstruct(store, tmp_path / name)


# --- URLs ------------------------------------------------------------------------------------


def test_an_archive_at_a_url_counts_when_it_is_whole(store):
    url = f"memory://{store.parent.name}/out.zarr"
    romzarr.reconstruct(store, url)
    out = xr.open_zarr(url, consolidated=False)
    decoded = xr.open_dataset(store, engine="romzarr")
    xr.testing.assert_identical(without_cf(out.load()), decoded.load())
    with pytest.raises(StoreExistsError, match="nothing can be replaced there"):
        romzarr.reconstruct(store, url, overwrite=True)


def test_what_failed_at_a_url_leaves_nothing_and_what_was_killed_no_archive(store, monkeypatch):
    url = f"memory://{store.parent.name}/out.zarr"
    folder = objects.folder(url)
    with monkeypatch.context() as patch:
        patch.setattr(type(folder), "remove", lambda self, path: None)
        patch.setattr(xr.Dataset, "to_zarr", _fail_at_the_end(xr.Dataset.to_zarr))
        with pytest.raises(StoreError, match="No space"):
            romzarr.reconstruct(store, url)
    left = set(folder.files())
    assert any(name.startswith("t/") for name in left)
    assert "zarr.json" not in left
    with pytest.raises(StoreExistsError, match="it is unfinished; pass overwrite=True"):
        romzarr.reconstruct(store, url)
    romzarr.reconstruct(store, url, overwrite=True, stop=5)
    assert xr.open_zarr(url, consolidated=False).sizes["time"] == 5
    other = f"memory://{store.parent.name}/other.zarr"
    monkeypatch.setattr(xr.Dataset, "to_zarr", _fail_at_the_end(xr.Dataset.to_zarr))
    with pytest.raises(StoreError, match="No space"):
        romzarr.reconstruct(store, other)
    assert not objects.folder(other).files()


def _fail_at_the_end(real):
    def write(*arguments, **keywords):
        real(*arguments, **keywords)
        raise OSError(28, "No space left on device")

    return write


def test_netcdf_at_a_url_is_refused(store):
    with pytest.raises(ConfigError, match="local paths only"):
        romzarr.reconstruct(store, "memory://bucket/out.nc")

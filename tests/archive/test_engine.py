"""What engines of xarray open goes in like any other archive; stores remember the engine."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr

import romzarr
from romzarr.errors import ArchiveError, ConfigError
from romzarr.store.reading.reader import open_store
from romzarr_flows.cli import main
from tests.oracles import decoded_errors


@pytest.fixture(autouse=True)
def _one_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def record(m: int = 40) -> xr.Dataset:
    t, x = np.arange(m), np.linspace(0, 3, 50)
    u = np.sin(x - 0.2 * t[:, None]) + 0.3 * np.cos(2 * x + 0.1 * t[:, None])
    time = np.datetime64("2001-01-01", "ns") + t * np.timedelta64(6, "h")
    return xr.Dataset({"u": (("time", "x"), u.astype("f4"))}, {"time": time, "x": x})


@pytest.mark.parametrize(("engine", "suffix"), [("scipy", "nc"), ("h5netcdf", "nc"), ("zarr", "z")])
def test_a_store_remembers_the_engine(tmp_path, engine, suffix):
    ds, source, store = record(), tmp_path / f"a.{suffix}", tmp_path / "s"
    if engine == "zarr":
        ds.to_zarr(source, zarr_format=2)
    else:
        ds.to_netcdf(source, engine=engine)
    romzarr.compress(source, store, tolerance=1e-3, engine=engine)
    assert open_store(store).facts["config"]["archive"]["engine"] == engine
    decoded = xr.open_dataset(store, engine="romzarr")
    assert decoded_errors(ds, decoded)["u"] <= 1e-3
    xr.testing.assert_equal(decoded.time, ds.time)
    assert romzarr.verify(store, source).ok


def test_a_file_without_a_suffix_that_tells_is_verified_and_appended_to(tmp_path, capsys):
    """Nothing but the engine can open it: each command must have passed it on."""
    ds, source, store = record(), tmp_path / "run.hdf5-of-mine", tmp_path / "s"
    ds.isel(time=slice(0, 30)).to_netcdf(source, engine="h5netcdf")
    arguments = [str(source), str(store), "--engine", "h5netcdf", "--tolerance", "1e-3"]
    assert main(["compress", *arguments]) == 0
    assert main(["estimate", str(source), "--engine", "h5netcdf"]) == 0
    ds.to_netcdf(source, engine="h5netcdf")
    assert main(["append", str(store), str(source)]) == 0
    assert main(["verify", str(store), str(source), "--engine", "netcdf5"]) == 2
    assert "allowed are 'h5netcdf'" in " ".join(capsys.readouterr().err.split())
    assert main(["verify", str(store), str(source)]) == 0
    assert decoded_errors(ds, xr.open_dataset(store, engine="romzarr"))["u"] <= 1e-3


def test_files_of_a_run_are_opened_by_the_engine_each(tmp_path):
    ds = record()
    for k in range(4):
        ds.isel(time=slice(10 * k, 10 * k + 10)).to_netcdf(
            tmp_path / f"{9 - k}.out", engine="scipy"
        )
    source = str(tmp_path / "*.out")
    romzarr.compress(source, tmp_path / "s", tolerance=1e-3, config={"archive.engine": "scipy"})
    decoded = xr.open_dataset(tmp_path / "s", engine="romzarr")
    assert decoded_errors(ds, decoded)["u"] <= 1e-3
    assert romzarr.verify(tmp_path / "s", source).ok


def test_a_foreign_file_names_the_option(tmp_path):
    (tmp_path / "a.foo").write_bytes(b"GRIB is something else")
    with pytest.raises(ArchiveError, match="--engine"):
        romzarr.compress(tmp_path / "a.foo", tmp_path / "s")


def test_an_engine_that_cannot_open_the_file_is_named(tmp_path):
    (tmp_path / "a.foo").write_bytes(b"not HDF5")
    with pytest.raises(ArchiveError, match=r"engine 'h5netcdf'"):
        romzarr.compress(tmp_path / "a.foo", tmp_path / "s", engine="h5netcdf")


# --- GRIB ---------------------------------------------------------------------------------

DAYS, STEPS, SHAPE = 12, (0, 6, 12), (9, 16)


def wave(day: int, step: int) -> np.ndarray:
    y, x = np.meshgrid(np.linspace(0, 2, SHAPE[0]), np.linspace(0, 6, SHAPE[1]), indexing="ij")
    return 280 + np.sin(x - 0.3 * day - 0.02 * step) * np.cos(y)


def write_grib(path: Path, days: range) -> None:
    """Temperature at 500 hPa, a message for each day and step of a forecast, 24 bits a value."""
    eccodes = pytest.importorskip("eccodes", reason="no eccodes: romzarr[grib] is not installed")
    pytest.importorskip("cfgrib", reason="no cfgrib: romzarr[grib] is not installed")
    (ny, nx), keys = SHAPE, {"level": 500, "dataTime": 0, "bitsPerValue": 24}
    keys |= {"Ni": nx, "Nj": ny, "latitudeOfFirstGridPointInDegrees": 60}
    keys |= {"latitudeOfLastGridPointInDegrees": 20, "longitudeOfFirstGridPointInDegrees": 0}
    keys |= {"longitudeOfLastGridPointInDegrees": 30, "iDirectionIncrementInDegrees": 2}
    keys |= {"jDirectionIncrementInDegrees": 5}
    with open(path, "wb") as file:
        for day in days:
            for step in STEPS:
                message = eccodes.codes_grib_new_from_samples("regular_ll_pl_grib2")
                for key, value in (keys | {"dataDate": 20010101 + day, "step": step}).items():
                    eccodes.codes_set(message, key, value)
                eccodes.codes_set(message, "shortName", "t")
                eccodes.codes_set_values(message, wave(day, step).ravel())
                eccodes.codes_write(message, file)
                eccodes.codes_release(message)


def grib_error(store: Path) -> float:
    """Error relative to the fluctuation, from the formula that the messages were made of."""
    decoded = xr.open_dataset(store, engine="romzarr").t.transpose("time", "step", ...).values
    days = range(len(decoded))
    truth = np.array([[wave(day, step) for step in STEPS] for day in days])
    return float(np.linalg.norm(decoded - truth) / np.linalg.norm(truth - truth.mean(0)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("engine", ["cfgrib", "auto"])
def test_forecasts_in_grib_keep_their_form_and_bound(tmp_path, engine):
    source, store = tmp_path / "a.grib", tmp_path / "s"
    write_grib(source, range(DAYS))
    romzarr.compress(source, store, tolerance=1e-3, engine=engine)
    # GRIB itself rounds to 24 bits, far below.
    assert grib_error(store) <= 1.01e-3
    decoded = xr.open_dataset(store, engine="romzarr", decode_timedelta=True)
    assert decoded.t.dims == ("time", "step", "latitude", "longitude")
    assert decoded.valid_time.dims == ("time", "step")
    assert decoded.t.attrs["units"] == "K"
    assert (decoded.valid_time.values == decoded.time.values[:, None] + decoded.step.values).all()
    assert romzarr.verify(store, source).ok
    # No index beside the archive, which belongs to somebody else.
    assert sorted(os.listdir(tmp_path)) == ["a.grib", "s"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_grib_that_has_grown_is_appended(tmp_path):
    source, store = tmp_path / "a.grib", tmp_path / "s"
    write_grib(source, range(DAYS))
    romzarr.compress(source, store, tolerance=1e-2)
    write_grib(source, range(2 * DAYS))
    assert romzarr.append(store, source).appended == DAYS
    assert grib_error(store) <= 1.01e-2
    assert romzarr.verify(store, source).ok


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_grib_in_many_files_is_one_archive(tmp_path):
    (tmp_path / "out").mkdir()
    for k in range(3):
        write_grib(tmp_path / "out" / f"{k}.grb2", range(4 * k, 4 * k + 4))
    with dask.config.set(scheduler="threads", num_workers=2):
        romzarr.compress(tmp_path / "out", tmp_path / "s", tolerance=1e-3)
    assert grib_error(tmp_path / "s") <= 1.01e-3
    assert threading.active_count() < 50
    assert romzarr.verify(tmp_path / "s", tmp_path / "out").ok


def test_grib_without_the_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(xr.backends, "list_engines", lambda: {"scipy": None})
    (tmp_path / "a.grib").write_bytes(b"GRIB")
    with pytest.raises(ConfigError, match=r"pip install 'romzarr\[grib\]'"):
        romzarr.compress(tmp_path / "a.grib", tmp_path / "s")

"""Archives of few snapshots, of one, without time, and without floats go in, within the bound."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import romzarr
from romzarr.config import Config, with_values
from romzarr.contracts import Coding
from romzarr.errors import ArchiveError, StoreError
from romzarr.store.reading.reader import open_store
from romzarr_flows.cli import main
from tests.strategies import seeds


@pytest.fixture(autouse=True)
def _one_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def fields(rng: np.random.Generator, m: int, shape=(24, 30), dtype="f8") -> np.ndarray:
    y, x = np.meshgrid(*(np.linspace(0, 3, n) for n in shape), indexing="ij")
    waves = [np.sin(2 * x + k) * np.cos(y - 0.3 * k) for k in range(m)]
    return (np.array(waves) + 0.05 * rng.standard_normal((m, *shape)) + 10).astype(dtype)


def relative_error(values: np.ndarray, decoded: np.ndarray) -> float:
    """About the temporal mean, or the average in space of a single snapshot."""
    x, y = (each.astype(np.float64) for each in (values, decoded))
    # Of land as of what has one value, nothing is left about the mean.
    mean = np.nansum(x, axis=0) / np.maximum(np.isfinite(x).sum(axis=0), 1)
    about = x - (mean if len(x) > 1 else np.nanmean(x))
    return float(np.sqrt(np.nansum((x - y) ** 2) / np.nansum(about**2)))


@given(
    seed=seeds,
    m=st.integers(1, 4),
    dtype=st.sampled_from(["f2", "f4", ">f4", "f8"]),
    tolerance=st.sampled_from([0.2, 1e-2, 1e-4, 1e-9]),
    mask=st.booleans(),
)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_few_snapshots_keep_the_bound(seed, m, dtype, tolerance, mask, tmp_path_factory):
    rng = np.random.default_rng(seed)
    values = fields(rng, m, dtype=dtype)
    if mask:
        values[:, 3:9, 4:12] = np.nan
        values[0, 20, 20] = np.nan
    ds = xr.Dataset({"u": (("time", "y", "x"), values)}).chunk(y=10)
    path = tmp_path_factory.mktemp("few") / "s"
    report = romzarr.compress(ds, path, tolerance=tolerance)
    decoded = xr.open_dataset(path, engine="romzarr").u
    assert decoded.dtype == values.dtype
    np.testing.assert_array_equal(np.isnan(decoded.values), np.isnan(values))
    assert relative_error(values, decoded.values) <= tolerance
    assert report.rank == 0
    found = romzarr.verify(path, ds)
    assert found.ok, found.problems
    assert found.relative_l2_error["u"] == pytest.approx(
        relative_error(values, decoded.values), rel=1e-6, abs=1e-14
    )


def test_what_is_constant_and_what_is_too_fine_is_exact(tmp_path):
    steady = np.broadcast_to(np.linspace(0, 1, 40) / 3, (3, 40)).copy()
    fine = 1e6 + np.array([[0.0, 0.0625], [0.0625, 0.0]]).repeat(20, axis=1)[[0, 1, 0]]
    ds = xr.Dataset({"a": (("time", "x"), steady), "b": (("time", "x"), fine.astype("f4"))})
    romzarr.compress(ds, tmp_path / "s", tolerance=1e-6)
    decoded = xr.open_dataset(tmp_path / "s", engine="romzarr")
    xr.testing.assert_equal(decoded, ds)
    assert open_store(tmp_path / "s").variables["a"].coding == Coding.CONSTANT


@pytest.mark.parametrize("source", ["memory", "zarr", "netcdf"])
def test_an_archive_without_time_comes_back_as_it_was(tmp_path, caplog, source):
    (values,) = fields(np.random.default_rng(0), 1)
    ds = xr.Dataset(
        {
            "u": (("y", "x"), values, {"units": "K"}),
            "n": (("y", "x"), np.rint(values).astype("i4")),
        },
        {"y": np.linspace(-1, 1, 24), "x": np.arange(30)},
        {"title": "a field"},
    )
    archive = {"memory": ds, "zarr": tmp_path / "a.zarr", "netcdf": tmp_path / "a.nc"}[source]
    if source == "zarr":
        ds.to_zarr(archive, consolidated=False)
    if source == "netcdf":
        ds.to_netcdf(archive)
    report = romzarr.compress(archive, tmp_path / "s", tolerance=1e-2)
    assert "no dim looks like time" in caplog.text
    decoded = xr.open_dataset(tmp_path / "s", engine="romzarr")
    assert decoded.u.dims == ("y", "x")
    assert relative_error(values[None], decoded.u.values[None]) <= 1e-2
    xr.testing.assert_identical(decoded.drop_vars("u").load(), ds.drop_vars("u"))
    np.testing.assert_array_equal(decoded.u[3:9, [4, 2]].values, decoded.u.values[3:9][:, [4, 2]])
    assert report.variables["n"].coding == "carried"
    caplog.clear()
    assert romzarr.verify(tmp_path / "s", archive).ok
    assert "looks like time" not in caplog.text
    romzarr.reconstruct(tmp_path / "s", tmp_path / "out.zarr")
    again = xr.open_zarr(tmp_path / "out.zarr", consolidated=False)
    xr.testing.assert_equal(again.drop_vars("romzarr_quantization").load(), decoded.load())
    assert main(["report", str(tmp_path / "s"), "-o", str(tmp_path / "page.html")]) == 0
    assert main(["info", str(tmp_path / "s")]) == 0
    # It cannot grow.
    assert romzarr.append(tmp_path / "s", archive).appended == 0


def test_nothing_is_appended_to_a_single_snapshot(tmp_path):
    """Its bound is relative to another fluctuation than that of a record."""
    ds = xr.Dataset({"u": (("time", "y", "x"), fields(np.random.default_rng(3), 9))})
    romzarr.compress(ds.isel(time=slice(1)), tmp_path / "s")
    with pytest.raises(StoreError, match="a single snapshot; compress the archive anew"):
        romzarr.append(tmp_path / "s", ds)


def test_time_none_takes_a_field_for_one_snapshot(tmp_path, caplog):
    (values,) = fields(np.random.default_rng(0), 1)
    ds = xr.Dataset({"u": (("time", "x"), values)})
    config = with_values(Config(), {"archive.time": "none"})
    romzarr.compress(ds, tmp_path / "s", tolerance=1e-2, config=config)
    decoded = xr.open_dataset(tmp_path / "s", engine="romzarr")
    assert decoded.u.dims == ("time", "x")
    assert relative_error(values[None], decoded.u.values[None]) <= 1e-2
    assert "looks like time" not in caplog.text


@pytest.mark.parametrize("m", [1, 3])
def test_single_values_are_bounded_too(tmp_path, m):
    values = fields(np.random.default_rng(1), m)
    ds = xr.Dataset({"u": (("time", "y", "x"), values)})
    romzarr.compress(ds, tmp_path / "s", tolerance=0.1, max_error={"u": 0.01})
    decoded = xr.open_dataset(tmp_path / "s", engine="romzarr").u.values
    assert np.abs(decoded - values).max() <= 0.01


@pytest.mark.parametrize("m", [1, 4])
def test_few_snapshots_are_estimated(tmp_path, m):
    ds = xr.Dataset({"u": (("time", "y", "x"), fields(np.random.default_rng(2), m, (60, 80)))})
    (found,) = romzarr.estimate(ds, tolerances=[1e-2]).estimates
    report = romzarr.compress(ds, tmp_path / "s", tolerance=1e-2)
    assert found.stored_bytes == pytest.approx(report.stored_bytes, rel=0.15)


def test_few_snapshots_are_appended_to(tmp_path):
    values = fields(np.random.default_rng(3), 40)
    ds = xr.Dataset({"u": (("time", "y", "x"), values)}, {"time": np.arange(40.0)})
    romzarr.compress(ds.isel(time=slice(3)), tmp_path / "s", tolerance=1e-2)
    romzarr.append(tmp_path / "s", ds)
    decoded = xr.open_dataset(tmp_path / "s", engine="romzarr").u.values
    assert relative_error(values, decoded) <= 1e-2


def test_an_archive_without_floats_is_copied(tmp_path):
    n = np.rint(fields(np.random.default_rng(4), 30) * 100).astype("i2")
    ds = xr.Dataset(
        {"n": (("time", "y", "x"), n), "name": ("time", [f"{k}" for k in range(30)])},
        {"time": np.arange(30)},
    )
    report = romzarr.compress(ds, tmp_path / "s")
    xr.testing.assert_identical(xr.open_dataset(tmp_path / "s", engine="romzarr").load(), ds)
    assert report.compression_ratio > 2
    assert romzarr.verify(tmp_path / "s", ds).ok
    assert romzarr.info(tmp_path / "s").raw_bytes == ds.nbytes
    assert main(["info", str(tmp_path / "s")]) == 0
    with pytest.raises(ArchiveError, match="no snapshots along 'time'"):
        romzarr.compress(ds.isel(time=slice(0)), tmp_path / "t")


@pytest.mark.parametrize("seed", range(3))
def test_carried_numbers_are_coded_like_lossless_ones(tmp_path, seed):
    """Integers that change smoothly take less than zstd needs for them, and come back."""
    rng = np.random.default_rng(seed)
    smooth = np.cumsum(rng.integers(-3, 4, (200, 40, 5)), axis=0)
    kinds = {"i2": smooth, "u4": smooth + 10**6, "i8": smooth * 10**9, "?": smooth > 0}
    ds = xr.Dataset(
        {f"n{k}": (("time", "y", "x"), v.astype(k)) for k, v in kinds.items() if k != "?"}
        | {"flag": (("time", "y", "x"), kinds["?"]), "u": ("time", np.sin(np.arange(200.0)))},
    )
    ds.ni2.encoding["_FillValue"] = np.int16(-999)
    report = romzarr.compress(ds.chunk(time=90), tmp_path / "s")
    decoded = xr.open_dataset(tmp_path / "s", engine="romzarr").load()
    for name in ("nu4", "ni8", "flag"):
        xr.testing.assert_identical(decoded[name], ds[name])
    np.testing.assert_array_equal(decoded.ni2, ds.ni2)
    assert report.variables["ni2"].stored_bytes < ds.ni2.nbytes / 3


@pytest.mark.parametrize("scale", [1e-200, 1e-160, 1e50, 1e200])
@pytest.mark.parametrize("m", [1, 2, 4])
def test_values_of_any_scale_keep_the_bound(tmp_path, m, scale):
    """Also where their squares are no numbers, and two snapshots must not pass for one."""
    values = fields(np.random.default_rng(6), m)
    ds = xr.Dataset({"u": (("time", "y", "x"), scale * values)})
    romzarr.compress(ds, tmp_path / "s", tolerance=1e-2)
    decoded = xr.open_dataset(tmp_path / "s", engine="romzarr").u.values / scale
    assert relative_error(values, decoded) <= 1e-2
    assert romzarr.verify(tmp_path / "s", ds).ok

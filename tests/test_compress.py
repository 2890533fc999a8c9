"""What `compress` promises beside the bound: settings, counts, reports, nothing undone."""

from __future__ import annotations

import json
import os
import pickle
import re
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

import romzarr
from romzarr.config import ArchiveConfig, CompressionConfig, Config
from romzarr.errors import AccuracyError, ArchiveError, ConfigError, PipelineError
from romzarr.store.reading.reader import open_store
from tests.oracles import (
    assert_same_but_values,
    decaying_matrix,
    decoded_errors,
    files_below,
    relative_error,
)


def record(m: int = 60, n: int = 80, dtype: str = "float32") -> xr.Dataset:
    rng = np.random.default_rng(0)
    rows = 3 + decaying_matrix(rng, m, n, 4, rank=15)
    return xr.Dataset(
        {"u": (("time", "x"), rows.astype(dtype)), "v": (("time", "x"), rows[::-1] ** 2)},
        {"time": np.arange(m) * 0.5, "x": np.arange(n)},
    )


def decoded(store) -> xr.Dataset:
    return xr.open_dataset(store, engine="romzarr")


def test_keywords_win_over_the_configuration(tmp_path):
    config = Config(
        archive=ArchiveConfig(variables=("u",)), compression=CompressionConfig(tolerance=0.3)
    )
    report = romzarr.compress(record(), tmp_path / "a", config=config)
    assert (report.tolerance, list(decoded(tmp_path / "a").data_vars)) == (0.3, ["u"])
    report = romzarr.compress(
        record(), tmp_path / "b", config=config, tolerance=0.1, variables=["v"]
    )
    assert (report.tolerance, list(decoded(tmp_path / "b").data_vars)) == (0.1, ["v"])


@pytest.mark.parametrize("tolerance", [1.0, -0.1, 2.0, float("nan"), float("inf")])
def test_a_tolerance_outside_the_unit_interval_is_refused(tmp_path, tolerance):
    with pytest.raises(ConfigError, match=r"compression\.tolerance.*above 0 and below 1"):
        romzarr.compress(record(), tmp_path / "store", tolerance=tolerance)
    assert os.listdir(tmp_path) == []


def test_a_smaller_tolerance_means_a_smaller_error_and_a_larger_rank(tmp_path):
    reports = [
        romzarr.compress(record(), tmp_path / "store", tolerance=10.0**-k, overwrite=True)
        for k in (1, 2, 3, 4)
    ]
    ranks = [report.rank for report in reports]
    assert ranks == sorted(ranks)
    assert ranks[0] < ranks[-1]
    for k, report in enumerate(reports, start=1):
        assert report.largest_relative_l2_error <= 10.0**-k


def test_the_rank_is_at_most_one_above_the_optimum(tmp_path):
    """The optimum: an SVD of the whole anomalies, by the error that truncation alone leaves."""
    source = record()[["u"]]
    sigma = np.linalg.svd(source.u.values - source.u.values.mean(axis=0), compute_uv=False)
    left = np.sqrt(np.cumsum((sigma**2)[::-1])[::-1] / np.sum(sigma**2))
    for tolerance in (0.3, 1e-1, 1e-2, 1e-3):
        report = romzarr.compress(source.chunk(time=7, x=30), tmp_path / "s", tolerance=tolerance,
                                   overwrite=True)  # fmt: skip
        assert report.rank <= int(np.argmax(left <= tolerance)) + 1


def test_what_was_read_and_stored_is_counted(tmp_path):
    source = record(60, 80)
    path = tmp_path / "archive.zarr"
    encoding = {name: {"chunks": (11, 30)} for name in source.data_vars}
    source.to_zarr(path, encoding=encoding, consolidated=False)
    report = romzarr.compress(path, tmp_path / "store", tolerance=1e-2)
    chunks = [p for name in ("u", "v") for p in files_below(path / name) if "/c/" in p]
    assert report.chunks_read == len(chunks) == 2 * 6 * 3
    assert report.bytes_read == sum(map(os.path.getsize, chunks))
    assert report.raw_bytes == source.nbytes
    assert report.stored_bytes == sum(map(os.path.getsize, files_below(tmp_path / "store")))
    assert report.compression_ratio == report.raw_bytes / report.stored_bytes
    assert report.snapshots == 60
    assert 0 < report.seconds < 600
    json.dumps(report.to_dict(), allow_nan=False)
    assert pickle.loads(pickle.dumps(report)) == report


def test_the_source_is_never_changed(tmp_path):
    source = record()
    source["u"][:, 5] = np.nan
    before = source.copy(deep=True)
    romzarr.compress(source, tmp_path / "store", tolerance=1e-2)
    xr.testing.assert_identical(source, before)


def test_each_chunk_of_a_lazy_dataset_is_computed_once(tmp_path):
    seen: list[float] = []

    def note(block):
        seen.append(float(block[0, 0]))
        return block

    source = record().chunk(time=7, x=33)
    data = source["u"].data
    source["u"] = source["u"].copy(data=data.map_blocks(note, meta=data._meta))
    with dask.config.set(scheduler="synchronous"):
        romzarr.compress(source[["u"]], tmp_path / "store", tolerance=1e-2)
    assert len(seen) == len(set(seen)) == data.npartitions


def test_all_kinds_of_sources_give_the_same_store(tmp_path):
    """Path of Zarr v2, of v3, of NetCDF, dataset, dataset of Dask, one DataArray."""
    source = record()[["u"]]
    source.to_zarr(tmp_path / "v3.zarr", consolidated=False)
    source.to_zarr(tmp_path / "v2.zarr", zarr_format=2)
    source.to_netcdf(tmp_path / "file.nc", engine="h5netcdf")
    given = [
        source, source.u, source.chunk(time=9), str(tmp_path / "v3.zarr"), tmp_path / "v2.zarr",
        tmp_path / "file.nc",
    ]  # fmt: skip
    for number, each in enumerate(given):
        romzarr.compress(each, tmp_path / f"s{number}", tolerance=1e-2)
        xr.testing.assert_allclose(
            decoded(tmp_path / f"s{number}"), decoded(tmp_path / "s0"), rtol=0, atol=1e-5
        )


def test_constant_variables_are_exact_beside_others(tmp_path):
    source = record()
    source["still"] = (("x", "time"), np.full((80, 60), 0.1, np.float32))
    source["zero"] = xr.zeros_like(source.v)
    report = romzarr.compress(source, tmp_path / "store", tolerance=1e-2)
    back = decoded(tmp_path / "store")
    for name in ("still", "zero"):
        xr.testing.assert_identical(back[name], source[name])
        assert report.relative_l2_error[name] == 0
    assert max(decoded_errors(source, back).values()) <= 1e-2


def test_a_variable_that_is_masked_everywhere_comes_back_masked(tmp_path):
    source = record()
    source["land"] = xr.full_like(source.v, np.nan)
    romzarr.compress(source, tmp_path / "store", tolerance=1e-2)
    xr.testing.assert_identical(decoded(tmp_path / "store").land, source.land)


@pytest.mark.parametrize("signs", [(1,), (1, -1)])
def test_a_constant_is_exact_though_its_sums_overflow(tmp_path, signs):
    """Some lanes of a sum go to one infinity, some to the other: together they are NaN."""
    source = record()
    row = np.resize(signs, source.x.size) * np.finfo(np.float64).max
    source["still"] = source.u.dims, np.broadcast_to(row, (source.time.size, len(row))).copy()
    romzarr.compress(source, tmp_path / "store", tolerance=1e-2)
    xr.testing.assert_identical(decoded(tmp_path / "store").still, source.still)


def test_variables_that_lack_the_same_points_share_a_mask(tmp_path):
    source = record()
    source = source.where(source.x >= 9).assign(w=2 * source.v.where(source.x > 20), p=record().v)
    romzarr.compress(source, tmp_path / "store", tolerance=1e-2)
    assert max(decoded_errors(source, decoded(tmp_path / "store")).values()) <= 1e-2
    for name, values in decoded(tmp_path / "store").items():
        assert (values.isnull() == source[name].isnull()).all()
    variables = open_store(tmp_path / "store").variables
    assert {name: each.mask for name, each in variables.items()} == {
        "u": "u", "v": "u", "w": "w", "p": None,
    }  # fmt: skip


def test_points_without_space_and_points_without_weight(tmp_path):
    """A scalar series, and cells of weight zero in chunks of their own."""
    source = record()
    source["index"] = ("time", np.sin(source.time.values))
    romzarr.compress(source, tmp_path / "scalar", tolerance=1e-2)
    assert_same_but_values(source, decoded(tmp_path / "scalar"))
    assert max(decoded_errors(source, decoded(tmp_path / "scalar")).values()) <= 1e-2
    weighted = record()[["u"]].assign(cells=("x", np.r_[np.zeros(20), np.ones(60)]))
    romzarr.compress(weighted.chunk(x=20), tmp_path / "w", tolerance=1e-2, weights="cells")
    errors = decoded_errors(weighted, decoded(tmp_path / "w"), {"u": weighted.cells})
    assert errors["u"] <= 1e-2


@pytest.mark.parametrize("snapshots", [3, 4, 5, 8, 20])
def test_short_records_are_bounded_or_refused(tmp_path, snapshots):
    source = record(snapshots, 30)
    try:
        romzarr.compress(source, tmp_path / "store", tolerance=1e-2)
    except ArchiveError:
        assert snapshots < 6
        assert os.listdir(tmp_path) == []
        return
    assert max(decoded_errors(source, decoded(tmp_path / "store")).values()) <= 1e-2


def test_a_tolerance_below_rounding_is_refused_and_nothing_is_left(tmp_path):
    source = record(dtype="float64")
    with pytest.raises(AccuracyError, match="rounding of float64"):
        romzarr.compress(source + 1e6, tmp_path / "store", tolerance=1e-13)
    assert os.listdir(tmp_path) == []


def test_a_failure_of_any_kind_is_one_of_ours_or_the_callers(tmp_path):
    assert issubclass(ArchiveError, PipelineError)
    with pytest.raises(ArchiveError):
        romzarr.compress(tmp_path / "nowhere.zarr", tmp_path / "store")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("modes", [3, 60])
def test_all_but_modes_and_coefficients_takes_at_most_16_kilobytes(tmp_path, modes):
    rng = np.random.default_rng(0)
    rows = decaying_matrix(rng, 400, 600, 2.0, modes).reshape(400, 20, 30)
    dims = ("time", "lat", "lon")
    source = xr.Dataset(
        {name: (dims, rows * scale, {"units": "m s-1"}) for name, scale in (("u", 1), ("v", 2))},
        {"time": np.arange(400) * 0.5, "lat": np.arange(20.0), "lon": np.arange(30.0)},
        {"title": "two components of a velocity", "source": "model run 7"},
    )
    romzarr.compress(source, tmp_path / "store", tolerance=1e-3)
    coded = re.compile(r"(basis|latent)/.*(?<!zarr\.json)$")
    fixed = [p for p in files_below(tmp_path / "store") if not coded.search(p)]
    assert sum(map(os.path.getsize, fixed)) <= 16_000


# --- what may be given in Python -----------------------------------------------------------


@pytest.mark.parametrize("kind", ["numpy", "dask"])
def test_arrays_are_snapshots_along_their_first_axis(tmp_path, kind):
    values = np.sin(0.1 * np.arange(80)[:, None] + np.linspace(0, 3, 50))
    array = da.from_array(values, chunks=(20, 50)) if kind == "dask" else values
    romzarr.compress(array, tmp_path / "s", tolerance=1e-3)
    decoded = xr.open_dataset(tmp_path / "s", engine="romzarr").x
    assert decoded.dims == ("time", "dim_1")
    assert relative_error(values, decoded.values) <= 1e-3
    assert romzarr.verify(tmp_path / "s", array).ok


@pytest.mark.parametrize(
    "given",
    [
        {"compression": {"tolerance": 0.1}},
        {"compression.tolerance": 0.1},
        "settings.yaml",
        Path("settings.yaml"),
    ],
)
def test_settings_are_a_mapping_or_a_file(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    Path("settings.yaml").write_text("compression: {tolerance: 0.1}")
    source = xr.Dataset({"u": (("time", "x"), np.random.default_rng(0).standard_normal((9, 5)))})
    assert romzarr.compress(source, tmp_path / "s", config=given).tolerance == 0.1
    assert romzarr.compress(source, tmp_path / "t", config=given, tolerance=0.2).tolerance == 0.2


@pytest.mark.parametrize("given", [3, ["a"], {"compression": {"tolerence": 1}}, "nowhere.yaml"])
def test_other_settings_are_refused(tmp_path, given):
    with pytest.raises((ConfigError, TypeError), match=r"config|compression\.tolerance|nowhere"):
        romzarr.compress(xr.Dataset(), tmp_path / "s", config=given)

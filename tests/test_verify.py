"""`verify` measures what xarray measures, and finds what was changed."""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from numpy.testing import assert_allclose

import romzarr
from romzarr.chunked.spots import some_leaves
from romzarr.contracts import BlockSpan
from romzarr.errors import ArchiveError, StoreError
from tests.forgery import sign
from tests.oracles import decaying_matrix, decoded_errors


@pytest.fixture
def source() -> xr.Dataset:
    rng = np.random.default_rng(0)
    u = 5 + decaying_matrix(rng, 90, 12 * 15, 3, rank=12).reshape(90, 12, 15)
    v = np.moveaxis(decaying_matrix(rng, 90, 15, 2, rank=6), 0, 1).astype(np.float32)
    u[:, :2, 3] = np.nan
    return xr.Dataset(
        {"u": (("time", "y", "x"), u, {"units": "m/s"}), "v": (("x", "time"), v)},
        {
            "time": np.datetime64("2001-01-01", "ns") + np.arange(90) * np.timedelta64(1, "D"),
            "x": np.arange(15) * 0.5,
            "area": (("y", "x"), 1 + rng.random((12, 15))),
        },
    )


@pytest.fixture
def store(source, tmp_path) -> Path:
    romzarr.compress(source, tmp_path / "store", tolerance=1e-2)
    return tmp_path / "store"


@pytest.mark.parametrize("chunks", [None, {"time": 7}, {"time": -1, "x": 4}, {"time": 1}])
def test_errors_are_those_of_xarray_arithmetic(source, store, chunks):
    decoded = xr.open_dataset(store, engine="romzarr")
    errors = decoded_errors(source, decoded)
    report = romzarr.verify(store, source if chunks is None else source.chunk(chunks))
    assert report.ok
    assert report.problems == ()
    for name, error in errors.items():
        assert_allclose(report.relative_l2_error[name], error, rtol=1e-8)
        largest = float(np.abs(source[name] - decoded[name]).max())
        assert_allclose(report.largest_pointwise_error[name], largest, rtol=1e-6)
    assert report.largest_relative_l2_error == max(report.relative_l2_error.values())
    assert report.relative_l2_error["largest"] == report.largest_relative_l2_error
    worst = max(errors, key=errors.__getitem__)
    difference = np.abs(source[worst] - decoded[worst])
    place = difference.argmax(...)
    assert report.worst.startswith(f"{worst}: ")
    for dim, at in place.items():
        assert re.search(rf"\b{dim}={int(at)}\b", report.worst)
    json.dumps(report.to_dict(), allow_nan=False)


def test_errors_are_weighted_as_the_store_was_made(source, tmp_path):
    romzarr.compress(source[["u"]], tmp_path / "weighted", tolerance=1e-2, weights="area")
    decoded = xr.open_dataset(tmp_path / "weighted", engine="romzarr")
    expected = decoded_errors(source[["u"]], decoded, {"u": source.area})["u"]
    report = romzarr.verify(tmp_path / "weighted", source[["u"]])
    assert_allclose(report.relative_l2_error["u"], expected, rtol=1e-8)


@pytest.mark.parametrize("variable", ["u", "v"])
def test_a_tampered_coefficient_is_found_with_variable_time_and_place(source, store, variable):
    """Every checksum of the store is made right again."""
    group = zarr.open_group(next(store.glob("2*")), mode="r+")
    corrections, at = group["latent/corrections"], 45
    row = corrections[at]
    row[0] += 3 * np.linalg.norm(corrections[:, 0])
    corrections[at] = row
    sign(store)
    report = romzarr.verify(store, source)
    assert not report.ok
    found = [words for words in report.problems if f"variable '{variable}'" in words]
    assert len(found) == 1
    date = np.datetime_as_string(source.time.values[at], unit="D")
    assert "above the tolerance 0.01" in found[0]
    assert f"time={at} ({date}" in found[0]
    assert re.search(r"\bx=\d+", found[0])


def test_a_tampered_mode_is_found_where_it_is(source, store):
    group = zarr.open_group(next(store.glob("2*")), mode="r+")
    fields = group["basis/u/fields"]
    fields[1, 7, 11] = fields[1, 7, 11] + 50 * np.abs(fields[1]).max()
    sign(store)
    report = romzarr.verify(store, source)
    assert not report.ok
    (problem,) = report.problems
    assert "variable 'u'" in problem
    assert problem.endswith("y=7, x=11")


def test_a_mask_that_differs_is_found_where_it_is(source, store):
    source["u"][:, 5, 6] = np.nan
    report = romzarr.verify(store, source)
    assert not report.ok
    assert any(re.search(r"'u': NaN differs at time=0 .*y=5, x=6", p) for p in report.problems)


def test_changed_coordinates_are_found(source, store):
    report = romzarr.verify(store, source.assign_coords(x=source.x + 1))
    assert not report.ok
    assert any("'x' differs" in problem for problem in report.problems)


def test_another_source_is_found_out(source, store):
    report = romzarr.verify(store, source.copy(data={"u": source.u * 1.1, "v": source.v}))
    assert not report.ok
    assert any("'u'" in problem and "above" in problem for problem in report.problems)


def test_a_source_of_another_shape_is_refused(source, store):
    with pytest.raises(StoreError, match="was not made from"):
        romzarr.verify(store, source.isel(x=slice(3)))
    with pytest.raises(StoreError, match=r"'w' is .* and missing in the store"):
        romzarr.verify(store, source.assign(w=source.v))


@pytest.mark.parametrize("other", ["renamed", "another"])
def test_another_archive_without_the_weights_is_named_as_another(tmp_path, other):
    t, latitude = np.arange(20.0), np.linspace(-80, 80, 6)
    u = np.sin(t)[:, None] * np.cos(np.deg2rad(latitude))
    made = xr.Dataset({"u": (("time", "lat"), u)}, {"time": t, "lat": latitude})
    romzarr.compress(made, tmp_path / "store", weights="cos(latitude)")
    given = {
        "renamed": made.rename(lat="y"),
        "another": xr.Dataset({"w": (("time", "x"), u)}, {"time": t}),
    }
    with pytest.raises(StoreError, match="was not made from"):
        romzarr.verify(tmp_path / "store", given[other])
    # The same variable without its latitudes: the weights are what is missing.
    with pytest.raises(ArchiveError, match=r"archive\.weights"):
        romzarr.verify(tmp_path / "store", made.drop_vars("lat"))


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """A record of many blocks of time, since a leaf takes 256 snapshots, and its store."""
    t, x = np.arange(2600)[:, None] * 0.05, np.linspace(0, 1, 20)[None, :]
    u = np.sin(t) * np.sin(3 * x) + np.cos(t) * np.cos(3 * x) + t / 30 * (1 + x)
    u = (100 + u).astype(np.float32)
    source = xr.Dataset({"u": (("time", "x"), u)}, {"time": t[:, 0]}).chunk(time=100)
    store = tmp_path_factory.mktemp("long") / "store"
    romzarr.compress(source, store, tolerance=1e-2)
    return source, store


def test_the_error_of_many_blocks_is_relative_to_the_mean_of_all(long):
    """Not to the means of the blocks, which a trend sets apart."""
    source, store = long
    expected = decoded_errors(source.compute(), xr.open_dataset(store, engine="romzarr"))
    found = romzarr.verify(store, source).relative_l2_error
    assert found["u"] == pytest.approx(expected["u"], rel=1e-6)


def test_a_sample_is_a_part_of_the_whole(long, tmp_path):
    source = long[0]
    romzarr.compress(source, tmp_path / "store", tolerance=0)
    report = romzarr.verify(tmp_path / "store", source, sample=True)
    assert report.ok
    assert 0 < report.compared < 0.5
    assert romzarr.verify(tmp_path / "store", source).compared == 1


@pytest.mark.parametrize("where", [slice(None), slice(0, 1)], ids=["everywhere", "at one time"])
def test_what_a_sample_finds_is_decided_by_the_whole(long, where):
    source, store = long
    other = source.compute()
    other["u"][where] += 1.5
    report = romzarr.verify(store, other, sample=True)
    whole = romzarr.verify(store, other)
    # A small part may go unseen, but nothing is called broken that is not.
    assert report.ok or not whole.ok
    if where == slice(None):
        assert report.compared == 1
        assert report.problems == whole.problems != ()


def test_a_sample_in_which_nothing_fluctuates_proves_nothing(long, tmp_path, monkeypatch):
    """Relative to no fluctuation any error is infinite, so more has to be looked at."""
    source = long[0].isel(time=slice(0, 600)).compute()
    source["u"][300:] = source["u"][300]
    romzarr.compress(source.chunk(time=100), tmp_path / "store", tolerance=1e-2)
    real, asked = some_leaves, []

    def late_ones_first(plan, seed, most):
        asked.append(most)
        return ((BlockSpan(400, 600),),) if len(asked) == 1 else real(plan, seed, most)

    monkeypatch.setattr(import_module("romzarr.operations.verify"), "some_leaves", late_ones_first)
    report = romzarr.verify(tmp_path / "store", source, sample=True)
    assert report.ok
    assert len(asked) > 1


def test_a_variable_may_be_called_largest(tmp_path):
    tolerance, t, x = 1e-2, 0.1 * np.arange(60)[:, None], np.linspace(0, 1, 40)
    rough = np.random.default_rng(0).standard_normal((60, 40))
    ds = xr.Dataset({"largest": (("time", "x"), np.sin(t - 5 * x)), "u": (("time", "x"), rough)})
    errors, store = {}, tmp_path / "run"
    errors["compress"] = romzarr.compress(ds.isel(time=slice(50)), store, tolerance=tolerance)
    errors["append"] = romzarr.append(store, ds)
    errors["info"] = romzarr.info(store)
    errors["verify"] = romzarr.verify(store, ds)
    for report in errors.values():
        told = report.to_dict()
        assert told["relative_l2_error"].keys() == {"largest", "u"}
        assert told["largest_relative_l2_error"] == max(told["relative_l2_error"].values())
    for name, error in decoded_errors(ds, xr.open_dataset(store, engine="romzarr")).items():
        assert error <= errors["info"].relative_l2_error[name] * (1 + 1e-9) <= tolerance
        assert_allclose(errors["verify"].relative_l2_error[name], error, rtol=1e-8)

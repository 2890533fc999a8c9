"""Attributes say how far values may be from the original, after any number of compressions."""

import logging

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import romzarr
from tests.oracles import without_loss


def dataset(seed, m=40, dtype="f4"):
    rng = np.random.default_rng(seed)
    rows = np.outer(np.sin(np.arange(m) / 5), rng.standard_normal(60))
    rows = 7 + rows + 0.05 * rng.standard_normal(rows.shape)
    u = rows.reshape(m, 6, 10).astype(dtype)
    coords = {"time": np.arange(float(m)), "lat": np.linspace(-75, 75, 6)}
    variables = {"u": (("time", "lat", "x"), u, {"units": "K"}), "still": ("x", np.arange(10))}
    return xr.Dataset(variables, coords)


def opened(store):
    return xr.open_dataset(store, engine="romzarr")


def off(one, other, weights="none"):
    """The L2 norm and the largest of the differences, and the largest relative one."""
    exact = one.u.astype("f8")
    error = other.u.astype("f8") - exact
    counted = np.cos(np.deg2rad(one.lat)) if weights != "none" else 1.0
    return (
        float(np.sqrt((counted * error**2).sum())),
        float(abs(error).max()),
        float((abs(error) / abs(exact)).max()),
    )


ASKED = {
    "loose": {"tolerance": 1e-1},
    "tight": {"tolerance": 1e-3},
    "single values": {"tolerance": 1e-2, "max_error": {"u": 0.02}},
    "shares": {"tolerance": 1e-2, "max_error": "1% of value"},
    "lossless": {"tolerance": 0},
}


@settings(max_examples=4, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    asked=st.lists(st.sampled_from(sorted(ASKED)), min_size=1, max_size=3),
    weights=st.sampled_from(["none", "cos(latitude)"]),
    start=st.integers(0, 20),
)
def test_the_original_is_within_what_the_last_one_says(
    tmp_path_factory, seed, asked, weights, start
):
    folder, truth = tmp_path_factory.mktemp("loss"), dataset(seed)
    source = truth
    for number, each in enumerate(asked):
        romzarr.compress(source, folder / f"{number}", weights=weights, **ASKED[each])
        decoded = opened(folder / f"{number}")
        romzarr.reconstruct(folder / f"{number}", folder / f"{number}.zarr")
        # A part of what was decoded goes on, by way of a file.
        some = {"time": slice(start if number == 0 else 0, None)}
        source = xr.open_zarr(folder / f"{number}.zarr", consolidated=False).isel(some)
        truth, decoded = truth.isel(some), decoded.isel(some)
    said, lossy = decoded.u.attrs, [each for each in asked if each != "lossless"]
    assert said.get("romzarr_compressions", 0) == len(lossy)
    if not lossy:
        assert said == dataset(seed).u.attrs
        return
    l2, largest, relative = off(truth, decoded, weights)
    assert 0.2 * l2 <= said["romzarr_l2_error"] * len(lossy)
    assert l2 <= said["romzarr_l2_error"]
    if set(lossy) == {"single values"}:
        assert largest <= said["romzarr_largest_error"] <= said["romzarr_max_error"]
    if set(lossy) == {"shares"}:
        assert relative <= said["romzarr_max_relative_error"] * (1 + 1e-6)


def test_what_was_lost_before_is_said_and_what_is_exact_says_nothing(tmp_path, caplog):
    source = dataset(0)
    first = romzarr.compress(source, tmp_path / "a", tolerance=1e-2)
    assert not first.variables["u"].before
    decoded = opened(tmp_path / "a")
    assert without_loss(decoded.u.attrs) == source.u.attrs
    assert decoded.still.attrs == {}
    with caplog.at_level(logging.WARNING):
        again = romzarr.compress(decoded.load(), tmp_path / "b", tolerance=1e-2)
    assert "was compressed with loss before, by romzarr version" in caplog.text
    assert "L2 error of up to" in again.variables["u"].before
    said = opened(tmp_path / "b").u.attrs
    # Promised relative to the fluctuation, which is nearly the same.
    assert said["romzarr_tolerance"] == pytest.approx(2e-2, rel=0.02)
    assert romzarr.verify(tmp_path / "b", decoded).ok


def test_other_weights_leave_no_bound_on_the_norm(tmp_path):
    romzarr.compress(dataset(0), tmp_path / "a", tolerance=1e-2)
    source = opened(tmp_path / "a").load()
    romzarr.compress(source, tmp_path / "b", tolerance=1e-2, weights="cos(latitude)")
    said = opened(tmp_path / "b").u.attrs
    assert said["romzarr_compressions"] == 2
    assert "romzarr_l2_error" not in said
    assert "romzarr_tolerance" not in said


@pytest.mark.parametrize(
    "encoding", [{}, {"scale_factor": 0.01, "dtype": "int16", "_FillValue": -9999}]
)
def test_files_have_the_form_of_cf(tmp_path, encoding):
    encoding = {"u": encoding} if encoding else {}
    dataset(0).to_netcdf(tmp_path / "a.nc", engine="h5netcdf", encoding=encoding)
    romzarr.compress(tmp_path / "a.nc", tmp_path / "s", tolerance=1e-2)
    romzarr.reconstruct(tmp_path / "s", tmp_path / "out.nc")
    with xr.open_dataset(tmp_path / "a.nc") as truth, xr.open_dataset(tmp_path / "out.nc") as out:
        said = out[out.u.attrs["quantization"]]
        assert said.shape == ()
        assert said.attrs["implementation"].startswith("romzarr version ")
        assert set(said.attrs) == {"algorithm", "implementation"}
        assert off(truth, out)[0] <= out.u.attrs["romzarr_l2_error"]
        assert "quantization" not in out.still.attrs


def test_appended_stores_say_what_they_lost_and_what_was_lost_before(tmp_path):
    truth = dataset(3, 60)
    for count in (40, 50, 60):
        some = truth.isel(time=slice(count))
        if count == 40:
            # What is put together changes, within its bound.
            apart = {"compression.compact": "none"}
            romzarr.compress(some, tmp_path / "a", tolerance=1e-2, config=apart)
            romzarr.compress(opened(tmp_path / "a").load(), tmp_path / "b", tolerance=1e-2)
        else:
            romzarr.append(tmp_path / "a", some)
            romzarr.append(tmp_path / "b", opened(tmp_path / "a").load())
        before, said = opened(tmp_path / "a").u.attrs, opened(tmp_path / "b").u.attrs
        assert (before["romzarr_compressions"], said["romzarr_compressions"]) == (1, 2)
        assert off(some, opened(tmp_path / "b"))[0] <= said["romzarr_l2_error"]
        assert said["romzarr_l2_error"] >= before["romzarr_l2_error"]


def test_what_others_quantised_is_said_and_stays(tmp_path):
    source = dataset(0)
    source.u.attrs |= {"quantization": "info", "quantization_nsb": 9}
    source["info"] = ((), np.int8(0), {"algorithm": "bitround", "implementation": "NCO"})
    report = romzarr.compress(source, tmp_path / "s", tolerance=1e-2)
    assert "quantization_nsb 9" in report.variables["u"].before
    romzarr.reconstruct(tmp_path / "s", tmp_path / "out.zarr")
    found = xr.open_zarr(tmp_path / "out.zarr", consolidated=False)
    assert without_loss(found.u.attrs) == source.u.attrs
    assert found["info"].attrs == source["info"].attrs


@pytest.mark.parametrize("value", ["a lot", -1.0, np.nan, np.inf, True, [1.0], None])
def test_bounds_that_are_none_bound_nothing(tmp_path, value):
    source = dataset(0)
    claimed = {"romzarr_implementation": "somebody", "romzarr_l2_error": value}
    source.u.attrs |= {k: v for k, v in claimed.items() if v is not None}
    romzarr.compress(source, tmp_path / "s", tolerance=1e-2)
    said = opened(tmp_path / "s").u.attrs
    assert "romzarr_l2_error" not in said
    assert said["romzarr_compressions"] == 2

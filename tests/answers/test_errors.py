"""The recorded errors as a dataset, and what bounds of selections gain from them."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import romzarr


def dataset(rng, noise, m=96):
    modes = rng.standard_normal((3, 8, 12))
    phases = rng.uniform(0.1, 1, (3, 1)) * np.arange(m) + rng.uniform(0, 6, (3, 1))
    smooth = np.tensordot(np.cos(phases).T, modes, 1)
    u = smooth + noise * rng.standard_normal(smooth.shape)
    u[:, rng.random((8, 12)) < 0.1] = np.nan
    few = smooth[:, :, 0] + rng.standard_normal((m, 8))
    dims = ("time", "lat", "x")
    coords = {"time": np.arange(m) * 0.5, "lat": np.linspace(-70, 70, 8)}
    variables = {"u": (dims, u.astype("f4"), {"units": "K"}), "few": (dims[:2], few)}
    return xr.Dataset(variables | {"still": (dims, np.broadcast_to(u[:1], u.shape))}, coords)


def places(selected, found, dim):
    """For each block of a dim, which may have a number, how many of the selected lie in it."""
    name = dim.removesuffix("_2")
    labels = selected[name].values if name in selected.coords else np.arange(selected.sizes[name])
    both = zip(found[dim].values, found[f"{dim}_last"].values, strict=True)
    return [int(((labels >= first) & (labels <= last)).sum()) for first, last in both]


@settings(max_examples=5, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    noise=st.sampled_from([0.0, 0.05, 1.0]),
    tolerance=st.sampled_from([0.1, 1e-3]),
    weights=st.sampled_from(["none", "cos(latitude)"]),
    parts=st.booleans(),
    start=st.integers(0, 80),
    step=st.integers(1, 3),
    lat=st.sampled_from([slice(None), slice(3, 6), 2]),
)
def test_each_block_bounds_what_is_selected_of_it(
    tmp_path_factory, seed, noise, tolerance, weights, parts, start, step, lat
):
    store = tmp_path_factory.mktemp("errors") / "s"
    archive = dataset(np.random.default_rng(seed), noise)
    first = archive.isel(time=slice(70)) if parts else archive
    romzarr.compress(first, store, tolerance=tolerance, weights=weights)
    if parts:
        romzarr.append(store, archive)
    chosen = {"time": slice(start, None, step), "lat": lat}
    selected = xr.open_dataset(store, engine="romzarr").isel(chosen)
    found, decoded = selected.romzarr.error(), selected.load()
    assert set(found.data_vars) == set(archive.data_vars)
    assert found.u.attrs["units"] == "K"
    off = (decoded - archive.isel(chosen)).astype("f8").u.fillna(0.0) ** 2
    if weights != "none":
        off = off * np.cos(np.deg2rad(archive.lat.isel(lat=lat)))
    dims = [dim.removesuffix("_2") for dim in found.u.dims]
    assert set(dims) == set(off.dims)
    off = off.transpose(*dims)
    true = off.values
    for axis, dim in enumerate(found.u.dims):
        ends = np.cumsum(places(selected, found, dim))
        true = np.add.reduceat(true, [0, *ends[:-1]], axis=axis)
    assert true.shape == found.u.shape
    assert (np.sqrt(true) <= found.u).all()
    assert (found.still == 0).all()
    assert np.isfinite(found.few).all()


def ratios(truth, selected):
    """Bounds by true errors of means and variances."""
    mean, var = selected.romzarr.mean(), selected.romzarr.var()
    off = mean.u - truth.mean("time")
    # On land xarray's own variance warns in old versions.
    spread = ((truth - truth.mean("time")) ** 2).mean("time")
    return (
        float(mean.u_bound / np.sqrt((off**2).sum())),
        float(var.u_bound / abs(var.u - spread).sum()),
    )


@pytest.mark.parametrize("noise", [0.01, 0.1, 1.0])
def test_bounds_of_short_stretches_are_not_idle(tmp_path, noise):
    """All of the error of a variable would be 6 times as much as that of one of 32 blocks."""
    found = []
    for seed in range(3):
        archive = dataset(np.random.default_rng(seed), noise, 384)[["u"]]
        romzarr.compress(archive, tmp_path / f"{seed}", tolerance=1e-2)
        stored = romzarr.open(tmp_path / f"{seed}").dataset
        for start in range(0, 384, 96):
            some = {"time": slice(start, start + 12)}
            found.append(ratios(archive.astype("f8").u.isel(some), stored.isel(some)))
    assert np.min(found) >= 1
    assert (np.median(found, axis=0) <= 12).all(), np.median(found, axis=0)


def test_a_climatology_counts_the_blocks_of_its_months(tmp_path):
    """Errors grow with loudness, and the quiet months do not pay for the loud one."""
    rng = np.random.default_rng(0)
    time = np.arange("2001-01-01", "2002-01-01", dtype="datetime64[D]").astype("datetime64[ns]")
    loud = np.where(np.arange(365) < 181, 0.01, 1.0)[:, None]
    u = loud * rng.standard_normal((365, 60))
    archive = xr.Dataset({"u": (("time", "x"), u)}, {"time": time})
    romzarr.compress(archive, tmp_path / "s", tolerance=1e-1)
    found = romzarr.open(tmp_path / "s").climatology("time.month")
    error = np.sqrt(((found.u - archive.u.groupby("time.month").mean()) ** 2).sum("x"))
    assert (error <= found.u_bound).all()
    assert found.u_bound.sel(month=3) < 0.2 * found.u_bound.sel(month=10)


def test_a_level_does_not_pay_for_another(tmp_path):
    rng = np.random.default_rng(0)
    u = rng.standard_normal((96, 4, 6, 8)) * 10.0 ** -np.arange(4)[:, None, None]
    levels = ("lev", [1000.0, 500.0, 100.0, 10.0], {"units": "hPa", "positive": "down"})
    archive = xr.Dataset({"u": (("time", "lev", "y", "x"), u)}, {"lev": levels})
    romzarr.compress(archive, tmp_path / "s", tolerance=1e-2)
    stored = romzarr.open(tmp_path / "s").dataset
    for lev in range(4):
        found = ratios(archive.u.isel(lev=lev), stored.isel(lev=lev))
        assert min(found) >= 1
        assert max(found) <= 30
    by_level = stored.romzarr.error().u_by_index
    assert by_level.dims == ("lev",)
    assert (by_level <= 1e-2).all()

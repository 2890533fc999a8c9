"""Points of meshes are stored along a curve, and come back where they were."""

from __future__ import annotations

from unittest.mock import patch

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import romzarr
from romzarr.compression import order_points
from romzarr.errors import ArchiveError, StoreError
from romzarr.store.reading.reader import open_store
from romzarr_flows.tables import compression_table, info_table
from tests.oracles import assert_same_but_values, chunks_read, decoded_errors
from tests.strategies import seeds

CELLS = 700


@pytest.fixture(autouse=True)
def _one_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def mesh(seed: int = 0, m: int = 30, levels: int = 0, sphere: bool = False) -> xr.Dataset:
    """Waves over random points, in an order that says nothing."""
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((3, CELLS))
    x, y, z = points / np.linalg.norm(points, axis=0)
    t = 0.1 * np.arange(m)[:, None]
    u = sum(np.sin((k + 1) * t - (k + 1) * x + k * y) * np.cos(k * z) / k for k in (1, 2, 3))
    coords = {"x": ("cell", x), "y": ("cell", y), "z": ("cell", z)}
    if sphere:
        lon, lat = np.degrees(np.arctan2(y, x)), np.degrees(np.arcsin(z))
        coords = {"lon": ("cell", lon), "lat": ("cell", lat)}
    dims = ("time", "cell")
    if levels:
        u, dims = u[:, None] * np.arange(1, levels + 1)[:, None], ("time", "lev", "cell")
    area = ("cell", rng.uniform(1, 2, CELLS))
    return xr.Dataset({"u": (dims, u.astype("f4")), "area": area}, {"time": t[:, 0], **coords})


def unordered(source, path, **settings):
    with patch.object(order_points, "LEAST_POINTS", 1 << 60):
        return romzarr.compress(source, path, **settings)


@given(
    seed=seeds,
    levels=st.sampled_from([0, 2]),
    last=st.booleans(),
    piece=st.sampled_from([CELLS, 300, 233]),
    land=st.booleans(),
    gaps=st.booleans(),
    how=st.sampled_from(
        [{}, {"weights": "area"}, {"max_error": {"u": 0.02}}, {"tolerance": 0}, {"tolerance": 0.3}]
    ),
    few=st.booleans(),
)
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_values_come_back_in_their_place(
    tmp_path_factory, seed, levels, last, piece, land, gaps, how, few
):
    source = mesh(seed, 3 if few else 24, levels, sphere=seed % 2 == 0)
    rng, path = np.random.default_rng(seed), tmp_path_factory.mktemp("mesh") / "s"
    if land:
        source["u"] = source.u.where(source.area < 1.8)
    if gaps:
        source["u"][5 % source.sizes["time"], ..., 17] = np.nan
    if last:
        source["u"] = source.u.transpose("cell", ...)
    # Whether it pays or not.
    with patch.multiple(order_points, WORTH=9.0, RULE_BYTES=-(1 << 30)):
        report = romzarr.compress(source.chunk(cell=piece, time=7), path, **how)
    assert set(report.orders) == {"cell"}
    decoded = xr.open_dataset(path, engine="romzarr")
    weights = {"u": source.area} if how.get("weights") else None
    (error,) = decoded_errors(source, decoded, weights).values()
    assert few or error <= report.tolerance * (1 + 1e-6)
    assert_same_but_values(source, decoded)
    if "max_error" in how:
        assert float(abs(decoded.u - source.u).max()) <= 0.02
    if how.get("tolerance") == 0:
        assert np.array_equal(decoded.u.values, source.u.values, equal_nan=True)
    some = {"cell": rng.integers(-CELLS, CELLS, 9), "time": slice(None, None, 2)}
    assert np.array_equal(decoded.u.isel(some), decoded.u.load().isel(some), equal_nan=True)
    assert romzarr.verify(path, source).ok


def test_weights_go_with_their_points(tmp_path):
    """Where a point counts nothing there is noise, beside which all that counts would vanish."""
    source, rng = mesh().astype("f8"), np.random.default_rng(0)
    source["area"] = ("cell", rng.integers(0, 2, CELLS).astype("f8"))
    noise = 100 * rng.standard_normal((30, CELLS))
    source["u"] = source.u + noise * (source.area.values == 0)
    with patch.multiple(order_points, WORTH=9.0, RULE_BYTES=-(1 << 30)):
        assert romzarr.compress(source, tmp_path / "s", weights="area").orders
    decoded = xr.open_dataset(tmp_path / "s", engine="romzarr")
    assert decoded_errors(source, decoded, {"u": source.area})["u"] <= 1e-2 * (1 + 1e-6)


def test_each_chunk_is_read_once_and_once_more_for_the_sample(tmp_path):
    source = mesh().chunk(cell=300, time=10)
    report = romzarr.compress(source, tmp_path / "s")
    assert report.chunks_read == chunks_read(source, {"u": report.variables["u"].coding})
    assert open_store(tmp_path / "s").last.orders["cell"].pieces == 300


@pytest.mark.parametrize("sphere", [False, True])
def test_it_saves_bytes_and_says_so(tmp_path, sphere):
    source = mesh(sphere=sphere)
    found = romzarr.compress(source, tmp_path / "s", tolerance=1e-3)
    plain = unordered(source, tmp_path / "t", tolerance=1e-3)
    assert not plain.orders
    coded = found.variables["u"].stored_bytes, plain.variables["u"].stored_bytes
    assert found.stored_bytes < plain.stored_bytes
    assert coded[0] < 0.85 * coded[1] or not coded[1]
    names = "lon, lat" if sphere else "x, y, z"
    says = f"points of cell ordered along a Hilbert curve through {names}"
    assert says in compression_table(found.to_dict(), "a", "b")
    assert says in info_table(romzarr.info(tmp_path / "s").to_dict(), "s")
    assert "ordered" not in info_table(romzarr.info(tmp_path / "t").to_dict(), "t")


def test_an_order_that_is_better_stays(tmp_path):
    angle = np.sort(np.random.default_rng(0).uniform(0, 2 * np.pi, 500))
    t = np.arange(30)[:, None]
    values = sum(np.cos(k * angle + 0.1 * k * t) / k**2 for k in (1, 2, 3, 40))
    ring = {"x": ("cell", np.cos(angle)), "y": ("cell", np.sin(angle))}
    source = xr.Dataset({"u": (("time", "cell"), values)}, {"time": t[:, 0], **ring})
    assert not romzarr.compress(source, tmp_path / "s", tolerance=1e-3).orders


@pytest.mark.parametrize("gaps", [False, True])
def test_appended_snapshots_have_the_same_order(tmp_path, gaps):
    source = mesh(m=60)
    if gaps:
        source["u"][50, 3] = np.nan
    romzarr.compress(source.isel(time=slice(30)), tmp_path / "s", tolerance=1e-2)
    first = open_store(tmp_path / "s").facts["orders"]
    for stop in (45, 60):
        romzarr.append(tmp_path / "s", source.isel(time=slice(stop)))
        opened = open_store(tmp_path / "s")
        assert all(part.facts["orders"] == first for part in opened.parts)
    decoded = xr.open_dataset(tmp_path / "s", engine="romzarr")
    assert decoded_errors(source, decoded)["u"] <= 1e-2 * (1 + 1e-6)
    assert romzarr.verify(tmp_path / "s", source).ok
    part = decoded.u[:, [5, 650, 2]].values
    assert np.array_equal(part, decoded.u.values[:, [5, 650, 2]], equal_nan=True)


def test_a_stream_goes_on_with_the_order_and_can_be_resumed(tmp_path):
    source = mesh(m=90)
    romzarr.compress(source.isel(time=slice(30)), tmp_path / "s", tolerance=1e-2)
    stream = romzarr.StreamCompressor(tmp_path / "s")
    stream.update(source.isel(time=slice(30, 50)))
    stream.commit()
    with romzarr.StreamCompressor(tmp_path / "s") as stream:
        stream.update(source.isel(time=slice(50, 90)))
    decoded = xr.open_dataset(tmp_path / "s", engine="romzarr")
    assert decoded_errors(source, decoded)["u"] <= 1e-2 * (1 + 1e-6)
    # The new part goes on with the old modes, which only the same order allows.
    assert open_store(tmp_path / "s").last.before


def test_a_part_with_other_chunks_keeps_its_own_order(tmp_path):
    source = mesh(m=60)
    source["u"][50, 3] = np.nan
    romzarr.compress(source.isel(time=slice(40)).chunk(cell=CELLS), tmp_path / "s")
    romzarr.append(tmp_path / "s", source.chunk(cell=123, time=20))
    assert "orders" not in open_store(tmp_path / "s").last.facts
    assert romzarr.verify(tmp_path / "s", source).ok


def test_what_is_wrong_is_named_by_the_place_in_the_archive(tmp_path):
    source = mesh().astype("f8")
    source["u"][3:, 77] = 1e200
    with pytest.raises(ArchiveError, match="cell=77"):
        romzarr.compress(source, tmp_path / "s")


def test_an_order_that_cannot_be_computed_again_is_refused(tmp_path):
    romzarr.compress(mesh(), tmp_path / "s")
    order = open_store(tmp_path / "s").last.orders["cell"]
    other = type(order)(order.dim, order.curve, order.coordinates, 350, order.checksum)
    with pytest.raises(StoreError, match="wrong checksum"):
        other.positions(open_store(tmp_path / "s").last.arrays)

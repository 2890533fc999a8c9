"""What must hold for every archive: the bound, and everything else as it was.

The oracle is xarray arithmetic on the source and on what ``engine="romzarr"`` decodes.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import romzarr
from romzarr.config import CompressionConfig, Config
from romzarr.errors import AccuracyError
from romzarr.numerics.pod.truncation import TREE_SHARE
from romzarr.store.reading.reader import open_store
from tests.oracles import (
    assert_same_but_values,
    chunks_read,
    decaying_matrix,
    decoded_errors,
    fluctuation,
)
from tests.strategies import datasets, seeds

varied = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(autouse=True)
def _one_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def compressed(source: xr.Dataset, folder: Path, **options):
    """Report, and the dataset that comes back."""
    store = folder / "store.romzarr"
    shutil.rmtree(store, ignore_errors=True)
    report = romzarr.compress(source, store, **options)
    return report, xr.open_dataset(store, engine="romzarr")


def codings_of(folder: Path) -> dict[str, str]:
    """How each variable of the store in a folder is coded."""
    variables = romzarr.info(folder / "store.romzarr").variables
    return {name: variable["coding"] for name, variable in variables.items()}


@given(source=datasets(), tolerance=st.sampled_from([0.5, 0.1, 1e-2, 1e-3, 1e-4, 1e-6]))
@settings(varied, max_examples=50)
def test_the_bound_holds_and_the_rest_comes_back_as_it_was(tmp_path, source, tolerance):
    report, decoded = compressed(source, tmp_path, tolerance=tolerance)
    assert_same_but_values(source, decoded)
    for name, error in decoded_errors(source, decoded).items():
        assert error <= report.relative_l2_error[name] <= tolerance, name
    assert report.chunks_read == chunks_read(source, codings_of(tmp_path))


@given(source=datasets(tight=True), tolerance=st.sampled_from([1e-8, 1e-10, 3e-12]))
@settings(varied, max_examples=25)
def test_the_bound_holds_at_the_edge_of_float64(tmp_path, source, tolerance):
    report, decoded = compressed(source, tmp_path, tolerance=tolerance)
    for name, error in decoded_errors(source, decoded).items():
        assert error <= report.relative_l2_error[name] <= tolerance, name


@given(
    rank=st.integers(1, 12), tolerance=st.sampled_from([0.2, 1e-2, 1e-3, 1e-4]),
    noise=st.sampled_from([0.0, 1e-5, 1e-2]), offset=st.sampled_from([0.0, 300.0]),
    dtype=st.sampled_from(["float32", "float64"]), seed=seeds,
)  # fmt: skip
@settings(varied, max_examples=25)
def test_the_error_reported_is_the_error_measured(
    tmp_path, rank, tolerance, noise, offset, dtype, seed
):
    rng = np.random.default_rng(seed)
    rows = 30 * decaying_matrix(rng, 80, 150, 3, rank) + noise * rng.standard_normal((80, 150))
    source = xr.Dataset({"u": (("time", "x"), (offset + rows).astype(dtype))})
    source = source.assign_coords(time=np.arange(80) * 0.1).chunk(time=13, x=60)
    report, decoded = compressed(source, tmp_path, tolerance=tolerance)
    error = decoded_errors(source, decoded)["u"]
    told = report.relative_l2_error["u"]
    assert error <= told <= tolerance
    # A bound, but a close one: what the tree drops may meet what coding misses, and the
    # output may be rounded by half a unit in the last place everywhere.
    last = np.finfo(dtype).eps * np.linalg.norm(offset + rows) / np.linalg.norm(fluctuation(rows))
    assert told <= error + (TREE_SHARE**0.5 + 0.01) * tolerance + last


@given(data=st.data(), tolerance=st.sampled_from([1e-1, 1e-3]), seed=seeds)
@settings(varied, max_examples=15)
def test_the_bound_holds_in_the_weighted_norm(tmp_path, data, tolerance, seed):
    rng = np.random.default_rng(seed)
    lat = np.linspace(-90, 90, 9)
    values = rng.standard_normal((40, 9, 6)) * np.cos(np.deg2rad(lat))[:, None] ** 2
    source = xr.Dataset(
        {"t": (("time", "lat", "lon"), 280 + values, {"units": "K"})},
        {"time": np.arange(40.0), "lat": ("lat", lat, {"units": "degrees_north"})},
    )
    source = source.chunk(time=data.draw(st.integers(1, 40)), lat=data.draw(st.integers(1, 9)))
    report, decoded = compressed(source, tmp_path, tolerance=tolerance, weights="cos(latitude)")
    weights = {"t": np.cos(np.deg2rad(source.lat)).clip(min=0)}
    error = decoded_errors(source, decoded, weights)["t"]
    assert error <= report.relative_l2_error["t"] <= tolerance
    assert report.relative_l2_error["t"] <= error + (TREE_SHARE**0.5 + 0.01) * tolerance


def test_modes_are_orthonormal_in_the_joint_inner_product(tmp_path):
    """Decoded from the store: sum over variables of Phi^T W Phi / ||x - mean||^2 is I but for
    what coding loses, so energies of modes are energies of a(t)."""
    rng = np.random.default_rng(0)
    area, tolerance = rng.random(120), 1e-3
    rows = {
        "u": 5 + decaying_matrix(rng, 60, 120, 4, rank=12),
        "v": 1e4 * (3 + decaying_matrix(rng, 60, 120, 4, rank=12)),
    }
    source = xr.Dataset(
        {name: (("time", "x"), values) for name, values in rows.items()},
        {"time": np.arange(60.0), "area": ("x", area)},
    ).chunk(time=10, x=50)
    report, _ = compressed(source, tmp_path, tolerance=tolerance, weights="area")
    store = open_store(tmp_path / "store.romzarr")
    whole, gram = [], np.zeros((report.rank, report.rank))
    for name, values in rows.items():
        moving = (values - values.mean(axis=0)) * np.sqrt(area)
        norm = np.linalg.norm(moving)
        whole.append(moving / norm)
        phi = store.modes(name).astype(np.float64) * np.sqrt(area) / norm
        gram += phi @ phi.T
        off = (store.mean(name) - values.mean(axis=0)) * np.sqrt(area)
        assert np.linalg.norm(off) <= tolerance * norm / 60**0.5
    sigma = store.last.singular_values
    assert_allclose(
        sigma, np.linalg.svd(np.hstack(whole), compute_uv=False)[: report.rank], rtol=1e-4
    )
    # A mode times its singular value is off by no more than the bound allows in all.
    room = 2 * tolerance * 2**0.5
    assert (np.abs(gram - np.eye(report.rank)) <= room / np.minimum.outer(sigma, sigma)).all()


@pytest.mark.parametrize("scales", [(1e-2, 1.0, 1e6), (1e6, 1e-2, 1.0)])
@pytest.mark.parametrize("step", [1, 7, 60])
def test_variables_of_any_units_keep_the_bound_each(tmp_path, scales, step):
    rng = np.random.default_rng(1)
    source = xr.Dataset(
        {
            name: (("time", "x"), scale * (1 + decaying_matrix(rng, 60, 90, 4)))
            for name, scale in zip("uvw", scales, strict=True)
        },
        {"time": np.arange(60.0)},
    ).chunk(time=step)
    report, decoded = compressed(source, tmp_path, tolerance=1e-2)
    errors = decoded_errors(source, decoded)
    assert max(errors.values()) <= 1e-2
    assert report.chunks_read == chunks_read(source, codings_of(tmp_path))


@pytest.mark.parametrize("unit", [1e-30, 1e25])
def test_extreme_units_in_float32_cost_nothing(tmp_path, unit):
    rng = np.random.default_rng(2)
    values = (unit * decaying_matrix(rng, 50, 80, 2)).astype(np.float32)
    source = xr.Dataset({"u": (("time", "x"), values)}, {"time": np.arange(50.0)})
    ordinary = source / np.float32(unit)
    for tolerance in (1e-1, 1e-2, 1e-4):
        report, decoded = compressed(source, tmp_path, tolerance=tolerance)
        assert decoded_errors(source, decoded)["u"] <= tolerance
        assert abs(report.rank - compressed(ordinary, tmp_path, tolerance=tolerance)[0].rank) <= 1


@given(source=datasets(), data=st.data())
@settings(varied, max_examples=15)
def test_the_chunk_grid_of_the_archive_decides_nothing(tmp_path, source, data):
    """Same rank and same errors from one chunk and from the grid that was drawn."""
    tolerance = data.draw(st.sampled_from([0.3, 1e-2]))
    one, _ = compressed(source.compute(), tmp_path, tolerance=tolerance)
    grid, _ = compressed(source, tmp_path, tolerance=tolerance)
    # Cuts fall on either side of an energy that is nearly the bound.
    assert abs(one.rank - grid.rank) <= 1 + 0.02 * one.rank


def test_max_rank_refuses_what_it_cannot_hold(tmp_path):
    rng = np.random.default_rng(0)
    source = xr.Dataset(
        {"u": (("time", "x"), rng.standard_normal((40, 30)))}, {"time": np.arange(40.0)}
    )
    config = Config(compression=CompressionConfig(tolerance=1e-2, max_rank=5))
    with pytest.raises(AccuracyError, match=r"'u'.*needs \d+ modes.*max_rank is 5"):
        compressed(source, tmp_path, config=config)
    assert list(tmp_path.iterdir()) == []

"""Values that are missing at some times, infinite, or undeclared fill values: kept exactly, and
the bound holds for all others."""

from __future__ import annotations

import re
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import romzarr
from romzarr.coding.fill import fill_gaps
from romzarr.compression import survey as survey_module
from romzarr.compression import write_archive as write_archive_module
from romzarr.contracts import Coding
from romzarr.errors import ArchiveError, GapsError
from romzarr.inner_product import InnerProduct
from romzarr.numerics.gaps import codes_from, fill_value_in, runs_of, special_values
from romzarr.numerics.moments import MomentsWithGaps
from romzarr.operations import estimate as estimate_module
from romzarr.store.reading.reader import open_store
from tests.strategies import grids, seeds


@pytest.fixture(autouse=True)
def _one_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


# --- an oracle ----------------------------------------------------------------------------


def relative_error(
    values: np.ndarray, decoded: np.ndarray, present: np.ndarray, weights: np.ndarray | None = None
) -> float:
    """Of the numbers alone, about the mean of the numbers of each point, time first."""
    rows, there = (each.reshape(len(values), -1) for each in (values, present))
    rows = np.where(there, rows, 0.0).astype(np.float64)
    errors = np.where(there, rows - decoded.reshape(rows.shape), 0.0)
    # About some number of each point first: means may dwarf the fluctuation.
    rows = rows - rows[np.argmax(there, axis=0), np.arange(rows.shape[1])]
    mean = np.where(there, rows, 0.0).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
    about = np.where(there, rows - mean, 0.0)
    weights = np.ones(rows.shape[1]) if weights is None else weights.ravel()
    error, fluctuation = (float(np.sqrt((x**2 * weights).sum())) for x in (errors, about))
    return error / fluctuation if fluctuation else float(error > 0)


def waves(rng: np.random.Generator, m: int, shape: tuple[int, ...], noise: float) -> np.ndarray:
    t = 0.2 * np.arange(m).reshape(-1, *(1 for _ in shape))
    grids_ = np.meshgrid(*(np.linspace(0, 2, n) for n in shape), indexing="ij")
    phase = sum((k + 1) * g for k, g in enumerate(grids_))
    field = np.sin(phase - t) + 0.3 * np.sin(2 * phase + 3 * t)
    return field + noise * rng.standard_normal(field.shape)


def checked(
    ds: xr.Dataset, present: dict[str, np.ndarray], folder: Path, tolerance: float, **settings_
) -> tuple[romzarr.CompressionReport, xr.Dataset]:
    """Compress, and check all that is promised; time first."""
    report = romzarr.compress(ds, folder / "s.romzarr", tolerance=tolerance, **settings_)
    decoded = xr.open_dataset(folder / "s.romzarr", engine="romzarr").load()
    for name, where in present.items():
        x, y = ds[name].values, decoded[name].values
        assert y.dtype == x.dtype
        np.testing.assert_array_equal(y[~where], x[~where])
        assert relative_error(x, y, where) <= tolerance
    return report, decoded


# --- everything that can stand in a gap ----------------------------------------------------

SPECIAL = {"missing": np.nan, "inf": np.inf, "-inf": -np.inf, "fill": 9.96921e36, "nines": -9999.0}


@st.composite
def gappy(draw: st.DrawFn):
    """Values (m, *space), where they are numbers, and chunks."""
    rng = np.random.default_rng(draw(seeds))
    shape = draw(st.sampled_from([(6,), (5, 7), (3, 4, 5), ()]))
    m = draw(st.sampled_from([5, 17, 40]))
    dtype = np.dtype(draw(st.sampled_from(["<f4", ">f4", "<f8", "<f2"])))
    values = waves(rng, m, shape, draw(st.sampled_from([0.0, 0.1]))) + draw(
        st.sampled_from([0.0, 100.0])
    )
    values, gaps = values.astype(dtype), np.zeros(values.shape, bool)
    kinds = draw(st.lists(st.sampled_from(sorted(SPECIAL)), max_size=2, unique=True))
    for kind in kinds:
        if dtype.itemsize == 2 and kind == "fill":
            continue
        how = draw(st.sampled_from(["one", "some", "snapshot", "point", "always", "half"]))
        there = np.zeros(values.shape, bool)
        if how == "one":
            there.flat[rng.integers(values.size)] = True
        elif how == "some":
            there = rng.random(values.shape) < 0.2
        elif how == "snapshot":
            there[rng.integers(m)] = True
        elif how == "half":
            there[: m // 2] = True
        else:
            place = tuple(int(rng.integers(n)) for n in shape)
            there[(slice(None) if how == "always" else slice(m // 3, None), *place)] = True
        values[there], gaps = SPECIAL[kind], gaps | there
    return values, ~gaps, draw(grids(values.shape))


@given(case=gappy(), tolerance=st.sampled_from([0.3, 1e-2, 1e-4]), max_error=st.booleans())
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_gaps_are_kept_exactly_and_numbers_within_the_bound(
    case, tolerance, max_error, tmp_path_factory
):
    values, present, chunks = case
    if values.dtype.itemsize == 2 and tolerance < 1e-3:
        tolerance = 1e-2
    dims = ("time", "z", "y", "x")[: values.ndim]
    ds = xr.Dataset({"u": (dims, values)}, {"time": np.arange(len(values)) * 1.0})
    bounds = {"max_error": {"u": 0.5}} if max_error else {}
    folder = tmp_path_factory.mktemp("gaps")
    chunked = ds.chunk(dict(zip(dims, chunks, strict=True)))
    _, decoded = checked(chunked, {"u": present}, folder, tolerance, **bounds)
    if max_error:
        with np.errstate(invalid="ignore"):
            off = np.abs(decoded.u.values.astype(float) - values.astype(float))
        assert off[present].max(initial=0.0) <= 0.5
    found = romzarr.verify(folder / "s.romzarr", ds)
    assert found.ok, found.problems
    error = relative_error(values, decoded.u.values, present)
    assert found.relative_l2_error["u"] == pytest.approx(error, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("tolerance", [0.1, 1e-3])
def test_selections_of_a_store_with_gaps(tmp_path, tolerance):
    rng = np.random.default_rng(1)
    values = waves(rng, 30, (6, 8), 0.05).astype("f4")
    values[rng.random(values.shape) < 0.1] = np.nan
    values[:, 5, 7] = np.nan
    values[3, 2:4] = np.inf
    ds = xr.Dataset({"u": (("time", "y", "x"), values)})
    romzarr.compress(ds, tmp_path / "s", tolerance=tolerance)
    lazy = xr.open_dataset(tmp_path / "s", engine="romzarr").u
    whole = lazy.copy(data=lazy.values)
    for _ in range(40):
        t, y, x = (
            rng.integers(n, size=3)
            if rng.random() < 0.5
            else slice(*sorted(rng.integers(n, size=2)))
            for n in values.shape
        )
        part = lazy.isel(time=t, y=y, x=x).values
        np.testing.assert_array_equal(
            part, xr.DataArray(whole, dims=lazy.dims).isel(time=t, y=y, x=x)
        )
    np.testing.assert_array_equal(lazy[3, 2, 1].values, np.inf)


# --- what gaps cost ------------------------------------------------------------------------


def stored_bytes(values: np.ndarray, folder: Path, tolerance: float) -> int:
    ds = xr.Dataset({"u": (("time", "y", "x"), values)})
    # Not in place of another one, which a store remembers for a while.
    place = folder / f"{len(list(folder.iterdir()))}.romzarr"
    return romzarr.compress(ds, place, tolerance=tolerance).stored_bytes


@pytest.mark.parametrize("tolerance", [1e-1, 1e-2])
def test_one_lost_sample_costs_less_than_a_hundred_bytes(tmp_path, tolerance):
    values = waves(np.random.default_rng(2), 150, (40, 50), 0.02).astype("f4")
    whole, more = stored_bytes(values, tmp_path, tolerance), []
    for place in [(77, 11, 13), (0, 0, 0), (140, 39, 20)]:
        lost = values.copy()
        lost[place] = np.nan
        more.append(stored_bytes(lost, tmp_path, tolerance) - whole)
    # What coded values take changes by chance.
    assert np.mean(more) < 100


@pytest.mark.parametrize("tolerance", [1e-1, 1e-2])
def test_a_missing_snapshot_hardly_costs_anything(tmp_path, tolerance):
    values = waves(np.random.default_rng(2), 150, (40, 50), 0.0).astype("f4")
    whole = stored_bytes(values, tmp_path, tolerance)
    values[77] = np.nan
    assert stored_bytes(values, tmp_path, tolerance) < 1.15 * whole + 100


@pytest.mark.parametrize(("tolerance", "noise"), [(1e-1, 0.5), (1e-2, 0.05)])
def test_a_moving_edge_takes_little_more_than_a_fixed_one(tmp_path, tolerance, noise):
    """Where values, and not metadata, are most of a store: there is noise to be kept."""
    values = waves(np.random.default_rng(3), 120, (40, 50), noise).astype("f4")
    y, t = np.arange(40)[None, :, None], np.arange(120)[:, None, None]
    moving = np.where(y > 20 + 6 * np.sin(0.1 * t), values, np.nan)
    fixed = np.where((y > 20) & (t >= 0), values, np.nan)
    least = stored_bytes(fixed.astype("f4"), tmp_path, tolerance)
    assert stored_bytes(moving.astype("f4"), tmp_path, tolerance) < 1.3 * least


def test_errors_count_where_numbers_are_alone(tmp_path):
    """What is put into gaps is coded too, and its error would take a third of the bound here."""
    rng = np.random.default_rng(8)
    gaps = rng.random((60, 16, 20)) < 0.3
    values = np.where(gaps, np.nan, waves(rng, 60, (16, 20), 0.1))
    source = xr.Dataset({"u": (("time", "y", "x"), values)})
    _, decoded = checked(source, {"u": ~gaps}, tmp_path, 1e-2)
    assert relative_error(values, decoded.u.values, ~gaps) >= 0.98e-2


def test_variables_with_the_same_gaps_share_their_codes(tmp_path):
    rng = np.random.default_rng(4)
    gaps = rng.random((40, 20, 20)) < 0.3
    u, v = (np.where(gaps, np.nan, waves(rng, 40, (20, 20), 0.1)) for _ in range(2))
    other = np.where(gaps[::-1], np.nan, u)
    data = {"u": u, "v": v.astype("f4"), "w": other}
    ds = xr.Dataset({k: (("time", "y", "x"), x) for k, x in data.items()})
    checked(ds, {"u": ~gaps, "v": ~gaps, "w": ~np.isnan(other)}, tmp_path, 1e-2)
    arrays = open_store(tmp_path / "s.romzarr").last.arrays.layouts
    assert [p for p in arrays if p.endswith("/gaps")] == ["basis/u/gaps", "basis/w/gaps"]


def test_what_never_has_a_number_is_a_mask_and_no_gap(tmp_path):
    values = waves(np.random.default_rng(5), 30, (6, 8), 0.1)
    values[:, 2:, 3] = np.nan
    ds = xr.Dataset({"u": (("time", "y", "x"), values)})
    checked(ds, {"u": ~np.isnan(values)}, tmp_path, 1e-2)
    assert "gaps" not in open_store(tmp_path / "s.romzarr").facts["variables"]["u"]


def test_land_that_holds_a_fill_value_is_a_mask(tmp_path):
    values = waves(np.random.default_rng(5), 60, (10, 12), 0.1)
    land = np.zeros((10, 12), bool)
    land[3:7, 2:9] = True
    least = stored_bytes(np.where(land, np.nan, values), tmp_path, 1e-2)
    assert stored_bytes(np.where(land, 1e20, values), tmp_path, 1e-2) < least + 100


# --- by every way of coding, and beside it -------------------------------------------------


@pytest.mark.parametrize("least_bytes", [0, 1 << 40])
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_large_and_small_archives(tmp_path, monkeypatch, least_bytes, noise):
    for module in (survey_module, write_archive_module, estimate_module):
        monkeypatch.setattr(module, "LEAST_BYTES", least_bytes)
    rng = np.random.default_rng(6)
    values = waves(rng, 200, (16, 18), noise)
    values[rng.random(values.shape) < 0.02] = np.nan
    ds = xr.Dataset({"u": (("time", "y", "x"), values)}).chunk(time=40)
    report, _ = checked(ds, {"u": ~np.isnan(values)}, tmp_path, 1e-2)
    (found,) = romzarr.estimate(ds, tolerances=[1e-2]).estimates
    # What stands in gaps counts in estimates; without noise it is most that modes leave.
    assert report.stored_bytes <= 1.15 * found.stored_bytes
    if noise:
        assert found.stored_bytes == pytest.approx(report.stored_bytes, rel=0.15)


def test_weights_count_where_there_are_numbers(tmp_path):
    rng = np.random.default_rng(7)
    values = waves(rng, 50, (9, 12), 0.1)
    values[rng.random(values.shape) < 0.1] = np.nan
    lat = np.linspace(-80, 80, 9)
    ds = xr.Dataset({"u": (("time", "lat", "lon"), values)}, {"lat": ("lat", lat)})
    romzarr.compress(ds, tmp_path / "s", tolerance=1e-2, weights="cos(latitude)")
    decoded = xr.open_dataset(tmp_path / "s", engine="romzarr").u.values
    weights = np.broadcast_to(np.cos(np.deg2rad(lat))[:, None], (9, 12))
    error = relative_error(values, decoded, ~np.isnan(values), weights)
    assert error <= 1e-2
    found = romzarr.verify(tmp_path / "s", ds)
    assert found.ok
    assert found.relative_l2_error["u"] == pytest.approx(error, rel=1e-6)


def test_a_constant_with_gaps_is_exact(tmp_path):
    values = np.broadcast_to(np.linspace(0, 1, 12) / 3, (20, 12)).copy()
    values[3:9, 4] = np.nan
    values[11] = np.nan
    ds = xr.Dataset({"u": (("time", "x"), values), "v": (("time", "x"), values[:, ::-1] + 1)})
    _, decoded = checked(ds, {"u": ~np.isnan(values)}, tmp_path, 1e-2)
    np.testing.assert_array_equal(decoded.u.values, values)
    assert open_store(tmp_path / "s.romzarr").variables["u"].coding == Coding.CONSTANT


@pytest.mark.parametrize("chunk", [1, 10, 30])
@pytest.mark.parametrize("fill", [-999.0, 1e20])
def test_chunks_of_nothing_but_fill_values_are_gaps(tmp_path, chunk, fill):
    """Snapshots that were lost, and a variable that was never written."""
    values = waves(np.random.default_rng(9), 60, (6, 8), 0.1)
    values[20:40] = fill
    ds = xr.Dataset(
        {"u": (("time", "y", "x"), values), "v": (("time", "y", "x"), np.full((60, 6, 8), fill))}
    )
    checked(ds.chunk(time=chunk), {"u": values != fill}, tmp_path, 1e-2)
    decoded = xr.open_dataset(tmp_path / "s.romzarr", engine="romzarr")
    np.testing.assert_array_equal(decoded.v, ds.v)
    assert romzarr.verify(tmp_path / "s.romzarr", ds).ok


def test_reconstruct_gives_gaps_back(tmp_path):
    rng = np.random.default_rng(8)
    values = waves(rng, 30, (6, 8), 0.1)
    values[rng.random(values.shape) < 0.1] = np.nan
    ds = xr.Dataset({"u": (("time", "y", "x"), values)})
    romzarr.compress(ds, tmp_path / "s", tolerance=1e-2)
    romzarr.reconstruct(tmp_path / "s", tmp_path / "out.zarr")
    found = xr.open_zarr(tmp_path / "out.zarr", consolidated=False).u.values
    np.testing.assert_array_equal(np.isnan(found), np.isnan(values))


def test_an_archive_whose_gaps_moved_is_found_out(tmp_path):
    values = waves(np.random.default_rng(9), 30, (6, 8), 0.1)
    values[7, 2, 3], values[8, 2, 3] = np.nan, np.inf
    ds = xr.Dataset({"u": (("time", "y", "x"), values)})
    romzarr.compress(ds, tmp_path / "s", tolerance=1e-2)
    for place, value in [((7, 2, 3), 1.0), ((8, 2, 3), -np.inf), ((9, 1, 1), np.nan)]:
        other = values.copy()
        other[place] = value
        found = romzarr.verify(tmp_path / "s", ds.assign(u=(ds.u.dims, other)))
        assert not found.ok
        assert re.search(r"the value differs at time=\d", found.problems[0])


# --- archives that grow --------------------------------------------------------------------


def growing(seed: int) -> tuple[xr.Dataset, np.ndarray]:
    """Waves whose gaps begin after snapshot 40: ice, a lost snapshot, and a fill value."""
    values = waves(np.random.default_rng(seed), 90, (8, 10), 0.02)
    gaps = np.zeros(values.shape, bool)
    y, t = np.arange(8)[:, None], np.arange(90)[:, None, None]
    gaps[40:] = (y > 5 + 2 * np.sin(0.2 * t[40:])) | (t[40:] == 61)
    values[gaps] = np.nan
    values[70, 0, 0], gaps[70, 0, 0] = -9999, True
    ds = xr.Dataset({"u": (("time", "y", "x"), values)}, {"time": np.arange(90.0)})
    return ds, ~gaps


@pytest.mark.parametrize("lengths", [(40, 90), (35, 50, 51, 90), (60, 61, 75, 76, 90), (3, 90)])
@pytest.mark.parametrize("chunk", [7, 30])
def test_gaps_may_be_appended(tmp_path, lengths, chunk):
    ds, present = growing(sum(lengths))
    ds = ds.chunk(time=chunk, y=5)
    first, *others = lengths
    romzarr.compress(ds.isel(time=slice(first)), tmp_path / "s", tolerance=1e-2)
    for length in others:
        now = ds.isel(time=slice(length))
        report = romzarr.append(tmp_path / "s", now)
        decoded = xr.open_dataset(tmp_path / "s", engine="romzarr").u.values
        values, there = now.u.values, present[:length]
        np.testing.assert_array_equal(decoded[~there], values[~there])
        error = relative_error(values, decoded, there)
        assert error <= report.relative_l2_error["u"] * (1 + 1e-6) <= 1e-2 * (1 + 1e-6)
        assert report.snapshots == length
        assert romzarr.verify(tmp_path / "s", now).ok
    assert romzarr.info(tmp_path / "s").raw_bytes == ds.nbytes


@pytest.mark.parametrize("lengths", [(3, 45, 90), (40, 62, 63, 90)])
def test_constants_are_appended_beside_gaps(tmp_path, lengths):
    ds, _ = growing(5)
    ds = ds.assign(steady=(ds.u.dims, np.broadcast_to(np.linspace(0, 1, 10), ds.u.shape)))
    for number, length in enumerate(lengths):
        now = ds.isel(time=slice(length))
        if number:
            romzarr.append(tmp_path / "s", now)
        else:
            romzarr.compress(now, tmp_path / "s", tolerance=1e-2)
        assert romzarr.verify(tmp_path / "s", now).ok
    decoded = xr.open_dataset(tmp_path / "s", engine="romzarr")
    np.testing.assert_array_equal(decoded.steady, ds.steady)


def test_a_stream_that_takes_no_gaps_stays_at_its_last_commit(tmp_path):
    ds, _ = growing(1)
    stream = romzarr.StreamCompressor(tmp_path / "s", tolerance=1e-2, commit_steps=20, gaps=False)
    stream.update(ds.isel(time=slice(40)))
    with pytest.raises(GapsError, match="values are missing that were not before"):
        stream.update(ds.isel(time=slice(40, 80)))
    assert xr.open_dataset(tmp_path / "s", engine="romzarr").sizes["time"] == 40
    with pytest.raises(ArchiveError, match="no floating-point variable"):
        romzarr.StreamCompressor(tmp_path / "t").update(ds.fillna(0).astype("i4"))


# --- pieces --------------------------------------------------------------------------------


@given(seed=seeds, m=st.integers(1, 6), n=st.integers(1, 9), share=st.sampled_from([0.0, 0.1, 0.6]))
def test_runs_are_the_codes_of_all_but_masked_points(seed, m, n, share):
    rng = np.random.default_rng(seed)
    masked = rng.random(n) < 0.3
    codes = np.where(rng.random((m, n)) < share, rng.integers(1, 3, (m, n)), 0).astype(np.uint8)
    codes[:, masked] = 0
    positions = rng.permutation(np.flatnonzero(codes))
    runs = runs_of(positions, codes.ravel()[positions], masked, masked_code=2)
    found = np.array([codes_from(runs, row, n) for row in range(m)])
    np.testing.assert_array_equal(found[:, ~masked], codes[:, ~masked])
    assert set(found[:, masked].ravel()) <= {0, 2}
    assert (runs[1:, 0] >= runs[:-1, 0] + runs[:-1, 1]).all()


def test_a_snapshot_that_is_missing_is_one_run_across_masked_points():
    masked = np.array([True, False, False, True, True, False])
    positions = 6 * 3 + np.flatnonzero(~masked)
    runs = runs_of(positions, np.ones(3, np.uint8), masked)
    np.testing.assert_array_equal(runs, [[19, 5, 1]])


@given(seed=seeds, parts=st.integers(1, 4), share=st.sampled_from([0.0, 0.3, 0.9]))
def test_moments_with_gaps_join_to_those_of_all(seed, parts, share):
    rng = np.random.default_rng(seed)
    values = 1e6 + rng.standard_normal((12, 5))
    present = rng.random(values.shape) >= share
    inner = InnerProduct(rng.uniform(0, 2, 5))
    pieces = [
        MomentsWithGaps.of(np.where(p, v, np.nan), p, inner)
        for v, p in zip(np.array_split(values, parts), np.array_split(present, parts), strict=True)
    ]
    found = pieces[0]
    for piece in pieces[1:]:
        found = found.joined(piece)
    exact = np.ma.array(values, mask=~present)
    np.testing.assert_array_equal(found.counts, present.sum(axis=0))
    np.testing.assert_allclose(found.mean, exact.mean(axis=0).filled(0), rtol=1e-12)
    square = (((exact - exact.mean(axis=0)) ** 2).filled(0) * inner.weights).sum()
    assert found.square == pytest.approx(square, rel=1e-6, abs=1e-6)


@given(seed=seeds, shape=st.sampled_from([(9,), (7, 5), (6, 4, 5), (1, 8)]))
def test_gaps_are_filled_between_what_is_there(seed, shape):
    rng = np.random.default_rng(seed)
    values, present = rng.standard_normal(shape), rng.random(shape) < 0.6
    found = fill_gaps(np.where(present, values, np.nan), present)
    np.testing.assert_array_equal(found[present], values[present])
    if present.any():
        assert found.min() >= values[present].min() - 1e-12
        assert found.max() <= values[present].max() + 1e-12
    else:
        assert not found.any()


def test_a_missing_snapshot_lies_between_those_around_it():
    t, x = np.arange(64)[:, None], np.linspace(0, 6, 50)
    values = np.sin(4 * x) * np.cos(0.05 * t) + np.cos(7 * x) * np.sin(0.05 * t)
    present = np.ones(values.shape, bool)
    present[30] = False
    found = fill_gaps(values, present)
    both = np.linalg.lstsq(values[[27, 28, 29, 31, 32, 33]].T, found[30], rcond=None)[0]
    np.testing.assert_allclose(both @ values[[27, 28, 29, 31, 32, 33]], found[30], atol=1e-9)
    assert np.abs(found[30] - values[30]).max() < 0.1


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_fill_values_are_those_that_stand_out(dtype):
    values = np.linspace(-3, 5, 40).astype(dtype)
    assert fill_value_in(values) is None
    nines = np.array([-9999], dtype)
    assert fill_value_in(np.append(values, nines)) == nines[0]
    # Among others like them they are numbers.
    assert fill_value_in(np.linspace(-999, 999, 50).astype(dtype)) is None
    assert fill_value_in(np.full(5, -999, dtype)) == -999
    assert fill_value_in(np.append(values, np.array([np.nan], dtype))) is None
    assert np.isnan(special_values(np.dtype(dtype))[0])

"""Variables coded straight from their chunks: the bound holds, and each chunk is coded once."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import romzarr
from romzarr.archive import open_archive
from romzarr.chunked import values as chunked_values
from romzarr.chunked.values import values_tile
from romzarr.coding.tiles import code_values
from romzarr.compression import survey, write_archive
from romzarr.compression.values import _batches
from romzarr.contracts import ArchivedVariable
from romzarr.inner_product import InnerProduct
from romzarr.numerics.moments import Moments
from tests.benchmarks.measure import ROOT
from tests.oracles import assert_same_but_values, decoded_errors
from tests.strategies import chunkings, seeds
from tests.test_direct import compressed, noise, noisy, varied, waves


@pytest.fixture(autouse=True)
def _one_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def surveyed(monkeypatch):
    """Small archives are surveyed as large ones are."""
    monkeypatch.setattr(write_archive, "LEAST_BYTES", 0)


@pytest.fixture
def always(surveyed, monkeypatch):
    """No POD, whatever the survey says."""
    monkeypatch.setattr(survey, "DEAR", 0.0)
    monkeypatch.setattr(survey, "RIDING", 0.0)


@given(
    source=noisy(),
    tolerance=st.sampled_from([0.3, 1e-1, 1e-2, 1e-3]),
    most=st.sampled_from([1 << 20, 1000, 150]),
)
@varied
def test_the_bound_holds_for_noise_of_any_shape(always, tmp_path, source, tolerance, most):
    """Of any dtype, mask and chunk grid, in one tile and in many; the error is told exactly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked_values, "MOST_VALUES", most)
        patch.setattr(chunked_values, "ENOUGH_VALUES", most // 2)
        patch.setattr(chunked_values, "USUAL", 8)
        report, codings, decoded = compressed(source, tmp_path, tolerance=tolerance)
    assert_same_but_values(source, decoded)
    for name, error in decoded_errors(source, decoded).items():
        # Where rounding matters POD knows more.
        assert codings[name] == "direct" or source[name].dtype.itemsize == 4
        assert error <= report.relative_l2_error[name] * (1 + 1e-7), (name, codings)
        assert report.relative_l2_error[name] <= tolerance
    assert romzarr.verify(tmp_path / "store.romzarr", source).ok


def red_noise(rng: np.random.Generator, snapshots: int, side: int, memory: float) -> np.ndarray:
    """Noise that is red in time and space."""
    wave = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]) * side
    wave[0, 0] = 1
    kept = memory**wave**0.67
    state, fields = rng.standard_normal(wave.shape) + 0j, []
    for _ in range(snapshots):
        new = rng.standard_normal(wave.shape) + 1j * rng.standard_normal(wave.shape)
        state = kept * state + np.sqrt(1 - kept**2) * new
        fields.append(np.fft.irfft2(state * wave**-2.0, s=(side, side)))
    return np.array(fields, np.float32)


def test_noise_never_goes_through_a_pod_and_waves_do(surveyed, tmp_path, monkeypatch):
    """Each variable by itself: what is left for POD has the modes that it has alone."""
    rng = np.random.default_rng(1)
    rough = red_noise(rng, 512, 24, 0.9)
    smooth = waves({"time": 512, "x": 80})
    source = xr.Dataset(
        {"rough": (("time", "y", "x"), rough), "smooth": smooth.rename(x="z")},
        {"time": np.arange(512) * 0.1},
    ).chunk(time=32)
    seen, factor = [], write_archive.factor_archive

    def watched(archive, *args):
        seen.extend(variable.name for variable in archive.variables)
        return factor(archive, *args)

    monkeypatch.setattr(write_archive, "factor_archive", watched)
    report, codings, decoded = compressed(source, tmp_path, tolerance=1e-2)
    assert codings == {"rough": "direct", "smooth": "pod"}
    assert (seen, report.rank) == (["smooth"], 2)
    assert max(decoded_errors(source, decoded).values()) <= 1e-2
    assert list(decoded.data_vars) == ["rough", "smooth"]
    assert romzarr.verify(tmp_path / "store.romzarr", source).ok


def test_single_values_of_other_variables_keep_their_bound(surveyed, tmp_path):
    rng = np.random.default_rng(2)
    source = xr.Dataset(
        {
            "rough": (("time", "y", "x"), red_noise(rng, 512, 24, 0.9)),
            "smooth": waves({"time": 512, "x": 80}).rename(x="z"),
        },
        {"time": np.arange(512) * 0.1},
    ).chunk(time=32)
    _, codings, decoded = compressed(source, tmp_path, tolerance=1e-2, max_error={"smooth": 1e-3})
    assert codings == {"rough": "direct", "smooth": "pod"}
    assert float(abs(source.smooth - decoded.smooth).max()) <= 1e-3
    assert max(decoded_errors(source, decoded).values()) <= 1e-2


@pytest.mark.parametrize("tolerance", [1e-1, 1e-2, 1e-3])
def test_bytes_are_those_of_the_best_step(always, tmp_path, tolerance):
    """Within 3 % of the tiles coded with the one step that just meets the bound."""
    rng = np.random.default_rng(2)
    values = (
        red_noise(rng, 1024, 32, 0.95) * np.linspace(0.5, 2, 1024, dtype=np.float32)[:, None, None]
    )
    source = xr.Dataset({"u": (("time", "y", "x"), values)}).chunk(time=32)
    compressed(source, tmp_path, tolerance=tolerance)
    spent = romzarr.info(tmp_path / "store.romzarr").bytes_by_part["basis"]
    allowed = tolerance**2 * np.sum((values - values.mean(0, dtype=float)) ** 2)
    tile = values_tile(open_archive(source).variables[0])[0]

    def coded(step: float) -> tuple[int, float]:
        parts = [values[i : i + tile] for i in range(0, len(values), tile)]
        found = [code_values(part, part.shape, step, np.dtype("f4")) for part in parts]
        lost = sum(
            np.sum((part - out).astype(float) ** 2)
            for part, (_, out) in zip(parts, found, strict=True)
        )
        return sum(len(content) for content, _ in found), lost

    low, high = 1e-6, 10.0
    for _ in range(30):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if coded(middle)[1] <= allowed else (low, middle)
    best, _ = coded(low)
    assert spent <= 1.03 * best + 60 * (len(values) // tile) + 600


@pytest.mark.parametrize("wrong_by", [0.2, 3.0, 1e4])
def test_tiles_are_coded_anew_where_the_bound_is_missed(always, tmp_path, monkeypatch, wrong_by):
    """A survey that is wrong by far."""
    source = noise(np.random.default_rng(0), {"time": 256, "x": 40}, ("time", "x")).to_dataset()
    source = source.chunk(time=16)
    real = survey._at_tolerance

    def wrong(*args):
        found = real(*args)
        coding = replace(found.plan.coding, step=wrong_by * found.plan.coding.step)
        return replace(found, plan=replace(found.plan, coding=coding))

    monkeypatch.setattr(survey, "_at_tolerance", wrong)
    report, codings, decoded = compressed(source, tmp_path, tolerance=1e-2)
    assert codings == {"u": "direct"}
    assert decoded_errors(source, decoded)["u"] <= report.relative_l2_error["u"] <= 1e-2


@pytest.mark.parametrize("dims", [("time", "y", "x"), ("y", "time", "x")])
@pytest.mark.parametrize("what", [np.nan, np.inf, "back"])
def test_gaps_that_no_sample_has_seen_are_kept(always, tmp_path, dims, what):
    values = noise(np.random.default_rng(3), {"time": 200, "y": 6, "x": 10}, ("time", "y", "x"))
    if what == "back":
        values[:, 2, 3] = np.nan
    # Several at once, the earliest neither in the first block that is coded nor the last.
    values[{"time": slice(83, 190), "y": 2, "x": 3}] = 1.0 if what == "back" else what
    source = values.transpose(*dims).to_dataset().assign_coords(time=np.arange(200.0))
    source = source.chunk({"time": 20, dims[2]: 5})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(survey, "BLOCKS", 4)
        _, codings, decoded = compressed(source, tmp_path, tolerance=1e-2)
    assert codings == {"u": "direct"}
    found = decoded.u.transpose("time", "y", "x").values[:, 2, 3]
    gone = np.isfinite(found) if what == "back" else ~np.isfinite(found)
    np.testing.assert_array_equal(np.flatnonzero(gone), np.arange(83, 190))
    assert np.isfinite(np.delete(decoded.u.transpose("time", ...).values[:, 2], 3, axis=1)).all()


@pytest.mark.parametrize("quiet", [np.nan, 1e-5])
def test_a_sample_of_land_says_nothing_of_the_sea(always, tmp_path, monkeypatch, quiet):
    """No step is taken from it, and nothing is coded over and over."""
    rng = np.random.default_rng(5)
    values = red_noise(rng, 128, 48, 0.9)
    values[:, 12:36, 12:36] *= quiet
    source = xr.Dataset({"u": (("time", "y", "x"), values)}, {"time": np.arange(128.0)})
    monkeypatch.setattr(survey, "VALUES", 4 * 32 * 20 * 20)
    source = source.chunk(time=32)
    assert not survey.survey(open_archive(source), [1e-2], [0])
    report, _, decoded = compressed(source, tmp_path, tolerance=1e-2)
    assert decoded_errors(source, decoded)["u"] <= report.relative_l2_error["u"] <= 1e-2
    assert report.chunks_read <= 2 * 4


@pytest.mark.parametrize("snapshots", [200, 222, 260])
def test_a_last_block_may_be_shorter_than_the_others(always, tmp_path, monkeypatch, snapshots):
    """Runs of the survey are of the same place all the same."""
    monkeypatch.setattr(survey, "VALUES", 1 << 14)
    rows = red_noise(np.random.default_rng(5), snapshots, 24, 0.9)
    source = xr.Dataset({"u": (("time", "y", "x"), rows)}).chunk(time=60)
    report, codings, decoded = compressed(source, tmp_path, tolerance=1e-2)
    assert codings == {"u": "direct"}
    assert decoded_errors(source, decoded)["u"] <= report.relative_l2_error["u"] <= 1e-2


def test_masks_that_are_alike_are_stored_once(always, tmp_path):
    rng = np.random.default_rng(4)
    sizes = {"time": 64, "y": 12, "x": 16}
    land = noise(rng, sizes, ("y", "x")) > 0
    source = xr.Dataset({name: noise(rng, sizes, ("time", "y", "x")) for name in "abc"})
    source["a"], source["b"] = source.a.where(land), source.b.where(land)
    _, _, decoded = compressed(source.chunk(time=16), tmp_path, tolerance=1e-2)
    decoded_errors(source, decoded)
    assert len(list((tmp_path / "store.romzarr").glob("2*/basis/*/mask"))) == 1


@given(data=st.data(), shape=st.tuples(st.integers(1, 300), st.integers(1, 40), st.integers(1, 40)))
def test_tiles_are_coded_once_and_fit_the_chunks(data, shape):
    """Batches hold every place along time once; regular chunks are whole tiles, or these them."""
    chunks = tuple(data.draw(chunkings(n, 6)) for n in shape)
    variable = ArchivedVariable(
        "u",
        ("t", "y", "x"),
        shape,
        np.dtype("f4"),
        chunks,
        0,
        source=None,  # type: ignore[arg-type]
    )
    tile = values_tile(variable)
    places = [place for batch in _batches(variable, tile) for place in batch]
    assert sorted(places) == list(range(-(-shape[0] // tile[0])))
    assert math.prod(tile) <= chunked_values.MOST_VALUES


@pytest.mark.parametrize(
    ("shape", "chunk", "tile"),
    [
        ((1000, 256, 256), (50, 256, 256), (50, 256, 256)),
        ((365, 721, 1440), (1, 721, 1440), (16, 244, 720)),
        ((8760, 100, 100), (1000, 50, 50), (500, 50, 50)),
        ((4000, 64, 64), (365, 64, 64), (365, 64, 64)),
        ((128, 17, 2048, 2048), (1, 1, 2048, 2048), (4, 1, 1024, 1024)),
    ],
)
def test_tiles_have_some_dozens_of_snapshots(shape, chunk, tile):
    chunks = tuple(
        (c,) * (n // c) + ((n % c,) if n % c else ()) for n, c in zip(shape, chunk, strict=True)
    )
    dims = tuple("tzyx"[-len(shape) :]) if len(shape) < 4 else tuple("tzyx")
    variable = ArchivedVariable("u", dims, shape, np.dtype("f4"), chunks, 0, source=None)  # type: ignore[arg-type]
    assert values_tile(variable) == tile


@given(
    seed=seeds,
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    offset=st.sampled_from([0, 1e6]),
)
def test_moments_of_blocks_are_those_of_the_whole(seed, lengths, offset):
    rng = np.random.default_rng(seed)
    values = offset + rng.standard_normal((sum(lengths), 5))
    inner = InnerProduct(rng.uniform(0, 2, 5))
    parts = np.split(values, np.cumsum(lengths)[:-1])
    found = Moments.of(parts[0].copy(), inner)
    for part in parts[1:]:
        found = found.joined(Moments.of(part.copy(), inner))
    square = np.sum(inner.weights * (values - values.mean(axis=0)) ** 2)
    np.testing.assert_allclose(found.square, square, rtol=1e-9 if offset else 1e-12, atol=1e-9)
    np.testing.assert_allclose(found.mean, np.sqrt(inner.weights) * values.mean(axis=0))
    assert found.snapshots == len(values)
    # Nothing is foretold of what has been seen.
    np.testing.assert_allclose(found.foretold(len(values)), found.square)


MEASURED = """
import sys, numpy as np, xarray as xr, dask.array as da, romzarr
import romzarr.operations.compress, romzarr.store.reading.engine
from romzarr.compression import survey
from tests.benchmarks.measure import measured

survey.DEAR = 0.0
snapshots, store = int(sys.argv[1]), sys.argv[2]

def block(block_info):
    # A smooth field that is another one at every snapshot.
    (start, stop), *_ = block_info[None]["array-location"]
    rng = np.random.default_rng(start)
    x = np.linspace(0, np.pi, 256)
    basis = np.cos(np.arange(6)[:, None] * x)
    weights = rng.standard_normal((stop - start, 6, 6))
    return np.einsum("tij,iy,jx->tyx", weights, basis, basis).astype("f4")

chunks = ((40,) * (snapshots // 40), (256,), (256,))
field = da.map_blocks(block, chunks=chunks, dtype="f4", meta=np.empty((0, 0, 0), "f4"))
source = xr.Dataset({"u": (("time", "y", "x"), field)}, {"time": np.arange(snapshots) * 0.1})
report, cost = measured(lambda: romzarr.compress(source, store, tolerance=0.1))
print(report.raw_bytes, cost.peak_bytes)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_record(tmp_path):
    """Neither that of the tasks nor that of who waits for them, which are one process here."""
    peaks = {}
    for snapshots in (400, 2400):
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, str(snapshots), str(tmp_path / f"{snapshots}")],
            capture_output=True, text=True, check=True, cwd=ROOT,
        )  # fmt: skip
        raw, peak = map(int, done.stdout.split())
        assert raw == snapshots * (256 * 256 * 4 + 8)
        peaks[snapshots] = peak
    # The record is longer by 524 MB; heaps differ from run to run by some dozens.
    assert peaks[2400] < peaks[400] + 130e6
    assert peaks[2400] < 400e6

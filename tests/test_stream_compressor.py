"""Streams: the bound over the whole history at every commit, and in the end what batch makes."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose
from threadpoolctl import ThreadpoolController, threadpool_limits

import romzarr
from romzarr import StreamCompressor
from romzarr.config import CompressionConfig, Config, LibraryConfig
from romzarr.errors import AccuracyError, ArchiveError, ConfigError, PipelineError, StoreError
from romzarr.numerics.dynamics.library import PolynomialLibrary
from romzarr.numerics.pod.incremental import IncrementalPOD
from romzarr.store.reading.reader import open_store
from romzarr.store.writing.writer import StoreWriter
from romzarr.streams import segment
from romzarr.streams.liveness import Signature, last_sign
from tests.oracles import assert_same_but_values, decaying_matrix, decoded_errors
from tests.systems_of_odes import LINEAR_OSCILLATOR, LORENZ, VAN_DER_POL, with_noise

TOLERANCE = 1e-2


def record(snapshots: int = 160, seed: int = 0) -> xr.Dataset:
    """A wave that grows, another variable in other units with land and a constant half, a
    constant, and what is carried over."""
    rng = np.random.default_rng(seed)
    t, x = np.arange(snapshots) * 0.25, np.linspace(0, 1, 90)
    u = sum(np.sin(k * (2 * t[:, None] - 5 * x)) / k**2 for k in (1, 2, 3))
    v = 300 + 20 * decaying_matrix(rng, snapshots, 90, 3, rank=5).reshape(snapshots, 9, 10)
    v[:, 2, 3:5] = np.nan
    days = np.datetime64("2001-01-01", "ns") + np.arange(snapshots) * np.timedelta64(6, "h")
    return xr.Dataset(
        {
            "u": (("x", "time"), (np.exp(t / 20) * u.T).astype(np.float32), {"units": "m/s"}),
            "v": (("time", "lat", "lon"), v),
            "still": (("time", "x"), np.full((snapshots, 90), 0.1)),
            "flag": ("time", np.arange(snapshots) % 3),
            "depth": ("x", x),
        },
        {"time": days, "x": x, "lat": np.linspace(-60, 60, 9), "run": 7},
        {"title": "made up"},
    )


def blocks_of(source: xr.Dataset, length: int) -> list[xr.Dataset]:
    return [source.isel(time=slice(k, k + length)) for k in range(0, source.sizes["time"], length)]


def decoded_of(store) -> xr.Dataset:
    return xr.open_dataset(store, engine="romzarr").load()


@pytest.mark.parametrize(("length", "reopened"), [(1, 37), (7, 3), (50, 1)])
def test_a_stream_is_within_the_bound_at_every_commit_and_in_the_end_what_batch_makes(
    tmp_path, length, reopened
):
    source, store = record(), tmp_path / "stream"
    batch = romzarr.compress(source, tmp_path / "batch", tolerance=TOLERANCE)
    stream = StreamCompressor(store, tolerance=TOLERANCE, commit_steps=23)
    for number, block in enumerate(blocks_of(source, length), 1):
        stream.update(block)
        assert stream.snapshots == min(number * length, 160)
        if number % reopened == 0:
            stream.commit()
            assert stream.committed == stream.snapshots
            whole = source.isel(time=slice(stream.snapshots))
            told, decoded = stream.relative_l2_error, decoded_of(store)
            assert_same_but_values(whole, decoded)
            for name, error in decoded_errors(whole, decoded).items():
                assert error <= told[name] * (1 + 1e-9) <= TOLERANCE, name
            # Whoever goes on needs nothing but the store.
            stream = StreamCompressor(store, commit_steps=23)
    stream.close()
    assert romzarr.verify(store, source).ok
    assert_same_but_values(source, decoded_of(store))
    info = romzarr.info(store)
    assert len(open_store(store).parts) == 1
    assert info.raw_bytes == batch.raw_bytes
    assert batch.rank <= info.rank <= 1.2 * batch.rank
    assert info.stored_bytes <= 1.15 * batch.stored_bytes


@pytest.mark.parametrize(
    ("system", "length", "seed"),
    [(LORENZ, 7, 1), (LORENZ, 50, 2), (VAN_DER_POL, 50, 1), (LINEAR_OSCILLATOR, 1, 1)],
)
def test_the_equations_are_those_of_batch(tmp_path, system, length, seed):
    """Terms contribute alike. Of one at the threshold, rounding of the modes decides whether it is
    there, so the terms themselves may differ."""
    times, states = system.record(1100)
    states = with_noise(states, 0.01, seed=seed)
    shapes = np.linalg.qr(np.random.default_rng(0).standard_normal((60, states.shape[1])))[0].T
    source = xr.Dataset({"x": (("time", "dim_1"), 1.0 + states @ shapes)}, {"time": times})
    romzarr.compress(source, tmp_path / "batch", tolerance=TOLERANCE)
    expected = romzarr.equations(tmp_path / "batch")
    with StreamCompressor(tmp_path / "s", tolerance=TOLERANCE) as stream:
        for block in blocks_of(source, length):
            stream.update(block)
        assert stream.model is not None
    found = romzarr.equations(tmp_path / "s")
    assert found.names == expected.names
    actual, wanted = (contributions(each.coefficients, states) for each in (found, expected))
    # With noise of 1 % the information criterion keeps what contributes some per cent.
    assert_allclose(actual, wanted, rtol=0, atol=0.05)
    assert wanted.any()


def contributions(coefficients, states):
    """Sizes (p, q) of the quadratic terms of equations of POD coefficients, for any signs of the
    modes, in units of the largest term of each equation."""
    shifted = states - states.mean(axis=0)
    a = shifted @ np.linalg.svd(shifted, full_matrices=False)[2].T
    values = PolynomialLibrary(a.shape[1], 2).evaluate(a)
    sizes = np.abs(coefficients) * np.sqrt(np.mean(values**2, axis=0))[:, None]
    return sizes / np.maximum(sizes.max(axis=0), np.finfo(float).tiny)


@pytest.mark.parametrize(
    ("system", "degree", "tolerance", "reopened"),
    [(LORENZ, 2, 2e-2, 0), (LORENZ, 2, 1.1e-2, 0), (LINEAR_OSCILLATOR, 1, 3e-2, 700)],
)
def test_noise_in_the_field_changes_neither_equations_nor_bytes(
    tmp_path, system, degree, tolerance, reopened
):
    """With room in the bound for more than the noise, and for little more; and a resume."""
    times, states = system.record(1500)
    shapes = np.linalg.qr(np.random.default_rng(0).standard_normal((200, states.shape[1])))[0].T
    field = (states - states.mean(axis=0)) @ shapes
    field += 0.01 * field.std() * np.random.default_rng(1).standard_normal(field.shape)
    source = xr.Dataset({"x": (("time", "point"), 1.0 + field)}, {"time": times})
    settings = Config(
        compression=CompressionConfig(tolerance=tolerance), library=LibraryConfig(degree=degree)
    )
    batch = romzarr.compress(source, tmp_path / "batch", config=settings)
    expected = romzarr.equations(tmp_path / "batch")
    stream = StreamCompressor(tmp_path / "s", config=settings)
    for block in blocks_of(source, 50):
        stream.update(block)
        if stream.snapshots == reopened:
            stream.commit()
            stream = StreamCompressor(tmp_path / "s")
    stream.close()
    assert romzarr.verify(tmp_path / "s", source).ok
    info, found = romzarr.info(tmp_path / "s"), romzarr.equations(tmp_path / "s")
    assert info.rank == batch.rank == system.states
    assert info.stored_bytes <= 1.15 * batch.stored_bytes
    assert found.names == expected.names
    # Terms at the threshold may be on either side of it; those that matter are not.
    theta = np.abs(expected.coefficients).max(axis=0)
    differ = (found.coefficients != 0) != (expected.coefficients != 0)
    assert (np.abs(expected.coefficients) <= 0.02 * theta)[differ].all()


@pytest.mark.parametrize(("many", "expected"), [(1 << 22, 1), (0, 2)])
def test_updates_take_one_blas_thread_unless_modes_are_large(tmp_path, monkeypatch, many, expected):
    """And those of the caller are as many afterwards as before."""
    seen, update = [], IncrementalPOD.update

    def threads() -> set[int]:
        found = ThreadpoolController().select(user_api="blas").info()
        return {library["num_threads"] for library in found}

    def noted(self, block):
        seen.append(threads())
        return update(self, block)

    monkeypatch.setattr(IncrementalPOD, "update", noted)
    monkeypatch.setattr("romzarr.streams.compressor.MANY_NUMBERS", many)
    rows = decaying_matrix(np.random.default_rng(0), 40, 60, 2, rank=3)
    with threadpool_limits(2, user_api="blas"):
        with StreamCompressor(tmp_path / "s", tolerance=0.1) as stream:
            stream.update(rows[:20])
            stream.update(rows[20:])
        assert threads() == {2}
    assert seen == [{1}, {expected}]


def test_arrays_of_any_kind_become_one_variable(tmp_path):
    rng = np.random.default_rng(0)
    rows = decaying_matrix(rng, 40, 60, 2, rank=3).reshape(40, 6, 10).astype(np.float16)
    with StreamCompressor(tmp_path / "s", tolerance=0.1) as stream:
        stream.update(rows[:1])
        stream.update(da.from_array(rows[1:20], chunks=(5, 3, 10)))
        stream.update(rows[20:20])
        stream.update(xr.DataArray(rows[20:], dims=("time", "dim_1", "dim_2"), name="x",
                                   coords={"time": np.arange(20, 40)}))  # fmt: skip
    decoded = decoded_of(tmp_path / "s")
    assert (decoded.x.dims, decoded.x.dtype) == (("time", "dim_1", "dim_2"), np.float16)
    assert decoded.time.values.tolist() == list(range(40))
    source = xr.Dataset({"x": (("time", "dim_1", "dim_2"), rows)})
    assert decoded_errors(source, decoded)["x"] <= 0.1


@pytest.mark.parametrize("name", [None, "time", "u"])
def test_an_array_gets_a_name_that_no_coordinate_has(tmp_path, name):
    coords = {"time": np.arange(30.0), "x": np.arange(8.0)}
    values = np.sin(np.arange(30)[:, None] * 0.3 + np.arange(8))
    array = xr.DataArray(values, coords, ("time", "x"), name=name)
    romzarr.compress(array, tmp_path / "batch", tolerance=0.1)
    with StreamCompressor(tmp_path / "stream", tolerance=0.1) as stream:
        stream.update(array)
    for store in ("batch", "stream"):
        (found,) = decoded_of(tmp_path / store).data_vars
        assert found == name or name != "u"


def test_bfloat16_is_kept_as_float32(tmp_path):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    rows = np.sin(np.arange(30)[:, None] * 0.3 + np.arange(8)).astype(bfloat16)
    with StreamCompressor(tmp_path / "s", tolerance=0.1) as stream:
        stream.update(rows, times=np.arange(30) * 0.5)
    decoded = decoded_of(tmp_path / "s")
    assert decoded.x.dtype == np.float32
    assert decoded.time.values[-1] == 14.5


def test_a_long_stream_is_sealed_in_segments_that_read_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr(segment, "LEAST_HELD", 60)
    source, store = record()[["v"]], tmp_path / "s"
    with StreamCompressor(store, tolerance=TOLERANCE, commit_steps=20) as stream:
        held = 0
        for block in blocks_of(source, 7):
            stream.update(block)
            held = max(held, stream._segment.snapshots * max(stream.rank, 1))
    assert held <= 90 * 10 + 7 * 10
    assert len(open_store(store).parts) >= 2
    assert romzarr.verify(store, source).ok
    assert decoded_of(store).time.identical(source.time)


def test_many_parts_are_joined_and_those_of_many_processes_sealed(tmp_path, monkeypatch):
    monkeypatch.setattr("romzarr.streams.compressor.MOST_OPEN", 3)
    source = record(36)[["u"]]
    for name, once in (("one", True), ("many", False)):
        store = tmp_path / name
        stream = StreamCompressor(store, tolerance=TOLERANCE)
        for block in blocks_of(source, 6):
            stream.update(block)
            stream.commit()
            opened = open_store(store)
            assert len(opened.parts) <= 3 + len([p for p in opened.parts if not p.before])
            stream = stream if once else StreamCompressor(store)
        assert romzarr.verify(store, source).ok
        sealed = [part for part in open_store(store).parts if "stream" not in part.facts]
        assert bool(sealed) != once


def test_a_regime_that_begins_gets_its_modes_within_one_block(tmp_path):
    """Two systems with different subspaces; the bound holds at the switch, too."""
    t = np.arange(300) * 0.2
    shapes = np.linalg.qr(np.random.default_rng(0).standard_normal((80, 5)))[0].T
    first = np.column_stack([np.cos(t), np.sin(t), 0 * t, 0 * t, 0 * t])
    second = np.column_stack([0 * t, 0 * t, np.cos(2 * t), np.sin(2 * t), np.cos(4 * t) / 2])
    rows = 4 + np.where(t[:, None] < 30, first, second) @ shapes
    stream, ranks = StreamCompressor(tmp_path / "s", tolerance=TOLERANCE), []
    for k in range(0, 300, 30):
        stream.update(rows[k : k + 30], times=t[k : k + 30])
        stream.commit()
        seen = rows[: k + 30]
        error = np.linalg.norm(decoded_of(tmp_path / "s").x - seen)
        assert error <= TOLERANCE * np.linalg.norm(seen - seen.mean(axis=0))
        ranks.append(stream.rank)
    assert ranks[4] == 2
    assert ranks[5] == 5
    stream.close()
    assert romzarr.info(tmp_path / "s").rank <= 5


def test_a_change_of_regime_begins_a_model_of_its_own(tmp_path):
    """Closed, a stream has the models of batch: one for each speed of an oscillator."""
    phase = np.cumsum(np.repeat([0.05, 0.15], [1100, 1460]))
    shapes = np.linalg.qr(np.random.default_rng(0).standard_normal((80, 2)))[0].T
    rows = np.stack([np.cos(phase), np.sin(phase)], axis=1) @ shapes
    source = xr.Dataset({"x": (("time", "y"), rows)}, {"time": 0.05 * np.arange(len(rows))})
    with StreamCompressor(tmp_path / "s", tolerance=TOLERANCE) as stream:
        for block in blocks_of(source, 700):
            stream.update(block)
    report = romzarr.compress(source, tmp_path / "batch", tolerance=TOLERANCE)
    found = romzarr.equations(tmp_path / "s").regimes
    for regime, batch in zip(found, romzarr.equations(tmp_path / "batch").regimes, strict=True):
        assert_allclose(np.abs(regime.coefficients), np.abs(batch.coefficients), 0.02, 0.01)
    assert len(found) == 2
    assert romzarr.verify(tmp_path / "s", source).ok
    assert romzarr.info(tmp_path / "s").stored_bytes <= 1.15 * report.stored_bytes


def test_a_constant_that_begins_to_move_is_exact_until_then(tmp_path):
    source = record(40)[["u"]]
    rows = np.full((40, 30), 0.1)
    rows[25:] += np.sin(np.arange(15)[:, None] + np.arange(30))
    source["w"] = (("time", "y"), rows)
    stream = StreamCompressor(tmp_path / "s", tolerance=TOLERANCE)
    for k in range(0, 40, 5):
        stream.update(source.isel(time=slice(k, k + 5)))
        stream.commit()
        if k < 25:
            assert (decoded_of(tmp_path / "s").w == 0.1).all()
    stream.close()
    assert romzarr.verify(tmp_path / "s", source).ok


@pytest.mark.parametrize("at_rest", [1e-14, 1e-10])
def test_what_was_at_rest_but_for_rounding_may_move_by_any_factor(tmp_path, at_rest):
    """Coefficients in its first units would be huge, and cancel in all other variables."""
    rng = np.random.default_rng(0)
    amplitude = np.where(np.arange(80) < 20, at_rest, 1.0)[:, None]
    source = xr.Dataset(
        {
            "v": (("time", "x"), amplitude * rng.standard_normal((80, 30))),
            "w": (("time", "y"), rng.standard_normal((80, 40))),
        },
        {"time": np.arange(80.0)},
    )
    stream = StreamCompressor(tmp_path / "s", tolerance=1e-6, commit_steps=1)
    for number, block in enumerate(blocks_of(source, 20), 1):
        stream.update(block)
        decoded = decoded_of(tmp_path / "s")
        errors = decoded_errors(source.isel(time=slice(20 * number)), decoded)
        assert max(errors.values()) <= 1e-6
    stream.close()
    assert max(decoded_errors(source, decoded_of(tmp_path / "s")).values()) <= 1e-6


@pytest.mark.parametrize("tolerance", [0.3, 1e-4])
def test_what_is_at_rest_but_for_rounding_is_within_the_bound_or_refused(tmp_path, tolerance):
    """Fields decode to multiples of a step that cannot be finer than rounding of the mean: of
    modes that are smaller nothing would be left."""
    refused = []
    for decade in range(-16, -4):
        rng, store = np.random.default_rng(0), tmp_path / f"{-decade}"
        values = 300 * (rng.uniform(1, 2, 30) + 10.0**decade * rng.standard_normal((7, 30)))
        still = np.ones((7, 30), np.float16)
        source = xr.Dataset({"u": (("time", "x"), values), "v": (("time", "x"), still)})
        stream = StreamCompressor(store, tolerance=tolerance)
        stream.update(source)
        try:
            stream.commit()
        except AccuracyError as error:
            refused.append((10.0**decade, str(error)))
        else:
            assert decoded_errors(source, decoded_of(store))["u"] <= tolerance
    # Steps are 2e-16 of the norm of all values, which is fifteen times that of one here.
    for size, message in refused:
        assert size * tolerance < 1e-14
        assert "variable 'u': a fluctuation of norm" in message


def test_a_store_of_batch_is_gone_on_with(tmp_path):
    source, store = record(), tmp_path / "s"
    romzarr.compress(source.isel(time=slice(90)), store, tolerance=TOLERANCE, weights="none")
    stream = StreamCompressor(store)
    for block in blocks_of(source.isel(time=slice(90, None)), 20):
        stream.update(block)
        stream.commit()
        assert romzarr.verify(store, source.isel(time=slice(stream.snapshots))).ok
    stream.close()
    assert romzarr.verify(store, source).ok
    assert len(open_store(store).parts) == 2
    for part in open_store(store).parts:
        assert "stream" not in part.facts


def test_an_error_leaves_the_last_commit_and_says_how_to_go_on(tmp_path):
    source, store = record(40), tmp_path / "s"
    broken = source.isel(time=slice(20, 30)).drop_vars("u")
    stream = StreamCompressor(store, tolerance=TOLERANCE)
    stream.update(source.isel(time=slice(20)))
    stream.commit()
    with pytest.raises(ArchiveError, match="'u' is missing"):
        stream.update(broken)
    with pytest.raises(PipelineError, match="go on from snapshot 20"):
        stream.update(source.isel(time=slice(20, 30)))
    with StreamCompressor(store) as stream:
        stream.update(source.isel(time=slice(20, 40)))
    assert romzarr.verify(store, source).ok


@pytest.mark.parametrize("closed", [False, True])
def test_a_commit_that_fails_ends_the_stream(tmp_path, monkeypatch, closed):
    """Coding has moved its basis: parts that came later would rest on what no store has."""
    source, store = record(40), tmp_path / "s"
    stream = StreamCompressor(store, tolerance=TOLERANCE)
    stream.update(source.isel(time=slice(20)))
    stream.commit()
    stream.update(source.isel(time=slice(20, 30)))
    with monkeypatch.context() as full:
        full.setattr(StoreWriter, "commit", refuse)
        with pytest.raises(OSError, match="no space"):
            stream.close() if closed else stream.commit()
    for step in (stream.commit, stream.close, lambda: stream.update(source.isel(time=[30]))):
        with pytest.raises(PipelineError, match=r"no space.*go on from snapshot 20"):
            step()
    with StreamCompressor(store) as stream:
        stream.update(source.isel(time=slice(20, 40)))
    assert romzarr.verify(store, source).ok


def refuse(writer: StoreWriter, facts: object) -> None:
    raise OSError("no space")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.isel(time=slice(None, None, -1)), "times must increase"),
        (lambda b: b.assign_coords(time=b.time - np.timedelta64(6, "h")), "times must increase"),
        (lambda b: b.drop_vars("u"), "'u' is missing"),
        (lambda b: b.isel(x=slice(5)), "'u': this block has"),
        (lambda b: b.drop_vars("time"), "coordinate 'time'"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(tmp_path, change, message):
    source = record(40)
    stream = StreamCompressor(tmp_path / "s", tolerance=TOLERANCE)
    stream.update(source.isel(time=slice(20)))
    with pytest.raises(PipelineError, match=message):
        stream.update(change(source.isel(time=slice(20, 30))))


@pytest.mark.parametrize("shape", [(), (7,)])
def test_arrays_that_may_be_one_snapshot_or_many_are_refused(tmp_path, shape):
    stream = StreamCompressor(tmp_path / "s", tolerance=1e-2)
    with pytest.raises(ArchiveError, match=r"give one snapshot as block\[None\]"):
        stream.update(np.ones(shape))


def test_what_a_stream_cannot_promise_is_refused_before_it_begins(tmp_path):
    for settings in ({"tolerance": 0.0}, {"max_rank": 3}):
        with pytest.raises(ConfigError, match=r"use romzarr\.compress"):
            StreamCompressor(tmp_path, config=Config(compression=CompressionConfig(**settings)))
    romzarr.compress(record(30), tmp_path / "s", tolerance=TOLERANCE)
    with pytest.raises(ConfigError, match=r"was made with 0\.01"):
        StreamCompressor(tmp_path / "s", tolerance=0.1)
    romzarr.compress(record(30), tmp_path / "exact", tolerance=0)
    with pytest.raises((ConfigError, StoreError), match="lossless"):
        StreamCompressor(tmp_path / "exact")


def test_of_two_writers_the_second_is_refused(tmp_path):
    source = record(40)
    one = StreamCompressor(tmp_path / "s", tolerance=TOLERANCE)
    one.update(source.isel(time=slice(10)))
    one.commit()
    other = StreamCompressor(tmp_path / "s")
    for stream in (one, other):
        stream.update(source.isel(time=slice(10, 20)))
    one.commit()
    with pytest.raises(StoreError, match="changed by another writer"):
        other.commit()
    assert romzarr.verify(tmp_path / "s", source.isel(time=slice(20))).ok


# --- two streams into one store -----------------------------------------------------------


def test_a_stream_that_takes_over_a_living_one_warns_and_the_other_is_told(tmp_path, caplog):
    store, (first, second, third, *_) = tmp_path / "store", blocks_of(record(60), 20)
    one = StreamCompressor(store, tolerance=TOLERANCE)
    for block in (first, second):
        one.update(block)
        one.commit()
    assert not caplog.records
    other = StreamCompressor(store)
    assert "another stream seems to be writing here, its last commit was" in caplog.text
    other.update(third)
    other.commit()
    one.update(third)
    with pytest.raises(StoreError, match=r"a stream has taken the store over.*snapshot 40"):
        one.commit()
    other.close()
    assert open_store(store).snapshots == 60
    assert romzarr.verify(store, record(60)).ok
    # What is closed is nobody's.
    caplog.clear()
    StreamCompressor(store)
    assert not caplog.records


def test_a_store_that_this_process_has_left_is_reopened_without_a_warning(tmp_path, caplog):
    first, second, *_ = blocks_of(record(60), 20)
    dropped = StreamCompressor(tmp_path / "dropped", tolerance=TOLERANCE)
    failed = StreamCompressor(tmp_path / "failed", tolerance=TOLERANCE)
    for stream in (dropped, failed):
        stream.update(first)
        stream.commit()
    with pytest.raises(ArchiveError):
        failed.update(second.rename(u="other"))
    del dropped, stream
    for name in ("dropped", "failed"):
        StreamCompressor(tmp_path / name)
    assert not caplog.records


@pytest.mark.parametrize(
    ("seconds", "late", "alive"), [(0.5, 30, True), (0.5, 90, False), (900, 1700, True)]
)
def test_a_stream_counts_as_alive_while_it_is_not_late(seconds, late, alive):
    when = datetime.now(UTC) - timedelta(seconds=late)
    mark = {"id": "a", "committed": when.isoformat(), "seconds": seconds}
    assert (last_sign({"stream": {"parts": 1, "writer": mark}}) is not None) == alive


HOSTILE = [None, [], "x", {}, {"committed": 3, "seconds": 1}, {"committed": "now", "seconds": 1}]
HOSTILE += [{"committed": "2031-07-01", "seconds": "x"}, {"committed": "2031-07-01T00:00:00"}]


@pytest.mark.parametrize("mark", HOSTILE)
def test_a_mark_that_is_none_is_no_sign_of_life(mark):
    assert last_sign({"stream": {"parts": 1, "writer": mark}}) is None
    assert last_sign({"stream": mark}) is None


def test_a_mark_tells_nothing_but_a_random_number_and_times():
    one, other = Signature().signed(), Signature().signed()
    assert one.keys() == {"id", "committed", "seconds"}
    assert one["id"] != other["id"]
    assert re.fullmatch(r"[0-9a-f]{16}", one["id"])

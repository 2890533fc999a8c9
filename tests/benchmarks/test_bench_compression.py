"""Peers meet the error they are searched for; every case has a line in the tables."""

import contextlib
import dataclasses
import math

import numpy as np
import pytest
import xarray as xr

from tests.benchmarks import bench_compression, tucker
from tests.benchmarks.peers import CLOSE, PEERS, Field, Trial, best, search, smallest

M = 60


def wave(noise=0.01):
    """Two travelling waves and noise on a grid of 12 x 16, with a hole."""
    t, y, x = np.meshgrid(np.arange(M) * 0.2, np.arange(12), np.arange(16), indexing="ij")
    values = 3 + np.sin(t - 0.5 * x) + 0.3 * np.cos(2 * t + 0.4 * y)
    values += noise * np.random.default_rng(0).standard_normal(values.shape)
    values[:, 3:5, 4:8] = np.nan
    return values


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("target", [1e-1, 1e-3])
def test_peers_meet_the_target(name, target):
    peer = PEERS[name]
    if peer.missing:
        pytest.skip(peer.missing)
    field = Field.of(wave(), target)
    if name == "TTHRESH":
        # Its decoder fails on some arrays, whatever the error asked for.
        with contextlib.suppress(ValueError):
            best(peer, field, target)
        return
    choice = best(peer, field, target)
    data = choice.encode(peer, field.values)
    error = field.error(choice.decode(peer, data))
    assert error <= target
    # Ranks are whole numbers.
    assert peer.exact or error >= 0.9 * target
    assert len(data) == choice.size <= field.values.nbytes + 64
    assert field.values.dtype == np.float32


@pytest.mark.parametrize("power", [0.6, 1.0, 1.7])
@pytest.mark.parametrize("start", [1e-6, 1.0, 1e5])
def test_search_comes_close_from_anywhere(power, start):
    def trial(scale):
        error = 3 * scale**power
        return Trial(scale, 1000 / error, error)

    tried = search(trial, trial(start), 1e-2, 12)
    assert (1 - CLOSE) * 1e-2 <= smallest(tried, 1e-2).error <= 1e-2


def test_search_of_an_error_in_steps_and_of_a_codec_that_breaks():
    def trial(scale):
        error = 2.0 ** math.floor(math.log2(scale))
        broken = scale > 0.1
        return Trial(scale, 1 / scale, math.inf if broken else error, "broken" if broken else "")

    assert smallest(search(trial, trial(0.3), 0.02, 12), 0.02).error == 2.0**-6
    always = search(lambda s: dataclasses.replace(trial(1.0), scale=s), trial(1.0), 0.02, 12)
    assert len(always) == 3
    assert smallest(always, 0.02) is None


def test_single_precision_only_where_it_does_not_matter():
    values = wave() + 1e6
    assert Field.of(values, 1e-3).values.dtype == np.float64
    assert Field.of(values.astype(np.float32), 1e-3).values.dtype == np.float32


def test_error_is_relative_to_the_fluctuation_and_knows_no_hole():
    values = wave()
    field = Field.of(values, 1e-2)
    mean = np.broadcast_to(values.mean(axis=0), values.shape)
    decoded = np.where(np.isnan(mean), 1e9, mean)
    # The mean in time alone misses all of the fluctuation.
    assert field.error(decoded) == pytest.approx(1)


@pytest.mark.parametrize("shape", [(30, 8, 9), (40, 25)])
@pytest.mark.parametrize("rms", [1e-1, 1e-3])
def test_tucker_keeps_the_error_in_the_fewest_numbers(shape, rms):
    rng = np.random.default_rng(1)
    array = rng.standard_normal(shape)
    for axis, size in enumerate(shape):
        # Singular values fall along every axis.
        turn = np.linalg.qr(rng.standard_normal((size, size)))[0] * 0.6 ** np.arange(size)
        array = np.moveaxis(np.tensordot(turn, array, (1, axis)), 0, axis)
    data = tucker.encode(array, rms * array.std())
    error = np.linalg.norm(tucker.decode(data) - array) / math.sqrt(array.size)
    assert error <= rms * array.std() * (1 + 1e-5)
    if array.ndim == 2:
        tails = np.sqrt(np.square(np.linalg.svd(array)[1])[::-1].cumsum()[::-1] / array.size)
        rank = int(np.argmax(tails <= rms * array.std()))
        assert len(data) <= 4 * rank * sum(shape) + 64


@pytest.mark.slow
def test_every_case_has_its_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ROMZARR_BENCH_CACHE", str(tmp_path / "cache"))
    t = np.arange(M) * 0.2
    for name in ("first", "second"):
        dataset = xr.Dataset({"u": (("time", "y", "x"), wave())}, {"time": t})
        dataset.to_zarr(tmp_path / "data" / f"{name}.zarr", consolidated=False)
    peers = [name for name, peer in PEERS.items() if not peer.missing and not peer.slow]
    missing = [name for name, peer in PEERS.items() if peer.missing]
    arguments = ["--no-long", "--targets", "1e-1", "--peers", *peers, *missing]
    bench_compression.main([str(tmp_path / "data"), *arguments])
    printed = capsys.readouterr().out
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in printed.splitlines()
        if line.startswith("|")
    ]
    for case in ("first", "second"):
        measured = {row[2]: row for row in rows if row[0] == case and len(row) == 12}
        assert set(measured) == {"romzarr", *peers, *missing}
        for name in ("romzarr", *peers):
            assert float(measured[name][5]) <= 1e-1, measured[name]
        for name in missing:
            assert measured[name][3].startswith("skipped")
    # The second time the peers come from the cache.
    monkeypatch.setattr(bench_compression, "in_child", lambda *_: {"failed": "not cached"})
    bench_compression.main([str(tmp_path / "data"), "--peers-only", *arguments])
    assert "not cached" not in capsys.readouterr().out

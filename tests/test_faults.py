"""Workers that die, archives that are damaged, disks that are full: the right result or a
clear error, and nothing left behind."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import re
import signal
import threading
import time
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster
from zarr.storage import LocalStore

import romzarr
from romzarr.errors import ArchiveError, ChunkError, PipelineError, StoreError, StoreExistsError
from tests.oracles import decaying_matrix, decoded_errors, files_below

TOLERANCE = 1e-2


def waves(seed: int = 0) -> xr.Dataset:
    rng = np.random.default_rng(seed)
    t, x = np.linspace(0, 6, 120)[:, None], np.linspace(0, 1, 400)[None, :]
    u = sum(np.sin(k * (3 * t - 5 * x)) / k**2 for k in (1, 2, 3))
    v = decaying_matrix(rng, 120, 400, 4, rank=10)
    return xr.Dataset(
        {"u": (("time", "x"), u.astype(np.float32)), "v": (("time", "x"), v)},
        {"time": t[:, 0], "x": x[0]},
    )


def archive(folder: Path, source: xr.Dataset) -> Path:
    path = folder / "archive.zarr"
    encoding = {name: {"chunks": (10, 200)} for name in source.data_vars}
    source.to_zarr(path, encoding=encoding, consolidated=False)
    return path


def remains(folder: Path, *allowed: str) -> list[str]:
    return sorted(set(os.listdir(folder)) - set(allowed))


# --- clusters -----------------------------------------------------------------------------


def slowly(block: np.ndarray, folder: str) -> np.ndarray:
    """Pass a chunk on after a while, and leave a note that it was asked for."""
    Path(folder, f"{os.getpid()}-{time.monotonic_ns()}").touch()
    time.sleep(0.05)
    return block


def kill_one(notes: Path, after: int) -> None:
    """kill -9 of the process that has read most, once `after` chunks were asked for."""
    while len(os.listdir(notes)) < after:
        time.sleep(0.005)
    pids = [int(name.split("-")[0]) for name in os.listdir(notes)]
    victim = max(set(pids) - {os.getpid()}, key=pids.count)
    os.kill(victim, signal.SIGKILL)


def wait_for_another(client: Client, started: set[int]) -> None:
    """Wait for a worker that was not there before; for a while the dead one is still counted."""
    end = time.monotonic() + 30
    while not set(client.run(os.getpid, on_error="ignore").values()) - started:
        assert time.monotonic() < end, "the worker was not replaced"
        time.sleep(0.1)


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.parametrize("after", [4, 30])
def test_a_killed_worker_costs_its_tasks_and_nothing_else(tmp_path, after):
    source = waves()
    notes = tmp_path / "notes"
    notes.mkdir()
    lazy = source.chunk(time=8, x=100)
    for name in ("u", "v"):
        data = lazy[name].data
        lazy[name] = lazy[name].copy(data=data.map_blocks(slowly, str(notes), meta=data._meta))
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        started = set(client.run(os.getpid).values())
        killer = threading.Thread(target=kill_one, args=(notes, after))
        killer.start()
        report = romzarr.compress(lazy, tmp_path / "store", tolerance=TOLERANCE)
        killer.join()
        wait_for_another(client, started)
    quiet = romzarr.compress(source.chunk(time=8, x=100), tmp_path / "quiet", tolerance=TOLERANCE)
    assert (report.rank, report.kept_samples) == (quiet.rank, quiet.kept_samples)
    decoded = xr.open_dataset(tmp_path / "store", engine="romzarr")
    assert max(decoded_errors(source, decoded).values()) <= TOLERANCE
    xr.testing.assert_allclose(
        decoded, xr.open_dataset(tmp_path / "quiet", engine="romzarr"), rtol=0, atol=1e-5
    )
    assert remains(tmp_path, "notes") == ["quiet", "store"]


def test_the_scheduler_and_the_number_of_workers_change_nothing(tmp_path):
    path = archive(tmp_path, waves())
    results = {}

    def run(name: str) -> None:
        report = romzarr.compress(path, tmp_path / name, tolerance=TOLERANCE)
        decoded = xr.open_dataset(tmp_path / name, engine="romzarr").load()
        results[name] = (report.rank, report.kept_samples, report.chunks_read, decoded)

    for scheduler in ("synchronous", "threads"):
        with dask.config.set(scheduler=scheduler):
            run(scheduler)
    for workers in (1, 2):
        with (
            LocalCluster(
                n_workers=workers, threads_per_worker=1, processes=False, dashboard_address=None
            ) as cluster,
            Client(cluster),
        ):
            run(f"cluster-{workers}")
    *counts, expected = results.pop("synchronous")
    for *others, decoded in results.values():
        assert others == counts
        xr.testing.assert_allclose(decoded, expected, rtol=0, atol=1e-6)


# --- damaged archives ---------------------------------------------------------------------


def test_a_missing_chunk_is_named_and_nothing_is_left(tmp_path):
    path = archive(tmp_path, waves())
    (path / "v" / "c" / "3" / "1").unlink()
    with pytest.raises(ChunkError, match=r"v.*c/3/1"):
        romzarr.compress(path, tmp_path / "store", tolerance=TOLERANCE)
    assert remains(tmp_path) == ["archive.zarr"]


@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
def test_a_corrupt_chunk_is_named_and_nothing_is_left(tmp_path, damage):
    path = archive(tmp_path, waves())
    chunk = path / "u" / "c" / "7" / "0"
    content = chunk.read_bytes()
    broken = {"cut": content[: len(content) // 2], "noise": os.urandom(len(content)), "empty": b""}
    chunk.write_bytes(broken[damage])
    with pytest.raises(ChunkError, match=r"u.*c/7/0"):
        romzarr.compress(path, tmp_path / "store", tolerance=TOLERANCE)
    assert remains(tmp_path) == ["archive.zarr"]


@pytest.mark.parametrize(
    ("first", "value", "words"),
    [
        (slice(37, None), np.nan, r"found NaN where the snapshots before have a number"),
        (slice(None, 37), np.nan, r"found a number where the snapshots before have NaN"),
        (slice(37, 38), np.inf, r"found an infinite value"),
        (slice(37, 38), -9999, r"found what looks like a fill value that no attribute declares"),
    ],
)
@pytest.mark.parametrize("chunks", [{"time": 10, "x": 70}, {"time": -1}, {"time": 1}])
def test_the_first_gap_is_told_by_variable_time_and_place(
    tmp_path, caplog, first, value, words, chunks
):
    caplog.set_level(logging.INFO, "romzarr")
    source = waves()
    source["time"] = np.datetime64("2001-01-01", "ns") + np.arange(120) * np.timedelta64(1, "h")
    source["v"][first, 222] = value
    source["v"][100:, 11] = np.nan
    romzarr.compress(source.chunk(chunks), tmp_path / "store", tolerance=TOLERANCE)
    assert re.search(rf"'v'.*2001-01-02T13:00.*x=222.*{words}", caplog.text)
    decoded = xr.open_dataset(tmp_path / "store", engine="romzarr")
    gaps = ~np.isfinite(source.v) | (source.v == -9999)
    np.testing.assert_array_equal(decoded.v.where(gaps), source.v.where(gaps))


@pytest.mark.parametrize("chunks", [{"time": 10, "x": 70}, {"time": -1}])
def test_values_that_cannot_be_bounded_are_named_by_variable_time_and_place(tmp_path, chunks):
    source = waves().astype("f8")
    source["v"][37, 222] = 1e200
    with pytest.raises(ArchiveError, match=r"'v'.*index 3\d .*x=222.*cannot be squared"):
        romzarr.compress(source.chunk(chunks), tmp_path / "store", tolerance=TOLERANCE)
    assert remains(tmp_path) == []


def test_a_reader_that_fails_leaves_nothing(tmp_path):
    def broken(block):
        raise OSError(errno.EIO, "the tape is torn")

    source = waves().chunk(time=30)
    source["u"] = source["u"].copy(
        data=source["u"].data.map_blocks(broken, dtype=np.float32, meta=np.empty((0, 0), "f4"))
    )
    with pytest.raises((OSError, PipelineError), match="tape is torn"):
        romzarr.compress(source, tmp_path / "store", tolerance=TOLERANCE)
    assert remains(tmp_path) == []


# --- destinations -------------------------------------------------------------------------


def test_a_store_that_exists_is_kept_unless_it_may_be_replaced(tmp_path):
    source = waves()
    first = romzarr.compress(source, tmp_path / "store", tolerance=0.1)
    before = {path: Path(path).read_bytes() for path in files_below(tmp_path)}
    with pytest.raises(StoreExistsError, match="overwrite"):
        romzarr.compress(source, tmp_path / "store", tolerance=1e-3)
    assert {path: Path(path).read_bytes() for path in files_below(tmp_path)} == before
    second = romzarr.compress(source, tmp_path / "store", tolerance=1e-3, overwrite=True)
    assert second.rank > first.rank
    assert romzarr.info(tmp_path / "store").tolerance == 1e-3


def test_a_failed_replacement_leaves_the_old_store_as_it_was(tmp_path):
    source = waves()
    romzarr.compress(source, tmp_path / "store", tolerance=0.1)
    before = {path: Path(path).read_bytes() for path in files_below(tmp_path)}
    source["u"] = source.u.astype("f8")
    source["u"][3, 3] = 1e200
    with pytest.raises(ArchiveError, match="cannot be squared"):
        romzarr.compress(source, tmp_path / "store", tolerance=0.1, overwrite=True)
    assert {path: Path(path).read_bytes() for path in files_below(tmp_path)} == before


@pytest.mark.parametrize("kind", ["folder", "file", "zarr"])
def test_what_is_no_store_is_never_replaced(tmp_path, kind):
    target = tmp_path / "precious"
    if kind == "file":
        target.write_text("data")
    elif kind == "zarr":
        waves().to_zarr(target, consolidated=False)
    else:
        target.mkdir()
        (target / "thesis.tex").write_text("data")
    before = {path: Path(path).read_bytes() for path in files_below(tmp_path)}
    for overwrite in (False, True):
        with pytest.raises(StoreError):
            romzarr.compress(waves(), target, tolerance=0.1, overwrite=overwrite)
    assert {path: Path(path).read_bytes() for path in files_below(tmp_path)} == before


@pytest.mark.parametrize("puts", [0, 1, 2, 3])
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, puts):
    """The disk takes `puts` pieces and no more, while worker threads write."""
    left = itertools.count(puts, -1)
    real = LocalStore.set

    async def set_or_fail(self, key, value):
        if next(left) <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        await real(self, key, value)

    source = archive(tmp_path, waves())
    monkeypatch.setattr(LocalStore, "set", set_or_fail)
    with pytest.raises(StoreError, match="No space left"):
        romzarr.compress(source, tmp_path / "store", tolerance=1e-3)
    assert remains(tmp_path) == ["archive.zarr"]

"""Appending: only what is new is read, twice changes nothing, and no kill loses a commit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from zarr.storage import LocalStore

import romzarr
from romzarr.errors import ArchiveError, ConfigError
from romzarr.store.reading.reader import open_store
from romzarr_flows.cli import main
from tests.oracles import decaying_matrix, files_below

TOLERANCE = 1e-2
ROOT = str(Path(__file__).parents[1])


def record(snapshots: int = 100) -> xr.Dataset:
    rng = np.random.default_rng(0)
    t, x = np.arange(snapshots) * 0.5, np.linspace(0, 1, 40)
    hours = np.datetime64("2001-01-01", "ns") + np.arange(snapshots) * np.timedelta64(1, "h")
    return xr.Dataset(
        {
            "u": (("time", "x"), np.sin(t[:, None] - 5 * x).astype(np.float32)),
            "v": (("time", "x"), 5 + decaying_matrix(rng, snapshots, 40, 3, rank=4)),
        },
        {"time": hours, "x": x},
    )


def archive(folder: Path, snapshots: int, source: xr.Dataset | None = None) -> Path:
    """A Zarr archive in chunks of 8 snapshots, with the first of a record."""
    path = folder / "archive.zarr"
    whole = record() if source is None else source
    encoding = {name: {"chunks": (8, 40)} for name in whole.data_vars}
    encoding["time"] = {"units": "minutes since 2001-01-01"}
    whole.isel(time=slice(snapshots)).to_zarr(path, mode="w", encoding=encoding, consolidated=False)
    return path


def grow(path: Path, snapshots: int, source: xr.Dataset | None = None) -> Path:
    """What an archive lacks of the first snapshots; whole chunks that it has stay untouched."""
    whole = record() if source is None else source
    known = xr.open_zarr(path, consolidated=False).sizes["time"]
    whole.isel(time=slice(known, snapshots)).to_zarr(path, append_dim="time", consolidated=False)
    return path


@pytest.fixture
def grown(tmp_path):
    """A store of 40 snapshots by batch, and its archive, now of 100."""
    path, store = archive(tmp_path, 40), tmp_path / "store"
    romzarr.compress(path, store, tolerance=TOLERANCE)
    return grow(path, 100), store


def content(store: Path) -> dict[str, bytes]:
    return {file: Path(file).read_bytes() for file in files_below(store)}


def test_what_is_new_is_appended_and_nothing_is_read_twice(grown, monkeypatch):
    path, store = grown
    seen, get = [], LocalStore.get

    async def noted(self, key, *args, **kwargs):
        if str(self.root) == str(path):
            seen.append(key)
        return await get(self, key, *args, **kwargs)

    monkeypatch.setattr(LocalStore, "get", noted)
    monkeypatch.setattr(LocalStore, "get_sync", None, raising=False)
    report = romzarr.append(store, path)
    assert (report.appended, report.snapshots, report.parts) == (60, 100, 2)
    chunks = [key for key in seen if key.startswith(("u/c/", "v/c/"))]
    assert sorted(set(chunks)) == sorted(f"{v}/c/{k}/0" for v in "uv" for k in range(5, 13))
    assert len(chunks) == len(set(chunks))
    monkeypatch.undo()
    assert romzarr.verify(store, path).ok
    assert report.raw_bytes == record().nbytes
    assert xr.open_dataset(store, engine="romzarr").time.identical(
        xr.open_zarr(path, consolidated=False).time
    )


def test_night_after_night(tmp_path):
    path, store = archive(tmp_path, 21), tmp_path / "store"
    romzarr.compress(path, store, tolerance=TOLERANCE)
    for snapshots in (22, 30, 53, 100):
        path = grow(path, snapshots)
        romzarr.append(store, path)
        assert romzarr.verify(store, path).ok
    before = content(store)
    assert romzarr.append(store, path).appended == 0
    assert content(store) == before


def test_changed_history_is_named_by_its_first_time(grown, tmp_path):
    _, store = grown
    before = content(store)
    with pytest.raises(ArchiveError, match=r"changed: time\[17\] is 2001-01-01T17:30"):
        romzarr.append(store, archive(tmp_path, 100, shifted(record(), 17)))
    with pytest.raises(ArchiveError, match=r"missing: it ends before time\[30\].*2001-01-02T06"):
        romzarr.append(store, archive(tmp_path, 30))
    source = record()
    source["u"][26, :] = np.random.default_rng(0).random(40)
    with pytest.raises(ArchiveError, match=r"changed at time\[26\] \(2001-01-02T02"):
        romzarr.append(store, archive(tmp_path, 100, source))
    with pytest.raises(ArchiveError, match=r"'v'.*missing"):
        romzarr.append(store, archive(tmp_path, 100, record().drop_vars("v")))
    assert content(store) == before


def shifted(source: xr.Dataset, number: int) -> xr.Dataset:
    """One time a little later."""
    times = source.time.values.copy()
    times[number] += np.timedelta64(30, "m")
    return source.assign_coords(time=times)


def test_what_cannot_be_appended_to_says_so(tmp_path):
    path = archive(tmp_path, 40)
    romzarr.compress(path, tmp_path / "exact", tolerance=0)
    with pytest.raises(ConfigError, match="lossless"):
        romzarr.append(tmp_path / "exact", archive(tmp_path, 100))


def test_the_command_appends(grown, capsys):
    path, store = grown
    assert main(["append", str(store), str(path)]) == 0
    assert "60 snapshots, now 100" in capsys.readouterr().out
    assert main(["equations", str(store), "--modes"]) == 0
    assert "a1' = " in capsys.readouterr().out
    assert main(["append", str(store), str(path), "--json"]) == 0
    assert '"appended": 0' in capsys.readouterr().out
    assert main(["append", str(store), str(path.parent / "nothing.zarr")]) == 1


KILLER = """
import os, random, signal, sys, time
import dask, numpy, scipy.linalg, xarray, zarr
import romzarr.operations.append, romzarr.operations.verify
import romzarr.store.reading.engine, xarray.backends.zarr
from romzarr.store.reading.reader import open_store

archive, store, note = sys.argv[1:4]
kills, first, last = map(int, sys.argv[4:])
dask.config.set(scheduler="synchronous")

def in_child(work):
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)

def appended():
    romzarr.append(store, archive, commit_steps=16)

def wait_for_commits(pid, count):
    # Until so many more roots have been put in place, or the child has ended.
    root = os.path.join(store, "zarr.json")
    seen = os.stat(root).st_ino, os.stat(root).st_mtime_ns
    while count and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        now = os.stat(root).st_ino, os.stat(root).st_mtime_ns
        count -= now != seen
        seen = now
        time.sleep(0.0005)

def check(least):
    found = open_store(store)
    found.check_files()
    assert found.snapshots >= least, (found.snapshots, least)
    assert numpy.isfinite(found.decode("v", slice(None, None, 9), [slice(None)])).all()
    open(note, "w").write(str(found.snapshots))

random.seed(0)
# How long an undisturbed run takes here; it fills what threads and caches there are.
os.system(f"cp -r {store} {store}-first")
began = time.monotonic()
assert os.waitpid(in_child(appended), 0)[1] == 0
whole = time.monotonic() - began
os.rename(store, f"{store}-quiet")
killed, rounds, seen = 0, 0, set()
while killed < kills:
    os.system(f"cp -r {store}-first {store}")
    least = first
    while least < last:
        pid = in_child(appended)
        # Often soon after one of the next commits, however long these take here; and sometimes at
        # any time: while it closes what it appended, or not at all.
        if random.random() < 0.75:
            wait_for_commits(pid, random.choice((0, 1, 1, 2)))
            time.sleep(random.uniform(0, 0.05 * whole))
        else:
            time.sleep(random.uniform(0, 2.0 * whole))
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        assert status in (0, signal.SIGKILL), status
        killed += status == signal.SIGKILL
        assert os.waitpid(in_child(lambda: check(least)), 0)[1] == 0
        least = int(open(note).read())
        seen.add(least)
    assert os.waitpid(in_child(appended), 0)[1] == 0
    os.rename(store, f"{store}-{rounds}")
    rounds += 1
print(killed, rounds, len(seen))
"""


@pytest.mark.slow
def test_kill_9_at_any_moment_leaves_the_last_commit_and_the_next_run_goes_on(tmp_path):
    """At least fifty kills, between commits and in the midst of them; every end is that of an
    undisturbed run."""
    store, whole = tmp_path / "store", record(140)
    path = archive(tmp_path, 24, whole)
    romzarr.compress(path, store, tolerance=TOLERANCE)
    grow(path, 140, whole)
    done = subprocess.run(
        [sys.executable, "-c", KILLER, path, store, tmp_path / "note", "50", "24", "140"],
        env=os.environ | {"PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    killed, rounds, seen = map(int, done.stdout.split())
    assert killed >= 50
    # Killed runs had got as far as many different commits.
    assert seen >= 5
    expected = xr.open_dataset(tmp_path / "store-quiet", engine="romzarr").load()
    rank = open_store(tmp_path / "store-quiet").last.rank
    for number in range(rounds):
        end = tmp_path / f"store-{number}"
        assert romzarr.verify(end, path).ok
        found, opened = xr.open_dataset(end, engine="romzarr").load(), open_store(end)
        for name in ("u", "v"):
            apart = np.linalg.norm(found[name] - expected[name])
            spread = np.linalg.norm(expected[name] - expected[name].mean("time"))
            # Both are closed, and each may be as far from the archive as that.
            assert apart <= 2 * TOLERANCE * spread
        assert found.time.identical(expected.time)
        assert opened.last.rank <= rank + 2
        assert {entry.name for entry in end.iterdir()} == {*opened.root.named, "zarr.json"}
    assert not [entry for entry in os.listdir(tmp_path) if entry.startswith(".")]


def test_a_bound_that_is_spent_lets_append_what_hardly_moves(tmp_path):
    """Later snapshots may be off by what they fluctuate by themselves, however little."""
    t, x = np.arange(400) * 0.05, np.linspace(0, 2 * np.pi, 300)
    waves = sum(np.outer(np.sin((1 + k) * t), np.cos((k + 1) * x)) for k in range(6))
    u = (300 + np.exp(-t)[:, None] * waves).astype(np.float32)
    source = xr.Dataset({"u": (("time", "x"), u)}, {"time": t})
    romzarr.compress(source.isel(time=slice(100)), tmp_path / "store", tolerance=1e-3)
    for stop in (120, 200, 203, 310, 400):
        report = romzarr.append(tmp_path / "store", source.isel(time=slice(stop)))
        known = source.u.values[:stop].astype(np.float64)
        found = xr.open_dataset(tmp_path / "store", engine="romzarr").u.values.astype(np.float64)
        error = np.linalg.norm(found - known) / np.linalg.norm(known - known.mean(axis=0))
        assert error <= report.relative_l2_error["u"] <= 1e-3


@pytest.mark.parametrize("noise", [0, 1e-9, 1e-3])
def test_what_has_come_to_rest_is_appended(tmp_path, noise):
    """The bound of the whole store may leave such snapshots so much room that no mode is needed."""
    t, x = np.arange(300) * 0.1, np.linspace(0, 2 * np.pi, 200)
    u = np.outer(np.sin(t), np.cos(x)) + np.outer(np.cos(1.7 * t), np.sin(2 * x))
    u[100:] = u[99] + noise * np.random.default_rng(0).standard_normal((200, 200))
    source = xr.Dataset({"u": (("time", "x"), u)}, {"time": t})
    romzarr.compress(source.isel(time=slice(100)), tmp_path / "store", tolerance=0.1)
    for stop in (150, 151, 300):
        report = romzarr.append(tmp_path / "store", source.isel(time=slice(stop)))
        found = xr.open_dataset(tmp_path / "store", engine="romzarr").u.values
        known = u[:stop]
        error = np.linalg.norm(found - known) / np.linalg.norm(known - known.mean(axis=0))
        assert error <= report.relative_l2_error["u"] <= 0.1

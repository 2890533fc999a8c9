"""A store appears whole or not at all, and what was there stays until then."""

import contextlib
import errno
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import fsspec
import numpy as np
import pytest
import xarray as xr
import zarr

from romzarr.errors import StoreError, StoreExistsError
from romzarr.store import commit
from romzarr.store.reading.engine import RomzarrBackendEntrypoint
from romzarr.store.reading.reader import open_store
from romzarr.store.writing.writer import StoreWriter

HERE = Path(__file__).parent


def opened(path):
    return xr.open_dataset(path, engine=RomzarrBackendEntrypoint).load()


def assert_holds(path, example):
    np.testing.assert_allclose(opened(path)["u"], example.dataset["u"], rtol=1e-6)


def everything(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def test_a_store_in_place_is_refused_and_untouched(make, write, small):
    example, path = small
    before = everything(path.parent)
    with pytest.raises(StoreExistsError, match="pass overwrite=True"):
        write(make(seed=1), path)
    assert everything(path.parent) == before
    assert_holds(path, example)


@pytest.fixture
def nothing_kept(monkeypatch):
    """Remove generations as soon as they are replaced."""
    monkeypatch.setattr(commit, "RETENTION", timedelta(seconds=-1))


@pytest.mark.usefixtures("nothing_kept")
def test_overwriting_replaces_and_leaves_one_generation(make, write, small):
    _, path = small
    (path / "notes.txt").write_text("mine")
    other = make(seed=1)
    write(other, path, overwrite=True)
    assert_holds(path, other)
    assert len(list(path.glob("2*"))) == 1
    assert (path / "notes.txt").exists()
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("kind", ["file", "folder", "zarr"])
def test_what_is_not_a_store_is_never_replaced(make, write, tmp_path, kind):
    target = tmp_path / "data"
    if kind == "file":
        target.write_text("precious")
    elif kind == "folder":
        (target / "deep").mkdir(parents=True)
    else:
        zarr.create_group(target)
    with pytest.raises(StoreExistsError):
        write(make(), target)
    with pytest.raises(StoreError, match="not a romzarr store"):
        write(make(), target, overwrite=True)
    assert os.listdir(tmp_path) == ["data"]


def test_an_empty_folder_may_be_overwritten(make, write, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreExistsError):
        write(make(), tmp_path / "empty")
    write(make(), tmp_path / "empty", overwrite=True)
    assert_holds(tmp_path / "empty", make())


@pytest.mark.parametrize("target", ["a/archive.zarr", "a/archive.zarr/u/x", "a", "a/../a/link"])
def test_the_archive_is_never_written_to(tmp_path, target):
    archive = tmp_path / "a" / "archive.zarr"
    archive.mkdir(parents=True)
    (tmp_path / "a" / "link").symlink_to(archive)
    with pytest.raises(StoreError, match="overlaps with the archive"):
        StoreWriter(tmp_path / target, overwrite=True, forbid=[archive])
    StoreWriter(tmp_path / "a" / "archive.zarr2", forbid=[archive])


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, MemoryError, SystemExit])
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_interrupted_writer_leaves_nothing(make, write, small, interruption, overwrite):
    example, path = small
    target = path if overwrite else path.parent / "new" / "deep" / "store"
    before = everything(path.parent)

    def interrupt():
        raise interruption

    with pytest.raises(interruption):
        write(make(seed=1), target, overwrite=overwrite, before_commit=interrupt)
    assert everything(path.parent) == before
    assert_holds(path, example)


class DiskFullError(Exception):
    """A StoreError that says so."""


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_full_disk_at_any_write_leaves_what_was(make, write, small, monkeypatch, overwrite):
    example, path = small
    target, other = path if overwrite else path.parent / "new", make(seed=1)
    before = everything(path.parent)
    countdown = [0]

    def fail_at_zero():
        countdown[0] -= 1
        if countdown[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    put = zarr.storage.LocalStore.set
    flush, rename, replace = commit.write_flushed, os.rename, os.replace

    async def put_or_fail(self, *args):
        fail_at_zero()
        await put(self, *args)

    monkeypatch.setattr(zarr.storage.LocalStore, "set", put_or_fail)
    for name, original in (("rename", rename), ("replace", replace)):
        monkeypatch.setattr(
            commit.os, name, lambda *args, original=original: (fail_at_zero(), original(*args))
        )
    monkeypatch.setattr(commit, "write_flushed", lambda *args: (fail_at_zero(), flush(*args)))

    def write_or_fail(target):
        try:
            write(other, target, overwrite=overwrite)
        except StoreError as error:
            raise (DiskFullError if "No space left" in str(error) else error) from None

    failures = 0
    while True:
        countdown[0] = failures + 1
        with contextlib.suppress(DiskFullError):
            write_or_fail(target)
            break
        failures += 1
        assert everything(path.parent) == before
        assert_holds(path, example)
    # At least one write for each chunk, the metadata, and the moves.
    assert failures > 20
    assert_holds(target, other)


def test_a_store_without_all_its_chunks_is_not_committed(make, write, tmp_path, monkeypatch):
    monkeypatch.setattr("romzarr.store.writing.tiles.TileWriter.write_tile", lambda *args: None)
    with pytest.raises(StoreError, match="0 of 1 chunks"):
        write(make(), tmp_path / "s")
    assert not os.listdir(tmp_path)


@pytest.mark.usefixtures("nothing_kept")
def test_two_writers_at_once_leave_the_later_one(make, write, small):
    _, path = small
    early, late = make(seed=1), make(seed=2)
    write(early, path, True, before_commit=lambda: write(late, path, True))
    assert_holds(path, early)
    assert len(list(path.glob("2*"))) == 1
    assert os.listdir(path.parent) == [path.name]


def test_a_fresh_store_that_appeared_meanwhile_is_not_replaced(make, write, tmp_path):
    other = make(seed=1)
    with pytest.raises(StoreExistsError):
        write(make(), tmp_path / "s", before_commit=lambda: write(other, tmp_path / "s"))
    assert_holds(tmp_path / "s", other)
    assert os.listdir(tmp_path) == ["s"]


# One process that has imported everything forks writers and kills them: a kill a second would
# be an import a second otherwise. Zarr starts no thread before the first fork.
KILLER = """
import os, random, signal, sys, time, warnings
sys.path.insert(0, sys.argv[2])
import conftest, numpy as np, xarray as xr
from romzarr.store.reading.engine import RomzarrBackendEntrypoint as Engine

target, fresh, kills = sys.argv[1], sys.argv[3] == "fresh", int(sys.argv[4])
examples = [conftest.make_example(seed=n) for n in range(3)]

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

def keep_writing():
    while True:
        for number, example in enumerate(examples):
            path = f"{target}-{number}-{time.monotonic_ns()}" if fresh else target
            conftest.write_example(example, path, overwrite=not fresh)

def is_one_of_them(path):
    found = xr.open_dataset(path, engine=Engine).load()
    assert any(np.allclose(found["u"], e.dataset["u"], rtol=1e-5, equal_nan=True)
               and np.allclose(found["v"], e.dataset["v"], rtol=1e-5, equal_nan=True)
               for e in examples)

def stores():
    return {n for n in os.listdir(os.path.dirname(target)) if not n.startswith(".")}

def check(names):
    for name in names:
        is_one_of_them(os.path.join(os.path.dirname(target), name))

random.seed(int(sys.argv[5]))
if not fresh:
    assert os.waitpid(in_child(lambda: conftest.write_example(examples[0], target)), 0)[1] == 0
checked = set()
for _ in range(kills):
    pid = in_child(keep_writing)
    time.sleep(random.uniform(0.02, 0.35))
    os.kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL, "the writer failed before it was killed"
    # No writer touches the stores that others have finished under other names.
    new = stores() - checked if fresh else stores()
    assert os.waitpid(in_child(lambda: check(new)), 0)[1] == 0
    checked |= new
assert os.waitpid(in_child(lambda: check(stores())), 0)[1] == 0
# The next writer for the same name removes what the killed ones left.
for leftover in {n[1:].split(".partial-")[0] for n in os.listdir(os.path.dirname(target))
                 if n.startswith(".")}:
    path = os.path.join(os.path.dirname(target), leftover)
    work = lambda: conftest.write_example(examples[0], path, overwrite=True)
    assert os.waitpid(in_child(work), 0)[1] == 0
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fresh", "overwrite"])
def test_kill_9_at_any_moment_leaves_a_whole_store(tmp_path, kind):
    target = tmp_path / "store"
    root = str(HERE.parents[1])
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(target), str(HERE), kind, "25", "0"],
        env=os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    left = [name for name in os.listdir(tmp_path) if name.startswith(".")]
    assert not left
    for store in tmp_path.iterdir():
        assert {entry.name for entry in store.glob("2*")} == open_store(store).root.named


def leftover(path):
    """What a writer killed just before its commit leaves."""
    crashed = commit.LocalCommit(path, "20200101T000000-00000000", True)
    crashed.begin()
    (Path(crashed.url) / "chunk").write_bytes(b"half")
    return crashed


def test_leftovers_of_the_living_stay_and_of_the_dead_go(make, write, small):
    _, path = small
    crashed = leftover(path)
    write(make(seed=1), path, overwrite=True)
    assert (Path(crashed.url) / "chunk").exists()
    os.close(crashed._lock)  # what the kernel does when a process dies
    write(make(seed=1), path, overwrite=True)
    assert os.listdir(path.parent) == [path.name]


def test_a_generation_moved_in_by_a_writer_that_died_is_removed(make, write, small):
    example, path = small
    crashed = leftover(path)
    os.rename(crashed.url, path / crashed.generation)
    assert_holds(path, example)
    os.close(crashed._lock)
    write(make(seed=1), path, overwrite=True)
    assert not (path / crashed.generation).exists()
    assert os.listdir(path.parent) == [path.name]


@pytest.fixture
def bucket():
    fs = fsspec.filesystem("memory")
    yield "memory://bucket/store.romzarr"
    fs.rm("/bucket", recursive=True)


@pytest.mark.usefixtures("nothing_kept")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_store_at_a_url_is_replaced_in_one_put(make, write, bucket):
    write(make(), bucket)
    assert_holds(bucket, make())
    with pytest.raises(StoreExistsError):
        write(make(seed=1), bucket)
    write(make(seed=1), bucket, overwrite=True)
    assert_holds(bucket, make(seed=1))
    names = fsspec.filesystem("memory").ls("/bucket/store.romzarr", detail=False)
    assert len(names) == 2

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(make(), bucket, overwrite=True, before_commit=interrupt)
    assert fsspec.filesystem("memory").ls("/bucket/store.romzarr", detail=False) == names
    assert open_store(bucket).stored_bytes() > 0


def test_other_data_at_a_url_are_never_replaced(make, write, bucket):
    fsspec.filesystem("memory").pipe_file("/bucket/store.romzarr/precious", b"1")
    with pytest.raises(StoreError, match="contains other data"):
        write(make(), bucket, overwrite=True)

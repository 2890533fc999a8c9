"""A stamp changes with every write and with nothing else; what changed while read is refused."""

import os
import shutil
import threading

import fsspec
import numpy as np
import pytest
import xarray as xr

import romzarr
from romzarr.archive import open_archive
from romzarr.archive.stamp import files_of, stamp_of, unchanging
from romzarr.errors import ArchiveError, PipelineError


def archive(path, values=None):
    values = np.random.default_rng(0).normal(size=(8, 6)) if values is None else values
    dataset = xr.Dataset({"u": (("time", "x"), values)}, {"time": np.arange(len(values))})
    # Without compression a rewritten chunk is as long as before.
    encoding = {"u": {"chunks": (4, 6), "compressors": None}}
    dataset.to_zarr(path, encoding=encoding, consolidated=False, mode="w")
    return path


def rewrite(path):
    """The same number of bytes, others: a fingerprint made of sizes does not see it."""
    content = bytearray(path.read_bytes())
    content[8:16] = np.float64(77.0).tobytes()
    path.write_bytes(content)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def test_reading_changes_nothing_and_a_moved_archive_has_the_same_stamp(tmp_path):
    path = archive(tmp_path / "a.zarr")
    first = stamp_of(str(path))
    open_archive(path)
    assert stamp_of(str(path)) == first
    shutil.copytree(path, tmp_path / "b.zarr")  # copies times too
    assert stamp_of(str(tmp_path / "b.zarr")) == first


@pytest.mark.parametrize(
    "change",
    [
        lambda path: rewrite(path / "u" / "c" / "1" / "0"),
        lambda path: (path / "u" / "c" / "1" / "0").unlink(),
        lambda path: (path / "note.txt").write_text("new"),
        lambda path: (path / "u" / "c" / "1").rename(path / "u" / "c" / "7"),
        lambda path: os.utime(path / "zarr.json", ns=(0, 0)),
    ],
    ids=["rewritten", "removed", "added", "renamed", "clock went back"],
)
def test_every_write_changes_the_stamp(tmp_path, change):
    path = archive(tmp_path / "a.zarr")
    first = stamp_of(str(path))
    change(path)
    assert stamp_of(str(path)) != first


def test_a_chunk_of_the_same_size_changes_the_stamp_but_not_the_fingerprint(tmp_path):
    path = archive(tmp_path / "a.zarr")
    first = open_archive(path)
    rewrite(path / "u" / "c" / "1" / "0")
    second = open_archive(path)
    assert first.fingerprint == second.fingerprint  # why there are stamps
    assert first.stamp != second.stamp


def test_objects_are_told_apart_by_what_their_store_calls_a_version():
    system = fsspec.filesystem("memory")
    system.pipe_file("/bucket/a.zarr/u/c/0", b"12345678")
    system.pipe_file("/bucket/a.zarr.old/u/c/0", b"1")
    location = "memory://bucket/a.zarr"
    assert [(f.path, f.nbytes) for f in files_of(location)] == [("u/c/0", 8)]
    first = stamp_of(location)
    system.pipe_file("/bucket/a.zarr/u/c/0", b"87654321")
    assert stamp_of(location) != first


def test_an_archive_that_cannot_be_listed_is_named(tmp_path):
    with pytest.raises(ArchiveError, match=r"gone\.zarr' cannot be listed .*No such file"):
        stamp_of(str(tmp_path / "gone.zarr"))


@pytest.mark.parametrize("tolerance", [0.0, 1e-2], ids=["lossless", "lossy"])
def test_an_archive_written_to_while_it_is_read_is_not_stored(tmp_path, monkeypatch, tolerance):
    """A writer at work in the middle of the reading, on the chunk that is read last."""
    rows = np.linspace(0, 6, 8)[:, None] + np.arange(6)
    path = archive(tmp_path / "a.zarr", np.sin(rows))
    real, wrote = romzarr.archive.zarr_source.ZarrReader.read, threading.Event()

    def read_and_write(self, region, absent=frozenset()):
        if not wrote.is_set():
            wrote.set()
            rewrite(path / "u" / "c" / "1" / "0")
        return real(self, region, absent)

    monkeypatch.setattr(romzarr.archive.zarr_source.ZarrReader, "read", read_and_write)
    with pytest.raises(ArchiveError, match=r"changed while it was read \(last write: 'u/c/1/0"):
        romzarr.compress(path, tmp_path / "store", tolerance=tolerance)
    assert os.listdir(tmp_path) == ["a.zarr"]
    romzarr.compress(path, tmp_path / "store", tolerance=tolerance)
    assert romzarr.verify(tmp_path / "store", path).ok


def test_a_chunk_that_fails_because_it_is_being_written_is_told_as_that(tmp_path):
    path = archive(tmp_path / "a.zarr")
    stamp = stamp_of(str(path))

    def half_written():
        with unchanging([str(path)], stamp):
            (path / "u" / "c" / "1" / "0").write_bytes(b"half")
            raise PipelineError("chunk u/c/1/0 cannot be decoded")

    with pytest.raises(ArchiveError, match="changed while it was read") as caught:
        half_written()
    assert "cannot be decoded" in str(caught.value.__cause__)


def test_a_failure_of_another_kind_stays_what_it_is(tmp_path):
    path = archive(tmp_path / "a.zarr")
    with pytest.raises(ZeroDivisionError), unchanging([str(path)], stamp_of(str(path))):
        raise ZeroDivisionError


def test_data_in_memory_has_no_stamp_and_is_never_refused():
    dataset = xr.Dataset({"u": (("time", "x"), np.eye(5))}, {"time": np.arange(5)})
    opened = open_archive(dataset)
    with opened.unchanging():
        dataset["u"][0, 0] = 7
    assert opened.stamp == ""

"""An old value that is changed is named by its snapshot; what is only written anew is accepted."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.storage import LocalStore

import romzarr
from romzarr.archive import open_archive
from romzarr.archive.history import Stored, history_of, mark, suspicious
from romzarr.archive.location import process_store
from romzarr.comparison.changes import Resolution, SnapshotErrors, first_difference
from romzarr.contracts import BlockSpan
from romzarr.errors import ArchiveError, ChunkError
from romzarr.store.reading.reader import open_store
from tests.oracles import files_below

TOLERANCE = 1e-2
OLD, NEW, CHUNK = 45, 64, 8


def record() -> xr.Dataset:
    t, x = np.arange(NEW)[:, None], np.linspace(0, 1, 40)
    noise = 0.006 * np.random.default_rng(0).standard_normal((NEW, 40))
    days = np.datetime64("2001-01-01", "ns") + np.arange(NEW) * np.timedelta64(1, "D")
    return xr.Dataset(
        {
            "u": (("time", "x"), (np.sin(0.3 * t - 5 * x) + noise).astype(np.float32)),
            "v": (("time", "x"), 5 + np.cos(0.3 * t) * x),
            "still": (("time", "x"), np.full((NEW, 40), 0.1)),
        },
        {"time": days},
    )


def changed(number: int, by: float = 1.0) -> xr.Dataset:
    """The record with one value off."""
    source = record()
    source["u"][number, number % 40] += by
    return source


def zarr_written(place: Path, source: xr.Dataset, **options) -> Path:
    codecs = options.pop("codecs", {})
    encoding = {name: {"chunks": (CHUNK, 40), **codecs} for name in source.data_vars}
    encoding["time"] = {"units": "hours since 2001-01-01"}
    path = place / "a.zarr"
    source.to_zarr(path, mode="w", encoding=encoding, consolidated=False, **options)
    return path


def netcdf(place: Path, source: xr.Dataset) -> Path:
    source.to_netcdf(place / "a.nc", engine="h5netcdf", unlimited_dims=["time"])
    return place / "a.nc"


PLAIN = {"codecs": {"compressors": None}}
SOURCES = {
    "zarr 3": zarr_written,
    "zarr 3 as it is": lambda place, source: zarr_written(place, source, **PLAIN),
    "zarr 2": lambda place, source: zarr_written(place, source, zarr_format=2),
    "zip": lambda place, source: zipped(zarr_written(place, source)),
    "netcdf": netcdf,
    "numpy": lambda place, source: source,
    "dask": lambda place, source: source.chunk(time=CHUNK, x=20),
}


def zipped(path: Path) -> str:
    process_store.cache_clear()  # as in a new process, which opens what is there now
    return shutil.make_archive(str(path), "zip", path)


def old(source: xr.Dataset) -> xr.Dataset:
    return source.isel(time=slice(OLD))


def content(store: Path) -> dict[str, bytes]:
    return {file: Path(file).read_bytes() for file in files_below(store)}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """An archive of the old snapshots, not compressed, and its store."""
    place = tmp_path_factory.mktemp("kept")
    path = zarr_written(place, old(record()), **PLAIN)
    romzarr.compress(path, place / "store", tolerance=TOLERANCE)
    return place


@pytest.fixture
def compressed(kept, tmp_path):
    """Copies of both, whose files have the times of the first."""
    shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    return tmp_path / "a.zarr", tmp_path / "store"


def grow(path: Path) -> None:
    """The new snapshots, and no byte of the old ones; the last old chunk is written anew."""
    record().isel(time=slice(OLD, NEW)).to_zarr(path, append_dim="time", consolidated=False)


@pytest.mark.parametrize("kind", SOURCES)
def test_any_changed_value_is_named_by_its_snapshot(tmp_path, kind):
    write, store = SOURCES[kind], tmp_path / "store"
    romzarr.compress(write(tmp_path, old(record())), store, tolerance=TOLERANCE)
    before = content(store)
    # The least of these changes is no more than all errors of the store together. One is where a
    # chunk begins; the last chunk of the old archive was not full; an archive need not have grown.
    cases = [(0, 1.0, NEW), (16, 0.2, NEW), (29, 0.2, NEW), (29, 1.0, OLD), (OLD - 1, 0.2, NEW)]
    for number, by, snapshots in cases:
        source = changed(number, by).isel(time=slice(snapshots))
        time = str(source.time.values[number])[:10]
        with pytest.raises(ArchiveError, match=rf"changed at time\[{number}\] \({time}.*'u'"):
            romzarr.append(store, write(tmp_path, source))
    assert content(store) == before
    source = write(tmp_path, record())
    assert romzarr.append(store, source).appended == NEW - OLD
    assert romzarr.verify(store, source).ok


@pytest.mark.parametrize("number", [*range(CHUNK, OLD, CHUNK), 23, OLD - 1])
def test_a_change_is_seen_where_nothing_but_its_chunk_is_read(compressed, number):
    path, store = compressed
    start = number // CHUNK * CHUNK
    span = slice(start, min(start + CHUNK, OLD))
    written = changed(number, 0.2)[["u"]].isel(time=span).drop_vars("time")
    written.to_zarr(path, region={"time": span, "x": slice(0, 40)}, consolidated=False)
    with pytest.raises(ArchiveError, match=rf"changed at time\[{number}\] .*'u'"):
        romzarr.append(store, path)


def test_a_change_less_than_what_the_store_resolves_counts_as_none(compressed, tmp_path):
    _, store = compressed
    source = zarr_written(tmp_path, changed(17, 1e-3), **PLAIN)
    assert romzarr.append(store, source).appended == NEW - OLD


def test_the_least_change_of_what_never_changes_is_named(compressed):
    _, store = compressed
    source = record()
    source["still"][12, 3] += 1e-15
    with pytest.raises(ArchiveError, match=r"changed at time\[12\].*'still'"):
        romzarr.append(store, source)


# --- what is only written anew ------------------------------------------------------------


def chunks_read(monkeypatch, path: Path, store: Path) -> list[str]:
    """Chunks of an archive that an append reads."""
    seen, get = [], LocalStore.get

    async def noted(self, key, *args, **kwargs):
        if str(self.root) == str(path) and "/c/" in key and not key.startswith("time"):
            seen.append(key)
        return await get(self, key, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "get", noted)
        patch.setattr(LocalStore, "get_sync", None, raising=False)
        romzarr.append(store, path)
    return seen


def keys(*numbers: int) -> set[str]:
    return {f"{name}/c/{number}/0" for name in ("u", "v", "still") for number in numbers}


def test_only_stretches_that_were_written_to_are_read_and_once_only(compressed, monkeypatch):
    path, store = compressed
    assert chunks_read(monkeypatch, path, store) == []
    os.utime(path / "u" / "c" / "2" / "0")
    before = content(store)
    assert set(chunks_read(monkeypatch, path, store)) == keys(2)
    assert content(store) == before
    grow(path)
    assert set(chunks_read(monkeypatch, path, store)) == keys(2, 5, 6, 7)
    assert chunks_read(monkeypatch, path, store) == []


def recompressed(path: Path) -> None:
    source = xr.open_zarr(path, consolidated=False).load().drop_encoding()
    zarr_written(path.parent, source, codecs={"compressors": zarr.codecs.GzipCodec()})


def copied(path: Path) -> None:
    shutil.copytree(path, path.parent / "copy", copy_function=shutil.copy)
    shutil.rmtree(path)
    (path.parent / "copy").rename(path)


def touched(path: Path) -> None:
    for file in files_below(path):
        os.utime(file)


@pytest.mark.parametrize("rewrite", [recompressed, copied, touched])
def test_what_is_only_written_anew_is_accepted_and_believed_from_then_on(
    compressed, monkeypatch, rewrite
):
    path, store = compressed
    grow(path)
    rewrite(path)
    assert set(chunks_read(monkeypatch, path, store)) == keys(*range(8))
    assert chunks_read(monkeypatch, path, store) == []
    assert open_store(store).snapshots == NEW


def test_a_copy_with_a_changed_value_is_refused(compressed):
    path, store = compressed
    grow(path)
    copied(path)
    chunk = path / "u" / "c" / "3" / "0"
    values = np.frombuffer(chunk.read_bytes(), "f4").copy()
    values[3 * 40 + 7] = np.nan
    chunk.write_bytes(values.tobytes())
    with pytest.raises(ArchiveError, match=r"changed at time\[27\] \(2001-01-28.*'u': NaN is"):
        romzarr.append(store, path)


def test_of_a_long_dask_array_a_few_blocks_are_computed_and_all_of_numpy(tmp_path, monkeypatch):
    monkeypatch.setattr("romzarr.archive.blocks.PIECE_BYTES", 2**13)
    length, read = 4096, []
    times = np.arange(length)
    source = xr.Dataset({"u": (("time", "x"), np.sin(0.1 * times[:, None] + np.arange(4)))})
    source = source.assign_coords(time=times)
    romzarr.compress(source, tmp_path / "store", tolerance=0)  # fast

    def noted(block, block_info=None):
        read.append(block_info[0]["chunk-location"][0])
        return block

    lazy = source.chunk(time=16)
    lazy["u"] = lazy.u.copy(data=lazy.u.data.map_blocks(noted, dtype=float))
    for _ in range(2):
        assert romzarr.append(tmp_path / "store", lazy).appended == 0
    assert {0, length // 16 - 1} <= set(read)
    assert len(read) == len(set(read)) * 2 <= length // 16
    unseen = 16 * min(set(range(length // 16)) - set(read))
    source["u"][unseen, 2] = 5
    assert romzarr.append(tmp_path / "store", source.chunk(time=16)).appended == 0
    with pytest.raises(ArchiveError, match=rf"changed at time\[{unseen}\]"):
        romzarr.append(tmp_path / "store", source)
    source["u"][unseen, 2] = np.sin(0.1 * unseen + 2)
    source["u"][length - 1, 2] = 5
    with pytest.raises(ArchiveError, match=rf"changed at time\[{length - 1}\]"):
        romzarr.append(tmp_path / "store", source.chunk(time=16))


# --- what is missing, or means something else ---------------------------------------------


def test_a_lost_chunk_is_named_by_its_time(compressed):
    path, store = compressed
    grow(path)
    (path / "u" / "c" / "3" / "0").unlink()
    with pytest.raises(ChunkError, match=r"'u/c/3/0'.*begins at time\[24\] \(2001-01-25"):
        romzarr.append(store, path)
    fill = romzarr.Config(archive=romzarr.config.ArchiveConfig(missing_chunks="fill"))
    with pytest.raises(ArchiveError, match=r"changed at time\[24\] \(2001-01-25"):
        romzarr.append(store, path, config=fill)


def test_chunks_that_mean_something_else_are_read(tmp_path):
    packed = {"dtype": "i2", "scale_factor": 1e-3, "_FillValue": -9999}
    path = zarr_written(tmp_path, record()[["u"]], codecs=packed)
    store = tmp_path / "store"
    romzarr.compress(path, store, tolerance=TOLERANCE)
    zarr.open_array(path / "u", mode="r+").attrs["scale_factor"] = 2e-3
    with pytest.raises(ArchiveError, match=r"changed at time\[0\]"):
        romzarr.append(store, path)


def test_values_of_a_lossless_store_are_compared_to_the_bit(tmp_path):
    store = tmp_path / "store"
    romzarr.compress(record(), store, tolerance=0)
    assert romzarr.append(store, record()).appended == 0
    with pytest.raises(ArchiveError, match=r"changed at time\[31\].*'u'"):
        romzarr.append(store, changed(31, 1e-6))


# --- histories ----------------------------------------------------------------------------


def marks(count: int, length: int = 10, **written: int) -> dict[str, list]:
    return {
        "u": [
            mark((i + 1) * length, {f"u/{i}": Stored(9, str(written.get(f"c{i}", 0)))}, "")
            for i in range(count)
        ]
    }


def test_a_history_is_short_and_its_last_chunk_stands_alone():
    for count in (1, 2, 7, 8, 9, 100):
        history = history_of(marks(count), 10 * count)
        assert len(history) <= 8
        assert history[-1][0] == 10 * count
        assert count == 1 or history[-2][0] == 10 * (count - 1)
        assert suspicious(marks(count + 3), history, 10 * count) == []
    assert history_of({}, 10) == []


def test_stretches_written_to_are_found_and_others_are_not():
    history = history_of(marks(100), 1000)
    (span,) = suspicious(marks(100, c50=1), history, 1000)
    assert span.start <= 500 < 510 <= span.stop
    assert len(span) < 200
    assert suspicious(marks(100, c99=1), history, 1000) == [BlockSpan(990, 1000)]
    # What no chunk vouched for, and stores that know sizes only.
    assert suspicious(marks(100), history, 1007) == [BlockSpan(1000, 1007)]
    sizes = [entry[:2] for entry in history]
    assert suspicious(marks(100, c50=1), sizes, 1000) == []
    assert suspicious(marks(100, 11), sizes, 1000) == [BlockSpan(0, 1000)]


def test_the_facts_of_a_store_have_both_checksums(compressed):
    path, store = compressed
    history = open_store(store).facts["source"]["history"]
    assert history == open_archive(path).source_facts(OLD)["history"]
    assert [len(entry) for entry in history] == [3] * 6


# --- what cannot be the store's -----------------------------------------------------------


def errors_of(sizes, noise=1e-3, points=50) -> SnapshotErrors:
    """Errors of snapshots that are all of one size each, but for some noise."""
    chance = np.random.default_rng(0)
    values = np.asarray(sizes)[:, None] * (1 + noise * chance.standard_normal((1, points)))
    number = len(values)
    return SnapshotErrors(
        numbers=np.arange(number),
        squares=(values**2).sum(axis=1),
        peaks=abs(values).max(axis=1),
        largest=abs(values).max(axis=1),
        unlike=np.zeros(number, bool),
        points=np.full(number, points),
        values=np.full(number, points),
    )


def resolved(errors: SnapshotErrors) -> Resolution:
    squares = float(errors.squares.sum()) * 1.1
    return Resolution(squares, np.inf, (squares / errors.points.sum()) ** 0.5, np.zeros(1, int))


@pytest.mark.parametrize(
    "sizes",
    [
        np.ones(1000),
        np.r_[np.full(900, 1e-6), np.ones(100)],  # another regime
        1e-4 + np.exp(-(((np.arange(1000) - 500) / 3) ** 2)),  # a burst
        np.exp(-np.arange(1000) / 20),  # a transient
        np.r_[12.0, np.ones(999)],  # a jolt at the start
    ],
)
def test_errors_that_a_store_has_are_no_changes(sizes):
    errors = errors_of(sizes)
    assert first_difference(errors, resolved(errors)) is None


def test_a_run_of_changed_snapshots_is_named_by_its_first():
    before = errors_of(np.ones(1000))
    sizes = np.ones(1000)
    sizes[617:] = 12.0
    found = first_difference(errors_of(sizes), resolved(before))
    assert (found.first, found.last) == (617, 617)


def test_that_something_changed_is_said_even_where_no_snapshot_stands_out():
    before = errors_of(np.ones(1000))
    found = first_difference(errors_of(np.full(1000, 2.0)), resolved(before))
    assert (found.first, found.last) == (0, 274)


def test_values_in_memory_are_told_apart_to_the_bit_and_no_glitch_is_taken_for_a_change(tmp_path):
    """A store may be off most at one snapshot alone; of an array in memory checksums decide."""
    source = old(record())
    source["u"][11] = -source["u"][11]
    romzarr.compress(source, tmp_path / "store", tolerance=0.2)
    assert romzarr.append(tmp_path / "store", source.copy(deep=True)).appended == 0
    source["u"][{"time": 17}] = np.nextafter(source["u"].values[17], np.inf)
    with pytest.raises(ArchiveError, match=r"or later.*checksums of values differ"):
        romzarr.append(tmp_path / "store", source)

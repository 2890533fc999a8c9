"""Readers beside writers: what was opened stays as it was, and what is over goes."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fsspec
import numpy as np
import pytest
import xarray as xr

from romzarr.errors import StoreError, StoreReplacedError
from romzarr.store import commit, layout
from romzarr.store.reading.engine import RomzarrBackendEntrypoint
from romzarr.store.reading.reader import _opened, open_store


def opened(path):
    return xr.open_dataset(path, engine=RomzarrBackendEntrypoint)


def generations(path):
    return {entry.name for entry in Path(path).glob("2*")}


def later(monkeypatch, by):
    """Let writers believe that so much time has passed."""

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + by

    monkeypatch.setattr(commit, "datetime", Later)


def test_what_was_opened_is_read_after_it_was_replaced(make, write, small):
    example, path = small
    dataset = pickle.loads(pickle.dumps(opened(path)))
    write(make(seed=1), path, overwrite=True)
    write(make(seed=2), path, overwrite=True)
    _opened.cache_clear()
    np.testing.assert_allclose(dataset["u"], example.dataset["u"], rtol=1e-6)
    np.testing.assert_allclose(opened(path)["u"], make(seed=2).dataset["u"], rtol=1e-6)


def test_who_comes_too_late_is_told_that_the_store_was_replaced(make, write, small, monkeypatch):
    _, path = small
    dataset = opened(path)
    write(make(seed=1), path, overwrite=True)
    later(monkeypatch, commit.RETENTION + timedelta(seconds=2))
    commit.sweep(path)
    assert generations(path) == open_store(path).root.generations
    for forget in (lambda: None, _opened.cache_clear):
        forget()
        with pytest.raises(StoreReplacedError, match="replaced since it was opened"):
            dataset["u"].load()


def test_a_store_that_was_removed_is_not_called_damaged(small):
    _, path = small
    dataset = opened(path)
    shutil.rmtree(path)
    with pytest.raises(StoreReplacedError):
        dataset["u"].load()


def test_a_file_that_is_gone_from_what_counts_is_damage(small):
    _, path = small
    dataset = opened(path)
    shutil.rmtree(next(path.glob("*/basis/u/fields/c")))
    with pytest.raises(StoreError, match="is missing; the store is damaged"):
        dataset["u"].load()


def test_superseded_generations_stay_for_as_long_as_is_documented(make, write, small, monkeypatch):
    _, path = small
    first = generations(path)
    write(make(seed=1), path, overwrite=True)
    second = generations(path) - first
    later(monkeypatch, commit.RETENTION - timedelta(seconds=60))
    write(make(seed=2), path, overwrite=True)
    commit.sweep(path)
    assert first | second < generations(path)
    later(monkeypatch, commit.RETENTION + timedelta(seconds=60))
    write(make(seed=3), path, overwrite=True)
    # The second was replaced an hour later than the first.
    assert not first & generations(path)
    assert second < generations(path)
    assert generations(path) == open_store(path).root.named


def test_of_very_many_only_the_newest_stay(make, write, tmp_path, monkeypatch):
    monkeypatch.setattr(commit, "MOST_SUPERSEDED", 2)
    for seed in range(5):
        write(make(seed=seed), tmp_path / "s", overwrite=True)
    root = open_store(tmp_path / "s").root
    assert root.generations < generations(tmp_path / "s") <= root.named
    assert len(generations(tmp_path / "s")) == 1 + 2


def test_what_a_writer_that_died_had_still_to_remove_is_removed_by_the_next(
    make, write, small, monkeypatch
):
    _, path = small
    monkeypatch.setattr(commit, "RETENTION", timedelta(seconds=-1))
    with monkeypatch.context() as dying:
        # As if it was killed as soon as the root was in place.
        dying.setattr(commit.shutil, "rmtree", lambda *args, **options: None)
        write(make(seed=1), path, overwrite=True)
    assert len(generations(path)) == 2
    write(make(seed=2), path, overwrite=True)
    assert generations(path) == open_store(path).root.generations


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_same_holds_at_a_url(make, write, monkeypatch):
    url, fs = "memory://bucket/kept.romzarr", fsspec.filesystem("memory")
    write(make(), url)
    dataset = opened(url)
    write(make(seed=1), url, overwrite=True)
    np.testing.assert_allclose(dataset["u"], make().dataset["u"], rtol=1e-6)
    later(monkeypatch, commit.RETENTION + timedelta(seconds=2))
    commit.sweep(url)
    left = {each.rpartition("/")[2] for each in fs.ls("/bucket/kept.romzarr", detail=False)}
    assert left == {"zarr.json", *open_store(url).root.generations}
    _opened.cache_clear()
    with pytest.raises(StoreReplacedError):
        dataset["v"].load()
    fs.rm("/bucket", recursive=True)


def test_nothing_is_removed_while_the_root_is_damaged(make, write, small, monkeypatch):
    _, path = small
    write(make(seed=1), path, overwrite=True)
    before, root = generations(path), (path / "zarr.json").read_bytes()
    later(monkeypatch, 10 * commit.RETENTION)
    for place in range(0, len(root), 7):
        damaged = bytearray(root)
        damaged[place] ^= 1
        (path / "zarr.json").write_bytes(damaged)
        commit.sweep(path)
        assert generations(path) == before
    (path / "zarr.json").unlink()
    commit.sweep(path)
    assert generations(path) == before


def test_what_lay_under_a_damaged_root_stays_when_the_store_is_overwritten(make, write, small):
    _, path = small
    before = generations(path)
    (path / "zarr.json").write_bytes(b"{}")
    write(make(seed=1), path, overwrite=True)
    assert before < generations(path)
    assert before == {each.generation for each in open_store(path).root.superseded}


def test_an_older_root_put_back_is_found_by_the_check_of_all_files(make, write, small):
    _, path = small
    root = (path / "zarr.json").read_bytes()
    newer = datetime.now(UTC) + timedelta(seconds=5)
    stamp = newer.strftime("%Y%m%dT%H%M%S")
    write(make(seed=1), path, overwrite=True)
    open_store(path).check_files()
    # Within a second names do not tell which is newer.
    (made,) = generations(path) - {part.generation for part in layout.parse_root(root, "").parts}
    os.rename(path / made, path / f"{stamp}-00000000")
    (path / "zarr.json").write_bytes(root)
    with pytest.raises(StoreError, match=f"does not list {stamp}-00000000, which is newer"):
        open_store(path).check_files()


def read_until(stop, path, known, found):
    """Count what fresh readers see while `path` is written to."""
    seen = Counter()
    while not stop.is_set():
        _opened.cache_clear()
        try:
            values = opened(path)["u"].values
            seen[
                "other" if not any(np.allclose(values, k, equal_nan=True) for k in known) else "ok"
            ] += 1
        except Exception as error:
            seen[f"{type(error).__name__}: {error}"] += 1
    found.put(dict(seen))


def test_readers_beside_a_writer_see_one_store_or_another(make, write, small):
    _, path = small
    examples = [make(seed=seed) for seed in range(2)]
    context = multiprocessing.get_context("spawn")
    stop, found = context.Event(), context.Queue()
    known = [each.dataset["u"].values for each in examples]
    reader = context.Process(target=read_until, args=(stop, path, known, found))
    reader.start()
    for number in range(40):
        write(examples[number % 2], path, overwrite=True)
    stop.set()
    seen = found.get(timeout=60)
    reader.join()
    assert set(seen) == {"ok"}

"""One flipped bit in any file of a store is found, and the file is named."""

from __future__ import annotations

import random
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import romzarr
from romzarr.errors import PipelineError, StoreError
from romzarr.store.reading.reader import _opened, open_store
from tests.oracles import files_below

# What each store is made with, and an array that only it has.
STORES = {
    "pod": ({"variables": ["u"]}, "basis/u/fields"),
    "direct": ({"variables": ["noise"]}, "basis/noise/values"),
    "episodes": ({"variables": ["storm"]}, "basis/storm/episodes"),
    "residuals": ({"max_error": {"u": 1e-2, "noise": 0.02}}, "basis/noise/residuals"),
    "lossless": ({"tolerance": 0}, "basis/u/exact"),
}


@pytest.fixture(scope="module")
def source() -> xr.Dataset:
    rng = np.random.default_rng(0)
    t, x = np.linspace(0, 20, 60)[:, None], np.linspace(0, 1, 50)[None, :]
    u = np.sin(3 * x - t) + np.cos(5 * x + 2 * t)
    z = np.linspace(0, 1, 400)
    storm = np.sin(3 * z - t) + np.cos(5 * z + 2 * t)
    storm[20:44] += rng.standard_normal((24, 400))
    u[30, 20] -= 2
    u[:, 3] = np.nan
    return xr.Dataset(
        {
            "u": (("time", "x"), u.astype("f4")),
            "storm": (("time", "z"), storm),
            "noise": (("time", "x"), rng.standard_normal((60, 50))),
            "land": (("time", "x"), np.ones((60, 50))),
            "depth": ("x", x[0]),
        },
        {"time": t[:, 0], "x": x[0], "name": ("x", ["abc"] * 50)},
    )


@pytest.mark.parametrize("kind", STORES)
def test_one_flipped_bit_in_any_file_is_found_and_named(kind, source, tmp_path):
    options, array = STORES[kind]
    store = tmp_path / "store.romzarr"
    romzarr.compress(source, store, **options)
    assert array in open_store(store).last.arrays
    assert romzarr.verify(store, source).ok
    before = xr.open_dataset(store, engine="romzarr").load()
    rng = np.random.default_rng(1)
    for name in list(files_below(store)):
        file = Path(name)
        content = file.read_bytes()
        for bit in rng.integers(0, 8 * len(content), 3).tolist():
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            file.write_bytes(flipped)
            _opened.cache_clear()
            # The root says where everything is, and stands for the store.
            named = str(file.relative_to(store)) if file.parent != store else str(store)
            with pytest.raises(PipelineError) as caught:
                romzarr.verify(store, source)
            assert named in str(caught.value), (named, bit)
            _opened.cache_clear()
            try:
                found = xr.open_dataset(store, engine="romzarr").load()
            except PipelineError:
                continue
            # Whoever does not need the file reads what is right.
            xr.testing.assert_identical(found, before)
        file.write_bytes(content)
    _opened.cache_clear()
    assert romzarr.verify(store, source).ok


@pytest.mark.parametrize("kind", STORES)
def test_a_file_that_is_gone_is_named(kind, source, tmp_path):
    options, _ = STORES[kind]
    store = tmp_path / "store.romzarr"
    romzarr.compress(source, store, **options)
    for name in list(files_below(store)):
        file = Path(name)
        content = file.read_bytes()
        file.unlink()
        _opened.cache_clear()
        named = str(file.relative_to(store)) if file.parent != store else str(store)
        with pytest.raises(PipelineError) as caught:
            romzarr.verify(store, source)
        assert named in str(caught.value)
        file.write_bytes(content)


def read_or_refused(store: Path) -> xr.Dataset | None:
    """What a store decodes to; None if it is refused."""
    _opened.cache_clear()
    try:
        return xr.open_dataset(store, engine="romzarr").load()
    except PipelineError:
        return None


def assert_found(store: Path, named: list[Path], before: xr.Dataset) -> None:
    """The check of all files names one of these, and nobody reads anything else than before."""
    _opened.cache_clear()
    with pytest.raises(StoreError) as caught:
        open_store(store).check_files()
    words = [str(store) if each.parent == store else str(each) for each in named]
    assert any(each in str(caught.value) for each in words)
    found = read_or_refused(store)
    if found is not None:
        xr.testing.assert_identical(found, before)


@pytest.mark.parametrize("kind", STORES)
def test_misplaced_files_are_found_and_named(kind, source, tmp_path):
    """Two that are swapped, and one that belongs to another store at the same place."""
    options, _ = STORES[kind]
    store, other = tmp_path / "store.romzarr", tmp_path / "other.romzarr"
    romzarr.compress(source, store, **options)
    romzarr.compress(source + 0.1, other, **options)
    before = xr.open_dataset(store, engine="romzarr").load()
    files = sorted(Path(name) for name in files_below(store))
    contents = {file: file.read_bytes() for file in files}
    pairs = [pair for pair in combinations(files, 2) if len({contents[f] for f in pair}) == 2]
    for one, two in random.Random(0).sample(pairs, min(40, len(pairs))):
        one.write_bytes(contents[two])
        two.write_bytes(contents[one])
        assert_found(store, [one, two], before)
        one.write_bytes(contents[one])
        two.write_bytes(contents[two])
    (generation,) = other.glob("2*")
    for file in files:
        # Whatever lies at the same place of another store, which may hold the same.
        foreign = generation.joinpath(*file.relative_to(store).parts[1:])
        if file.parent == store or not foreign.exists():
            continue
        file.write_bytes(foreign.read_bytes())
        assert_found(store, [file], before)
        file.write_bytes(contents[file])
    _opened.cache_clear()
    open_store(store).check_files()

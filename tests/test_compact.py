"""Parts are put together from the store alone, within its bounds, or left as they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import romzarr
from romzarr import StreamCompressor
from romzarr.operations import when_to_compact
from romzarr.operations.when_to_compact import MOST_PARTS, _has_grown, _reached
from romzarr.store.reading.facts import BLOCK_ERRORS, ERRORS_BY_INDEX
from romzarr.store.reading.reader import open_store
from romzarr_flows.cli import main
from tests import dying
from tests.oracles import assert_same_but_values, decoded_errors, files_below
from tests.strategies import seeds

TOLERANCE = 1e-2
# Shares of the bound to be left for early merges: as it is, and more than there is.
EARLY, NEVER = when_to_compact.EARLY_SHARE, 2.0


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    """And parts stay as they are before the thirtieth night, but in tests of that."""
    monkeypatch.setattr(when_to_compact, "EARLY_SHARE", NEVER)
    with dask.config.set(scheduler="synchronous"):
        yield


def waves(snapshots: int, points: int = 60, seed: int = 0, noise: float = 0.0) -> xr.Dataset:
    """Travelling waves, with noise, in two variables; one of them has levels of many sizes."""
    rng = np.random.default_rng(seed)
    t, x = 0.2 * np.arange(snapshots)[:, None], np.linspace(0, 6, points)
    u = sum(np.sin(k * x - (1 + 0.3 * k) * t) / k for k in (1, 2, 3))
    u = u + noise * rng.standard_normal(u.shape)
    return xr.Dataset(
        {"u": (("time", "x"), 2 + u)},
        {"time": t[:, 0], "x": x, "area": ("x", rng.random(points) + 0.1)},
        {"title": "waves"},
    )


def with_levels(source: xr.Dataset) -> xr.Dataset:
    scales = xr.DataArray([1.0, 1e-3, 1e3], dims="lev")
    return source.assign(w=source.u.isel(x=slice(20)) ** 2 * scales).assign_coords(
        lev=("lev", [1.0, 2.0, 3.0], {"positive": "up"})
    )


def appended(store, source: xr.Dataset, ends, **options) -> None:
    first, *others = ends
    config = {"compression.tolerance": TOLERANCE, **options}
    romzarr.compress(source.isel(time=slice(first)), store, config=config)
    for end in others:
        romzarr.append(store, source.isel(time=slice(end)))


def assert_within(store, source: xr.Dataset, weights=None) -> None:
    """What is recorded bounds what xarray reads, and is within the tolerance."""
    facts = open_store(store).facts
    decoded = xr.open_dataset(store, engine="romzarr").load()
    assert_same_but_values(source, decoded)
    for name, error in decoded_errors(source, decoded, weights).items():
        assert error <= facts["relative_l2_error"][name] * (1 + 1e-9) <= TOLERANCE * (1 + 1e-9)
    # Errors by block, where they are known, are those against the archive.
    for name, bounds in (
        xr.open_dataset(store, engine="romzarr", cache=False).romzarr.error().items()
    ):
        if name in source and weights is None and np.isfinite(bounds).all():
            lost = float(((decoded[name] - source[name].astype("f8")) ** 2).sum())
            assert lost <= float((bounds**2).sum()) * (1 + 1e-9)
    for name, each in facts.get(ERRORS_BY_INDEX, {}).items():
        for number, told in enumerate(each["errors"]):
            level = dict.fromkeys(each["dims"], number)
            one, other = source[[name]].isel(level), decoded[[name]].isel(level)
            error = decoded_errors(one, other)[name]
            assert error <= told * (1 + 1e-6) <= TOLERANCE * (1 + 1e-6)


# --- the law ------------------------------------------------------------------------------


@given(
    seed=seeds,
    nights=st.integers(2, 4),
    noise=st.sampled_from([0.0, 0.1, 1.0]),
    levels=st.booleans(),
    gap=st.booleans(),
    mask=st.booleans(),
    still=st.booleans(),
    weights=st.sampled_from(["none", "area"]),
    dtype=st.sampled_from(["f4", "f8"]),
    early=st.booleans(),
)
@settings(max_examples=5, deadline=None)
def test_the_bound_holds_after_it_and_after_what_is_appended_then(
    seed, nights, noise, levels, gap, mask, still, weights, dtype, early, tmp_path_factory
):
    store = tmp_path_factory.mktemp("compact") / "s"
    source = waves(12 * (nights + 1), seed=seed, noise=noise)
    source["u"] = source.u.astype(dtype)
    if still:
        source["still"] = xr.ones_like(source.u) / 3
    if levels and weights == "none":
        source = with_levels(source)
    if mask:
        source.u[:, 5:9] = np.nan
    if gap:
        source.u[20, 3] = np.nan
    ends = np.arange(1, nights + 1) * 12
    given = {"u": source.area, "still": source.area} if weights == "area" else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(when_to_compact, "EARLY_SHARE", EARLY if early else NEVER)
        appended(store, source, ends, **{"archive.weights": weights})
    last = source.isel(time=slice(ends[-1]))
    before = open_store(store)
    report = romzarr.compact(store)
    assert_within(store, last, given)
    assert report.stored_bytes == open_store(store).stored_bytes() <= before.stored_bytes()
    assert report.compacted == (report.parts < report.parts_before) == (not report.why)
    assert report.compacted or early or report.parts > 1
    if not report.compacted:
        assert open_store(store).root == before.root
    romzarr.append(store, source)
    assert_within(store, source, given)
    assert romzarr.verify(store, source).ok


def test_a_store_of_many_nights_becomes_about_as_small_as_one_compression(tmp_path):
    store, source = tmp_path / "store", waves(240, points=400)
    appended(store, source, [20, 80, 160, 240])
    before = romzarr.info(store)
    report = romzarr.compact(store)
    at_once = romzarr.compress(source, tmp_path / "once", tolerance=TOLERANCE)
    assert report.compacted
    assert report.stored_bytes <= 1.25 * at_once.stored_bytes
    assert report.stored_bytes < 0.6 * before.stored_bytes
    after = romzarr.info(store)
    assert after.source | {"appends": 3} == before.source
    assert (after.raw_bytes, after.snapshots) == (before.raw_bytes, 240)
    assert_within(store, source)
    # Those that coding found are against what was decoded, and not against the archive.
    assert BLOCK_ERRORS not in open_store(store).facts
    assert BLOCK_ERRORS in open_store(tmp_path / "once").facts
    assert romzarr.verify(store, source).ok


@pytest.mark.slow
def test_the_bound_holds_through_many_nights(tmp_path):
    """Forty: two hundred take minutes."""
    store, source = tmp_path / "store", with_levels(waves(200, points=40, noise=0.02))
    appended(store, source.isel(time=slice(5)), [5])
    parts = []
    for end in range(10, 201, 5):
        seen = source.isel(time=slice(end))
        romzarr.append(store, seen)
        parts.append(len(open_store(store).parts))
        if end % 50 == 0:
            romzarr.compact(store)
            assert_within(store, seen)
    assert_within(store, source)
    assert max(parts) <= MOST_PARTS


# --- when appends do it -------------------------------------------------------------------


def test_nights_of_one_snapshot_are_put_together_once_no_part_is_open(tmp_path, monkeypatch):
    monkeypatch.setattr(when_to_compact, "NIGHTS", 5)
    monkeypatch.setattr(when_to_compact, "WORTHWHILE", 1.0)
    store, source = tmp_path / "s", waves(200, points=30, noise=0.02).isel(time=slice(115))
    appended(store, source, range(100, 116))
    assert romzarr.info(store).source.get("appends", 0) < 15
    assert_within(store, source)


def test_appends_put_parts_together_after_many_nights_unless_they_are_not_to(tmp_path, monkeypatch):
    monkeypatch.setattr(when_to_compact, "NIGHTS", 4)
    source, ends = with_levels(waves(200, points=30))[["w"]], [10, 100, 150, 200]
    appended(tmp_path / "auto", source, ends)
    assert len(open_store(tmp_path / "auto").parts) == 1
    assert_within(tmp_path / "auto", source)
    assert "appends" not in romzarr.info(tmp_path / "auto").source
    appended(tmp_path / "none", source, ends, **{"compression.compact": "none"})
    assert len(open_store(tmp_path / "none").parts) == 4
    assert open_store(tmp_path / "none").facts["relative_l2_error"]["w"] > 0.5 * TOLERANCE


def test_small_nights_after_a_long_record_are_put_together_by_themselves(tmp_path, monkeypatch):
    """The record has used up its bound, and stays as it is: only requests matter then."""
    monkeypatch.setattr(when_to_compact, "NIGHTS", 4)
    store, source = tmp_path / "store", with_levels(waves(320, points=30))[["w"]]
    appended(store, source, [240])
    oldest, parts = open_store(store).parts[0].name, []
    for end in range(245, 321, 5):
        romzarr.append(store, source.isel(time=slice(end)))
        parts.append(len(open_store(store).parts))
        assert open_store(store).parts[0].name == oldest
    assert max(parts) <= 9
    assert_within(store, source)
    assert romzarr.verify(store, source).ok


@given(mark=st.integers(1, 50), before=st.integers(0, 3000), more=st.integers(0, 3000))
def test_marks_are_reached_once(mark, before, more):
    marks = [mark * 2**k for k in range(14)]
    passed = any(before < each <= before + more for each in marks)
    assert _reached(mark, before, before + more) == passed


def test_nights_before_the_thirtieth_are_put_together_as_they_double(tmp_path, monkeypatch):
    monkeypatch.setattr(when_to_compact, "EARLY_SHARE", EARLY)
    store, source, parts = tmp_path / "s", waves(100, points=200), []
    romzarr.compress(source.isel(time=slice(20)), store, tolerance=TOLERANCE)
    for night in range(2, 6):
        seen = source.isel(time=slice(20 * night))
        romzarr.append(store, seen)
        parts.append(len(open_store(store).parts))
        assert_within(store, seen)
        # Nights are still counted, and most of the bound is left for the thirtieth.
        assert romzarr.info(store).source["appends"] == night - 1
        assert open_store(store).facts["relative_l2_error"]["u"] <= 0.83 * TOLERANCE
    assert parts == [1, 2, 1, 2]
    assert romzarr.verify(store, source).ok


@given(nights=st.lists(st.integers(1, 60), min_size=2, max_size=60))
def test_no_snapshot_is_put_together_more_often_than_the_record_doubles(nights):
    parts, merges = [nights[:1]], np.zeros(len(nights), int)
    for night, length in enumerate(nights[1:], 1):
        parts.append([length])
        sizes = [sum(part) for part in parts]
        opened = SimpleNamespace(starts=np.cumsum([0, *sizes]), snapshots=sum(sizes))
        due = [k for k in range(len(parts)) if _has_grown(opened, k, sum(sizes[:-1]))]
        if due:
            first = sum(map(len, parts[: due[0]]))
            merges[first : night + 1] += 1
            parts[due[0] :] = [nights[first : night + 1]]
        # Each is longer than all after it.
        assert all(sum(part) > sum(map(sum, parts[k + 1 :])) for k, part in enumerate(parts))
    assert (merges <= 1 + np.log2(sum(nights) / np.array(nights))).all()


# --- what is left as it is ----------------------------------------------------------------


def left_as_it_is(store) -> str:
    before = {file: Path(file).read_bytes() for file in files_below(store)}
    report = romzarr.compact(store)
    assert {file: Path(file).read_bytes() for file in files_below(store)} == before
    assert not report.compacted
    assert report.stored_bytes == report.bytes_before
    return report.why


def test_what_cannot_be_put_together_says_why_and_stays(tmp_path):
    source = waves(60)
    appended(tmp_path / "one", source, [60])
    assert "one part alone" in left_as_it_is(tmp_path / "one")
    appended(tmp_path / "spent", source, [20, 40, 60], **{"compression.compact": "none"})
    assert "used up" in left_as_it_is(tmp_path / "spent")
    stream = StreamCompressor(tmp_path / "open", tolerance=TOLERANCE)
    for start in range(0, 60, 20):
        stream.update(source.isel(time=slice(start, start + 20)))
        stream.commit()
    assert "a stream is open" in left_as_it_is(tmp_path / "open")
    levels = with_levels(source)[["w"]]
    bounded = {"compression.max_error": {"w": 1e-3}}
    appended(tmp_path / "bounded", levels, [30, 60], **bounded)
    # That of the first part is all used up, whatever is appended.
    assert "compression.max_error" in left_as_it_is(tmp_path / "bounded")


# --- commits ------------------------------------------------------------------------------


def test_whoever_is_killed_leaves_the_parts_or_the_one_that_is_made_of_them(tmp_path):
    source, store = waves(100), tmp_path / "store"
    appended(store, source, [20, 60, 100])
    before, seen = open_store(store), set()
    for step in range(200):
        copy = tmp_path / f"copy-{step}"
        shutil.copytree(store, copy)
        status = dying.status_of(dying.compact, step, str(copy))
        opened = open_store(copy)
        seen.add(len(opened.parts))
        assert opened.root == before.root or len(opened.parts) == 1
        assert romzarr.verify(copy, source).ok
        shutil.rmtree(copy)
        if status == 0:
            break
    else:
        pytest.fail("it never came to an end")
    assert seen == {1, len(before.parts)}


def test_who_opened_the_parts_reads_on(tmp_path):
    source, store = waves(100), tmp_path / "store"
    appended(store, source, [20, 60, 100])
    opened = xr.open_dataset(store, engine="romzarr")
    before = opened.u.isel(x=3).values
    assert romzarr.compact(store).compacted
    assert np.array_equal(opened.u.isel(x=3).values, before)


def test_the_command_tells_what_came_of_it(tmp_path, capsys):
    store = str(tmp_path / "store")
    appended(store, waves(100), [20, 60, 100])
    assert main(["compact", store]) == 0
    assert "1, were" in capsys.readouterr().out
    assert main(["compact", store, "--json"]) == 0
    assert "one part alone" in json.loads(capsys.readouterr().out)["why"]

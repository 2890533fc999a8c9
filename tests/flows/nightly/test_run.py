"""A run does what is to be done, no more; failures are named and stop nobody else."""

import json
import logging
import os
import shutil
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
import xarray as xr

import romzarr
import romzarr_flows.nightly.catalogue
from romzarr.config import ConfigError
from romzarr.store.reading.reader import open_store
from romzarr.streams.compressor import StreamCompressor
from romzarr_flows.cli import main
from romzarr_flows.clusters import ClusterError
from romzarr_flows.nightly import work
from romzarr_flows.nightly.plan import since_when
from tests.flows.nightly.conftest import dataset


def test_what_is_new_is_stored_and_verified_and_what_is_stored_is_left_alone(place, capsys):
    place.add("a.zarr", 1)
    place.add("b.zarr", 2)
    assert place.nightly() == 0
    out = capsys.readouterr().out
    assert "2 stored" in out
    assert place.holds("a", 1)
    assert place.holds("b", 2)
    told = next(line for line in out.splitlines() if "could be archived away" in line)
    assert "2 datasets of" in told
    assert told.endswith("lossless")
    entry, first = place.entry("a.zarr"), place.generation("a")
    assert entry["state"] == "stored"
    assert entry["raw_bytes"] == 24 * 30 * 4 + 24 * 8
    assert entry["ratio"] == pytest.approx(entry["raw_bytes"] / entry["stored_bytes"])
    assert entry["verified"] == {
        "error": 0.0, "when": entry["last_run"], "how": "full", "share": 1.0
    }  # fmt: skip

    assert place.nightly("--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["counts"] == {"datasets": 2, "kept": 2, "left": 0}
    assert record == place.records()[-1]
    assert place.generation("a") == first
    assert place.entry("a.zarr") == entry


def test_whoever_would_move_originals_away_is_told_what_the_stores_lose(place, capsys):
    place.add("a.zarr", 1)
    place.set(compression__tolerance=0.25)
    for _ in ("new", "as it was"):
        assert place.nightly() == 0
        lines = capsys.readouterr().out.splitlines()
        told = next(line for line in lines if "could be archived away" in line)
        error = place.entry("a.zarr")["verified"]["error"]
        assert told.endswith(f"lossy: error {error:.2e}, tolerance 0.25")


def test_what_was_written_to_is_stored_again_even_if_no_size_changed(place):
    place.add("a.zarr", 1)
    place.add("b.zarr", 2)
    place.nightly()
    kept, before = place.generation("b"), place.generation("a")
    place.add("a.zarr", 5)
    assert place.nightly() == 0
    assert place.holds("a", 5)
    assert place.generation("a") != before
    assert place.generation("b") == kept
    place.add("a.zarr", 5, snapshots=32)
    assert place.nightly() == 0
    assert place.holds("a", 5, snapshots=32)


@pytest.fixture
def growing(place):
    """A dataset with a bound that allows to append, and a store of its first snapshots."""
    place.set(compression__tolerance=1e-2)
    place.add("a.zarr", snapshots=96)
    assert place.nightly() == 0
    return place


def grow(place, seed=0):
    """More of the same, in chunks of its own; what was there stays untouched."""
    whole = dataset(seed, 160)
    whole.isel(time=slice(96, None)).to_zarr(
        place.archive / "a.zarr", append_dim="time", consolidated=False
    )


def test_what_grew_is_appended_and_compared_in_full(growing, monkeypatch):
    place, first = growing, growing.generation("a")
    grow(place)
    monkeypatch.setattr(work, "compress_again", None)  # nothing may want it
    assert place.nightly() == 0
    root = json.loads((place.stores / "a.romzarr" / "zarr.json").read_text())
    assert first in str(root["attributes"]["romzarr"]["parts"][:-1])
    entry = place.entry("a.zarr")
    assert (entry["state"], entry["verified"]["how"]) == ("stored", "full")
    assert entry["raw_bytes"] == 160 * 30 * 4 + 160 * 8
    assert (place.stores / "a.romzarr" / first).is_dir()
    assert place.nightly() == 0
    assert place.records()[-1]["counts"] == {"datasets": 1, "kept": 1, "left": 0}


def test_an_append_that_was_killed_is_gone_on_with(growing, monkeypatch):
    """The parts that it has committed name the dataset of today, and hold some of it."""
    place, first = growing, growing.generation("a")
    grow(place)
    source = place.archive / "a.zarr"

    class Killed(BaseException):
        pass

    def kill(*arguments, **keywords):
        if updates.append(keywords) or len(updates) == 2:
            raise Killed
        return real(*arguments, **keywords)

    updates, real = [], StreamCompressor.update
    monkeypatch.setattr(StreamCompressor, "update", kill)
    with pytest.raises(Killed):
        romzarr.append(place.stores / "a.romzarr", source, commit_steps=8)
    monkeypatch.setattr(StreamCompressor, "update", real)
    assert 96 < open_store(place.stores / "a.romzarr").snapshots < 160
    assert place.nightly() == 0
    assert (place.stores / "a.romzarr" / first).is_dir()  # appended to, not replaced
    assert romzarr.verify(place.stores / "a.romzarr", source).ok


def test_what_was_only_touched_is_settled_in_one_night(growing):
    place = growing
    os.utime(place.archive / "a.zarr" / "zarr.json")
    assert place.nightly() == 0
    assert place.nightly() == 0
    assert place.records()[-1]["counts"]["kept"] == 1


def test_what_grew_on_another_history_is_compressed_again(growing):
    """Chunks of the same size with other values: those written anew are compared."""
    place = growing
    place.add("a.zarr", 5, snapshots=96)
    grow(place, 5)
    assert place.nightly() == 0
    root = json.loads((place.stores / "a.romzarr" / "zarr.json").read_text())
    assert len(root["attributes"]["romzarr"]["parts"]) == 1
    store, source = place.stores / "a.romzarr", place.archive / "a.zarr"
    assert romzarr.verify(store, source).ok


def test_other_promises_compress_again_and_other_settings_do_not(place):
    place.add("a.zarr")
    place.nightly()
    first = place.generation("a")
    place.set(cluster__workers=1, archive__missing_chunks="fill", nightly__verify="full")
    place.nightly()
    assert place.generation("a") == first
    place.set(compression__max_error={"u": 0.5})
    assert place.nightly() == 0
    assert place.generation("a") != first


def test_a_failure_is_named_and_the_others_are_stored(place, capsys):
    place.add("a.zarr", 1)
    broken = place.add("b.zarr", 2)
    (broken / "u" / "c" / "1" / "0").unlink()
    place.add("c.zarr", 3)
    assert place.nightly() == 1
    out = capsys.readouterr().out
    assert "b.zarr: ChunkError" in out
    assert "u/c/1/0" in out
    assert place.holds("a", 1)
    assert place.holds("c", 3)
    assert place.entry("b.zarr")["state"] == "failed"
    assert "u/c/1/0" in place.entry("b.zarr")["message"]

    place.add("b.zarr", 2)  # repaired: tried again
    assert place.nightly() == 0
    assert place.holds("b", 2)
    assert place.entry("b.zarr")["message"] == ""


def test_a_failure_leaves_the_store_of_the_version_before_and_what_is_known_of_it(place):
    path = place.add("a.zarr", 1)
    place.nightly()
    known = place.entry("a.zarr")
    (path / "u" / "c" / "1" / "0").write_bytes(b"torn")
    assert place.nightly() == 1
    assert place.holds("a", 1)
    entry = place.entry("a.zarr")
    assert entry["state"] == "failed"
    assert {k: entry[k] for k in ("ratio", "stamp", "verified")} == {
        k: known[k] for k in ("ratio", "stamp", "verified")
    }


def test_what_failed_or_ended_a_run_waits_until_the_others_are_done(place, monkeypatch):
    for name in "abc":
        place.add(f"{name}.zarr")
    shutil.rmtree(place.archive / "a.zarr" / "u")
    place.nightly()
    for name in "bc":
        place.add(f"{name}.zarr", 7)
    entry = place.entry("b.zarr") | {"state": "running"}  # as a killed run leaves it
    (place.catalogue / "b.zarr.json").write_text(json.dumps(entry))
    place.nightly()
    assert [each["dataset"] for each in place.records()[-1]["datasets"]] == [
        "c.zarr", "a.zarr", "b.zarr"
    ]  # fmt: skip


def test_two_datasets_are_never_written_into_one_store(place, capsys):
    place.add("run.zarr")
    shutil.copytree(place.add("run.v3"), place.archive / "run.old")
    place.set(nightly__pattern="*")
    assert place.nightly() == 1
    out = capsys.readouterr().out
    assert "run.old: ArchiveError: run.v3, run.zarr would have the same store" in out
    assert not list(place.stores.glob("*.romzarr"))


def test_stores_may_lie_in_the_archive_at_the_same_paths(place):
    place.add("runs/x.zarr", 1)
    place.add("runs/20310701T000000Z", 2)  # named as a record of a run would be
    place.set(nightly__pattern="runs/*", nightly__stores=str(place.archive))
    place.stores, place.catalogue = place.archive, place.archive / "catalogue"
    assert place.nightly() == 0
    assert place.holds("runs/x", 1)
    assert place.nightly() == 0
    assert place.records()[-1]["counts"]["kept"] == 2


def test_a_dry_run_prints_the_plan_and_does_nothing(place, capsys):
    size = sum(f.stat().st_size for f in place.add("a.zarr").rglob("*") if f.is_file())
    assert place.nightly("--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["bytes"] == plan["to_do"][0]["nbytes"] == size
    assert (plan["to_do"][0]["found"], plan["kept"]) == ("new", [])
    assert not place.stores.exists()
    place.nightly("--dry-run")
    assert "a.zarr" in capsys.readouterr().out


def test_only_and_since_choose_among_the_datasets(place):
    for name in ("a.zarr", "b.zarr"):
        place.add(name)
    assert place.nightly("--only", "b*", "--since", "1h") == 0
    assert place.nightly("--since", "2200-01-01") == 0
    assert sorted(path.name for path in place.stores.glob("*.romzarr")) == ["b.romzarr"]


def test_since_is_a_date_with_or_without_zone_or_an_age():
    assert since_when("2031-07-01T02:00+02:00") == datetime(2031, 7, 1, tzinfo=UTC)
    age = datetime.now(UTC) - since_when("1.5d")
    assert timedelta(hours=35.9) < age < timedelta(hours=36.1)
    with pytest.raises(ConfigError, match=r"--since: found 'yesterday', allowed are a date"):
        since_when("yesterday")


def test_time_that_is_up_leaves_the_rest_for_the_next_run(place, capsys):
    for name in ("a.zarr", "b.zarr"):
        place.add(name)
    assert place.nightly("--max-hours", "1e-9") == 0
    assert "2 left for the next run" in capsys.readouterr().out
    record = place.records()[-1]
    assert (record["state"], record["left"]) == ("out of time", ["a.zarr", "b.zarr"])
    assert place.entry("a.zarr")["state"] == "new"
    assert place.nightly("--max-hours", "5") == 0
    assert place.records()[-1]["counts"]["stored"] == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"nightly__archive": "none"}, "nightly.archive: found 'none'; give a folder"),
        ({"nightly__stores": "none"}, "nightly.stores: found 'none'; give a folder"),
        ({"nightly__archive": "/absent/archive"}, "/absent/archive"),
        ({"nightly__archive": "s3://user:hunter22@host/x"}, "credentials into the environment"),
        ({"nightly__stores": "/proc/stores"}, "cannot create the lock /proc/stores/catalogue"),
    ],
)
def test_a_run_that_can_do_nothing_says_why_with_a_status_of_its_own(
    place, capsys, settings, words
):
    place.add("a.zarr")
    place.set(**settings)
    assert place.nightly() == 2
    err = capsys.readouterr().err
    assert words in err
    assert "hunter22" not in err


def test_a_run_without_workers_can_do_nothing(place, capsys, monkeypatch):
    @contextmanager
    def refused(settings):
        raise ClusterError("the queue is closed")
        yield

    monkeypatch.setattr("romzarr_flows.clusters.threads.start", refused)
    place.add("a.zarr")
    assert place.nightly() == 2
    assert "the queue is closed" in capsys.readouterr().err
    assert place.records()[-1]["state"] == "interrupted"


def test_the_catalogue_is_made_again_from_the_stores(place):
    """Lost with its disk, or never copied: nothing is compressed again."""
    place.add("a.zarr", 1)
    place.add("b.zarr", 2)
    place.nightly()
    before, known = [place.generation(name) for name in "ab"], place.entry("a.zarr")
    shutil.rmtree(place.catalogue)
    assert place.nightly() == 0
    assert [place.generation(name) for name in "ab"] == before
    again = place.entry("a.zarr")
    assert {k: again[k] for k in known if k not in ("last_run", "verified")} == {
        k: known[k] for k in known if k not in ("last_run", "verified")
    }


def test_a_file_in_the_catalogue_that_is_none_counts_as_absent(place, caplog):
    place.add("a.zarr", 1)
    place.nightly()
    other = json.dumps(place.entry("a.zarr") | {"ratio": {"u": 3}})
    for content in ("", "[]", "{}", "not JSON", other):
        (place.catalogue / "a.zarr.json").write_text(content)
        with caplog.at_level(logging.WARNING):
            assert place.nightly() == 0
        assert "a.zarr.json is ignored" in caplog.text
        assert place.entry("a.zarr")["state"] == "stored"


def test_a_clock_that_goes_back_changes_nothing_but_dates(place, capsys, monkeypatch):
    """All runs but the first believe that it is years before, and all in the same second."""
    place.add("a.zarr", 1)
    place.nightly()
    first = place.generation("a")
    past = datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC)
    for module in ("catalogue", "plan", "record", "work", "lock", "status"):
        if hasattr(getattr(romzarr_flows.nightly, module), "now"):
            monkeypatch.setattr(f"romzarr_flows.nightly.{module}.now", lambda: past)
    for _ in range(2):
        assert place.nightly() == 0
    assert place.generation("a") == first
    place.add("a.zarr", 3)
    assert place.nightly() == 0
    assert place.holds("a", 3)
    names = sorted(path.stem for path in (place.catalogue / "runs").glob("1999*.json"))
    assert names == [f"19991231T235959Z{suffix}" for suffix in ("", "-1", "-2")]


# --- nothing found, and what is gone ------------------------------------------------------


def test_a_night_that_finds_nothing_fails_and_says_where_it_looked(place, capsys):
    place.add("2031/a.zarr")
    place.set(nightly__pattern="*.zarr", nightly__stores=str(place.stores))
    assert place.nightly() == 2
    err = capsys.readouterr().err
    assert f"found no dataset in '{place.archive}' that matches nightly.pattern '*.zarr'" in err
    assert "subfolders contain 1 (2031/a.zarr)" in err
    assert "nightly.empty: allow" in err
    assert place.records()[-1]["state"] == "interrupted"
    assert place.nightly("--dry-run") == 2
    assert place.nightly("--only", "2032/**") == 2
    assert "--only '2032/**'" in capsys.readouterr().err
    place.set(nightly__empty="allow")
    assert place.nightly() == 0


def test_an_archive_that_was_emptied_is_no_success(place, capsys):
    """A disk that is not mounted looks like that."""
    for name in "abcd":
        place.add(f"{name}.zarr")
    assert place.nightly() == 0
    shutil.move(place.archive, place.folder / "elsewhere")
    place.archive.mkdir()
    assert place.nightly() == 2
    assert "the catalogue knows 4 (a.zarr, b.zarr, c.zarr, ...)" in capsys.readouterr().err
    assert place.records()[-1]["vanished"] == [f"{name}.zarr" for name in "abcd"]
    place.archive.rmdir()
    shutil.move(place.folder / "elsewhere", place.archive)
    assert place.nightly() == 0
    record = place.records()[-1]
    assert (record["counts"]["kept"], record["vanished"]) == (4, [])


def test_what_has_vanished_is_named_once_everywhere(place, capsys):
    for name in "abc":
        place.add(f"{name}.zarr")
    place.nightly()
    shutil.rmtree(place.archive / "b.zarr")
    capsys.readouterr()
    # One that was not asked for cannot be said to have vanished.
    assert place.nightly("--only", "a*") == 0
    assert "b.zarr" not in "".join(capsys.readouterr())
    page = place.folder / "page.html"
    for nights in range(2):
        assert place.nightly() == 0
        out, err = capsys.readouterr()
        assert ("b.zarr: no longer in the archive" in out) == (nights == 0)
        assert ("b.zarr: no longer in the archive" in err) == (nights == 0)
        assert place.records()[-1]["vanished"] == (["b.zarr"] if nights == 0 else [])
        assert place.entry("b.zarr")["gone"]
    assert main(["report", "--catalogue", str(place.stores), "-o", str(page)]) == 0
    assert "no longer in the archive: b.zarr" in page.read_text()
    place.add("b.zarr")
    assert place.nightly() == 0
    assert place.entry("b.zarr")["gone"] == ""
    assert place.holds("b")


def test_quiet_prints_nothing_where_nothing_was_to_do(place, capfd):
    place.add("a.zarr")
    assert place.nightly("--quiet") == 0
    assert "1 stored" in capfd.readouterr().out
    assert place.nightly("--quiet") == 0
    assert capfd.readouterr() == ("", "")
    shutil.rmtree(place.archive / "a.zarr")
    place.add("b.zarr")
    place.nightly("--quiet")
    assert "a.zarr: no longer in the archive" in capfd.readouterr().out


def test_a_place_may_be_written_with_a_tilde_for_every_command(place, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(place.folder))
    place.add("a.zarr")
    place.set(nightly__archive="~/archive", nightly__stores="~/stores/")
    assert place.nightly() == 0
    record = place.records()[-1]
    assert record["settings"]["stores"] == str(place.stores)
    capsys.readouterr()
    for arguments in (place.arguments("status"), ["status", "~/stores"]):
        assert main(arguments) == 0
        out = capsys.readouterr().out
        assert "1 datasets: 1 stored" in out
        assert ".json: done, began" in out
    page = place.folder / "page.html"
    assert main(["report", "--catalogue", "~/stores", "-o", str(page)]) == 0
    assert "<td>done</td>" in page.read_text()


def test_generations_that_were_replaced_are_swept_a_while_later(place, monkeypatch):
    """And only then; the store counts as verified all the same."""
    swept = []
    monkeypatch.setattr(work, "sweep", lambda store: swept.append(store))
    place.add("a.zarr", 1)
    place.add("b.zarr", 1)
    place.nightly()
    place.add("a.zarr", 2)
    place.nightly()
    assert [place.entry(name)["replaced"] for name in ("a.zarr", "b.zarr")] == [True, False]
    place.nightly()
    assert swept == []
    monkeypatch.setattr(work, "RETENTION", timedelta(hours=-1))
    first = place.generation("a")
    for _ in range(2):
        assert place.nightly() == 0
        assert place.records()[-1]["counts"]["kept"] == 2
        assert swept == [str(place.stores / "a.romzarr")]
        assert place.entry("a.zarr")["replaced"] is False
    assert place.generation("a") == first


def test_a_tree_of_groups_is_stored_left_alone_appended_to_and_shown(place, capsys):
    def write(snapshots: int) -> None:
        groups = {"/fast": dataset(1, snapshots), "/slow": dataset(2, 16)}
        tree = xr.DataTree.from_dict(groups)
        tree.to_zarr(place.archive / "a.zarr", consolidated=False, mode="w")

    place.set(compression__tolerance=1e-2)
    write(24)
    assert place.nightly() == 0
    entry = place.entry("a.zarr")
    assert (entry["state"], entry["raw_bytes"]) == ("stored", 40 * (30 * 4 + 8))
    assert place.nightly() == 0
    assert place.entry("a.zarr") == entry
    write(40)
    assert main(place.arguments("status")) == 0
    assert "grown" in capsys.readouterr().out
    assert place.nightly() == 0
    store = place.stores / "a.romzarr"
    assert len(open_store(romzarr.groups(store)["/fast"]).parts) == 2
    assert len(open_store(romzarr.groups(store)["/slow"]).parts) == 1
    assert xr.open_datatree(store, engine="romzarr")["fast"].sizes["time"] == 40
    assert place.nightly() == 0
    assert main(place.arguments("status")) == 0
    assert "stored" in capsys.readouterr().out
    place.set(compression__tolerance=1e-1)
    assert place.nightly() == 0
    assert place.entry("a.zarr")["tolerance"] == 1e-1

"""The catalogue held against what is there: every state is told, those first that matter."""

import json
import shutil

import pytest

from romzarr_flows.cli import main
from romzarr_flows.nightly.status import BROKEN
from romzarr_flows.nightly.tables import columns
from tests.flows.nightly.processes import wait_for


def states(capsys, arguments):
    status = main([*arguments, "--json"])
    found = json.loads(capsys.readouterr().out)
    states = {each["dataset"]: each["state"] for each in found["datasets"]}
    assert status == (1 if set(BROKEN) & set(states.values()) else 0)
    return states


def test_every_state_is_told(place, capsys):
    for number, name in enumerate(("ok", "grown", "missing", "gone", "running", "bad")):
        place.add(f"{name}.zarr", number)
    (place.archive / "bad.zarr" / "u" / "c" / "0" / "0").write_bytes(b"torn")
    place.nightly()
    capsys.readouterr()
    place.add("grown.zarr", 9, snapshots=32)
    place.add("new.zarr", 9)
    shutil.rmtree(place.stores / "missing.romzarr")
    shutil.rmtree(place.archive / "gone.zarr")
    entry = place.entry("running.zarr") | {"state": "running"}
    (place.catalogue / "running.zarr.json").write_text(json.dumps(entry))
    expected = {
        "bad.zarr": "failed",
        "missing.zarr": "missing",
        "running.zarr": "killed",
        "grown.zarr": "grown",
        "new.zarr": "new",
        "gone.zarr": "gone",
        "ok.zarr": "stored",
    }
    found = states(capsys, place.arguments("status"))
    assert list(found.items()) == list(expected.items())
    # Without settings what is new is not known, nor which promise is asked now.
    del expected["new.zarr"]
    assert states(capsys, ["status", str(place.stores)]) == expected


def test_other_settings_are_told_with_their_difference(place, capsys):
    place.add("a.zarr")
    place.nightly()
    place.set(compression__tolerance=0.25)
    capsys.readouterr()
    assert main(place.arguments("status")) == 0
    assert "compression.tolerance was 0.0 and is now 0.25" in capsys.readouterr().out


def test_the_table_and_the_json_say_the_same(place, capsys):
    place.add("a.zarr", 1)
    place.nightly()
    capsys.readouterr()
    main(["status", str(place.stores), "--json"])
    (facts,) = json.loads(capsys.readouterr().out)["datasets"]
    main(["status", str(place.stores)])
    line = capsys.readouterr().out.splitlines()[1].split()
    assert line[:3] == ["a.zarr", "stored", f"{facts['ratio']:.3g}"]
    assert 0 <= facts["age_seconds"] < 60


def test_no_stores_at_all_is_told(place, capsys):
    assert main(["status"]) == 2
    assert "found no folder of stores" in capsys.readouterr().err
    assert main(["status", str(place.folder / "absent")]) == 0
    assert "0 datasets: none" in capsys.readouterr().out


def test_after_a_kill_it_is_said_that_nobody_is_at_work(place, capsys):
    place.add("a.zarr", snapshots=4000)
    run = place.start()
    wait_for(lambda: list(place.stores.glob(".a.romzarr.partial-*")))
    assert states(capsys, place.arguments("status")) == {"a.zarr": "running"}
    main(place.arguments("status"))
    out = capsys.readouterr().out
    assert "in progress since" in out
    assert ".json: at work, began" in out
    run.process.kill()
    run.end()
    assert states(capsys, place.arguments("status")) == {"a.zarr": "killed"}
    main(place.arguments("status"))
    out = capsys.readouterr().out
    assert "the run that began to process it at" in out
    assert ".json: killed, began" in out


def test_a_dataset_that_is_gone_with_its_store_is_said_to_be(place, capsys):
    place.add("a.zarr", 1)
    place.add("b.zarr", 2)
    place.nightly()
    for path in (place.archive / "a.zarr", place.stores / "a.romzarr"):
        shutil.rmtree(path)
    capsys.readouterr()
    assert states(capsys, place.arguments("status")) == {"a.zarr": "missing", "b.zarr": "stored"}
    main(place.arguments("status"))
    assert "its store is gone; the dataset is missing as well" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("state", "status"),
    [("done", 0), ("interrupted", 0), ("out of time", 0), ("stopped", 1), ("running", 1)],
)
def test_the_exit_status_tells_whether_the_last_run_ended_as_it_should(place, state, status):
    place.add("a.zarr", 1)
    place.nightly()
    (path,) = (place.catalogue / "runs").glob("*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"state": state}))
    assert main(place.arguments("status")) == status


def test_the_help_says_what_the_exit_status_means(capsys):
    with pytest.raises(SystemExit):
        main(["status", "--help"])
    out = capsys.readouterr().out
    assert "exit status: 0 no problem; 1" in out
    assert all(state in out for state in BROKEN)


def test_columns_stand_below_one_another():
    assert columns([("a", "bb", "c"), ("aaa", "b", "")]) == ["a    bb  c", "aaa  b"]

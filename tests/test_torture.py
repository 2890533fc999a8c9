"""A slice of `make torture` (tests/torture), and that its machine finds what is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.torture.__main__ import available, main
from tests.torture.campaign import Counts, Outcome
from tests.torture.flips import Flips
from tests.torture.registry import CAMPAIGNS
from tests.torture.runner import Plan, Report, reports_of, save

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, Report]:
    """What the slices of all campaigns find, in a process that starts no threads of its own."""
    out = tmp_path_factory.mktemp("torture")
    subprocess.run(
        [sys.executable, "-m", "tests.torture", "--scale", "1", "--jobs", "1", "--out", str(out)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    documents = json.loads((out / "results.json").read_text())
    return {name: Report.from_json(parts[0]) for name, parts in documents.items()}


@pytest.mark.parametrize("name", available())
def test_nothing_is_wrong_in_the_slice_of(name, found):
    report = found[name]
    assert report.counts.cases == CAMPAIGNS[name].slice
    wrong = [json.loads(Path(path).read_text()) for path in report.saved]
    assert not wrong, f"{wrong[0]['case']}: {wrong[0]['wrong']}"
    assert report.counts.wrong == 0


# --- the machine itself -------------------------------------------------------------------


class Blind(Flips):
    """A campaign for which everything is wrong."""

    def run(self, case):
        self._expected_of(case["kind"])
        return Outcome(wrong="reads as if nothing had happened")


def test_what_is_wrong_is_saved_and_replays(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(CAMPAIGNS, "flips", Blind)
    (tmp_path / "shared").mkdir()
    (tmp_path / "own").mkdir()
    campaign = Blind(tmp_path / "own", tmp_path / "shared", 0)
    case = {"kind": "lossless", "file": "zarr.json", "bit": 3}
    outcome = campaign.run(case)
    path = save(campaign, case, outcome, tmp_path / "out")
    saved = json.loads(Path(path).read_text())
    assert saved["case"] == case
    assert "lossless-0/zarr.json" in saved["files"]
    assert main(["replay", path]) == 1
    assert "as if nothing had happened" in capsys.readouterr().out
    monkeypatch.setitem(CAMPAIGNS, "flips", Flips)
    assert main(["replay", path]) == 0


def test_a_run_goes_on_where_it_stopped(tmp_path):
    class Numbers(Flips):
        name, slice = "flips", 10

        def prepare(self):
            pass

        def totals(self):
            return {}

        def cases(self):
            yield from ({"number": number} for number in range(1000))

        def run(self, case):
            return Outcome((str(case["number"]),))

    def reported(number, scale, before):
        plan = Plan(["flips"], 0, 0.0, scale, 2, number, "", "", before)
        return list(reports_of(Numbers(tmp_path, tmp_path, 0), plan))[-1]

    counts = Counts()
    for number in range(2):
        first = reported(number, 1, {})
        counts += reported(number, 2, {"flips": first.to_json()}).counts
    assert counts.kinds == {str(number): 1 for number in range(20)}


# Forks, so it has a process of its own.
KILLED = """
import sys
from pathlib import Path
from tests.torture.kills import Kills
from tests.torture import kills
from tests.torture.commands import Overwrite

class Careless(Overwrite):
    \"\"\"Writes what says which round it was, without any care.\"\"\"

    def set_up(self):
        super(Overwrite, self).set_up()
        self.run(-1, None)

    def run(self, number, tell):
        for name in ("one", "other"):
            (self.store.parent / name).write_text(str(number))

    def state(self, number):
        one, other = ((self.store.parent / name).read_text() for name in ("one", "other"))
        assert one == other, "half of it is new"
        return int(one)

    def stores(self):
        return []

kills.COMMANDS = {"careless": Careless}
campaign = Kills(Path(sys.argv[1]), Path(sys.argv[1]), 0)
try:
    for event in range(1, 9):
        case = {"moments": [{"event": event}], "settled": False, "kept": True}
        campaign.run({"command": "careless"} | case)
except AssertionError as error:
    print("half of it is new" in str(error))
"""


def test_kills_find_what_is_written_without_care(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "True", done.stderr

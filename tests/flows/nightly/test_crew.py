"""Datasets side by side, each in a process: as right as one by one, and none harms another."""

import json
import signal
import subprocess
import sys
from dataclasses import replace

import psutil
import pytest

from romzarr.config import load_config
from romzarr_flows.cli import main
from romzarr_flows.nightly import team
from romzarr_flows.nightly.plan import plan_run
from tests.flows.nightly.processes import wait_for

NAMES = "abcde"


@pytest.fixture
def many(place):
    place.set(nightly__parallel=2)
    for number, name in enumerate(NAMES):
        place.add(f"{name}.zarr", number)
    return place


def members(run) -> list[psutil.Process]:
    """The processes of a run that work on datasets."""
    found = psutil.Process(run.pid).children(recursive=True)
    return [each for each in found if each.is_running() and each.num_threads() > 1]


def under_way(place) -> list[str]:
    return [path.name[1] for path in place.stores.glob(".*.romzarr.partial-*/store")]


def writers(run, name) -> list[psutil.Process]:
    """The process that writes the store of a dataset: it has its lock open."""
    try:
        opened = {each: [file.path for file in each.open_files()] for each in members(run)}
    except psutil.Error:  # one has just ended
        return []
    return [each for each, paths in opened.items() if any(f"/.{name}.romz" in p for p in paths)]


def test_all_is_done_as_one_by_one(many):
    (many.archive / "c.zarr" / "u" / "c" / "1" / "0").unlink()
    # In a process of its own: servers of forks that others started here log elsewhere.
    status, said = many.start("--log-format", "json").end()
    assert status == 1
    steps = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    commits = {line["dataset"] for line in steps if line.get("stage") == "commit"}
    assert commits == {"a.zarr", "b.zarr", "d.zarr", "e.zarr"}
    assert "u/c/1/0" in many.entry("c.zarr")["message"]
    assert all(many.holds(name, NAMES.index(name)) for name in "abde")
    assert many.nightly() == 1
    assert many.records()[-1]["counts"]["kept"] == 4


def test_a_process_that_is_killed_costs_its_dataset_and_no_other(many):
    """As the kernel does where memory is short."""
    many.add("a.zarr", 0, snapshots=4000)
    run = many.start()
    wait_for(lambda: writers(run, "a"))
    writers(run, "a")[0].kill()
    status, said = run.end()
    assert status == 1
    assert "a.zarr: its process was killed (signal 9), most often for lack of memory" in said
    assert many.entry("a.zarr")["state"] == "failed"
    assert all(many.entry(f"{name}.zarr")["state"] == "stored" for name in "bcde")
    many.add("a.zarr", 0)
    assert many.nightly() == 0
    assert all(many.holds(name, NAMES.index(name)) for name in NAMES)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_processes_end_with_the_run_and_the_next_goes_on(many, number):
    many.add("a.zarr", 0, snapshots=4000)
    many.add("b.zarr", 1, snapshots=4000)
    run = many.start()
    wait_for(lambda: len(under_way(many)) == 2)
    there = members(run)
    run.signal(number)
    assert run.end()[0] == (128 + number if number == signal.SIGTERM else -number)
    wait_for(lambda: not any(each.is_running() for each in there))
    assert number == signal.SIGKILL or not many.unfinished()
    assert many.nightly() == 0
    assert many.holds("a", 0, 4000)
    assert many.holds("e", 4)


STARTING_A_THREAD = """
import os, signal, time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe
from types import SimpleNamespace
from romzarr.config import Config
from romzarr_flows.nightly import crew
class Threads(set):
    def add(self, thread):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        super().add(thread)
pool = ThreadPoolExecutor(1)
pool._threads = Threads()
crew.run_job = lambda job, config: pool.submit(int)
(ours, theirs), (lives, life) = Pipe(), Pipe(duplex=False)
ours.send(SimpleNamespace(dataset=SimpleNamespace(name="a.zarr")))
crew.work(theirs, lives, Config(), "text")
"""


def test_a_process_ends_even_while_a_pool_starts_a_thread():
    """The pool has not noted it, so the exit of the interpreter would wait for it for ever."""
    done = subprocess.run([sys.executable, "-c", STARTING_A_THREAD], timeout=60)
    assert done.returncode == 128 + signal.SIGTERM


def test_time_that_is_up_lets_finish_what_is_begun(many):
    many.add("a.zarr", 0, snapshots=2000)
    assert many.nightly("--max-hours", "0.00001") == 0
    record = many.records()[-1]
    assert record["state"] in ("done", "out of time")
    assert len(record["datasets"]) + len(record["left"]) == len(NAMES)
    assert not many.unfinished()


def test_only_many_small_ones_are_worth_processes_by_themselves(place, monkeypatch):
    place.add("a.zarr")
    monkeypatch.setattr(team, "CPU_COUNT", 2)
    assert sizes(place) == (False, False)
    monkeypatch.setattr(team, "FEWEST", 1)
    assert sizes(place) == (True, False)


def sizes(place) -> tuple[bool, bool]:
    """Whether a crew takes a small dataset, and a large one."""
    config = load_config(place.folder / "config.yaml")
    (job,) = plan_run(config).jobs
    large = replace(job, dataset=replace(job.dataset, nbytes=10**12))
    crew = team.crew_for([job, large], config, "text")
    return crew.takes(job), crew.takes(large)


def test_a_cluster_works_on_one_dataset_at_a_time(many, capsys):
    many.set(cluster__kind="local")
    assert main(many.arguments("nightly")) == 2
    assert "nightly.parallel: found 2 with cluster.kind 'local'" in capsys.readouterr().err
    assert not many.stores.exists()

"""Threads and processes that read while a writer overwrites, appends and streams."""

from __future__ import annotations

import random
import shutil
import threading
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from tests.torture import data
from tests.torture.campaign import Campaign, Case, Outcome
from tests.torture.commands import COMMANDS, Command, assert_within
from tests.torture.processes import call_child, preload

WRITERS = ("overwrite", "overwrite, lossy", "append", "stream")
# Reads of a dataset that is held before another is opened.
HELD = 4


class Readers(Campaign):
    """A writer does its rounds while others read what is there, and what was there."""

    name = "readers"
    what = "datasets opened afresh, and held open, beside a writer"
    slice = 4

    def cases(self) -> Iterator[Case]:
        for number in range(1 << 62):
            rng = random.Random(f"{self.seed} {number}")
            yield {
                "writer": WRITERS[number % len(WRITERS)],
                "rounds": rng.randint(2, 5),
                "readers": rng.randint(1, 3),
                "processes": rng.random() < 0.5,
                "seed": rng.randrange(1 << 32),
            }

    def run(self, case: Case) -> Outcome:
        command = self._command(case["writer"])
        if case["processes"]:
            reads = _beside_processes(command, case)
        else:
            reads = call_child(partial(_beside_threads, command, case))
        kinds = ("fresh",) * reads[0] + ("held",) * reads[1]
        return Outcome(kinds, tried=sum(reads))

    def _command(self, name: str) -> Command:
        start, place = self.folder / "starts" / name, self.folder / "place"
        if not start.exists():
            call_child(partial(_started, COMMANDS[name](start)))
            preload(partial(_read_once, COMMANDS[name](start), random.Random(0)))
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(start, place)
        return COMMANDS[name](place)


def _started(command: Command) -> None:
    """A store must be there before anybody reads."""
    command.set_up()
    if not command.store.exists():
        command.run(0, lambda value: None)


def _write(command: Command, rounds: int) -> None:
    for number in range(1, rounds + 1):
        command.run(number, lambda value: None)


def _beside_threads(command: Command, case: Case) -> list[int]:
    """Reads of threads of the writer's process."""
    over, results = threading.Event(), list[Any]()

    def read(number: int) -> None:
        try:
            results.append(_keep_reading(command, over.is_set, f"{case['seed']} {number}"))
        except BaseException:
            results.append(traceback.format_exc())

    threads = [threading.Thread(target=read, args=(k,)) for k in range(case["readers"])]
    for thread in threads:
        thread.start()
    try:
        _write(command, case["rounds"])
    finally:
        over.set()
        for thread in threads:
            thread.join()
    return _summed(results)


def _beside_processes(command: Command, case: Case) -> list[int]:
    """Reads of processes of their own, each with a writer in mind that is another."""
    over, results = command.folder / "over", list[Any]()

    def read(number: int) -> None:
        work = partial(_keep_reading, command, over.exists, f"{case['seed']} {number}")
        try:
            results.append(call_child(work))
        except BaseException:
            results.append(traceback.format_exc())

    def work() -> list[int]:
        # Only these threads fork, and they start nothing else.
        threads = [threading.Thread(target=read, args=(k,)) for k in range(case["readers"])]
        for thread in threads:
            thread.start()
        try:
            call_child(partial(_write, command, case["rounds"]))
        finally:
            over.touch()
            for thread in threads:
                thread.join()
        return _summed(results)

    found: list[int] = call_child(work)
    return found


def _summed(results: list[Any]) -> list[int]:
    failed = [each for each in results if isinstance(each, str)]
    assert not failed, failed[0]
    return [sum(each[k] for each in results) for k in range(2)]


def _keep_reading(command: Command, over: Callable[[], bool], seed: str) -> list[int]:
    """Numbers of fresh reads, and of reads of what was held."""
    rng, counts = random.Random(seed), [0, 0]
    while not over() or not counts[0]:
        counts[1] += _read_once(command, rng)
        counts[0] += 1
    return counts


def _read_once(command: Command, rng: random.Random) -> int:
    """Open afresh, compare, and read again and again in pieces while the writer goes on."""
    opened = xr.open_dataset(command.store, engine="romzarr", cache=False)
    first = opened.load() if rng.random() < 0.5 else opened.copy().load()
    _check_whole(command, first)
    held = xr.open_dataset(command.store, engine="romzarr", cache=False)
    expected = None
    for _ in range(HELD):
        start = rng.randrange(held.sizes["time"])
        piece = held["u"][start : start + 7].values
        whole = held["u"].values
        np.testing.assert_array_equal(piece, whole[start : start + 7])
        if expected is not None:
            np.testing.assert_array_equal(whole, expected)
        expected = whole
    return HELD


def _check_whole(command: Command, found: xr.Dataset) -> None:
    """What was read is one of the states that the writer makes, not something between them."""
    if command.name == "overwrite":
        assert any(found.equals(data.waves(number)) for number in range(-1, 9))
        return
    seed = round(float(found["depth"][0]))
    assert_within(data.waves(seed, found.sizes["time"]), found)

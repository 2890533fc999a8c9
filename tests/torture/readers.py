"""Threads and processes that read while a writer overwrites, appends and streams."""

from __future__ import annotations

import random
import shutil
import threading
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import xarray as xr

from tests.torture import data
from tests.torture.campaign import Campaign, Case, Outcome
from tests.torture.commands import COMMANDS, Command, assert_within
from tests.torture.processes import Tell, call_and_import, call_child, run_child, start_child

WRITERS = ("overwrite", "overwrite, lossy", "append", "stream")
# Datasets that a reader holds open.
MOST_HELD = 4


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
                "rounds": rng.randint(1, 2),
                "readers": rng.randint(1, 2),
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
            call_and_import(partial(_read_once, COMMANDS[name](start)))
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
    """Reads of processes of their own."""
    over = command.folder / "over"

    def read(number: int, tell: Tell) -> None:
        tell(_keep_reading(command, over.exists, f"{case['seed']} {number}"))

    children = [start_child(partial(read, number)) for number in range(case["readers"])]
    writer = run_child(lambda tell: _write(command, case["rounds"]))
    over.touch()
    ends = [child.end() for child in children]
    return _summed([writer.error or [0, 0], *(end.error or end.told[-1] for end in ends)])


def _summed(results: list[Any]) -> list[int]:
    failed = [each for each in results if isinstance(each, str)]
    assert not failed, failed[0]
    return [sum(each[k] for each in results) for k in range(2)]


def _keep_reading(command: Command, over: Callable[[], bool], seed: str) -> list[int]:
    """Numbers of fresh reads, and of reads of what was opened before and held."""
    rng, fresh, again = random.Random(seed), 0, 0
    held: list[tuple[xr.Dataset, xr.Dataset]] = []
    while not over() or not again:
        held = [_opened_whole(command), *held][:MOST_HELD]
        fresh += 1
        for lazy, first in held:
            _check_again(lazy, first, rng)
            again += 1
    return [fresh, again]


def _opened_whole(command: Command) -> tuple[xr.Dataset, xr.Dataset]:
    """A dataset to be held, and what it was when it was opened."""
    lazy = xr.open_dataset(command.store, engine="romzarr", cache=False)
    first = lazy.copy().load()
    _check_whole(command, first)
    return lazy, first


def _check_again(lazy: xr.Dataset, first: xr.Dataset, rng: random.Random) -> None:
    """The same bits for any piece, whatever the writer did meanwhile."""
    start, length = rng.randrange(first.sizes["time"]), rng.randint(1, 60)
    piece = slice(start, start + length)
    xr.testing.assert_identical(lazy.isel(time=piece).load(), first.isel(time=piece))


def _read_once(command: Command) -> None:
    _check_again(*_opened_whole(command), random.Random(0))


def _check_whole(command: Command, found: xr.Dataset) -> None:
    """What was read is one of the states that the writer makes, not something between them."""
    if command.name == "overwrite":
        assert any(found.equals(data.waves(number)) for number in range(-1, 9))
        return
    seed = round(float(found["depth"][0]))
    assert_within(data.waves(seed, found.sizes["time"]), found)

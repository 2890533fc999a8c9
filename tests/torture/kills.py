"""kill -9 at any moment of every command that writes."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from romzarr.store import commit
from tests.torture.campaign import Campaign, Case, Outcome
from tests.torture.commands import COMMANDS, Command, State
from tests.torture.processes import (
    Course,
    Moment,
    Tell,
    call_and_import,
    call_child,
    counted,
    run_child,
)

# Kills one after the other of which each finds what the one before has left.
MOST_KILLS = 4
# Of the cases that end with a run that is not killed, and leaves nothing of those before.
SETTLED = 0.4


class Kills(Campaign):
    """Rounds of one command, each killed; what is there is compared after each."""

    name = "kills"
    what = "kill -9 of compress, append, reconstruct, nightly and streams"
    slice = 8
    share = 3.0

    def __init__(self, folder: Path, shared: Path, seed: int) -> None:
        super().__init__(folder, shared, seed)
        self._starts: dict[str, Path] = {}

    def _start_of(self, name: str) -> Path:
        """A folder as a command finds it before its first round."""
        if name not in self._starts:
            start = self.folder / "starts" / name
            call_child(COMMANDS[name](start).set_up)
            self._starts[name] = start
        return self._starts[name]

    def _course_of(self, name: str) -> Course:
        """How long a command takes, and how often it accesses files."""
        return Course(*call_and_import(partial(_two_rounds, self._command(name))))

    def _command(self, name: str) -> Command:
        place = self.folder / "place"
        start = self._start_of(name)
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(start, place, symlinks=True)
        return COMMANDS[name](place)

    def cases(self) -> Iterator[Case]:
        courses: dict[str, Course] = {}
        # Commands take turns, so that some cases have all of them.
        for number in range(1 << 62):
            rng = random.Random(f"{self.seed} {number}")
            name = list(COMMANDS)[number % len(COMMANDS)]
            if name not in courses:
                courses[name] = self._course_of(name)
            moments = [_moment(rng, courses[name]) for _ in range(rng.randint(1, MOST_KILLS))]
            yield {
                "command": name,
                "moments": moments,
                "settled": rng.random() < SETTLED,
                "kept": rng.random() < 0.5,
            }

    def run(self, case: Case) -> Outcome:
        command = self._command(case["command"])
        before: State = call_child(lambda: command.state(-1))
        kinds, kills = [], 0
        for number, moment in enumerate(case["moments"]):
            call_child(partial(command.make_ready, number))
            work = partial(_run, command, number, case["kept"])
            end = run_child(work, command.folder, Moment(**moment))
            if end.error:
                return Outcome(tuple(kinds), end.error, kills + 1)
            after = call_child(lambda number=number: command.state(number))
            kills += end.killed
            kinds += [command.name] * end.killed
            if not _is_right(command, number, before, after, end.told, end.killed):
                was = f"round {number}: before {before}, told {end.told[-1:]}, after {after}"
                return Outcome(tuple(kinds), was, kills)
            kinds.append("old" if after == before else "new")
            before = after
        wrong = ""
        if case["settled"]:
            number = len(case["moments"])
            wrong = call_child(lambda: _settled(command, number, case["kept"]))
        return Outcome((*kinds, *["settled"] * case["settled"]), wrong, kills)


def _two_rounds(command: Command) -> tuple[int, float]:
    """How much happens in the second, which finds all imported, and something to replace."""
    command.make_ready(0)
    command.run(0, lambda value: None)
    command.state(0)
    command.make_ready(1)
    return counted(partial(command.run, 1, lambda value: None), command.folder)


def _moment(rng: random.Random, course: Course) -> dict[str, float]:
    """Half of all are at an access to files, where the danger is; half at any time."""
    if rng.random() < 0.5:
        return {"event": rng.randint(1, max(1, course.events))}
    return {"seconds": rng.uniform(0, course.seconds)}


def _is_right(
    command: Command, number: int, before: State, after: State, told: list[Any], killed: bool
) -> bool:
    if not killed:
        return command.is_done(number, after)
    return command.allows(number, before, told, after)


def _run(command: Command, number: int, kept: bool, tell: Tell) -> None:
    """Run a command; what it replaces may have to go at once, not in an hour."""
    if not kept:
        commit.RETENTION = timedelta(seconds=-1)
    command.run(number, tell)


def _settled(command: Command, number: int, kept: bool) -> str:
    """What is wrong after a run that is not killed; empty if nothing."""
    command.make_ready(number)
    _run(command, number, kept, lambda value: None)
    after = command.state(number)
    if not command.is_done(number, after):
        return f"a run that was not killed left {after}"
    if litter := command.litter():
        return f"left behind: {litter}"
    return ""

"""Children of a process that has imported everything, which are killed when their time comes.

A process that has started threads must not fork: what needs them runs in children, too.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What changes a file system, and what looks at it in between.
EVENTS = frozenset(
    ["open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.listdir", "os.scandir"]
)
# A child that takes longer hangs.
PATIENCE = 300.0

Tell = Callable[[Any], None]


class HangsError(Exception):
    """A child did not end."""


@dataclass(frozen=True)
class End:
    """How a child ended: what it told, and why it failed, if it did."""

    killed: bool
    told: list[Any]
    error: str = ""


@dataclass(frozen=True)
class Moment:
    """When to kill: at an access to files below a folder, or after some seconds."""

    event: int | None = None
    seconds: float | None = None


def _count_events(folder: Path, act: Callable[[int], None]) -> None:
    """Call `act` with the number of every access to what is below `folder`, just before it."""
    within, number = str(folder), 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal number
        if event in EVENTS and any(within in str(a) for a in arguments[:2]):
            number += 1
            act(number)

    sys.addaudithook(hook)


def _kill_at(event: int, number: int) -> None:
    if number == event:
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Child:
    """A child that runs."""

    pid: int
    reading: int
    seconds: float | None
    patience: float

    def end(self) -> End:
        """Wait for its end; it is killed when its time has come.

        Raises
        ------
        HangsError
            If it does not end.
        """
        told, hangs = _listen(self.reading, self.pid, self.seconds, self.patience)
        _, status = os.waitpid(self.pid, 0)
        if hangs:
            raise HangsError(f"a child did not end within {self.patience:.0f} s")
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        error = "".join(each["error"] for each in told if "error" in each)
        if not killed and status and not error:
            error = f"the child ended with status {status}"
        return End(killed, [each["told"] for each in told if "told" in each], error)


def start_child(
    work: Callable[[Tell], Any],
    folder: Path | None = None,
    moment: Moment | None = None,
    patience: float = PATIENCE,
) -> Child:
    """Start `work` in a child, which is killed at the moment given."""
    moment = moment or Moment()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        if folder is not None and moment.event is not None:
            _count_events(folder, functools.partial(_kill_at, moment.event))
        _be_child(work, writing)
    os.close(writing)
    return Child(pid, reading, moment.seconds, patience)


def run_child(
    work: Callable[[Tell], Any], folder: Path | None = None, moment: Moment | None = None
) -> End:
    """Run `work` in a child to its end, or until it is killed at the moment given."""
    return start_child(work, folder, moment).end()


def call_child(work: Callable[[], Any]) -> Any:
    """What `work` returns in a child; JSON values.

    Raises
    ------
    AssertionError
        With the traceback, if it fails there.
    """
    end = run_child(lambda tell: tell(work()))
    if end.error or end.killed:
        raise AssertionError(end.error or "killed by somebody else")
    return end.told[-1]


def _be_child(work: Callable[[Tell], Any], writing: int) -> None:
    def say(**document: Any) -> None:
        os.write(writing, (json.dumps(document) + "\n").encode())

    try:
        quiet = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(quiet, descriptor)
        work(lambda value: say(told=value))
        os._exit(0)
    except BaseException:
        say(error=traceback.format_exc())
        os._exit(1)


def _listen(
    reading: int, pid: int, seconds: float | None, patience: float
) -> tuple[list[Any], bool]:
    """Lines that a child writes until it ends, or is killed; and whether it hung."""
    ends, hangs = time.monotonic() + patience, False
    kill_at = None if seconds is None else time.monotonic() + seconds
    received = b""
    while True:
        left = (ends if kill_at is None else kill_at) - time.monotonic()
        ready, _, _ = select.select([reading], [], [], max(0.0, left))
        if ready:
            if not (piece := os.read(reading, 1 << 16)):
                break
            received += piece
        elif left <= 0:
            hangs = kill_at is None
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            kill_at, ends = None, time.monotonic() + patience
    os.close(reading)
    # A line that was cut off was not said.
    return [json.loads(line) for line in received.split(b"\n")[:-1]], hangs


@dataclass(frozen=True)
class Course:
    """How much happens while something runs undisturbed."""

    events: int
    seconds: float


def call_and_import(work: Callable[[], Any]) -> Any:
    """As `call_child`, and import here what it has imported, so that further children need not."""

    def work_and_names(tell: Tell) -> None:
        tell(work())
        for name in list(sys.modules):
            tell(name)

    end = run_child(work_and_names)
    if end.error:
        raise AssertionError(end.error)
    value, *names = end.told
    for name in names:
        if name not in sys.modules and not name.startswith(("__", "multiprocessing.")):
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    return value


def counted(work: Callable[[], Any], folder: Path) -> tuple[int, float]:
    """Accesses to files below `folder` while `work` runs, and seconds; once in a process."""
    count = [0]
    _count_events(folder, lambda number: count.__setitem__(0, number))
    began = time.monotonic()
    work()
    return count[0], time.monotonic() - began

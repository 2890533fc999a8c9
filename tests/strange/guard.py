"""What every case is held to: errors of ours, little time and memory, nothing left behind."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from romzarr.errors import PipelineError
from romzarr_flows.cli import main

# Seconds of CPU, of the clock (for what waits for ever), and bytes beyond those held before.
MOST_SECONDS, MOST_WAITED, MOST_BYTES = 10, 60, 500_000_000


class Stuck(BaseException):
    """Raised by the clock where a case takes too long; nobody catches it by mistake."""


@contextlib.contextmanager
def within_limits() -> Iterator[None]:
    """Fail if the block takes long or much memory."""

    def stop(number: int, _frame: Any) -> None:
        raise Stuck(signal.Signals(number).name)

    clocks = {
        signal.SIGPROF: (signal.ITIMER_PROF, MOST_SECONDS),
        signal.SIGALRM: (signal.ITIMER_REAL, MOST_WAITED),
    }
    before = {number: signal.signal(number, stop) for number in clocks}
    held = peak_bytes()
    try:
        for clock, seconds in clocks.values():
            signal.setitimer(clock, seconds)
        with warnings.catch_warnings():
            # What overflows in strange numbers is nobody's fault.
            warnings.simplefilter("ignore")
            yield
    except Stuck as stuck:
        raise AssertionError(f"takes too long: {stuck}") from stuck
    finally:
        for number, (clock, _) in clocks.items():
            signal.setitimer(clock, 0)
            signal.signal(number, before[number])
    more = peak_bytes() - held
    assert more <= MOST_BYTES, f"takes {more} bytes of memory"


def peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def called(action: Callable[[], Any]) -> tuple[bool, Any]:
    """Whether a call of Python succeeds, and what it returns; of errors only ours are allowed."""
    try:
        return True, action()
    except PipelineError as error:
        refusal = error
    assert str(refusal).strip(), f"{type(refusal).__name__} says nothing"
    return False, refusal


def commanded(*arguments: str | Path) -> int:
    """Exit status of a command, run in this process; its one line of an error is looked at."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(list(map(str, arguments)))
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 1
    said = err.getvalue()
    assert status in (0, 1, 2), f"exit status {status}: {said}"
    assert "Traceback" not in said, said
    errors = [line for line in said.splitlines() if line.startswith("romzarr: error: ")]
    # A bound that is broken is told in the table.
    assert len(errors) == (status != 0) or "BREAKS ITS BOUND" in out.getvalue(), said
    assert not errors or said.splitlines()[-1] == errors[-1], said
    assert not any("MemoryError" in line for line in errors), said
    return status


def names_below(folder: Path) -> set[str]:
    """Everything below a folder, however deep."""
    found = set()
    for place, folders, files in os.walk(folder):
        found |= {os.path.relpath(os.path.join(place, name), folder) for name in folders + files}
    return found

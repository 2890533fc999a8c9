"""Runs in processes of their own that can be killed, forked from one that has imported all."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["romzarr.operations.compress", "romzarr.operations.verify", "romzarr_flows.nightly.run"]
)


def _run(arguments: list[str], log: str) -> None:
    # Imported by the server already; here, so that it is of this process.
    from romzarr_flows.cli import main

    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.exit(main(arguments))


@dataclass
class Run:
    """A command that runs, or has run, in another process."""

    process: ForkServerProcess
    log: Path

    @property
    def pid(self) -> int:
        return int(self.process.pid or 0)

    @property
    def over(self) -> bool:
        return not self.process.is_alive()

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def end(self, seconds: float = 60.0) -> tuple[int | None, str]:
        """Its exit status and all that it said, once it is over; a signal is negative."""
        self.process.join(seconds)
        return self.process.exitcode, self.log.read_text() if self.log.exists() else ""


def start(arguments: list[str], log: Path) -> Run:
    process = _CONTEXT.Process(target=_run, args=(arguments, str(log)))
    process.start()
    return Run(process, log)


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Return as soon as the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("nothing happened")
        time.sleep(0.002)

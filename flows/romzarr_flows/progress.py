"""Progress of Dask computations: a bar on a terminal, plain log lines elsewhere.

Dask's own bars are of no use here: one writes to standard output, which is for results, and that
of distributed needs futures, which the operations do not expose.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TextIO
from urllib.request import urlopen

from dask.callbacks import Callback

from romzarr_flows.background import repeating
from romzarr_flows.clusters import Workers

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger(__name__)

# With the counts and the time the bar fits a terminal of 80 columns.
BAR_WIDTH = 40
# The eye takes a tenth of a second for motion; logs of batch jobs stay short; a poll costs the
# scheduler a pass over its tasks.
BAR_SECONDS = 0.1
LOG_SECONDS = 10.0
POLL_SECONDS = 0.5


class Display(Protocol):
    def restart(self) -> None: ...
    def update(self, done: int, total: int) -> None: ...
    def close(self) -> None: ...


class Bar:
    """One line on a terminal, rewritten in place and erased at the end."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.restart()

    def restart(self) -> None:
        self.began = self.next = time.monotonic()

    def update(self, done: int, total: int) -> None:
        now = time.monotonic()
        if total and (now >= self.next or done == total):
            self.next = now + BAR_SECONDS
            filled = "#" * (BAR_WIDTH * done // total)
            elapsed = f"{now - self.began:.0f} s"
            self.stream.write(f"\r[{filled:<{BAR_WIDTH}}] {done}/{total} tasks, {elapsed}\x1b[K")
            self.stream.flush()

    def close(self) -> None:
        self.stream.write("\r\x1b[K")
        self.stream.flush()


class LogLines:
    """A log line every few seconds; none for work that is shorter."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.began = time.monotonic()
        self.next = self.began + LOG_SECONDS

    def update(self, done: int, total: int) -> None:
        now = time.monotonic()
        if total and now >= self.next:
            self.next = now + LOG_SECONDS
            log.info("%d of %d tasks, %.0f s", done, total, now - self.began)

    def close(self) -> None:
        pass


class SchedulerInProcess(Callback):
    """Progress of the scheduler in this process, after every task."""

    def __init__(self, display: Display) -> None:
        super().__init__()
        self.display = display

    def _start(self, dsk: Any) -> None:
        self.display.restart()

    def _posttask(self, key: Any, result: Any, dsk: Any, state: Any, worker_id: Any) -> None:
        done = len(state["finished"])
        waiting = sum(len(state[each]) for each in ("ready", "waiting", "running"))
        self.display.update(done, done + waiting)


def tasks_left(dask_scheduler: Any) -> int:
    """Count the unfinished tasks; runs on the scheduler."""
    left = ("waiting", "queued", "no-worker", "processing")
    return sum(task.state in left for task in dask_scheduler.tasks.values())


def polling(client: Client, display: Display) -> AbstractContextManager[None]:
    """Poll a remote scheduler for its counts while the context lasts."""
    total = 0  # the scheduler forgets finished tasks: the largest number of tasks left is the total

    def poll() -> None:
        nonlocal total
        try:
            left = client.run_on_scheduler(tasks_left)
        except Exception:
            # The job itself reports what is wrong with the cluster.
            log.debug("no counts from the scheduler", exc_info=True)
            return
        if not total:
            display.restart()
        total = max(total, left) if left else 0
        display.update(total - left, total)

    return repeating("romzarr progress", POLL_SECONDS, poll)


def log_workers(workers: Workers) -> None:
    """Log which workers do the work, and the address of their dashboard if it answers."""
    if workers.client is not None:
        link = dashboard(workers.client)
        log.info("%s%s", workers.description, f", dashboard: {link}" if link else "")


def dashboard(client: Client) -> str:
    """Return the address of a scheduler's dashboard; empty if it does not answer."""
    # A scheduler without a dashboard still has a port for it.
    if "dashboard" not in client.scheduler_info().get("services", {}):
        return ""
    try:
        with urlopen(client.dashboard_link, timeout=POLL_SECONDS):
            return str(client.dashboard_link)
    except OSError:
        return ""


@contextmanager
def show_progress(workers: Workers, stream: TextIO | None = None) -> Iterator[None]:
    """Show the progress of every Dask computation while the context lasts."""
    stream = stream or sys.stderr
    display: Display = Bar(stream) if stream.isatty() else LogLines()
    source = polling(workers.client, display) if workers.client else SchedulerInProcess(display)
    try:
        with source:
            yield
    finally:
        display.close()

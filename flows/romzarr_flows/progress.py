"""Progress of Dask computations: a bar on a terminal, plain log lines elsewhere.

Dask's own bars write to standard output, which belongs to results and JSON here, and
distributed's wants the futures that the operations keep to themselves. Both sources of counts
(callbacks of the scheduler in this process, questions to a remote one) end in one display.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TextIO
from urllib.request import urlopen

from dask.callbacks import Callback

from romzarr_flows.clusters import Workers

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger(__name__)

BAR_WIDTH = 40
BAR_SECONDS = 0.1
LOG_SECONDS = 10.0
POLL_SECONDS = 0.5


class Display(Protocol):
    def restart(self) -> None: ...
    def update(self, done: int, total: int) -> None: ...
    def close(self) -> None: ...


class Bar:
    """One line on a terminal, rewritten in place and wiped at the end."""

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
    """A line in the log every few seconds, none for work that is over before."""

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
    """Counts from the scheduler in this process, after every task."""

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
    """Number of tasks still to be done; runs on the scheduler."""
    left = ("waiting", "queued", "no-worker", "processing")
    return sum(task.state in left for task in dask_scheduler.tasks.values())


@contextmanager
def asking(client: Client, display: Display) -> Iterator[None]:
    """Ask a remote scheduler for its counts, from a thread, while the context lasts."""
    over = threading.Event()

    def ask() -> None:
        most = 0  # the scheduler forgets finished tasks: what was left at most is the total
        while not over.wait(POLL_SECONDS):
            try:
                left = client.run_on_scheduler(tasks_left)
            except Exception:
                # What is wrong with the cluster is the job's to report.
                log.debug("no counts from the scheduler", exc_info=True)
                continue
            if not most:
                display.restart()
            most = max(most, left) if left else 0
            display.update(most - left, most)

    thread = threading.Thread(target=ask, name="romzarr progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def announced(workers: Workers) -> None:
    """Say which workers do the work, and where they can be watched if there is such a place."""
    if workers.client is not None:
        link = dashboard(workers.client)
        log.info("%s%s", workers.description, f", dashboard: {link}" if link else "")


def dashboard(client: Client) -> str:
    """Address of the page of a scheduler; empty if none answers from here."""
    # A scheduler without a dashboard has its port all the same.
    if "dashboard" not in client.scheduler_info().get("services", {}):
        return ""
    try:
        with urlopen(client.dashboard_link, timeout=POLL_SECONDS):
            return str(client.dashboard_link)
    except OSError:
        return ""


@contextmanager
def shown(workers: Workers, stream: TextIO | None = None) -> Iterator[None]:
    """Show the progress of every Dask computation while the context lasts."""
    stream = stream or sys.stderr
    display: Display = Bar(stream) if stream.isatty() else LogLines()
    source = asking(workers.client, display) if workers.client else SchedulerInProcess(display)
    try:
        with source:
            yield
    finally:
        display.close()

"""A nightly run: one dataset after another, whatever becomes of each."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from flows.cluster import FAILURES
from flows.clusters import Workers
from flows.nightly import CannotRunError
from flows.nightly.catalogue import Catalogue, Entry, catalogue_of
from flows.nightly.lock import Held, locked
from flows.nightly.plan import Job, Plan, checked, plan_run
from flows.nightly.record import Record, begun, write
from flows.nightly.work import begun_entry, carry_out, failed_entry, left_entry
from pipeline.config import Config, NightlyConfig
from pipeline.errors import PipelineError
from pipeline.steps import size, working_on

log = logging.getLogger(__name__)

Working = Callable[[Config], AbstractContextManager[Workers]]


class StopRun(Exception):
    """No further dataset is begun; ``state`` is that of the record."""

    state = "stopped"


class OutOfTime(StopRun):
    """All as the settings want it; what is left is for the next run."""

    state = "out of time"


def run_nightly(
    config: Config, working: Working, *, only: str = "**", since: str | None = None
) -> Record:
    """Bring every store of an archive up to date.

    Parameters
    ----------
    config : Config
        The section ``nightly`` says where, all others how.
    working : callable
        Starts the workers; it is called only if there is something to do.
    only, since
        As for `flows.nightly.plan.plan_run`.

    Returns
    -------
    Record
        What was done, as it was written beside the stores.

    Raises
    ------
    ConfigError, CannotRunError
        If nothing can be done for any dataset: a setting is wrong, a place unreachable, or
        another run at work.
    KeyboardInterrupt
        After SIGINT or SIGTERM. What was finished counts, and nothing half-written is left.
    """
    config, began = replace(config, nightly=checked(config.nightly)), time.monotonic()
    with locked(config.nightly.stores) as lock, ending_on_sigterm():
        catalogue = catalogue_of(config.nightly.stores)
        written(catalogue.folder.sweep)
        plan = plan_run(config, only=only, since=since)
        record = begun(catalogue, plan, config.to_dict()["nightly"])
        log.info("%d datasets: %d to do, %s", record.datasets, len(plan.jobs), size(plan.nbytes))
        with recorded(catalogue, record, plan):
            if plan.jobs:
                with started(working, config) as workers:
                    for job in plan.jobs:
                        refuse_to_go_on(config.nightly, began, workers, lock)
                        with working_on(job.dataset.name):
                            record.add(job, *worked(job, config, catalogue))
    return record


@contextmanager
def started(working: Working, config: Config) -> Iterator[Workers]:
    """Workers; without them the run cannot go on."""
    with ExitStack() as stack:
        try:
            workers = stack.enter_context(working(config))
        except PipelineError as error:
            raise CannotRunError(str(error)) from error
        yield workers


@contextmanager
def recorded(catalogue: Catalogue, record: Record, plan: Plan) -> Iterator[None]:
    """Write the record when the run begins and when it ends, in whatever way that is."""
    written(write, catalogue, record)
    try:
        yield
        record.state = "done"
    except StopRun as stop:
        log.warning("%s: %s", stop.state, stop)
        record.state, record.reason = stop.state, str(stop)
        for job in left(record, plan):
            written(catalogue.write, left_entry(job))
    except BaseException as error:
        record.state, record.reason = "interrupted", str(error) or type(error).__name__
        raise
    finally:
        record.left = tuple(job.dataset.name for job in left(record, plan))
        written(write, catalogue, record)


def left(record: Record, plan: Plan) -> list[Job]:
    """Jobs that the run did not come to."""
    done = {outcome["dataset"] for outcome in record.outcomes}
    return [job for job in plan.jobs if job.dataset.name not in done]


def refuse_to_go_on(settings: NightlyConfig, began: float, workers: Workers, lock: Held) -> None:
    """Raise StopRun if time is up, the workers are gone, or another run has taken over."""
    hours = settings.max_hours
    if hours != "unlimited" and time.monotonic() - began >= 3600 * hours:
        raise OutOfTime(f"the {hours:g} hours of nightly.max_hours are over")
    if workers.client is not None and workers.client.status != "running":
        raise StopRun("the scheduler of the workers is gone; see its log, and start it again")
    if lock.lost.is_set():
        raise StopRun("the lock could not be renewed, so another run may be at work by now")


def worked(job: Job, config: Config, catalogue: Catalogue) -> tuple[Entry, float]:
    """Do one job and enter what became of it; how long it took."""
    began = time.perf_counter()
    written(catalogue.write, begun_entry(job))
    try:
        entry = attempted(job, config)
    except BaseException:
        written(catalogue.write, left_entry(job))
        raise
    seconds = time.perf_counter() - began
    if not written(catalogue.write, entry):
        entry = failed_entry(job, "what became of it could not be entered into the catalogue")
    told(job, entry, seconds)
    return entry, seconds


def attempted(job: Job, config: Config) -> Entry:
    """Do one job; a failure is an entry too, and no reason to stop."""
    try:
        return carry_out(job, config)
    except (PipelineError, OSError, MemoryError) as error:
        return failed_entry(job, f"{type(error).__name__}: {error}")
    except Exception as error:
        if type(error).__name__ in FAILURES:
            return failed_entry(job, f"{FAILURES[type(error).__name__]} ({error})")
        # Packages fail in ways of their own, and so may we: the next dataset may be sound.
        log.exception("unexpected")
        return failed_entry(job, f"{type(error).__name__}: {error}")


def told(job: Job, entry: Entry, seconds: float) -> None:
    """One line on what became of a dataset."""
    facts: dict[str, Any] = {"stage": "done", "bytes": job.dataset.nbytes}
    facts["seconds"] = round(seconds, 3)
    if entry.state == "failed":
        log.error("FAILED: %s", entry.message, extra=facts)
        return
    log.info(
        "stored: %s -> %s (%.3g x), error %.2e of %g, verified (%s) %.2e, %.1f s",
        size(entry.raw_bytes or 0),
        size(entry.stored_bytes or 0),
        entry.ratio,
        entry.relative_l2_error,
        entry.tolerance,
        (entry.verified or {})["how"],
        (entry.verified or {})["error"],
        seconds,
        extra=facts,
    )


def written(write: Callable[..., None], *what: Any) -> bool:
    """Whether the catalogue could be written: a full disk is no reason to stop what goes on."""
    try:
        write(*what)
    except OSError as error:
        log.error(
            "the catalogue beside the stores cannot be written (%s); make room there. Stores "
            "that were finished count: the next run verifies them and enters them",
            error,
        )
        return False
    return True


@contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end the run as Ctrl-C does: what is under way is taken back, in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: Any) -> None:
        raise KeyboardInterrupt("SIGTERM")

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

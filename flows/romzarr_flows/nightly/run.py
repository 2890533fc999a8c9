"""A nightly run: every dataset in its turn, whatever becomes of the others."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from romzarr.config import Config, NightlyConfig
from romzarr.errors import PipelineError
from romzarr.progress import size, working_on
from romzarr_flows.clusters import Workers
from romzarr_flows.logs import Format
from romzarr_flows.nightly import CannotRunError
from romzarr_flows.nightly.catalogue import Catalogue, Entry, catalogue_of, now
from romzarr_flows.nightly.crew import Outcome
from romzarr_flows.nightly.lock import Held, locked
from romzarr_flows.nightly.plan import Job, Plan, checked, plan_run, refuse_empty
from romzarr_flows.nightly.record import Record, begun, write
from romzarr_flows.nightly.tables import GONE
from romzarr_flows.nightly.team import Alone, Team, crew_for
from romzarr_flows.nightly.work import (
    begun_entry,
    failed_entry,
    is_to_be_swept,
    left_entry,
    settled_entry,
)

log = logging.getLogger(__name__)

Working = Callable[[Config], AbstractContextManager[Workers]]


class StopRun(Exception):
    """No further dataset is begun; ``state`` is that of the record."""

    state = "stopped"


class OutOfTime(StopRun):
    """All as the settings want it; what is left is for the next run."""

    state = "out of time"


def run_nightly(
    config: Config,
    working: Working,
    *,
    only: str = "**",
    since: str | None = None,
    log_format: Format = "text",
    quiet: bool = False,
) -> Record:
    """Bring every store of an archive up to date.

    Parameters
    ----------
    config : Config
        The section ``nightly`` says where, all others how.
    working : callable
        Starts the workers; it is called only if there is something to do.
    only, since
        As for `romzarr_flows.nightly.plan.plan_run`.
    log_format : "text" or "json"
        Of the log of processes that it starts.
    quiet : bool
        Log nothing where nothing is to be done.

    Returns
    -------
    Record
        What was done, as it was written beside the stores.

    Raises
    ------
    ConfigError, CannotRunError
        If nothing can be done for any dataset: a setting is wrong, a place unreachable, or
        another run at work, or nothing is found where the settings look.
    KeyboardInterrupt
        After a signal (`romzarr_flows.signals`). What was finished counts, and nothing
        half-written is left.
    """
    config, began = checked(config), time.monotonic()
    with locked(config.nightly.stores) as lock:
        catalogue = catalogue_of(config.nightly.stores)
        attempt_write(catalogue.folder.sweep)
        plan = plan_run(config, only=only, since=since)
        record = begun(catalogue, plan, config.to_dict()["nightly"])
        if plan.jobs or not quiet:
            log.info(
                "%d datasets: %d to do, %s", record.datasets, len(plan.jobs), size(plan.nbytes)
            )
        limits = Limits(config.nightly, began, lock)
        with recorded(catalogue, record, plan):
            refuse_empty(plan, config, only)
            settle(plan, catalogue)
            for team, jobs in assignments(plan.jobs, config, working, log_format):
                with team as members:
                    for job, entry, seconds in run_jobs(jobs, members, catalogue, limits):
                        record.add(job, entry, seconds)
    return record


def settle(plan: Plan, catalogue: Catalogue) -> None:
    """Enter what is not there any more, or is again, and sweep stores that were replaced."""
    for entry in plan.vanished:
        log.warning("%s: %s (%s)", entry.dataset, GONE, entry.store)
        attempt_write(catalogue.write, replace(entry, gone=now().isoformat()))
    for job in plan.kept:
        if job.last is not None and (job.last.gone or is_to_be_swept(job.last)):
            attempt_write(catalogue.write, settled_entry(job.last))


def assignments(
    jobs: Sequence[Job], config: Config, working: Working, log_format: Format
) -> Iterator[tuple[AbstractContextManager[Team], Sequence[Job]]]:
    """Who does which jobs: those side by side first, if there are any, then those one by one."""
    crew = crew_for(jobs, config, log_format)
    beside, alone = (
        tuple(job for job in jobs if crew.takes(job) is side) for side in (True, False)
    )
    if beside:
        yield crew, beside
    if alone:
        yield one_by_one(working, config), alone


@contextmanager
def one_by_one(working: Working, config: Config) -> Iterator[Alone]:
    """This process, with workers; without them the run cannot go on."""
    with ExitStack() as stack:
        try:
            workers = stack.enter_context(working(config))
        except PipelineError as error:
            raise CannotRunError(str(error)) from error
        yield Alone(config, workers)


@contextmanager
def recorded(catalogue: Catalogue, record: Record, plan: Plan) -> Iterator[None]:
    """Write the record when the run begins and when it ends, in whatever way that is."""
    attempt_write(write, catalogue, record)
    try:
        yield
        record.state = "done"
    except StopRun as stop:
        log.warning("%s: %s", stop.state, stop)
        record.state, record.reason = stop.state, str(stop)
        for job in left(record, plan):
            attempt_write(catalogue.write, left_entry(job))
    except BaseException as error:
        record.state, record.reason = "interrupted", str(error) or type(error).__name__
        raise
    finally:
        record.left = tuple(job.dataset.name for job in left(record, plan))
        attempt_write(write, catalogue, record)


def left(record: Record, plan: Plan) -> list[Job]:
    """Jobs that the run did not come to."""
    done = {outcome["dataset"] for outcome in record.outcomes}
    return [job for job in plan.jobs if job.dataset.name not in done]


@dataclass(frozen=True)
class Limits:
    """What lets a run begin another dataset: time that is left, and the lock."""

    settings: NightlyConfig
    began: float
    lock: Held

    def check(self, team: Team) -> None:
        """Raise StopRun if time is up, the workers are gone, or another run has taken over."""
        hours = self.settings.max_hours
        if hours != "unlimited" and time.monotonic() - self.began >= 3600 * hours:
            raise OutOfTime(f"the {hours:g} hours of nightly.max_hours are over")
        if not team.is_usable:
            raise StopRun("the scheduler of the workers is gone; see its log, and start it again")
        if self.lock.lost.is_set():
            raise StopRun("the lock could not be renewed, so another run may be at work by now")


def run_jobs(
    jobs: Sequence[Job], team: Team, catalogue: Catalogue, limits: Limits
) -> Iterator[Outcome]:
    """Do the jobs, and enter what became of each; those begun are finished before a stop."""
    waiting, stop = deque(jobs), None
    try:
        while team.busy or (waiting and stop is None):
            while waiting and stop is None and team.has_capacity:
                try:
                    limits.check(team)
                except StopRun as reason:
                    stop = reason
                    break
                attempt_write(catalogue.write, begun_entry(waiting[0]))
                team.begin(waiting.popleft())
            if team.busy:
                yield record_outcome(*team.finish(), catalogue)
    except BaseException:
        for job in team.busy:
            attempt_write(catalogue.write, left_entry(job))
        raise
    if stop is not None:
        raise stop


def record_outcome(
    job: Job, entry: Entry, seconds: float, catalogue: Catalogue
) -> tuple[Job, Entry, float]:
    """Put into the catalogue and into the log what became of a job."""
    if not attempt_write(catalogue.write, entry):
        entry = failed_entry(job, "what became of it could not be entered into the catalogue")
    with working_on(job.dataset.name):
        log_outcome(job, entry, seconds)
    return job, entry, seconds


def log_outcome(job: Job, entry: Entry, seconds: float) -> None:
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


def attempt_write(write: Callable[..., None], *what: Any) -> bool:
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

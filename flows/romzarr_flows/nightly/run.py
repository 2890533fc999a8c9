"""A nightly run: processes every dataset, regardless of failures of others."""

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
    """No further dataset is started; ``state`` goes into the record."""

    state = "stopped"


class OutOfTime(StopRun):
    """The time limit is reached; the next run continues."""

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
        Section ``nightly`` has the locations, the others say how to compress.
    working : callable
        Starts the workers; called only if there is something to do.
    only, since
        As for `romzarr_flows.nightly.plan.plan_run`.
    log_format : "text" or "json"
        Log format of the processes that it starts.
    quiet : bool
        Log nothing if there is nothing to do.

    Returns
    -------
    Record
        What was done; it is also written beside the stores.

    Raises
    ------
    ConfigError, CannotRunError
        If the run cannot start: a setting is invalid, a location unreachable, another run in
        progress, or no dataset found.
    KeyboardInterrupt
        After a signal (`romzarr_flows.signals`). Finished stores remain, unfinished ones are
        removed.
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
    """Record vanished and reappeared datasets, and remove superseded generations."""
    for entry in plan.vanished:
        log.warning("%s: %s (%s)", entry.dataset, GONE, entry.store)
        attempt_write(catalogue.write, replace(entry, gone=now().isoformat()))
    for job in plan.kept:
        if job.last is not None and (job.last.gone or is_to_be_swept(job.last)):
            attempt_write(catalogue.write, settled_entry(job.last))


def assignments(
    jobs: Sequence[Job], config: Config, working: Working, log_format: Format
) -> Iterator[tuple[AbstractContextManager[Team], Sequence[Job]]]:
    """Divide the jobs between parallel processes, which come first, and this process."""
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
    """Start the workers of this process; without them the run cannot continue."""
    with ExitStack() as stack:
        try:
            workers = stack.enter_context(working(config))
        except PipelineError as error:
            raise CannotRunError(str(error)) from error
        yield Alone(config, workers)


@contextmanager
def recorded(catalogue: Catalogue, record: Record, plan: Plan) -> Iterator[None]:
    """Write the record when the run begins and when it ends, however it ends."""
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
    """Return the jobs that the run did not reach."""
    done = {outcome["dataset"] for outcome in record.outcomes}
    return [job for job in plan.jobs if job.dataset.name not in done]


@dataclass(frozen=True)
class Limits:
    """The limits of a run: its time, and the lock."""

    settings: NightlyConfig
    began: float
    lock: Held

    def check(self, team: Team) -> None:
        """Raise StopRun if time is up, the workers are lost, or another run has taken over."""
        hours = self.settings.max_hours
        if hours != "unlimited" and time.monotonic() - self.began >= 3600 * hours:
            raise OutOfTime(f"nightly.max_hours ({hours:g}) is reached")
        if not team.is_usable:
            raise StopRun("the Dask scheduler is lost; see its log, and start it again")
        if self.lock.lost.is_set():
            raise StopRun("the lock could not be renewed, so another run may have taken it")


def run_jobs(
    jobs: Sequence[Job], team: Team, catalogue: Catalogue, limits: Limits
) -> Iterator[Outcome]:
    """Do the jobs and record their outcomes; jobs in progress are finished before a stop."""
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
    """Write the outcome of a job to the catalogue and to the log."""
    if not attempt_write(catalogue.write, entry):
        entry = failed_entry(job, "its outcome could not be written to the catalogue")
    with working_on(job.dataset.name):
        log_outcome(job, entry, seconds)
    return job, entry, seconds


def log_outcome(job: Job, entry: Entry, seconds: float) -> None:
    """Log the outcome for a dataset."""
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
    """Write to the catalogue and return whether that worked: a full disk must not stop the run."""
    try:
        write(*what)
    except OSError as error:
        log.error(
            "the catalogue beside the stores cannot be written (%s); free some disk space. "
            "Finished stores remain: the next run verifies and records them",
            error,
        )
        return False
    return True

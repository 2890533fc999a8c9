"""The work on one dataset: makes or repairs its store, verifies it and describes it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime

import romzarr
from romzarr.archive.find import dataset_at
from romzarr.config import Config, NightlyConfig
from romzarr.errors import AccuracyError, ArchiveError, ConfigError, PipelineError, StoreError
from romzarr.objects import caching, is_document
from romzarr.reports import VerifyReport
from romzarr.store.commit import RETENTION
from romzarr.store.layout import GENERATION
from romzarr_flows.cluster import FAILURES
from romzarr_flows.logs import without_secrets
from romzarr_flows.nightly.catalogue import Entry, now, stored_entry
from romzarr_flows.nightly.plan import Job, promised
from romzarr_flows.nightly.standing import standing_of, sweep

log = logging.getLogger(__name__)


def update_store(job: Job, config: Config) -> Entry:
    """Bring the store of a dataset up to date, verify it and return its catalogue entry.

    Runs on the current Dask scheduler or cluster.

    Raises
    ------
    PipelineError, OSError
        If that fails. An existing store stays unchanged.
    """
    verified = ACTIONS[job.state](job, config)
    if not verified.ok:
        raise AccuracyError("; ".join(verified.problems))
    files = dataset_at(job.store, job.dataset.name)
    return stored_entry(job.dataset, standing_of(job.store), verified, files, promised(config))


def compress(job: Job, config: Config, overwrite: bool = False) -> VerifyReport:
    # A store records its settings, but not the locations of other datasets.
    settings = replace(config, nightly=NightlyConfig())
    with cached_requests(job):
        romzarr.compress(job.dataset.location, job.store, config=settings, overwrite=overwrite)
        return verify(job, config)


def compress_again(job: Job, config: Config) -> VerifyReport:
    return compress(job, config, overwrite=True)


def append(job: Job, config: Config) -> VerifyReport:
    """Append new snapshots to the store; if something else changed, compress again."""
    try:
        with cached_requests(job):
            report = romzarr.append(job.store, job.dataset.location, config=config)
            # Files changed without new times, so old values may have changed.
            problem = "" if report.appended else "there are no new snapshots"
            if not problem:
                verified = verify(job, config)
                problem = "; ".join(verified.problems)
    except (ArchiveError, ConfigError, StoreError) as error:
        problem = str(error)
    if not problem:
        return verified
    log.warning("compressing again instead of appending: %s", problem)
    return compress_again(job, config)


def verify_or_redo(job: Job, config: Config) -> VerifyReport:
    """Verify the store of an earlier run; if it fails, append to it or compress again."""
    sweep(job.store)
    try:
        with cached_requests(job):
            verified = verify(job, config)
    except StoreError as error:
        problem = str(error)
    else:
        problem = "; ".join(verified.problems)
    if not problem:
        return verified
    log.warning("the store failed verification: %s", problem)
    return append(job, config)


def cached_requests(job: Job) -> AbstractContextManager[None]:
    """Cache files of the store and metadata of the dataset, which do not change meanwhile."""
    # The stores of a tree are numbered below a folder that has the name of a generation.
    name = GENERATION.pattern
    generation = re.compile(rf"{re.escape(job.store)}/{name}/(?:\d+/{name}/.+|(?!\d+/).+)")
    inside = f"{job.dataset.location}/"

    def wanted(url: str) -> bool:
        of_dataset = url.startswith(inside) and (is_document(url) or url.endswith("/"))
        return of_dataset or generation.fullmatch(url) is not None

    return caching(wanted)


def refuse(job: Job, config: Config) -> VerifyReport:
    raise ArchiveError(job.reason)


def verify(job: Job, config: Config) -> VerifyReport:
    sample = config.nightly.verify == "sample"
    return romzarr.verify(job.store, job.dataset.location, config=config, sample=sample)


# What to do for each state in `romzarr_flows.nightly.plan.STATES`.
ACTIONS: dict[str, Callable[[Job, Config], VerifyReport]] = {
    "unverified": verify_or_redo,
    "new": compress,
    "missing": compress,
    "damaged": compress_again,
    "grown": append,
    "outdated": compress_again,
    "clash": refuse,
}


def failed_entry(job: Job, message: str) -> Entry:
    """Make the entry after a failure: the earlier entry, with the reason."""
    return replace(begun_entry(job), state="failed", message=without_secrets(message))


def begun_entry(job: Job) -> Entry:
    """Make the entry while a dataset is processed; it remains if the run is killed."""
    return replace(left_entry(job), state="running", message="", last_run=now().isoformat())


def left_entry(job: Job) -> Entry:
    """Make the entry of a dataset that this run does not reach."""
    known = job.last or Entry(job.dataset.name, job.dataset.location, job.store, job.state)
    state = "failed" if job.failed_before else job.state
    message = known.message if job.failed_before else job.reason
    return replace(
        known,
        source=job.dataset.location,
        store=job.store,
        state=state,
        message=message,
        gone="",
    )


def is_to_be_swept(entry: Entry) -> bool:
    """Tell whether superseded generations of its store have been kept for long enough."""
    return entry.replaced and now() - datetime.fromisoformat(entry.last_run) > RETENTION


def settled_entry(entry: Entry) -> Entry:
    """Remove superseded generations of an up-to-date store and return its entry."""
    if not is_to_be_swept(entry):
        return replace(entry, gone="")
    sweep(entry.store)
    stamp = dataset_at(entry.store, entry.dataset).stamp
    return replace(entry, gone="", replaced=False, store_stamp=stamp)


def run_job(job: Job, config: Config) -> Entry:
    """Do one job; a failure becomes an entry."""
    try:
        return update_store(job, config)
    except (PipelineError, OSError, MemoryError) as error:
        return failed_entry(job, f"{type(error).__name__}: {error}")
    except Exception as error:
        if type(error).__name__ in FAILURES:
            return failed_entry(job, f"{FAILURES[type(error).__name__]} ({error})")
        # A bug, here or in another package: the next dataset may be fine.
        log.exception("unexpected error")
        return failed_entry(job, f"{type(error).__name__}: {error}")

"""What is done for one dataset: its store is made or made good, verified, and described."""

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
from romzarr.store.commit import RETENTION, sweep
from romzarr.store.layout import GENERATION
from romzarr.store.reading.reader import open_store
from romzarr_flows.cluster import FAILURES
from romzarr_flows.logs import without_secrets
from romzarr_flows.nightly.catalogue import Entry, now, stored_entry
from romzarr_flows.nightly.plan import Job, promised

log = logging.getLogger(__name__)


def update_store(job: Job, config: Config) -> Entry:
    """Leave a dataset with a store that is verified, and say what is known of it then.

    Runs on the current Dask scheduler or cluster.

    Raises
    ------
    PipelineError, OSError
        If that cannot be. The store that was there before stays as it was.
    """
    verified = ACTIONS[job.state](job, config)
    if not verified.ok:
        raise AccuracyError("; ".join(verified.problems))
    files = dataset_at(job.store, job.dataset.name)
    return stored_entry(job.dataset, open_store(job.store), verified, files, promised(config))


def compress(job: Job, config: Config, overwrite: bool = False) -> VerifyReport:
    # Stores say what they were made with, and where others lie is none of that.
    settings = replace(config, nightly=NightlyConfig())
    with cached_requests(job):
        romzarr.compress(job.dataset.location, job.store, config=settings, overwrite=overwrite)
        return verify(job, config)


def compress_again(job: Job, config: Config) -> VerifyReport:
    return compress(job, config, overwrite=True)


def append(job: Job, config: Config) -> VerifyReport:
    """Append what is new to the store; if something else was written, compress again."""
    try:
        with cached_requests(job):
            report = romzarr.append(job.store, job.dataset.location, config=config)
            # The same times were written anew, and what with is not known.
            problem = "" if report.appended else "nothing is new in time"
            if not problem:
                verified = verify(job, config)
                problem = "; ".join(verified.problems)
    except (ArchiveError, ConfigError, StoreError) as error:
        problem = str(error)
    if not problem:
        return verified
    log.warning("compressed again, because nothing can be appended: %s", problem)
    return compress_again(job, config)


def verify_or_redo(job: Job, config: Config) -> VerifyReport:
    """Verify what a run before has made, and go on with it, or begin anew, if it is not right."""
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
    log.warning("the store is not right: %s", problem)
    return append(job, config)


def cached_requests(job: Job) -> AbstractContextManager[None]:
    """Ask storage once for each file of the store, and once for the metadata of the dataset.

    Generations of a store never change. What holds values of the dataset is read anew."""
    generation = re.compile(rf"{re.escape(job.store)}/{GENERATION.pattern}/.+")
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


# What is done for a dataset in each of the states of `romzarr_flows.nightly.plan.STATES`.
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
    """What is known after a failure: what was known before, and why it failed."""
    return replace(begun_entry(job), state="failed", message=without_secrets(message))


def begun_entry(job: Job) -> Entry:
    """What is known while a dataset is worked on; a run that is killed leaves it behind."""
    return replace(left_entry(job), state="running", message="", last_run=now().isoformat())


def left_entry(job: Job) -> Entry:
    """What is known of a dataset that this run does not come to."""
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
    """Whether generations that its store had before have been kept for long enough."""
    return entry.replaced and now() - datetime.fromisoformat(entry.last_run) > RETENTION


def settled_entry(entry: Entry) -> Entry:
    """The entry of a dataset that is there and needs nothing, once its store is swept."""
    if not is_to_be_swept(entry):
        return replace(entry, gone="")
    sweep(entry.store)
    stamp = dataset_at(entry.store, entry.dataset).stamp
    return replace(entry, gone="", replaced=False, store_stamp=stamp)


def run_job(job: Job, config: Config) -> Entry:
    """Do one job; a failure is an entry too, and no reason to stop."""
    try:
        return update_store(job, config)
    except (PipelineError, OSError, MemoryError) as error:
        return failed_entry(job, f"{type(error).__name__}: {error}")
    except Exception as error:
        if type(error).__name__ in FAILURES:
            return failed_entry(job, f"{FAILURES[type(error).__name__]} ({error})")
        # Packages fail in ways of their own, and so may we: the next dataset may be sound.
        log.exception("unexpected")
        return failed_entry(job, f"{type(error).__name__}: {error}")

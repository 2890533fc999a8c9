"""The state of every dataset: the catalogue compared with the existing files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

from romzarr.archive.find import Dataset, dataset_at
from romzarr.config import Config
from romzarr_flows.nightly import CannotRunError
from romzarr_flows.nightly.catalogue import Catalogue, Entry, catalogue_of, now
from romzarr_flows.nightly.lock import is_held
from romzarr_flows.nightly.plan import Job, assess, entries_of, listed_stores, plan_run

# States that need attention come first; `romzarr status` exits with 1 for those in BROKEN.
BROKEN = ("failed", "clash", "damaged", "missing", "killed")
ORDER = (
    *(*BROKEN, "running"),
    *("outdated", "grown", "new", "unverified", "gone", "stored"),
)


@dataclass(frozen=True)
class DatasetState:
    """A dataset, its current state with the reason in words, and its catalogue entry."""

    dataset: str
    state: str
    reason: str
    entry: Entry | None

    def to_dict(self) -> dict[str, Any]:
        known = self.entry.to_dict() if self.entry else {}
        own = {"dataset": self.dataset, "state": self.state, "message": self.reason}
        return {**known, **own, "age_seconds": self.age_seconds}

    @property
    def age_seconds(self) -> float | None:
        """Seconds since the dataset was processed; 0 if clocks put that in the future."""
        if self.entry is None or not self.entry.last_run:
            return None
        return max(0.0, (now() - datetime.fromisoformat(self.entry.last_run)).total_seconds())


@dataclass(frozen=True)
class LastRun:
    """The newest record of a run: its name, the state of the run, and when it began.

    ``state`` is that of the record. If the run has not recorded its end, the lock tells whether it
    is "at work" or was "killed"; without locks the state is "running".
    """

    name: str
    state: str
    began: str

    def __str__(self) -> str:
        return f"{self.name}: {self.state}, began {self.began}"

    def works_on(self, entry: Entry) -> bool:
        """Tell whether this run wrote an entry whose state is "running"."""
        return self.state == "at work" and entry.last_run >= self.began


def last_run(stores: str) -> LastRun | None:
    """Find the last run on the stores at a path or URL.

    Raises
    ------
    CannotRunError
        If the records cannot be listed.
    """
    catalogue = catalogue_of(stores)
    try:
        name = last_record(catalogue)
    except OSError as error:
        raise CannotRunError(f"the catalogue beside the stores cannot be read: {error}") from error
    if not name:
        return None
    facts = catalogue.record(name)
    state, began = str(facts.get("state", "cannot be read")), str(facts.get("began", ""))
    if state == "running":
        state = {True: "at work", False: "killed", None: "running"}[is_held(stores)]
    return LastRun(name, state, began)


def dataset_states(config: Config, stores: str, run: LastRun | None) -> list[DatasetState]:
    """Find the state of every dataset whose store is, was or should be below `stores`.

    With ``nightly.archive`` set, this includes new datasets and compares stores with the settings.
    Otherwise it covers the catalogue alone. `run` is the last run.

    Raises
    ------
    CannotRunError
        If a location cannot be listed.
    """
    catalogue = catalogue_of(stores)
    if config.nightly.archive == "none":
        jobs: Mapping[str, Job] = {}
    else:
        places = replace(config.nightly, stores=stores)
        plan = plan_run(replace(config, nightly=places))
        jobs = {job.dataset.name: job for job in (*plan.jobs, *plan.kept)}
    others = {n: e for n, e in entries_of(catalogue).items() if n not in jobs}
    files = listed_stores(stores) if others else {}
    found = [
        state_found(job.dataset.name, job.state, job.reason, job.last, run) for job in jobs.values()
    ]
    found += [state_from_catalogue(entry, files.get(entry.store), run) for entry in others.values()]
    return sorted(found, key=lambda each: (ORDER.index(each.state), each.dataset))


def is_sound(found: Iterable[DatasetState], run: LastRun | None) -> bool:
    """Tell whether no dataset is broken and the last run, if any, completed."""
    ended = run is None or run.state not in ("killed", "stopped", "cannot be read")
    return ended and not any(each.state in BROKEN for each in found)


def state_found(
    dataset: str, state: str, reason: str, entry: Entry | None, run: LastRun | None
) -> DatasetState:
    """Return the state found, unless the catalogue has recorded a failure."""
    if entry is not None and entry.state == "failed" and state != "stored":
        return DatasetState(dataset, "failed", entry.message, entry)
    if entry is not None and entry.state == "running":
        if run is not None and run.state == "running":
            reason = f"a run is processing it, or was killed while doing so ({state})"
            return DatasetState(dataset, "running", reason, entry)
        if run is not None and run.works_on(entry):
            return DatasetState(dataset, "running", f"in progress since {entry.last_run}", entry)
        reason = f"the run that began to process it at {entry.last_run} was killed ({state})"
        return DatasetState(dataset, "killed", reason, entry)
    return DatasetState(dataset, state, reason, entry)


def state_from_catalogue(entry: Entry, store: Dataset | None, run: LastRun | None) -> DatasetState:
    """Find the state of a dataset of the catalogue, by the settings that it was stored with."""
    try:
        dataset, there = dataset_at(entry.source, entry.dataset), True
    except OSError:
        dataset, there = Dataset(entry.dataset, entry.source, 0, 0.0, entry.stamp), False
    state, reason = assess(dataset, entry, store, entry.settings)
    if not there:
        since = f" since {entry.gone}" if entry.gone else ""
        if state == "stored":
            reason = f"the dataset is missing{since}; its store exists"
            return DatasetState(entry.dataset, "gone", reason, entry)
        if state == "new":
            reason = f"the dataset is missing{since} and was never stored"
            return DatasetState(entry.dataset, "gone", reason, entry)
        reason = f"{reason}; the dataset is missing{since} as well"
    return state_found(entry.dataset, state, reason, entry, run)


def last_record(catalogue: Catalogue) -> str:
    """Return the name of the last run's record; empty if there is none."""
    return max(catalogue.records(), key=lambda name: PurePosixPath(name).stem, default="")

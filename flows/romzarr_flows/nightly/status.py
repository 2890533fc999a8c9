"""How every dataset stands: what the catalogue says, held against what is there now."""

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

# What needs somebody's attention comes first; `romzarr status` exits with 1 for what is broken.
BROKEN = ("failed", "clash", "damaged", "missing", "killed")
ORDER = (
    *(*BROKEN, "running"),
    *("outdated", "grown", "new", "unverified", "gone", "stored"),
)


@dataclass(frozen=True)
class DatasetState:
    """A dataset, its state now with the reason in words, and the entry of its store."""

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
        """Seconds since the dataset was worked on; 0 where clocks say that it will be."""
        if self.entry is None or not self.entry.last_run:
            return None
        return max(0.0, (now() - datetime.fromisoformat(self.entry.last_run)).total_seconds())


@dataclass(frozen=True)
class LastRun:
    """The newest record of a run: its name, what became of the run, and when that began.

    ``state`` is that of the record, but of a run that has not written its end "at work" or
    "killed", by the lock; "running" where there are no locks that could tell.
    """

    name: str
    state: str
    began: str

    def __str__(self) -> str:
        return f"{self.name}: {self.state}, began {self.began}"

    def works_on(self, entry: Entry) -> bool:
        """Whether this run is what an entry that says "running" is from."""
        return self.state == "at work" and entry.last_run >= self.began


def last_run(stores: str) -> LastRun | None:
    """The last run that has worked on the stores at a path or URL.

    Raises
    ------
    CannotRunError
        If its record cannot be looked for.
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
    """How every dataset stands whose store is, was or should be below `stores`.

    With ``nightly.archive`` set, new datasets are found, and stores held against the settings;
    else only what is in the catalogue is looked at, where its datasets were. `run` is the last.

    Raises
    ------
    CannotRunError
        If a place cannot be listed.
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
    """Whether no dataset is broken, and the last run, if there was one, ended as it should."""
    ended = run is None or run.state not in ("killed", "stopped", "cannot be read")
    return ended and not any(each.state in BROKEN for each in found)


def state_found(
    dataset: str, state: str, reason: str, entry: Entry | None, run: LastRun | None
) -> DatasetState:
    """The state found, unless the catalogue knows that something went wrong."""
    if entry is not None and entry.state == "failed" and state != "stored":
        return DatasetState(dataset, "failed", entry.message, entry)
    if entry is not None and entry.state == "running":
        if run is not None and run.state == "running":
            reason = f"a run is at work on it, or was killed while it was ({state})"
            return DatasetState(dataset, "running", reason, entry)
        if run is not None and run.works_on(entry):
            return DatasetState(dataset, "running", f"at work on it since {entry.last_run}", entry)
        reason = f"a run was killed that began to work on it at {entry.last_run} ({state})"
        return DatasetState(dataset, "killed", reason, entry)
    return DatasetState(dataset, state, reason, entry)


def state_from_catalogue(entry: Entry, store: Dataset | None, run: LastRun | None) -> DatasetState:
    """How a dataset of the catalogue stands, by the settings that it was stored with."""
    try:
        dataset, there = dataset_at(entry.source, entry.dataset), True
    except OSError:
        dataset, there = Dataset(entry.dataset, entry.source, 0, 0.0, entry.stamp), False
    state, reason = assess(dataset, entry, store, entry.settings)
    if not there:
        since = f" since {entry.gone}" if entry.gone else ""
        if state == "stored":
            reason = f"the dataset is not there{since}; its store is"
            return DatasetState(entry.dataset, "gone", reason, entry)
        if state == "new":
            reason = f"the dataset is not there{since}, and was never stored"
            return DatasetState(entry.dataset, "gone", reason, entry)
        reason = f"{reason}; the dataset is not there{since} either"
    return state_found(entry.dataset, state, reason, entry, run)


def last_record(catalogue: Catalogue) -> str:
    """Name of the record of the last run; empty if there was none."""
    return max(catalogue.records(), key=lambda name: PurePosixPath(name).stem, default="")

"""The plan of a nightly run: a value that can be printed and tested before anything runs.

It is made from listings and the catalogue. No dataset is opened, and only those stores that differ
from the catalogue.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import Any

from romzarr.archive.find import Dataset, find_datasets, matcher
from romzarr.archive.location import redacted
from romzarr.config import Config, NightlyConfig, with_values
from romzarr.errors import ArchiveError, ConfigError, StoreError
from romzarr_flows.nightly import CannotRunError
from romzarr_flows.nightly.catalogue import FETCHED, FOLDER, Catalogue, Entry, catalogue_of, now
from romzarr_flows.nightly.standing import standing_of

SUFFIX = ".romzarr"
# States of a dataset and what a run does about them, in the order of a run: quick jobs first.
STATES = {
    "unverified": "verify",
    "new": "compress",
    "missing": "compress",
    "damaged": "compress again",
    "grown": "append, or compress again",
    "outdated": "compress again",
    "clash": "refuse",
    "stored": "nothing",
}
# Settings that a store has to keep; others may change without making it obsolete.
PROMISED = (
    ("archive", ("time", "variables", "weights")),
    ("compression", ("tolerance", "max_error", "derivatives")),
)
AGES = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True)
class Job:
    """A dataset, its store, its state (`STATES`) and the reason in words."""

    dataset: Dataset
    store: str
    state: str
    reason: str
    last: Entry | None

    @property
    def failed_before(self) -> bool:
        return self.last is not None and self.last.state == "failed"

    @property
    def interrupted(self) -> bool:
        """Whether the last run was killed while it worked on the dataset."""
        return self.last is not None and self.last.state == "running"


@dataclass(frozen=True)
class Plan:
    """Jobs in the order of a run; those in `kept` need no work.

    ``found`` counts all existing datasets, regardless of `since`. ``vanished`` has the entries of
    datasets that no longer exist.
    """

    jobs: tuple[Job, ...]
    kept: tuple[Job, ...]
    found: int
    vanished: tuple[Entry, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all datasets to read."""
        return sum(job.dataset.nbytes for job in self.jobs)


def plan_run(config: Config, *, only: str = "**", since: str | None = None) -> Plan:
    """Plan the work for the datasets that the settings name.

    Parameters
    ----------
    config : Config
    only : str
        A glob that the path of a dataset has to match as well as ``nightly.pattern``.
    since : str, optional
        Only datasets modified since a date (``2031-07-01``) or within an age (``36h``, ``7d``).

    Raises
    ------
    ConfigError
        If archive or stores are not set, or `since` is neither a date nor an age.
    CannotRunError
        If the archive, the stores or the catalogue cannot be listed.
    """
    config = checked(config)
    places = config.nightly
    oldest = since_when(since).timestamp() if since else float("-inf")
    found = listed_datasets(places, only)
    datasets = [dataset for dataset in found if dataset.written >= oldest]
    stores, entries = listed_stores(places.stores), entries_of(catalogue_of(places.stores))
    jobs, kept = ordered(assess_all(datasets, entries, stores, config))
    names = {dataset.name for dataset in found}
    wanted, chosen = matcher(places.pattern), matcher(only)
    vanished = tuple(
        entry
        for name, entry in sorted(entries.items())
        if name not in names and not entry.gone and wanted(name) and chosen(name)
    )
    return Plan(jobs, kept, len(found), vanished)


def refuse_empty(plan: Plan, config: Config, only: str) -> None:
    """Refuse a run that finds no dataset at all, unless the settings allow it.

    Raises
    ------
    CannotRunError
        Naming the location and the pattern, with hints.
    """
    places = config.nightly
    if plan.found or places.empty == "allow":
        return
    pattern = f"nightly.pattern {places.pattern!r}"
    pattern += f" and --only {only!r}" if only != "**" else ""
    known = [entry.dataset for entry in entries_of(catalogue_of(places.stores)).values()]
    hints = [f"the catalogue knows {some_of(known)}"] if known else []
    deeper = replace(places, pattern=f"**/{PurePosixPath(places.pattern).name}")
    below = [dataset.name for dataset in listed_datasets(deeper)]
    hints += [f"subfolders contain {some_of(below)}"] if below else []
    raise CannotRunError(
        f"nightly.archive: found no dataset in {redacted(places.archive)!r} that matches {pattern}"
        f"{''.join(f'; {hint}' for hint in hints)}. Check the path, the pattern, and that the "
        "disk is mounted; if the archive may be empty, set nightly.empty: allow"
    )


def some_of(names: Sequence[str]) -> str:
    """Count names and list the first few.

    >>> some_of(["a", "b", "c", "d", "e"])
    '5 (a, b, c, ...)'
    """
    more = ", ..." if len(names) > 3 else ""
    return f"{len(names)} ({', '.join(sorted(names)[:3])}{more})"


def checked(config: Config) -> Config:
    """Return the settings unless one is missing or two contradict each other."""
    settings, kind = config.nightly, config.cluster.kind
    for name in ("archive", "stores"):
        if getattr(settings, name) == "none":
            raise ConfigError(
                f"nightly.{name}: found 'none'; give a folder or URL in section nightly of the "
                "file given with --config"
            )
    if settings.parallel not in ("auto", 1) and kind != "threads":
        raise ConfigError(
            f"nightly.parallel: found {settings.parallel} with cluster.kind {kind!r}, which "
            "processes one dataset at a time; remove it, or use cluster.kind: threads"
        )
    return config


def since_when(text: str) -> datetime:
    """Convert a date, or an age before now, to a time.

    >>> since_when("2031-07-01").isoformat()
    '2031-07-01T00:00:00+00:00'
    >>> since_when("90m") < since_when("1h")
    True
    """
    if age := re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", text):
        return now() - timedelta(**{AGES[age[2]]: float(age[1])})
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"--since: found {text!r}, allowed are a date such as 2031-07-01 or "
            "2031-07-01T18:00+02:00 (without a zone it is UTC) and an age such as 90m, 36h, 7d, 2w"
        ) from None
    return when if when.tzinfo else when.replace(tzinfo=UTC)


# --- existing files -----------------------------------------------------------------------


def listed_datasets(places: NightlyConfig, only: str = "**") -> list[Dataset]:
    """List the datasets of the archive, without stores and catalogue that may lie below it."""
    same = places.stores == places.archive
    excluded = f"{places.stores}/{FOLDER}" if same else places.stores
    try:
        found = find_datasets(places.archive, places.pattern, only=only, leave_out=[excluded])
    except ArchiveError as error:
        raise CannotRunError(f"nightly.archive: {error}") from error
    return [dataset for dataset in found if not dataset.name.endswith(SUFFIX)]


def listed_stores(stores: str) -> dict[str, Dataset]:
    """List the stores by location; none if their folder does not exist yet."""
    if "://" not in stores and not os.path.exists(stores):
        return {}
    try:
        found = find_datasets(stores, f"**/*{SUFFIX}", leave_out=[f"{stores}/{FOLDER}"])
    except ArchiveError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return {}
        raise CannotRunError(f"nightly.stores: {error}") from error
    return {each.location: each for each in found}


def entries_of(catalogue: Catalogue) -> dict[str, Entry]:
    """Read all entries by dataset."""
    try:
        return catalogue.entries()
    except OSError as error:
        raise CannotRunError(f"the catalogue beside the stores cannot be read: {error}") from error


def store_of(dataset: str, stores: str) -> str:
    """Return the location of a dataset's store: the same path below `stores`, with our suffix.

    >>> store_of("2031/run.v2.zarr", "/stores")
    '/stores/2031/run.v2.romzarr'
    """
    return f"{stores}/{PurePosixPath(dataset).with_suffix(SUFFIX)}"


# --- states -------------------------------------------------------------------------------


def assess_all(
    datasets: Sequence[Dataset],
    entries: Mapping[str, Entry],
    stores: Mapping[str, Dataset],
    config: Config,
) -> list[Job]:
    """Find the state of every dataset."""
    places = {dataset.name: store_of(dataset.name, config.nightly.stores) for dataset in datasets}
    shared, promise = Counter(places.values()), promised(config)

    def assess_one(dataset: Dataset) -> Job:
        place, entry = places[dataset.name], entries.get(dataset.name)
        if shared[place] > 1:
            others = [n for n, p in places.items() if p == place and n != dataset.name]
            state, reason = "clash", f"{', '.join(others)} would have the same store; rename one"
        else:
            state, reason = assess(dataset, entry, stores.get(place), promise)
        return Job(dataset, place, state, reason, entry)

    # Opening a store takes requests to object storage.
    with ThreadPoolExecutor(FETCHED) as pool:
        return list(pool.map(assess_one, datasets))


def assess(
    dataset: Dataset, entry: Entry | None, store: Dataset | None, promise: Mapping[str, Any]
) -> tuple[str, str]:
    """Find the state (`STATES`) of one dataset, and the reason."""
    if store is None:
        had_one = entry is not None and entry.store_stamp
        return ("missing", "its store is gone") if had_one else ("new", "")
    if entry is not None and entry.state == "stored" and known(entry, dataset, store, promise):
        return "stored", ""
    try:
        found = standing_of(store.location)
    except (StoreError, OSError) as error:
        return "damaged", str(error)
    made = promised(made_with(found.settings))
    if made != promise:
        return "outdated", "; ".join(
            f"{key} was {made[key]!r} and is now {promise[key]!r}"
            for key in promise
            if made[key] != promise[key]
        )
    if found.stamp != dataset.stamp:
        return "grown", "the dataset was modified since it was stored"
    same = entry is not None and entry.generation == found.generation
    if entry is not None and same and entry.stored_bytes != found.stored_bytes:
        there = f"{found.stored_bytes} of {entry.stored_bytes} bytes"
        return "damaged", f"it has {there}: incomplete copy?"
    return "unverified", "this store has not been verified"


def known(entry: Entry, dataset: Dataset, store: Dataset, promise: Mapping[str, Any]) -> bool:
    """Tell whether dataset, store and settings are those of the entry."""
    there = (dataset.stamp, store.stamp, promise)
    return bool(dataset.stamp) and (entry.stamp, entry.store_stamp, entry.settings) == there


def promised(config: Config) -> dict[str, Any]:
    """Return the settings that a store has to keep, by dotted key, as JSON values."""
    plain = config.to_dict()
    return {f"{section}.{key}": plain[section][key] for section, keys in PROMISED for key in keys}


def made_with(sections: Mapping[str, Mapping[str, Any]]) -> Config:
    """Return those settings that a store was made with, of what it has recorded."""
    values = {
        f"{section}.{key}": sections[section][key]
        for section, keys in PROMISED
        for key in keys
        if key in sections.get(section, {})
    }
    return with_values(Config(), values)


def ordered(jobs: Sequence[Job]) -> tuple[tuple[Job, ...], tuple[Job, ...]]:
    """Sort jobs in the order of a run, and separate those that need no work.

    Datasets that failed or killed a run come last, so that they never block others.
    """
    order = list(STATES)

    def priority(job: Job) -> tuple[bool, bool, int, str]:
        return job.interrupted, job.failed_before, order.index(job.state), job.dataset.name

    todo = sorted((job for job in jobs if job.state != "stored"), key=priority)
    return tuple(todo), tuple(job for job in jobs if job.state == "stored")

"""What a nightly run has to do, and why: a value that is printed and tested before anything runs.

Decided from listings and the catalogue. Only stores that are not as the catalogue knows them are
opened, and no dataset is.
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
from romzarr.store.reading.reader import CoefficientStore, open_store
from romzarr_flows.nightly import CannotRunError
from romzarr_flows.nightly.catalogue import FETCHED, FOLDER, Catalogue, Entry, catalogue_of, now

SUFFIX = ".romzarr"
# What a dataset can be found as, in the order of a run: what is almost done comes first.
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
# Settings that a store promises to keep; others may change without making it wrong.
PROMISED = (
    ("archive", ("time", "variables", "weights")),
    ("compression", ("tolerance", "max_error")),
)
AGES = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True)
class Job:
    """A dataset, its store, the state found (`STATES`) and its reason in words."""

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
        """Whether the run that worked on it ended without a word: killed, or out of memory."""
        return self.last is not None and self.last.state == "running"


@dataclass(frozen=True)
class Plan:
    """Jobs in the order of a run; `kept` need nothing.

    ``found`` counts the datasets that are there, whenever written to. ``vanished`` has the
    entries of those that were there when the last night came to them, and are not.
    """

    jobs: tuple[Job, ...]
    kept: tuple[Job, ...]
    found: int
    vanished: tuple[Entry, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the datasets that a run has to read."""
        return sum(job.dataset.nbytes for job in self.jobs)


def plan_run(config: Config, *, only: str = "**", since: str | None = None) -> Plan:
    """What there is to do for the datasets that the settings name.

    Parameters
    ----------
    config : Config
    only : str
        A glob that the path of a dataset has to match besides ``nightly.pattern``.
    since : str, optional
        Only datasets written to since a date (``2031-07-01``) or within an age (``36h``, ``7d``).

    Raises
    ------
    ConfigError
        If archive or stores are not set, or `since` is neither.
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
    """Refuse a night that finds no dataset at all, unless the settings allow that.

    Raises
    ------
    CannotRunError
        Saying where was looked for what, and what may be meant.
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
    hints += [f"in other folders below there is {some_of(below)}"] if below else []
    raise CannotRunError(
        f"nightly.archive: found no dataset in {redacted(places.archive)!r} that matches {pattern}"
        f"{''.join(f'; {hint}' for hint in hints)}. Check the path, the pattern, and that the "
        "disk is mounted; where there may be none, set nightly.empty: allow"
    )


def some_of(names: Sequence[str]) -> str:
    """How many there are, and which the first are.

    >>> some_of(["a", "b", "c", "d", "e"])
    '5 (a, b, c, ...)'
    """
    more = ", ..." if len(names) > 3 else ""
    return f"{len(names)} ({', '.join(sorted(names)[:3])}{more})"


def checked(config: Config) -> Config:
    """The settings, unless one is missing, or two do not go together."""
    settings, kind = config.nightly, config.cluster.kind
    for name in ("archive", "stores"):
        if getattr(settings, name) == "none":
            raise ConfigError(
                f"nightly.{name}: found 'none'; give a folder or URL in the section nightly of "
                "the file that --config names"
            )
    if settings.parallel not in ("auto", 1) and kind != "threads":
        raise ConfigError(
            f"nightly.parallel: found {settings.parallel} with cluster.kind {kind!r}, which works "
            "on one dataset at a time; leave it out, or use cluster.kind: threads"
        )
    return config


def since_when(text: str) -> datetime:
    """The time that a date, or an age before now, stands for.

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


# --- what is there ------------------------------------------------------------------------


def listed_datasets(places: NightlyConfig, only: str = "**") -> list[Dataset]:
    """The datasets of the archive; stores and catalogue may lie below it, and are none."""
    same = places.stores == places.archive
    excluded = f"{places.stores}/{FOLDER}" if same else places.stores
    try:
        found = find_datasets(places.archive, places.pattern, only=only, leave_out=[excluded])
    except ArchiveError as error:
        raise CannotRunError(f"nightly.archive: {error}") from error
    return [dataset for dataset in found if not dataset.name.endswith(SUFFIX)]


def listed_stores(stores: str) -> dict[str, Dataset]:
    """What is below the folder of the stores, by location; nothing where there is none yet."""
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
    """All entries by dataset."""
    try:
        return catalogue.entries()
    except OSError as error:
        raise CannotRunError(f"the catalogue beside the stores cannot be read: {error}") from error


def store_of(dataset: str, stores: str) -> str:
    """Where the store of a dataset is: the same path below `stores`, with our suffix.

    >>> store_of("2031/run.v2.zarr", "/stores")
    '/stores/2031/run.v2.romzarr'
    """
    return f"{stores}/{PurePosixPath(dataset).with_suffix(SUFFIX)}"


# --- what it means ------------------------------------------------------------------------


def assess_all(
    datasets: Sequence[Dataset],
    entries: Mapping[str, Entry],
    stores: Mapping[str, Dataset],
    config: Config,
) -> list[Job]:
    """Each dataset with the state of its store;"""
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

    # Stores that are opened may take a request each.
    with ThreadPoolExecutor(FETCHED) as pool:
        return list(pool.map(assess_one, datasets))


def assess(
    dataset: Dataset, entry: Entry | None, store: Dataset | None, promise: Mapping[str, Any]
) -> tuple[str, str]:
    """State (`STATES`) of the store of one dataset, and why."""
    if store is None:
        had_one = entry is not None and entry.store_stamp
        return ("missing", "its store is gone") if had_one else ("new", "")
    if entry is not None and entry.state == "stored" and known(entry, dataset, store, promise):
        return "stored", ""
    try:
        opened = open_store(store.location)
        nbytes = opened.stored_bytes()
    except (StoreError, OSError) as error:
        return "damaged", str(error)
    made = promised(made_with(opened))
    if made != promise:
        return "outdated", "; ".join(
            f"{key} was {made[key]!r} and is now {promise[key]!r}"
            for key in promise
            if made[key] != promise[key]
        )
    if opened.facts["source"].get("stamp") != dataset.stamp:
        return "grown", "the dataset was written to since it was stored"
    same = entry is not None and entry.generation == opened.last.name
    if entry is not None and same and entry.stored_bytes != nbytes:
        return "damaged", f"{nbytes} bytes of {entry.stored_bytes} are there: half copied?"
    return "unverified", "the store is not the one that was verified, or none was"


def known(entry: Entry, dataset: Dataset, store: Dataset, promise: Mapping[str, Any]) -> bool:
    """Whether dataset, store and settings are those of the entry."""
    there = (dataset.stamp, store.stamp, promise)
    return bool(dataset.stamp) and (entry.stamp, entry.store_stamp, entry.settings) == there


def promised(config: Config) -> dict[str, Any]:
    """The settings that a store promises to keep, by dotted key, as JSON values."""
    plain = config.to_dict()
    return {f"{section}.{key}": plain[section][key] for section, keys in PROMISED for key in keys}


def made_with(store: CoefficientStore) -> Config:
    """The settings that a store was made with."""
    sections: Mapping[str, Mapping[str, Any]] = store.facts["config"]
    values = {
        f"{section}.{key}": sections[section][key]
        for section, keys in PROMISED
        for key in keys
        if key in sections.get(section, {})
    }
    return with_values(Config(), values)


def ordered(jobs: Sequence[Job]) -> tuple[tuple[Job, ...], tuple[Job, ...]]:
    """Jobs in the order of a run, and those with nothing to do.

    What failed or ended a run before comes last, so that it never keeps others from their turn.
    """
    order = list(STATES)

    def priority(job: Job) -> tuple[bool, bool, int, str]:
        return job.interrupted, job.failed_before, order.index(job.state), job.dataset.name

    todo = sorted((job for job in jobs if job.state != "stored"), key=priority)
    return tuple(todo), tuple(job for job in jobs if job.state == "stored")

"""The catalogue: one JSON file per dataset, beside the stores.

``STORES/catalogue/<path of the dataset>.json`` holds an `Entry`, and
``STORES/catalogue/runs/<time>.json`` the record of a run (`romzarr_flows.nightly.record`).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

from romzarr.archive.find import Dataset
from romzarr.reports import VerifyReport
from romzarr_flows.files import Folder, folder_at
from romzarr_flows.nightly.standing import Standing

log = logging.getLogger(__name__)

FOLDER = "catalogue"
RECORD = re.compile(r"runs/\d{8}T\d{6}Z(-\d+)?\.json")
# Concurrent requests: they hide the latency of object storage.
FETCHED = 16


def now() -> datetime:
    """Return the time to record; no decision depends on it."""
    return datetime.now(UTC).replace(microsecond=0)


@dataclass(frozen=True)
class Entry:
    """What the catalogue knows of a dataset.

    ``state`` is "stored", "failed" (``message`` says why), "running", or, if a run stopped before
    it reached the dataset, the state it found (`romzarr_flows.nightly.plan.STATES`). ``last_run``
    is when the dataset was last processed. ``gone`` is when the dataset was first missing; empty
    while it exists.

    The other fields describe the existing store, even if a later attempt failed: ``ratio``,
    ``relative_l2_error`` (the largest of all variables), ``verified`` with ``error``, ``when``,
    ``how`` ("sample" or "full") and ``share`` of the values compared; ``fingerprint`` and
    ``stamp`` of its source dataset; its newest ``generation``, ``store_stamp`` of its files, and
    the ``settings`` that it has to keep. ``replaced`` says whether superseded generations, kept
    for readers that opened them, may still exist.
    """

    dataset: str
    source: str
    store: str
    state: str
    message: str = ""
    last_run: str = ""
    ratio: float | None = None
    raw_bytes: int | None = None
    stored_bytes: int | None = None
    relative_l2_error: float | None = None
    tolerance: float | None = None
    verified: Mapping[str, Any] | None = None
    fingerprint: str = ""
    stamp: str = ""
    generation: str = ""
    store_stamp: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    replaced: bool = False
    gone: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_json(self) -> bytes:
        return json.dumps(self.to_dict(), indent=1, allow_nan=False).encode()


_KNOWN = {each.name for each in fields(Entry)}
_NUMBERS = ("ratio", "raw_bytes", "stored_bytes", "relative_l2_error", "tolerance")
# All other fields are text.
_KINDS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(_NUMBERS, (int, float, type(None))),
    **dict.fromkeys(("verified", "settings"), (dict, type(None))),
    "replaced": (bool,),
}


def entry_from_json(content: bytes) -> Entry:
    """Parse a file of the catalogue.

    Raises
    ------
    ValueError
        If the file holds something else.
    """
    found = json.loads(content)
    if not isinstance(found, dict):
        raise ValueError("expected a JSON object")
    # Ignore keys that a later version may add.
    values = {key: value for key, value in found.items() if key in _KNOWN}
    for key, value in values.items():
        if not isinstance(value, _KINDS.get(key, (str,))):
            raise ValueError(f"{key!r} is {value!r}")
    try:
        entry = Entry(**values)
    except TypeError as error:
        raise ValueError(f"keys are missing: {error}") from error
    for when in filter(None, (entry.last_run, entry.gone)):
        datetime.fromisoformat(when)
    return entry


def stored_entry(
    dataset: Dataset,
    store: Standing,
    verified: VerifyReport,
    files: Dataset,
    settings: Mapping[str, Any],
) -> Entry:
    """Make the entry of a store that was just verified; `files` describes its files."""
    when = now().isoformat()
    return Entry(
        dataset=dataset.name,
        source=dataset.location,
        store=files.location,
        state="stored",
        last_run=when,
        ratio=store.raw_bytes / store.stored_bytes,
        raw_bytes=store.raw_bytes,
        stored_bytes=store.stored_bytes,
        relative_l2_error=store.relative_l2_error,
        tolerance=store.tolerance,
        verified={
            "error": verified.largest_relative_l2_error,
            "when": when,
            "how": "full" if verified.compared == 1 else "sample",
            "share": verified.compared,
        },
        fingerprint=store.fingerprint,
        stamp=store.stamp,
        generation=store.generation,
        store_stamp=files.stamp,
        settings=settings,
        replaced=store.replaced,
    )


@dataclass(frozen=True)
class Catalogue:
    """The entries in a folder."""

    folder: Folder

    def entries(self) -> dict[str, Entry]:
        """Read all entries by dataset; log and ignore files that cannot be parsed."""
        names = self._names(records=False)
        with ThreadPoolExecutor(FETCHED) as pool:
            found = [entry for entry in pool.map(self._entry, names) if entry is not None]
        return {entry.dataset: entry for entry in found}

    def _entry(self, name: str) -> Entry | None:
        try:
            return entry_from_json(self.folder.read(name))
        except (ValueError, FileNotFoundError) as error:
            log.warning("catalogue file %s is ignored: %s", name, error)
            return None

    def write(self, entry: Entry) -> None:
        name = f"{entry.dataset}.json"
        if RECORD.fullmatch(name):  # a dataset may have the name of a run
            name = f"{entry.dataset}.dataset.json"
        self.folder.write(name, entry.to_json())

    def record(self, name: str) -> Mapping[str, Any]:
        """Read the record of a run; empty if it cannot be read."""
        try:
            found = json.loads(self.folder.read(name))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def records(self) -> list[str]:
        """List the records of runs, which are named by time."""
        return self._names(records=True)

    def _names(self, records: bool) -> list[str]:
        return [
            name
            for name in self.folder.names()
            if name.endswith(".json") and bool(RECORD.fullmatch(name)) == records
        ]


def catalogue_of(stores: str) -> Catalogue:
    """Return the catalogue beside the stores at a path or URL."""
    return Catalogue(folder_at(f"{stores.rstrip('/')}/{FOLDER}"))

"""What became of each dataset: one JSON file each, beside the stores.

``STORES/catalogue/<path of the dataset>.json`` holds an `Entry`, and
``STORES/catalogue/runs/<time>.json`` what one run did (`romzarr_flows.nightly.record`).
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
from romzarr.store.reading.reader import CoefficientStore
from romzarr_flows.files import Folder, folder_at

log = logging.getLogger(__name__)

FOLDER = "catalogue"
RECORD = re.compile(r"runs/\d{8}T\d{6}Z(-\d+)?\.json")
# Files fetched side by side, where each takes a request.
FETCHED = 16


def now() -> datetime:
    """The time that is written down; nothing is decided by it."""
    return datetime.now(UTC).replace(microsecond=0)


@dataclass(frozen=True)
class Entry:
    """What is known of a dataset.

    ``state`` is "stored", "failed" (``message`` says why), "running", or, where a run stopped
    before the dataset's turn, what it found (`romzarr_flows.nightly.plan.STATES`). ``last_run``
    is when the dataset was last worked on. ``gone`` is when the dataset was first not found any
    more; empty while it is there.

    All else describes the store that is in place, also where a later try failed: ``ratio``,
    ``relative_l2_error`` (the largest of all variables), ``verified`` with ``error``, ``when``,
    ``how`` ("sample" or "full") and ``share`` of the values compared; ``fingerprint`` and
    ``stamp`` of the dataset it was made from; its newest ``generation``, ``store_stamp`` of its
    files, and the ``settings`` that it promises to keep. ``replaced`` says that generations
    before the newest may lie beside it, kept for whoever had opened them.
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
# All else is text.
_KINDS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(_NUMBERS, (int, float, type(None))),
    **dict.fromkeys(("verified", "settings"), (dict, type(None))),
    "replaced": (bool,),
}


def entry_from_json(content: bytes) -> Entry:
    """The entry in a file of the catalogue.

    Raises
    ------
    ValueError
        If the file holds something else.
    """
    found = json.loads(content)
    if not isinstance(found, dict):
        raise ValueError("expected a JSON object")
    # Keys that a later version adds are left alone.
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
    store: CoefficientStore,
    verified: VerifyReport,
    files: Dataset,
    settings: Mapping[str, Any],
) -> Entry:
    """The entry of a store that was just verified; `files` lists what it consists of."""
    facts, stored_bytes, when = store.facts, store.stored_bytes(), now().isoformat()
    return Entry(
        dataset=dataset.name,
        source=dataset.location,
        store=files.location,
        state="stored",
        last_run=when,
        ratio=facts["raw_bytes"] / stored_bytes,
        raw_bytes=facts["raw_bytes"],
        stored_bytes=stored_bytes,
        relative_l2_error=max(facts["relative_l2_error"].values()),
        tolerance=facts["tolerance"],
        verified={
            "error": verified.largest_relative_l2_error,
            "when": when,
            "how": "full" if verified.compared == 1 else "sample",
            "share": verified.compared,
        },
        fingerprint=facts["source"]["fingerprint"],
        stamp=facts["source"].get("stamp", ""),
        generation=store.last.name,
        store_stamp=files.stamp,
        settings=settings,
        replaced=bool(store.root.superseded),
    )


@dataclass(frozen=True)
class Catalogue:
    """The entries in a folder."""

    folder: Folder

    def entries(self) -> dict[str, Entry]:
        """All entries by dataset; a file that is none is told and counts as absent."""
        names = self._names(records=False)
        with ThreadPoolExecutor(FETCHED) as pool:
            found = [entry for entry in pool.map(self._entry, names) if entry is not None]
        return {entry.dataset: entry for entry in found}

    def _entry(self, name: str) -> Entry | None:
        try:
            return entry_from_json(self.folder.read(name))
        except (ValueError, FileNotFoundError) as error:
            log.warning("catalogue file %s counts as absent: %s", name, error)
            return None

    def write(self, entry: Entry) -> None:
        name = f"{entry.dataset}.json"
        if RECORD.fullmatch(name):  # a dataset may have the name of a run
            name = f"{entry.dataset}.dataset.json"
        self.folder.write(name, entry.to_json())

    def record(self, name: str) -> Mapping[str, Any]:
        """The record of a run; empty if it cannot be read."""
        try:
            found = json.loads(self.folder.read(name))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def records(self) -> list[str]:
        """Names of the records of runs, by the times that they have as names."""
        return self._names(records=True)

    def _names(self, records: bool) -> list[str]:
        return [
            name
            for name in self.folder.names()
            if name.endswith(".json") and bool(RECORD.fullmatch(name)) == records
        ]


def catalogue_of(stores: str) -> Catalogue:
    """The catalogue beside the stores at a path or URL."""
    return Catalogue(folder_at(f"{stores.rstrip('/')}/{FOLDER}"))

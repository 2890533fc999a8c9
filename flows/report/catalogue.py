"""The page of a whole archive of stores: what needs attention first."""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Any, TypeGuard
from urllib.parse import quote

import fsspec
import numpy as np

from flows.report import page
from flows.report.page import Cell, Part, number, paragraph
from flows.tables import size
from pipeline.archive.location import redacted
from pipeline.errors import PipelineError, StoreError
from pipeline.excerpts import spectrum
from pipeline.store.reader import open_store

Entry = Mapping[str, Any]

# States by how soon somebody should look, and how they are shown.
STATES = {
    "failed": "bad",
    "missing": "bad",
    "above tolerance": "bad",
    "grown": "warn",
    "new": "warn",
    "not verified": "warn",
    "hardly compressed": "warn",
    "stored": "good",
}
# A smaller ratio is hardly worth it.
LEAST_RATIO = 3.0
# Stores whose spectrum is read, and rows: an archive may have very many datasets.
SPECTRA, ROWS = 500, 5000
# Width and height of a small spectrum, its decades, and modes that it has room for.
SMALL, DECADES, MODES = (110, 26), 3, 60


@dataclass(frozen=True)
class Folder:
    """Where stores and their catalogue lie, locally or at a URL, and where the page goes."""

    fs: Any
    root: str
    page: str

    def path(self, *parts: str) -> str:
        return posixpath.join(self.root, *parts)

    def link(self, path: str) -> str | None:
        """How the page refers to a file beside it; None where that is somewhere else."""
        if "file" not in np.atleast_1d(self.fs.protocol):
            return None
        return quote(os.path.relpath(path, os.path.dirname(os.path.abspath(self.page))))


def catalogue_page(stores: str, out: str) -> str:
    """HTML of all datasets that the catalogue of a folder of stores knows.

    Raises
    ------
    StoreError
        If there is no catalogue, or a file of it cannot be read.
    """
    fs, root = fsspec.core.url_to_fs(stores)
    folder = Folder(fs, root.rstrip("/"), out)
    entries = sorted(_entries(folder, stores), key=_urgency)
    parts = [
        Part("Datasets", _table(folder, entries)),
        Part("Runs", _runs(folder)),
    ]
    title = f"Archive {os.path.basename(redacted(stores).rstrip('/'))}"
    return page.document(title, _top(stores, entries), parts)


def _entries(folder: Folder, stores: str) -> Iterator[Entry]:
    runs = folder.path("catalogue", "runs") + "/"
    found = [p for p in sorted(_json_below(folder, "catalogue")) if not p.startswith(runs)]
    if not found:
        raise StoreError(
            f"{redacted(stores)}: found no catalogue (files catalogue/*.json), which `romzarr "
            f"nightly` writes beside the stores; give the folder of the setting nightly.stores"
        )
    for path in found:
        yield _read(folder, path)


def _json_below(folder: Folder, *parts: str) -> list[str]:
    try:
        return [path for path in folder.fs.find(folder.path(*parts)) if path.endswith(".json")]
    except FileNotFoundError:
        return []


def _read(folder: Folder, path: str) -> Entry:
    try:
        content = json.loads(folder.fs.cat_file(path))
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{path}: cannot be read: {error}; delete it, the next run writes it"
        ) from error
    if not isinstance(content, dict):
        raise StoreError(f"{path}: found no JSON object; delete it, the next run writes it")
    return content


# --- what needs attention -----------------------------------------------------------------


def state_of(entry: Entry) -> str:
    """The state in the catalogue, or what is wrong with a store that is there."""
    state = str(entry.get("state"))
    if state != "stored":
        return state
    tolerance = entry.get("tolerance")
    errors = [entry.get("relative_l2_error"), (entry.get("verified") or {}).get("error")]
    if any(_is_number(e) and _is_number(tolerance) and e > tolerance for e in errors):
        return "above tolerance"
    if not entry.get("verified"):
        return "not verified"
    ratio = entry.get("ratio")
    return "hardly compressed" if _is_number(ratio) and ratio < LEAST_RATIO else "stored"


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _urgency(entry: Entry) -> tuple[int, str, str]:
    """What to sort by: the state, then what has waited longest."""
    order = list(STATES)
    state = state_of(entry)
    place = order.index(state) if state in order else 0
    return place, str(entry.get("last_run") or ""), str(entry.get("dataset"))


def _top(stores: str, entries: Sequence[Entry]) -> str:
    states = [state_of(entry) for entry in entries]
    raw, stored = (_sum(entries, key) for key in ("raw_bytes", "stored_bytes"))
    facts = [
        ("datasets", f"{len(entries)}", ""),
        ("archive", size(raw), ""),
        ("stores", size(stored), ""),
        ("compression ratio", page.ratio(raw / stored) if stored else "", ""),
        *(
            (state, f"{states.count(state)}", look)
            for state, look in STATES.items()
            if state in states
        ),
    ]
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return paragraph(f"{redacted(stores)} · page made {made}", "quiet") + page.cards(facts)


def _sum(entries: Iterable[Entry], key: str) -> float:
    return float(
        sum(e[key] for e in entries if _is_number(e.get(key)) and _is_number(e.get("stored_bytes")))
    )


# --- tables -------------------------------------------------------------------------------


def _table(folder: Folder, entries: Sequence[Entry]) -> str:
    header: list[Cell | str] = ["dataset", "state"]
    header += [number(name) for name in ("ratio", "archive", "store", "error", "verified")]
    header += ["spectrum", "last run"]
    rows = [_row(folder, entry, k < SPECTRA) for k, entry in enumerate(entries[:ROWS])]
    more = f"and {len(entries) - ROWS} more: romzarr status" if len(entries) > ROWS else ""
    return page.table(header, rows) + (paragraph(more, "quiet") if more else "")


def _row(folder: Folder, entry: Entry, with_spectrum: bool) -> list[Cell | str]:
    state = state_of(entry)
    look = STATES.get(state, "bad")
    message = str(entry.get("message") or "")[:400]
    said = f"<br><small>{escape(message)}</small>" if message else ""
    tolerance, ratio = entry.get("tolerance"), entry.get("ratio")
    verified = entry.get("verified") or {}
    return [
        _name(folder, entry),
        Cell(f"{escape(state)}{said}", look),
        number(page.ratio(ratio) if _is_number(ratio) else ""),
        number(_size(entry.get("raw_bytes"))),
        number(_size(entry.get("stored_bytes"))),
        _error(entry.get("relative_l2_error"), tolerance),
        _error(verified.get("error"), tolerance),
        Cell(_spectrum(folder, entry) if with_spectrum else ""),
        Cell(_when(entry.get("last_run"))),
    ]


def _name(folder: Folder, entry: Entry) -> Cell:
    """The dataset, as a link to the report of its store if that was made."""
    name, store = escape(str(entry.get("dataset"))), _store_path(folder, entry)
    for report in (f"{store}.html", f"{os.path.splitext(store)[0]}.html"):
        link = folder.link(report) if store and folder.fs.exists(report) else None
        if link:
            return Cell(f'<a href="{escape(link)}">{name}</a>')
    return Cell(name)


def _store_path(folder: Folder, entry: Entry) -> str:
    """Where the store of an entry lies: its URL or path, which may be one below the folder."""
    store = str(entry.get("store") or "")
    if "://" in store:
        return str(folder.fs._strip_protocol(store))
    return folder.path(store) if store else ""


def _error(error: Any, tolerance: Any) -> Cell:
    if not _is_number(error):
        return number("")
    within = not _is_number(tolerance) or error <= tolerance
    return number(f"{error:.2e}", "" if within else "bad")


def _size(value: Any) -> str:
    return size(value) if _is_number(value) else ""


def _when(last_run: Any) -> str:
    """How long ago a time in ISO format was, with the time itself to be pointed at."""
    try:
        then = datetime.fromisoformat(str(last_run))
    except ValueError:
        return escape(str(last_run or ""))
    then = then.replace(tzinfo=then.tzinfo or UTC)
    hours = (datetime.now(UTC) - then).total_seconds() / 3600
    ago = f"{60 * hours:.0f} min" if hours < 2 else f"{hours:.0f} h"
    ago = ago if hours < 48 else f"{hours / 24:.0f} d"
    return f'<span title="{then.astimezone(UTC):%Y-%m-%d %H:%M} UTC">{ago} ago</span>'


def _spectrum(folder: Folder, entry: Entry) -> str:
    """What the leading modes leave out, as a line without axes; empty without modes."""
    if entry.get("state") not in ("stored", "grown") or not entry.get("store"):
        return ""
    try:
        path = _store_path(folder, entry)
        left = spectrum(open_store(folder.fs.unstrip_protocol(path))).left_out
    except (PipelineError, OSError):
        # The table of states says what is wrong with a store; `romzarr verify` says it all.
        return ""
    if len(left) < 2:
        return "<small>no modes</small>"
    shown = np.unique(np.linspace(0, len(left) - 1, MODES).round().astype(int))
    decades = -np.log10(np.maximum(left[shown], 10.0**-DECADES)) / DECADES
    width, height = SMALL
    points = " ".join(
        f"{2 + (width - 4) * n / (len(left) - 1):.1f},{2 + (height - 4) * d:.1f}"
        for n, d in zip(shown, decades, strict=True)
    )
    return (
        f'<svg role="img" aria-label="{len(left) - 1} modes" width="{width}" height="{height}">'
        f'<polyline points="{points}" fill="none" stroke="var(--blue)" stroke-width="1.5"/></svg>'
        f"<small>{len(left) - 1} modes</small>"
    )


def _runs(folder: Folder) -> str:
    """The last runs, the newest first: whatever plain facts their records hold."""
    paths = sorted(_json_below(folder, "catalogue", "runs"), reverse=True)[:20]
    rows = []
    for path in paths:
        record = _read(folder, path)
        facts = {k: v for k, v in record.items() if isinstance(v, str | int | float)}
        words = ", ".join(f"{name} {value}" for name, value in facts.items())
        rows.append([posixpath.basename(path).removesuffix(".json"), words[:600]])
    return page.table([], rows) if rows else ""

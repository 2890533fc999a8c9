"""The page of a whole archive of stores: what needs attention first."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

import numpy as np

from romzarr.archive.location import redacted
from romzarr.config import Config
from romzarr.errors import PipelineError, StoreError
from romzarr.store.reading.reader import open_store
from romzarr.views.excerpts import spectrum
from romzarr_flows.nightly.catalogue import Catalogue, Entry, catalogue_of, now
from romzarr_flows.nightly.status import ORDER, LastRun, Standing, last_run, standings
from romzarr_flows.report import page
from romzarr_flows.report.page import Cell, Part, number, paragraph
from romzarr_flows.tables import size

# States that a store may have besides those of `romzarr status`, and how all are shown.
ABOVE, HARDLY = "above tolerance", "hardly compressed"
STATES = (ABOVE, *ORDER[:-1], HARDLY, ORDER[-1])
LOOKS = {
    **dict.fromkeys(STATES, "warn"),
    **dict.fromkeys((ABOVE, "failed", "clash", "damaged", "missing", "killed"), "bad"),
    **dict.fromkeys(("stored", "running"), "good"),
}
# A smaller ratio is hardly worth it.
LEAST_RATIO = 3.0
# Stores whose spectrum is read, and rows: an archive may have very many datasets.
SPECTRA, ROWS, RUNS = 500, 5000, 10
# Width and height of a small spectrum, its decades, and modes that it has room for.
SMALL, DECADES, MODES = (110, 26), 3, 60


def catalogue_page(stores: str, out: str, config: Config) -> str:
    """HTML of all datasets whose stores are below a path or URL; `out` is where the page goes.

    Raises
    ------
    StoreError
        If there is nothing to list.
    CannotRunError
        If a place cannot be listed.
    """
    last = last_run(stores)
    found = sorted(standings(config, stores, last), key=_urgency)
    if not found:
        raise StoreError(
            f"{redacted(stores)}: found no catalogue, which `romzarr nightly` writes beside the "
            f"stores; give the folder of the setting nightly.stores"
        )
    folder = "" if "://" in out else os.path.dirname(os.path.abspath(out))
    parts = [
        Part("Datasets", _table(found, folder)),
        Part("Runs", _runs(catalogue_of(stores), last)),
    ]
    title = f"Archive {os.path.basename(redacted(stores).rstrip('/'))}"
    return page.document(title, _top(stores, found), parts)


# --- what needs attention -----------------------------------------------------------------


def state_of(standing: Standing) -> str:
    """The state as `romzarr status` has it, or what is wrong with a store that is there."""
    entry = standing.entry
    if standing.state != "stored" or entry is None:
        return standing.state
    errors = [entry.relative_l2_error, (entry.verified or {}).get("error")]
    if any(e is not None and entry.tolerance is not None and e > entry.tolerance for e in errors):
        return ABOVE
    return HARDLY if entry.ratio is not None and entry.ratio < LEAST_RATIO else "stored"


def _urgency(standing: Standing) -> tuple[int, float, str]:
    """What to sort by: the state, then what has waited longest."""
    return STATES.index(state_of(standing)), -(standing.age_seconds or 0.0), standing.dataset


def _top(stores: str, found: Sequence[Standing]) -> str:
    states = [state_of(each) for each in found]
    stored = [e for each in found if (e := each.entry) is not None and e.stored_bytes]
    raw, kept = (float(sum(_bytes(stored, key))) for key in ("raw_bytes", "stored_bytes"))
    facts = [
        ("datasets", f"{len(found)}", ""),
        ("archive", size(raw), ""),
        ("stores", size(kept), ""),
        ("compression ratio", page.ratio(raw / kept) if kept else "", ""),
        *((s, f"{states.count(s)}", LOOKS[s]) for s in STATES if s in states),
    ]
    made = f"{now():%Y-%m-%d %H:%M} UTC"
    return paragraph(f"{redacted(stores)} · page made {made}", "quiet") + page.cards(facts)


def _bytes(entries: Iterable[Entry], key: str) -> list[int]:
    return [getattr(entry, key) or 0 for entry in entries]


# --- tables -------------------------------------------------------------------------------


def _table(found: Sequence[Standing], folder: str) -> str:
    header: list[Cell | str] = ["dataset", "state"]
    header += [number(name) for name in ("ratio", "archive", "store", "error", "verified")]
    header += ["spectrum", "last run"]
    rows = [_row(each, folder, k < SPECTRA) for k, each in enumerate(found[:ROWS])]
    more = f"and {len(found) - ROWS} more: romzarr status" if len(found) > ROWS else ""
    return page.table(header, rows) + (paragraph(more, "quiet") if more else "")


def _row(standing: Standing, folder: str, with_spectrum: bool) -> list[Cell | str]:
    state = state_of(standing)
    said = f"<br><small>{escape(standing.reason[:400])}</small>" if standing.reason else ""
    start = [_name(standing, folder), Cell(f"{escape(state)}{said}", LOOKS[state])]
    entry = standing.entry
    if entry is None:
        return [*start, *([""] * 7)]
    return [
        *start,
        number("" if entry.ratio is None else page.ratio(entry.ratio)),
        number(_size(entry.raw_bytes)),
        number(_size(entry.stored_bytes)),
        _error(entry.relative_l2_error, entry.tolerance),
        _error((entry.verified or {}).get("error"), entry.tolerance),
        Cell(_spectrum(entry) if with_spectrum else ""),
        Cell(_when(standing)),
    ]


def _name(standing: Standing, folder: str) -> Cell:
    """The dataset, as a link to the page of its store if one lies beside it."""
    name, store = escape(standing.dataset), standing.entry.store if standing.entry else ""
    beside = f"{store}.html"
    if not store or not folder or "://" in store or not os.path.exists(beside):
        return Cell(name)
    return Cell(f'<a href="{escape(quote(os.path.relpath(beside, folder)))}">{name}</a>')


def _error(error: float | None, tolerance: float | None) -> Cell:
    if error is None:
        return number("")
    return number(f"{error:.2e}", "" if tolerance is None or error <= tolerance else "bad")


def _size(count: int | None) -> str:
    return "" if count is None else size(count)


def _when(standing: Standing) -> str:
    """How long ago it was worked on, with the time itself to be pointed at."""
    if standing.entry is None or standing.age_seconds is None:
        return ""
    hours = standing.age_seconds / 3600
    ago = f"{60 * hours:.0f} min" if hours < 2 else f"{hours:.0f} h"
    ago = ago if hours < 48 else f"{hours / 24:.0f} d"
    return f'<span title="{escape(standing.entry.last_run)}">{ago} ago</span>'


def _spectrum(entry: Entry) -> str:
    """What the leading modes leave out, as a line without axes."""
    if not entry.generation:
        return ""
    try:
        left = spectrum(open_store(entry.store)).left_out
    except (PipelineError, OSError):
        # The state says what is wrong with a store; `romzarr verify` says it all.
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


def _runs(catalogue: Catalogue, last: LastRun | None) -> str:
    """The last runs, the newest first."""
    if last is None:
        return ""
    rows = []
    for name in sorted(catalogue.records(), reverse=True)[:RUNS]:
        record = catalogue.record(name) or {"began": name, "state": "cannot be read"}
        counts: Mapping[str, Any] = record.get("counts", {})
        words = [f"{count} {what}" for what, count in counts.items() if count]
        words += [f"not there any more: {each}" for each in record.get("vanished", [])]
        state = last.state if name == last.name else _state(record)
        state = ": ".join(filter(None, (state, str(record.get("reason") or ""))))
        rows.append([str(record.get("began")), str(record.get("ended")), state, ", ".join(words)])
    return page.table(["began", "ended", "state", "datasets"], rows)


def _state(record: Mapping[str, Any]) -> str:
    """What became of a run that is not the last: it cannot be at work any more."""
    state = str(record.get("state"))
    return "killed" if state == "running" else state

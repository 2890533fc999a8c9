"""The page about a whole archive of stores, sorted by what needs attention."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

from romzarr.archive.location import redacted
from romzarr.config import Config
from romzarr.errors import PipelineError, StoreError
from romzarr.reports import WORTHWHILE_RATIO
from romzarr.store.reading.reader import open_store
from romzarr.views.excerpts import spectrum
from romzarr_flows.nightly.catalogue import Catalogue, Entry, catalogue_of
from romzarr_flows.nightly.status import (
    BROKEN,
    ORDER,
    DatasetState,
    LastRun,
    dataset_states,
    last_run,
)
from romzarr_flows.report.page import rendered
from romzarr_flows.tables import ratio, size

# States in addition to those of `romzarr status`, and the CSS class of each.
ABOVE, HARDLY = "above tolerance", "hardly compressed"
STATES = (ABOVE, *ORDER[:-1], HARDLY, ORDER[-1])
LOOKS = {
    **dict.fromkeys(STATES, "warn"),
    **dict.fromkeys((ABOVE, *BROKEN), "bad"),
    **dict.fromkeys(("stored", "running"), "good"),
}
# Stores whose spectrum is read (some ms each), rows of the table and runs: browsers take some
# seconds for larger pages.
SPECTRA, ROWS, RUNS = 500, 5000, 10
# Characters shown of a message: some four lines.
MESSAGE = 400
# Width and height of a small spectrum in pixels, its decades, and the modes that this resolves.
SMALL, DECADES, MODES = (110, 26), 3, 60


def catalogue_page(stores: str, out: str, config: Config) -> str:
    """Make the HTML page about all stores below a path or URL, to be written to `out`.

    Raises
    ------
    StoreError
        If there is no catalogue.
    CannotRunError
        If a location cannot be listed.
    """
    last = last_run(stores)
    found = sorted(dataset_states(config, stores, last), key=_urgency)
    if not found:
        raise StoreError(
            f"{redacted(stores)}: found no catalogue; give the folder nightly.stores, in which "
            "`romzarr nightly` writes it"
        )
    folder = "" if "://" in out else os.path.dirname(os.path.abspath(out))
    return rendered(
        "catalogue.html",
        title=f"Archive {os.path.basename(redacted(stores).rstrip('/'))}",
        place=redacted(stores),
        summary=list(_summary(found)),
        rows=[_row(each, folder, k < SPECTRA) for k, each in enumerate(found[:ROWS])],
        left_out=len(found[ROWS:]),
        runs=list(_runs(catalogue_of(stores), last)),
        states=STATES,
        looks=LOOKS,
        most=MESSAGE,
        small=SMALL,
    )


# --- what needs attention -----------------------------------------------------------------


def state_of(standing: DatasetState) -> str:
    """Return the state as in `romzarr status`, or a problem of an existing store."""
    entry = standing.entry
    if standing.state != "stored" or entry is None:
        return standing.state
    errors = [entry.relative_l2_error, (entry.verified or {}).get("error")]
    if any(e is not None and entry.tolerance is not None and e > entry.tolerance for e in errors):
        return ABOVE
    return HARDLY if entry.ratio is not None and entry.ratio < WORTHWHILE_RATIO else "stored"


def _urgency(standing: DatasetState) -> tuple[int, float, str]:
    """Return the sort key: the state, then the time since the last run."""
    return STATES.index(state_of(standing)), -(standing.age_seconds or 0.0), standing.dataset


def _summary(found: Sequence[DatasetState]) -> Iterator[tuple[str, str, str]]:
    stored = [e for each in found if (e := each.entry) is not None and e.stored_bytes]
    raw = sum(entry.raw_bytes or 0 for entry in stored)
    kept = sum(entry.stored_bytes or 0 for entry in stored)
    yield "datasets", f"{len(found)}", ""
    yield "archive", size(raw), ""
    yield "stores", size(kept), ""
    yield "compression ratio", ratio(raw / kept) if kept else "", ""
    states = [state_of(each) for each in found]
    yield from ((s, f"{states.count(s)}", LOOKS[s]) for s in STATES if s in states)


# --- tables -------------------------------------------------------------------------------


def _row(standing: DatasetState, folder: str, with_spectrum: bool) -> dict[str, Any]:
    entry = standing.entry or Entry(standing.dataset, "", "", standing.state)
    return {
        "standing": standing,
        "state": state_of(standing),
        "entry": entry,
        "page": _page(entry, folder),
        "modes": _modes(entry) if with_spectrum else ("", ""),
    }


def _page(entry: Entry, folder: str) -> str:
    """Return the link to a store's page, if that lies beside the store."""
    beside = f"{entry.store}.html"
    if not entry.store or not folder or "://" in beside or not os.path.exists(beside):
        return ""
    return quote(os.path.relpath(beside, folder))


def _modes(entry: Entry) -> tuple[str, str]:
    """Return the number of modes, and the points of a curve of the truncation error."""
    if not entry.generation:
        return "", ""
    try:
        left = spectrum(open_store(entry.store)).left_out
    except (PipelineError, OSError):
        # The state already shows the problem.
        return "", ""
    if len(left) < 2:
        return "no modes", ""
    shown = np.unique(np.linspace(0, len(left) - 1, MODES).round().astype(int))
    decades = -np.log10(np.maximum(left[shown], 10.0**-DECADES)) / DECADES
    width, height = SMALL
    points = (
        f"{2 + (width - 4) * n / (len(left) - 1):.1f},{2 + (height - 4) * d:.1f}"
        for n, d in zip(shown, decades, strict=True)
    )
    return f"{len(left) - 1} modes", " ".join(points)


def _runs(catalogue: Catalogue, last: LastRun | None) -> Iterator[tuple[str, str, str, str]]:
    """Describe the last runs, the newest first: begin, end, state and outcomes."""
    for name in sorted(catalogue.records(), reverse=True)[:RUNS]:
        record = catalogue.record(name) or {"began": name, "state": "cannot be read"}
        counts: Mapping[str, Any] = record.get("counts", {})
        words = [f"{count} {what}" for what, count in counts.items() if count]
        words += [f"no longer in the archive: {each}" for each in record.get("vanished", [])]
        state = last.state if last and name == last.name else _state(record)
        state = ": ".join(filter(None, (state, str(record.get("reason") or ""))))
        yield str(record.get("began")), str(record.get("ended")), state, ", ".join(words)


def _state(record: Mapping[str, Any]) -> str:
    """Return the state of an earlier run, which can no longer be running."""
    state = str(record.get("state"))
    return "killed" if state == "running" else state

"""Plans, runs and standings as plain text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from romzarr_flows.nightly.catalogue import Entry
from romzarr_flows.nightly.plan import STATES, Plan
from romzarr_flows.nightly.record import Record
from romzarr_flows.nightly.status import DatasetState, LastRun
from romzarr_flows.tables import age, ratio, size, table

# Datasets named one by one at the end of a run; `romzarr status` names all.
NAMED = 20
# What is said of a dataset that has vanished.
GONE = "not in the archive any more; what was stored of it stays"


def plan_table(plan: Plan) -> str:
    """What a run would do, with sizes."""
    rows = [
        (job.state, job.dataset.name, size(job.dataset.nbytes), STATES[job.state], job.reason)
        for job in plan.jobs
    ]
    head = ("found", "dataset", "size", "to do", "why")
    total = f"{len(plan.jobs)} to do, {size(plan.nbytes)} to read; {len(plan.kept)} as they are"
    gone = [f"{entry.dataset}: {GONE}" for entry in plan.vanished]
    return "\n".join(
        [*(columns([head, *rows]) if rows else []), *gone, *([""] if rows else []), total]
    )


def run_table(record: Record) -> str:
    """What a run did, and what could be archived away now."""
    outcomes = {"stored": record.stored, "failed": record.failed}
    counts = [f"{len(found)} {word}" for word, found in outcomes.items() if found]
    counts += [f"{len(record.kept)} as they were"] if record.kept else []
    counts += [f"{len(record.left)} left for the next run"] if record.left else []
    why = f" ({record.reason})" if record.reason else ""
    more = len(record.vanished) - NAMED
    rows = [
        ("datasets", f"{record.datasets}: {', '.join(counts) or 'none'}"),
        *(("FAILED", f"{each['dataset']}: {each['message']}") for each in record.failed),
        *(("GONE", f"{name}: {GONE}") for name in record.vanished[:NAMED]),
        *((("", f"and {more} more: romzarr status"),) if more > 0 else ()),
        *archivable(record),
        ("record", f"catalogue/{record.name}"),
    ]
    return table(f"nightly run of {record.began:%Y-%m-%d %H:%M:%S} UTC: {record.state}{why}", rows)


def archivable(record: Record) -> list[tuple[str, str]]:
    """Datasets with a verified store: their owner may move them away; romzarr never does."""
    kept = [
        {
            "archive_bytes": job.dataset.nbytes,
            "stored_bytes": job.last.stored_bytes or 0,
            "tolerance": job.last.tolerance,
            "verified": job.last.verified or {"error": 0},
        }
        for job in record.kept
        if job.last
    ]
    found = [*kept, *record.stored]
    if not found:
        return []
    original = sum(each["archive_bytes"] for each in found)
    stored = sum(each["stored_bytes"] for each in found)
    rows = [
        f"{len(found)} datasets of {size(original)} have a verified store ({size(stored)}), "
        f"{fidelity(found)}",
    ]
    rows += [
        f"{each['dataset']}: {size(each['archive_bytes'])} -> {size(each['stored_bytes'])}, "
        f"{fidelity([each])} ({each['verified']['how']})"
        for each in record.stored[:NAMED]
    ]
    more = len(record.stored) - NAMED
    rows += [f"and {more} more of this run: romzarr status"] if more > 0 else []
    return [("could be archived away" if i == 0 else "", row) for i, row in enumerate(rows)]


def fidelity(stores: Sequence[Mapping[str, Any]]) -> str:
    """What a reader loses who has only the stores.

    >>> lossy = {"tolerance": 0.01, "verified": {"error": 0.0096}}
    >>> exact = {"tolerance": 0.0, "verified": {"error": 0.0}}
    >>> fidelity([lossy])
    'lossy: error 9.60e-03, tolerance 0.01'
    >>> fidelity([exact, exact])
    'lossless'
    >>> fidelity([lossy, exact])
    '1 lossless, 1 lossy: error 9.60e-03, tolerance 0.01'
    """
    lossy = [each for each in stores if each["tolerance"] != 0]
    if not lossy:
        return "lossless"
    exact = len(stores) - len(lossy)
    counts = f"{exact} lossless, {len(lossy)} " if exact else ""
    error = max(each["verified"]["error"] for each in lossy)
    tolerance = max(each["tolerance"] or 0 for each in lossy)
    return f"{counts}lossy: error {error:.2e}, tolerance {tolerance:g}"


def status_table(found: Sequence[DatasetState], last: LastRun | None) -> str:
    """A line a dataset, those first that need attention."""
    head = ("dataset", "state", "ratio", "error", "verified", "age", "")
    rows = [
        (
            each.dataset,
            each.state,
            *measured(each.entry),
            age(each.age_seconds),
            each.reason,
        )
        for each in found
    ]
    states = [each.state for each in found]
    counts = ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states))
    lines = columns([head, *rows]) if rows else []
    return "\n".join(
        [
            *lines,
            "",
            f"{len(found)} datasets: {counts or 'none'}",
            f"last run: {last or 'none yet'}",
        ]
    )


def measured(entry: Entry | None) -> tuple[str, str, str]:
    """Ratio, error as stored, and error as verified."""
    if entry is None or entry.ratio is None or entry.relative_l2_error is None:
        return "-", "-", "-"
    found = entry.verified or {}
    checked = f"{found.get('error', 0):.2e} ({found.get('how')})" if found else "-"
    return ratio(entry.ratio), f"{entry.relative_l2_error:.2e}", checked


def columns(rows: Iterable[Sequence[str]]) -> list[str]:
    """Rows with their cells one below the other.

    >>> columns([("a", "b"), ("long", "c")])
    ['a     b', 'long  c']
    """
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]

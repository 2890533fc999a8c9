"""Plans, runs and states of datasets as plain text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from romzarr_flows.nightly.catalogue import Entry
from romzarr_flows.nightly.plan import STATES, Plan
from romzarr_flows.nightly.record import Record
from romzarr_flows.nightly.status import DatasetState, LastRun
from romzarr_flows.tables import age, continued, ratio, size, table

# Datasets listed at the end of a run, so that a screen holds them; `romzarr status` lists all.
NAMED = 20
# The message for a vanished dataset.
GONE = "no longer in the archive; its store is kept"


def plan_table(plan: Plan) -> str:
    """List what a run would do, with sizes."""
    rows = [
        (job.state, job.dataset.name, size(job.dataset.nbytes), STATES[job.state], job.reason)
        for job in plan.jobs
    ]
    head = ("found", "dataset", "size", "to do", "why")
    total = f"{len(plan.jobs)} to do, {size(plan.nbytes)} to read; {len(plan.kept)} up to date"
    gone = [f"{entry.dataset}: {GONE}" for entry in plan.vanished]
    return "\n".join(
        [*(columns([head, *rows]) if rows else []), *gone, *([""] if rows else []), total]
    )


def run_table(record: Record) -> str:
    """Summarise a run and the datasets that could be moved to cold storage."""
    outcomes = {"stored": record.stored, "failed": record.failed}
    counts = [f"{len(found)} {word}" for word, found in outcomes.items() if found]
    counts += [f"{len(record.kept)} up to date"] if record.kept else []
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
    """List datasets with a verified store: their owner may move them; romzarr never does."""
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
    return continued("could be archived away", rows)


def fidelity(stores: Sequence[Mapping[str, Any]]) -> str:
    """Describe what is lost if only the stores remain.

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
    """List one dataset per line; those that need attention come first."""
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
    """Format ratio, stored error and verified error."""
    if entry is None or entry.ratio is None or entry.relative_l2_error is None:
        return "-", "-", "-"
    found = entry.verified or {}
    checked = f"{found.get('error', 0):.2e} ({found.get('how')})" if found else "-"
    return ratio(entry.ratio), f"{entry.relative_l2_error:.2e}", checked


def columns(rows: Iterable[Sequence[str]]) -> list[str]:
    """Align the cells of rows.

    >>> columns([("a", "b"), ("long", "c")])
    ['a     b', 'long  c']
    """
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]

"""The page that says what a run has found."""

from __future__ import annotations

from collections.abc import Mapping

from tests.torture.campaign import COLUMNS
from tests.torture.registry import CAMPAIGNS
from tests.torture.runner import Report, versions

HEAD = """# What torture found

Written by `make torture` (`tests/torture/`). *Refused*: reading gave an error; *same*: it gave
the right values; *found*: the check of all files named the file that was damaged; *wrong*: anything
that must not be, such as other values, history that is lost, an exception that is none of ours.

"""


def page(reports: Mapping[str, Report], seed: int) -> str:
    """The page as Markdown; it holds no dates and no names of machines."""
    facts = ", ".join(f"{name} {number}" for name, number in versions().items())
    return "\n".join(
        [
            HEAD + _table(reports),
            "",
            *[f"* {name}: {_notes(report)}" for name, report in reports.items()],
            "",
            f"Seed {seed}; {facts}.",
            "",
        ]
    )


def _table(reports: Mapping[str, Report]) -> str:
    columns = ["tried", *COLUMNS, "wrong", "CPU s"]
    lines = [
        f"| campaign | what | {' | '.join(columns)} |",
        f"|---|---|{'---:|' * len(columns)}",
    ]
    for name, report in reports.items():
        counts = report.counts
        numbers = [counts.tried, *(counts.kinds[each] for each in COLUMNS), counts.wrong]
        shown = [f"{number:,}" if number else "0" for number in numbers]
        cells = " | ".join([*shown, f"{report.cpu_seconds:.0f}"])
        lines.append(f"| {name} | {CAMPAIGNS[name].what} | {cells} |")
    return "\n".join(lines)


def _notes(report: Report) -> str:
    """Kinds of outcomes that have no column, and how many there are at all where that is known."""
    notes = {kind: n for kind, n in report.counts.kinds.items() if kind not in COLUMNS}
    shown = [
        f"{kind} {count:,}" + (f" of {report.totals[kind]:,}" if kind in report.totals else "")
        for kind, count in sorted(notes.items())
    ]
    return ", ".join(shown) or "none of a special kind"

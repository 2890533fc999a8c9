"""Tables and the picture of `bench_compression`, made of the records of its children."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.measure import MB, Record, table

# Records by name of the case, target and method.
Results = dict[tuple[str, float, str], Record]

# A store below this size is also counted without what does not grow with the record.
SMALL = 5 * MB
FIXED_LIMIT = 16_000
# Targets at which the length of the record is varied.
LENGTH_TARGETS = (1e-2, 1e-3)
COLOURS = {
    "romzarr": "#c0392b",
    "ZFP": "#888888",
    "SZ3": "#3c8d5a",
    "SPERR": "#1f5a99",
    "TTHRESH": "#7d5ba6",
    "Tucker": "#d1812c",
}


# --- tables -------------------------------------------------------------------------------


def results_table(found: Results) -> str:
    header = (
        "dataset", "target", "method", "bytes", "ratio", "error", "encode MB/s", "decode MB/s",
        "encode CPU s", "decode CPU s", "bytes without fixed part", "settings",
    )  # fmt: skip
    return table(header, [_row(*key, record) for key, record in found.items()])


def _row(case: str, target: float, name: str, record: Record) -> tuple[Any, ...]:
    head = (case, f"{target:g}", name)
    if "failed" in record:
        return (*head, record["failed"], *[None] * 8)
    raw = record["raw"]
    bare = record["bytes"] - record["fixed"] if "fixed" in record and raw < SMALL else None
    return (
        *head, record["bytes"], raw / record["bytes"], f"{record['error']:.3e}",
        raw / MB / record["seconds"], raw / MB / record["decode_seconds"],
        record["cpu_seconds"], record["decode_cpu_seconds"], bare, "; ".join(record["settings"]),
    )  # fmt: skip


def best_peer(found: Results, case: str, target: float) -> tuple[str, int] | None:
    """The peer with the fewest bytes."""
    sizes = [
        (record["bytes"], name)
        for (c, t, name), record in found.items()
        if (c, t) == (case, target) and name != "romzarr" and "failed" not in record
    ]
    return (min(sizes)[1], min(sizes)[0]) if sizes else None


def advantage(found: Results, case: str, target: float, *, fixed: bool = True) -> float | None:
    """Bytes of the best peer over those of romzarr, with or without its fixed part."""
    ours, peer = found.get((case, target, "romzarr"), {}), best_peer(found, case, target)
    if peer is None or "bytes" not in ours:
        return None
    return peer[1] / (ours["bytes"] - (0 if fixed else ours["fixed"]))


def advantage_table(found: Results, targets: Sequence[float]) -> str:
    """romzarr beside the best peer, a line a dataset; then the geometric mean."""
    rows: list[Sequence[Any]] = []
    cases = list(dict.fromkeys(case for case, _, _ in found))
    for case in cases:
        cells = []
        for target in targets:
            value, peer = advantage(found, case, target), best_peer(found, case, target)
            if value is None or peer is None:
                cells.append("")
                continue
            cell = f"{value:.2f} ({peer[0]})"
            if found[case, target, "romzarr"]["raw"] < SMALL:
                cell += f", {advantage(found, case, target, fixed=False):.2f} without fixed part"
            cells.append(cell)
        rows.append((case, *cells))
    small = {case for (case, _, _), record in found.items() if record.get("raw", SMALL) < SMALL}
    for title, fixed in (("geometric mean", set()), ("without fixed part of small ones", small)):
        means = []
        for target in targets:
            values = [advantage(found, case, target, fixed=case not in fixed) for case in cases]
            logs = [math.log(value) for value in values if value is not None]
            means.append(f"{math.exp(sum(logs) / len(logs)):.3f}" if logs else "")
        rows.append((title, *means))
    return table(("dataset", *(f"{target:g}" for target in targets)), rows)


def fixed_table(found: Results) -> str:
    """What every store has, whatever the length of its record."""
    rows = []
    for case in dict.fromkeys(case for case, _, _ in found):
        sizes = [
            record["fixed"]
            for (c, _, _), record in found.items()
            if c == case and "fixed" in record
        ]
        if sizes:
            rows.append((case, max(sizes), "yes" if max(sizes) <= FIXED_LIMIT else "no"))
    return table(("dataset", "fixed bytes", f"at most {FIXED_LIMIT}"), rows)


# --- long record --------------------------------------------------------------------------


def lengths_table(found: Results, record: Mapping[int, str], names: Sequence[str]) -> str:
    """Ratios of the cases of a record, given by their numbers of snapshots."""
    rows = [
        (f"{target:g}", name, *(_ratio(found, case, target, name) for case in record.values()))
        for target in LENGTH_TARGETS
        for name in names
    ]
    return table(("target", "method", *map(str, record)), rows)


def _ratio(found: Results, case: str, target: float, name: str) -> float | None:
    record = found.get((case, target, name), {})
    return record["raw"] / record["bytes"] if "bytes" in record else None


def draw(found: Results, record: Mapping[int, str], names: Sequence[str], path: Path) -> None:
    """Ratio against the length of the record, a panel for each target."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    figure = Figure(figsize=(10.5, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(LENGTH_TARGETS), sharey=True)
    ends: list[list[tuple[float, int, str]]] = [[] for _ in panels]
    for ax, target, last in zip(panels, LENGTH_TARGETS, ends, strict=True):
        for name in names:
            ratios = {n: _ratio(found, case, target, name) for n, case in record.items()}
            values = [(n, ratio) for n, ratio in ratios.items() if ratio is not None]
            if not values:
                continue
            width = 2.4 if name == "romzarr" else 1.4
            ax.plot(*zip(*values, strict=True), "o-", ms=4, lw=width, color=COLOURS[name])
            last.append((values[-1][1], values[-1][0], name))
        ax.set(title=f"error {target:g} of the fluctuation", xlabel="snapshots", yscale="log")
        ax.set(xticks=list(record), xlim=(min(record) - 150, max(record) * 1.38))
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.grid(alpha=0.25)
    panels[0].set_ylabel("raw bytes / stored bytes")
    figure.suptitle("Cylinder wake: compression against the length of the record", fontsize=12)
    # The places of the panels are known only once they are drawn.
    figure.draw_without_rendering()
    for ax, last in zip(panels, ends, strict=True):
        _name_curves(ax, last)
    figure.savefig(path)


def _name_curves(ax: Any, ends: Sequence[tuple[float, int, str]]) -> None:
    """Each curve's name and last ratio beside its end, apart where curves end together."""
    below = -math.inf
    for ratio, length, name in sorted(ends):
        height = ax.transData.transform((length, ratio))[1] * 72 / ax.figure.dpi
        shift = max(0.0, below + 13 - height)
        ax.annotate(
            f"{name} {ratio:,.0f}", (length, ratio), (7, shift), textcoords="offset points",
            va="center", color=COLOURS[name], weight="bold" if name == "romzarr" else None,
        )  # fmt: skip
        below = height + shift

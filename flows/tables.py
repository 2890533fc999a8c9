"""Results as plain text: a title, then one fact a line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Facts = Mapping[str, Any]


def size(count: float) -> str:
    """Bytes in the unit that people read.

    >>> size(0), size(1234), size(5.25e9)
    ('0 B', '1.2 kB', '5.2 GB')
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 999.5 or unit == "TB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def table(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """Two columns under a title; a row without a name goes on with the row above.

    >>> print(table("run", [("rank", "3"), ("snapshots", "40")]))
    run
      rank       3
      snapshots  40
    """
    rows = list(rows)
    width = max(len(name) for name, _ in rows)
    return "\n".join([title, *(f"  {name:<{width}}  {value}".rstrip() for name, value in rows)])


def error_rows(errors: Mapping[str, float], tolerance: float) -> list[tuple[str, str]]:
    """The error of each variable beside the tolerance; the largest is said when there are more."""
    variables = {name: value for name, value in errors.items() if name != "largest"}
    width = max((len(name) for name in variables), default=0)
    rows = [
        (
            "" if i else "relative L2 error",
            f"{name:<{width}}  {value:.3e}{verdict(value, tolerance)}",
        )
        for i, (name, value) in enumerate(variables.items())
    ]
    return [*rows, ("tolerance", f"{tolerance:g}")]


def verdict(value: float, tolerance: float) -> str:
    return "" if value <= tolerance else "  ABOVE THE TOLERANCE"


def size_rows(facts: Facts) -> list[tuple[str, str]]:
    return [
        ("archive", f"{size(facts['raw_bytes'])} uncompressed"),
        ("store", size(facts["stored_bytes"])),
        ("compression ratio", f"{facts['compression_ratio']:.3g}"),
    ]


def compression_table(report: Facts, source: str, store: str) -> str:
    rows = [
        *error_rows(report["relative_l2_error"], report["tolerance"]),
        ("rank", f"{report['rank']} POD modes"),
        ("model", f"{report['nonzero_terms']} terms"),
        ("kept samples", f"{report['kept_samples']} of {report['snapshots']} snapshots"),
        *size_rows(report),
        ("time", f"{report['seconds']:.1f} s, {report['cpu_seconds']:.1f} s of CPU"),
        ("read", f"{size(report['bytes_read'])} in {report['chunks_read']} chunks"),
    ]
    return with_advice(table(f"{source} -> {store}", rows), report)


def with_advice(text: str, report: Facts) -> str:
    return f"{text}\n\n{report['advice']}" if report.get("advice") else text


def verify_table(report: Facts, store: str) -> str:
    outcome = "holds its bound" if report["ok"] else "BREAKS ITS BOUND"
    return table(f"{store} {outcome}", error_rows(report["relative_l2_error"], report["tolerance"]))


def info_table(facts: Facts, store: str) -> str:
    return table(store, ((name.replace("_", " "), plain(value)) for name, value in facts.items()))


def plain(value: Any) -> str:
    """A fact in one line, whatever its shape."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {plain(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)

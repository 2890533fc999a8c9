"""One report of all groups of a tree, from those of each."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar, cast

from romzarr.reports import (
    AppendReport,
    CompactReport,
    CompressionReport,
    EstimateReport,
    StoredVariableReport,
    VerifyReport,
)

# Numbers of which a tree has as many as its groups together; of others it has the largest.
SUMS = frozenset(
    {
        *("rank", "nonzero_terms", "kept_samples", "parts", "parts_before"),
        *("raw_bytes", "stored_bytes", "bytes_before", "bytes_read", "chunks_read"),
        *("seconds", "cpu_seconds"),
    }
)
ByPath = Mapping[str, CompressionReport | VerifyReport | AppendReport | CompactReport]
R = TypeVar("R", CompressionReport, AppendReport, CompactReport)


def of_all_groups(reports: Mapping[str, R]) -> R:
    """Report on all groups of a tree; variables are named by their paths.

    Bytes, ranks and the like are sums, and tolerances and snapshots the largest. What is said in
    words is said of each group.
    """
    found = by_path(reports)
    for name, values in _plain(reports).items():
        found[name] = _joined(name, values)
    stored = found["stored_bytes"]
    if "compression_ratio" in found:
        found["compression_ratio"] = found["raw_bytes"] / stored
    if "variables" in found:
        lines = cast(Mapping[str, StoredVariableReport], found["variables"])
        found["variables"] = {
            name: replace(line, share=line.stored_bytes / stored) for name, line in lines.items()
        }
    return replace(next(iter(reports.values())), **found)


def by_path(reports: ByPath) -> dict[str, Any]:
    """All that reports say of single variables, which are named by their paths."""
    first = next(iter(reports.values()))
    return {
        each.name: {
            posixpath.join(path, name): value
            for path, report in reports.items()
            for name, value in getattr(report, each.name).items()
        }
        for each in fields(first)
        if isinstance(getattr(first, each.name), Mapping)
    }


def estimates_of_all(reports: Mapping[str, EstimateReport]) -> EstimateReport:
    """Estimate for all groups of a tree, each at the same tolerances."""
    raw = sum(each.raw_bytes for each in reports.values())
    of_each = zip(*(each.estimates for each in reports.values()), strict=True)
    found = []
    for estimates in of_each:
        named = dict(zip(reports, estimates, strict=True))
        nbytes = sum(each.stored_bytes for each in estimates)
        variables = {
            posixpath.join(path, name): line
            for path, each in named.items()
            for name, line in each.variables.items()
        }
        problem = "; ".join(f"{p}: {each.problem}" for p, each in named.items() if each.problem)
        ratio = raw / nbytes if nbytes and not problem else 0.0
        found.append(
            replace(
                estimates[0],
                stored_bytes=nbytes,
                compression_ratio=ratio,
                variables=variables,
                problem=problem,
            )
        )
    every = reports.values()
    return EstimateReport(
        estimates=tuple(found),
        raw_bytes=raw,
        snapshots=max(each.snapshots for each in every),
        seconds=sum(each.seconds for each in every),
    )


def _plain(reports: Mapping[str, R]) -> dict[str, dict[str, Any]]:
    """What reports say as numbers and words, by field and path."""
    first = next(iter(reports.values()))
    return {
        each.name: {path: getattr(report, each.name) for path, report in reports.items()}
        for each in fields(first)
        if not isinstance(getattr(first, each.name), Mapping)
    }


def _joined(name: str, values: Mapping[str, Any]) -> Any:
    if name in SUMS:
        return sum(values.values())
    if isinstance(next(iter(values.values())), str):
        return "; ".join(f"{path}: {words}" for path, words in values.items() if words)
    return max(values.values())

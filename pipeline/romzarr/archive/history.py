"""Which part of an archive may have changed, told from a listing of it.

Along time every chunk that is stored has a mark: one checksum of keys and sizes, one of versions
(when a file was written, ETags of objects). A history joins the marks of a few stretches of time.
Where both checksums are as they were, nobody has written; where one is not, only reading tells.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from romzarr.contracts import BlockSpan

# Stretches that a history has at most, about alike but for the last.
MOST = 8


class Stored(NamedTuple):
    """Size in bytes of what is stored, and what changes when it is written: "" if nobody knows."""

    nbytes: int
    version: str


class Mark(NamedTuple):
    """Checksums of what is stored of one variable up to snapshot `stop`, since the mark before."""

    stop: int
    sizes: int
    versions: int


def mark(stop: int, stored: Mapping[str, Stored], meaning: str) -> Mark:
    """Mark of chunks that end at snapshot `stop`, by key; `meaning` says how they are decoded."""
    listed = sorted(stored.items())
    sizes = _checksum(f"{key} {each.nbytes}" for key, each in listed)
    versions = _checksum([meaning, *(f"{key} {each.version}" for key, each in listed)])
    return Mark(stop, sizes, versions)


def history_of(marks: Mapping[str, Sequence[Mark]], snapshots: int) -> list[list[int]]:
    """Where each stretch of the first `snapshots` ends, and its checksums of sizes and versions.

    The last chunk is a stretch of its own: it is written anew when an archive grows.
    """
    *stops, last = _common_stops(marks, snapshots) or [0]
    chosen = stops[:: -max(1, -(-len(stops) // (MOST - 1)))][::-1]
    edges = [0, *chosen, last] if last else []
    return [[stop, *_joined(marks, start, stop)] for start, stop in pairwise(edges)]


def suspicious(
    marks: Mapping[str, Sequence[Mark]], history: Sequence[Sequence[int]], snapshots: int
) -> list[BlockSpan]:
    """Stretches of the first `snapshots` that a `history` does not vouch for.

    Stores from before versions counted have no checksum of them, and are believed.
    """
    known = [(0,), *history]
    found = [
        (before[0], stop)
        for before, (stop, *checksums) in pairwise(known)
        if list(_joined(marks, before[0], stop))[: len(checksums)] != checksums
    ]
    if known[-1][0] < snapshots:
        found.append((known[-1][0], snapshots))
    return _runs(found)


def _runs(spans: Sequence[tuple[int, int]]) -> list[BlockSpan]:
    """Spans that follow one another without a gap as one."""
    runs = list[BlockSpan]()
    for start, stop in spans:
        joins = runs and runs[-1].stop == start
        runs.append(BlockSpan(runs.pop().start if joins else start, stop))
    return runs


def _common_stops(marks: Mapping[str, Sequence[Mark]], snapshots: int) -> list[int]:
    """Where chunks of all variables end."""
    found = [{each.stop for each in of_one} for of_one in marks.values()]
    common = set.intersection(*found) if found else set[int]()
    return sorted(stop for stop in common if stop <= snapshots)


def _joined(marks: Mapping[str, Sequence[Mark]], start: int, stop: int) -> tuple[int, int]:
    chosen = [
        (name, each) for name in sorted(marks) for each in marks[name] if start < each.stop <= stop
    ]
    sizes = _checksum(f"{name} {each.stop} {each.sizes}" for name, each in chosen)
    return sizes, _checksum(f"{name} {each.stop} {each.versions}" for name, each in chosen)


def _checksum(lines: Iterable[str]) -> int:
    return zlib.crc32("\n".join(lines).encode())

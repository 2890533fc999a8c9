"""Finds the parts of an archive that may have changed, from its listing.

Every chunk along time has a mark: a checksum of keys and sizes, and one of versions (modification
times of files, ETags of objects). A history combines the marks of a few time intervals. Equal
checksums mean that nothing was written; otherwise the values have to be read.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from operator import attrgetter
from typing import NamedTuple

from romzarr.contracts import BlockSpan

# Intervals of a history: each costs some 30 bytes, and fewer mean more to read after a change.
MOST = 8

_stop = attrgetter("stop")


class Stored(NamedTuple):
    """Size in bytes, and a version that changes with every write ("" if unknown)."""

    nbytes: int
    version: str


class Mark(NamedTuple):
    """Checksums of the chunks of one variable between the mark before and snapshot `stop`."""

    stop: int
    sizes: int
    versions: int


def mark(stop: int, stored: Mapping[str, Stored], meaning: str) -> Mark:
    """Make the mark of chunks that end at snapshot `stop`; `meaning` says how they are decoded."""
    listed = sorted(stored.items())
    sizes = _checksum(f"{key} {each.nbytes}" for key, each in listed)
    versions = _checksum([meaning, *(f"{key} {each.version}" for key, each in listed)])
    return Mark(stop, sizes, versions)


def history_of(marks: Mapping[str, Sequence[Mark]], snapshots: int) -> list[list[int]]:
    """List the ends of intervals of the first `snapshots`, with checksums of sizes and versions.

    The last chunk is an interval of its own, because it is rewritten when an archive grows.
    """
    *stops, last = _common_stops(marks, snapshots) or [0]
    chosen = stops[:: -max(1, -(-len(stops) // (MOST - 1)))][::-1]
    edges = [0, *chosen, last] if last else []
    return [[stop, *_joined(marks, start, stop)] for start, stop in pairwise(edges)]


def suspicious(
    marks: Mapping[str, Sequence[Mark]], history: Sequence[Sequence[int]], snapshots: int
) -> list[BlockSpan]:
    """Find intervals of the first `snapshots` that may differ from their `history`.

    Histories of older stores have no checksums of versions, and these count as equal.
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
    """Merge adjacent spans."""
    runs = list[BlockSpan]()
    for start, stop in spans:
        joins = runs and runs[-1].stop == start
        runs.append(BlockSpan(runs.pop().start if joins else start, stop))
    return runs


def _common_stops(marks: Mapping[str, Sequence[Mark]], snapshots: int) -> list[int]:
    """Find the snapshots at which chunks of all variables end."""
    found = [{each.stop for each in of_one} for of_one in marks.values()]
    common = set.intersection(*found) if found else set[int]()
    return sorted(stop for stop in common if stop <= snapshots)


def _joined(marks: Mapping[str, Sequence[Mark]], start: int, stop: int) -> tuple[int, int]:
    chosen = list[tuple[str, Mark]]()
    for name in sorted(marks):
        first, last = (bisect_right(marks[name], at, key=_stop) for at in (start, stop))
        chosen += ((name, each) for each in marks[name][first:last])
    sizes = _checksum(f"{name} {each.stop} {each.sizes}" for name, each in chosen)
    return sizes, _checksum(f"{name} {each.stop} {each.versions}" for name, each in chosen)


def _checksum(lines: Iterable[str]) -> int:
    return zlib.crc32("\n".join(lines).encode())

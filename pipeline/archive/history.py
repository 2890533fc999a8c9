"""Whether the beginning of an archive is still what it was, without reading it."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

# Checksums that a history has at most, of stretches that are about alike.
MOST = 8


class Mark(NamedTuple):
    """What is stored of one variable for its snapshots up to `stop`, since the mark before."""

    stop: int
    checksum: int


def mark(stop: int, stored: Sequence[tuple[str, int]]) -> Mark:
    """Mark of chunks that end at snapshot `stop`, from the keys and sizes of what is stored."""
    text = "\n".join(f"{key} {size}" for key, size in sorted(stored))
    return Mark(stop, zlib.crc32(text.encode()))


def history_of(marks: Mapping[str, Sequence[Mark]], snapshots: int) -> list[list[int]]:
    """A few checksums of all that is stored for the first `snapshots`, each with where it ends.

    Only of chunks that were complete then: others are written anew when an archive grows.
    """
    stops = _common_stops(marks, snapshots)
    chosen = stops[len(stops) - 1 :: -max(1, -(-len(stops) // MOST))][::-1]
    return [[stop, _joined(marks, start, stop)] for start, stop in pairwise([0, *chosen])]


def first_change(
    marks: Mapping[str, Sequence[Mark]], history: Sequence[Sequence[int]]
) -> tuple[int, int] | None:
    """Snapshots (start, stop) of the first stretch of a `history` that is not as it was."""
    for (start, _), (stop, checksum) in pairwise([(0, 0), *history]):
        if _joined(marks, start, stop) != checksum:
            return start, stop
    return None


def _common_stops(marks: Mapping[str, Sequence[Mark]], snapshots: int) -> list[int]:
    """Where chunks of all variables end."""
    found = [{each.stop for each in of_one} for of_one in marks.values()]
    common = set.intersection(*found) if found else set[int]()
    return sorted(stop for stop in common if stop <= snapshots)


def _joined(marks: Mapping[str, Sequence[Mark]], start: int, stop: int) -> int:
    text = [
        f"{name} {each.stop} {each.checksum}"
        for name in sorted(marks)
        for each in marks[name]
        if start < each.stop <= stop
    ]
    return zlib.crc32("\n".join(text).encode())

"""Tables cut into blocks of rows that are results of tasks, and cut anew elsewhere."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from dask.delayed import Delayed, delayed

from romzarr.contracts import BlockSpan, Matrix


def consecutive(lengths: Sequence[int]) -> tuple[BlockSpan, ...]:
    """Spans of rows of blocks that follow one another.

    >>> consecutive([2, 3])
    (BlockSpan(start=0, stop=2), BlockSpan(start=2, stop=5))
    """
    stops = list(accumulate(lengths))
    return tuple(
        BlockSpan(stop - length, stop) for stop, length in zip(stops, lengths, strict=True)
    )


def pieces(
    spans: Sequence[BlockSpan], blocks: Sequence[Delayed], wanted: BlockSpan
) -> list[Delayed]:
    """Parts of blocks, which hold consecutive `spans` of rows, that make up `wanted` rows."""
    first, found = bisect_right(spans, wanted.start, key=lambda span: span.stop), []
    for span, block in zip(spans[first:], blocks[first:], strict=True):
        if span.start >= wanted.stop:
            break
        start, stop = max(wanted.start, span.start), min(wanted.stop, span.stop)
        if stop > start:
            whole = (start, stop) == (span.start, span.stop)
            part = (start - span.start, stop - span.start)
            found.append(block if whole else delayed(_rows, pure=False)(block, *part))
    return found


def stacked(parts: Sequence[Matrix]) -> Matrix:
    """Parts of a table one below the other; a single one as it is."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _rows(block: Matrix, start: int, stop: int) -> Matrix:
    """Some of the rows, without those around them in memory."""
    return block[start:stop].copy()

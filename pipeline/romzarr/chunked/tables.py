"""Tables with a row for each snapshot, cut into blocks of rows that are results of tasks."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import getitem
from typing import Any

import dask
import numpy as np
from dask.delayed import Delayed, delayed
from numpy.typing import NDArray

from romzarr.contracts import BlockSpan, Mask, Matrix

# Numbers in a block of rows: 16 MB, of which coding takes some eight arrays. Blocks have so many
# rows at least, so that their tasks are worth scheduling.
BLOCK_VALUES, LEAST_ROWS = 1 << 21, 1 << 10


def block_spans(rows: int, columns: int) -> tuple[BlockSpan, ...]:
    """Blocks of a table, which may be one.

    Their length is a power of two, so that blocks of the code and chunks of corrections fit.
    """
    length = 1 << (max(BLOCK_VALUES // max(1, columns), LEAST_ROWS).bit_length() - 1)
    return consecutive([min(length, rows - first) for first in range(0, rows, length)])


@dataclass(frozen=True)
class Table:
    """A table (m, k) in blocks of rows, each where it was made.

    Attributes
    ----------
    spans : sequence of BlockSpan
        Consecutive rows.
    blocks : sequence of Delayed
        An array (n, k) for each.
    columns : int
    """

    spans: tuple[BlockSpan, ...]
    blocks: tuple[Delayed, ...]
    columns: int

    @classmethod
    def of(cls, rows: Matrix) -> Table:
        """A table (m, k) that is here, as one block."""
        block = delayed(rows, pure=False, traverse=False)
        return cls((BlockSpan(0, len(rows)),), (block,), rows.shape[1])

    def __len__(self) -> int:
        return self.spans[-1].stop

    def map(self, function: Callable[..., Matrix], columns: int, *args: Any) -> Table:
        """The table of ``function(block, *args)`` of all blocks, as many rows each."""
        task = delayed(function, pure=False)
        blocks = tuple(task(block, *args) for block in self.blocks)
        return Table(self.spans, blocks, columns)

    def kept(self) -> Table:
        """The same made once, on the workers. Runs Dask."""
        return Table(self.spans, dask.persist(*self.blocks), self.columns)

    def rows(self, wanted: BlockSpan) -> list[Delayed]:
        """Parts of blocks that make up some rows (`stacked`)."""
        return pieces(self.spans, self.blocks, wanted)

    def cut(self, spans: Sequence[BlockSpan]) -> Table:
        """The same in other blocks."""
        if tuple(spans) == self.spans:
            return self
        task = delayed(stacked, pure=False)
        return Table(tuple(spans), tuple(task(self.rows(s)) for s in spans), self.columns)

    def where(self, some: LeftOut, *, inside: bool) -> Table:
        """The rows of some snapshots alone, or of all others."""
        masks = [some.kept(span) ^ inside for span in self.spans]
        task = delayed(_masked, pure=False)
        blocks = [task(block, mask) for block, mask in zip(self.blocks, masks, strict=True)]
        spans = consecutive([int(mask.sum()) for mask in masks])
        return Table(spans, tuple(blocks), self.columns)

    def filled(self, some: LeftOut, spans: Sequence[BlockSpan]) -> Table:
        """Undoes `where` for all others, of blocks of these `spans`: zeros where they were not."""
        task = delayed(_filled, pure=False)
        blocks = [task(b, some.kept(span)) for b, span in zip(self.blocks, spans, strict=True)]
        return Table(tuple(spans), tuple(blocks), self.columns)

    def mean(self) -> Matrix:
        """Mean (k,) of all rows. Runs Dask."""
        task = delayed(_weighted_mean, pure=False)
        found = dask.compute(*(task(b, len(self)) for b in self.blocks))
        return np.asarray(sum(found[1:], found[0]))

    def here(self) -> Matrix:
        """The whole table. Runs Dask."""
        return stacked(dask.compute(*self.blocks))


@dataclass(frozen=True)
class LeftOut:
    """Snapshots of a record that are left out, as if the others followed one another."""

    spans: tuple[BlockSpan, ...] = ()

    def __len__(self) -> int:
        return sum(map(len, self.spans))

    def kept(self, span: BlockSpan) -> Mask:
        """Which snapshots of a span (n,) are not left out."""
        kept = np.ones(len(span), bool)
        for each in self.spans:
            kept[max(each.start - span.start, 0) : max(each.stop - span.start, 0)] = False
        return kept

    def before(self, snapshots: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many of those before each of these snapshots (k,) are kept."""
        numbers = snapshots.copy()
        for each in self.spans:
            numbers -= np.clip(snapshots - each.start, 0, len(each))
        return numbers


def tall_qr(table: Table) -> tuple[Table, Matrix]:
    """QR factorisation of a table (m, k): orthonormal columns, where its blocks are, and R here.

    Blocks are factored, and then their triangles one below the other [1]_. Runs Dask.

    References
    ----------
    .. [1] J. Demmel, L. Grigori, M. Hoemmen, J. Langou, "Communication-optimal parallel and
       sequential QR and LU factorizations", SIAM J. Sci. Comput. 34 (2012) A206-A239.
    """
    qr, part = delayed(np.linalg.qr, pure=False), delayed(getitem, pure=False)
    pairs = dask.persist(*(qr(block) for block in table.blocks))
    q, r = ([part(pair, number) for pair in pairs] for number in (0, 1))
    if len(pairs) == 1:
        (triangle,) = dask.compute(r[0])
        return Table(table.spans, tuple(q), table.columns), triangle
    tops = dask.compute(*(delayed(len, pure=False)(each) for each in r))
    (joint,) = dask.persist(delayed(_qr_of, pure=False)(r))
    (triangle,) = dask.compute(part(joint, 1))
    mixed = delayed(_times_rows, pure=False)
    blocks = [
        mixed(block, part(joint, 0), span.start, span.stop)
        for block, span in zip(q, consecutive(tops), strict=True)
    ]
    return Table(table.spans, dask.persist(*blocks), len(triangle)), triangle


def bridged(table: Table, rough: LeftOut) -> Table:
    """The table with straight lines across rough rows, in place of what is there."""
    task, blocks = delayed(_bridged, pure=False), list[Delayed]()
    for span, block in zip(table.spans, table.blocks, strict=True):
        here = [each for each in rough.spans if each.start < span.stop and span.start < each.stop]
        ends = [
            [table.rows(BlockSpan(max(end, 0), min(end + 1, len(table)))) for end in each]
            for each in ((stretch.start - 1, stretch.stop) for stretch in here)
        ]
        blocks.append(task(block, span, here, ends) if here else block)
    return Table(table.spans, tuple(blocks), table.columns)


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


def _masked(block: Matrix, mask: Mask) -> Matrix:
    return block[mask]


def _filled(rows: Matrix, mask: Mask) -> Matrix:
    out = np.zeros((len(mask), rows.shape[1]))
    out[mask] = rows
    return out


def _weighted_mean(block: Matrix, rows: int) -> Matrix:
    return np.asarray(block.sum(axis=0) / rows)


def _qr_of(triangles: Sequence[Matrix]) -> tuple[Matrix, Matrix]:
    q, r = np.linalg.qr(np.concatenate(triangles))
    return q, r


def _times_rows(block: Matrix, factor: Matrix, start: int, stop: int) -> Matrix:
    return block @ factor[start:stop]


def _bridged(
    block: Matrix,
    span: BlockSpan,
    stretches: Sequence[BlockSpan],
    ends: Sequence[Sequence[Sequence[Matrix]]],
) -> Matrix:
    """A block with straight lines across stretches of the record, of which `ends` are the rows
    before and after; where the record begins or ends there is but one of them."""
    found = block.copy()
    for stretch, sides in zip(stretches, ends, strict=True):
        places = [stretch.start - 1, stretch.stop]
        known = [(place, side[0][0]) for place, side in zip(places, sides, strict=True) if side]
        rows = np.arange(max(stretch.start, span.start), min(stretch.stop, span.stop))
        at = [place for place, _ in known]
        for column in range(block.shape[1]):
            values = [row[column] for _, row in known]
            found[rows - span.start, column] = np.interp(rows, at, values)
    return found

"""Which blocks of the archive one task factors, and in which order they merge.

Integers only: a plan is a value that can be printed and tested before anything runs.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise, product
from math import prod

import numpy as np
from numpy.typing import NDArray

from romzarr.contracts import ArchivedVariable, BlockSpan, Region
from romzarr.inner_product import InnerProduct

# A leaf reads chunks of about this many bytes together: enough work for a task, and few
# enough that a worker of 1 GiB holds its input, its decompression buffers and some rows.
LEAF_BYTES = 16 * 2**20
LEAF_SNAPSHOTS = 256
# Time blocks that merge at a time: as many as fit `MERGE_BYTES` if each has this many rows.
ARITY, USUAL_ROWS = 4, 64
# Those of a single space block, whose merges look at few points before they rotate the rows.
ARITY_ALONE = 8
MERGE_BYTES = 256 * 2**20
# Snapshots of which the columns in time are one array: 16 MB, if there are 64 of them.
LONGEST = 1 << 15
# Tasks and results of a POD that a scheduler holds at a time: it pays for every one it knows.
SCHEDULED = 75_000


@dataclass(frozen=True)
class SpaceBlock:
    """Row block `number`: the part `region` (dims without time) of variable `variable`."""

    number: int
    variable: int
    region: Region

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(s.stop - s.start for s in self.region)

    @property
    def points(self) -> int:
        return prod(self.shape)

    def inner_product(self, variables: Sequence[ArchivedVariable]) -> InnerProduct:
        """That of its points (n,) in a row."""
        return variables[self.variable].inner_product.on(self.region).flat


class SpaceGrid:
    """The space blocks of one variable, which make up a grid, by place."""

    def __init__(self, rows: Sequence[SpaceBlock]) -> None:
        corners = {tuple(part.start for part in row.region): row for row in rows}
        self._at = corners
        self._starts = [sorted(set(along)) for along in zip(*corners, strict=True)]

    def overlapping(self, region: Region) -> list[SpaceBlock]:
        """Blocks that have points in common with a region, in C order."""
        along = (
            starts[bisect_right(starts, part.start) - 1 : bisect_left(starts, part.stop)]
            for starts, part in zip(self._starts, region, strict=True)
        )
        return [self._at[corner] for corner in product(*along)]


@dataclass(frozen=True)
class TimeTree:
    """A tree over time blocks, which are its level 0.

    Node i of level l + 1 merges those of level l from ``edges[l][i]`` to ``edges[l][i + 1]``.
    """

    edges: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, blocks: int, arity: int) -> TimeTree:
        """The tree in which up to `arity` nodes merge at a time, as evenly as can be."""
        edges, width = [], blocks
        while width > 1:
            groups = -(-width // arity)
            edges.append(tuple(width * i // groups for i in range(groups + 1)))
            width = groups
        return cls(tuple(edges))

    @property
    def root(self) -> tuple[int, int]:
        """Level and number of the root."""
        return len(self.edges), 0

    def children(self, level: int, number: int) -> range:
        """Numbers of the nodes, a level below, that a node merges."""
        return range(*self.edges[level - 1][number : number + 2])

    def blocks(self, level: int, number: int) -> tuple[int, int]:
        """First time block of a node, and the first after it."""
        *_, span = self._spans(level, number)
        return span

    def merges(self, level: int, number: int) -> int:
        """Number of merges of a node and all below it."""
        *above, _ = self._spans(level, number)
        return sum(last - first for first, last in above)

    def _spans(self, level: int, number: int) -> Iterator[tuple[int, int]]:
        """Range of the nodes of each level, from that of the node down to level 0."""
        first, last = number, number + 1
        yield first, last
        for edges in reversed(self.edges[:level]):
            first, last = edges[first], edges[last]
            yield first, last


@dataclass(frozen=True)
class PODPlan:
    """A POD tree over a chunk grid.

    ``rows`` are the space blocks of all variables; ``time_blocks`` end at boundaries that
    the chunks of every variable share; ``leaves[row][t]`` are the spans that row block
    reads, one task each, within time block t; ``arity`` time blocks merge at a time.
    """

    rows: tuple[SpaceBlock, ...]
    time_blocks: tuple[BlockSpan, ...]
    leaves: tuple[tuple[tuple[BlockSpan, ...], ...], ...]
    arity: int = ARITY

    def grid_of(self, variable: int) -> SpaceGrid:
        """The space blocks of a variable."""
        return SpaceGrid(self.rows_of(variable))

    def rows_of(self, variable: int) -> list[SpaceBlock]:
        return [row for row in self.rows if row.variable == variable]

    @property
    def largest(self) -> int:
        """Points of the largest space block."""
        return max(row.points for row in self.rows)

    def finer(self, points: int) -> PODPlan:
        """The same with space blocks halved until none has more than so many points.

        Blocks with fewer `points` are parts of those with more, and the points of each part
        follow one another in the block that it is of.
        """
        blocks = list(zip(self.rows, self.leaves, strict=True))
        found = list[_Block]()
        for variable in sorted({row.variable for row in self.rows}):
            mine = [(row, leaves) for row, leaves in blocks if row.variable == variable]
            while max(row.points for row, _ in mine) > max(points, 1):
                mine = _halved(mine)
            found += mine
        rows = tuple(replace(row, number=number) for number, (row, _) in enumerate(found))
        return replace(self, rows=rows, leaves=tuple(leaves for _, leaves in found))

    def parts(self, finer: PODPlan) -> list[tuple[int, slice]]:
        """For each space block of a `finer` plan the number of that which it is of, and its points
        there."""
        found, number, first = list[tuple[int, slice]](), 0, 0
        for row in finer.rows:
            found.append((number, slice(first, first + row.points)))
            first += row.points
            if first == self.rows[number].points:
                number, first = number + 1, 0
        return found

    @cached_property
    def tree(self) -> TimeTree:
        """How time blocks merge."""
        return TimeTree.of(len(self.time_blocks), self.arity)

    @property
    def levels(self) -> int:
        """Cuts on the way from a chunk to the root."""
        split = any(len(spans) > 1 for leaves in self._own_leaves for spans in leaves)
        return 1 + len(self.tree.edges) + split + (len(self.rows) > 1)

    @property
    def _own_leaves(self) -> list[tuple[tuple[BlockSpan, ...], ...]]:
        """Leaves of each variable: all its space blocks have the same."""
        first = {row.variable: leaves for row, leaves in zip(self.rows, self.leaves, strict=True)}
        return list(first.values())

    @cached_property
    def _tasks_before(self) -> NDArray[np.int64]:
        """Tasks of the leaves of all time blocks before each one, and of all."""
        counts = np.zeros(len(self.time_blocks), np.int64)
        rows = Counter(row.variable for row in self.rows)
        for variable, leaves in zip(rows, self._own_leaves, strict=True):
            spans = np.fromiter(map(len, leaves), np.int64, len(leaves))
            counts += rows[variable] * (spans + (spans > 1))
        if len(self.rows) > 1:
            # The columns of each block, and those that all have in common.
            counts += len(self.rows) + 1
        return np.concatenate([[0], np.cumsum(counts)])

    def span(self, level: int, number: int) -> BlockSpan:
        """Snapshots of a node of the tree."""
        first, last = self.tree.blocks(level, number)
        return BlockSpan(self.time_blocks[first].start, self.time_blocks[last - 1].stop)

    def is_long(self, level: int, number: int) -> bool:
        """Whether the columns in time of a node are in several blocks."""
        return level > 0 and len(self.span(level, number)) > LONGEST

    def right_spans(self, level: int, number: int) -> list[BlockSpan]:
        """Blocks of time that the columns of a node are in: those of the largest nodes below it
        that are not long."""
        if not self.is_long(level, number):
            return [self.span(level, number)]
        below = self.tree.children(level, number)
        return [span for child in below for span in self.right_spans(level - 1, child)]

    def merge_tasks(self, level: int, number: int) -> int:
        """Tasks that merge the children of a node."""
        tasks = 1 if len(self.rows) == 1 else 2 * len(self.rows) + 2
        if not self.is_long(level, number):
            return tasks
        below = self.tree.children(level, number)
        short = sum(not self.is_long(level - 1, child) for child in below)
        return tasks + 1 + short + len(self.right_spans(level, number))

    def tasks(self, level: int, number: int) -> int:
        """Tasks of a node of the tree and of all below it."""
        first, last = self.tree.blocks(level, number)
        if not self.is_long(level, number):
            leaves = int(self._tasks_before[last] - self._tasks_before[first])
            merge = self.merge_tasks(level, number) if level else 0
            return leaves + merge * self.tree.merges(level, number)
        if (level, number) not in self._known_tasks:
            below = (self.tasks(level - 1, c) for c in self.tree.children(level, number))
            self._known_tasks[level, number] = self.merge_tasks(level, number) + sum(below)
        return self._known_tasks[level, number]

    @cached_property
    def _known_tasks(self) -> dict[tuple[int, int], int]:
        """Those of long nodes: whoever cuts a graph into slices asks again and again."""
        return {}

    @property
    def scheduled(self) -> int:
        """Tasks and results on the scheduler when one time block after the other is factored.

        Those of the largest time block with its weights and results, or of a merge, beside the
        results of all but one child of a node on each level of the tree.
        """
        rows = len(self.rows)
        waiting = sum(max(b - a for a, b in pairwise(edges)) - 1 for edges in self.tree.edges)
        largest = max(int(np.diff(self._tasks_before).max()), 2 * rows + 2)
        return largest + (waiting + 2) * (rows + 1)


def plan_pod(
    variables: Sequence[ArchivedVariable],
    leaf_bytes: int = LEAF_BYTES,
    scheduled: int = SCHEDULED,
    merge_bytes: int = MERGE_BYTES,
) -> PODPlan:
    """Group the chunks of an archive into leaves of a POD tree, without splitting any.

    Chunks are grouped along time first (up to `leaf_bytes` and 256 snapshots), then, where
    they are small, along space, from the last dim to the first. Where there are so many space
    blocks that even single time blocks are more than `scheduled` tasks and results, they take as
    many more chunks as it needs, and leaves as much more memory. As many time blocks merge at a
    time as fit `merge_bytes`, if they keep as many rows as is usual.
    """
    together, plan = 1, _planned(variables, leaf_bytes, 1, merge_bytes)
    while plan.scheduled > scheduled and len(plan.rows) > len(variables):
        together = max(together + 1, together * plan.scheduled // scheduled)
        plan = _planned(variables, leaf_bytes, together, merge_bytes)
    return plan


def _planned(
    variables: Sequence[ArchivedVariable], leaf_bytes: int, together: int, merge_bytes: int
) -> PODPlan:
    """A plan whose leaves take up to so many chunks along space, or more where these are small."""
    common = _common_boundaries(variables)
    snapshot_bytes = max(_largest_chunk(v) for v in variables)
    time_blocks = _grouped(common, snapshot_bytes, leaf_bytes)
    rows: list[SpaceBlock] = []
    leaves: list[tuple[tuple[BlockSpan, ...], ...]] = []
    for number, variable in enumerate(variables):
        own = _boundaries(variable.chunks[variable.time_axis])
        spans = tuple(
            _within(own, block, _largest_chunk(variable), leaf_bytes) for block in time_blocks
        )
        longest = max(len(span) for block in spans for span in block)
        size = longest * _largest_chunk(variable)
        for region in _space_regions(variable, size, max(leaf_bytes // 4, together * size)):
            rows.append(SpaceBlock(len(rows), number, region))
            leaves.append(spans)
    most = max(4 * row.points for row in rows)
    # Pairs of one space block merge in one task, of several in three: triples keep these few.
    least, largest = (2, ARITY_ALONE) if len(rows) == 1 else (3, ARITY)
    arity = int(np.clip(merge_bytes // (USUAL_ROWS * most), least, largest))
    return PODPlan(tuple(rows), time_blocks, tuple(leaves), arity)


def leaf_region(variable: ArchivedVariable, space: Region, span: BlockSpan) -> Region:
    """Region of the variable's own dims that a leaf reads."""
    axis = variable.time_axis
    return (*space[:axis], slice(span.start, span.stop), *space[axis:])


_Block = tuple[SpaceBlock, tuple[tuple[BlockSpan, ...], ...]]


def _halved(blocks: Sequence[_Block]) -> list[_Block]:
    """Space blocks of one variable in halves along the first dim in which any is longer than 1.

    Those that have the same range there are halved at the same place: they stay a grid.
    """
    lengths = [max(along) for along in zip(*(row.shape for row, _ in blocks), strict=True)]
    axis = next(dim for dim, length in enumerate(lengths) if length > 1)
    found = []
    for row, leaves in blocks:
        part = row.region[axis]
        middle = (part.start + part.stop) // 2
        halves = [slice(part.start, middle), slice(middle, part.stop)]
        for half in halves if middle > part.start else halves[1:]:
            region = (*row.region[:axis], half, *row.region[axis + 1 :])
            found.append((replace(row, region=region), leaves))
    return found


def _boundaries(chunks: Sequence[int]) -> list[int]:
    return [0, *(int(b) for b in np.cumsum(chunks))]


def _common_boundaries(variables: Sequence[ArchivedVariable]) -> list[int]:
    sets = [set(_boundaries(v.chunks[v.time_axis])) for v in variables]
    return sorted(set.intersection(*sets))


def _largest_chunk(variable: ArchivedVariable) -> int:
    """Bytes of one snapshot of the variable's largest space chunk."""
    points = 1
    for lengths in variable.space_chunks:
        points *= max(lengths, default=1)
    return points * variable.dtype.itemsize


def _grouped(boundaries: Sequence[int], snapshot_bytes: int, limit: int) -> tuple[BlockSpan, ...]:
    """Consecutive ranges merged up to the limits; a longer single range stays as it is."""
    longest = max(1, min(LEAF_SNAPSHOTS, limit // snapshot_bytes))
    spans, start = [], boundaries[0]
    for end, following in pairwise([*boundaries[1:], boundaries[-1]]):
        if following - start > longest or end == boundaries[-1]:
            spans.append(BlockSpan(start, end))
            start = end
    return tuple(spans)


def _within(
    boundaries: Sequence[int], block: BlockSpan, snapshot_bytes: int, limit: int
) -> tuple[BlockSpan, ...]:
    # By bisection: a record may have 10^5 boundaries, and as many blocks that ask.
    first, last = bisect_left(boundaries, block.start), bisect_right(boundaries, block.stop)
    return _grouped(boundaries[first:last], snapshot_bytes, limit)


def _space_regions(variable: ArchivedVariable, size: int, target: int) -> list[Region]:
    """Space chunks, leaves of `size` bytes joined from the last dim on until one has `target`."""
    chunks = [list(lengths) for lengths in variable.space_chunks]
    for dim in reversed(range(len(chunks))):
        group = max(1, min(len(chunks[dim]), target // size))
        chunks[dim] = [sum(chunks[dim][i : i + group]) for i in range(0, len(chunks[dim]), group)]
        size *= group
    edges = [list(pairwise(_boundaries(lengths))) for lengths in chunks]
    return [tuple(slice(a, b) for a, b in corner) for corner in product(*edges)]

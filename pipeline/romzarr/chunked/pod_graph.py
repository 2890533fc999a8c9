"""The graph of a POD: leaves, merges over space in each time block, a tree over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any, NamedTuple
from uuid import uuid4

from dask.highlevelgraph import HighLevelGraph

from romzarr.chunked import pod_tasks
from romzarr.chunked.plan import PODPlan, leaf_region
from romzarr.contracts import ArchivedVariable, BlockSpan
from romzarr.inner_product import InnerProduct
from romzarr.numerics.pod import merge
from romzarr.numerics.pod.factors import Place
from romzarr.numerics.pod.inner_products import Precision
from romzarr.numerics.pod.truncation import Cut

Graph = dict[Any, Any]

# Inner products that one task adds: with what it takes to add them by QR, these are fewer arrays
# than finding directions takes.
SUMMANDS = 3

_second = itemgetter(1)


class Columns(NamedTuple):
    """Keys of a node: its joint columns in time, and its rows on each space block.

    For a single space block both are the same key, of a pair. The columns of a long node are
    in blocks of time, of which ``right`` has the keys.
    """

    joint: Any
    blocks: list[Any]
    right: tuple[Any, ...] = ()


@dataclass
class Builder:
    """Adds tasks of one POD to ``graph``.

    `cuts` are those of the levels of the tree, leaves first, `own_cuts` those of single space
    blocks; `inner` has the inner product of each space block, `scales` the factor on the energy of
    each variable, `origins` of which space block of the leaves each one is, and from which point
    on. All keys have one name of their own: results are never shared with another run.
    """

    plan: PODPlan
    variables: Sequence[ArchivedVariable]
    cuts: Sequence[Cut]
    own_cuts: Sequence[Cut]
    precision: Precision
    inner: Sequence[InnerProduct]
    scales: Mapping[int, float] | None = None
    origins: Sequence[tuple[int, int]] = ()
    graph: Graph = field(default_factory=dict)
    token: str = field(default_factory=lambda: uuid4().hex)

    def __post_init__(self) -> None:
        self.owners = [row.variable for row in self.plan.rows]
        self.alone = len(self.owners) == 1
        self.origins = self.origins or [(row, 0) for row in range(len(self.owners))]
        self.common: Graph = {
            self.key("inner", row): inner for row, inner in enumerate(self.inner) if not inner.even
        }
        for variable in self.variables:
            self.common.update(variable.source.graph())

    def key(self, name: str, *numbers: int) -> Any:
        return (f"pod-{name}-{self.token}", *numbers)

    def anew(self) -> Builder:
        """A builder of the same POD whose graph is empty and whose keys are others."""
        return replace(self, graph={}, token=uuid4().hex)

    def finer(self, points: int) -> Builder:
        """A builder of the same POD whose space blocks have so many points at most."""
        plan = self.plan.finer(points)
        parts = self.plan.parts(plan)
        return replace(
            self,
            plan=plan,
            inner=[self.inner[row].on(part) for row, part in parts],
            origins=[(self.origins[row][0], self.origins[row][1] + p.start) for row, p in parts],
            scales={self.owners[0]: 1.0} if self.alone else self.scales,
            graph={},
            token=uuid4().hex,
        )

    def layer(self) -> tuple[HighLevelGraph, str]:
        """All tasks added, and what they need in common."""
        name = f"pod-{uuid4().hex}"
        return HighLevelGraph.from_collections(name, self.common | self.graph), name

    def subtree(self, level: int, number: int) -> Columns:
        """Add a node of the tree over time with all that is below it."""
        if level == 0:
            return self.time_block(number)
        below = [self.subtree(level - 1, c) for c in self.plan.tree.children(level, number)]
        return self.merge(level, number, below)

    def time_block(self, t: int) -> Columns:
        """Add the leaves of a time block, and what joins its space blocks."""
        blocks = [self.block(row, t) for row in range(len(self.owners))]
        if self.alone:
            return Columns(blocks[0], blocks)
        own = [self._own(row, t, block) for row, block in enumerate(blocks)]
        joint = self.key("joint", t)
        self.graph[joint] = (
            merge.merge_in_space, own, self.owners, self._scales, self.cuts[self._level(0)],
            self.precision,
        )  # fmt: skip
        return Columns(joint, blocks)

    def block(self, row: int, t: int) -> Any:
        """Add one task for each leaf, and one merge where a time block has several."""
        spans, block = self.plan.leaves[row][t], self.key("block", row, t)
        if len(spans) == 1:
            self.graph[block] = self._leaf(row, spans[0])
            return block
        keys = [self.key("leaf", row, t, i) for i in range(len(spans))]
        self.graph.update((k, self._leaf(row, s)) for k, s in zip(keys, spans, strict=True))
        self.graph[block] = self._merged_pairs(row, keys, self.own_cuts[1])
        return block

    def _leaf(self, row: int, span: BlockSpan) -> tuple[Any, ...]:
        space = self.plan.rows[row]
        variable = self.variables[space.variable]
        return (
            pod_tasks.read_and_factor,
            variable.source.task(leaf_region(variable, space.region, span)),
            variable.time_axis,
            self._inner(row),
            self.own_cuts[0],
            self.precision,
            Place(space.variable, row, span.start),
        )

    def _inner(self, row: int) -> Any:
        key = self.key("inner", row)
        return key if key in self.common else self.inner[row]

    def _level(self, level: int) -> int:
        """The number among the cuts of that of a level of the tree over time."""
        return level - 1 - len(self.plan.tree.edges)

    def _merged_pairs(self, row: int, keys: list[Any], cut: Cut) -> tuple[Any, ...]:
        place = Place(self.owners[row], row, 0)
        inner = self._inner(row)
        return (merge.merge_in_time, keys, inner, cut, self.precision, place)

    def merge(self, level: int, number: int, parts: Sequence[Columns]) -> Columns:
        """Add the merge of consecutive nodes: products by space block, a factor, rows again."""
        merged, cut = self.key(f"merge{level}", number), self.cuts[self._level(level)]
        if self.alone:
            long, below = self.plan.is_long(level, number), [part.joint for part in parts]
            self.graph[merged] = (*self._merged_pairs(0, below, cut), long)
            return Columns(merged, [merged], self._right(level, number, merged, parts))
        factors, joint = [part.joint for part in parts], self.key(f"factor{level}", number)
        products, rows = [], []
        for i in range(len(self.owners)):
            below = [part.blocks[i] for part in parts]
            products.append(self.key(f"product{level}", i, number))
            self.graph[products[-1]] = (
                pod_tasks.product_of, below, factors, self._inner(i), self.precision,
                *self.origins[i],
            )  # fmt: skip
            rows.append(self.key(f"rows{level}", i, number))
            turn = (_second, merged)
            self.graph[rows[-1]] = (pod_tasks.rows_of, below, factors, turn, self.precision)
        self.graph[merged] = (
            pod_tasks.merge_joint, factors, self.owners, products, self._scales, cut,
            self.precision, self.plan.is_long(level, number),
        )  # fmt: skip
        self.graph[joint] = (itemgetter(0), merged)
        return Columns(joint, rows, self._right(level, number, joint, parts))

    def merge_parts(
        self, level: int, number: int, parts: Sequence[Columns], plans: Sequence[PODPlan]
    ) -> Columns:
        """Add the merge of consecutive nodes whose space blocks are those of `plans`.

        These may be coarser than those here.
        No task has both columns in time and rows.
        """
        merged, joint = self.key(f"merge{level}", number), self.key(f"factor{level}", number)
        turn = self.key(f"turn{level}", number)
        factors, summaries, below = [], [], []
        for i, (part, plan) in enumerate(zip(parts, plans, strict=True)):
            factors.append(self.key(f"part{level}", number, i))
            self.graph[factors[-1]] = (pod_tasks.factor_in, part.joint)
            summaries.append(self.key(f"summary{level}", number, i))
            self.graph[summaries[-1]] = (pod_tasks.summary_of, part.joint)
            below.append(self._parts(level, number, i, part, plan))
        products, rows = [], []
        for i, blocks in enumerate(zip(*below, strict=True)):
            products.append(self.key(f"product{level}", i, number))
            self.graph[products[-1]] = (
                pod_tasks.product_of, list(blocks), summaries, self._inner(i), self.precision,
                *self.origins[i],
            )  # fmt: skip
            rows.append(self.key(f"rows{level}", i, number))
            self.graph[rows[-1]] = (
                pod_tasks.rows_of, list(blocks), summaries, turn, self.precision,
            )  # fmt: skip
        variables, sums = self._sums(level, number, products)
        self.graph[merged] = (
            pod_tasks.merge_joint, factors, variables, sums, self._scales,
            self.cuts[self._level(level)], self.precision, self.plan.is_long(level, number),
        )  # fmt: skip
        self.graph[joint], self.graph[turn] = (itemgetter(0), merged), (_second, merged)
        return Columns(joint, rows, self._right(level, number, joint, parts))

    def _parts(self, level: int, number: int, i: int, part: Columns, plan: PODPlan) -> list[Any]:
        """Add the rows of a node on each space block here, of those in its own blocks."""
        if level > 1 and len(plan.rows) == len(self.owners) > 1:
            return part.blocks
        keys = [self.key(f"cut{level}", number, i, j) for j in range(len(self.owners))]
        for key, (row, points) in zip(keys, plan.parts(self.plan), strict=True):
            self.graph[key] = (pod_tasks.part_of, part.blocks[row], part.joint, points)
        return keys

    def _sums(
        self, level: int, number: int, products: Sequence[Any]
    ) -> tuple[list[int], list[Any]]:
        """Add sums of the products of each variable; the variables and their keys."""
        of: dict[int, list[Any]] = {}
        for variable, product in zip(self.owners, products, strict=True):
            of.setdefault(variable, []).append(product)
        count = 0
        for variable, left in of.items():
            while len(left) > 1:
                key = self.key(f"sum{level}", number, count)
                some, left = left[:SUMMANDS], left[SUMMANDS:]
                self.graph[key] = (pod_tasks.added, some, self.precision)
                left, count = [*left, key], count + 1
            of[variable] = left
        return list(of), [key for (key,) in of.values()]

    def _right(
        self, level: int, number: int, joint: Any, parts: Sequence[Columns]
    ) -> tuple[Any, ...]:
        """Add the blocks of time that the columns of a long node are in; none of another."""
        if not self.plan.is_long(level, number):
            return ()
        turns, found = self.key(f"turns{level}", number), list[Any]()
        self.graph[turns] = (pod_tasks.turns_of, joint)
        for i, part in enumerate(parts):
            blocks = part.right
            if not blocks:
                blocks = (self.key(f"right{level}", number, i),)
                self.graph[blocks[0]] = (pod_tasks.right_of, part.joint)
            for block in blocks:
                found.append(self.key(f"turned{level}", number, len(found)))
                self.graph[found[-1]] = (pod_tasks.turned, block, turns, i)
        return tuple(found)

    def finished(self, root: Columns) -> list[Any]:
        """Keys of the factor of the whole record but for its columns, of the rows of each space
        block, and of the blocks of time of the columns."""
        factor, right = self.key("factor"), root.right or (self.key("right"),)
        self.graph[factor] = (pod_tasks.summary_of, root.joint)
        if not root.right:
            self.graph[right[0]] = (pod_tasks.right_of, root.joint)
        return [factor, *self._finished_rows(root), *right]

    def _finished_rows(self, root: Columns) -> list[Any]:
        if self.alone:
            rows = self.key("rows", 0)
            self.graph[rows] = (itemgetter(0), root.joint)
            return [rows]
        if len(self.plan.time_blocks) > 1:
            return root.blocks
        # Leaves still have columns of their own.
        keys = [self.key("rows", i) for i in range(len(root.blocks))]
        for key, block in zip(keys, root.blocks, strict=True):
            self.graph[key] = (pod_tasks.joint_rows, block, root.joint)
        return keys

    @property
    def _scales(self) -> Any:
        return self.key("scales") if self.scales is None else dict(self.scales)

    def estimate_scales(self, rows: Sequence[int]) -> Any:
        """Add the estimate of all scales, from space blocks `rows` at a few times; its key."""
        last = len(self.plan.time_blocks) - 1
        sampled = sorted({0, last // 2, last})
        owners = [self.owners[i] for i in rows for _ in sampled]
        own = [self._own(i, t, self.block(i, t)) for i in rows for t in sampled]
        key = self.key("scales")
        self.graph[key] = (merge.estimate_scales, own, owners)
        return key

    def _own(self, row: int, t: int, block: Any) -> Any:
        """Add the columns that a space block has of its own in a time block."""
        key = self.key("own", row, t)
        self.graph[key] = (_second, block)
        return key

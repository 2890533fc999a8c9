"""POD over a chunk grid as a Dask graph: leaves, merges over space, a tree over time.

Each chunk is read by one task. Rows stay where they were computed; only triangular or Gram
matrices and time factors travel between space blocks. See pipeline/numerics/pod.py for the
mathematics of each task. A graph that is too large for a scheduler is run subtree by subtree.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any, NamedTuple
from uuid import uuid4

import dask
import numpy as np
from dask.delayed import Delayed, delayed
from dask.highlevelgraph import HighLevelGraph

from pipeline.chunked import pod_tasks
from pipeline.chunked.plan import PODPlan, leaf_region, plan_pod
from pipeline.contracts import ArchivedVariable
from pipeline.numerics.factors import Defect, Place, TimeFactor
from pipeline.numerics.inner_products import Precision, choose_precision
from pipeline.numerics.truncation import Cut, tree_cut

# Where there are several space blocks, what is dropped in each alone is this much less: it
# adds to the error in full, not in squares.
APART = 10
# Tasks of one slice, and of all slices that are on the scheduler at a time: it takes memory and
# time for every task that it knows. With several slices no worker waits for the end of one.
SLICE_TASKS, SUBMITTED_TASKS = 20_000, 80_000
# Space blocks of each variable that scales are estimated from where a graph is cut in slices.
SCALED_BLOCKS = 100

Graph = dict[Any, Any]


@dataclass(frozen=True)
class LazyPOD:
    """A POD that has not run: `factor` gives the TimeFactor of the whole record, `blocks`
    one RowBlock for each of ``plan.rows``. Persist them together; they share all tasks."""

    plan: PODPlan
    factor: Delayed
    blocks: tuple[Delayed, ...]


@dataclass(frozen=True)
class HeldPOD:
    """A POD that has run: its factor here, and `blocks` on the workers that made them."""

    plan: PODPlan
    factor: TimeFactor
    blocks: tuple[Delayed, ...]


def decompose(
    variables: Sequence[ArchivedVariable],
    *,
    tolerance: float | None = None,
    rank: int | None = None,
    scales: Mapping[int, float] | None = None,
    precision: Precision | None = None,
    plan: PODPlan | None = None,
) -> LazyPOD:
    """Graph of the POD of all `variables` together.

    Parameters
    ----------
    variables : sequence of ArchivedVariable
        All over the same snapshots.
    tolerance : float, optional
        Relative error that the caller will cut to; the tree drops a small share of it.
    rank : int, optional
        Used where no tolerance is given: the tree keeps what the best approximation of
        this rank needs, to one thousandth of its error.
    scales : mapping, optional
        Factor on the energy of each variable; estimated from the first, middle and last
        time block if not given.
    precision, plan : optional
        Arithmetic and grouping; chosen from dtypes, `tolerance` and chunks if not given.

    Returns
    -------
    LazyPOD
        1 + 1/7 tasks a leaf for a single space block, unless its merges are too large for
        the memory of one task; about 3 otherwise. A leaf reads one chunk or several.
    """
    plan = plan or plan_pod(variables)
    builder = _builder(variables, plan, tolerance, rank, precision)
    builder.add_scales(scales)
    factor, *blocks = builder.finished(builder.subtree(*plan.tree.root))
    layer, name = builder.layer()
    results = [Delayed(key, layer, layer=name) for key in (factor, *blocks)]
    return LazyPOD(plan, results[0], tuple(results[1:]))


def run_pod(
    variables: Sequence[ArchivedVariable],
    *,
    tolerance: float,
    scales: Mapping[int, float] | None = None,
    refused: Callable[[PODPlan, Defect], Exception],
    plan: PODPlan | None = None,
    slice_tasks: int = SLICE_TASKS,
    submitted_tasks: int = SUBMITTED_TASKS,
) -> HeldPOD:
    """Run the POD of all `variables` on the current Dask scheduler.

    Its graph is submitted at once if it has up to `slice_tasks` tasks. Else subtrees over time
    of so many are, one after the other, and their roots merged as soon as they are there; the
    scheduler never holds more than `submitted_tasks`, and the space blocks of a few roots for
    each level of the tree. The result is the same, but for `scales`, which are then estimated
    from fewer space blocks beforehand. What cannot be compressed ends the run at its slice.

    Parameters
    ----------
    variables, tolerance, scales, plan
        As of `decompose`.
    refused : callable
        The exception to raise for data that cannot be compressed.
    slice_tasks, submitted_tasks : int
    """
    plan = plan or plan_pod(variables)
    if plan.tasks(*plan.tree.root) <= slice_tasks:
        lazy = decompose(variables, tolerance=tolerance, scales=scales, plan=plan)
        # Persisted together, the modes stay where they are, and the factor comes here.
        held = dask.persist(lazy.factor, *lazy.blocks)
    else:
        builder = _builder(variables, plan, tolerance, None, None)
        if scales is None and len(plan.rows) > 1:
            scales = builder.estimated_scales()
        builder.add_scales(scales)
        held = _Slices(builder, slice_tasks, submitted_tasks, refused).run()
    (factor,) = dask.compute(held[0])
    if factor.defect is not None:
        raise refused(plan, factor.defect)
    return HeldPOD(plan, factor, tuple(held[1:]))


def _builder(
    variables: Sequence[ArchivedVariable],
    plan: PODPlan,
    tolerance: float | None,
    rank: int | None,
    precision: Precision | None,
) -> _Builder:
    alone = len(plan.rows) == 1
    sharpest = tolerance if tolerance is None or alone else tolerance / APART**0.5
    precision = precision or choose_precision([v.dtype for v in variables], sharpest)
    precision = replace(precision, sketch=alone and not precision.householder)
    cut = tree_cut(tolerance, rank, plan.levels, precision.floor)
    own_cut = cut if alone else cut.split(APART)
    # One name for all keys of a run; results are never shared with another run.
    return _Builder(uuid4().hex, plan, variables, cut, own_cut, precision)


class _Columns(NamedTuple):
    """Keys of a node: its joint columns in time, and its rows on each space block.

    For a single space block both are the same key, of a pair.
    """

    joint: Any
    blocks: list[Any]


@dataclass
class _Builder:
    """Adds tasks of one POD to ``graph``; `own_cut` is that of single space blocks."""

    token: str
    plan: PODPlan
    variables: Sequence[ArchivedVariable]
    cut: Cut
    own_cut: Cut
    precision: Precision
    graph: Graph = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.owners = [row.variable for row in self.plan.rows]
        self.alone = len(self.owners) == 1
        self.common: Graph = {}
        for variable in self.variables:
            self.common.update(variable.source.graph())
        for row in self.plan.rows:
            weights = self.variables[row.variable].weights
            if weights is not None:
                flat = np.ascontiguousarray(weights[row.region]).ravel()
                self.common[self.key("weights", row.number)] = flat

    def key(self, name: str, *numbers: int) -> Any:
        return (f"pod-{name}-{self.token}", *numbers)

    def layer(self) -> tuple[HighLevelGraph, str]:
        """All tasks added, and what they need in common."""
        name = f"pod-{uuid4().hex}"
        return HighLevelGraph.from_collections(name, self.common | self.graph), name

    def subtree(self, level: int, number: int) -> _Columns:
        """Add a node of the tree over time with all that is below it."""
        if level == 0:
            return self.time_block(number)
        below = [self.subtree(level - 1, c) for c in self.plan.tree.children(level, number)]
        return self.merge(level, number, below)

    def time_block(self, t: int) -> _Columns:
        """Add the leaves of a time block, and what joins its space blocks."""
        blocks = [self._block(row, t) for row in range(len(self.owners))]
        if self.alone:
            return _Columns(blocks[0], blocks)
        own = []
        for i, block in enumerate(blocks):
            own.append(self.key("own", i, t))
            self.graph[own[-1]] = (itemgetter(1), block)
        joint, scales = self.key("joint", t), self.key("scales")
        self.graph[joint] = (
            pod_tasks.join_rows, own, self.owners, scales, self.cut, self.precision,
        )  # fmt: skip
        return _Columns(joint, blocks)

    def _block(self, row: int, t: int) -> Any:
        """Add one task for each leaf, and one merge where a time block has several."""
        space, spans = self.plan.rows[row], self.plan.leaves[row][t]
        variable, block = self.variables[space.variable], self.key("block", row, t)
        keys = [self.key("leaf", row, t, i) for i in range(len(spans))]
        keys = [block] if len(keys) == 1 else keys
        for key, span in zip(keys, spans, strict=True):
            self.graph[key] = (
                pod_tasks.read_and_factor,
                variable.source.task(leaf_region(variable, space.region, span)),
                variable.time_axis,
                self._weights(row),
                self.own_cut,
                self.precision,
                Place(space.variable, row, span.start),
            )
        if len(keys) > 1:
            self.graph[block] = self._merged_pairs(row, keys)
        return block

    def _weights(self, row: int) -> Any:
        key = self.key("weights", row)
        return key if key in self.common else None

    def _merged_pairs(self, row: int, keys: list[Any]) -> tuple[Any, ...]:
        place = Place(self.owners[row], row, 0)
        weights = self._weights(row)
        return (pod_tasks.merge_pairs, keys, weights, self.own_cut, self.precision, place)

    def merge(self, level: int, number: int, parts: Sequence[_Columns]) -> _Columns:
        """Add the merge of consecutive nodes: products by space block, a factor, rows again."""
        merged = self.key(f"merge{level}", number)
        if self.alone:
            self.graph[merged] = self._merged_pairs(0, [part.joint for part in parts])
            return _Columns(merged, [merged])
        factors, joint = [part.joint for part in parts], self.key(f"factor{level}", number)
        products, rows = [], []
        for i in range(len(self.owners)):
            below = [part.blocks[i] for part in parts]
            products.append(self.key(f"product{level}", i, number))
            self.graph[products[-1]] = (
                pod_tasks.product_of, below, factors, self._weights(i), self.precision, i,
            )  # fmt: skip
            rows.append(self.key(f"rows{level}", i, number))
            self.graph[rows[-1]] = (pod_tasks.rows_of, below, factors, merged, self.precision)
        self.graph[merged] = (
            pod_tasks.merge_joint, factors, self.owners, products, self.key("scales"), self.cut,
            self.precision,
        )  # fmt: skip
        self.graph[joint] = (itemgetter(0), merged)
        return _Columns(joint, rows)

    def finished(self, root: _Columns) -> list[Any]:
        """Keys of the factor of the whole record, and of the rows of each space block."""
        if self.alone:
            factor, rows = self.key("factor"), self.key("rows", 0)
            self.graph[rows] = (itemgetter(0), root.joint)
            self.graph[factor] = (itemgetter(1), root.joint)
            return [factor, rows]
        if len(self.plan.time_blocks) > 1:
            return [root.joint, *root.blocks]
        # Leaves still have columns of their own.
        keys = [self.key("rows", i) for i in range(len(root.blocks))]
        for key, block in zip(keys, root.blocks, strict=True):
            self.graph[key] = (pod_tasks.joint_rows, block, root.joint)
        return [root.joint, *keys]

    def add_scales(self, scales: Mapping[int, float] | None) -> None:
        """Scales for all joints; estimated from all space blocks at a few times if not given."""
        if not self.alone:
            key, rows = self.key("scales"), range(len(self.owners))
            self.common[key] = dict(scales) if scales is not None else self._scales(rows)

    def _scales(self, rows: Sequence[int]) -> tuple[Any, ...]:
        last = len(self.plan.time_blocks) - 1
        sampled = sorted({0, last // 2, last})
        owners = [self.owners[i] for i in rows for _ in sampled]
        own = [self.key("own", i, t) for i in rows for t in sampled]
        return (pod_tasks.scales_from, owners, own)

    def estimated_scales(self) -> Mapping[int, float]:
        """Scales from some of the space blocks of each variable. Runs Dask; reads them again."""
        rows = []
        for v in range(len(self.variables)):
            mine = [i for i, owner in enumerate(self.owners) if owner == v]
            rows += mine[:: -(-len(mine) // SCALED_BLOCKS)]
        scales = self._scales(rows)
        for key in scales[2]:
            self.graph[key] = (itemgetter(1), self._block(*key[1:]))
        self.graph[self.key("scales")] = scales
        layer, name = self.layer()
        self.graph = {}
        (found,) = dask.compute(Delayed(self.key("scales"), layer, layer=name))
        return dict(found)


@dataclass
class _Slices:
    """Runs a POD subtree by subtree, from the first time to the last.

    ``running`` are the tasks of each slice submitted, and what tells that it is done; ``held``
    the results on the workers that no merge has taken up yet.
    """

    builder: _Builder
    slice_tasks: int
    submitted_tasks: int
    refused: Callable[[PODPlan, Defect], Exception]
    running: deque[tuple[int, Delayed]] = field(default_factory=deque)
    held: dict[Any, Delayed] = field(default_factory=dict)

    def run(self) -> list[Delayed]:
        """The factor of the whole record and the rows of all space blocks, on the workers."""
        root = self.node(*self.builder.plan.tree.root)
        self.take_up(root)
        return self.submit(self.builder.finished(root))

    def node(self, level: int, number: int) -> _Columns:
        plan = self.builder.plan
        if plan.tasks(level, number) <= self.slice_tasks or level == 0:
            columns = self.builder.subtree(level, number)
        else:
            parts = [self.node(level - 1, c) for c in plan.tree.children(level, number)]
            for part in parts:
                self.take_up(part)
            columns = self.builder.merge(level, number, parts)
        keys = list(dict.fromkeys([columns.joint, *columns.blocks]))
        self.held.update(zip(keys, self.submit(keys), strict=True))
        return columns

    def take_up(self, columns: _Columns) -> None:
        """Let the next slice use results that are held."""
        for key in dict.fromkeys([columns.joint, *columns.blocks]):
            self.builder.graph.update(self.held.pop(key).__dask_graph__())

    def submit(self, keys: Sequence[Any]) -> list[Delayed]:
        """Submit what was added to the graph, once there is room for it."""
        count = len(self.builder.graph)
        while self.running and count + sum(n for n, _ in self.running) > self.submitted_tasks:
            _, defect = self.running.popleft()
            self.check(defect)
        layer, name = self.builder.layer()
        self.builder.graph = {}
        held = list(dask.persist(*(Delayed(key, layer, layer=name) for key in keys)))
        self.running.append((count, delayed(self._defect_of, pure=False)(held[0])))
        return held

    def check(self, defect: Delayed) -> None:
        """Wait for a slice; raise what went wrong in it."""
        (found,) = dask.compute(defect)
        if found is not None:
            raise self.refused(self.builder.plan, found)

    @staticmethod
    def _defect_of(columns: Any) -> Defect | None:
        return (columns[1] if isinstance(columns, tuple) else columns).defect

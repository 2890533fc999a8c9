"""POD over a chunk grid as a Dask graph: leaves, merges over space, a tree over time.

Each chunk is read by one task. Rows stay where they were computed; only triangular or Gram
matrices and time factors travel between space blocks. See pipeline/numerics/pod.py for the
mathematics of each task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any
from uuid import uuid4

import numpy as np
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph

from pipeline.chunked.plan import PODPlan, leaf_region, plan_pod
from pipeline.contracts import ArchivedVariable, Floats, ReadBlock
from pipeline.numerics import merge
from pipeline.numerics.factors import Defect, Place, RowBlock, TimeFactor
from pipeline.numerics.inner_products import Matrix, Precision, add_products, choose_precision
from pipeline.numerics.pod import factor_block
from pipeline.numerics.truncation import Cut, tree_cut

# Where there are several space blocks, what is dropped in each alone is this much less: it
# adds to the error in full, not in squares.
APART = 10

Key = tuple[str, int, int]
Graph = dict[Any, Any]


@dataclass(frozen=True)
class LazyPOD:
    """A POD that has not run: `factor` gives the TimeFactor of the whole record, `blocks`
    one RowBlock for each of ``plan.rows``. Persist them together; they share all tasks."""

    plan: PODPlan
    factor: Delayed
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
    alone = len(plan.rows) == 1
    sharpest = tolerance if tolerance is None or alone else tolerance / APART**0.5
    precision = precision or choose_precision([v.dtype for v in variables], sharpest)
    precision = replace(precision, sketch=alone and not precision.householder)
    cut = tree_cut(tolerance, rank, plan.levels, precision.floor)
    own_cut = cut if alone else cut.split(APART)
    graph: Graph = {}
    for variable in variables:
        graph.update(variable.source.graph())
    # One name for all keys of a run; results are never shared with another run.
    token = uuid4().hex
    builder = _Builder(graph, token, plan, variables, cut, own_cut, precision)
    builder.add_leaves()
    if alone:
        factor, blocks = builder.add_single_row()
    else:
        factor, blocks = builder.add_rows(scales)
    layer = HighLevelGraph.from_collections(f"pod-{token}", graph)
    results = [Delayed(key, layer, layer=f"pod-{token}") for key in (factor, *blocks)]
    return LazyPOD(plan, results[0], tuple(results[1:]))


@dataclass
class _Builder:
    """Adds the tasks of one POD to `graph`; `own_cut` is that of single space blocks."""

    graph: Graph
    token: str
    plan: PODPlan
    variables: Sequence[ArchivedVariable]
    cut: Cut
    own_cut: Cut
    precision: Precision

    def key(self, name: str, *numbers: int) -> Any:
        return (f"pod-{name}-{self.token}", *numbers)

    def add_leaves(self) -> None:
        """One task for each leaf, and one merge where a time block has several leaves."""
        for row, spans in zip(self.plan.rows, self.plan.leaves, strict=True):
            variable = self.variables[row.variable]
            self._add_weights(row.number, variable, row.region)
            for t, leaves in enumerate(spans):
                keys = [self.key("leaf", row.number, t, i) for i in range(len(leaves))]
                keys = [self.key("block", row.number, t)] if len(keys) == 1 else keys
                for key, span in zip(keys, leaves, strict=True):
                    self.graph[key] = (
                        read_and_factor,
                        variable.source.task(leaf_region(variable, row.region, span)),
                        variable.time_axis,
                        self._weights(row.number),
                        self.own_cut,
                        self.precision,
                        Place(row.variable, row.number, span.start),
                    )
                if len(keys) > 1:
                    self.graph[self.key("block", row.number, t)] = self._merge(row.number, keys)

    def _add_weights(self, row: int, variable: ArchivedVariable, region: Any) -> None:
        if variable.weights is not None:
            self.graph[self.key("weights", row)] = np.ascontiguousarray(
                variable.weights[region]
            ).ravel()

    def _weights(self, row: int) -> Any:
        key = self.key("weights", row)
        return key if key in self.graph else None

    def _merge(self, row: int, keys: list[Any]) -> tuple[Any, ...]:
        place = Place(self.plan.rows[row].variable, row, 0)
        return (merge_pairs, keys, self._weights(row), self.own_cut, self.precision, place)

    def _groups(self, width: int) -> list[range]:
        groups = -(-width // self.plan.arity)
        return [range(width * i // groups, width * (i + 1) // groups) for i in range(groups)]

    def add_single_row(self) -> tuple[Any, list[Any]]:
        """Tree over time for a single space block: each merge is one task."""
        keys = [self.key("block", 0, t) for t in range(len(self.plan.time_blocks))]
        level = 0
        while len(keys) > 1:
            level += 1
            merged = []
            for g, members in enumerate(self._groups(len(keys))):
                merged.append(self.key(f"merge{level}", g))
                self.graph[merged[-1]] = self._merge(0, [keys[i] for i in members])
            keys = merged
        block, factor = self.key("rows", 0), self.key("factor")
        self.graph[block] = (itemgetter(0), keys[0])
        self.graph[factor] = (itemgetter(1), keys[0])
        return factor, [block]

    def add_rows(self, scales: Mapping[int, float] | None) -> tuple[Any, list[Any]]:
        """Merge over space in each time block, then a tree over time for all space blocks."""
        rows, times = range(len(self.plan.rows)), range(len(self.plan.time_blocks))
        owners = [row.variable for row in self.plan.rows]
        for t in times:
            for i in rows:
                self.graph[self.key("own", i, t)] = (itemgetter(1), self.key("block", i, t))
        scale = self._add_scales(scales, owners)
        for t in times:
            own = [self.key("own", i, t) for i in rows]
            self.graph[self.key("joint", t)] = (
                join_rows, own, owners, scale, self.cut, self.precision,
            )  # fmt: skip
        if len(times) == 1:
            return self._add_single_time(owners)
        joints = [self.key("joint", t) for t in times]
        blocks = [[self.key("block", i, t) for t in times] for i in rows]
        level = 0
        while len(joints) > 1:
            level += 1
            joints, blocks = self._add_level(level, joints, blocks, owners, scale)
        return joints[0], [row[0] for row in blocks]

    def _add_single_time(self, owners: list[int]) -> tuple[Any, list[Any]]:
        """Rows of the joint columns, where all snapshots lie in one time block."""
        joint = self.key("joint", 0)
        for i in range(len(owners)):
            self.graph[self.key("rows", i)] = (joint_rows, self.key("block", i, 0), joint)
        return joint, [self.key("rows", i) for i in range(len(owners))]

    def _add_scales(self, scales: Mapping[int, float] | None, owners: list[int]) -> Any:
        key = self.key("scales")
        last = len(self.plan.time_blocks) - 1
        sampled = sorted({0, last // 2, last})
        samples = [self.key("own", i, t) for i in range(len(owners)) for t in sampled]
        variables = [owner for owner in owners for _ in sampled]
        self.graph[key] = dict(scales) if scales is not None else (scales_from, variables, samples)
        return key

    def _add_level(
        self, level: int, joints: list[Any], blocks: list[list[Any]], owners: list[int], scale: Any
    ) -> tuple[list[Any], list[list[Any]]]:
        """Merge groups of time blocks: products by space block, one factor, rows again."""
        new_joints: list[Any] = []
        new_blocks: list[list[Any]] = [[] for _ in owners]
        for g, members in enumerate(self._groups(len(joints))):
            factors = [joints[t] for t in members]
            merged, joint = self.key(f"merge{level}", g), self.key(f"factor{level}", g)
            products = []
            for i in range(len(owners)):
                parts = [blocks[i][t] for t in members]
                products.append(self.key(f"product{level}", i, g))
                self.graph[products[-1]] = (
                    product_of, parts, factors, self._weights(i), self.precision, i,
                )  # fmt: skip
                new_blocks[i].append(self.key(f"rows{level}", i, g))
                self.graph[new_blocks[i][-1]] = (rows_of, parts, factors, merged, self.precision)
            self.graph[merged] = (
                merge_joint, factors, owners, products, scale, self.cut, self.precision,
            )  # fmt: skip
            self.graph[joint] = (itemgetter(0), merged)
            new_joints.append(joint)
        return new_joints, new_blocks


# --- tasks --------------------------------------------------------------------------------

Factored = tuple[RowBlock, TimeFactor]


def read_and_factor(
    block: ReadBlock,
    time_axis: int,
    weights: Floats | None,
    cut: Cut,
    precision: Precision,
    place: Place,
) -> Factored:
    """Leaf: snapshots by rows, factored about their mean."""
    values = np.moveaxis(block.values, time_axis, 0)
    if values.dtype.itemsize < 4:
        values = values.astype(np.float32)
    values = values.reshape(len(values), -1)
    rows, factor = factor_block(values, weights, cut, precision, place)
    factor = replace(factor, bytes_read=block.bytes_read, chunks_read=block.chunks_read)
    return rows, factor


def merge_pairs(
    pairs: Sequence[Factored],
    weights: Floats | None,
    cut: Cut,
    precision: Precision,
    place: Place,
) -> Factored:
    """Merge consecutive time blocks of one space block."""
    blocks, factors = zip(*pairs, strict=True)
    return merge.merge_in_time(blocks, factors, weights, cut, precision, place)


def scales_from(variables: Sequence[int], factors: Sequence[TimeFactor]) -> dict[int, float]:
    """Scale of each variable from its sampled leaves."""
    return merge.estimate_scales(list(zip(variables, factors, strict=True)))


def join_rows(
    factors: Sequence[TimeFactor],
    variables: Sequence[int],
    scales: Mapping[int, float],
    cut: Cut,
    precision: Precision,
) -> TimeFactor:
    """Merge the space blocks of one time block."""
    parts = list(zip(variables, factors, strict=True))
    return merge.merge_in_space(parts, scales, cut, precision)


def joint_rows(factored: Factored, joint: TimeFactor) -> RowBlock:
    """Rows of the joint columns on one space block."""
    block = merge.onto_joint(*factored, joint)
    assert block.mix is not None
    rows = block.mix.T.astype(block.rows.dtype) @ block.rows
    return RowBlock(block.mean, rows, block.valid)


def _children(
    blocks: Sequence[RowBlock | Factored], factors: Sequence[TimeFactor]
) -> list[merge.Child]:
    """Children of a merge; those that are leaves still have columns of their own."""
    seen = []
    for block, joint in zip(blocks, factors, strict=True):
        if isinstance(block, RowBlock):
            seen.append(block)
        else:
            seen.append(merge.onto_joint(*block, joint))
    return merge.children_of(seen, factors)


def product_of(
    blocks: Sequence[RowBlock | Factored],
    factors: Sequence[TimeFactor],
    weights: Floats | None,
    precision: Precision,
    row: int,
) -> tuple[Matrix, Defect | None]:
    """Inner product of the columns of consecutive time blocks on one space block."""
    children = _children(blocks, factors)
    product = merge.merge_product(children, weights, precision)
    return product, merge.mask_defect(children, row)


def merge_joint(
    factors: Sequence[TimeFactor],
    variables: Sequence[int],
    products: Sequence[tuple[Matrix, Defect | None]],
    scales: Mapping[int, float],
    cut: Cut,
    precision: Precision,
) -> tuple[TimeFactor, Matrix]:
    """Time factor of consecutive time blocks from the products of all space blocks."""
    grouped: dict[int, list[Matrix]] = {}
    for variable, (product, _) in zip(variables, products, strict=True):
        grouped.setdefault(variable, []).append(product)
    sums = {v: add_products(parts, precision) for v, parts in grouped.items()}
    defects = [defect for _, defect in products]
    return merge.merge_factors(factors, sums, scales, cut, precision, defects)


def rows_of(
    blocks: Sequence[RowBlock | Factored],
    factors: Sequence[TimeFactor],
    merged: tuple[TimeFactor, Matrix],
    precision: Precision,
) -> RowBlock:
    """Rows of the merged time block on one space block."""
    return merge.merge_rows(_children(blocks, factors), merged[1], precision)

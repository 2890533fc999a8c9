"""Tasks of a POD over a chunk grid: what `romzarr.chunked.pod` puts into its graphs.

The mathematics of each is in pipeline/romzarr/numerics/pod/block.py and merge.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from romzarr.contracts import Matrix, ReadBlock
from romzarr.inner_product import InnerProduct
from romzarr.numerics.pod import merge
from romzarr.numerics.pod.block import factor_block
from romzarr.numerics.pod.factors import (
    Defect,
    Factored,
    LongTime,
    Place,
    RowBlock,
    TimeFactor,
)
from romzarr.numerics.pod.gram import Gram
from romzarr.numerics.pod.inner_products import Precision, add_products
from romzarr.numerics.pod.truncation import Cut

# The joint columns of a node: for a single space block they come in a pair with its rows.
Node = TimeFactor | Factored
Product = tuple[Gram, Defect | None]


def read_and_factor(
    block: ReadBlock,
    time_axis: int,
    inner: InnerProduct,
    cut: Cut,
    precision: Precision,
    place: Place,
) -> Factored:
    """Leaf: snapshots by rows, factored about their mean."""
    values = np.moveaxis(block.values, time_axis, 0)
    if values.dtype.itemsize < 4:
        values = values.astype(np.float32)
    values = values.reshape(len(values), -1)
    rows, factor = factor_block(values, inner, cut, precision, place)
    return rows, replace(factor, cost=block.cost)


def joint_rows(factored: Factored, joint: TimeFactor) -> RowBlock:
    """Rows of the joint columns on one space block."""
    block = merge.onto_joint(*factored, joint)
    assert block.mix is not None
    rows = block.mix.T.astype(block.rows.dtype) @ block.rows
    return RowBlock(block.mean, rows, block.valid)


def _pairs(blocks: Sequence[RowBlock | Factored], factors: Sequence[TimeFactor]) -> list[Factored]:
    """What a merge takes; blocks that are leaves still have columns of their own."""
    return [
        (block if isinstance(block, RowBlock) else merge.onto_joint(*block, joint), joint)
        for block, joint in zip(blocks, factors, strict=True)
    ]


def product_of(
    blocks: Sequence[RowBlock | Factored],
    factors: Sequence[TimeFactor],
    inner: InnerProduct,
    precision: Precision,
    row: int,
    first: int,
) -> Product:
    """Inner product of the columns of consecutive time blocks on one space block.

    Its points are those of `row` of the plan from `first` on.
    """
    pairs = _pairs(blocks, factors)
    defect = merge.mask_defect(pairs, row)
    if defect is not None:
        defect = replace(defect, point=defect.point + first)
    return merge.merge_product(pairs, inner, precision), defect


def added(products: Sequence[Product], precision: Precision) -> Product:
    """Inner product on several space blocks of one variable."""
    defect = merge.first_defect(defect for _, defect in products)
    return add_products([product for product, _ in products], precision), defect


def merge_joint(
    factors: Sequence[TimeFactor],
    variables: Sequence[int],
    products: Sequence[Product],
    scales: Mapping[int, float],
    cut: Cut,
    precision: Precision,
    long: bool,
) -> tuple[TimeFactor, Matrix]:
    """Time factor of consecutive time blocks from the products of all space blocks."""
    grouped: dict[int, list[Gram]] = {}
    for variable, (product, _) in zip(variables, products, strict=True):
        grouped.setdefault(variable, []).append(product)
    sums = {v: add_products(parts, precision) for v, parts in grouped.items()}
    defects = [defect for _, defect in products]
    return merge.merge_factors(factors, sums, scales, cut, precision, defects, long)


def rows_of(
    blocks: Sequence[RowBlock | Factored],
    factors: Sequence[TimeFactor],
    turn: Matrix,
    precision: Precision,
) -> RowBlock:
    """Rows of the merged time block on one space block, for the directions `turn`."""
    return merge.merge_rows(_pairs(blocks, factors), turn, precision)


def part_of(block: RowBlock | Factored, joint: Node, points: slice) -> RowBlock:
    """Rows of the joint columns at some of the points of a space block."""
    if not isinstance(block, RowBlock):
        # Columns of a single space block are those of all.
        block = block[0] if isinstance(joint, tuple) else merge.onto_joint(*block, joint)
    return block.on(points)


def factor_in(node: Node) -> TimeFactor:
    """The time factor of a node."""
    return node if isinstance(node, TimeFactor) else node[1]


def summary_of(node: Node) -> TimeFactor:
    """The time factor of a node, without what is as long as the record."""
    return factor_in(node).summary


def right_of(node: Node) -> Matrix:
    """The columns in time of a node that is not long."""
    return factor_in(node).right


def turns_of(node: Node) -> LongTime:
    """How the columns of a long node follow from those below."""
    long = factor_in(node).long
    assert long is not None
    return long


def turned(right: Matrix, long: LongTime, part: int) -> Matrix:
    """Some rows of the columns of a long node, from those of a node below."""
    return long.turned(right, part)

"""Which leaves of a plan are looked at where not all of them are."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from romzarr.chunked.plan import PODPlan
from romzarr.contracts import BlockSpan

Leaves = tuple[tuple[BlockSpan, ...], ...]
T = TypeVar("T")


def all_leaves(plan: PODPlan) -> Leaves:
    """The spans of time that make up each space block of `plan`."""
    return tuple(tuple(span for block in spans for span in block) for spans in plan.leaves)


def some_leaves(plan: PODPlan, seed: str, most: int) -> Leaves:
    """About `most` leaves of every variable, chosen by `seed`; all of one that has no more.

    About as many space blocks as leaves of each. Leaves are drawn from parts of the record of
    equal length, so that an error that sets in at some time is likelier seen.

    Examples
    --------
    >>> from romzarr.chunked.plan import SpaceBlock
    >>> spans = tuple(BlockSpan(i, i + 10) for i in range(0, 100, 10))
    >>> plan = PODPlan((SpaceBlock(0, 0, ()),), spans, (tuple((span,) for span in spans),))
    >>> [len(leaves) for leaves in some_leaves(plan, "seed", 4)]
    [4]
    """
    chance, every = random.Random(seed), all_leaves(plan)
    chosen: dict[int, list[BlockSpan]] = {}
    for variable in sorted({row.variable for row in plan.rows}):
        rows = [row.number for row in plan.rows_of(variable)]
        longest = max(len(every[row]) for row in rows)
        blocks = min(len(rows), max(math.isqrt(most - 1) + 1, -(-most // longest)))
        for row in _drawn(rows, blocks, chance):
            chosen[row] = _drawn(every[row], -(-most // blocks), chance)
    return tuple(tuple(chosen.get(row, ())) for row in range(len(plan.rows)))


def share_of(plan: PODPlan, leaves: Leaves) -> float:
    """Values in `leaves` by those in all leaves of `plan`."""
    sizes = [math.prod(row.shape) for row in plan.rows]

    def values(each: Leaves) -> int:
        return sum(
            size * len(span) for size, spans in zip(sizes, each, strict=True) for span in spans
        )

    return values(leaves) / max(1, values(all_leaves(plan)))


def spread(count: int, most: int) -> list[int]:
    """Up to `most` of so many numbers at even distances, the first and the last among them.

    Examples
    --------
    >>> spread(10, 4), spread(3, 4)
    ([0, 3, 6, 9], [0, 1, 2])
    """
    if most >= count:
        return list(range(count))
    return np.unique(np.linspace(0, count - 1, most).round().astype(int)).tolist()


def _drawn(items: Sequence[T], most: int, chance: random.Random) -> list[T]:
    """One item of each of `most` parts of `items`, or all of them."""
    parts = min(most, len(items))
    edges = [len(items) * i // parts for i in range(parts + 1)]
    return [items[chance.randrange(edges[i], edges[i + 1])] for i in range(parts)]

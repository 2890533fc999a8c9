"""Weak systems of time blocks on Dask."""

from __future__ import annotations

from typing import Any

from dask.base import compute
from dask.delayed import Delayed, delayed

from romzarr.contracts import BlockSpan, Matrix, TriangularFactor, Vector
from romzarr.numerics.dynamics.library import Library
from romzarr.numerics.dynamics.weakform import WindowPlan, triangular_factor


def time_blocks(snapshots: int, block_steps: int) -> list[BlockSpan]:
    """The record cut into blocks of `block_steps` snapshots; the last may be shorter."""
    if block_steps < 1:
        raise ValueError(f"block_steps must be 1 or more, got {block_steps!r}")
    return [
        BlockSpan(start, min(start + block_steps, snapshots))
        for start in range(0, snapshots, block_steps)
    ]


def weak_tasks(
    a: Matrix, times: Vector, library: Library, plan: WindowPlan, block_steps: int
) -> list[Delayed]:
    """One lazy task for each time block, that evaluates to its `TriangularFactor`.

    A task carries its own snapshots and the halo its windows reach into, nothing else:
    about ``(block_steps + width) * (q + 1) * 8`` bytes.
    """
    factor = delayed(triangular_factor, pure=False)
    a = a[:, : library.states]
    tasks = []
    for span in time_blocks(len(times), block_steps):
        halo = plan.halo(times, span)
        # Copies: slices would drag the whole record into every pickle.
        part, part_times = a[halo.start : halo.stop].copy(), times[halo.start : halo.stop].copy()
        tasks.append(factor(part, part_times, library, plan, span, first=halo.start))
    return tasks


def weak_factors(
    a: Matrix,
    times: Vector,
    library: Library,
    plan: WindowPlan,
    block_steps: int,
    **scheduling: Any,
) -> list[TriangularFactor]:
    """Triangle of every time block. Computes, on the current scheduler or that in `scheduling`.

    The windows are those of the record (`WindowPlan`), so ``merge_factors`` of the result
    does not depend on `block_steps` beyond rounding.
    """
    return list(compute(*weak_tasks(a, times, library, plan, block_steps), **scheduling))

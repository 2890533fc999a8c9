"""Weak systems of time blocks on Dask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from dask.delayed import Delayed, delayed

from romzarr.chunked.latent import LatentRecord
from romzarr.chunked.slices import joined
from romzarr.chunked.tables import LeftOut, Table, consecutive, stacked
from romzarr.coding.latent import LatentBlock
from romzarr.contracts import BlockSpan, Mask, Matrix, Times, TriangularFactor
from romzarr.numerics.dynamics.library import Library
from romzarr.numerics.dynamics.weakform import WindowPlan, merge_factors, triangular_factor

# Snapshots of which one task makes triangles: calling it costs as much as some hundred do.
TASK_STEPS = 1 << 13


def time_blocks(span: BlockSpan, block_steps: int) -> list[BlockSpan]:
    """A span cut into blocks of `block_steps` snapshots; the last may be shorter."""
    if block_steps < 1:
        raise ValueError(f"block_steps must be 1 or more, got {block_steps!r}")
    starts = range(span.start, span.stop, block_steps)
    return [BlockSpan(start, min(start + block_steps, span.stop)) for start in starts]


@dataclass(frozen=True)
class QuietRecord:
    """Leading coefficients of a record and their times, without the snapshots left out.

    ``table`` (m, q + 1) has the times last, of the snapshots that are kept; ``times`` (m,) are
    the same here.
    """

    table: Table
    times: Times

    @classmethod
    def of(cls, record: LatentRecord, left_out: LeftOut, states: int, times: Times) -> QuietRecord:
        """The leading `states` of a record, of which `times` are those that are kept."""
        edges = np.array([0, *(span.stop for span in record.spans)])
        spans = consecutive(np.diff(left_out.before(edges)).tolist())
        table = delayed(_table, pure=False)
        blocks = [
            table(block, left_out.kept(span), states)
            for block, span in zip(record.blocks, record.spans, strict=True)
        ]
        return cls(Table(spans, tuple(blocks), states + 1), times)

    def triangles(self, library: Library, plan: WindowPlan, spans: Sequence[BlockSpan]) -> Delayed:
        """Triangles of consecutive spans, as a task that is given their snapshots alone and the
        halo that windows reach into: about ``(snapshots + width) * (q + 1) * 8`` bytes."""
        halos = [plan.halo(self.times, span) for span in spans]
        whole = BlockSpan(halos[0].start, max(halo.stop for halo in halos))
        return delayed(_triangles, pure=False)(self.table.rows(whole), library, plan, spans, halos)


def weak_factors(
    record: QuietRecord, library: Library, plan: WindowPlan, block_steps: int
) -> list[Delayed]:
    """Lists of triangles that together are those of all time blocks in order, as tasks.

    The windows are those of the record (`WindowPlan`), so ``merge_factors`` of all triangles does
    not depend on `block_steps`, or on how the record is cut, beyond rounding. Nothing is computed.

    Parameters
    ----------
    record : QuietRecord
    library : Library
        Of its coefficients.
    plan : WindowPlan
    block_steps : int
        Snapshots for which there is a triangle each.
    """
    whole = BlockSpan(0, len(record.times))
    if block_steps < TASK_STEPS:
        steps = TASK_STEPS // block_steps * block_steps
        return [
            record.triangles(library, plan, time_blocks(some, block_steps))
            for some in time_blocks(whole, steps)
        ]
    longest = max(TASK_STEPS, *map(len, record.table.spans))
    return [
        joined([record.triangles(library, plan, [p]) for p in time_blocks(b, longest)], _merged)
        for b in time_blocks(whole, block_steps)
    ]


# --- tasks --------------------------------------------------------------------------------


def _table(block: LatentBlock, kept: Mask, states: int) -> Matrix:
    """Leading coefficients, and times in the last column."""
    table = np.column_stack([block.own[:, :states], block.times[: len(kept)]])
    return table if kept.all() else table[kept]


def _triangles(
    parts: Sequence[Matrix],
    library: Library,
    plan: WindowPlan,
    spans: Sequence[BlockSpan],
    halos: Sequence[BlockSpan],
) -> list[TriangularFactor]:
    # Where windows are farther apart than blocks are long, none may start in these.
    table = stacked(parts) if parts else np.zeros((0, library.states + 1))
    begin, found = halos[0].start, list[TriangularFactor]()
    a, times = np.ascontiguousarray(table[:, :-1]), table[:, -1].copy()
    for span, halo in zip(spans, halos, strict=True):
        part = slice(halo.start - begin, halo.stop - begin)
        found.append(triangular_factor(a[part], times[part], library, plan, span, first=halo.start))
    return found


def _merged(lists: Sequence[Sequence[TriangularFactor]]) -> list[TriangularFactor]:
    """One triangle of all."""
    return [merge_factors([factor for some in lists for factor in some])]

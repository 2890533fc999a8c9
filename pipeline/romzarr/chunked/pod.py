"""POD over a chunk grid as a Dask graph: leaves, merges over space, a tree over time.

Each chunk is read by one task. Rows stay where they were computed; only triangular or Gram
matrices and time factors travel between space blocks. See `romzarr.numerics.pod` for
the mathematics of each task. A graph that is too large for a scheduler is run subtree by subtree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import dask
from dask.delayed import Delayed

from romzarr.chunked.memory import WorkerMemory, check_leaves, worker_memory
from romzarr.chunked.plan import MERGE_BYTES, SCHEDULED, PODPlan, plan_pod
from romzarr.chunked.pod_graph import Builder
from romzarr.chunked.pod_slices import Slices, estimated_scales
from romzarr.chunked.tables import Table
from romzarr.contracts import ArchivedVariable
from romzarr.numerics.pod.factors import Defect, TimeFactor
from romzarr.numerics.pod.inner_products import Precision, choose_precision
from romzarr.numerics.pod.truncation import tree_cuts

# Where there are several space blocks, what is dropped in each alone is this much less: it
# adds to the error in full, not in squares.
APART = 10
# Tasks of one slice. With several on the scheduler no worker waits for the end of one.
SLICE_TASKS = 20_000


@dataclass(frozen=True)
class LazyPOD:
    """A POD that has not run: `factor` gives the summary of the TimeFactor of the whole record,
    `blocks` one RowBlock for each of ``plan.rows``, `right` the columns of the factor in blocks of
    time (``plan.right_spans``). Persist them together; they share all tasks."""

    plan: PODPlan
    factor: Delayed
    blocks: tuple[Delayed, ...]
    right: tuple[Delayed, ...]


@dataclass(frozen=True)
class HeldBlocks:
    """A RowBlock for each of ``plan.rows``, on the worker that made it."""

    plan: PODPlan
    blocks: tuple[Delayed, ...]


@dataclass(frozen=True)
class HeldPOD(HeldBlocks):
    """A POD that has run: a summary of its factor is here, its columns ``right`` (m, k) are not."""

    factor: TimeFactor
    right: Table


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
    builder = _builder(variables, plan, tolerance, rank, precision, scales)
    keys = builder.finished(builder.subtree(*plan.tree.root))
    if scales is None and not builder.alone:
        builder.estimate_scales(range(len(plan.rows)))
    layer, name = builder.layer()
    results, rows = [Delayed(key, layer, layer=name) for key in keys], 1 + len(plan.rows)
    return LazyPOD(plan, results[0], tuple(results[1:rows]), tuple(results[rows:]))


def run_pod(
    variables: Sequence[ArchivedVariable],
    *,
    tolerance: float,
    scales: Mapping[int, float] | None = None,
    refused: Callable[[PODPlan, Defect], Exception],
    plan: PODPlan | None = None,
    slice_tasks: int = SLICE_TASKS,
    submitted_tasks: int = SCHEDULED,
) -> HeldPOD:
    """Run the POD of all `variables` on the current Dask scheduler.

    Its graph is submitted at once if it has up to `slice_tasks` tasks. Else subtrees over time
    of so many are, one after the other, and their roots merged as soon as they are there. Then
    the scheduler never holds more than `submitted_tasks` tasks and results, but for what it is
    about to forget, and for a slice that has no room beside roots that wait for their merge: of
    these the plan sees to it that there are few. The result is the same, but for `scales`, which
    are then estimated from fewer space blocks beforehand. What cannot be compressed ends the run
    at its slice; what a lost worker held is made again, but for the `blocks` once they are
    returned.

    No task of a merge holds more than half of the memory that a worker has for it, however many
    columns there are: space blocks are cut for it, and so are those of the POD that is returned.

    Parameters
    ----------
    variables, tolerance, scales, plan
        As of `decompose`.
    refused : callable
        The exception to raise for data that cannot be compressed.
    slice_tasks, submitted_tasks : int

    Raises
    ------
    WorkerMemoryError
        If a task that reads, or one on the columns of a merge, needs more memory than a worker has
        for it.
    """
    memory = worker_memory()
    plan = planned = _planned(variables, plan, memory)
    builder = _builder(variables, plan, tolerance, None, None, scales)

    def refusal(defect: Defect) -> Exception:
        return refused(planned, defect)

    run = Slices(builder, slice_tasks, submitted_tasks, refusal, memory)
    if not run.is_merge(plan.tree.root):
        lazy = decompose(variables, tolerance=tolerance, scales=scales, plan=plan)
        # Persisted together, the modes stay where they are, and the factor comes here.
        held = list(dask.persist(lazy.factor, *lazy.blocks, *lazy.right))
    else:
        if scales is None and not builder.alone:
            run.builder = replace(builder, scales=estimated_scales(builder))
        plan, held = run.run()
    (factor,) = dask.compute(held[0])
    if factor.defect is not None:
        raise refusal(factor.defect)
    rows, spans = 1 + len(plan.rows), plan.right_spans(*plan.tree.root)
    right = Table(tuple(spans), tuple(held[rows:]), factor.columns)
    return HeldPOD(plan, tuple(held[1:rows]), factor, right)


def _planned(
    variables: Sequence[ArchivedVariable], plan: PODPlan | None, memory: WorkerMemory | None
) -> PODPlan:
    """The plan, or one of merges that workers have the memory for, as far as is known."""
    if memory is None:
        return plan or plan_pod(variables)
    plan = plan or plan_pod(variables, merge_bytes=min(MERGE_BYTES, memory.rows))
    check_leaves(plan, variables, memory)
    return plan


def _builder(
    variables: Sequence[ArchivedVariable],
    plan: PODPlan,
    tolerance: float | None,
    rank: int | None,
    precision: Precision | None,
    scales: Mapping[int, float] | None,
) -> Builder:
    alone = len(plan.rows) == 1
    sharpest = tolerance if tolerance is None or alone else tolerance / APART**0.5
    precision = precision or choose_precision([v.dtype for v in variables], sharpest)
    precision = replace(precision, sketch=alone and not precision.householder)
    cuts = tree_cuts(tolerance, rank, plan.levels, precision.floor)
    own_cuts = cuts if alone else tuple(cut.split(APART) for cut in cuts)
    inner = [row.inner_product(variables) for row in plan.rows]
    return Builder(plan, variables, cuts, own_cuts, precision, inner, scales)

"""What the tasks of a POD tree may hold on the workers, and what they will.

How many columns a node keeps is known when it is there: plans count on few, and the memory of a
merge is reckoned once more from what its parts have kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask.base import get_scheduler

from romzarr.chunked.plan import PODPlan
from romzarr.contracts import ArchivedVariable
from romzarr.errors import WorkerMemoryError

# Shares of the memory that a worker has for each of its threads. The modules it has imported take
# some 190 MB, results that wait for their merge are kept up to 60 % of it, and from 80 % on a
# worker pauses.
ROWS_SHARE, COLUMNS_SHARE, LEAF_SHARE = 0.25, 0.5, 0.75
# Of all workers, for what is done and under way: the rest is as above.
TOGETHER_SHARE = 0.5
# Arrays (K, K) that choosing directions takes beside the products of each variable: their sum,
# what LAPACK makes of it, and copies.
SQUARES = 7


@dataclass(frozen=True)
class WorkerMemory:
    """Bytes that a worker has for each of its threads, and all workers together."""

    thread: int
    together: int

    @property
    def rows(self) -> int:
        """Bytes that a task on the rows of one space block may hold."""
        return int(ROWS_SHARE * self.thread)

    @property
    def columns(self) -> int:
        """Bytes that a task on the columns of all may hold."""
        return int(COLUMNS_SHARE * self.thread)


@dataclass(frozen=True)
class Merge:
    """Nodes that are merged: each has ``snapshots`` and ``columns``, of which it may have as many
    as that; rows have `itemsize` bytes a number, those of `variables` in so many space blocks."""

    snapshots: Sequence[int]
    columns: Sequence[int]
    itemsize: int
    variables: int

    @property
    def height(self) -> int:
        """Columns of all nodes, each with its constant."""
        return sum(self.columns) + len(self.columns)

    @property
    def point_bytes(self) -> int:
        """Bytes that a point takes in a task on rows: those of all nodes, their means, and as many
        rows again, as none may be dropped."""
        return 2 * self.height * self.itemsize + 9 * (len(self.columns) + 1)

    @property
    def column_bytes(self) -> int:
        """Bytes of the task on columns: inner products, and columns in time, before and after."""
        squares = (SQUARES + self.variables) * self.height**2
        before = sum(m * k for m, k in zip(self.snapshots, self.columns, strict=True))
        return 8 * (squares + before + 2 * sum(self.snapshots) * self.height)

    def points(self, memory: WorkerMemory) -> int:
        """Points that a task on rows may have: with fewer than columns it would take no less."""
        return max(memory.rows // self.point_bytes, self.height)

    def fits(self, memory: WorkerMemory) -> bool:
        """Whether the task on columns does: no cut through space makes that one smaller."""
        return self.column_bytes <= memory.columns

    def is_small(self, plan: PODPlan, memory: WorkerMemory) -> bool:
        """Whether it needs no cut through space: one task may have its columns with the inner
        products on all space blocks, or with the rows of one."""
        products = 8 * len(plan.rows) * self.height**2
        rows = plan.largest * self.point_bytes
        return rows <= memory.rows and self.column_bytes + max(products, rows) <= memory.columns


def current_client() -> Any:
    """The client that Dask computes with; None where it computes in this process."""
    return getattr(get_scheduler(), "__self__", None)


def worker_memory() -> WorkerMemory | None:
    """That of the workers; None where Dask computes in this process, or they have no limit."""
    client = current_client()
    if client is None:
        return None
    workers = client.scheduler_info()["workers"].values()
    limits = [(each["memory_limit"] or 0, each["nthreads"]) for each in workers]
    if not limits or not all(limit for limit, _ in limits):
        return None
    thread = min(limit // threads for limit, threads in limits)
    return WorkerMemory(thread, int(TOGETHER_SHARE * sum(limit for limit, _ in limits)))


def check_leaves(
    plan: PODPlan, variables: Sequence[ArchivedVariable], memory: WorkerMemory
) -> None:
    """Look whether tasks that read have room for their chunks, and for as much again.

    Raises
    ------
    WorkerMemoryError
        Before anything is read.
    """
    for row, leaves in zip(plan.rows, plan.leaves, strict=True):
        variable = variables[row.variable]
        longest = max(len(span) for spans in leaves for span in spans)
        needed = 2 * row.points * longest * max(variable.dtype.itemsize, 4)
        if needed > LEAF_SHARE * memory.thread:
            raise WorkerMemoryError(
                f"variable {variable.name!r}: a task reads chunks of {longest} snapshots of "
                f"{row.shape} points, and needs {_mb(needed)}; a worker has {_mb(memory.thread)} "
                f"for a task, of which it may take {LEAF_SHARE:.0%}. Raise cluster.memory_limit, "
                f"lower cluster.threads_per_worker, or make chunks smaller"
            )


def check_columns(merge: Merge, start: int, memory: WorkerMemory) -> None:
    """Look whether a merge of nodes from snapshot `start` on has room for their columns.

    Raises
    ------
    WorkerMemoryError
        Where cuts through space cannot help.
    """
    if not merge.fits(memory):
        stop = start + sum(merge.snapshots)
        raise WorkerMemoryError(
            f"snapshots {start} to {stop - 1}: a merge of {merge.height} columns needs "
            f"{_mb(merge.column_bytes)}; a worker has {_mb(memory.thread)} for a task, of which "
            f"it may take {COLUMNS_SHARE:.0%}. Raise cluster.memory_limit, "
            f"lower cluster.threads_per_worker, or raise compression.tolerance"
        )


def _mb(size: int) -> str:
    return f"{np.ceil(size / 1e6):.0f} MB"

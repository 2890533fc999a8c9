"""Running a POD whose graph is too large for a scheduler: subtree by subtree.

A scheduler remembers whatever a result is made of, as long as anybody wants the result, in order
to make it again. Results of a subtree are therefore handed to the workers as plain data, and the
subtree is forgotten. Should a worker be lost with some of them, their subtrees are run again.

Where a merge could need more memory than a worker has for a task, it is a slice of its own: what
its parts have kept is known by then, and its space blocks are cut as finely as it takes.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import dask
from dask.delayed import Delayed
from dask.optimization import cull
from dask.threaded import get as threaded_get

from romzarr.chunked.memory import Merge, WorkerMemory, check_columns, current_client
from romzarr.chunked.plan import PODPlan
from romzarr.chunked.pod_graph import Builder, Columns
from romzarr.chunked.pod_tasks import Node as Result
from romzarr.chunked.pod_tasks import factor_in
from romzarr.numerics.pod.factors import Defect

log = logging.getLogger(__name__)

Node = tuple[int, int]

# Space blocks of each variable that scales are estimated from.
SCALED_BLOCKS = 100
# How often a slice may be run until it is given up: workers are lost, but not for ever.
MOST_ATTEMPTS = 4
# A scheduler that is not overloaded answers within this; else it is asked what it still knows.
ANSWER_SECONDS = 1.0


def estimated_scales(builder: Builder) -> Mapping[int, float]:
    """Scales from some of the space blocks of each variable. Runs Dask; reads them once more."""
    rows: list[int] = []
    for v in range(len(builder.variables)):
        mine = [i for i, owner in enumerate(builder.owners) if owner == v]
        rows += mine[:: -(-len(mine) // SCALED_BLOCKS)]
    builder = builder.anew()
    key = builder.estimate_scales(rows)
    layer, name = builder.layer()
    (found,) = dask.compute(Delayed(key, layer, layer=name))
    return dict(found)


@dataclass(frozen=True)
class _Graph:
    """A Dask collection of the results of many keys: one collection for each would be slow.

    Persisted, its graph has the results themselves: futures on a cluster, values elsewhere.
    All of the graph is needed but for what is in `common`.
    """

    graph: Mapping[Any, Any]
    keys: Sequence[Any]
    common: Mapping[Any, Any] = field(default_factory=dict)

    __dask_scheduler__ = staticmethod(threaded_get)

    def __dask_graph__(self) -> Mapping[Any, Any]:
        if not self.common:
            return self.graph
        needed: Mapping[Any, Any] = cull({**self.common, **self.graph}, list(self.keys))[0]
        return needed

    def __dask_keys__(self) -> list[Any]:
        return list(self.keys)

    @staticmethod
    def __dask_optimize__(graph: Mapping[Any, Any], keys: Any, **_: Any) -> Mapping[Any, Any]:
        return graph

    def __dask_tokenize__(self) -> Any:
        return [str(key) for key in self.keys[:1]]

    def __dask_postcompute__(self) -> Any:
        return list, ()

    def __dask_postpersist__(self) -> Any:
        return self._held, ()

    def _held(self, results: Mapping[Any, Any], **_: Any) -> _Graph:
        return _Graph(results, self.keys)


@dataclass(frozen=True)
class _Slice:
    """Tasks on the scheduler, and bytes that they may keep.

    `results` are what cannot be compressed, the number of columns, and then the outputs of a node
    on the space blocks of `plan`, first its joint columns.
    """

    node: Node
    tasks: int
    bytes: int
    plan: PODPlan
    results: _Graph


@dataclass(frozen=True)
class _Done:
    """Outputs of a node by key, as they go into the graph of its merge: so many columns, and rows
    on the space blocks of `plan`."""

    columns: Columns
    outputs: dict[Any, Any]
    count: int
    plan: PODPlan

    @classmethod
    def of(cls, outputs: Sequence[Any], count: int, plan: PODPlan) -> _Done:
        """Outputs with the joint columns first, where they are not those of the only block, then
        those of all space blocks, then the columns of a long node."""
        # A future keeps its key: another one would be an alias, and a task more.
        keys = [getattr(output, "key", f"held-{uuid4().hex}") for output in outputs]
        last = 1 if len(plan.rows) == 1 else 1 + len(plan.rows)
        columns = Columns(keys[0], keys[1:last] or keys[:1], tuple(keys[last:]))
        return cls(columns, dict(zip(keys, outputs, strict=True)), count, plan)


@dataclass
class Slices:
    """Runs subtrees from the first time to the last, and merges them as soon as they are there.

    ``done`` are finished nodes that no merge has taken up yet, ``todo`` the nodes to submit,
    ``running`` those submitted, ``parents`` what each is merged into. Tasks are kept within
    `memory`, where that is known.
    """

    builder: Builder
    slice_tasks: int
    submitted_tasks: int
    refused: Callable[[Defect], Exception]
    memory: WorkerMemory | None = None
    done: dict[Node, _Done] = field(default_factory=dict)
    todo: deque[Node] = field(default_factory=deque)
    running: deque[_Slice] = field(default_factory=deque)
    parents: dict[Node, Node] = field(default_factory=dict)
    attempts: dict[Node, int] = field(default_factory=dict)

    def run(self) -> tuple[PODPlan, list[Delayed]]:
        """What `Builder.finished` has the keys of, on the workers, and the plan of its blocks."""
        root = self.builder.plan.tree.root
        self.need(root)
        while True:
            while root not in self.done:
                while self.todo and self.has_room(self.todo[0]):
                    self.submit(self.todo.popleft())
                self.collect(self.running.popleft())
            try:
                return self.finished(self.done[root])
            except CancelledError:
                self.lost(root)

    def finished(self, done: _Done) -> tuple[PODPlan, list[Delayed]]:
        """The blocks and columns of the POD, made of the outputs of the root."""
        builder = self.builder.anew().finer(done.plan.largest)
        builder.graph.update(done.outputs)
        keys = builder.finished(done.columns)
        layer, name = builder.layer()
        held = list(dask.persist(*(Delayed(key, layer, layer=name) for key in keys)))
        # Data that was handed over is forgotten with the last who wants it.
        _wait(held)
        return builder.plan, held

    @property
    def hands_over(self) -> bool:
        """Whether all tasks are more than a scheduler may know: else it is left to make again what
        is lost."""
        plan = self.builder.plan
        return current_client() is not None and plan.tasks(*plan.tree.root) > self.slice_tasks

    def need(self, node: Node) -> None:
        """Have a node made, of what is there."""
        if node in self.done or node in self.todo or node in {s.node for s in self.running}:
            return
        if not self.is_merge(node):
            self.todo.append(node)
            return
        for child in self.children(node):
            self.parents[child] = node
            self.need(child)
        self.merge_if_ready(node)

    def is_merge(self, node: Node) -> bool:
        """Whether a node is more than one slice."""
        plan = self.builder.plan
        return node[0] > 0 and (plan.tasks(*node) > self.slice_tasks or not self.is_safe(node))

    def is_safe(self, node: Node) -> bool:
        """Whether its merge, and so all below, is within memory even if every column is kept."""
        if self.memory is None:
            return True
        spans = [len(self.builder.plan.span(*child)) for child in self.children(node)]
        merge = self.merge_of(spans, [m - 1 for m in spans])
        return merge.is_small(self.builder.plan, self.memory)

    def merge_of(self, snapshots: Sequence[int], columns: Sequence[int]) -> Merge:
        builder = self.builder
        itemsize = builder.precision.rows.itemsize
        return Merge(snapshots, columns, itemsize, len(builder.variables))

    def kept_bytes(self, columns: int) -> int:
        """Bytes of so many columns on all points."""
        points = sum(row.points for row in self.builder.plan.rows)
        return points * (columns * self.builder.precision.rows.itemsize + 8)

    def children(self, node: Node) -> list[Node]:
        level, number = node
        return [(level - 1, c) for c in self.builder.plan.tree.children(level, number)]

    def merge_if_ready(self, node: Node) -> None:
        if all(child in self.done for child in self.children(node)):
            # Before further subtrees: it sets results free.
            self.todo.appendleft(node)

    def has_room(self, node: Node) -> bool:
        """Whether the scheduler may get the tasks of a node besides what it has."""
        if not self.running:
            return True
        plan = self.builder.plan
        tasks = plan.merge_tasks(*node) if self.is_merge(node) else plan.tasks(*node)
        there = sum(s.tasks for s in self.running) + sum(len(d.outputs) for d in self.done.values())
        fits = tasks + len(self.builder.common) + there <= self.submitted_tasks
        if self.memory is None or not fits:
            return fits
        kept = sum(self.kept_bytes(d.count) for d in self.done.values())
        kept += sum(s.bytes for s in self.running) + self.kept_bytes(len(plan.span(*node)))
        return kept <= self.memory.together

    def submit(self, node: Node) -> None:
        """Submit a subtree, or a merge of nodes that are done."""
        parts = [self.done[child] for child in self.children(node)] if self.is_merge(node) else []
        builder = self.builder.anew()
        if parts:
            builder, columns = self.merged(builder, node, parts)
        else:
            columns = builder.subtree(*node)
        most = self.kept_bytes(len(builder.plan.span(*node)))
        self.running.append(_submitted(node, builder, columns, parts, most, self.hands_over))
        held = sum(len(part.outputs) for part in self.done.values())
        tasks = sum(s.tasks for s in self.running)
        log.info(
            "slice of %d tasks submitted: %d on the scheduler, %d results held",
            self.running[-1].tasks, tasks, held,
        )  # fmt: skip

    def merged(
        self, builder: Builder, node: Node, parts: Sequence[_Done]
    ) -> tuple[Builder, Columns]:
        """Add the merge of `parts`, with space blocks as fine as their columns ask for.

        Raises
        ------
        WorkerMemoryError
            If it takes more memory than a worker has, however fine.
        """
        columns = [part.columns for part in parts]
        if self.memory is None:
            return builder, builder.merge(*node, columns)
        spans = [builder.plan.span(*child) for child in self.children(node)]
        merge = self.merge_of([len(span) for span in spans], [part.count for part in parts])
        check_columns(merge, spans[0].start, self.memory)
        finest, whole = min(part.plan.largest for part in parts), builder.plan.largest
        small = merge.is_small(builder.plan, self.memory)
        if small and finest == whole:
            return builder, builder.merge(*node, columns)
        if not small:
            # A single space block is cut in any case: its rows would be with the columns.
            finest = min(finest, merge.points(self.memory), whole // (1 + builder.alone))
        builder = builder.finer(finest)
        log.info(
            "snapshots %d to %d: %d columns to merge, in %d space blocks",
            spans[0].start, spans[-1].stop - 1, merge.height, len(builder.plan.rows),
        )  # fmt: skip
        return builder, builder.merge_parts(*node, columns, [part.plan for part in parts])

    def collect(self, finished: _Slice) -> None:
        """Wait for a slice and take its outputs, or have it run again if they were lost.

        Raises
        ------
        Exception
            What went wrong in the slice, or that it holds what cannot be compressed.
        """
        node = finished.node
        try:
            defect, count, *outputs = _values(finished.results, self.hands_over)
        except CancelledError:
            self.lost(node)
            return
        if defect is not None:
            raise self.refused(defect)
        self.done[node] = _Done.of(outputs, count, finished.plan)
        if self.is_merge(node):
            for child in self.children(node):
                del self.done[child]
        if node in self.parents:
            self.merge_if_ready(self.parents[node])

    def lost(self, node: Node) -> None:
        """Run a slice again, and those whose results went with a worker."""
        self.attempts[node] = self.attempts.get(node, 0) + 1
        if self.attempts[node] >= MOST_ATTEMPTS:
            raise CancelledError(f"results were lost {MOST_ATTEMPTS} times with their workers")
        log.warning("results were lost with a worker: running their part of the archive again")
        for other in [n for n, each in self.done.items() if _any_lost(each)]:
            del self.done[other]
        # What they were to be merged into may be queued already.
        self.todo = deque(n for n in self.todo if not self.is_merge(n))
        self.need(self.builder.plan.tree.root)


def _submitted(
    node: Node,
    builder: Builder,
    columns: Columns,
    parts: Sequence[_Done],
    most: int,
    handed_over: bool,
) -> _Slice:
    """Submit the graph of a node that merges `parts`, with what hands its outputs over."""
    keys = list(dict.fromkeys([columns.joint, *columns.blocks, *columns.right]))
    results = [builder.key("held", i) for i in range(len(keys))]
    hold = _hand_over if handed_over else _as_is
    defect, count = builder.key("defect"), builder.key("count")
    # Rows and columns of a merge go nowhere else: making them and handing them over is one task.
    alone = set(keys[1:] if node[0] > 0 else [])
    for result, key in zip(results, keys, strict=True):
        builder.graph[result] = (hold, builder.graph.pop(key) if key in alone else key)
    builder.graph[defect] = (_defect_of, columns.joint)
    builder.graph[count] = (_count_of, columns.joint)
    tasks = len(builder.graph) + len(builder.common)
    for part in parts:
        builder.graph.update(part.outputs)
    (held,) = dask.persist(_Graph(builder.graph, [defect, count, *results], builder.common))
    return _Slice(node, tasks, most, builder.plan, held)


def _values(held: _Graph, handed_over: bool) -> list[Any]:
    """What cannot be compressed, the columns and the outputs of a slice, once they are there."""
    client, results = current_client(), [held.graph[key] for key in held.keys]
    if client is None:
        return results
    if not handed_over:
        return [*client.gather(results[:2]), *results[2:]]
    defect, count, *outputs = client.gather(results)
    return [defect, count, *_wanted(client, [future.key for future in outputs])]


def _wanted(client: Any, keys: list[str]) -> list[Any]:
    """Futures of data that some worker has handed over: with the last who wants it, it goes.

    Raises
    ------
    CancelledError
        If some of it went with its worker before it was known to be wanted.
    """
    from distributed import Future, wait

    futures: list[Any] = [Future(key, client) for key in keys]
    # A future that came as a result is not known to be wanted by the client that got it, and
    # for want of a public way to say so the message is the one that `Variable.get` leads to.
    client._send_to_scheduler({"op": "client-desires-keys", "keys": keys, "client": client.id})
    # The scheduler is silent about what it does not know any more: the future would stay pending.
    while True:
        try:
            wait(futures, timeout=ANSWER_SECONDS)
            return futures
        except TimeoutError:
            if not all(client.who_has(futures).values()):
                raise CancelledError("results went with the worker that held them") from None


def _wait(results: Sequence[Delayed]) -> None:
    if current_client() is not None:
        from distributed import futures_of, wait

        wait(futures_of(results))


def _any_lost(node: _Done) -> bool:
    states = (getattr(output, "status", "finished") for output in node.outputs.values())
    return any(state in ("lost", "cancelled", "error") for state in states)


# --- tasks --------------------------------------------------------------------------------


def _hand_over(value: Any) -> Any:
    """A future of the same value, on the same worker, that knows not what it was made of."""
    from distributed import get_client

    (future,) = get_client().scatter([value], hash=False)
    return future


def _as_is(value: Any) -> Any:
    return value


def _defect_of(joint: Result) -> Defect | None:
    """What the columns of a node have found."""
    return factor_in(joint).defect


def _count_of(joint: Result) -> int:
    """Number of the columns of a node."""
    return factor_in(joint).columns

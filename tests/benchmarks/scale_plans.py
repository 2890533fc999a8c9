"""Archives of 10^6 chunks that are planned and cut into slices, but not read."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import dask

from romzarr.chunked.plan import PODPlan, plan_pod
from romzarr.chunked.pod import run_pod
from romzarr.contracts import ArchivedVariable
from romzarr.numerics.pod.factors import Defect
from tests.benchmarks.bench_graph import ChunkGrid
from tests.benchmarks.measure import Cost, measured

SLICES = logging.getLogger("romzarr.chunked.pod_slices")
# 10^6 chunks each; of 105 MB but for the last.
GRIDS = (
    ChunkGrid("one space block", (100_000_000, 512, 512), (100, 512, 512)),
    ChunkGrid("time and space", (100_000, 12_800, 20_480), (100, 512, 512)),
    ChunkGrid("20 variables", (50_000, 5120, 5120), (100, 512, 512), 20),
    ChunkGrid("few times", (10_000, 51_200, 51_200), (100, 512, 512)),
    ChunkGrid("small chunks", (250_000, 1024, 1024), (10, 160, 160)),
)
SMALLEST = (ChunkGrid("time and space", (4000, 1024, 1024), (100, 256, 256)),)


@dataclass
class Counting:
    """A Dask scheduler that counts tasks in place of running them."""

    tasks: int = 0

    def __call__(self, graph: Any, keys: Sequence[Any], **_: Any) -> Any:
        # Newer versions of Dask leave making the graph to the scheduler.
        made = graph.__dask_graph__() if hasattr(graph, "__dask_graph__") else graph
        # What was held before is no task.
        self.tasks += sum(type(each) is tuple for each in made.values())
        return self._results(keys)

    def _results(self, keys: Any) -> Any:
        if isinstance(keys, list):
            return [self._results(key) for key in keys]
        name = str(keys[0] if isinstance(keys, tuple) else keys)
        if name.startswith("pod-scales"):
            return dict.fromkeys(range(1000), 1.0)
        return None if name.startswith("pod-defect") else SimpleNamespace(defect=None, columns=1)


class Held(logging.Handler):
    """The most tasks and results that were on the scheduler at a time, from what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.slices = self.most = 0

    def emit(self, record: logging.LogRecord) -> None:
        found = re.search(r"submitted: (\d+) on the scheduler, (\d+) results", record.getMessage())
        if found:
            self.slices += 1
            self.most = max(self.most, int(found[1]) + int(found[2]))


@dataclass(frozen=True)
class Planned:
    """What running the POD of an archive would ask of a scheduler, and what planning it cost."""

    plan: PODPlan
    tasks: int
    slices: int
    most: int
    cost: Cost


def planned(variables: Sequence[ArchivedVariable], tolerance: float) -> Planned:
    counting, held = Counting(), Held()
    level = SLICES.level
    SLICES.addHandler(held)
    SLICES.setLevel(logging.INFO)
    try:
        with dask.config.set(scheduler=counting):
            plan, cost = measured(lambda: _run(variables, tolerance))
    finally:
        SLICES.removeHandler(held)
        SLICES.setLevel(level)
    # A graph that is small enough goes to the scheduler as it is.
    return Planned(plan, counting.tasks, max(held.slices, 1), held.most or counting.tasks, cost)


def _run(variables: Sequence[ArchivedVariable], tolerance: float) -> PODPlan:
    plan = plan_pod(variables)
    run_pod(variables, tolerance=tolerance, refused=_refused, plan=plan)
    return plan


def _refused(plan: PODPlan, defect: Defect) -> Exception:
    raise AssertionError(f"nothing is read, but {defect} was found")

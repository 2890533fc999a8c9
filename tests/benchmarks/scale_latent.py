"""Coding of the coefficients of a very long record, of which no task is run: what the client holds.

Tasks are answered by made-up results of the size that real ones have, in the place of a scheduler.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import dask
import numpy as np

from romzarr.chunked import latent
from romzarr.chunked.latent import LatentRecord
from romzarr.chunked.tables import Table, block_spans
from romzarr.coding.differences import MOST_ORDER
from romzarr.coding.latent import BlockCode, LatentBlock, LatentCoder
from romzarr.compression import weak_systems
from romzarr.compression.candidates import Candidate, Comparison, Estimate, candidates_of
from romzarr.compression.model import LatentModel, identify
from romzarr.compression.weak_systems import CODE_BLOCK, Offer, WeakSystems
from romzarr.config import Config
from romzarr.contracts import BlockSpan, SparseModel, TriangularFactor, UniformTimes
from romzarr.numerics.dynamics.sampling import STRAIGHT_LINE, Deviation, Spread, Tolerances
from tests.benchmarks.measure import Cost, measured

SNAPSHOTS, MODES, STEP = 100_000_000, 60, 0.05
# Of all snapshots one in so many is a sample; of all terms one in so many is active.
APART, SPARSE = 16, 20


@dataclass
class MadeUp:
    """A Dask scheduler that answers each task by the name of its function, and counts them."""

    snapshots: int
    modes: int
    tasks: int = 0
    _spans: tuple[BlockSpan, ...] = field(init=False)

    def __post_init__(self) -> None:
        self._spans = block_spans(self.snapshots, 2 * self.modes + 1)
        of: dict[Callable[..., Any], Callable[..., Any]] = {
            LatentBlock.spread: self._spread,
            LatentCoder.plan: self._plan,
            latent._trial: self._trial,
            latent._order_bits: lambda *_: np.ones((MOST_ORDER + 1, self.modes)),
            latent._total_bytes: lambda *_: 1 << (17 if self._modelled else 18),
            latent._rows_at: lambda _, rows: (np.ones((len(rows), self.modes)), rows + STEP),
            latent._in_a_row: lambda parts: self._waves(),
            Comparison.estimate: self._estimate,
            Comparison.other_thresholds: lambda *_: [],
            candidates_of: self._candidates,
            getattr: lambda *_: np.zeros((self.modes, self.modes)),
        }
        self._of, self._planned, self._modelled = of, 0, False

    def __call__(self, graph: Any, keys: Any, **_: Any) -> Any:
        made = graph.__dask_graph__() if hasattr(graph, "__dask_graph__") else graph
        self.tasks += len(made)
        if isinstance(keys, list):
            return [self._result(made, key) for key in keys]
        return self._result(made, keys)

    def _result(self, made: Any, key: Any) -> Any:
        node = made[key]
        function = getattr(node, "func", None)
        if function is latent._added_or_none:
            # A sum is like any of its terms.
            return self._result(made, next(iter(node.dependencies)))
        answer = self._of.get(function)
        if answer is None:
            return node if function is weak_systems._systems else None
        return answer(*(made.get(getattr(each, "key", None), each) for each in node.args))

    def _spread(self, _: Any) -> Spread:
        ones = np.ones(self.modes)
        squares = self.snapshots * ones
        return Spread(self.snapshots, np.diag(squares), 0 * ones, squares, ones)

    def _plan(self, coder: Any, block: Any, choices: Any, *_: Any) -> BlockCode:
        span = self._spans[self._planned % len(self._spans)]
        self._planned, self._modelled = self._planned + 1, bool(choices)
        last = span.stop == self.snapshots
        stop = len(span) if last else len(span) + 1
        index = np.unique(np.append(np.arange(0, stop, APART if choices else CODE_BLOCK), stop - 1))
        model = 0 if choices else STRAIGHT_LINE
        return BlockCode(index, np.full(-(-len(span) // CODE_BLOCK) + 2, model, np.int16), 8e5)

    def _trial(self, coder: Any, part: Any, samples: Any, step: float, orders: Any) -> Deviation:
        each = step**2 / 12 * self.snapshots * np.eye(self.modes)
        return Deviation(each, np.zeros((self.modes, self.modes + 1)))

    def _estimate(self, *_: Any) -> Estimate:
        rows, nothing = 1, np.zeros(1)
        tolerances = Tolerances((), nothing, nothing, nothing, ())
        coder = LatentCoder((), tolerances, self.snapshots, CODE_BLOCK, 1, rows)
        fitted = Candidate(*(None,) * 3)  # type: ignore[arg-type]
        return Estimate(1.0, BlockCode(np.arange(2), np.zeros(3, np.int16)), coder, fitted)

    def _waves(self) -> LatentBlock:
        t = np.arange(8 * 16_384)[:, None]
        a = np.sin(0.05 * t * (1 + np.arange(self.modes) / 7))
        return LatentBlock(a, STEP * t[:, 0], a[:, :0])

    def _candidates(self, systems: Any, *_: Any) -> list[Candidate]:
        _, library, plan, *_ = systems.args
        size, states = library.size, library.states
        factor = TriangularFactor(np.eye(size + states), size, 10**6)
        serving = np.zeros(-(-self.snapshots // CODE_BLOCK), np.int16)
        found = WeakSystems(library, plan, factor, (), serving)
        xi = np.where(np.arange(size * states).reshape(size, states) % SPARSE, 0.0, 1e-3)
        model = SparseModel(xi, 0.1, np.zeros(states), "made up")
        return [Candidate(found, Offer((factor,), serving), (model,))]


@dataclass(frozen=True)
class Planned:
    """What the search for a model and the coding of a(t) would ask for, and what it cost here."""

    model: LatentModel
    tasks: int
    blocks: int
    cost: Cost


def planned(snapshots: int = SNAPSHOTS, modes: int = MODES) -> Planned:
    """The model search and the coding of a record of so many snapshots, without running a task."""
    made_up = MadeUp(snapshots, modes)

    def work() -> LatentModel:
        spans = block_spans(snapshots, 2 * modes + 1)
        nothing = dask.delayed(None)
        tables = [Table(spans, (nothing,) * len(spans), k) for k in (modes, modes + 1)]
        times = UniformTimes(STEP, snapshots)
        roots, none = np.eye(modes)[None], np.zeros(1)
        mixed = [(np.eye(modes), np.zeros((modes, modes + 1)))]
        tolerances = Tolerances(roots, np.array([1e-2 * snapshots**0.5]), none, none, mixed)
        record = LatentRecord.of(tables[0], times, tables[1])
        return identify(record, times, tolerances, Config(), step=1e-3, coded_bytes=1e10)

    with dask.config.set(scheduler=made_up):
        model, cost = measured(work)
    return Planned(model, made_up.tasks, len(made_up._spans), cost)

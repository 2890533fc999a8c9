"""Large graphs run in slices: the same results, and a scheduler that never holds many tasks."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import dask
import numpy as np
import pytest
from dask.delayed import delayed
from distributed import Client
from distributed.diagnostics.plugin import SchedulerPlugin
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from romzarr.chunked.plan import TimeTree, plan_pod
from romzarr.chunked.pod import decompose, run_pod
from romzarr.chunked.pod_slices import Slices
from romzarr.chunked.slices import SLICE_RESULTS, gathered, slices, sums
from romzarr.contracts import ArchivedVariable, ReadBlock, Region
from romzarr.numerics.pod.factors import Defect


@dataclass(frozen=True)
class Waves:
    """Blocks computed where they are read; nothing is held of the whole."""

    broken_from: int | None = None

    def graph(self) -> Mapping[Any, Any]:
        return {}

    def task(self, region: Region) -> tuple[Any, ...]:
        return (_waves, region, self.broken_from)


def _waves(region: Region, broken_from: int | None) -> ReadBlock:
    t, x = (np.arange(part.start, part.stop, dtype=float) for part in region)
    values = sum(np.sin(k * x / 20 - 0.3 * k * t[:, None]) / k for k in (1, 2, 3))
    if broken_from is not None:
        values[t >= broken_from] = np.nan
    return ReadBlock(np.asarray(values), values.nbytes, 1)


def archived(times: int, spaces: int, variables: int = 1, **source) -> list[ArchivedVariable]:
    chunks = ((5,) * times, (8,) * spaces)
    shape = (5 * times, 8 * spaces)
    return [
        ArchivedVariable(f"v{k}", ("time", "x"), shape, np.dtype(float), chunks, 0, Waves(**source))
        for k in range(variables)
    ]


def refused(plan: object, defect: Defect) -> Exception:
    return ValueError(f"{defect.kind} at {defect.time}")


# --- the tree -----------------------------------------------------------------------------


@given(st.integers(1, 2000), st.integers(2, 9))
def test_nodes_of_a_level_are_consecutive_and_make_up_all_time_blocks(blocks, arity):
    tree = TimeTree.of(blocks, arity)
    assert tree.blocks(*tree.root) == (0, blocks)
    for level in range(1, len(tree.edges) + 1):
        nodes = len(tree.edges[level - 1]) - 1
        spans = [tree.blocks(level, i) for i in range(nodes)]
        assert [a for a, _ in spans] == [0, *(b for _, b in spans[:-1])]
        for i in range(nodes):
            below = tree.children(level, i)
            assert 1 <= len(below) <= arity
            merges = sum(tree.merges(level - 1, c) for c in below)
            assert tree.merges(level, i) == 1 + merges


@pytest.mark.parametrize(("times", "spaces", "variables"), [(1, 1, 1), (37, 1, 1), (40, 3, 2)])
def test_as_many_tasks_are_foretold_as_the_graph_has(times, spaces, variables):
    given_ = archived(times, spaces, variables)
    plan = plan_pod(given_, leaf_bytes=1)
    lazy = decompose(given_, tolerance=1e-3, plan=plan)
    # The summary and the columns of the factor; the rows of a pair, or the scales.
    extra = 3
    extra += len(plan.rows) if times == 1 and len(plan.rows) > 1 else 0
    assert len(lazy.factor.dask) == plan.tasks(*plan.tree.root) + extra


# --- the same results ---------------------------------------------------------------------


@pytest.mark.parametrize(("times", "spaces", "variables"), [(50, 1, 1), (30, 3, 2)])
def test_in_slices_the_pod_is_the_same(times, spaces, variables):
    given_ = archived(times, spaces, variables)
    plan = plan_pod(given_, leaf_bytes=1)
    scales = dict.fromkeys(range(variables), 0.5)
    with dask.config.set(scheduler="synchronous"):
        how = {"tolerance": 1e-3, "scales": scales, "refused": refused, "plan": plan}
        whole = run_pod(given_, **how)
        sliced = run_pod(given_, **how, slice_tasks=20, submitted_tasks=40)
        np.testing.assert_array_equal(whole.right.here(), sliced.right.here())
        for a, b in zip(dask.compute(*whole.blocks), dask.compute(*sliced.blocks), strict=True):
            np.testing.assert_array_equal(a.rows, b.rows)
        estimated = run_pod(given_, **how | {"scales": None}, slice_tasks=20)
    assert estimated.factor.cost.chunks_read == whole.factor.cost.chunks_read
    energy = [np.sort(np.linalg.eigvalsh(f.gram[0]))[-3:] for f in (whole.factor, estimated.factor)]
    assert_allclose(energy[0], energy[1], rtol=1e-3)


def test_what_cannot_be_compressed_ends_the_run_at_its_slice(caplog):
    given_ = archived(200, 1, broken_from=100)
    plan = plan_pod(given_, leaf_bytes=1)
    caplog.set_level(logging.INFO)
    with (
        dask.config.set(scheduler="synchronous"),
        pytest.raises(ValueError, match="appears at 100"),
    ):
        run_pod(
            given_, tolerance=1e-3, refused=refused, plan=plan, slice_tasks=10, submitted_tasks=20
        )
    submitted = sum(record.args[0] for record in caplog.records)
    assert submitted < 0.5 * plan.tasks(*plan.tree.root)


# --- what a scheduler holds ---------------------------------------------------------------


class Most(SchedulerPlugin):
    """The largest number of tasks that a scheduler knew."""

    def __init__(self, scheduler) -> None:
        self.scheduler, self.most = scheduler, 0

    def transition(self, key, start, finish, *args, **kwargs) -> None:
        self.most = max(self.most, len(self.scheduler.tasks))


@pytest.fixture
def client():
    with Client(processes=False, dashboard_address=None, n_workers=1, threads_per_worker=2) as made:
        yield made


@pytest.mark.parametrize(("times", "spaces"), [(300, 1), (40, 4)])
def test_a_scheduler_never_holds_more_than_it_is_given(client, times, spaces):
    """Besides, slices that it is about to forget, and the results of a few nodes a level."""
    given_ = archived(times, spaces)
    plan = plan_pod(given_, leaf_bytes=1)
    scheduler = client.cluster.scheduler
    plugin = Most(scheduler)
    scheduler.add_plugin(plugin, name="most")
    try:
        pod = run_pod(
            given_, tolerance=1e-3, refused=refused, plan=plan, slice_tasks=30, submitted_tasks=60
        )
    finally:
        scheduler.remove_plugin("most")
    held = plan.arity * len(plan.tree.edges) * (len(plan.rows) + 1)
    assert plugin.most <= 60 + 2 * 30 + held
    assert plan.tasks(*plan.tree.root) > 2 * plugin.most
    assert pod.factor.cost.chunks_read == times * spaces
    assert len(dask.compute(*pod.blocks)) == len(plan.rows)


def test_space_blocks_are_taken_together_where_there_are_too_many(client):
    given_ = archived(12, 60)
    plan = plan_pod(given_, leaf_bytes=1, scheduled=150)
    assert 1 < len(plan.rows) < 30
    scheduler = client.cluster.scheduler
    plugin = Most(scheduler)
    scheduler.add_plugin(plugin, name="most")
    try:
        pod = run_pod(
            given_, tolerance=1e-3, refused=refused, plan=plan, slice_tasks=30, submitted_tasks=150
        )
    finally:
        scheduler.remove_plugin("most")
    # Besides, two time blocks that it is about to forget.
    assert plugin.most <= 150 + 2 * 4 * (len(plan.rows) + 1) < 4 * 60 * 2
    with dask.config.set(scheduler="synchronous"):
        whole = run_pod(given_, tolerance=1e-3, refused=refused)
    energy = [np.sort(np.linalg.eigvalsh(f.gram[0]))[-3:] for f in (whole.factor, pod.factor)]
    assert_allclose(energy[0], energy[1], rtol=1e-3)


@pytest.mark.cluster
def test_results_handed_over_by_worker_processes_stay_until_they_are_merged(caplog):
    given_ = archived(24, 3)
    plan = plan_pod(given_, leaf_bytes=1)
    how = {"tolerance": 1e-3, "refused": refused, "plan": plan, "scales": {0: 1.0}}
    with dask.config.set(scheduler="synchronous"):
        expected = run_pod(given_, **how)
    with Client(n_workers=2, threads_per_worker=1, dashboard_address=None):
        found = run_pod(given_, **how, slice_tasks=30, submitted_tasks=90)
        rows, right = dask.compute(*found.blocks), found.right.here()
    assert "again" not in caplog.text
    assert_allclose(right, expected.right.here(), atol=1e-9)
    assert [block.rows.shape for block in rows] == [(found.factor.columns, 8)] * 3


class Loses(logging.Handler):
    """Closes a worker, with all it holds, when so many slices have been submitted."""

    def __init__(self, client: Client, after: int) -> None:
        super().__init__()
        self.client, self.left = client, after

    def emit(self, record: logging.LogRecord) -> None:
        self.left -= record.msg.startswith("slice")
        if self.left == 0:
            self.client.sync(self.client.cluster.workers[0].close, nanny=False)


@pytest.mark.filterwarnings("ignore")  # of a worker that goes
def test_what_a_lost_worker_held_is_made_again(caplog):
    caplog.set_level(logging.INFO, "romzarr.chunked.pod_slices")
    log = logging.getLogger("romzarr.chunked.pod_slices")
    given_ = archived(60, 3)
    how = {"tolerance": 1e-3, "refused": refused, "plan": plan_pod(given_, leaf_bytes=1)}
    with dask.config.set(scheduler="synchronous"):
        expected = run_pod(given_, **how, scales={0: 1.0})
    with Client(processes=False, dashboard_address=None, n_workers=2, threads_per_worker=1) as made:
        log.addHandler(handler := Loses(made, 12))
        try:
            found = run_pod(given_, **how, scales={0: 1.0}, slice_tasks=40, submitted_tasks=120)
        finally:
            log.removeHandler(handler)
        assert len(made.cluster.workers[1].data)
        right = found.right.here()
    assert found.factor.cost.chunks_read == expected.factor.cost.chunks_read == 180
    assert_allclose(right, expected.right.here(), atol=1e-9)
    assert "again" in caplog.text


@pytest.mark.filterwarnings("ignore")  # of a worker that goes
@pytest.mark.parametrize("worker", [0, 1])
def test_what_is_lost_at_the_very_end_is_made_again(monkeypatch, caplog, worker):
    given_ = archived(24, 3)
    how = {"tolerance": 1e-3, "refused": refused, "plan": plan_pod(given_, leaf_bytes=1)}
    with dask.config.set(scheduler="synchronous"):
        expected = run_pod(given_, **how, scales={0: 1.0})
    finished = Slices.finished
    with Client(processes=False, dashboard_address=None, n_workers=2, threads_per_worker=1) as made:
        doomed = [made.cluster.workers[worker]]

        def finished_without_it(self: Slices, done: Any) -> Any:
            while doomed:
                made.sync(doomed.pop().close, nanny=False)
            return finished(self, done)

        monkeypatch.setattr(Slices, "finished", finished_without_it)
        found = run_pod(given_, **how, scales={0: 1.0}, slice_tasks=40, submitted_tasks=120)
        right = found.right.here()
    assert_allclose(right, expected.right.here(), atol=1e-9)
    assert caplog.text.count("running their part of the archive again") <= 1


# --- results of many tasks ----------------------------------------------------------------


def test_sums_of_groups_do_not_depend_on_slices(monkeypatch):
    monkeypatch.setattr("romzarr.chunked.slices.slices.__defaults__", (7,))
    groups = [[delayed(k * 100 + i) for i in range(n)] for k, n in enumerate((20, 1, 6, 9))]
    with dask.config.set(scheduler="synchronous"):
        found = sums(groups)
        assert found == [sum(k * 100 + i for i in range(n)) for k, n in enumerate((20, 1, 6, 9))]
        assert gathered((each for each in groups[0]), max) == 19


def test_slices_are_made_as_they_are_asked_for():
    asked = []

    def numbers():
        for k in range(10):
            asked.append(k)
            yield k

    parts = slices(numbers(), 4)
    assert next(parts) == [0, 1, 2, 3]
    assert asked == [0, 1, 2, 3]
    assert list(parts) == [[4, 5, 6, 7], [8, 9]]
    assert 3 * SLICE_RESULTS < 100_000


@pytest.mark.parametrize(("times", "spaces", "variables"), [(50, 1, 1), (30, 3, 2), (3, 1, 1)])
def test_columns_of_long_nodes_are_the_same_in_blocks_of_time(
    monkeypatch, times, spaces, variables
):
    """On the way up a tree they are made anew block by block, in slices or not."""
    given_ = archived(times, spaces, variables)
    plan = plan_pod(given_, leaf_bytes=1)
    how = {"tolerance": 1e-3, "scales": dict.fromkeys(range(variables), 0.5), "refused": refused}
    with dask.config.set(scheduler="synchronous"):
        whole = run_pod(given_, **how, plan=plan)
        assert len(whole.right.spans) == 1
        monkeypatch.setattr("romzarr.chunked.plan.LONGEST", 20)
        plan = replace(plan)
        for slice_tasks in (10**6, 20):
            found = run_pod(given_, **how, plan=plan, slice_tasks=slice_tasks, submitted_tasks=60)
            assert (len(found.right.spans) > 1) == (times > 4)
            assert max(map(len, found.right.spans)) <= 20
            assert_allclose(found.right.here(), whole.right.here(), atol=1e-12)
            for a, b in zip(dask.compute(*whole.blocks), dask.compute(*found.blocks), strict=True):
                assert_allclose(a.rows, b.rows, atol=1e-12)
    lazy = decompose(given_, tolerance=1e-3, plan=plan)
    extra = 3 - (times > 4)
    assert len(lazy.factor.dask) == plan.tasks(*plan.tree.root) + extra

"""Tasks of a merge stay within their share of a worker's memory, however many columns are kept."""

from __future__ import annotations

import pickle
import tracemalloc
from dataclasses import dataclass
from typing import Any

import dask
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from romzarr.chunked import pod, pod_tasks
from romzarr.chunked.memory import Merge, WorkerMemory
from romzarr.chunked.plan import SpaceBlock, plan_pod
from romzarr.contracts import ArchivedVariable, ReadBlock, Region
from romzarr.errors import WorkerMemoryError
from romzarr.inner_product import InnerProduct
from romzarr.numerics.pod.factors import Defect, RowBlock, TimeFactor
from romzarr.numerics.pod.gram import Gram
from romzarr.numerics.pod.inner_products import DOUBLE
from romzarr.numerics.pod.truncation import Cut
from tests.strategies import grids

SNAPSHOTS, CHUNK, POINTS = 96, 8, (40, 30)
# Merges of all that `archived` has need three times its rows, and some more for columns.
MEMORY = WorkerMemory(thread=2_400_000, together=4_000_000)
ON_ROWS = ("product_of", "part_of", "rows_of")


@dataclass(frozen=True)
class Held:
    """Blocks of an array that is here."""

    values: np.ndarray

    def graph(self) -> dict[Any, Any]:
        return {}

    def task(self, region: Region) -> tuple[Any, ...]:
        return (self.read, *[number for part in region for number in (part.start, part.stop)])

    def read(self, *ends: int) -> ReadBlock:
        region = tuple(slice(a, b) for a, b in zip(ends[::2], ends[1::2], strict=True))
        return ReadBlock(self.values[region].copy(), 10, 1)


def archived(rank: int, variables: int = 1, last: int = POINTS[0]) -> list[ArchivedVariable]:
    """Fields of so many modes of one size, whose chunks have `last` rows of the grid."""
    found = []
    for number in range(variables):
        rng = np.random.default_rng(number)
        a, modes = rng.standard_normal((SNAPSHOTS, rank)), rng.standard_normal((rank, *POINTS))
        values = np.tensordot(a, modes, 1)
        chunks = ((CHUNK,) * (SNAPSHOTS // CHUNK), (last,) * (POINTS[0] // last), POINTS[1:])
        found.append(
            ArchivedVariable(
                f"v{number}", ("time", "y", "x"), values.shape, np.dtype(float), chunks, 0,
                Held(values),
            )
        )  # fmt: skip
    return found


def refused(plan: object, defect: Defect) -> Exception:
    return ValueError(f"{defect.kind} at {defect.time} in row {defect.row}, point {defect.point}")


def run(variables, memory, monkeypatch, refusal=refused):
    monkeypatch.setattr(pod, "worker_memory", lambda: memory)
    plan = plan_pod(variables, leaf_bytes=1)
    how = {"tolerance": 1e-6, "plan": plan, "refused": refusal}
    with dask.config.set(scheduler="synchronous"):
        return pod.run_pod(variables, **how, scales=dict.fromkeys(range(len(variables)), 1.0))


@pytest.fixture
def held(monkeypatch):
    """The most bytes that a task of each kind is given and gives back, as they are pickled."""
    most: dict[str, int] = {}

    def watched(name):
        task = getattr(pod_tasks, name)

        def watch(*args):
            result = task(*args)
            size = len(pickle.dumps(args)) + len(pickle.dumps(result))
            most[name] = max(most.get(name, 0), size)
            return result

        monkeypatch.setattr(pod_tasks, name, watch)

    for name in (*ON_ROWS, "added", "merge_joint"):
        watched(name)
    return most


@pytest.mark.parametrize(("variables", "last"), [(1, POINTS[0]), (1, 20), (2, POINTS[0])])
@pytest.mark.parametrize("rank", [3, 30, 90])
def test_for_any_rank_a_merge_holds_no_more_than_its_share(
    rank, variables, last, held, monkeypatch
):
    given_ = archived(rank, variables, last)
    found = run(given_, MEMORY, monkeypatch)
    slack = 4096  # of objects that are not arrays
    assert max(held.get(name, 0) for name in ON_ROWS) <= MEMORY.rows + slack
    assert max(held.get("added", 0), held.get("merge_joint", 0)) <= MEMORY.columns + slack
    split = len(found.plan.rows) > len(plan_pod(given_, leaf_bytes=1).rows)
    assert split == (rank > 3)
    # Without a limit one task holds more.
    if split:
        held.clear()
        whole = run(given_, None, monkeypatch)
        if len(whole.plan.rows) > 1:
            assert held["rows_of"] > MEMORY.rows + slack
        for a, b in zip(whole.factor.gram.values(), found.factor.gram.values(), strict=True):
            assert_allclose(sorted(a.energies), sorted(b.energies), rtol=1e-8)


@pytest.mark.parametrize("last", [POINTS[0], 20])
def test_rows_of_cut_space_blocks_give_the_archive(last, monkeypatch):
    (variable,) = archived(60, last=last)
    found = run([variable], MEMORY, monkeypatch)
    right, values = found.right.here(), variable.source.values
    for row, block in zip(found.plan.rows, dask.compute(*found.blocks), strict=True):
        rebuilt = (block.mean + right @ block.rows).reshape(SNAPSHOTS, *row.shape)
        there = values[(slice(None), *row.region)]
        assert np.linalg.norm(rebuilt - there) <= 1e-6 * np.linalg.norm(values)


def test_a_mask_that_moves_is_named_by_its_place_in_the_plan(monkeypatch):
    (variable,) = archived(60)
    variable.source.values[SNAPSHOTS // 2 :, 35, 7] = np.nan
    with pytest.raises(ValueError, match=f"appears at 48 in row 0, point {35 * 30 + 7}"):
        run([variable], MEMORY, monkeypatch)


def test_too_little_memory_is_refused_with_the_setting_to_change(monkeypatch):
    variables = archived(90)
    with pytest.raises(WorkerMemoryError, match=r"'v0': a task reads chunks of 8 .*memory_limit"):
        run(variables, WorkerMemory(100_000, 10**9), monkeypatch)
    with pytest.raises(WorkerMemoryError, match=r"snapshots 0 to .* columns needs .*memory_limit"):
        run(variables, WorkerMemory(600_000, 10**9), monkeypatch)


@given(grids((1, 1, 9, 7)), st.lists(st.integers(1, 70), min_size=1, max_size=3))
@settings(deadline=None, max_examples=40)
def test_finer_blocks_are_consecutive_points_of_coarser_ones(chunks, sizes):
    shape = (1, 1, 9, 7)
    variable = ArchivedVariable(
        "v", ("time", "a", "y", "x"), shape, np.dtype(float), chunks, 0, source=None
    )
    plan = plan_pod([variable], leaf_bytes=1)
    places = np.arange(63).reshape(shape[1:])

    def points(row: SpaceBlock) -> np.ndarray:
        return places[row.region].ravel()

    for size in sorted(sizes, reverse=True):
        finer = plan.finer(size)
        assert finer.largest <= size
        assert [row.number for row in finer.rows] == list(range(len(finer.rows)))
        for (number, part), row in zip(plan.parts(finer), finer.rows, strict=True):
            assert points(row).tolist() == points(plan.rows[number])[part].tolist()
        everywhere = (slice(0, 1), slice(0, 9), slice(0, 7))
        overlapping = finer.grid_of(0).overlapping(everywhere)
        assert sorted(np.concatenate([points(r) for r in overlapping])) == list(range(63))
        plan = finer


def test_bytes_of_columns_are_no_less_than_what_choosing_them_takes():
    """Measured: the peak of what NumPy and SciPy allocate while a merge chooses its columns."""
    rng = np.random.default_rng(0)
    snapshots, columns, points = [400, 400], [200, 200], 500
    factors, blocks = [], []
    for m, k in zip(snapshots, columns, strict=True):
        right = np.linalg.qr(rng.standard_normal((m, k)))[0]
        rows = rng.standard_normal((k, points))
        factors.append(TimeFactor(0, right, {0: Gram(rows @ rows.T)}, {0: 0.0}))
        blocks.append(RowBlock(np.zeros(points), rows))
    product = pod_tasks.product_of(blocks, factors, InnerProduct(), DOUBLE, 0, 0)
    tracemalloc.start()
    pod_tasks.merge_joint(factors, [0], [product], {0: 1.0}, Cut(1e-9), DOUBLE, False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= Merge(snapshots, columns, 8, 1).column_bytes <= 3 * peak

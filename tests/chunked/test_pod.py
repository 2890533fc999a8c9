"""POD over chunk grids, against an SVD of the whole matrix."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import dask
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from romzarr.chunked.plan import plan_pod
from romzarr.chunked.pod import LazyPOD, decompose
from romzarr.contracts import ArchivedVariable, ReadBlock, Region
from romzarr.inner_product import InnerProduct
from romzarr.numerics.pod.factors import RowBlock, TimeFactor
from romzarr.numerics.pod.inner_products import Precision
from tests.oracles import (
    best_error,
    decaying_matrix,
    fluctuation,
    singular_values,
    snapshots_by_rows,
    weighted_norm,
)
from tests.strategies import chunkings, grids, seeds

F4, F8 = np.dtype(np.float32), np.dtype(np.float64)
SINGLE, DOUBLE, HOUSEHOLDER = Precision(F4, F4), Precision(F8, F8), Precision(F8, F8, True)


@dataclass(frozen=True)
class RecordedSource:
    """Blocks of an array that notes every region that is read."""

    array: np.ndarray
    reads: list[Region] = field(default_factory=list)

    def graph(self) -> dict[Any, Any]:
        return {}

    def task(self, region: Region) -> tuple[Any, ...]:
        return (self.read, *[number for part in region for number in (part.start, part.stop)])

    def read(self, *ends: int) -> ReadBlock:
        region = tuple(slice(a, b) for a, b in zip(ends[::2], ends[1::2], strict=True))
        self.reads.append(region)
        return ReadBlock(self.array[region].copy(), 10, 1)


class ForbiddenSource(RecordedSource):
    def read(self, *ends: int) -> ReadBlock:
        raise AssertionError("read while only the graph was built")


def archived(rows, shape, time_axis, chunks, weights=None, source=RecordedSource, name="v"):
    """A variable whose snapshots are `rows` (m, n), on a grid of `shape`, time at `time_axis`."""
    values = np.moveaxis(rows.reshape(len(rows), *shape), 0, time_axis)
    dims = [f"d{k}" for k in range(len(shape))]
    dims.insert(time_axis, "time")
    return ArchivedVariable(
        name,
        tuple(dims),
        values.shape,
        rows.dtype,
        chunks,
        time_axis,
        source(np.ascontiguousarray(values)),
        InnerProduct(None if weights is None else weights.reshape(shape)),
    )


def run(lazy: LazyPOD) -> tuple[TimeFactor, list[RowBlock]]:
    factor, blocks, right = dask.compute(
        lazy.factor, list(lazy.blocks), list(lazy.right), scheduler="synchronous"
    )
    return replace(factor, right=np.concatenate(right), long=None), blocks


def assembled(lazy, blocks, variables, number):
    """Mean (n,) and rows (k, n) of a variable over its whole grid, in float64."""
    mine = [(r, b) for r, b in zip(lazy.plan.rows, blocks, strict=True) if r.variable == number]
    shape = variables[number].space_shape
    mean = np.full(shape, np.nan)
    rows = np.full((len(mine[0][1].rows), *shape), np.nan)
    for row, block in mine:
        mean[row.region] = block.mean.reshape(row.shape)
        rows[(slice(None), *row.region)] = block.rows.reshape(-1, *row.shape)
    return mean.ravel(), rows.reshape(len(rows), mean.size)


def assert_tree_holds(lazy, factor, blocks, variables, eps):
    """Orthonormal in time, exact means and inner products, error as accounted for."""
    k = factor.right.shape[1]
    skew = factor.right.T @ factor.right - np.eye(k)
    assert np.abs(skew).max(initial=0.0) <= 1e-6
    for number, variable in enumerate(variables):
        x = snapshots_by_rows(variable.source.array, variable.time_axis)
        weights = variable.inner_product.flat.weights
        mean, rows = assembled(lazy, blocks, variables, number)
        total = weighted_norm(fluctuation(x), weights) ** 2
        size = np.abs(fluctuation(x)).max()
        assert_allclose(mean, x.mean(axis=0), rtol=1e-12, atol=eps * size)
        gram = (rows if weights is None else rows * weights) @ rows.T
        norms = np.sqrt(np.diag(gram))
        # Columns that carry little may be less orthogonal by as much.
        assert_allclose(norms[:, None] * skew * norms, 0, atol=eps * total)
        assert_allclose(factor.gram[number], gram, rtol=0, atol=eps * total)
        error = weighted_norm(x - mean - factor.right @ rows, weights) ** 2
        # Never more than accounted for; rounding of Gram matrices may count as error.
        discarded, apart = factor.discarded[number], factor.apart.get(number, 0.0)
        most = (np.sqrt(discarded) + np.sqrt(apart)) ** 2
        assert error <= most * (1 + 1e-9) + eps * total
        least = (np.sqrt(discarded) - np.sqrt(apart)) ** 2
        assert error >= least * (1 - 1e-9) - 1e3 * eps * total
        whole = np.trace(factor.gram[number]) + discarded + apart
        meeting = 2 * np.sqrt(discarded * apart) / total if total else 0.0
        assert_allclose(whole, total, rtol=meeting + 1e3 * eps)


@given(data=st.data(), decades=st.integers(0, 14), seed=seeds)
@settings(deadline=None, max_examples=25)
def test_singular_values_survive_any_chunk_grid(data, decades, seed):
    """To 1e-10 of the first where 1e-10 is asked; Gram matrices stop at 1e-8."""
    rng = np.random.default_rng(seed)
    shape, m = (6, 9), 35
    time_axis = data.draw(st.integers(0, 2))
    rows = 5.0 + decaying_matrix(rng, m, 54, decades)
    weights = data.draw(st.sampled_from([None, np.where(rng.random(54) < 0.2, 0, rng.random(54))]))
    full = [*shape]
    full.insert(time_axis, m)
    variable = archived(rows, shape, time_axis, data.draw(grids(tuple(full))), weights)
    lazy = decompose([variable], tolerance=1e-10, plan=plan_pod([variable], data.draw(leaf_sizes)))
    factor, blocks = run(lazy)

    expected = singular_values(rows, weights)
    found = np.zeros_like(expected)
    found[: len(factor.gram[0])] = np.sqrt(np.diag(factor.gram[0]))
    assert_allclose(found, expected, rtol=0, atol=1e-10 * expected[0])
    _, all_rows = assembled(lazy, blocks, [variable], 0)
    root = 1.0 if weights is None else np.sqrt(weights)
    exact = np.zeros_like(expected)
    exact[: len(all_rows)] = np.linalg.svd(all_rows * root, compute_uv=False)[: len(expected)]
    assert_allclose(exact, expected, rtol=0, atol=1e-10 * expected[0])
    assert_tree_holds(lazy, factor, blocks, [variable], 1e-12)


# From a chunk a leaf to all chunks in one leaf.
leaf_sizes = st.sampled_from([1, 500, 5_000, 2**25])


@given(
    data=st.data(),
    kind=st.sampled_from(["decay", "noise", "drift", "burst"]),
    tolerance=st.sampled_from([0.3, 1e-2, 1e-4, 1e-8]),
    precision=st.sampled_from([DOUBLE, HOUSEHOLDER]),
    units=st.tuples(*[st.sampled_from([1e-2, 1.0, 1e6])] * 3),
    seed=seeds,
)
@settings(deadline=None, max_examples=60)
def test_the_error_of_the_tree_is_the_error_it_accounts_for(
    data, kind, tolerance, precision, units, seed
):
    """Several variables, each with a grid and dims of its own; a wrong cross term fails here."""
    rng = np.random.default_rng(seed)
    m = data.draw(st.integers(7, 40))
    variables = []
    for unit, shape in zip(
        units, [(300,), (4, 5), (2, 3, 4)][: data.draw(st.integers(1, 3))], strict=False
    ):
        n = int(np.prod(shape))
        rows = unit * (3.0 + made_up(kind, m, n, rng))
        time_axis = data.draw(st.integers(0, len(shape)))
        full = [*shape]
        full.insert(time_axis, m)
        weights = data.draw(st.sampled_from([None, rng.random(n)]))
        variables.append(archived(rows, shape, time_axis, data.draw(grids(tuple(full))), weights))
    plan = plan_pod(variables, data.draw(leaf_sizes))
    lazy = decompose(variables, tolerance=tolerance, precision=precision, plan=plan)
    factor, blocks = run(lazy)

    assert_tree_holds(lazy, factor, blocks, variables, 1e-12)
    for number, variable in enumerate(variables):
        read = Counter(tuple((s.start, s.stop) for s in r) for r in variable.source.reads)
        assert set(read.values()) == {1}
        covered = sum(np.prod([b - a for a, b in region]) for region in read)
        assert covered == np.prod(variable.shape)
        total = np.trace(factor.gram[number]) + factor.discarded[number]
        if len(variables) == 1:
            dropped = factor.discarded[number] + factor.apart.get(number, 0.0)
            assert dropped <= 0.021 * tolerance**2 * total + 1e-13 * total


def made_up(kind, m, n, rng):
    t = np.linspace(0, 1, m)[:, None]
    if kind == "decay":
        return decaying_matrix(rng, m, n, 8)
    if kind == "drift":
        return 100 * t * rng.standard_normal(n) + rng.standard_normal((m, n))
    if kind == "burst":
        return np.where(t > 0.7, 100.0, 1.0) * rng.standard_normal((m, n))
    return rng.standard_normal((m, n))


@given(
    rank=st.integers(1, 12),
    grid=grids((60, 8, 40)),
    size=leaf_sizes,
    dtype=st.sampled_from([F4, F8]),
    noise=st.sampled_from([0.0, 1e-3, 0.1]),
    seed=seeds,
)
@settings(deadline=None, max_examples=30)
def test_a_given_rank_leaves_a_thousandth_more_than_the_optimum_at_most(
    rank, grid, size, dtype, noise, seed
):
    rng = np.random.default_rng(seed)
    rows = decaying_matrix(rng, 60, 320, 3, rank=20) * 300
    rows = (rows + noise * rng.standard_normal(rows.shape)).astype(dtype)
    variable = archived(rows, (8, 40), 0, grid)
    lazy = decompose([variable], rank=rank, plan=plan_pod([variable], size))
    factor, blocks = run(lazy)
    mean, modes = assembled(lazy, blocks, [variable], 0)
    exact = rows.astype(np.float64)
    # The best `rank` of the columns that the tree kept.
    u, s, vt = np.linalg.svd(factor.right @ modes, full_matrices=False)
    error = np.linalg.norm(exact - mean - (u[:, :rank] * s[:rank]) @ vt[:rank])
    optimum = best_error(exact, rank)
    # Beyond the optimum: the rounding of float32 rows.
    rounding = 1e-6 if dtype == F4 else 1e-12
    assert error <= 1.001 * optimum + rounding * np.linalg.norm(fluctuation(exact))


@pytest.mark.parametrize("chunks", [((32,) * 8, (400,)), ((32,) * 8, (200, 200))])
@pytest.mark.parametrize("level", [0.05, 0.1])
def test_noise_far_below_the_tolerance_does_not_pass_through_the_tree(chunks, level):
    """White noise takes a column for every snapshot, of which no node has a use."""
    rng, tolerance, signal = np.random.default_rng(6), 1e-3, 4
    rows = decaying_matrix(rng, 256, 400, 1, rank=signal)
    noise = rng.standard_normal(rows.shape)
    noise *= level * tolerance * np.linalg.norm(fluctuation(rows)) / np.linalg.norm(noise)
    variable = archived(rows + noise, (400,), 0, chunks)
    lazy = decompose([variable], tolerance=tolerance, plan=plan_pod([variable], 1))
    factor, blocks = run(lazy)
    assert_tree_holds(lazy, factor, blocks, [variable], 1e-6)
    assert factor.columns <= 2 * signal


@pytest.mark.parametrize("offset", [0.0, 300.0])
@pytest.mark.parametrize("scale", [1e-3, 1e-30, 1e25])
@pytest.mark.parametrize("chunks", [((7,) * 10, (400,)), ((70,), (400,)), ((10,) * 7, (100, 300))])
def test_float32_keeps_its_digits_whatever_the_units_and_offset(offset, scale, chunks):
    """Fluctuations of 1e-3 on 300 K leave float32 three digits: all three must survive."""
    rng = np.random.default_rng(7)
    signal = decaying_matrix(rng, 70, 400, 2, rank=15) * 40
    unit = max(scale, 1e-3 * (scale < 1)) if offset else scale
    rows = (offset * unit / 1e-3 + unit * signal).astype(np.float32)
    variable = archived(rows, (400,), 0, chunks)
    lazy = decompose([variable], tolerance=1e-2, plan=plan_pod([variable], 1))
    factor, blocks = run(lazy)
    mean, modes = assembled(lazy, blocks, [variable], 0)

    exact = rows.astype(np.float64)
    size = np.linalg.norm(fluctuation(exact) / unit)
    error = np.linalg.norm((exact - mean - factor.right @ modes) / unit) / size
    assert error**2 <= 0.021 * 1e-4
    # Products of float32 panels are right to some 1e-7 of the energy.
    assert_allclose(error**2, factor.discarded[0] / unit**2 / size**2, atol=1e-6)
    found = np.linalg.svd(modes / unit, compute_uv=False)
    assert_allclose(found[:8], singular_values(exact / unit)[:8], rtol=0, atol=1e-5 * size)


@pytest.mark.parametrize("precision", [SINGLE, DOUBLE, HOUSEHOLDER])
@pytest.mark.parametrize("chunks", [((5,) * 8, (100, 200)), ((40,), (300,)), ((5,) * 8, (300,))])
def test_a_constant_variable_is_exact_and_leaves_the_others_alone(precision, chunks):
    rng = np.random.default_rng(0)
    still = np.repeat(rng.standard_normal((1, 300)).astype(np.float32), 40, axis=0)
    moving = decaying_matrix(rng, 40, 300, 6).astype(np.float32)
    alone = [archived(still, (300,), 0, chunks)]
    both = [*alone, archived(moving, (300,), 0, chunks, name="w")]
    for variables in (alone, both):
        lazy = decompose(
            variables, tolerance=1e-2, precision=precision, plan=plan_pod(variables, 1)
        )
        factor, blocks = run(lazy)
        mean, modes = assembled(lazy, blocks, variables, 0)
        assert np.array_equal(mean.astype(np.float32), still[0])
        assert not modes.any()
        assert not factor.gram[0].full.any()
        assert factor.discarded[0] == 0
    assert 2 < factor.right.shape[1] < 39


@given(
    first=grids((45, 3, 100)),
    second=grids((45, 3, 100)),
    sizes=st.tuples(leaf_sizes, leaf_sizes),
    seed=seeds,
)
@settings(deadline=None, max_examples=20)
def test_the_chunk_grid_changes_nothing_but_rounding(first, second, sizes, seed):
    rng = np.random.default_rng(seed)
    rows = 2.0 + decaying_matrix(rng, 45, 300, 6)
    projections = []
    for grid, size in zip((first, second), sizes, strict=True):
        variable = archived(rows, (3, 100), 0, grid)
        lazy = decompose([variable], tolerance=1e-9, plan=plan_pod([variable], size))
        factor, blocks = run(lazy)
        mean, modes = assembled(lazy, blocks, [variable], 0)
        projections.append(mean + factor.right @ modes)
    assert_allclose(projections[0], projections[1], atol=2e-10 * np.linalg.norm(rows - 2.0))


@pytest.mark.parametrize(
    ("chunks", "most"),
    [
        (((10,) * 30, (500,)), 2.0),
        (((10,) * 30, (100,) * 5), 4.0),
        (((300,), (5,) * 100), 4.0),
        (((1,) * 300, (500,)), 2.0),
    ],
)
def test_at_most_four_tasks_a_leaf(chunks, most):
    rows = np.zeros((300, 500))
    variable = archived(rows, (500,), 0, chunks)
    lazy = decompose([variable], tolerance=1e-2, plan=plan_pod([variable], 1))
    leaves = len(chunks[0]) * len(chunks[1])
    assert len(lazy.factor.dask) <= most * leaves + 5


def test_building_the_graph_reads_nothing_and_failures_come_out():
    variable = archived(np.zeros((30, 40)), (40,), 0, ((10,) * 3, (20, 20)), source=ForbiddenSource)
    lazy = decompose([variable], tolerance=1e-2)
    with pytest.raises(AssertionError, match="read while only the graph was built"):
        run(lazy)


@given(
    cut=chunkings(24),
    grid=chunkings(10),
    size=leaf_sizes,
    time=st.integers(0, 23),
    point=st.integers(0, 9),
    kind=st.sampled_from(["inf", "appears", "vanishes"]),
)
@settings(deadline=None, max_examples=40)
def test_the_first_defect_of_the_record_is_named_wherever_the_chunks_end(
    cut, grid, size, time, point, kind
):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((24, 10))
    rows[:, 3] = np.nan
    if kind == "inf":
        rows[time, point] = -np.inf
    else:
        time = max(time, 1)
        rows[:time, point], rows[time:, point] = (
            (1.0, np.nan) if kind == "appears" else (np.nan, 1.0)
        )
    variable = archived(rows, (10,), 0, (cut, grid))
    lazy = decompose([variable], tolerance=1e-2, plan=plan_pod([variable], size))
    factor, _ = run(lazy)
    assert factor.defect is not None
    row = lazy.plan.rows[factor.defect.row]
    assert factor.defect.point + row.region[0].start == point
    # An infinite value at a masked point is both, from the second snapshot on.
    assert factor.defect.time == time
    assert factor.defect.kind == kind or (kind == "inf" and point == 3)


def test_what_was_read_is_counted():
    variable = archived(np.random.default_rng(0).random((24, 10)), (10,), 0, ((6,) * 4, (5, 5)))
    factor, _ = run(decompose([variable], tolerance=1e-2, plan=plan_pod([variable], 1)))
    assert (factor.cost.chunks_read, factor.cost.bytes_read) == (8, 80)
    corners = list(product(range(0, 24, 6), range(0, 10, 5)))
    assert sorted((r[0].start, r[1].start) for r in variable.source.reads) == corners


@pytest.mark.parametrize("blocks", [1, 3])
def test_inner_products_grow_with_points_however_many_variables_have_them(blocks):
    """V variables of one point each have the POD of one variable of V points, in V K numbers."""
    rng, points = np.random.default_rng(5), 30
    rows = decaying_matrix(rng, 60, points, 3)
    rows /= np.linalg.norm(rows, axis=0)
    time = tuple(60 // blocks for _ in range(blocks))
    one = [archived(rows, (points,), 0, (time, (points,)))]
    many = [archived(rows[:, [k]], (1,), 0, (time, (1,)), name=f"v{k}") for k in range(points)]
    energies = []
    for variables in (one, many):
        scales = dict.fromkeys(range(len(variables)), 1.0)
        lazy = decompose(variables, tolerance=1e-4, scales=scales, plan=plan_pod(variables, 1))
        factor, _ = run(lazy)
        numbers = sum(gram.matrix.size for gram in factor.gram.values())
        assert numbers <= points * factor.right.shape[1]
        energy = np.linalg.eigvalsh(sum(gram.full for gram in factor.gram.values()))[::-1]
        energies.append(energy[energy > 1e-6 * energy[0]])
    assert_allclose(*energies, rtol=1e-4)

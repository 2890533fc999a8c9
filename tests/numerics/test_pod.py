"""POD of blocks and their merging, against an SVD of the whole matrix."""

import tracemalloc
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from romzarr.inner_product import InnerProduct
from romzarr.numerics.pod.block import SNAPSHOTS_AT_ONCE, factor_block
from romzarr.numerics.pod.factors import Defect, Place
from romzarr.numerics.pod.inner_products import DOUBLE, SMALL, Precision, choose_precision
from romzarr.numerics.pod.merge import estimate_scales, merge_in_space, merge_in_time, onto_joint
from romzarr.numerics.pod.sketch import POINTS_A_COLUMN, STRIDES
from romzarr.numerics.pod.truncation import Cut
from tests.oracles import decaying_matrix, fluctuation, singular_values, weighted_norm
from tests.strategies import chunkings, seeds

SINGLE = Precision(np.dtype(np.float32), np.dtype(np.float32))
SKETCH = replace(SINGLE, sketch=True)
HOUSEHOLDER = Precision(np.dtype(np.float64), np.dtype(np.float64), householder=True)
HERE = Place(0, 0, 0)
KEEP_ALL = Cut(0.0)
EVEN = InnerProduct()


def rows_of(block):
    """Rows of the time factor's columns, in float64."""
    rows = block.rows.astype(np.float64)
    return rows if block.mix is None else block.mix.T @ rows


def rebuilt(block, factor):
    return block.mean + factor.right @ rows_of(block)


def assert_factors_hold(block, factor, rows, weights=None, *, eps):
    """The laws of the module's first paragraph; `eps` is the rounding they may show."""
    m, k = factor.right.shape
    assert m == len(rows)
    assert_allclose(factor.right.T @ factor.right, np.eye(k), atol=1e-12)
    size = np.abs(fluctuation(rows)).max()
    assert_allclose(block.mean, rows.mean(axis=0), rtol=1e-12, atol=eps * size)
    total = weighted_norm(fluctuation(rows), weights) ** 2
    kept = rows_of(block)
    # Orthogonal to the constant, as far as a column carries anything.
    carried = factor.right.sum(axis=0) ** 2 * np.diag(factor.gram[0])
    assert (carried <= eps * m * total).all()
    gram = (kept if weights is None else kept * weights) @ kept.T
    assert_allclose(factor.gram[0], gram, atol=eps * total)
    # Pythagoras: what is left is what the cuts dropped, and no more.
    error = weighted_norm(rows - rebuilt(block, factor), weights) ** 2
    assert_allclose(error, factor.discarded[0], atol=eps * total)
    assert_allclose(np.trace(factor.gram[0]) + factor.discarded[0], total, rtol=10 * eps)


@given(
    m=st.integers(2, 40),
    n=st.integers(1, 60),
    decades=st.integers(0, 12),
    weighted=st.booleans(),
    householder=st.booleans(),
    share=st.sampled_from([0.0, 1e-12, 1e-4, 0.1]),
    seed=seeds,
)
@settings(deadline=None, max_examples=60)
def test_a_block_is_its_mean_its_modes_and_what_was_dropped(
    m, n, decades, weighted, householder, share, seed
):
    rng = np.random.default_rng(seed)
    rows = decaying_matrix(rng, m, n, decades) + rng.standard_normal(n)
    # A tenth of the weights is zero: those points must come back like all others.
    weights = np.where(rng.random(n) < 0.1, 0, rng.random(n)) if weighted else None
    if weighted:
        weights[0] = 1.0
    precision = HOUSEHOLDER if householder else DOUBLE
    block, factor = factor_block(rows, InnerProduct(weights), Cut(share), precision, HERE)

    assert_factors_hold(block, factor, rows, weights, eps=1e-13)
    total = weighted_norm(fluctuation(rows), weights) ** 2
    assert factor.discarded[0] <= share * total + 2e-15 * total
    # Points of weight zero are projected on the same columns.
    expected = rows.mean(axis=0) + factor.right @ (factor.right.T @ fluctuation(rows))
    assert_allclose(rebuilt(block, factor), expected, atol=1e-12)


@pytest.mark.parametrize("precision", [SINGLE, DOUBLE, HOUSEHOLDER])
@pytest.mark.parametrize("m", range(2, 24))
def test_the_constant_is_never_taken_for_a_fluctuation(precision, m):
    """With all m - 1 fluctuations kept, rounding offers the constant as one more column."""
    rng = np.random.default_rng(m)
    n = max(m - 1, 2)
    rows = 3.0 + np.linalg.qr(rng.standard_normal((m, m)))[0] @ rng.standard_normal((m, n))
    rows += decaying_matrix(rng, m, n, 0)
    block, factor = factor_block(rows, EVEN, KEEP_ALL, precision, HERE)
    assert factor.right.shape[1] <= m - 1
    assert_allclose(rebuilt(block, factor), rows, atol=1e-5)


@given(decades=st.integers(0, 14), weighted=st.booleans(), seed=seeds)
@settings(deadline=None, max_examples=30)
def test_householder_factors_resolve_what_squaring_would_lose(decades, weighted, seed):
    """Gram matrices lose everything below 1e-8 of the first singular value and fail here."""
    rng = np.random.default_rng(seed)
    rows = decaying_matrix(rng, 30, 50, decades)
    weights = 0.5 + rng.random(50) if weighted else None
    _, factor = factor_block(rows, InnerProduct(weights), KEEP_ALL, HOUSEHOLDER, HERE)

    expected = singular_values(rows, weights)
    found = np.zeros_like(expected)
    found[: factor.right.shape[1]] = np.sqrt(np.diag(factor.gram[0]))
    assert_allclose(found, expected, rtol=0, atol=1e-14 * 30 * expected[0])


@pytest.mark.parametrize("precision", [SINGLE, choose_precision([np.dtype("f4")], 1e-3)])
@pytest.mark.parametrize(
    ("offset", "scale"), [(300.0, 1e-3), (0.0, 1e-30), (1e25, 1e22), (-1e30, 1e25)]
)
def test_large_offsets_and_extreme_units_cost_no_digits(precision, offset, scale):
    """Means taken from sums of float32, or squares of 1e-30 in it, would fail here."""
    rng = np.random.default_rng(5)
    rows = (offset + scale * decaying_matrix(rng, 60, 900, 2, rank=30) * 100).astype(np.float32)
    exact = rows.astype(np.float64)
    block, factor = factor_block(rows, EVEN, Cut(1e-6), precision, HERE)

    size = np.linalg.norm(fluctuation(exact))
    assert_allclose(
        np.sqrt(np.diag(factor.gram[0])),
        singular_values(exact)[: len(block.rows)],
        rtol=0,
        atol=1e-6 * size,
    )
    error = np.linalg.norm((exact - rebuilt(block, factor)) / size) ** 2
    assert_allclose(error, factor.discarded[0] / size**2, atol=1e-9)
    assert factor.discarded[0] <= 1e-6 * size**2


def partly_hidden(m, n, hidden):
    """Snapshots of which a share `hidden` lies between the points that a stride looks at."""
    rng = np.random.default_rng(0)
    t = np.linspace(0, 1, m)
    rows = np.outer(np.sin(3 * t), rng.standard_normal(n))
    between = rng.standard_normal(n)
    between[:: STRIDES[0]] = 0
    extra = np.outer(np.cos(9 * t), between)
    return rows + extra * np.sqrt(hidden) * np.linalg.norm(rows) / np.linalg.norm(extra)


def assert_accounted_for(block, factor, rows, weights, share):
    """What was dropped is within the share, and never more than is said of it.

    Where a sketch gave way to all points, rounding of the float32 products is counted too.
    """
    exact = rows.astype(np.float64)
    total = weighted_norm(fluctuation(exact), weights) ** 2
    error = weighted_norm(exact - rebuilt(block, factor), weights) ** 2
    assert -1e-7 * total < factor.discarded[0] - error < 1e-6 * total
    assert factor.discarded[0] <= share * total * (1 + 1e-6)
    gram = rows_of(block) * (1.0 if weights is None else weights) @ rows_of(block).T
    assert_allclose(factor.gram[0], gram, rtol=0, atol=1e-6 * total)


@pytest.mark.parametrize("hidden", [0.0, 1e-6, 1e-4, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("share", [1e-7, 1e-5])
@pytest.mark.parametrize(("m", "offset"), [(8, 0), (40, 20)])
def test_what_a_sketch_of_the_points_cannot_see_is_kept_or_accounted_for(
    hidden, weighted, share, m, offset
):
    """Sums of squares over whole float32 panels, or a rounded 1 / m, would fail here."""
    n = max(STRIDES[0] * POINTS_A_COLUMN * m, SMALL // m) + 7
    rows = (partly_hidden(m, n, hidden) + offset).astype(np.float32)
    weights = np.random.default_rng(1).random(n) if weighted else None
    block, factor = factor_block(rows, InnerProduct(weights), Cut(share), SKETCH, HERE)
    assert_accounted_for(block, factor, rows, weights, share)


@pytest.mark.parametrize("hidden", [0.0, 1e-6, 1e-4, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("share", [1e-6, 1e-4])
def test_what_a_sketch_of_a_merge_cannot_see_is_kept_or_accounted_for(hidden, weighted, share):
    m, n = 60, SMALL // 6
    rows = partly_hidden(m, n, hidden).astype(np.float32)
    weights = np.random.default_rng(1).random(n) if weighted else None
    parts = [
        factor_block(rows[a : a + 20], InnerProduct(weights), KEEP_ALL, DOUBLE, Place(0, 0, a))
        for a in range(0, m, 20)
    ]
    merged = merge_in_time(parts, InnerProduct(weights), Cut(share), SKETCH, HERE)
    assert_accounted_for(*merged, rows, weights, share)


def test_a_sketch_keeps_no_more_than_looking_at_all_points():
    rows = partly_hidden(40, SMALL // 30, 0.1).astype(np.float32)
    rows += 1e-5 * np.random.default_rng(2).standard_normal(rows.shape, np.float32)
    sketched, everything = (
        factor_block(rows, EVEN, Cut(1e-6), precision, HERE)[0] for precision in (SKETCH, SINGLE)
    )
    assert len(sketched.rows) == len(everything.rows) == 2


@pytest.mark.parametrize("precision", [SINGLE, DOUBLE, HOUSEHOLDER])
@pytest.mark.parametrize("value", [0.0, 0.1, 300.1, 1e-38, 3e38])
def test_a_constant_has_no_modes_and_an_exact_mean(precision, value):
    rows = np.full((50, 33), value, np.float32)
    block, factor = factor_block(rows, EVEN, Cut(1e-6), precision, HERE)
    assert factor.right.shape == (50, 0)
    assert np.array_equal(block.mean.astype(np.float32), rows[0])
    assert factor.discarded[0] == 0


@pytest.mark.parametrize("scale", [1e-160, 1e160, 1e308])
def test_squares_that_leave_float64_are_a_defect_with_its_place(scale):
    rows = np.zeros((9, 4))
    rows[5, 2] = scale
    _, factor = factor_block(rows, EVEN, KEEP_ALL, DOUBLE, Place(3, 7, 100))
    assert factor.defect == Defect(105, "scale", 7, 2)


@pytest.mark.parametrize("precision", [SINGLE, DOUBLE, HOUSEHOLDER])
@pytest.mark.parametrize("share", [1.0, 0.3, 0.1, 0.03])
def test_sums_that_overflow_of_values_that_do_not_are_a_defect(precision, share):
    t = np.linspace(0, 1, 150)[:, None]
    rows = (3 * t**2 - t) * np.linspace(0.2, 1, 6)
    rows *= share * np.finfo(float).max / rows.max()
    _, factor = factor_block(rows, EVEN, KEEP_ALL, precision, Place(3, 7, 100))
    assert factor.defect is not None
    assert factor.defect.kind == "scale"


@given(
    seed=seeds,
    exponent=st.floats(141, 308),
    points=st.sampled_from([1, 6, 2000]),
    precision=st.sampled_from([SINGLE, DOUBLE, HOUSEHOLDER, SKETCH]),
)
@settings(deadline=None, max_examples=60)
def test_any_sum_on_the_way_may_overflow(seed, exponent, points, precision):
    """Of values, of products, or only of energies each of which is in the range."""
    rows = 10**exponent * np.random.default_rng(seed).uniform(-1, 1, (9, points))
    _, factor = factor_block(rows, EVEN, Cut(1e-6), precision, Place(3, 7, 100))
    assert factor.defect is not None
    assert factor.defect.kind == "scale"


@given(
    seed=seeds, share=st.floats(0.01, 0.9), precision=st.sampled_from([SINGLE, DOUBLE, HOUSEHOLDER])
)
@settings(deadline=None, max_examples=25)
def test_masked_points_change_nothing_else(seed, share, precision):
    rng = np.random.default_rng(seed)
    rows = decaying_matrix(rng, 20, 40, 3).astype(np.float32)
    hidden = rng.random(40) < share
    hidden[0] = False
    alone = factor_block(rows[:, ~hidden], EVEN, Cut(1e-6), precision, HERE)
    masked = np.where(hidden, np.float32(np.nan), rows)
    block, factor = factor_block(masked, EVEN, Cut(1e-6), precision, HERE)

    assert factor.defect is None
    assert np.array_equal(block.valid, ~hidden) if hidden.any() else block.valid is None
    assert not block.rows[:, hidden].any()
    assert not block.mean[hidden].any()
    assert_allclose(np.diag(factor.gram[0]), np.diag(alone[1].gram[0]), rtol=1e-5, atol=1e-9)
    assert_allclose(rebuilt(block, factor)[:, ~hidden], rebuilt(*alone), atol=1e-5)


@pytest.mark.parametrize("precision", [SINGLE, DOUBLE, HOUSEHOLDER])
@pytest.mark.parametrize("snapshots", [12, SNAPSHOTS_AT_ONCE + 40])
@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        ("inf", 1.0, np.inf),
        ("inf", 1.0, -np.inf),
        ("appears", 1.0, np.nan),
        ("vanishes", np.nan, 1.0),
    ],
)
def test_the_first_value_that_cannot_be_compressed_is_found(
    precision, snapshots, kind, before, after
):
    rng = np.random.default_rng(1)
    points = 300 if snapshots > SNAPSHOTS_AT_ONCE else 20
    rows = rng.standard_normal((snapshots, points))
    rows[:7, 5] *= before
    rows[7:, 5] *= after
    rows[9, 2] = np.inf
    if kind == "inf":
        rows[7:, 5] = after
    _, factor = factor_block(rows, EVEN, KEEP_ALL, precision, Place(0, 4, 1000))
    assert (factor.defect.time, factor.defect.kind) == (1007, kind)
    assert (factor.defect.row, factor.defect.point) == (4, 5)


@pytest.mark.parametrize("precision", [SINGLE, DOUBLE, HOUSEHOLDER])
def test_a_block_that_is_masked_from_its_first_snapshot_to_its_last_has_no_defect(precision):
    _, factor = factor_block(np.full((5, 3), np.nan), EVEN, KEEP_ALL, precision, HERE)
    assert factor.defect is None
    assert factor.right.shape == (5, 0)


@pytest.mark.parametrize("points", [30, SNAPSHOTS_AT_ONCE + 20])
@pytest.mark.parametrize("precision", [DOUBLE, SINGLE])
def test_a_long_record_of_few_points_takes_no_square_of_its_length(points, precision):
    """Noise, of which no columns can be dropped."""
    m = 6000
    rows = 3.0 + np.random.default_rng(0).standard_normal((m, points)).astype(precision.products)
    tracemalloc.start()
    block, factor = factor_block(rows, EVEN, Cut(1e-6), precision, HERE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * 8 * m * points
    assert factor.right.shape == (m, points)
    wide = rows.astype(np.float64)
    energy = np.linalg.eigvalsh(factor.gram[0])[::-1]
    exact = singular_values(wide - wide.mean(axis=0)) ** 2
    assert_allclose(energy, exact[:points], rtol=1e-4 if precision.rows.itemsize == 4 else 1e-9)
    assert np.abs(rebuilt(block, factor) - wide).max() < 1e-4


def test_long_blocks_are_factored_in_pieces_with_the_same_law():
    rng = np.random.default_rng(2)
    m, n = SNAPSHOTS_AT_ONCE + 77, SNAPSHOTS_AT_ONCE + 30
    rows = decaying_matrix(rng, m, n, 6) + np.linspace(-3, 3, m)[:, None] * rng.random(n)
    weights = rng.random(n)
    block, factor = factor_block(rows, InnerProduct(weights), Cut(1e-8), DOUBLE, HERE)
    assert_factors_hold(block, factor, rows, weights, eps=1e-12)
    total = weighted_norm(fluctuation(rows), weights) ** 2
    assert factor.discarded[0] <= 1e-8 * total
    expected = singular_values(rows, weights)
    k = len(block.rows)
    # What was dropped lies between the optimum and twice the share that was allowed.
    assert factor.discarded[0] >= np.sum(expected[k:] ** 2) * (1 - 1e-9)
    assert_allclose(np.sqrt(np.diag(factor.gram[0])), expected[:k], atol=1e-4 * expected[0])


@given(
    lengths=chunkings(40),
    weighted=st.booleans(),
    householder=st.booleans(),
    drift=st.sampled_from([0.0, 1.0, 1e3]),
    share=st.sampled_from([0.0, 1e-6, 1e-2]),
    seed=seeds,
)
@settings(deadline=None, max_examples=50)
def test_blocks_in_time_merge_into_the_whole(lengths, weighted, householder, drift, share, seed):
    """Blocks have means of their own: a merge that forgets their difference fails here."""
    rng = np.random.default_rng(seed)
    n = 25
    rows = decaying_matrix(rng, 40, n, 5) + drift * np.linspace(0, 1, 40)[:, None] * rng.random(n)
    weights = rng.random(n) if weighted else None
    precision = HOUSEHOLDER if householder else DOUBLE
    edges = np.cumsum([0, *lengths])
    parts = [
        factor_block(rows[a:b], InnerProduct(weights), Cut(share), precision, Place(0, 0, int(a)))
        for a, b in pairwise(edges)
    ]
    block, factor = merge_in_time(parts, InnerProduct(weights), Cut(share), precision, HERE)
    assert_factors_hold(block, factor, rows, weights, eps=1e-12)
    total = weighted_norm(fluctuation(rows), weights) ** 2
    assert factor.discarded[0] <= 2 * share * total + 1e-14 * len(lengths) * total
    if share == 0 and householder:
        expected = singular_values(rows, weights)
        found = np.zeros_like(expected)
        found[: len(block.rows)] = np.sqrt(np.diag(factor.gram[0]))
        assert_allclose(found, expected, rtol=0, atol=1e-12 * expected[0])


@pytest.mark.parametrize("sketch", [False, True])
@pytest.mark.parametrize("below", [0.0, 0.5, 1.0])
def test_a_merge_may_drop_what_the_blocks_have_left_of_the_share(below, sketch):
    """Columns of equal energy, so that a share is a number of columns; no wider one halves it."""
    m, share = 80, 0.1
    n = STRIDES[0] * POINTS_A_COLUMN * m
    rng = np.random.default_rng(4)
    rows = np.linalg.qr(rng.standard_normal((n, m)))[0].T
    precision = SKETCH if sketch else DOUBLE
    parts = [
        factor_block(rows[a : a + 40], EVEN, Cut(below * share), precision, Place(0, 0, a))
        for a in (0, 40)
    ]
    block, factor = merge_in_time(parts, EVEN, Cut(share, below=share), precision, HERE)
    dropped = factor.discarded[0] / np.linalg.norm(fluctuation(rows)) ** 2
    # Whole columns go, of 40 in a block, and a sketch leaves some of the share.
    assert share / 2 <= dropped <= share
    assert_factors_hold(block, factor, rows, eps=1e-6)


def test_a_mask_that_changes_between_blocks_is_found():
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((20, 6))
    rows[:, 1] = np.nan
    rows[10:, 4] = np.nan
    parts = [
        factor_block(rows[a : a + 10], EVEN, KEEP_ALL, DOUBLE, Place(0, 2, a)) for a in (0, 10)
    ]
    _, factor = merge_in_time(parts, EVEN, KEEP_ALL, DOUBLE, Place(0, 2, 0))
    assert (factor.defect.time, factor.defect.kind) == (10, "appears")
    assert (factor.defect.row, factor.defect.point) == (2, 4)


@given(
    scales=st.tuples(st.integers(-8, 8), st.integers(-8, 8)), householder=st.booleans(), seed=seeds
)
@settings(deadline=None, max_examples=40)
def test_blocks_in_space_merge_into_the_whole(scales, householder, seed):
    """Variables of different units: each keeps its own accuracy, not that of the largest."""
    rng = np.random.default_rng(seed)
    units = [10.0**s for s in scales]
    rows = [unit * decaying_matrix(rng, 30, n, 4) for unit, n in zip(units, (12, 20), strict=True)]
    precision = HOUSEHOLDER if householder else DOUBLE
    parts = [
        factor_block(x, EVEN, Cut(1e-6), precision, Place(v, v, 0)) for v, x in enumerate(rows)
    ]
    factors = [factor for _, factor in parts]
    weight = estimate_scales(factors, (0, 1))
    joint = merge_in_space(factors, (0, 1), weight, Cut(1e-6), precision)

    assert_allclose(joint.right.T @ joint.right, np.eye(joint.right.shape[1]), atol=1e-12)
    for v, x in enumerate(rows):
        total = np.linalg.norm(fluctuation(x)) ** 2
        assert_allclose(weight[v], 30 / total, rtol=1e-6)
        block = onto_joint(parts[v][0], parts[v][1], joint)
        error = np.linalg.norm(x - rebuilt(block, joint)) ** 2
        # One block of space each, whose own modes are orthogonal in space too.
        dropped = joint.discarded[v] + joint.apart[v]
        assert_allclose(error, dropped, rtol=1e-6, atol=1e-12 * total)
        assert error <= 2.0e-6 * total
        assert_allclose(joint.gram[v], rows_of(block) @ rows_of(block).T, atol=1e-12 * total)


@pytest.mark.parametrize(
    ("dtypes", "tolerance", "householder", "products"),
    [
        (["f4"], 1e-2, False, "f4"),
        (["f4"], 1e-3, False, "f8"),
        (["f8"], 1e-10, True, "f8"),
        (["f8", "f4"], None, True, "f8"),
        (["f4"], None, False, "f4"),
    ],
)
def test_arithmetic_follows_the_accuracy_asked_for(dtypes, tolerance, householder, products):
    chosen = choose_precision([np.dtype(d) for d in dtypes], tolerance)
    assert chosen.householder is householder
    assert chosen.products == np.dtype(products)

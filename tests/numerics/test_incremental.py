"""POD of a stream: what is promised of it, against sums over all snapshots at once."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from romzarr.errors import ArchiveError
from romzarr.inner_product import InnerProduct, InnerProducts
from romzarr.numerics.pod.incremental import AT_ONCE, IncrementalPOD
from romzarr.numerics.triangles import canonical_r
from tests.oracles import decaying_matrix, fluctuation, singular_values
from tests.strategies import chunkings, seeds


def padded(a, rank):
    return np.pad(a, ((0, 0), (0, rank - a.shape[1])))


def streamed(rows, blocks, tolerance, *, cut=None, every=3, **settings):
    """Feed `rows` in blocks, with a cut after every few; the POD and all coefficients."""
    pod, a, done = IncrementalPOD(tolerance, **settings), np.zeros((0, 0)), 0
    for number, length in enumerate(blocks):
        block = pod.update(rows[done : done + length])
        a, done = np.concatenate([padded(a, pod.rank), block]), done + length
        if cut is not None and number % every == every - 1:
            move = pod.cut(cut)
            a = move(a) if move is not None else a
    return pod, a


def side_by_side(sizes, weights=None):
    each = [None] * len(sizes) if weights is None else np.split(weights, np.cumsum(sizes)[:-1])
    return InnerProducts.of([InnerProduct(part) for part in each], sizes)


def by_variable(rows, sizes, weights=None):
    """Squared norm of each variable."""
    squares = (rows**2 if weights is None else weights * rows**2).sum(axis=0)
    return np.add.reduceat(squares, np.cumsum([0, *sizes[:-1]]))


@settings(deadline=None, max_examples=60)
@given(
    m=st.integers(2, 60),
    sizes=st.lists(st.integers(1, 25), min_size=1, max_size=3),
    decades=st.integers(0, 10),
    tolerance=st.sampled_from([0.0, 1e-8, 1e-3, 0.1]),
    cut=st.sampled_from([None, 1e-3, 0.1, 0.5]),
    weighted=st.booleans(),
    units=st.sampled_from([1.0, 1e-6, 1e6]),
    data=st.data(),
    seed=seeds,
)
def test_what_was_lost_is_known_exactly(
    m, sizes, decades, tolerance, cut, weighted, units, data, seed
):
    """Sums without `met`, or moves that forget the past's shift, would fail here."""
    rng = np.random.default_rng(seed)
    n = sum(sizes)
    scales = np.repeat(units ** np.arange(len(sizes)), sizes)
    rows = (decaying_matrix(rng, m, n, decades) + rng.standard_normal(n)) * scales
    weights = np.where(rng.random(n) < 0.1, 0.0, rng.random(n)) if weighted else None
    if weighted:
        weights[np.cumsum([0, *sizes[:-1]])] = 1.0
    blocks = data.draw(chunkings(m))
    pod, a = streamed(rows, blocks, tolerance, cut=cut, inner=side_by_side(sizes, weights))

    total = by_variable(fluctuation(rows), sizes, weights)
    assert pod.snapshots == m
    # What is held of values is rounded: next to a large mean, fluctuations have fewer digits.
    rounding = 1e-26 * by_variable(rows, sizes, weights) + 1e-300
    assert_allclose(pod.fluctuation, total, rtol=1e-9, atol=rounding.max() if m > 1 else 0)
    assert_allclose(pod.mean, rows.mean(axis=0), atol=1e-12 * np.abs(rows).max())
    error = by_variable(rows - pod.rebuilt(a), sizes, weights)
    assert (np.abs(pod.lost - error) <= 1e-10 * error + 1e-13 * total + rounding).all()
    bound = tolerance**2 + (cut or 0.0) ** 2
    assert (error <= bound * total * (1 + 1e-9) + 1e-24 * total + 1e3 * rounding).all()
    gram = pod.inner.joint(pod._basis.factors).gram(pod.modes)
    assert_allclose(gram, np.eye(pod.rank), atol=1e-6)
    ones = np.concatenate([np.ones((m, 1)), a], axis=1)
    assert_allclose(
        pod.triangle.T @ pod.triangle,
        ones.T @ ones,
        atol=1e-10 * max(1.0, np.abs(a).max()) ** 2 * m,
    )


@settings(deadline=None, max_examples=40)
@given(
    stops=st.sets(st.integers(1, 79), max_size=5),
    decades=st.integers(0, 6),
    masked=st.booleans(),
    seed=seeds,
)
def test_after_a_resume_what_was_lost_is_bounded(stops, decades, masked, seed):
    """Modes as they decode: of other lengths, no longer at right angles, and a little off."""
    rng = np.random.default_rng(seed)
    rows = 3.0 + decaying_matrix(rng, 80, 30, decades)
    if masked:
        rows[:, ::4] = np.nan
    valid = ~np.isnan(rows[0])
    pod, a, edges = IncrementalPOD(1e-3), np.zeros((0, 0)), [0, *sorted(stops), 80]
    for start, stop in pairwise(edges):
        if start:
            coded = rng.uniform(0.5, 2, pod.rank)[:, None]
            state = replace(pod.state, modes=pod.modes * coded)
            state = replace(state, triangle=state.triangle / np.append(1.0, coded))
            pod = IncrementalPOD.resumed(state, 1e-3)
            a = a / coded.T
        block = pod.update(rows[start:stop])
        a = np.concatenate([padded(a, pod.rank), block])
        move = pod.cut(5e-3)
        a = move(a) if move is not None else a
    x = rows[:, valid]
    error = np.sum((x - pod.rebuilt(a)[:, valid]) ** 2)
    total = np.sum(fluctuation(x) ** 2)
    assert error * (1 - 1e-9) - 1e-26 <= pod.lost[0] <= 25e-6 * pod.fluctuation[0] + 1e-26
    assert pod.fluctuation[0] <= total * (1 + 1e-9)
    assert pod.fluctuation[0] >= 0.9 * total
    assert pod.snapshots == 80


@settings(deadline=None, max_examples=30)
@given(blocks=chunkings(80, most=12), decades=st.integers(2, 8), seed=seeds)
def test_rank_is_that_of_all_snapshots_at_once(blocks, decades, seed):
    """With a small share lost on the way, the last cut finds the best basis but for a mode."""
    rng = np.random.default_rng(seed)
    rows = decaying_matrix(rng, 80, 40, decades)[rng.permutation(80)]
    pod, a = streamed(rows, blocks, 0.07 * 1e-2, cut=0.3 * 1e-2)
    move = pod.cut(1e-2)
    sigma = singular_values(rows)
    best = next(r for r in range(41) if np.linalg.norm(sigma[r:]) <= 1e-2 * np.linalg.norm(sigma))
    assert best <= pod.rank <= best + 1
    error = np.linalg.norm(rows - pod.rebuilt(move(a)))
    assert error <= 1e-2 * np.linalg.norm(fluctuation(rows)) * (1 + 1e-12)
    # Principal axes about the mean, and orthogonal in time.
    a = move(a)
    assert_allclose(a.mean(axis=0), 0, atol=1e-12)
    assert_allclose(a.T @ a, np.diag(np.sum(a**2, axis=0)), atol=1e-12)
    share = sigma / np.linalg.norm(sigma)
    assert_allclose(np.linalg.norm(a, axis=0), share[: pod.rank], atol=1e-2 * share[0])


def test_a_cut_loses_the_past_no_direction_that_pays():
    """Without tolerance to spare a cut only turns: everything comes back."""
    rng = np.random.default_rng(0)
    rows = 5.0 + decaying_matrix(rng, 30, 50, 2, rank=6)
    pod, a = streamed(rows, (1,) * 30, 1e-12)
    grown = pod.rank
    move = pod.cut(1e-12)
    assert move.turn.shape == (pod.rank, grown)
    # The first snapshot as the origin costs a direction that the mean does not.
    assert (grown, pod.rank) == (6, 6) or grown == pod.rank + 1
    assert_allclose(pod.rebuilt(move(a)), rows, atol=1e-11)
    assert pod.cut(0.0).turn.shape == (6, 6)


def test_the_mean_as_origin_saves_the_direction_towards_it():
    t = np.linspace(0, 6 * np.pi, 90)
    rng = np.random.default_rng(0)
    shapes = np.linalg.qr(rng.standard_normal((40, 3)))[0].T
    # Affine of rank 2: sets out from a far point of the plane, once around the mean.
    rows = np.column_stack([np.sin(t), np.cos(t)]) @ shapes[:2] + 3 * shapes[2]
    pod, a = streamed(rows, (1,) * 90, 1e-9)
    assert pod.rank == 2
    move = pod.cut(1e-9)
    assert_allclose(pod.origin, rows.mean(axis=0), atol=1e-12)
    assert_allclose(pod.rebuilt(move(a)), rows, atol=1e-12)


@pytest.mark.parametrize("block", [1, 7, 50])
def test_a_new_regime_gets_its_directions_at_once_and_old_ones_go_when_they_are_idle(block):
    rng = np.random.default_rng(0)
    t = np.arange(700) * 0.1
    shapes = np.linalg.qr(rng.standard_normal((60, 5)))[0].T
    quiet = 0.05 * np.column_stack([np.sin(t), np.cos(t)]) @ shapes[:2]
    loud = np.column_stack([np.sin(2 * t), np.cos(2 * t)]) @ shapes[2:4]
    rows = np.where(t[:, None] < 20, quiet, loud)
    pod = IncrementalPOD(1e-3)
    for start in range(0, 700, block):
        part = rows[start : start + block]
        a = pod.update(part)
        assert (pod.errors <= 1e-3).all()
        if start == 200:
            assert pod.rank == 3 + (block > 1)
            assert_allclose(pod.rebuilt(a), part, atol=1e-3)
    assert pod.rank == 4
    pod.cut(0.05)
    assert pod.rank == 2
    assert (pod.errors <= 0.05).all()


def test_zero_weights_come_back_and_masked_points_are_left_alone():
    rng = np.random.default_rng(3)
    rows = 2.0 + decaying_matrix(rng, 40, 30, 1, rank=4)
    weights = np.ones(30)
    weights[::7] = 0
    pod, a = streamed(rows, (7,) * 5 + (5,), 1e-10, cut=1e-10, inner=side_by_side((30,), weights))
    assert_allclose(pod.rebuilt(a), rows, atol=1e-8)
    hidden = rows.copy()
    hidden[:, ::5] = np.nan
    masked, b = streamed(hidden, (7,) * 5 + (5,), 1e-10, cut=1e-10)
    assert_allclose(masked.rebuilt(b)[:, 1::5], rows[:, 1::5], atol=1e-8)
    assert (masked.rebuilt(b)[:, ::5] == 0).all()


def test_a_variable_that_is_constant_costs_nothing_until_it_moves():
    rng = np.random.default_rng(1)
    first = decaying_matrix(rng, 40, 10, 1, rank=2)
    second = np.zeros((40, 6))
    second[25:] = 1e4 * decaying_matrix(rng, 15, 6, 1, rank=2)
    rows = np.concatenate([first, 7.0 + second], axis=1)
    pod = IncrementalPOD(1e-6, inner=side_by_side((10, 6)))
    for k in range(25):
        pod.update(rows[k : k + 1])
    assert pod.rank == 2
    assert pod.fluctuation[1] == pod.lost[1] == 0
    for k in range(25, 40):
        pod.update(rows[k : k + 1])
        assert (pod.errors <= 1e-6 * (1 + 1e-9)).all()
    assert 4 <= pod.rank <= 5


def test_directions_that_are_best_for_all_suffice_for_each():
    """Least squares over all variables may leave one of them more than its share."""
    rng = np.random.default_rng(216)
    rows = decaying_matrix(rng, 39, 28, 2) + rng.standard_normal(28)
    pod, a = streamed(rows, [17, 5, 17], 0.1, inner=side_by_side((23, 5)))
    error = by_variable(rows - pod.rebuilt(a), [23, 5])
    assert (error <= 0.01 * by_variable(fluctuation(rows), [23, 5])).all()


@pytest.mark.parametrize("scale", [1e-28, 1e-3, 1e9])
def test_a_variable_that_begins_to_move_does_so_in_its_own_units(scale):
    """Before, one beside it that is 10^28 times smaller says nothing of how far it will go."""
    rng = np.random.default_rng(0)
    small, large = scale * rng.standard_normal((60, 80)), rng.standard_normal((60, 70))
    still = np.where(np.arange(60) == 30, -299.0, -300.0)[:, None] * np.ones((1, 6))
    rows, sizes = np.concatenate([small, still, large], axis=1), (80, 6, 70)
    pod, a = streamed(rows, [13, 2, 45], 1e-4, inner=side_by_side(sizes))
    whole = by_variable(rows - rows.mean(axis=0), sizes)
    assert (by_variable(rows - pod.rebuilt(a), sizes) <= 1e-8 * whole).all()
    # What coefficients of modes cancel of each other costs digits.
    terms = np.sum(a**2, axis=0) @ np.array([by_variable(mode[None], sizes) for mode in pod.modes])
    assert (terms <= 100 * whole).all()


def test_long_blocks_are_taken_in_pieces():
    rng = np.random.default_rng(2)
    rows = decaying_matrix(rng, 2 * AT_ONCE + 30, 20, 3)
    pod = IncrementalPOD(1e-2)
    a = pod.update(rows)
    assert a.shape == (len(rows), pod.rank)
    assert_allclose(np.linalg.norm(rows - pod.rebuilt(a)) ** 2, pod.lost[0])
    assert pod.update(rows[:0]).shape == (0, pod.rank)


def test_the_triangle_is_that_of_the_coefficients():
    rng = np.random.default_rng(4)
    rows = decaying_matrix(rng, 50, 20, 12)
    pod, a = streamed(rows, (10,) * 5, 1e-13)
    expected = canonical_r(np.concatenate([np.ones((50, 1)), a], axis=1))
    assert_allclose(pod.triangle, expected, atol=1e-14)


@pytest.mark.parametrize(
    ("value", "place", "words"),
    [(np.inf, (3, 4), "infinite"), (np.nan, (3, 4), "found NaN"), (1.0, (3, 2), "a number")],
)
def test_what_cannot_be_is_named(value, place, words):
    rows = np.arange(50.0).reshape(5, 10) ** 2
    rows[:, 2] = np.nan
    pod = IncrementalPOD(0.1)
    pod.update(rows)
    assert pod.cut(0.1) is not None
    rows[place] = value
    before = pod.lost.copy(), pod.snapshots, pod.mean
    with pytest.raises(ArchiveError, match=f"snapshot 8, point {place[1]}: .*{words}"):
        pod.update(rows)
    # A block that was refused has left no trace.
    for mine, theirs in zip((pod.lost, pod.snapshots, pod.mean), before, strict=True):
        assert_allclose(mine, theirs)


def test_sizes_have_to_fit():
    with pytest.raises(ValueError, match="10 points"):
        IncrementalPOD(0.1, inner=side_by_side((4, 4))).update(np.zeros((2, 10)))
    assert IncrementalPOD(0.1).rank == 0

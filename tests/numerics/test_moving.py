"""Moves of the basis: features and triangles against those of the moved coefficients."""

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from romzarr.contracts import BlockSpan, TriangularFactor
from romzarr.errors import LibraryError
from romzarr.numerics.change_of_basis import Move
from romzarr.numerics.dynamics.library import FourierLibrary, PolynomialLibrary
from romzarr.numerics.dynamics.moving import monomial_map, moved_library, moved_plan, weak_maps
from romzarr.numerics.dynamics.stlsq import stlsq
from romzarr.numerics.dynamics.weakform import plan_windows, triangular_factor
from romzarr.numerics.triangles import square_r
from tests.strategies import seeds
from tests.systems_of_odes import LORENZ, with_noise


def a_move(rng, states, new):
    return Move(rng.standard_normal((new, states)), rng.standard_normal(new))


def a_rotation(rng, states):
    turn = np.linalg.qr(rng.standard_normal((states, states)))[0]
    return Move(turn, rng.standard_normal(states))


def whole(a, times, library, plan):
    return triangular_factor(a, times, library, plan, BlockSpan(0, len(times)))


def moved_factor(factor, library, plan, move):
    """Triangle of the weak system after a move, from that before."""
    both, of_noise = weak_maps(library, move, plan)
    noise = None if factor.noise is None else square_r(factor.noise @ of_noise)
    terms = moved_library(library, move).size
    return TriangularFactor(square_r(factor.r @ both), terms, factor.windows, noise)


@settings(deadline=None, max_examples=60)
@given(
    states=st.integers(1, 5),
    new=st.integers(1, 5),
    degree=st.integers(0, 4),
    seed=seeds,
)
def test_features_of_moved_coefficients_are_combinations_of_the_features(states, new, degree, seed):
    rng = np.random.default_rng(seed)
    library, move = PolynomialLibrary(states, degree), a_move(rng, states, new)
    a = rng.standard_normal((30, states))
    found = library.evaluate(a) @ monomial_map(library, move)
    expected = moved_library(library, move).evaluate(move(a))
    assert found.shape[1] == comb(new + degree, degree)
    assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


@settings(deadline=None, max_examples=20)
@given(sizes=st.lists(st.integers(1, 4), min_size=3, max_size=3), seed=seeds)
def test_two_moves_are_one(sizes, seed):
    rng = np.random.default_rng(seed)
    first, second = a_move(rng, sizes[0], sizes[1]), a_move(rng, sizes[1], sizes[2])
    both, a = second.after(first), rng.standard_normal((5, sizes[0]))
    assert_allclose(both(a), second(first(a)), atol=1e-12)
    library = PolynomialLibrary(sizes[0], 2)
    in_turn = monomial_map(library, first) @ monomial_map(moved_library(library, first), second)
    assert_allclose(monomial_map(library, both), in_turn, atol=1e-10)
    ones = np.concatenate([np.ones((5, 1)), a], axis=1) @ both.augmented
    assert_allclose(ones, np.column_stack([np.ones(5), both(a)]), atol=1e-12)


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("psi", ["bell", "(1 - s)**3 * (1 + s)**2"])
@pytest.mark.parametrize("new", [2, 3, 5])
def test_the_triangle_moves_with_the_basis(noise, psi, new):
    """Noise is alike in all coefficients, as in an orthonormal basis, and turned with it."""
    times, a = LORENZ.record(1500)
    a = a / np.abs(a).max()
    rng = np.random.default_rng(new)
    if noise:
        a = a + noise * rng.standard_normal(a.shape)
    library = PolynomialLibrary(3, 3)
    plan = plan_windows(times, a, test_function=psi)
    if noise:
        assert plan.noise is not None
        plan = type(plan)(**{**vars(plan), "noise": (noise,) * 3})
    move = a_rotation(rng, 3)
    if new != 3:
        rows = np.eye(new, 3) if new > 3 else move.turn[:new]
        move = Move(rows, move.shift[:new] if new < 3 else np.zeros(new))
    found = moved_factor(whole(a, times, library, plan), library, plan, move)
    plan = moved_plan(plan, move)
    expected = whole(move(a), times, moved_library(library, move), plan)
    assert (found.terms, found.windows) == (expected.terms, expected.windows)
    for mine, theirs in ((found.r, expected.r), (found.noise, expected.noise)):
        if theirs is None:
            assert mine is None
            continue
        gram = theirs.T @ theirs
        assert_allclose(mine.T @ mine, gram, atol=1e-11 * gram.max())


def test_a_model_found_after_a_move_is_the_moved_model():
    times, a = LORENZ.record(4000)
    a = with_noise(a, 1e-3, 0)
    library, plan = PolynomialLibrary(3, 2), plan_windows(times, a)
    move = a_rotation(np.random.default_rng(1), 3)
    model = stlsq(moved_factor(whole(a, times, library, plan), library, plan, move), threshold=0.0)
    truth = LORENZ.coefficients(library.names())
    expected = library.evaluate(a[::7]) @ truth @ move.turn.T
    found = library.evaluate(move(a[::7])) @ model.coefficients
    assert np.linalg.norm(found - expected) < 2e-3 * np.linalg.norm(expected)


def test_growth_leaves_old_features_and_adds_zeros():
    library = PolynomialLibrary(2, 2)
    features = monomial_map(library, Move.growth(2, 1))
    names = PolynomialLibrary(3, 2).names()
    for name, column in zip(names, features.T, strict=True):
        expected = np.array([other == name for other in library.names()], float)
        assert_allclose(column, expected), name


@pytest.mark.parametrize(
    "library", [FourierLibrary(2, (1.0,)), PolynomialLibrary(2, 2, interactions=False)]
)
def test_libraries_that_do_not_move_say_so(library):
    with pytest.raises(LibraryError, match="anew"):
        monomial_map(library, Move.growth(2, 1))
    with pytest.raises(LibraryError, match="3 coefficients"):
        moved_library(PolynomialLibrary(2, 2), Move.growth(3, 1))

"""Equations move exactly with coordinates, and those in which they are sparse are found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from romzarr.numerics.change_of_basis import Move
from romzarr.numerics.dynamics.coordinates import search
from romzarr.numerics.dynamics.coordinates.affine import Frames, generators, inverse
from romzarr.numerics.dynamics.coordinates.dense import dense_fit
from romzarr.numerics.dynamics.coordinates.elimination import Model, eliminated
from romzarr.numerics.dynamics.coordinates.evidence import Evidence
from romzarr.numerics.dynamics.coordinates.search import (
    FEW,
    in_order,
    sparsest_in,
    sparsest_model,
    weighed,
)
from romzarr.numerics.dynamics.integrate import Dynamics
from romzarr.numerics.dynamics.library import PolynomialLibrary
from romzarr.numerics.dynamics.shooting import Record
from romzarr.numerics.dynamics.term_selection import term_price
from tests.systems_of_odes import LORENZ, VAN_DER_POL, KnownSystem

# As many terms as there are: no model has too many.
EVERY = 1000
SIZES = {
    "states": st.integers(1, 4),
    "degree": st.integers(1, 3),
    "seed": st.integers(0, 2**32 - 1),
}


def some_frames(rng, count, states):
    """Well-conditioned maps with rows of length one."""
    turns = np.linalg.qr(rng.standard_normal((count, states, states)))[0]
    turns = turns + 0.3 * rng.standard_normal(turns.shape)
    return Frames.scaled(turns, rng.standard_normal((count, states)))


@given(**SIZES)
@settings(deadline=None, max_examples=25)
def test_moved_equations_have_the_moved_derivatives(states, degree, seed):
    rng = np.random.default_rng(seed)
    library = PolynomialLibrary(states, degree)
    xi = rng.standard_normal((library.size, states))
    frames, a = some_frames(rng, 3, states), rng.standard_normal((20, states))
    moved = frames.coefficients(library, xi)
    for number in range(3):
        move = frames[number]
        # Oracle: the chain rule at single states, dz/dt = turn da/dt.
        expected = Dynamics(library, xi)(a) @ move.turn.T
        found = Dynamics(library, moved[number])(move(a))
        scale = np.abs(moved[number]).max() * np.abs(move(a)).max() ** degree
        assert_allclose(found, expected, atol=1e-10 * max(scale, 1.0))
        assert_allclose(inverse(move)(move(a)), a, atol=1e-10)


@given(**SIZES)
@settings(deadline=None, max_examples=25)
def test_generators_are_the_derivatives_of_moves(states, degree, seed):
    rng = np.random.default_rng(seed)
    library = PolynomialLibrary(states, degree)
    xi = rng.standard_normal((library.size, states))
    group = generators(library)
    sizes = rng.standard_normal(len(group.pairs[0]))
    step = 1e-6
    turns, shifts = group.maps(step * sizes[None])
    # Coefficients after the move, taken back by the exact map: what they are more before it.
    before = Frames(turns, shifts)
    back = np.linalg.inv(turns)
    earlier = Frames(back, -np.einsum("bij,bj->bi", back, shifts)).coefficients(library, xi)[0]
    expected = (earlier - xi) / step
    found = np.tensordot(sizes, group.changes(xi), 1)
    assert len(before) == 1
    assert_allclose(found, expected, atol=1e-4 * max(1.0, np.abs(expected).max()))


def mixed(system: KnownSystem, samples: int, noise: float, seed: int):
    """A record seen through a random affine map, scaled; the map from states to it."""
    rng = np.random.default_rng(seed)
    times, states = system.record(samples)
    scaled = (states - states.mean(axis=0)) / states.std(axis=0)
    q = system.states
    turn = np.linalg.qr(rng.standard_normal((q, q)))[0] + 0.2 * rng.standard_normal((q, q))
    a = scaled @ turn.T
    a = a / a.std(axis=0)
    a = a + noise * rng.standard_normal(a.shape)
    move, _, _, _ = np.linalg.lstsq(np.column_stack([states, np.ones(samples)]), a, rcond=None)
    return [Record(a, times)], Move(move[:-1].T, move[-1])


def fitted(records):
    states = records[0].states.shape[1]
    libraries = [PolynomialLibrary(states, degree) for degree in (1, 2, 3)]
    return dense_fit(records, libraries)


@pytest.fixture(scope="module")
def lorenz():
    records, truth = mixed(LORENZ, 1000, 1e-3, seed=3)
    return records, truth, *fitted(records)


@pytest.fixture(scope="module")
def sparse(lorenz):
    records, _, library, fit = lorenz
    return sparsest_model(records, library, fit.guess, term_price(records, library), EVERY)


def test_evidence_is_the_same_in_all_coordinates(lorenz):
    records, _, library, fit = lorenz
    evidence = Evidence.of(records, library, fit.guess)
    xi = evidence.most_likely()
    frame = some_frames(np.random.default_rng(0), 1, 3)[0]
    frames = Frames(frame.turn[None], frame.shift[None])
    moved = frames.coefficients(library, xi + 0.01)[0]
    found = np.tensordot(evidence.rows_in(frame), moved, 2)
    assert_allclose(found, np.tensordot(evidence.rows, xi + 0.01, 2), rtol=1e-8, atol=1e-6)


def test_the_degree_is_found_where_all_terms_are_there(lorenz):
    _, _, library, fit = lorenz
    assert library.degree == 2
    assert fit.guess.broken == 0
    # Of cubic terms alone: degree two helps nothing, and three does.
    library, _ = fitted(mixed(VAN_DER_POL, 1000, 1e-3, seed=0)[0])
    assert library.degree == 3


def test_lorenz_comes_back_from_a_mixture_of_its_states(lorenz, sparse):
    records, truth, library, fit = lorenz
    price, model = term_price(records, library), sparse
    assert model.support.sum() <= 7
    evidence = Evidence.of(records, library, fit.guess)
    in_modes = sparsest_in(evidence, Move(np.eye(3), np.zeros(3)), price)
    assert in_modes.support.sum() >= 20
    assert model.score(price) < in_modes.score(price)
    # One coordinate is z, and no other has any of it. x and y may be mixed: x and y - x, the
    # derivative of x, obey as few terms as x and y.
    weights = np.abs(model.frame.turn @ truth.turn) * LORENZ.record(1000)[1].std(axis=0)
    alone = weights[:, 2] > 0.5
    assert alone.sum() == 1
    assert (weights[alone, :2] < 0.01).all()
    assert (weights[~alone, 2] < 0.01).all()


def test_what_is_found_has_errors_that_cover_the_truth(lorenz, sparse):
    records, truth, library, _ = lorenz
    model = sparse
    result = weighed(model, term_price(records, library), free=True)
    errors = np.sqrt(np.diag(result.covariance))
    # Oracle: the true equations in exactly the coordinates that were found, scales included.
    whole = PolynomialLibrary(3, 2)
    xi = LORENZ.coefficients(whole.names())
    exact = model.frame.after(truth)
    true = Frames(exact.turn[None], exact.shift[None]).coefficients(whole, xi)[0]
    away = (model.coefficients - true)[model.support]
    # Coordinates are in error too, and these errors count.
    assert (np.abs(away) < 4 * errors + 1e-3 * np.abs(true).max()).all()
    assert (errors < 0.02 * np.abs(model.coefficients[model.support]).max()).all()
    assert (result.probability[model.support] > 0.05).all()


def test_order_and_signs_change_nothing_but_names(sparse):
    model, again = sparse, in_order(sparse)
    assert again.support.sum() == model.support.sum()
    assert_allclose(again.squares, model.squares, rtol=1e-6, atol=1e-6)
    assert_allclose(again.original, model.original, atol=1e-6)
    leading = np.argmax(np.abs(again.frame.turn), axis=1)
    assert (again.frame.turn[np.arange(3), leading] > 0).all()


def test_a_model_that_is_settled_is_no_worse(lorenz):
    records, _, library, fit = lorenz
    evidence = Evidence.of(records, library, fit.guess)
    rng = np.random.default_rng(5)
    for frame in [some_frames(rng, 1, 3)[0] for _ in range(3)]:
        support = rng.random((library.size, 3)) < 0.5
        model = Model.of(evidence, frame, support)
        assert model.settled().squares <= model.squares


@pytest.mark.parametrize("most_terms", [0, EVERY])
def test_the_search_ends_where_the_first_coordinates_are_not_sparse(
    lorenz, monkeypatch, most_terms
):
    records, _, library, fit = lorenz
    followed = []

    def counted(model, price):
        followed.append(model)
        return eliminated(model, price)

    monkeypatch.setattr(search, "eliminated", counted)
    sparsest_model(records, library, fit.guess, term_price(records, library), most_terms)
    assert (len(followed) == FEW) == (most_terms == 0)


def test_equal_input_gives_equal_coordinates(lorenz, sparse):
    records, _, library, fit = lorenz
    again = sparsest_model(records, library, fit.guess, term_price(records, library), EVERY)
    assert (again.frame.turn == sparse.frame.turn).all()
    assert (again.coefficients == sparse.coefficients).all()

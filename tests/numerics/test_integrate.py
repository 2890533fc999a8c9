"""Trajectories against analytic solutions, and limits that hold for any model."""

import warnings
from itertools import islice

import numpy as np
import pytest
from numpy.testing import assert_allclose

from romzarr.numerics.dynamics.integrate import Dynamics, runge_kutta_step, trajectories
from romzarr.numerics.dynamics.library import PolynomialLibrary

TURN = np.array([[0.0, 1.0], [-1.0, 0.0]])


def circle(t):
    return np.stack([np.cos(t), -np.sin(t)], axis=-1)


def turning(a):
    return a @ TURN.T


def test_the_scheme_is_of_order_four():
    """A slip in one stage lowers the order: halving the step must gain 2^5 on one step."""
    errors = []
    for h in (0.2, 0.1, 0.05):
        reached = runge_kutta_step(turning, circle(np.zeros(1)), np.array([h]), 1)
        errors.append(np.linalg.norm(reached - circle(np.array([h]))))
    assert_allclose(np.log2(np.array(errors[:-1]) / errors[1:]), 5, atol=0.1)


def test_substeps_are_shorter_steps():
    start, dt = circle(np.array([0.3, 1.0])), np.array([0.2, 0.4])
    twice = runge_kutta_step(turning, runge_kutta_step(turning, start, dt / 2, 1), dt / 2, 1)
    assert_allclose(runge_kutta_step(turning, start, dt, 2), twice, rtol=1e-15)


def test_trajectories_follow_uneven_times_each_from_its_own_start():
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.uniform(0.005, 0.03, 200))
    start = np.array([0, 17, 120])
    path = np.array(list(islice(trajectories(turning, circle(times[start]), times, start, 1), 60)))
    for step in range(60):
        assert_allclose(path[step], circle(times[start + step + 1]), atol=1e-7)


def test_past_the_last_snapshot_states_stand_still():
    times = np.arange(5) * 0.1
    path = list(trajectories(turning, circle(times[[3]]), times, np.array([3]), 1))
    assert len(path) == 5
    assert_allclose(path[0], circle(times[[4]]), atol=1e-6)
    for states in path[1:]:
        assert np.array_equal(states, path[0])


def test_dynamics_are_the_library_times_the_coefficients():
    rng = np.random.default_rng(1)
    library = PolynomialLibrary(3, 2)
    xi = np.where(rng.random((library.size, 3)) < 0.3, rng.standard_normal((library.size, 3)), 0)
    a = rng.standard_normal((20, 3))
    assert_allclose(Dynamics(library, xi)(a), library.evaluate(a) @ xi, rtol=1e-13, atol=1e-13)


def test_a_model_without_terms_stands_still():
    library = PolynomialLibrary(2, 2)
    a = np.ones((4, 2))
    f = Dynamics(library, np.zeros((library.size, 2)))
    assert np.array_equal(runge_kutta_step(f, a, np.ones(4), 3), a)


@pytest.mark.parametrize("rate", [1e3, -1e3, 1e300])
def test_an_exploding_or_stiff_model_costs_its_fixed_steps_and_no_warning(rate):
    calls = 0

    def wild(a):
        nonlocal calls
        calls += 1
        return rate * a**3

    times = np.arange(30) * 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = list(islice(trajectories(wild, np.ones((2, 1)), times, np.zeros(2, int), 2), 29))
    assert calls == 29 * 2 * 4
    assert not np.isfinite(path[-1]).any()

"""Steps of a model and their derivatives, beside finite differences and dense matrices."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.integrate import solve_ivp

from romzarr.numerics.dynamics.integrate import Dynamics
from romzarr.numerics.dynamics.library import FourierLibrary, PolynomialLibrary
from romzarr.numerics.dynamics.shooting import Whitening, advance, jacobian, linearised
from tests.systems_of_odes import LORENZ, VAN_DER_POL, KnownSystem, true_model

STEP = 0.02


def after(system: KnownSystem, state, step=STEP, right_hand_side=None):
    """The state one step later, by SciPy."""
    function = right_hand_side or system.right_hand_side
    return solve_ivp(function, (0, step), state, method="DOP853", rtol=1e-13, atol=1e-13).y[:, -1]


def some_states(system: KnownSystem, count: int = 5):
    return system.record(40 * count)[1][::40]


@pytest.mark.parametrize("system", [LORENZ, VAN_DER_POL], ids=lambda system: system.name)
def test_steps_end_where_scipy_ends(system):
    states = some_states(system)
    found = advance(true_model(system), states, np.full(len(states), STEP), 2)
    assert_allclose(found, [after(system, state) for state in states], rtol=1e-9)


@pytest.mark.parametrize("library", [PolynomialLibrary(3, 3), FourierLibrary(3, (0.7, 2.0))])
def test_the_jacobian_is_that_of_finite_differences(library):
    rng = np.random.default_rng(0)
    model = Dynamics(library, rng.standard_normal((library.size, 3)))
    states, small = rng.standard_normal((4, 3)), 1e-5
    expected = [
        [
            (model(s[None] + small * e) - model(s[None] - small * e))[0] / (2 * small)
            for e in np.eye(3)
        ]
        for s in states
    ]
    assert_allclose(jacobian(model, states), np.swapaxes(expected, 1, 2), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("substeps", "accuracy"), [(2, 2e-3), (8, 1e-5)])
def test_derivatives_of_steps_are_those_of_finite_differences(substeps, accuracy):
    library, states, small = PolynomialLibrary(3, 2), some_states(LORENZ), 1e-5
    xi = LORENZ.coefficients(library.names())
    steps = linearised(Dynamics(library, xi), states, np.full(len(states), STEP), substeps)
    for j, unit in enumerate(np.eye(3)):
        ends = [[after(LORENZ, s + sign * small * unit) for sign in (1, -1)] for s in states]
        expected = np.array([(up - down) / (2 * small) for up, down in ends])
        assert_allclose(steps.start[:, :, j], expected, atol=accuracy * np.abs(expected).max())
    terms, equations = np.nonzero(xi)
    columns = steps.columns(terms, equations)
    for k, (term, equation) in enumerate(zip(terms, equations, strict=True)):
        expected = np.array([changed(library, xi, term, equation, s) for s in states])
        assert_allclose(columns[:, :, k], expected, atol=accuracy * np.abs(expected).max())


def changed(library, xi, term, equation, state, small=1e-4):
    """Derivative of the end of a step by one coefficient."""
    ends = []
    for sign in (1, -1):
        other = xi.copy()
        other[term, equation] += sign * small
        model = Dynamics(library, other)
        ends.append(after(LORENZ, state, right_hand_side=lambda _, a, f=model: f(a[None])[0]))
    return (ends[0] - ends[1]) / (2 * small)


@pytest.mark.parametrize("broken", [0.0, 0.3])
def test_whitening_is_that_of_the_dense_covariance(broken):
    rng = np.random.default_rng(1)
    m, q = 6, 2
    start = np.eye(q) + 0.3 * rng.standard_normal((m, q, q))
    # e[i + 1] - A[i] e[i] as one matrix.
    constraint = np.zeros((m * q, (m + 1) * q))
    for i in range(m):
        constraint[i * q : i * q + q, i * q : i * q + q] = -start[i]
        constraint[i * q : i * q + q, i * q + q : i * q + 2 * q] = np.eye(q)
    covariance = constraint @ constraint.T + broken * np.eye(m * q)
    whitening = Whitening(start, broken)
    columns = rng.standard_normal((m * q, 3))
    white = whitening(columns)
    assert_allclose(white.T @ white, columns.T @ np.linalg.solve(covariance, columns))
    assert_allclose(whitening.log_determinant, np.linalg.slogdet(covariance)[1])
    expected = constraint.T @ np.linalg.solve(covariance, columns[:, 0])
    assert_allclose(whitening.noise(white[:, 0]).ravel(), expected)


def test_a_model_that_runs_away_is_refused():
    start = np.full((3, 2, 2), np.inf)
    with pytest.raises(np.linalg.LinAlgError, match="finite"):
        Whitening(start, 0.0)

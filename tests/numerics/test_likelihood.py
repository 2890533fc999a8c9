"""The most likely coefficients, beside a general method of least squares that shares no code."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.integrate import solve_ivp
from scipy.optimize import least_squares

from romzarr.numerics.dynamics.library import PolynomialLibrary
from romzarr.numerics.dynamics.likelihood import first_noise, most_likely
from romzarr.numerics.dynamics.shooting import Record
from tests.systems_of_odes import LORENZ, LOTKA_VOLTERRA, VAN_DER_POL, with_noise

LIBRARY = PolynomialLibrary(2, 2)
TRUTH = LOTKA_VOLTERRA.coefficients(LIBRARY.names())


def fitted(*records, library=LIBRARY, truth=TRUTH):
    return most_likely(records, library, truth != 0, 0.9 * truth, first_noise(records))


def by_single_shooting(record: Record, noise):
    """Coefficients and their standard errors from the fit of one trajectory to the record."""

    def residuals(unknown):
        a, b, c, d, *start = unknown
        solution = solve_ivp(
            lambda _, s: [a * s[0] + b * s[0] * s[1], c * s[1] + d * s[0] * s[1]],
            (0, record.times[-1]),
            start,
            t_eval=record.times,
            rtol=1e-10,
            atol=1e-10,
        )
        return ((solution.y.T - record.states) / noise).ravel()

    found = least_squares(residuals, [1, -0.5, -1, 0.5, *record.states[0]], x_scale="jac")
    covariance = np.linalg.inv(found.jac.T @ found.jac)
    return found.x[:4], np.sqrt(np.diag(covariance))[:4]


def in_order(values):
    """Coefficients as `by_single_shooting` has them."""
    names = LIBRARY.names()
    order = [("a1", 0), ("a1 a2", 0), ("a2", 1), ("a1 a2", 1)]
    return np.array([values[names.index(name), j] for name, j in order])


def test_it_is_the_fit_of_one_trajectory():
    times, states = LOTKA_VOLTERRA.record(300, step=0.05)
    record = Record(with_noise(states, 0.05, 0), times)
    fit = fitted(record)
    values, errors = by_single_shooting(record, fit.guess.noise)
    assert fit.converged
    assert fit.guess.broken == 0
    assert_allclose(in_order(fit.coefficients), values, atol=0.03 * errors.min())
    assert_allclose(in_order(fit.standard_errors), errors, rtol=0.02)


def test_the_trajectory_is_one_of_the_model():
    times, states = LOTKA_VOLTERRA.record(200, step=0.05)
    fit = fitted(Record(with_noise(states, 0.02, 0), times))
    (found,) = fit.guess.states
    a, b, c, d = in_order(fit.coefficients)
    solution = solve_ivp(
        lambda _, s: [a * s[0] + b * s[0] * s[1], c * s[1] + d * s[0] * s[1]],
        (0, times[-1]),
        found[0],
        t_eval=times,
        rtol=1e-10,
        atol=1e-10,
    )
    assert_allclose(found, solution.y.T, atol=1e-3 * fit.guess.noise.max())


def test_clean_states_give_the_coefficients_however_few_samples():
    times, states = VAN_DER_POL.record(60, step=0.3)
    library = PolynomialLibrary(2, 3)
    truth = VAN_DER_POL.coefficients(library.names())
    fit = fitted(Record(states, times), library=library, truth=truth)
    assert_allclose(fit.coefficients, truth, atol=1e-6)


def test_records_share_their_coefficients():
    times, states = LORENZ.record(1200)
    library = PolynomialLibrary(3, 2)
    truth = LORENZ.coefficients(library.names())
    noisy = with_noise(states, 0.02, 0)
    parts = [Record(noisy[k : k + 400], times[k : k + 400]) for k in (0, 400, 800)]
    one = fitted(parts[0], library=library, truth=truth)
    three = fitted(*parts, library=library, truth=truth)
    support = truth != 0
    assert (three.standard_errors[support] < one.standard_errors[support]).all()
    assert (np.abs(three.coefficients - truth)[support] < 5 * three.standard_errors[support]).all()


def test_a_random_walk_is_no_trajectory():
    walk = np.cumsum(np.random.default_rng(0).standard_normal((300, 2)), axis=0)
    record = Record(walk, np.arange(300.0))
    support = np.zeros((LIBRARY.size, 2), bool)
    support[1:3] = True
    fit = most_likely([record], LIBRARY, support, np.zeros(support.shape), first_noise([record]))
    assert fit.guess.broken > 1


def test_no_terms_at_all_are_a_model_too():
    record = Record(np.random.default_rng(0).standard_normal((100, 2)), np.arange(100.0))
    nothing = np.zeros((LIBRARY.size, 2))
    fit = most_likely([record], LIBRARY, nothing != 0, nothing, first_noise([record]))
    assert_allclose(fit.guess.noise, np.std(record.states, axis=0), rtol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("level", [0.01, 0.1])
def test_95_percent_intervals_hold_95_percent(level):
    times, states = LOTKA_VOLTERRA.record(200, step=0.1)
    support = TRUTH != 0
    inside = []
    for seed in range(100):
        fit = fitted(Record(with_noise(states, level, seed), times))
        off = np.abs(fit.coefficients - TRUTH)[support]
        inside.append(off <= 1.96 * fit.standard_errors[support])
    # Three standard deviations of 400 such numbers, if none hung on another; they do a bit.
    assert 0.90 <= np.mean(inside) <= 0.99

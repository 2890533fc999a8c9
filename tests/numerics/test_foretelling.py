"""What a model foretells: its last state, its exponent, and an ensemble as wide as its errors."""

from __future__ import annotations

import numpy as np
import pytest

from romzarr.numerics.dynamics.foretelling import (
    MEMBERS,
    first_beyond,
    integrated,
    last_state,
    lyapunov_exponent,
    members,
    starts_of,
)
from romzarr.numerics.dynamics.likelihood import first_noise, most_likely
from romzarr.numerics.dynamics.shooting import Record
from tests.systems_of_odes import LINEAR_OSCILLATOR, LORENZ, true_model, with_noise


def fitted(system, samples, noise):
    times, states = system.record(samples)
    record = Record(with_noise(states, noise, seed=0), times)
    model = true_model(system, degree=2)
    support = model.coefficients != 0
    fit = most_likely([record], model.library, support, model.coefficients, first_noise([record]))
    return record, model, fit


@pytest.fixture(scope="module")
def lorenz():
    return fitted(LORENZ, 3000, 0.01)


def test_the_last_state_is_nearer_the_truth_than_the_sample(lorenz):
    record, model, fit = lorenz
    truth = LORENZ.record(3000)[1][-1]
    state, covariance = last_state(model, record, fit.guess.noise, 2)
    errors = np.sqrt(np.diag(covariance))
    assert (np.abs(state - truth) < 4 * errors).all()
    assert (errors < fit.guess.noise).all()


def test_the_exponent_of_lorenz_is_that_of_the_literature_and_an_oscillator_has_none(lorenz):
    record, model, fit = lorenz
    # 0.9056: J. C. Sprott, "Chaos and Time-Series Analysis" (2003); a record of 30 time units.
    assert lyapunov_exponent(model, (record,), fit) == pytest.approx(0.9056, rel=0.25)
    record, model, fit = fitted(LINEAR_OSCILLATOR, 600, 0.01)
    assert lyapunov_exponent(model, (record,), fit) is None


def test_an_ensemble_spreads_as_the_errors_do():
    record, model, fit = fitted(LINEAR_OSCILLATOR, 200, 0.02)
    rng = np.random.default_rng(1)
    state, covariance = last_state(model, record, fit.guess.noise, 2)
    starts = starts_of(state, covariance, rng)
    function = members(model.library, fit, rng)
    steps = np.full(400, LINEAR_OSCILLATOR.step)
    ensemble = integrated(function, starts, steps, 1)
    assert ensemble.states.shape == (400, MEMBERS, 2)
    # The first member is the most likely model from the most likely state.
    times = record.times[-1] + np.arange(1, 401) * LINEAR_OSCILLATOR.step
    truth = LINEAR_OSCILLATOR.at(np.concatenate([[0.0], times]))[1:]
    away = np.abs(ensemble.mean - truth)
    spread = np.sqrt(np.einsum("tii->ti", ensemble.covariance))
    assert np.mean(away < 3 * spread) > 0.9


def test_the_first_time_beyond_a_limit():
    times = np.arange(4.0)
    assert first_beyond(np.array([0.1, 0.2, 0.4, 0.1]), 0.3, times) == 2.0
    assert first_beyond(np.array([0.1, np.nan, 0.4, 0.1]), 0.3, times) == 1.0
    assert first_beyond(np.full(4, 0.1), 0.3, times) is None

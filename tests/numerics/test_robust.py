"""Standard errors against how much estimates really scatter."""

import numpy as np
import pytest

from romzarr.numerics.dynamics.library import PolynomialLibrary
from romzarr.numerics.dynamics.likelihood import most_likely
from romzarr.numerics.dynamics.robust import _long_run, robust
from romzarr.numerics.dynamics.shooting import Record
from tests.systems_of_odes import LOTKA_VOLTERRA

LIBRARY = PolynomialLibrary(2, 2)
TRUTH = LOTKA_VOLTERRA.coefficients(LIBRARY.names())
THERE = TRUTH != 0
TIMES, CLEAN = LOTKA_VOLTERRA.record(500, step=0.06)
SEEDS, SIZE = 40, 0.02
# Samples over which noise is averaged: of one it stays white.
WHITE, SMOOTH = 1, 24


def fitted(record):
    fit = most_likely([record], LIBRARY, THERE, TRUTH, np.full(2, SIZE))
    return fit, robust([record], LIBRARY, fit)


def noisy(width, seed):
    noise = np.random.default_rng(seed).standard_normal((len(TIMES) + width - 1, 2))
    weights = np.hanning(width + 2)[1:-1]
    weights /= np.linalg.norm(weights)
    errors = np.column_stack([np.convolve(each, weights, "valid") for each in noise.T])
    return Record(CLEAN + SIZE * errors, TIMES)


def errors_and_scatter(width):
    """Standard errors (seeds, k) of the likelihood and robust ones; the scatter (k,) of
    estimates about the truth."""
    both = [fitted(noisy(width, seed)) for seed in range(SEEDS)]
    wrong = np.array([plain.coefficients[THERE] - TRUTH[THERE] for plain, _ in both])
    plain, sure = (
        np.array([each.standard_errors[THERE] for each in some]) for some in zip(*both, strict=True)
    )
    return plain, sure, np.sqrt(np.mean(wrong**2, axis=0))


def overall(errors):
    return np.sqrt(np.mean(errors**2, axis=0))


# The scatter of 40 estimates is known to a ninth.
NEAR = pytest.approx(np.ones(4), abs=0.35)


def test_of_smooth_errors_the_scatter_is_known_where_likelihood_is_too_sure():
    plain, sure, scatter = errors_and_scatter(SMOOTH)
    assert (overall(plain) < 0.7 * scatter).all()
    assert overall(sure) / scatter == NEAR


def test_of_independent_errors_nothing_changes_but_by_chance():
    plain, sure, scatter = errors_and_scatter(WHITE)
    assert overall(sure) / scatter == NEAR
    assert (sure >= plain).all()
    assert (overall(sure) < 1.1 * overall(plain)).all()


def test_estimates_stay():
    plain, sure = fitted(noisy(SMOOTH, 0))
    np.testing.assert_array_equal(plain.coefficients, sure.coefficients)
    np.testing.assert_array_equal(plain.support, sure.support)


@pytest.mark.parametrize("lags", [0, 1, 7, 60])
def test_scores_are_summed_with_weights_that_fall_to_zero(lags):
    rng = np.random.default_rng(0)
    scores = [rng.standard_normal((m, 3)) for m in (40, 25)]
    expected = np.zeros((3, 3))
    for each in scores:
        for i, one in enumerate(each):
            for j, other in enumerate(each):
                expected += max(1 - abs(i - j) / (lags + 1), 0) * np.outer(one, other)
    np.testing.assert_allclose(_long_run(scores, lags), expected, rtol=1e-12, atol=1e-12)

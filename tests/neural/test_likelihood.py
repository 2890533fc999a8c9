"""The likelihood of a record: its covariance, its weights, and the noise it takes out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from romzarr.neural.likelihood import Estimate, Linearised, Record, unfitted
from romzarr.neural.network_errors import network_error
from romzarr.neural.systems import OSCILLATOR, duffing
from romzarr.numerics.dynamics.networks import shipped_operators
from romzarr.numerics.dynamics.neural_library import NeuralLibrary, default_library

LINEAR = tuple(each for each in shipped_operators() if each.name == "identity")


@settings(deadline=None, max_examples=20)
@given(st.integers(3, 30), st.integers(0, 2**32 - 1))
def test_integrals_are_exact_for_polynomials_of_degree_five(samples, seed):
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.uniform(0.5, 1.5, samples))
    record = Record(np.zeros((samples, 1)), times, NeuralLibrary(1, LINEAR), (0,))
    degree = min(5, samples - 1)
    # Powers about the middle, or their sizes would hide the error.
    middle = times - times.mean()
    for power in range(degree + 1):
        whole = np.diff(middle ** (power + 1)) / (power + 1)
        size = np.abs(middle).max() ** power
        assert_allclose(record.integral @ middle**power, whole, atol=1e-9 * size)


def at_truth(samples=80, sigma=(0.01, 0.02)):
    """A short record of the oscillator, its library of two terms, and the truth."""
    times = OSCILLATOR.step * np.arange(samples)
    clean = OSCILLATOR.record(0.0, 0).clean[:samples]
    xi = np.array([[0.0, -1.0], [1.0, -0.1]])
    record = Record(clean, times, NeuralLibrary(2, LINEAR), (0, 1))
    return record, Estimate(clean, xi, np.array(sigma))


def test_generalised_least_squares_has_the_covariance_of_many_noises():
    record, truth = at_truth()
    rng = np.random.default_rng(0)
    found = []
    everything, wide = np.ones((2, 2), bool), np.full((2, 2), 1e6)
    for _ in range(300):
        noisy = record.observed + truth.noise * rng.standard_normal(record.observed.shape)
        here = Record(noisy, record.times, record.library, record.candidates)
        estimate, errors = Linearised(here, truth).fitted(everything, wide)
        found.append((estimate.coefficients - truth.coefficients) / errors)
    assert_allclose(np.std(found, axis=0), 1, rtol=0.15)
    assert_allclose(np.mean(found, axis=0), 0, atol=0.2)


def test_the_misfit_is_that_of_a_dense_covariance():
    record, truth = at_truth(40)
    rng = np.random.default_rng(0)
    noisy = record.observed + truth.noise * rng.standard_normal(record.observed.shape)
    linear = Linearised(Record(noisy, record.times, record.library, (0, 1)), truth)
    # Oracle: dense matrices, one sample and one equation at a time.
    m, q = noisy.shape
    difference, integral = record.difference.toarray(), record.integral.toarray()
    slopes = truth.coefficients.T
    through = np.zeros((m - 1, q, m, q))
    for j in range(q):
        through[:, j, :, j] += difference
        for i in range(q):
            through[:, j, :, i] -= integral * slopes[j, i]
    through = through.reshape((m - 1) * q, m * q)
    covariance = through @ np.diag(np.tile(truth.noise**2, m)) @ through.T
    for k in (0, 1):
        error, left = network_error(record.library, k, truth.states)
        columns = np.kron(integral @ error, truth.coefficients[k][:, None])
        covariance += columns @ columns.T
        rest = np.diag(np.outer(left, truth.coefficients[k] ** 2).ravel())
        both = np.kron(integral, np.eye(q))
        covariance += both @ rest @ both.T
    linearised = difference @ truth.states - integral @ (
        record.features(truth.states) @ truth.coefficients
    )
    target = linearised.ravel() + through @ (noisy - truth.states).ravel()
    expected = target @ np.linalg.solve(covariance, target)
    left = linear.root @ np.append(-truth.coefficients.ravel(), 1.0)
    assert left @ left == pytest.approx(expected, rel=1e-3)
    assert linear.determinant == pytest.approx(np.linalg.slogdet(covariance)[1], rel=1e-3)


def test_states_lose_their_noise():
    record = duffing().record(0.02, 0)
    library = NeuralLibrary(2, shipped_operators(), (), ("mul",))
    names = library.names()
    candidates = tuple(names.index(n) for n in ("identity(a1)", "identity(a2)", names[10]))
    here = Record(record.states, record.times, library, candidates)
    at = unfitted(here)
    for _ in range(6):
        at, _ = Linearised(here, at).fitted(np.ones((3, 2), bool), np.full((3, 2), 100.0))
    before = np.sqrt(np.mean((record.states - record.clean) ** 2))
    after = np.sqrt(np.mean((at.states - record.clean) ** 2))
    assert after < 0.2 * before
    assert_allclose(at.noise, 0.02, rtol=0.1)


@pytest.mark.parametrize("term", range(8))
def test_errors_of_networks_are_as_large_as_they_are_said_to_be(term):
    library = default_library(2)
    clean = OSCILLATOR.record(0.0, 0).clean
    columns, left = network_error(library, term, clean)
    formulas = (
        lambda x, v: x, lambda x, v: v, lambda x, v: np.sin(x), lambda x, v: np.sin(v),
        lambda x, v: np.cos(x), lambda x, v: np.cos(v), lambda x, v: x + v, lambda x, v: x * v,
    )  # fmt: skip
    error = library.evaluate(clean)[:, term] - formulas[term](*clean.T)
    size = np.sqrt(np.mean(np.sum(columns**2, axis=1) + left))
    assert 0.3 < np.sqrt(np.mean(error**2)) / size < 3
    # Weights of a few units explain it, as those of a standard normal are.
    weights = np.linalg.lstsq(columns, error, rcond=1e-3)[0]
    assert np.sqrt(np.mean(weights**2)) < 3


def test_a_constant_has_no_error():
    library = NeuralLibrary(1, LINEAR, constant=True)
    columns, left = network_error(library, 1, np.linspace(-1, 1, 20)[:, None])
    assert columns.shape == (20, 0)
    assert not left.any()

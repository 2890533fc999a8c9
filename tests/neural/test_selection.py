"""The default selection: exact supports from noisy states, over seeds and systems."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from romzarr.contracts import TriangularFactor
from romzarr.neural.collinearity import Diagnosis
from romzarr.neural.runs import Problem, beyond, run_best, run_stlsq
from romzarr.neural.selection import OVERLAP, STEP_BITS, choose, refit, select
from romzarr.neural.systems import LOTKA_VOLTERRA, OSCILLATOR, PENDULUM, VAN_DER_POL
from romzarr.numerics.dynamics.neural_library import default_library
from romzarr.numerics.triangles import canonical_r


@pytest.mark.parametrize(("sigma", "error"), [(1e-3, 0.01), (1e-2, 0.05), (5e-2, 0.25)])
def test_both_equations_are_recovered_from_noisy_states(sigma, error):
    result = run_best(Problem.reference(sigma, seeds=4))
    assert result.exact.all()
    assert result.least_activation().min() >= 0.95
    assert result.coefficient_errors.max() <= error
    if sigma == 1e-3:
        assert result.mse.max() <= 1e-5
    assert any("add(a1, a2) = identity(a1) + identity(a2)" in note for note in result.notes)
    # Each chosen term's absence is seen in the residual, also that of the small damping.
    assert (result.effects[result.chosen] > 1e-3).all()
    assert (result.effects[~result.chosen] == 0).all()


@pytest.mark.parametrize("system", [PENDULUM, LOTKA_VOLTERRA], ids=lambda s: s.name)
def test_sines_and_products_are_chosen_where_they_are_right(system):
    _, result = beyond(system, noise=0.01, seeds=2)
    assert result.exact.all()
    assert result.coefficient_errors.max() <= 0.02


def test_nested_products_are_chosen_where_they_are_right():
    _, result = beyond(VAN_DER_POL, noise=0.001, seeds=1)
    assert result.exact.all()


def test_stlsq_splits_coefficients_as_reported():
    result = run_stlsq(Problem.reference(1e-3, seeds=3))
    names = list(result.names)
    for name, value in (("identity(a1)", -1 / 3), ("identity(a2)", 2 / 3), ("add(a1, a2)", 1 / 3)):
        assert_allclose(result.coefficients[:, names.index(name), 0], value, atol=5e-3)
    assert not result.exact.any()
    assert result.mse.max() < 1e-5


def test_selection_is_deterministic_and_the_simplest_of_equals_stays():
    record = OSCILLATOR.record(0.01, 3)
    first, second = (select(record.states, record.times, default_library(2)) for _ in range(2))
    assert_allclose(first.coefficients, second.coefficients, rtol=0, atol=0)
    # With the sum among the candidates the same support wins, as it is simpler.
    kept = select(record.states, record.times, default_library(2), drop_dependent=False)
    assert ((kept.coefficients != 0) == (first.coefficients != 0)).all()


def made_up(rng, p, rows, noise, xi):
    g = rng.standard_normal((rows, p)) * 10 ** rng.uniform(-2, 2, p)
    b = g @ (xi / np.sqrt(np.mean(g**2, axis=0))[:, None]) + noise * rng.standard_normal((rows, 1))
    return g, b, TriangularFactor(canonical_r(np.hstack([g, b])), p, rows)


def nothing_known(p):
    names = tuple(f"t{k}" for k in range(p))
    return Diagnosis(names, (), (), np.ones(p), np.ones(p), 1.0)


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 5), st.integers(0, 2**32 - 1), st.sampled_from([1e-3, 0.1, 1.0]))
def test_the_choice_is_the_least_description_of_all(p, seed, noise):
    rng = np.random.default_rng(seed)
    xi = (rng.standard_normal(p) * (rng.random(p) < 0.5))[:, None]
    steps = rng.integers(0, 3, p).astype(float)
    g, b, factor = made_up(rng, p, 800, noise, xi)
    found = choose(factor, nothing_known(p), range(p), steps, np.zeros(p))
    # Oracle: least squares on the rows themselves, one support after the other.
    n = 800 / OVERLAP
    bits = {}
    for size in range(p + 1):
        for support in combinations(range(p), size):
            own = list(support)
            left = b[:, 0] - g[:, own] @ np.linalg.lstsq(g[:, own], b[:, 0], rcond=None)[0]
            price = (np.log2(n) / 2 + np.log2(p)) * size + STEP_BITS * steps[own].sum()
            bits[support] = n / 2 * np.log2(left @ left / (b[:, 0] @ b[:, 0])) + price
    best = min(bits, key=bits.get)
    assert tuple(np.flatnonzero(found.coefficients[:, 0])) == best
    weight = {support: 2 ** (bits[best] - value) for support, value in bits.items()}
    total = sum(weight.values())
    for k in range(p):
        share = sum(w for support, w in weight.items() if k in support) / total
        assert found.activations[k, 0] == pytest.approx(share, abs=1e-4)
    assert found.supports == 2**p
    chosen = found.coefficients != 0
    assert_allclose(refit(factor, chosen)[chosen], found.coefficients[chosen], rtol=1e-6)


def test_noise_in_the_features_does_not_bias_coefficients():
    """Errors in variables: plain least squares would shrink the coefficient by 1 / 1.25."""
    rng = np.random.default_rng(0)
    clean = rng.standard_normal((40_000, 1))
    g, b = clean + 0.5 * rng.standard_normal(clean.shape), 3 * clean
    noise = np.hstack([0.5 * rng.standard_normal(clean.shape), np.zeros_like(b)])
    factor = TriangularFactor(canonical_r(np.hstack([g, b])), 1, len(g), noise=canonical_r(noise))
    assert refit(factor, np.ones((1, 1), bool))[0, 0] == pytest.approx(3, rel=0.02)


def test_no_term_is_paid_for_explaining_the_error_of_networks():
    rng = np.random.default_rng(0)
    p, error = 3, 1e-3
    g = rng.standard_normal((4000, p))
    b = g[:, :1] + error * g[:, 1:2]  # exactly what the first network errs by
    factor = TriangularFactor(canonical_r(np.hstack([g, b])), p, len(g))
    known = choose(factor, nothing_known(p), range(p), np.zeros(p), np.full(p, 3 * error))
    assert tuple(np.flatnonzero(known.coefficients[:, 0])) == (0,)
    unknown = choose(factor, nothing_known(p), range(p), np.zeros(p), np.zeros(p))
    assert tuple(np.flatnonzero(unknown.coefficients[:, 0])) == (0, 1)

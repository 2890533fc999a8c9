"""Sparse regression: known systems come back, redundant terms are named, nothing raises."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from romzarr.contracts import BlockSpan, TriangularFactor
from romzarr.numerics.dynamics.library import PolynomialLibrary
from romzarr.numerics.dynamics.stlsq import stlsq, without_noise
from romzarr.numerics.dynamics.weakform import plan_windows, triangular_factor
from tests.systems_of_odes import (
    LINEAR_OSCILLATOR,
    LORENZ,
    LOTKA_VOLTERRA,
    SYSTEMS,
    VAN_DER_POL,
    coefficient_error,
    true_positive_rate,
    with_noise,
)


def factor_of(g, b):
    r = np.linalg.qr(np.column_stack([g, b]), mode="r")
    size = g.shape[1] + b.shape[1]
    return TriangularFactor(np.pad(r, ((0, size - len(r)), (0, 0))), g.shape[1], len(g))


def identified(system, noise, degree, seed=0, samples=10_000, step=None):
    times, a = system.record(samples, step=step)
    a = with_noise(a, noise, seed) if noise else a
    library = PolynomialLibrary(system.states, degree)
    plan = plan_windows(times, a)
    factor = triangular_factor(a, times, library, plan, BlockSpan(0, len(times)))
    return stlsq(factor, names=library.names()), system.coefficients(library.names())


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda s: s.name)
@pytest.mark.parametrize("degree", [3, 4])
def test_known_systems_come_back_from_clean_data(system, degree):
    model, truth = identified(system, 0.0, degree)
    assert true_positive_rate(model.coefficients, truth) == 1
    assert coefficient_error(model.coefficients, truth) < 1e-10


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.1])
@pytest.mark.parametrize(
    ("system", "error_per_noise"),
    # The best of the peers: 0.09, 0.06 and 0.04 times the noise (a mean of seeds is compared).
    [(LORENZ, 0.09), (VAN_DER_POL, 0.06), (LOTKA_VOLTERRA, 0.04)],
    ids=["Lorenz", "Van der Pol", "Lotka-Volterra"],
)
def test_known_systems_come_back_from_noisy_data(system, error_per_noise, noise):
    found = [identified(system, noise, 3, seed, step=0.001) for seed in range(4)]
    rates = [true_positive_rate(model.coefficients, truth) for model, truth in found]
    errors = [coefficient_error(model.coefficients, truth) for model, truth in found]
    assert np.mean(rates) == 1
    assert np.mean(errors) <= error_per_noise * noise


def test_error_falls_as_the_record_grows():
    times, clean = LORENZ.record(80_000)
    library = PolynomialLibrary(3, 2)
    truth = LORENZ.coefficients(library.names())
    means = []
    for samples in (5_000, 20_000, 80_000):
        errors = []
        for seed in range(3):
            a = with_noise(clean[:samples], 0.01, seed)
            plan = plan_windows(times[:samples], a)
            factor = triangular_factor(a, times[:samples], library, plan, BlockSpan(0, samples))
            errors.append(coefficient_error(stlsq(factor).coefficients, truth))
        means.append(np.mean(errors))
    assert means[0] > 1.5 * means[1] > 2 * means[2]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(2, 9), st.integers(1, 3))
def test_threshold_zero_is_least_squares(seed, terms, states):
    rng = np.random.default_rng(seed)
    g, b = rng.standard_normal((40, terms)), rng.standard_normal((40, states))
    model = stlsq(factor_of(g, b), threshold=0.0)
    oracle = np.linalg.lstsq(g, b, rcond=None)[0]
    np.testing.assert_allclose(model.coefficients, oracle, atol=1e-9)
    residual = np.linalg.norm(b - g @ oracle, axis=0) / np.linalg.norm(b, axis=0)
    np.testing.assert_allclose(model.residual, residual, rtol=1e-9)
    assert model.stop_reason == "fixed point"


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(3, 70), st.integers(1, 9), st.integers(-5, -1))
def test_planted_terms_are_chosen_for_every_equation(seed, terms, states, decades):
    """Also where columns are alike, and where many are dropped at once."""
    rng = np.random.default_rng(seed)
    windows = 60 * terms
    g = rng.standard_normal((windows, terms)) + 2 * rng.standard_normal((windows, 1))
    truth = np.zeros((terms, states))
    for j in range(states):
        some = rng.choice(terms, min(3, terms - 1), replace=False)
        truth[some, j] = rng.choice([-1, 1], len(some)) * rng.uniform(1, 2, len(some))
    b = g @ truth + 10.0**decades * rng.standard_normal((windows, states))
    model = stlsq(factor_of(g, b))
    assert ((model.coefficients != 0) == (truth != 0)).all()
    for j in range(states):
        k = np.flatnonzero(truth[:, j])
        oracle = np.linalg.lstsq(g[:, k], b[:, j], rcond=None)[0]
        np.testing.assert_allclose(model.coefficients[k, j], oracle, rtol=1e-8)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.5))
def test_what_is_kept_contributes_and_scales_do_not_matter(seed, threshold):
    rng = np.random.default_rng(seed)
    g = rng.standard_normal((60, 6))
    b = g @ rng.standard_normal((6, 2)) + 0.1 * rng.standard_normal((60, 2))
    model = stlsq(factor_of(g, b), threshold=threshold)
    share = (
        np.abs(model.coefficients) * np.linalg.norm(g, axis=0)[:, None] / np.linalg.norm(b, axis=0)
    )
    assert (share[model.coefficients != 0] >= threshold * (1 - 1e-9)).all()
    scale = 10.0 ** rng.integers(-6, 6, 6)
    scaled = stlsq(factor_of(g * scale, b), threshold=threshold)
    np.testing.assert_allclose(scaled.coefficients * scale[:, None], model.coefficients, atol=1e-8)


def test_groups_of_equations_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    g = rng.standard_normal((400, 20)) + rng.standard_normal((400, 1))
    b = g[:, :6] @ rng.standard_normal((6, 7)) + 0.1 * rng.standard_normal((400, 7))
    together = stlsq(factor_of(g, b)).coefficients
    monkeypatch.setattr("romzarr.numerics.dynamics.stlsq.GROUP_SIZE", 2 * 20**2)
    np.testing.assert_allclose(stlsq(factor_of(g, b)).coefficients, together, atol=1e-12)
    assert np.count_nonzero(together) < together.size


def test_ridge_is_that_of_scaled_columns():
    rng = np.random.default_rng(0)
    g, b = rng.standard_normal((50, 4)) * [1, 10, 0.1, 3], rng.standard_normal((50, 1))
    unit, size = np.linalg.norm(g, axis=0), np.linalg.norm(b)
    a = g / unit
    oracle = np.linalg.solve(a.T @ a + 0.3 * np.eye(4), a.T @ b[:, 0]) / unit
    model = stlsq(factor_of(g, b), threshold=0.0, ridge=0.3)
    np.testing.assert_allclose(model.coefficients[:, 0], oracle, rtol=1e-9)
    assert size > 0


def test_redundant_columns_are_named_and_the_simplest_stays():
    rng = np.random.default_rng(0)
    x, v = rng.standard_normal((2, 80))
    g = np.column_stack([x, v, x + v, np.zeros(80), x * v, x * v])
    b = np.column_stack([v, -x - 0.1 * v])
    names = ("id(x)", "id(v)", "add(x, v)", "none", "x v", "mul(x, v)")
    for threshold in (None, 0.01):
        model = stlsq(factor_of(g, b), threshold=threshold, names=names)
        assert model.dependent == (
            "add(x, v) = 1 (id(x)) + 1 (id(v))",
            "none = 0",
            "mul(x, v) = 1 (x v)",
        )
        expected = np.zeros((6, 2))
        expected[1, 0], expected[0, 1], expected[1, 1] = 1, -1, -0.1
        np.testing.assert_allclose(model.coefficients, expected, atol=1e-10)


def test_a_linear_oscillator_without_damping_is_linear():
    # x^2 + v^2 is constant: degree two is rank deficient on this orbit.
    times = np.arange(300) * 0.1
    a = np.column_stack([np.cos(times), -np.sin(times)])
    library = PolynomialLibrary(2, 2)
    factor = triangular_factor(a, times, library, plan_windows(times, a), BlockSpan(0, 300))
    model = stlsq(factor, names=library.names())
    expected = np.zeros((6, 2))
    expected[2, 0], expected[1, 1] = 1, -1
    np.testing.assert_allclose(model.coefficients, expected, atol=1e-9)
    assert len(model.dependent) == 1
    assert model.dependent[0].startswith("a2^2 = ")


@pytest.mark.parametrize("threshold", [None, 0.0, 0.1, 5.0])
@pytest.mark.parametrize(
    "case", ["zero b", "zero g", "no windows", "few windows", "nan", "huge", "tiny", "one column"]
)
def test_hard_numbers_end_in_a_model(case, threshold):
    rng = np.random.default_rng(0)
    g, b = rng.standard_normal((30, 5)), rng.standard_normal((30, 2))
    match case:
        case "zero b":
            b[:, 0] = 0
        case "zero g":
            g[:] = 0
        case "few windows":
            g, b = g[:3], b[:3]
        case "nan":
            g[3, 2] = np.nan
        case "huge":
            g *= 1e150
        case "tiny":
            g *= 1e-150
        case "one column":
            g = g[:, :1]
    factor = factor_of(np.nan_to_num(g), b)
    if case == "no windows":
        factor = TriangularFactor(np.zeros((7, 7)), 5, 0)
    if case == "nan":
        factor = TriangularFactor(factor.r * np.nan, 5, 30)
    model = stlsq(factor, threshold=threshold)
    assert np.isfinite(model.coefficients).all()
    assert model.stop_reason
    assert model.coefficients.shape == (factor.terms, 2)


def test_taking_noise_out_is_subtraction_of_gram_matrices():
    rng = np.random.default_rng(0)
    r = np.triu(rng.standard_normal((6, 6))) + 5 * np.eye(6)
    noise = 0.1 * np.triu(rng.standard_normal((6, 6)))
    found = without_noise(TriangularFactor(r, 4, 100, noise)).r
    expected = r.T @ r - noise.T @ noise
    expected[4:, 4:] = (r.T @ r)[4:, 4:]
    np.testing.assert_allclose(found.T @ found, expected, atol=1e-11)


def test_oscillator_lifted_by_damping_only():
    model, truth = identified(LINEAR_OSCILLATOR, 0.0, 2, samples=600)
    np.testing.assert_allclose(model.coefficients, truth, atol=1e-10)


def test_bad_settings_are_refused():
    factor = factor_of(np.eye(3), np.ones((3, 1)))
    for bad in ({"threshold": -1.0}, {"ridge": -1.0}, {"max_iterations": 0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            stlsq(factor, **bad)


def test_van_der_pol_terms_are_the_published_ones():
    model, truth = identified(VAN_DER_POL, 0.0, 3)
    assert model.nonzero_terms == np.count_nonzero(truth) == 4

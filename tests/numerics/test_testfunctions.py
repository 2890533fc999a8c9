"""Test functions: derivatives, quadrature and the rule for their support."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from romzarr.errors import LibraryError
from romzarr.numerics.dynamics.testfunctions import (
    Bell,
    SymbolicTestFunction,
    choose_support,
    exact_weights,
    parse_test_function,
    trapezoid_weights,
)
from tests.systems_of_odes import LORENZ, with_noise


def test_symbolic_bell_is_the_bell():
    s = np.linspace(-1, 1, 101)
    symbolic = SymbolicTestFunction.parse("(1 - s**2)**5")
    np.testing.assert_allclose(symbolic(s), Bell(5)(s), atol=1e-15)
    np.testing.assert_allclose(symbolic.derivative(s), Bell(5).derivative(s), atol=1e-13)


def test_specs():
    assert parse_test_function("bell(8)", 20) == Bell(8)
    assert isinstance(parse_test_function("bell", 20), Bell)
    found = parse_test_function(" (1 - s**2)**3 * (2 + s) ", 20)
    assert parse_test_function(found.spec(), 20) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 - s", "must vanish"),
        ("1 + s**2", "must vanish"),
        ("0*s", "zero"),
        ("log(s)", "not finite"),
        ("sqrt(1 - s**2)", "derivative"),
        ("__import__('os')", "not allowed"),
        ("bell(99)", "order"),
        ("t**2", "not allowed"),
    ],
)
def test_bad_test_functions_are_refused(text, message):
    with pytest.raises(LibraryError, match=message):
        parse_test_function(text, 20)


def test_trapezoid_is_spectrally_accurate():
    times = np.arange(101) * 0.02
    integral, slope = trapezoid_weights(Bell(8), 100, 0.02)

    def f(t):
        return np.sin(3 * t) * np.exp(0.3 * t)

    def psi(t):
        return (1 - (t - 1) ** 2) ** 8

    oracle = quad(lambda t: psi(t) * f(t), 0, 2, epsabs=1e-14)[0]
    assert integral @ f(times) == pytest.approx(oracle, abs=1e-12)
    oracle = quad(lambda t: 16 * (t - 1) * (1 - (t - 1) ** 2) ** 7 * f(t), 0, 2, epsabs=1e-14)[0]
    assert slope @ f(times) == pytest.approx(oracle, abs=1e-12)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(4, 60), st.floats(0, 1.5))
def test_integration_by_parts_holds_on_uneven_times(seed, count, jitter):
    # -int psi' f = int psi f' : exact for cubics away from the record's ends and rough
    # spots, and for straight lines everywhere.
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.uniform(0.2, 0.2 + jitter, count))
    support = times[-1] - times[0]
    span, integral, slope = exact_weights(Bell(4), times, 0, support)
    local = times[span]
    assert slope @ (3 * local + 2) == pytest.approx(integral @ (3 + 0 * local), rel=1e-11)


def test_uneven_weights_are_exact_for_cubics():
    times = np.cumsum(np.random.default_rng(1).uniform(0.7, 1.3, 40))
    support = 17.3
    span, integral, slope = exact_weights(Bell(6), times, 11, support)
    begin = times[11]

    def psi(t):
        s = 2 * (t - begin) / support - 1
        return (1 - s * s) ** 6

    def f(t):
        return 1 + t - 0.2 * t**2 + 0.01 * t**3

    oracle = quad(lambda t: psi(t) * f(t), begin, begin + support, epsabs=1e-13)[0]
    assert integral @ f(times[span]) == pytest.approx(oracle, rel=1e-11)
    oracle = quad(
        lambda t: psi(t) * (1 - 0.4 * t + 0.03 * t**2), begin, begin + support, epsabs=1e-13
    )[0]
    assert slope @ f(times[span]) == pytest.approx(oracle, rel=1e-10)


def test_support_follows_the_time_scale_and_not_the_record():
    _, long = LORENZ.record(40_000)
    widths = [choose_support(long[:m]).half_width for m in (4_000, 10_000, 40_000)]
    assert max(widths) <= 1.3 * min(widths)
    fine = LORENZ.record(20_000, step=0.002)[1]
    assert choose_support(fine).half_width == pytest.approx(5 * widths[1], rel=0.5)


def test_noise_is_measured_and_clean_data_has_none():
    _, clean = LORENZ.record(20_000)
    assert not choose_support(clean).resolved
    scales = choose_support(with_noise(clean, 0.05, seed=0))
    rms = np.sqrt(np.mean(clean**2, axis=0))
    assert scales.resolved
    np.testing.assert_allclose(scales.noise, 0.05 * rms, rtol=0.1)


@pytest.mark.parametrize("samples", [5, 8, 20, 100, 300])
def test_short_constant_and_noisy_records_get_windows_that_fit(samples):
    rng = np.random.default_rng(0)
    for a in (
        np.zeros((samples, 2)),
        np.ones((samples, 1)),
        rng.standard_normal((samples, 3)),
        np.sin(0.4 * np.arange(samples))[:, None],
    ):
        half = choose_support(a).half_width
        assert half >= 2
        assert 2 * half + 1 <= samples

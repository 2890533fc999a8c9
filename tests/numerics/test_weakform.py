"""The weak system: against plain sums, whatever the blocks, and free of noise bias."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from romzarr.contracts import BlockSpan, TriangularFactor
from romzarr.errors import ConfigError, LibraryError
from romzarr.numerics.dynamics.library import PolynomialLibrary, SymbolicLibrary
from romzarr.numerics.dynamics.stlsq import stlsq
from romzarr.numerics.dynamics.testfunctions import Bell
from romzarr.numerics.dynamics.weakform import (
    merge_factors,
    plan_windows,
    triangular_factor,
    weak_rows,
)
from tests.systems_of_odes import LORENZ, VAN_DER_POL, coefficient_error, with_noise


def whole(a, times, library, plan):
    return triangular_factor(a, times, library, plan, BlockSpan(0, len(times)))


def in_blocks(a, times, library, plan, block):
    factors = []
    for start in range(0, len(times), block):
        span = BlockSpan(start, min(start + block, len(times)))
        halo = plan.halo(times, span)
        part = slice(halo.start, halo.stop)
        factors.append(
            triangular_factor(a[part], times[part], library, plan, span, first=halo.start)
        )
    return factors


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_rows_are_the_trapezoid_sums(noise):
    times, a = LORENZ.record(3000)
    a = with_noise(a, noise, seed=1) if noise else a
    library = PolynomialLibrary(3, 2)
    plan = plan_windows(times, a)
    assert (plan.noise is not None) == bool(noise)
    pieces = [rows for rows, _ in weak_rows(a, times, library, plan, BlockSpan(0, 3000), 0)]
    rows = np.concatenate(pieces)
    theta = library.evaluate(a, variance=np.square(plan.noise) if noise else None)
    s = np.linspace(-1, 1, plan.width + 1)
    q = plan.test_function.order
    psi, slope = (1 - s**2) ** q, -2 * q * s * (1 - s**2) ** (q - 1) * 2 / (plan.width * 0.01)
    for k in (0, 1, 17, len(rows) - 1):
        window = slice(k * plan.stride, k * plan.stride + plan.width + 1)
        np.testing.assert_allclose(rows[k, :10], 0.01 * psi @ theta[window], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(rows[k, 10:], -0.01 * slope @ a[window], rtol=1e-9, atol=1e-9)
    # The next window would not fit.
    assert len(rows) * plan.stride + plan.width + 1 > 3000


@settings(deadline=None, max_examples=25)
@given(
    block=st.integers(1, 700),
    uneven=st.booleans(),
    noise=st.sampled_from([0.0, 0.05]),
    seed=st.integers(0, 100),
)
def test_blocks_do_not_change_the_system(block, uneven, noise, seed):
    rng = np.random.default_rng(seed)
    count = 600
    steps = rng.uniform(0.02, 0.08, count - 1) if uneven else np.full(count - 1, 0.05)
    times = np.concatenate([[0.0], np.cumsum(steps)])
    a = np.column_stack([np.sin(times), np.cos(1.7 * times)])
    a = a + noise * rng.standard_normal(a.shape)
    library = PolynomialLibrary(2, 2)
    plan = plan_windows(times, a)
    expected = whole(a, times, library, plan)
    factors = in_blocks(a, times, library, plan, block)
    rng.shuffle(factors)
    found = merge_factors(factors)
    assert found.windows == expected.windows > 20
    gram = expected.r.T @ expected.r
    np.testing.assert_allclose(found.r.T @ found.r, gram, atol=1e-12 * gram.max())
    if expected.noise is not None:
        gram = expected.noise.T @ expected.noise
        np.testing.assert_allclose(found.noise.T @ found.noise, gram, atol=1e-12 * gram.max())


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_merging_is_associative(count, seed):
    rng = np.random.default_rng(seed)
    factors = [
        TriangularFactor(np.triu(rng.standard_normal((5, 5))), 3, 10 + k) for k in range(count)
    ]
    together = merge_factors(factors)
    one_by_one = factors[0]
    for factor in factors[1:]:
        one_by_one = merge_factors([one_by_one, factor])
    np.testing.assert_allclose(np.abs(one_by_one.r), np.abs(together.r), atol=1e-11)
    assert one_by_one.windows == together.windows
    assert (together.r.diagonal() >= 0).all() or count == 1


def test_noise_bias_is_gone():
    # Bias is what the mean over many draws of the noise leaves: for plain least squares far
    # more than the scatter of that mean explains, for the corrected triangle no more.
    times, clean = LORENZ.record(20_000)
    library = PolynomialLibrary(3, 2)
    truth = LORENZ.coefficients(library.names())
    right = [1, 2, 3, 5, 6]  # the terms of Lorenz, given: no choice of terms is involved
    found = {"plain": [], "corrected": []}
    for seed in range(12):
        noisy = with_noise(clean, 0.08, seed)
        factor = whole(noisy, times, library, plan_windows(times, noisy, support=0.76))
        columns = [*right, *range(factor.terms, factor.terms + 3)]
        r = np.linalg.qr(factor.r[:, columns], mode="r")
        noise = np.linalg.qr(factor.noise[:, columns], mode="r")
        for name, part in (("plain", None), ("corrected", noise)):
            model = stlsq(TriangularFactor(r, 5, factor.windows, part), threshold=0.0)
            found[name].append(model.coefficients - truth[right])
    bias = {name: np.linalg.norm(np.mean(values, axis=0)) for name, values in found.items()}
    scatter = {
        name: np.linalg.norm(np.std(values, axis=0, ddof=1)) / np.sqrt(12)
        for name, values in found.items()
    }
    assert bias["corrected"] < 3 * scatter["corrected"]
    assert bias["plain"] > 10 * scatter["plain"]


@pytest.mark.parametrize("jitter", [0.2, 0.9])
def test_uneven_times_find_the_same_system(jitter):
    rng = np.random.default_rng(0)
    times = np.cumsum(0.01 * rng.uniform(1 - jitter, 1 + jitter, 4000))
    times -= times[0]
    a = VAN_DER_POL.at(times)
    library = PolynomialLibrary(2, 3)
    plan = plan_windows(times, a)
    assert plan.step is None
    model = stlsq(whole(a, times, library, plan))
    truth = VAN_DER_POL.coefficients(library.names())
    assert coefficient_error(model.coefficients, truth) < 1e-4


def test_windows_with_a_gap_are_left_out():
    times = np.concatenate([np.arange(300) * 0.05, 40 + np.arange(300) * 0.05])
    a = np.column_stack([np.sin(times), np.cos(times)])
    library = PolynomialLibrary(2, 1)
    plan = plan_windows(times, a, support=3.0)
    model = stlsq(whole(a, times, library, plan))
    np.testing.assert_allclose(model.coefficients, [[0, 0], [0, -1], [1, 0]], atol=1e-4)


def test_given_settings_are_used_and_bad_ones_named():
    times, a = LORENZ.record(2000)
    plan = plan_windows(times, a, test_function="bell(7)", support=0.6, spacing=0.05)
    assert (plan.test_function, plan.width, plan.stride) == (Bell(7), 60, 5)
    for bad in (0, -1.0, 1e9, "wide", True, float("nan")):
        with pytest.raises(ConfigError, match="support"):
            plan_windows(times, a, support=bad)
        with pytest.raises(ConfigError, match="spacing"):
            plan_windows(times, a, spacing=bad)


@pytest.mark.parametrize("samples", [3, 5, 9, 40])
def test_short_records_give_a_factor_and_a_model(samples):
    times = np.arange(samples) * 0.3
    a = np.column_stack([np.sin(times), np.cos(times)])
    library = PolynomialLibrary(2, 3)
    factor = whole(a, times, library, plan_windows(times, a))
    assert factor.r.shape == (12, 12)
    model = stlsq(factor)
    assert np.isfinite(model.coefficients).all()


def test_a_feature_that_is_not_finite_is_named():
    times, a = LORENZ.record(500)
    library = SymbolicLibrary(3, ("a1", "log(a1)", "a2"))
    with pytest.raises(LibraryError, match=r"log\(a1\)"):
        whole(a, times, library, plan_windows(times, a))

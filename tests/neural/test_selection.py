"""The default selection: exact supports from noisy states, over seeds and systems."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from romzarr.contracts import TriangularFactor
from romzarr.errors import LibraryError
from romzarr.neural import selection
from romzarr.neural.runs import Problem, beyond, run_best, run_stlsq
from romzarr.neural.selection import STEP_BITS, identities, select
from romzarr.neural.systems import (
    LOTKA_VOLTERRA,
    OSCILLATOR,
    PENDULUM,
    VAN_DER_POL,
    driven_pendulum,
    duffing,
    oscillator,
    pendulum,
    two_wells,
)
from romzarr.neural.weak_fit import refit
from romzarr.numerics.dynamics.networks import shipped_operators
from romzarr.numerics.dynamics.neural_library import NeuralLibrary, default_library, library_for
from romzarr.numerics.triangles import canonical_r


@pytest.mark.parametrize(("sigma", "error"), [(1e-3, 1e-3), (1e-2, 0.01), (5e-2, 0.05)])
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


# Stiffness, damping, amplitude and step of none of these were developed on.
OTHERS = [
    oscillator(k=2.3, c=0.0, x0=1.7, step=0.03),
    oscillator(k=0.7, c=0.01, x0=0.8, step=0.07),
    duffing(k=0.7, c=0.03, x0=1.5, step=0.04, cubic=0.4),
    duffing(k=2.0, c=0.0, x0=0.9, step=0.02, cubic=3.0),
    two_wells(k=-1.4, c=0.0, x0=0.5, step=0.05),
    two_wells(k=-0.8, c=0.05, x0=1.9, step=0.03),
    pendulum(k=1.8, c=0.03, x0=1.9, step=0.04),
    driven_pendulum(k=1.5, c=0.2, x0=1.0, step=0.04, force=0.9, frequency=1.1),
]


@pytest.mark.parametrize("noise", [0.0, 1e-3, 1e-2])
@pytest.mark.parametrize("system", OTHERS, ids=lambda s: f"{s.name} {s.start[0]:g}")
def test_other_systems_are_recovered(system, noise):
    _, result = beyond(system, noise, seeds=1)
    assert result.exact.all()


# Half a minute each: half of them with all tests, the others with `make bench`.
LONG = [
    pytest.param(
        each,
        marks=[pytest.mark.benchmark] if number % 2 else [],
        id=f"{each.name} {each.start[0]:g}",
    )
    for number, each in enumerate(OTHERS)
]


@pytest.mark.slow
@pytest.mark.parametrize("system", LONG)
def test_more_samples_do_not_add_terms(system):
    for noise in (1e-3, 1e-2):
        _, result = beyond(replace(system, samples=3000), noise, seeds=2)
        assert result.exact.all()


def test_a_record_at_uneven_times_is_recovered():
    record = OSCILLATOR.record(1e-3, 0)
    kept = np.sort(np.random.default_rng(0).permutation(600)[:400])
    found = select(record.states[kept], record.times[kept], default_library(2))
    names = np.array(found.names)
    assert list(names[found.coefficients[:, 0] != 0]) == ["identity(a2)"]
    assert list(names[found.coefficients[:, 1] != 0]) == ["identity(a1)", "identity(a2)"]


def test_noise_alone_has_no_equations():
    noise = np.random.default_rng(0).standard_normal((600, 2))
    found = select(noise, 0.05 * np.arange(600), default_library(2))
    assert not found.coefficients.any()
    assert_allclose(found.noise, 1, rtol=0.1)


def test_states_that_rest_are_no_trouble():
    states = OSCILLATOR.record(1e-3, 0).states
    for value in (0.0, 2.0):
        both = np.hstack([states, np.full((len(states), 1), value)])
        found = select(
            both, OSCILLATOR.record(1e-3, 0).times, library_for(both, shipped_operators())
        )
        assert not found.coefficients[:, 2].any()


@pytest.mark.slow
def test_standard_errors_are_those_of_many_records():
    problem = Problem.reference(1e-2, 40)
    truth = problem.truth
    shares = []
    for record in problem.records:
        found = select(record.states, record.times, problem.library)
        own = truth != 0
        shares.append((found.coefficients - truth)[own] / found.standard_errors[own])
    assert 0.7 < np.sqrt(np.mean(np.square(shares))) < 1.3


def test_states_beyond_the_networks_are_refused_with_a_remedy():
    record = oscillator(x0=12.0).record(1e-3, 0)
    with pytest.raises(LibraryError, match=r"library_for"):
        select(record.states, record.times, default_library(2))
    for samples in (1, 2):
        with pytest.raises(LibraryError, match="3 or more increasing times"):
            select(record.states[:samples] / 12, record.times[:samples], default_library(2))
    holes = np.where(np.arange(600)[:, None] == 7, np.nan, record.states / 12)
    with pytest.raises(LibraryError, match="finite"):
        select(holes, record.times, default_library(2))


def test_an_angle_that_turns_is_recovered_from_whole_turns_and_parts():
    """A pendulum that goes over the top: its angle grows without end."""
    fast = replace(pendulum(c=0.01), start=(0.0, 2.5))
    problem, result = beyond(replace(fast, angles=(0,)), noise=1e-3, seeds=2)
    assert problem.records[0].states[:, 0].max() > 30
    assert problem.library.constant
    assert result.exact.all()


def test_identities_hold_wherever_the_networks_reach():
    nested = NeuralLibrary(2, shipped_operators(), (), ("mul",))
    for library in (default_library(2), nested):
        assert [library.names()[k] for k in identities(library)] == ["add(a1, a2)"]


def made_up(rng, p, rows, noise, xi):
    g = rng.standard_normal((rows, p)) * 10 ** rng.uniform(-2, 2, p)
    b = g @ (xi / np.sqrt(np.mean(g**2, axis=0))) + noise * rng.standard_normal(rows)
    return g, b


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 5), st.integers(0, 2**32 - 1), st.sampled_from([1e-3, 0.1, 1.0]))
def test_the_choice_has_the_most_evidence_of_all(p, seed, noise):
    rng = np.random.default_rng(seed)
    rows = 800
    g, b = made_up(rng, p, rows, noise, rng.standard_normal(p) * (rng.random(p) < 0.5))
    # Rows of unit noise and coefficients of unit width, as an equation has them.
    g, b = g / np.abs(g).max(axis=0) * np.abs(b).max() / noise, b / noise
    steps = STEP_BITS * rng.integers(0, 3, p)
    both = np.column_stack([g, b])
    table = selection._Equation(both.T @ both, rows, steps).compared()
    # Oracle: the density of the rows under a normal with all that is unknown in its covariance.
    bits = {}
    for size in range(p + 1):
        for support in combinations(range(p), size):
            own = g[:, list(support)]
            spread = np.eye(rows) + own @ own.T
            misfit = b @ np.linalg.solve(spread, b)
            share = max(misfit / rows, 1.0)
            data = rows * np.log(share) + misfit / share + np.linalg.slogdet(spread)[1]
            named = np.log2(len(list(combinations(range(p), size)))) + steps[list(support)].sum()
            bits[support] = data / np.log(2) / 2 + named
    for mask, value in zip(table.supports, table.bits, strict=True):
        assert value == pytest.approx(bits[tuple(np.flatnonzero(mask).tolist())], abs=1e-3)
    best = min(bits, key=bits.get)
    assert tuple(np.flatnonzero(table.chosen)) == best
    weight = {support: 2 ** (bits[best] - value) for support, value in bits.items()}
    for k in range(p):
        share = sum(w for support, w in weight.items() if k in support) / sum(weight.values())
        assert table.activations[k] == pytest.approx(share, abs=1e-3)


def test_of_many_terms_the_right_ones_survive():
    rng = np.random.default_rng(0)
    p, rows = selection.ALL_SUPPORTS + 5, 1000
    g = 100 * rng.standard_normal((rows, p))
    b = g[:, 3] - 0.5 * g[:, 16] + rng.standard_normal(rows)
    both = np.column_stack([g, b])
    table = selection._Equation(both.T @ both, rows, np.zeros(p)).compared()
    assert list(np.flatnonzero(table.chosen)) == [3, 16]
    assert len(table.bits) == 2**selection.ALL_SUPPORTS


def test_noise_in_the_features_does_not_bias_coefficients():
    """Errors in variables: plain least squares would shrink the coefficient by 1 / 1.25."""
    rng = np.random.default_rng(0)
    clean = rng.standard_normal((40_000, 1))
    g, b = clean + 0.5 * rng.standard_normal(clean.shape), 3 * clean
    noise = np.hstack([0.5 * rng.standard_normal(clean.shape), np.zeros_like(b)])
    factor = TriangularFactor(canonical_r(np.hstack([g, b])), 1, len(g), noise=canonical_r(noise))
    assert refit(factor, np.ones((1, 1), bool))[0, 0] == pytest.approx(3, rel=0.02)

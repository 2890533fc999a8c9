"""Dependent terms are named, and the simpler ones stay."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from romzarr.neural.collinearity import diagnose
from romzarr.neural.systems import OSCILLATOR
from romzarr.numerics.dynamics.library import (
    ConcatenatedLibrary,
    PolynomialLibrary,
    SymbolicLibrary,
)
from romzarr.numerics.dynamics.neural_library import default_library


@pytest.fixture(scope="module")
def reference():
    return diagnose(default_library(2), OSCILLATOR.record(1e-3, 0).states)


def test_the_exact_dependence_is_named_and_the_sum_goes(reference):
    (found,) = reference.exact
    assert reference.names[found.term] == "add(a1, a2)"
    assert [reference.names[k] for k, _ in found.parts] == ["identity(a1)", "identity(a2)"]
    assert [c for _, c in found.parts] == pytest.approx([1, 1], abs=2e-3)
    assert "add(a1, a2) = identity(a1) + identity(a2)" in reference.words()


def test_sine_is_like_the_identity_with_the_amplitude_that_separates_them(reference):
    pairs = {(reference.names[p.first], reference.names[p.second]): p for p in reference.alike}
    assert set(pairs) == {("identity(a1)", "sin(a1)"), ("identity(a2)", "sin(a2)")}
    found = pairs["identity(a1)", "sin(a1)"]
    # Oracle: the angle between x and sin(x), with x as large as it is said to have to be.
    x = found.stretch * OSCILLATOR.record(1e-3, 0).states[:, 0]
    cosine = x @ np.sin(x) / np.linalg.norm(x) / np.linalg.norm(np.sin(x))
    assert math.sqrt(1 - cosine**2) == pytest.approx(0.1, rel=0.02)
    assert "would bring that to 10 %" in reference.words()


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_independent_terms_are_all_kept(states, seed):
    a = np.random.default_rng(seed).uniform(-1, 1, (400, states))
    found = diagnose(PolynomialLibrary(states, 1), a)
    assert found.exact == ()
    # Oracle: variance inflation by its definition.
    theta = PolynomialLibrary(states, 1).evaluate(a)
    for k in range(theta.shape[1]):
        others = np.delete(theta, k, axis=1)
        left = theta[:, k] - others @ np.linalg.lstsq(others, theta[:, k], rcond=None)[0]
        assert found.inflation[k] == pytest.approx(theta[:, k] @ theta[:, k] / (left @ left))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_what_is_dropped_is_spanned_by_what_is_kept(seed):
    rng = np.random.default_rng(seed)
    a = rng.uniform(-2, 2, (300, 2))
    p, q = rng.integers(1, 9, 2)
    library = ConcatenatedLibrary(
        (PolynomialLibrary(2, 2), SymbolicLibrary(2, (f"{p}*a1 - {q}*a2", f"a1**2 + {q}*a2**2")))
    )
    found = diagnose(library, a)
    assert found.dropped == (6, 7)
    theta = library.evaluate(a)
    for each in found.exact:
        value = sum(c * theta[:, k] for k, c in each.parts)
        np.testing.assert_allclose(value, theta[:, each.term], atol=1e-9)


def test_a_term_that_is_zero_is_left_out():
    found = diagnose(PolynomialLibrary(2, 1), np.array([[1.0, 0.0], [2.0, 0.0], [-1.0, 0.0]]))
    assert found.dropped == (2,)


def test_terms_that_no_amplitude_separates_are_said_to_be_so():
    a = np.random.default_rng(0).uniform(-1, 1, (200, 1))
    found = diagnose(SymbolicLibrary(1, ("a1", "a1*(1 + 0.1*cos(a1))")), a)
    assert math.isinf(found.alike[0].stretch)
    assert "no larger amplitude" in found.words()

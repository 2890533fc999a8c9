"""Libraries: names, values against plain powers, and specs that nobody can abuse."""

import json
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from romzarr.errors import LibraryError
from romzarr.numerics.dynamics.library import (
    ConcatenatedLibrary,
    FourierLibrary,
    PolynomialLibrary,
    SymbolicLibrary,
    library_from_spec,
    term_count,
)


def monomial(name, a):
    """Value of a term from its printed name."""
    value = np.ones(len(a))
    for factor in name.split() if name != "1" else []:
        state, _, power = factor[1:].partition("^")
        value = value * a[:, int(state) - 1] ** int(power or 1)
    return value


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.integers(0, 4), st.booleans(), st.integers(0, 2**32 - 1))
def test_each_column_is_the_monomial_that_its_name_says(states, degree, interactions, seed):
    library = PolynomialLibrary(states, degree, interactions)
    a = np.random.default_rng(seed).standard_normal((7, states))
    values = library.evaluate(a)
    assert values.flags.c_contiguous
    assert values.shape == (7, library.size) == (7, len(set(library.names())))
    for k, name in enumerate(library.names()):
        np.testing.assert_allclose(values[:, k], monomial(name, a), rtol=1e-13)
    if interactions:
        assert library.size == term_count(states, degree) == comb(states + degree, degree)


def library_of_all():
    return ConcatenatedLibrary(
        (
            PolynomialLibrary(3, 3),
            FourierLibrary(3, (1, 2.5)),
            SymbolicLibrary(3, ("exp(-a1**2)", "a2/(1 + a3**2)", "3")),
        )
    )


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 34), max_size=8))
def test_a_choice_of_columns_is_that_of_the_whole(columns):
    library = library_of_all()
    a = np.random.default_rng(0).standard_normal((5, 3))
    chosen = np.array(columns, dtype=np.intp)
    np.testing.assert_array_equal(library.evaluate(a, chosen), library.evaluate(a)[:, chosen])


def test_names_and_latex():
    library = library_of_all()
    assert library.names()[:7] == ("1", "a1", "a2", "a3", "a1^2", "a1 a2", "a1 a3")
    assert library.names()[20:22] == ("sin(a1)", "cos(a1)")
    assert "sin(2.5 a2)" in library.names()
    assert library.latex()[4] == "a_{1}^{2}"
    assert len(library.names()) == len(library.latex()) == library.size == 35


@pytest.mark.parametrize("library", [PolynomialLibrary(2, 4), FourierLibrary(2, (1.0, 2.0))])
def test_corrected_features_have_the_clean_mean(library):
    rng = np.random.default_rng(3)
    clean = np.array([[0.8, -0.5]])
    variance = np.array([0.04, 0.09])
    noisy = clean + np.sqrt(variance) * rng.standard_normal((400_000, 2))
    mean = library.evaluate(noisy, variance=variance)
    error = np.abs(mean.mean(axis=0) - library.evaluate(clean)[0])
    assert (error <= 5 * mean.std(axis=0) / np.sqrt(len(noisy)) + 1e-12).all()
    biased = np.abs(library.evaluate(noisy).mean(axis=0) - library.evaluate(clean)[0])
    assert biased.max() > 10 * error.max()


def test_spec_round_trip_is_json():
    library = library_of_all()
    assert library_from_spec(json.loads(json.dumps(library.spec()))) == library


@pytest.mark.parametrize(
    "spec",
    [
        None,
        [],
        {},
        {"kind": "pickle"},
        {"kind": ["polynomial"]},
        {"kind": "polynomial"},
        {"kind": "polynomial", "states": 3},
        {"kind": "polynomial", "states": 3, "degree": 2, "evil": 1},
        {"kind": "polynomial", "states": 3, "degree": "2"},
        {"kind": "polynomial", "states": True, "degree": 2},
        {"kind": "polynomial", "states": 3.0, "degree": 2},
        {"kind": "polynomial", "states": 0, "degree": 2},
        {"kind": "polynomial", "states": 3, "degree": -1},
        {"kind": "polynomial", "states": 3, "degree": 2, "interactions": 1},
        {"kind": "polynomial", "states": 10_000, "degree": 16},
        {"kind": "polynomial", "states": 10**12, "degree": 2},
        {"kind": "fourier", "states": 3, "frequencies": []},
        {"kind": "fourier", "states": 3, "frequencies": "12"},
        {"kind": "fourier", "states": 3, "frequencies": [float("nan")]},
        {"kind": "fourier", "states": 3, "frequencies": [-1.0]},
        {"kind": "fourier", "states": 3, "frequencies": [1.0] * 1000},
        {"kind": "symbolic", "states": 3, "expressions": ["__import__('os')"]},
        {"kind": "symbolic", "states": 3, "expressions": ["a4"]},
        {"kind": "symbolic", "states": 3, "expressions": [1]},
        {"kind": "symbolic", "states": 3, "expressions": "a1"},
        {"kind": "concatenated", "parts": []},
        {"kind": "concatenated", "parts": "ab"},
        {"kind": "concatenated"},
        {
            "kind": "concatenated",
            "parts": [
                {"kind": "polynomial", "states": 2, "degree": 1},
                {"kind": "polynomial", "states": 3, "degree": 1},
            ],
        },
    ],
)
def test_hostile_specs_are_refused(spec):
    with pytest.raises(LibraryError):
        library_from_spec(spec)


def test_nesting_is_bounded():
    spec = {"kind": "polynomial", "states": 2, "degree": 1}
    for _ in range(5):
        spec = {"kind": "concatenated", "parts": [spec]}
    with pytest.raises(LibraryError, match="levels"):
        library_from_spec(spec)


def test_wrong_shape_is_refused():
    with pytest.raises(LibraryError, match="3 states"):
        PolynomialLibrary(3, 2).evaluate(np.zeros((4, 2)))

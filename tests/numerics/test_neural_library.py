"""The neural library: terms, values, noise, specs; in weak form and STLSQ like any other."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from romzarr.contracts import BlockSpan
from romzarr.errors import LibraryError
from romzarr.numerics.dynamics.library import (
    ConcatenatedLibrary,
    PolynomialLibrary,
    SymbolicLibrary,
    library_from_spec,
)
from romzarr.numerics.dynamics.networks import Operator, shipped_operators
from romzarr.numerics.dynamics.neural_library import (
    NeuralLibrary,
    chosen_operators,
    default_library,
    library_for,
    suitable_scales,
)
from romzarr.numerics.dynamics.stlsq import stlsq
from romzarr.numerics.dynamics.weakform import plan_windows, triangular_factor
from tests.systems_of_odes import LINEAR_OSCILLATOR

SHIPPED = shipped_operators()


def test_two_states_make_the_eight_terms():
    assert default_library(2).names() == (
        "identity(a1)", "identity(a2)", "sin(a1)", "sin(a2)", "cos(a1)", "cos(a2)",
        "add(a1, a2)", "mul(a1, a2)",
    )  # fmt: skip


@settings(deadline=None, max_examples=20)
@given(
    st.integers(1, 4),
    st.sets(st.sampled_from([o.name for o in SHIPPED]), min_size=1),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_each_column_is_what_its_formula_says(states, names, nested, seed):
    operators = chosen_operators([o.name for o in SHIPPED if o.name in names], SHIPPED)
    rng = np.random.default_rng(seed)
    scales = tuple(float(f"{s:.3g}") for s in 10 ** rng.uniform(-3, 3, states))
    inner = ("mul",) if nested and "mul" in names else ()
    if states == 1 and not inner and all(o.arguments == 2 for o in operators):
        with pytest.raises(LibraryError, match="two states"):
            NeuralLibrary(states, operators, scales, inner)
        return
    library = NeuralLibrary(states, operators, scales, inner)
    a = rng.uniform(-4, 4, (50, states)) * np.array(scales)
    assert library.outside(a) < 1
    values = library.evaluate(a)
    assert values.shape == (50, library.size)
    assert len(set(library.names())) == library.size == len(library.latex())
    assert len(library.errors) == len(library.complexity) == library.size
    # Oracle: the formulas, by the symbolic library, which knows no networks.
    truth = SymbolicLibrary(states, library.formulas()).evaluate(a)
    assert_allclose(values, truth, rtol=0, atol=2e-2)
    assert (np.sqrt(np.mean((values - truth) ** 2, axis=0)) <= 4 * library.errors).all()


def test_nested_products_are_all_monomials_up_to_degree_three():
    library = NeuralLibrary(3, chosen_operators(["identity", "mul"], SHIPPED), (), ("mul",))
    # Constant left out; the factor 5 of an inner product only scales a term.
    assert library.size == PolynomialLibrary(3, 3).size - 1
    both = np.hstack(
        [
            SymbolicLibrary(3, library.formulas()).evaluate(a := np.random.default_rng(0).normal(
                size=(60, 3))),
            PolynomialLibrary(3, 3).evaluate(a)[:, 1:],
        ]
    )  # fmt: skip
    assert np.linalg.matrix_rank(both) == library.size


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(0, 13), max_size=6))
def test_a_choice_of_columns_is_that_of_the_whole(columns):
    library = NeuralLibrary(2, SHIPPED, (2.0, 1.0), ("mul",))
    a = np.random.default_rng(0).standard_normal((5, 2))
    chosen = np.array(columns, dtype=np.intp)
    assert_allclose(library.evaluate(a, chosen), library.evaluate(a)[:, chosen], atol=1e-12)
    variance = np.array([0.01, 0.04])
    assert_allclose(
        library.evaluate(a, chosen, variance=variance),
        library.evaluate(a, variance=variance)[:, chosen],
        atol=1e-12,
    )


def test_noise_shifts_corrected_features_far_less():
    library = NeuralLibrary(2, SHIPPED, (1.0, 0.5))
    clean, variance = np.array([[1.3, -0.6]]), np.array([0.04, 0.02])
    # The mean over the noise, by a quadrature of many more nodes than the correction has.
    nodes, weights = np.polynomial.hermite_e.hermegauss(16)
    both = np.stack([g.ravel() for g in np.meshgrid(nodes, nodes)], axis=1)
    shares = np.outer(weights, weights).ravel() / weights.sum() ** 2
    noisy = clean + np.sqrt(variance) * both
    truth = library.evaluate(clean)[0]
    biased = np.abs(shares @ library.evaluate(noisy) - truth)
    corrected = np.abs(shares @ library.evaluate(noisy, variance=variance) - truth)
    # What is left is of second order in the variance: (0.08 / 2)^2 for sin(a2/0.5).
    assert corrected.max() <= 2e-3
    assert biased.max() > 5 * corrected.max()


@pytest.mark.parametrize("nested", [(), ("mul",)])
def test_spec_round_trip_is_json(nested):
    own = Operator("mine", SHIPPED[1].network, 6.0, 1e-3, "sin(x)")
    for operators in (SHIPPED, (*SHIPPED, own)):
        library = NeuralLibrary(2, operators, (1.0, 3.5), nested)
        assert library_from_spec(json.loads(json.dumps(library.spec()))) == library
    joined = ConcatenatedLibrary((PolynomialLibrary(2, 1), default_library(2)))
    assert library_from_spec(json.loads(json.dumps(joined.spec()))) == joined
    # The fixed part of a store is small, so shipped weights are no part of it.
    assert len(json.dumps(default_library(8).spec())) < 1000


def test_angles_are_reached_however_often_they_turn():
    a = np.column_stack([np.linspace(-90, 120, 500), np.linspace(-1, 1, 500)])
    library = library_for(a, SHIPPED, ("mul",))
    assert (library.angles, library.constant) == ((0,), True)
    assert library.outside(a) <= 1
    names = library.names()
    assert {"sin(a1)", "cos(a1)", "sin(a2)", "1"} < set(names)
    assert "identity(a1/30)" in names
    # Oracle: the formulas, by the symbolic library.
    truth = SymbolicLibrary(2, library.formulas()).evaluate(a)
    assert_allclose(library.evaluate(a), truth, atol=2e-2)
    assert library_from_spec(json.loads(json.dumps(library.spec()))) == library
    variance = np.array([0.01, 0.04])
    corrected = library.evaluate(a, variance=variance)
    # The mean of sin over noise is smaller by half the variance, so corrected it is larger.
    k = names.index("sin(a1)")
    assert_allclose(corrected[:, k], 1.005 * library.evaluate(a)[:, k], atol=1e-3)
    assert_allclose(corrected[:, -1], 1)


def test_a_record_within_reach_needs_no_angles():
    a = np.random.default_rng(0).uniform(-2, 2, (50, 2))
    assert library_for(a, SHIPPED) == default_library(2)


def test_only_functions_of_an_angle_are_periodic():
    assert [operator.name for operator in SHIPPED if operator.periodic] == ["sin", "cos"]


SIN = SHIPPED[1].spec()


@pytest.mark.parametrize(
    "spec",
    [
        {"kind": "neural", "states": 2},
        {"kind": "neural", "states": 2, "operators": []},
        {"kind": "neural", "states": 2, "operators": "sin"},
        {"kind": "neural", "states": 2, "operators": {"name": "sin"}},
        {"kind": "neural", "states": 2, "operators": [SIN, SIN]},
        {"kind": "neural", "states": 2, "operators": [SIN] * 10_000},
        {"kind": "neural", "states": 10**9, "operators": [SIN]},
        {"kind": "neural", "states": 500, "operators": [o.spec() for o in SHIPPED]},
        {"kind": "neural", "states": True, "operators": [SIN]},
        {"kind": "neural", "states": 2, "operators": [SIN], "scales": [1.0]},
        {"kind": "neural", "states": 2, "operators": [SIN], "scales": [1.0, 0.0]},
        {"kind": "neural", "states": 2, "operators": [SIN], "scales": [1.0, float("nan")]},
        {"kind": "neural", "states": 2, "operators": [SIN], "scales": [1.0, "1"]},
        {"kind": "neural", "states": 2, "operators": [SIN], "nested": ["sin"]},
        {"kind": "neural", "states": 2, "operators": [SIN], "angles": [2]},
        {"kind": "neural", "states": 2, "operators": [SIN], "angles": [1, 0]},
        {"kind": "neural", "states": 2, "operators": [SIN], "angles": [[0]]},
        {"kind": "neural", "states": 2, "operators": [SIN], "angles": "0"},
        {"kind": "neural", "states": 2, "operators": [SIN], "constant": 1},
        {"kind": "neural", "states": 2, "operators": [SIN], "nested": [["mul"]]},
        {"kind": "neural", "states": 2, "operators": [SIN], "nested": "mul"},
        {"kind": "neural", "states": 2, "operators": [SIN], "weights": "/etc/passwd"},
    ],
)
def test_hostile_specs_are_refused(spec):
    with pytest.raises(LibraryError):
        library_from_spec(spec)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(1e-20, 1e20), min_size=1, max_size=5))
def test_suitable_scales_bring_a_record_into_reach(sizes):
    a = np.array(sizes)[None] * np.linspace(-1, 1, 5)[:, None]
    scales = suitable_scales(a, SHIPPED)
    shares = np.abs(a).max(axis=0) / np.array(scales) / 5.0
    assert (shares <= 1).all()
    assert (shares >= 0.0999).all()


def test_weak_form_and_stlsq_take_it_like_any_other():
    times, a = LINEAR_OSCILLATOR.record(600)
    library = NeuralLibrary(2, chosen_operators(["identity", "cos", "mul"], SHIPPED))
    plan = plan_windows(times, a)
    factor = triangular_factor(a, times, library, plan, BlockSpan(0, 600))
    model = stlsq(factor, names=library.names(), threshold=0.02)
    truth = np.zeros((library.size, 2))
    truth[:2] = [[0, -1], [1, -0.1]]
    assert_allclose(model.coefficients, truth, atol=2e-3)

"""Known equations are found, with none besides, and probabilities are those of sets of terms."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from romzarr.numerics.dynamics import term_selection
from romzarr.numerics.dynamics.library import PolynomialLibrary
from romzarr.numerics.dynamics.shooting import Record
from romzarr.numerics.dynamics.term_selection import (
    select_terms,
    term_price,
    weak_triangle,
    weigh_terms,
)
from tests.systems_of_odes import (
    LINEAR_OSCILLATOR,
    LORENZ,
    LOTKA_VOLTERRA,
    SYSTEMS,
    VAN_DER_POL,
    KnownSystem,
    with_noise,
)


def selected(records, states, degree=4):
    libraries = [PolynomialLibrary(states, d) for d in range(1, degree + 1)]
    return select_terms(records, libraries, weak_triangle(records, libraries[-1]))


def noisy_record(system: KnownSystem, samples: int, level: float, step=None) -> Record:
    times, states = system.record(samples, step=step)
    return Record(with_noise(states, level, 0) if level else states, times)


def assert_true(found, system: KnownSystem) -> None:
    truth = system.coefficients(found.library.names())
    assert_allclose(found.fit.coefficients != 0, truth != 0)
    off = np.abs(found.fit.coefficients - truth)
    assert (off <= 5 * found.fit.standard_errors + 1e-7 * np.abs(truth)).all()
    assert (found.probability[truth != 0] > 0.9).all()


@pytest.mark.parametrize("level", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_known_equations_are_found_up_to_degree_four(system, level):
    assert_true(selected([noisy_record(system, 1000, level)], system.states), system)


@pytest.mark.parametrize(
    ("system", "step"), [(LORENZ, 0.1), (VAN_DER_POL, 0.3)], ids=["Lorenz", "Van der Pol"]
)
@pytest.mark.parametrize("level", [0.0, 0.01])
def test_samples_may_be_far_apart(system, step, level):
    """Seven to twenty samples a turn, of which quadrature would make wrong terms."""
    assert_true(selected([noisy_record(system, 400, level, step)], system.states), system)


def test_times_may_be_uneven():
    record = noisy_record(LORENZ, 1500, 0.01)
    kept = np.sort(np.random.default_rng(1).choice(1500, 700, replace=False))
    assert_true(selected([Record(record.states[kept], record.times[kept])], 3), LORENZ)


def test_short_records_make_up_for_each_other():
    record = noisy_record(LORENZ, 1000, 0.02)
    parts = [
        Record(record.states[k : k + 100], record.times[k : k + 100]) for k in range(0, 1000, 100)
    ]
    assert_true(selected(parts, 3), LORENZ)


def test_noise_has_no_equations():
    noise = np.random.default_rng(0).standard_normal((400, 2))
    found = selected([Record(noise, np.arange(400.0))], 2)
    assert not found.fit.support.any()


def test_a_linear_system_is_not_given_products():
    found = selected([noisy_record(LINEAR_OSCILLATOR, 600, 0.01)], 2)
    assert found.library.degree == 1


def test_many_terms_are_chosen_from_the_promising_ones(monkeypatch):
    record = noisy_record(LORENZ, 800, 0.02)
    whole = selected([record], 3, degree=3)
    monkeypatch.setattr(term_selection, "MOST_COLUMNS", 25)
    assert_allclose(selected([record], 3, degree=3).fit.coefficients, whole.fit.coefficients)


def test_given_terms_are_weighed_as_they_are():
    record = noisy_record(LOTKA_VOLTERRA, 400, 0.02)
    library = PolynomialLibrary(2, 2)
    truth = LOTKA_VOLTERRA.coefficients(library.names())
    more = truth.copy()
    more[0, 0] = 0.1  # a constant that is not there
    found = weigh_terms([record], library, more)
    assert found.fit.support[0, 0]
    assert found.probability[0, 0] < 0.5
    assert (found.probability[truth != 0] > 0.9).all()


def test_probabilities_are_those_of_all_sets_of_few_terms():
    """Sets of terms that differ by more than one exchange weigh next to nothing here."""
    library = PolynomialLibrary(2, 1)
    record = noisy_record(LINEAR_OSCILLATOR, 100, 0.3)
    truth = LINEAR_OSCILLATOR.coefficients(library.names())
    found = weigh_terms([record], library, truth)
    choice = term_selection._choice([record], library, found.fit)
    score = choice.scores(term_price([record], library))
    scores, members = [], []
    for size in range(1, 7):
        for columns in combinations(range(6), size):
            part = choice.a[:, columns]
            left = choice.y - part @ np.linalg.lstsq(part, choice.y, rcond=None)[0]
            scores.append(score(float(left @ left), size))
            members.append(np.isin(np.arange(6), columns))
    weights = np.exp(-(np.array(scores) - min(scores)) / 2)
    expected = weights @ np.array(members) / weights.sum()
    assert_allclose(found.probability.ravel(), expected, atol=0.02)

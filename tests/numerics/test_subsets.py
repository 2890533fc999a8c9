"""The local search, beside least squares for each set of columns by itself."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from romzarr.numerics.dynamics.subsets import CANDIDATES, gains_of, local_search


def problem(seed: int, k: int, true: int):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((k, k))
    a /= np.linalg.norm(a, axis=0)
    x = np.zeros(k)
    x[rng.choice(k, true, replace=False)] = rng.standard_normal(true)
    return a, a @ x + 0.01 * rng.standard_normal(k)


def squares(a, y, columns) -> float:
    """Squared residual of the least squares with these columns."""
    if not len(columns):
        return float(y @ y)
    left = y - a[:, columns] @ np.linalg.lstsq(a[:, columns], y, rcond=None)[0]
    return float(left @ left)


def score(value: float, terms: int) -> float:
    return 100 * np.log(value + 1e-4) + 5 * terms


def of(a, y, columns) -> float:
    return score(squares(a, y, list(columns)), len(columns))


cases = given(
    seed=st.integers(0, 10**6),
    k=st.integers(2, 10),
    true=st.integers(0, 3),
    begin=st.lists(st.integers(0, 9), unique=True, max_size=6),
)


@cases
def test_no_column_more_or_less_makes_it_better(seed, k, true, begin):
    a, y = problem(seed, k, min(true, k))
    start = [column for column in begin if column < k]
    found = local_search(a, y, start, score)
    assert found == sorted(set(found))
    best = of(a, y, found)
    assert best <= of(a, y, start) + 1e-6
    for column in found:
        assert of(a, y, [c for c in found if c != column]) >= best - 1e-6
    others = [c for c in range(k) if c not in found]
    assert len(others) <= CANDIDATES
    for column in others:
        assert of(a, y, [*found, column]) >= best - 1e-6


@pytest.mark.parametrize("seed", range(20))
def test_it_is_mostly_the_best_of_all_sets(seed):
    a, y = problem(seed, 8, 3)
    sets = [c for size in range(9) for c in combinations(range(8), size)]
    best = min(of(a, y, columns) for columns in sets)
    # From everything and from nothing; the better one.
    found = min(of(a, y, local_search(a, y, start, score)) for start in (range(8), ()))
    assert found <= best + 1e-6


def test_gains_are_what_columns_take_of_the_residual():
    a, y = problem(3, 6, 2)
    chosen = [0, 4]
    q = np.linalg.qr(a[:, chosen])[0]
    gains = gains_of(a - q @ (q.T @ a), y - q @ (q.T @ y))
    for column in (1, 2, 3, 5):
        taken = squares(a, y, chosen) - squares(a, y, [*chosen, column])
        assert_allclose(gains[column], taken)


def test_a_column_of_their_span_gains_nothing():
    a, y = problem(5, 6, 2)
    a[:, 5] = (a[:, 0] + a[:, 1]) / np.linalg.norm(a[:, 0] + a[:, 1])
    q = np.linalg.qr(a[:, :2])[0]
    assert gains_of(a - q @ (q.T @ a), y)[5] == 0


def test_of_dependent_columns_to_begin_with_the_first_stay():
    a, y = problem(7, 6, 2)
    a[:, 3] = a[:, 1]
    a[:, 4] = 0
    found = local_search(a, y, [1, 3, 4], lambda value, terms: np.log(value))
    assert 3 not in found
    assert 4 not in found

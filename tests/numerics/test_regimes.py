"""Stretches of time that need a model each, beside fits of the rows themselves."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from romzarr.contracts import BlockSpan, TriangularFactor
from romzarr.numerics.dynamics.regimes import MOST_REGIMES, find_regimes, serving

P, Q, WINDOWS = 4, 2, 30


def systems(rng, models, noise):
    """Rows [G b] (blocks, windows, p + q) of blocks that each obey a model (p, q)."""
    g = rng.standard_normal((len(models), WINDOWS, P)) * 10.0 ** rng.integers(-2, 3, P)
    b = np.einsum("kwp,kpq->kwq", g, np.asarray(models))
    b += noise * b.std() * rng.standard_normal(b.shape)
    return np.concatenate([g, b], axis=2)


def triangles(rows):
    return [TriangularFactor(np.linalg.qr(each, mode="r"), P, len(each)) for each in rows]


def residual(rows):
    """Squared residual (q,) of least squares by the rows."""
    g, b = rows[:, :P], rows[:, P:]
    return np.sum((b - g @ np.linalg.lstsq(g, b, rcond=None)[0]) ** 2, axis=0)


# The same examples each time: in one of a thousand or more noise makes a third regime by chance.
@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    blocks=st.integers(6, 20),
    place=st.floats(0.2, 0.8),
    noise=st.sampled_from([0.0, 1e-3, 0.1]),
    across=st.integers(1, 2),
)
def test_a_change_is_found_where_it_is(seed, blocks, place, noise, across):
    """The cut with the smallest residual, by fits of the rows on either side."""
    rng = np.random.default_rng(seed)
    # All terms change, as noise may hide it where one that counts little does.
    first = rng.standard_normal((P, Q))
    second = -first
    switch = int(np.clip(round(place * blocks), 2, blocks - across - 2))
    rows = systems(rng, [first] * switch + [second] * (blocks - switch), noise)
    before, after = find_regimes(triangles(rows), across)
    assert before.start == 0
    assert after.stop == blocks
    assert after.start - before.stop == across
    assert before.stop <= switch <= after.start

    def left(cut):
        sides = rows[:cut], rows[cut + across :]
        windows = sum(map(len, sides)) * WINDOWS
        return np.log(sum(residual(np.concatenate(side)) for side in sides) / windows).sum()

    if noise:
        cuts = range(1, blocks - across)
        assert left(before.stop) <= min(map(left, cuts)) + 1e-6
    assert_array_equal(
        serving(triangles(rows), [before, after]), [0] * switch + [1] * (blocks - switch)
    )


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10_000), blocks=st.integers(1, 20), noise=st.sampled_from([0, 1e-3, 0.3])
)
def test_without_a_change_there_is_one_regime(seed, blocks, noise):
    rng = np.random.default_rng(seed)
    rows = systems(rng, [rng.standard_normal((P, Q))] * blocks, noise)
    assert find_regimes(triangles(rows), 1) == [BlockSpan(0, blocks)]


@pytest.mark.parametrize("count", [3, 5, 12])
def test_regimes_follow_each_other_and_are_not_too_many(count):
    rng = np.random.default_rng(count)
    models = np.repeat(rng.standard_normal((count, P, Q)), 6, axis=0)
    factors = triangles(systems(rng, models, 1e-3))
    spans = find_regimes(factors, 1)
    assert len(spans) == min(count, MOST_REGIMES)
    assert all(a.stop + 1 == b.start for a, b in pairwise(spans))
    if count <= MOST_REGIMES:
        assert_array_equal(serving(factors, spans), np.repeat(np.arange(count), 6))


def test_what_is_too_short_for_a_fit_is_no_regime():
    """Two windows a block: any few blocks have a model that leaves nothing."""
    rng = np.random.default_rng(0)
    rows = systems(rng, [rng.standard_normal((P, Q))] * 12, 0.3)[:, :2]
    factors = [
        TriangularFactor(np.pad(np.linalg.qr(each, mode="r"), ((0, P + Q - 2), (0, 0))), P, 2)
        for each in rows
    ]
    for span in find_regimes(factors, 1):
        assert 2 * len(span) >= 2 * P


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e200])
def test_numbers_that_are_too_large_cut_nothing(number):
    rng = np.random.default_rng(0)
    factors = triangles(systems(rng, [rng.standard_normal((P, Q))] * 6, 0.1))
    factors[2] = TriangularFactor(np.full_like(factors[2].r, number), P, WINDOWS)
    spans = find_regimes(factors, 1)
    assert spans == [BlockSpan(0, 6)]
    assert_array_equal(serving(factors, spans), 0)

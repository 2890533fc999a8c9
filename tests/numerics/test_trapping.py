"""No trajectory of a trapped model leaves the region of its data, and within nothing changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from romzarr.numerics.dynamics.integrate import Dynamics
from romzarr.numerics.dynamics.library import PolynomialLibrary
from romzarr.numerics.dynamics.shooting import advance
from romzarr.numerics.dynamics.trapping import INNER, OUTER, Region


def cloud(rng, states):
    """Correlated states about a centre that is not zero."""
    return rng.standard_normal((200, states)) @ rng.standard_normal((states, states)) + 3.0


@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_velocities_point_outwards_nowhere_at_the_edge(states, degree, seed):
    rng = np.random.default_rng(seed)
    data = cloud(rng, states)
    region = Region.of([data])
    library = PolynomialLibrary(states, degree)
    model = Dynamics(library, rng.standard_normal((library.size, states)))
    trapped = region.trapped(model)
    assert region.distance(data).max() == pytest.approx(1.0)
    np.testing.assert_array_equal(trapped(data), model(data))
    away = data - region.centre
    edge = region.centre + OUTER * away / region.distance(data)[:, None]
    velocity = trapped(edge)
    # Oracle: the change of the squared distance in time, by the chain rule.
    parts = 2 * (edge - region.centre) * (velocity @ region.metric)
    free = 2 * (edge - region.centre) * (model(edge) @ region.metric)
    assert (parts.sum(axis=1) <= 1e-9 * np.abs(free).sum(axis=1).max()).all()


def test_a_model_that_runs_away_stays_in_the_region_and_one_that_does_not_is_itself():
    rng = np.random.default_rng(0)
    region = Region.of([rng.uniform(-1, 1, (500, 2))])
    growing = np.array([[0, 0], [1, 0], [0, 1], [1, 0], [0, 0], [0, 1.0]])
    explosive = Dynamics(PolynomialLibrary(2, 2), growing)
    trapped = region.trapped(explosive)
    start, dt = np.array([[0.3, 0.2]]), np.array([0.05])
    free = kept = start
    farthest = 0.0
    for _ in range(400):
        free, kept = advance(explosive, free, dt, 2), advance(trapped, kept, dt, 2)
        farthest = max(farthest, float(region.distance(kept)[0]))
    assert not np.isfinite(free).all()
    assert INNER < farthest < 1.01 * OUTER


def test_records_that_do_not_vary_in_a_direction_have_a_region():
    flat = np.column_stack([np.linspace(-1, 1, 50), np.zeros(50)])
    region = Region.of([flat])
    assert region.distance(flat).max() == pytest.approx(1.0)
    assert np.isfinite(region.metric).all()

"""Reduction of a stream: the bound after every update, and a model that blocks do not change."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from pipeline.config import Config, with_values
from pipeline.stream import BEGINNING, StreamReduction
from tests.oracles import fluctuation, relative_error, singular_values
from tests.systems_of_odes import LINEAR_OSCILLATOR, LORENZ


def lifted(states, points, seed=0):
    """Snapshots whose POD coefficients are the states, turned."""
    rng = np.random.default_rng(seed)
    shapes = np.linalg.qr(rng.standard_normal((points, states.shape[1])))[0].T
    return 2.0 + states @ shapes


def reduced(rows, times, block, tolerance, config=None, **settings):
    stream = StreamReduction(tolerance, config=config, **settings)
    for start in range(0, len(rows), block):
        stream.update(rows[start : start + block], times[start : start + block])
        assert (stream.pod.errors <= tolerance).all()
    return stream.close()


@pytest.mark.parametrize("block", [1, 7, 50])
def test_a_regime_that_begins_is_followed_within_the_bound(block):
    t = np.arange(600) * 0.1
    grown = np.minimum(np.exp(0.2 * (t - 30)), 1.0)[:, None]
    waves = np.column_stack([np.sin(k * t + k) / k**2 for k in range(1, 9)])
    rows = lifted(grown * waves, 120)
    found = reduced(rows, t, block, 1e-2)
    assert relative_error(rows, found.origin + found.a @ found.modes) <= 1e-2
    sigma = singular_values(rows)
    best = next(r for r in range(99) if np.linalg.norm(sigma[r:]) <= 1e-2 * np.linalg.norm(sigma))
    assert len(found.modes) == best
    assert_allclose(found.times, t)


@pytest.mark.parametrize("degree", [1, 2])
def test_the_model_does_not_depend_on_blocks(degree):
    times, states = (LORENZ if degree == 2 else LINEAR_OSCILLATOR).record(2 * BEGINNING)
    rows = lifted(states, 40)
    config = with_values(Config(), {"library.degree": degree})
    at, fields = rows[::50], []
    for block in (1, 7, 50):
        found = reduced(rows, times, block, 1e-7, config)
        assert found.library.states == len(found.modes) == states.shape[1]
        # Derivatives at some snapshots, as fields: whatever the basis.
        inner = found.modes @ found.modes.T
        a = np.linalg.solve(inner, found.modes @ (at - found.origin).T).T
        fields.append(found.library.evaluate(a) @ found.model.coefficients @ found.modes)
    size = np.abs(fields[0]).max()
    assert_allclose(fields[1], fields[0], atol=1e-3 * size)
    assert_allclose(fields[2], fields[0], atol=1e-3 * size)
    expected = np.gradient(rows, times, axis=0)[::50]
    assert np.linalg.norm((fields[0] - expected)[1:-1]) < 1e-2 * np.linalg.norm(expected[1:-1])


def test_libraries_that_do_not_move_are_built_anew():
    times, states = LINEAR_OSCILLATOR.record(BEGINNING + 200)
    rows = lifted(states, 30)
    config = with_values(Config(), {"library.kind": "fourier", "library.frequencies": 1})
    whole = reduced(rows, times, len(rows), 1e-6, config)
    parts = reduced(rows, times, 50, 1e-6, config)
    assert whole.library == parts.library
    assert_allclose(parts.model.residual, whole.model.residual, rtol=0.05)


def test_little_is_enough_for_a_basis_but_not_for_a_model():
    found = reduced(np.eye(2), np.arange(2.0), 1, 1e-6)
    assert found.model is None
    assert_allclose(found.origin + found.a @ found.modes, np.eye(2), atol=1e-12)
    constant = reduced(np.ones((5, 3)), np.arange(5.0), 2, 1e-6)
    assert constant.model is None
    assert constant.a.shape == (5, 0)
    assert (fluctuation(np.ones((5, 3))) == 0).all()
    assert_allclose(constant.origin, 1)

"""Reduction of a stream: the bound after every update, and a model that blocks do not change."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.integrate import solve_ivp

from romzarr.config import Config, with_values
from romzarr.streams.reduction import BEGINNING, StreamReduction
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


def noisy(rows, share, seed=0):
    """`rows` with white noise of so much of their fluctuation."""
    scale = share * np.linalg.norm(rows - rows.mean(axis=0)) / rows.size**0.5
    return rows + scale * np.random.default_rng(seed).standard_normal(rows.shape)


@pytest.mark.parametrize("block", [1, 7, 50])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.97])
def test_noise_within_the_bound_costs_no_modes(block, share):
    """Held while the stream runs, as nobody knows what comes; and none in the end."""
    tolerance = 2e-2
    times, states = LORENZ.record(1200)
    rows = noisy(lifted(states, 60), share * tolerance)
    stream = StreamReduction(tolerance)
    for start in range(0, len(rows), block):
        stream.update(rows[start : start + block], times[start : start + block])
        assert (stream.pod.errors <= tolerance).all()
    assert not stream.reduces
    found = stream.close()
    assert len(found.modes) == 3
    assert relative_error(rows, found.origin + found.a @ found.modes) <= tolerance


@pytest.mark.parametrize("strength", [0.05, 1.0])
def test_what_begins_in_noise_is_followed_within_the_bound(strength):
    """A wave of another subspace, late: barely more than the bound, or as strong as the first."""
    tolerance, t = 3e-2, np.arange(1500) * 0.1
    first = np.column_stack([np.cos(t), np.sin(t), 0 * t, 0 * t])
    later = strength * np.column_stack([0 * t, 0 * t, np.cos(3 * t), np.sin(3 * t)])
    rows = noisy(lifted(first + np.where(t[:, None] < 100, 0, later), 80), 0.3 * tolerance)
    stream = StreamReduction(tolerance)
    for start in range(0, len(rows), 25):
        stream.update(rows[start : start + 25], t[start : start + 25])
        assert (stream.pod.errors <= tolerance).all()
    sigma = singular_values(rows)
    best = next(
        r for r in range(80) if np.linalg.norm(sigma[r:]) <= tolerance * np.linalg.norm(sigma)
    )
    found = stream.close()
    assert len(found.modes) <= best + 1
    assert relative_error(rows, found.origin + found.a @ found.modes) <= tolerance


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


# --- dynamics that change -----------------------------------------------------------------


def van_der_pol(mu):
    """What changes in it is `mu`: x'' = mu (1 - x^2) x' - x."""
    return lambda t, s: [s[1], mu * (1 - s[0] ** 2) * s[1] - s[0]]


def true_terms(mu):
    """Coefficients (10, 2) of the monomials of `monomials`."""
    found = np.zeros((10, 2))
    found[2, 0], found[1, 1], found[2, 1], found[7, 1] = 1, -1, mu, -mu
    return found


def monomials(s):
    """1, x, y, xx, xy, yy, xxx, xxy, xyy, yyy."""
    x, y = s.T
    powers = [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2), (3, 0), (2, 1), (1, 2), (0, 3)]
    return np.column_stack([x**i * y**j for i, j in powers])


def changed_record(count, step):
    """Van der Pol's oscillator whose mu goes from 1 to 2 at half of `count` snapshots."""
    half, start, parts = count // 2, [2.0, 0.0], []
    for mu in (1.0, 2.0):
        times = step * np.arange(half + 1)
        found = solve_ivp(van_der_pol(mu), (0, times[-1]), start, t_eval=times, rtol=1e-10)
        parts.append(found.y.T[:-1])
        start = found.y.T[-1]
    return step * np.arange(2 * half), np.concatenate(parts)


def live_terms(stream, shapes):
    """The live model as terms of the states: whatever the basis, by its values at some places."""
    at = np.random.default_rng(1).uniform(-2, 2, (60, 2))
    modes = stream.pod.modes @ shapes.T
    origin = (stream.pod.origin - 2.0) @ shapes.T
    theta = stream.library.evaluate((at - origin) @ np.linalg.inv(modes))
    return np.linalg.lstsq(monomials(at), theta @ stream.model.coefficients @ modes, rcond=None)[0]


def test_forgetting_follows_equations_that_change():
    times, states = changed_record(12_000, 0.05)
    shapes = np.linalg.qr(np.random.default_rng(0).standard_normal((20, 2)))[0].T
    rows, config = 2.0 + states @ shapes, with_values(Config(), {"library.degree": 3})
    streams = {f: StreamReduction(1e-6, config=config, forgetting=f) for f in (1.0, 0.97)}
    for start in range(0, 12_000, 50):
        for stream in streams.values():
            stream.update(rows[start : start + 50], times[start : start + 50])
        if start + 50 == 6000:
            for stream in streams.values():
                assert_allclose(live_terms(stream, shapes), true_terms(1), atol=0.01)
    assert_allclose(live_terms(streams[0.97], shapes), true_terms(2), atol=0.01)
    # What forgets nothing has found something in between.
    mixed = live_terms(streams[1.0], shapes)
    for mu in (1, 2):
        assert np.abs(mixed - true_terms(mu)).max() > 0.2

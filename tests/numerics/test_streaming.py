"""The weak form of a stream is that of the whole record, however it is cut and moved."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from romzarr.contracts import BlockSpan
from romzarr.errors import LibraryError
from romzarr.numerics.change_of_basis import Move
from romzarr.numerics.dynamics.library import FourierLibrary, PolynomialLibrary, SymbolicLibrary
from romzarr.numerics.dynamics.stlsq import stlsq
from romzarr.numerics.dynamics.streaming import AT_ONCE, StreamingWeakForm
from romzarr.numerics.dynamics.weakform import plan_windows, triangular_factor, weak_rows
from tests.strategies import chunkings, seeds
from tests.systems_of_odes import LINEAR_OSCILLATOR, LORENZ, VAN_DER_POL, with_noise

COUNT = 500


def record(rng, uneven=False, noise=0.0):
    steps = rng.uniform(0.02, 0.08, COUNT - 1) if uneven else np.full(COUNT - 1, 0.05)
    times = np.concatenate([[0.0], np.cumsum(steps)])
    a = np.column_stack([np.sin(times), np.cos(1.7 * times)])
    return times, a + noise * rng.standard_normal(a.shape)


def whole(a, times, library, plan):
    return triangular_factor(a, times, library, plan, BlockSpan(0, len(times)))


def assert_same(found, expected):
    assert (found.terms, found.windows) == (expected.terms, expected.windows)
    gram = expected.r.T @ expected.r
    assert_allclose(found.r.T @ found.r, gram, atol=1e-11 * gram.max())
    assert (found.noise is None) == (expected.noise is None)
    if expected.noise is not None:
        gram = expected.noise.T @ expected.noise
        assert_allclose(found.noise.T @ found.noise, gram, atol=1e-11 * gram.max())


@settings(deadline=None, max_examples=40)
@given(
    blocks=chunkings(COUNT),
    uneven=st.booleans(),
    noise=st.sampled_from([0.0, 0.05]),
    fourier=st.booleans(),
    asked=st.sets(st.integers(0, COUNT), max_size=4),
    seed=seeds,
)
def test_blocks_do_not_change_the_system(blocks, uneven, noise, fourier, asked, seed):
    times, a = record(np.random.default_rng(seed), uneven, noise)
    library = FourierLibrary(2, (1.0, 2.0)) if fourier else PolynomialLibrary(2, 2)
    plan = plan_windows(times, a)
    stream, done = StreamingWeakForm(library, plan), 0
    for length in blocks:
        stream.add(a[done : done + length], times[done : done + length])
        done += length
        # Asking in between, also where uneven windows lack their neighbours, changes nothing.
        if any(done - length < k <= done for k in asked):
            shown = stream.factor()
            part = type(plan)(**{**vars(plan), "snapshots": done})
            assert_same(shown, whole(a[:done], times[:done], library, part))
    assert_same(stream.factor(), whole(a, times, library, plan))


@settings(deadline=None, max_examples=40)
@given(data=st.data(), blocks=chunkings(COUNT), uneven=st.booleans(), seed=seeds)
def test_the_past_moves_without_being_seen(data, blocks, uneven, seed):
    """Oracle: all coefficients of the past moved one by one, then the batch weak form."""
    rng = np.random.default_rng(seed)
    times, a = record(rng, uneven)
    plan = plan_windows(times, a)
    stream = StreamingWeakForm(PolynomialLibrary(2, 2), plan)
    past, together, done = np.zeros((0, 2)), Move(np.eye(2), np.zeros(2)), 0
    for length in blocks:
        block = together(a[done : done + length])
        stream.add(block, times[done : done + length])
        past, done = np.concatenate([past, block]), done + length
        states = past.shape[1]
        kind = data.draw(st.sampled_from(["none", "turn", "grow", "drop"]))
        if kind == "none" or (kind == "drop" and states == 1) or (kind == "grow" and states == 4):
            continue
        if kind == "grow":
            # The new coefficient was zero in the past and is not from now on.
            move = Move.growth(states, 1)
            onward = Move(np.vstack([np.eye(states), rng.standard_normal(states)]), move.shift)
        else:
            turn = np.linalg.qr(rng.standard_normal((states, states)))[0]
            move = Move(turn, rng.standard_normal(states))
            if kind == "drop":
                move = Move(move.turn[1:], move.shift[1:])
            onward = move
        stream.move(move)
        past, together = move(past), onward.after(together)
    library = PolynomialLibrary(past.shape[1], 2)
    assert stream.library == library
    assert_same(stream.factor(), whole(past, times, library, plan))


def test_windows_fade_with_age_whatever_the_blocks():
    times, a = record(np.random.default_rng(0), noise=0.05)
    library, plan = PolynomialLibrary(2, 2), plan_windows(times, a)
    assert plan.noise is not None
    pairs = list(weak_rows(a, times, library, plan, BlockSpan(0, COUNT), 0))
    rows, noise = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    weights = 0.9 ** np.arange(len(rows) - 1, -1, -1)
    for block in (1, 7, COUNT):
        stream = StreamingWeakForm(library, plan, forgetting=0.9)
        for k in range(0, COUNT, block):
            stream.add(a[k : k + block], times[k : k + block])
        found = stream.factor()
        assert found.windows == round(weights.sum())
        for mine, theirs in ((found.r, rows), (found.noise, noise)):
            gram = (theirs * weights[:, None]).T @ theirs
            assert_allclose(mine.T @ mine, gram, atol=1e-12 * gram.max())


@pytest.mark.parametrize("forgetting", [1.0, 0.95])
def test_what_fades_is_weighted_least_squares(forgetting):
    """Oracle: windows by the trapezoid rule, one by one, and dense least squares."""
    rng, support, spacing, step = np.random.default_rng(0), 2.0, 0.25, 0.05
    times = step * np.arange(COUNT)
    a = np.column_stack([np.sin(times), np.cos(1.7 * times)]) + 0.3 * rng.standard_normal(2)
    plan = plan_windows(times, a, test_function="(1-s**2)**3", support=support, spacing=spacing)
    stream = StreamingWeakForm(
        PolynomialLibrary(2, 2), replace(plan, noise=None), forgetting=forgetting
    )
    for k in range(0, COUNT, 13):
        stream.add(a[k : k + 13], times[k : k + 13])
    width, stride = round(support / step), round(spacing / step)
    s = np.linspace(-1, 1, width + 1)
    psi, slope = (1 - s**2) ** 3, -6 * s * (1 - s**2) ** 2 * 2 / support
    x, y = a.T
    theta = np.column_stack([np.ones(COUNT), x, y, x * x, x * y, y * y])
    starts = np.arange(0, COUNT - width, stride)
    g = step * np.array([psi @ theta[k : k + width + 1] for k in starts])
    b = -step * np.array([slope @ a[k : k + width + 1] for k in starts])
    root = np.sqrt(forgetting ** np.arange(len(starts))[::-1, None])
    expected = np.linalg.lstsq(root * g, root * b, rcond=None)[0]
    factor = stream.factor()
    found = np.linalg.lstsq(factor.r[:, :6], factor.r[:, 6:], rcond=None)[0]
    assert_allclose(found, expected, rtol=1e-8, atol=1e-10)
    left = np.linalg.norm(root * (g @ expected - b), axis=0)
    residual = factor.r[:, :6] @ found - factor.r[:, 6:]
    assert_allclose(np.linalg.norm(residual, axis=0), left, rtol=1e-8)


def test_forgetting_finds_the_later_of_two_systems():
    times = np.arange(3000) * 0.05
    slow = np.column_stack([np.sin(times), np.cos(times)])
    fast = np.column_stack([np.sin(2 * times), np.cos(2 * times)])
    a = np.concatenate([slow[:1500], fast[1500:]])
    plan = plan_windows(times[:600], a[:600], support=4.0)
    stream = StreamingWeakForm(PolynomialLibrary(2, 1), plan, forgetting=0.95)
    for k in range(0, 3000, 50):
        stream.add(a[k : k + 50], times[k : k + 50])
    model = stlsq(stream.factor(), threshold=0.1)
    assert_allclose(model.coefficients, [[0, 0], [0, -2], [2, 0]], atol=1e-3)


@pytest.mark.parametrize("system", [LORENZ, VAN_DER_POL, LINEAR_OSCILLATOR], ids=lambda s: s.name)
def test_known_equations_are_those_of_the_whole_record(system):
    times, a = system.record(8000)
    a = with_noise(a, 0.01, seed=3)
    library, plan = PolynomialLibrary(system.states, 3), plan_windows(times[:1024], a[:1024])
    expected = stlsq(whole(a, times, library, plan_of(plan, 8000)))
    for block in (7, 50):
        stream = StreamingWeakForm(library, plan)
        for k in range(0, 8000, block):
            stream.add(a[k : k + block], times[k : k + block])
        model = stlsq(stream.factor())
        terms = model.coefficients != 0
        assert (terms == (expected.coefficients != 0)).all()
        assert (terms == (system.coefficients(library.names()) != 0)).all()
        assert_allclose(model.coefficients, expected.coefficients, rtol=1e-6, atol=1e-8)


def plan_of(plan, snapshots):
    return type(plan)(**{**vars(plan), "snapshots": snapshots})


@pytest.mark.parametrize("block", [1, 13, COUNT])
def test_windows_start_anew_after_a_gap(block):
    times, a = record(np.random.default_rng(0))
    times = np.where(np.arange(COUNT) < 240, times, times + 7.3)
    library, plan = PolynomialLibrary(2, 2), plan_windows(times[:200], a[:200])
    stream = StreamingWeakForm(library, plan)
    for k in range(0, COUNT, block):
        stream.add(a[k : k + block], times[k : k + block])
    runs = [slice(0, 240), slice(240, COUNT)]
    parts = [
        whole(a[run], times[run], library, plan_of(plan, run.stop - run.start)) for run in runs
    ]
    gram = sum(part.r.T @ part.r for part in parts)
    found = stream.factor()
    assert found.windows == sum(part.windows for part in parts)
    assert_allclose(found.r.T @ found.r, gram, atol=1e-12 * gram.max())


def test_what_is_carried_does_not_grow():
    times = np.arange(20_000) * 0.05
    a = np.column_stack([np.sin(times), np.cos(times)])
    plan = plan_windows(times[:1000], a[:1000])
    stream = StreamingWeakForm(PolynomialLibrary(2, 2), plan)
    most = 0
    for k in range(0, 20_000, 40):
        stream.add(a[k : k + 40], times[k : k + 40])
        most = max(most, len(stream._a))
    assert most <= plan.width + max(plan.width, AT_ONCE) + plan.stride + 40


def test_refusals():
    times, a = record(np.random.default_rng(0))
    plan = plan_windows(times, a)
    for bad in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="forgetting"):
            StreamingWeakForm(PolynomialLibrary(2, 1), plan, forgetting=bad)
    with pytest.raises(LibraryError, match="2 states"):
        StreamingWeakForm(PolynomialLibrary(2, 1), plan).add(a[:, :1], times)
    with pytest.raises(LibraryError, match="anew"):
        StreamingWeakForm(FourierLibrary(2, (1.0,)), plan).move(Move.growth(2, 1))
    stream = StreamingWeakForm(SymbolicLibrary(2, ("a1", "log(a2)")), plan)
    with pytest.raises(LibraryError, match=r"log\(a2\)"):
        stream.add(a, times)

"""Kept samples and what is rebuilt from them: within the bound whatever the model does."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from pipeline.contracts import BlockSpan, LatentCode
from pipeline.numerics.integrate import Dynamics
from pipeline.numerics.library import PolynomialLibrary
from pipeline.numerics.sampling import (
    STRAIGHT_LINE,
    Tolerances,
    keep_everything,
    keep_nothing,
    keep_samples,
    rebuild,
)
from tests.strategies import chunkings, seeds
from tests.systems_of_odes import LINEAR_OSCILLATOR, LORENZ, VAN_DER_POL

DOUBLE = np.dtype(np.float64)


def true_model(system, degree=3):
    library = PolynomialLibrary(system.states, degree)
    return Dynamics(library, system.coefficients(library.names()))


def coding_only(roots, allowed):
    """Tolerances where POD has cut nothing; `allowed` (V,) norms."""
    v, r = len(roots), roots.shape[1]
    nothing = np.zeros(v)
    return Tolerances(roots, allowed, nothing, nothing, np.zeros((1, 0)), np.zeros((v, r, 0)))


def tolerances(a, tolerance):
    """One variable that is the coefficients themselves."""
    limits = coding_only(
        np.eye(a.shape[1])[None], np.array([tolerance * np.linalg.norm(a - a.mean(axis=0))])
    )
    return replace(limits, rest=np.zeros((len(a), 0)))


def whole(code, models, times):
    return rebuild(code, models, times, BlockSpan(0, len(times)))


def assert_sound(code, a, times, models, limits, block_steps):
    """The bound, by a plain sum of squares; and the structure that readers rely on."""
    rebuilt = whole(code, models, times)
    for root, allowed in zip(limits.roots, limits.allowed, strict=True):
        assert np.linalg.norm((rebuilt - a) @ root.T) <= allowed
    assert (np.diff(code.index) > 0).all()
    assert np.isin(np.arange(0, len(a), block_steps), code.index).all()
    assert code.index[-1] == len(a) - 1
    assert len(code.block_model) == -(-len(a) // block_steps)
    assert np.array_equal(rebuilt[code.index], code.samples.astype(np.float64))


@pytest.mark.parametrize("system", [LORENZ, VAN_DER_POL, LINEAR_OSCILLATOR], ids=lambda s: s.name)
def test_the_right_model_needs_an_order_of_magnitude_fewer_samples(system):
    times, a = system.record(3000)
    limits = tolerances(a, 1e-3)
    model = true_model(system)
    without = keep_samples(a, times, [], limits, block_steps=512, dtype=DOUBLE)
    with_it = keep_samples(a, times, [model], limits, block_steps=512, dtype=DOUBLE)
    assert_sound(without, a, times, [], limits, 512)
    assert_sound(with_it, a, times, [model], limits, 512)
    assert with_it.kept <= 0.1 * without.kept


@pytest.mark.parametrize("tolerance", [0.1, 1e-2, 1e-4])
def test_chaos_is_caught_by_samples_and_never_amplifies_rounding(tolerance):
    """Lorenz doubles errors every 0.8: a decoder that rounds otherwise must stay bounded."""
    times, a = LORENZ.record(4000)
    limits, model = tolerances(a, tolerance), true_model(LORENZ)
    code = keep_samples(a, times, [model], limits, block_steps=1024, dtype=DOUBLE)
    assert_sound(code, a, times, [model], limits, 1024)
    rng = np.random.default_rng(0)
    for _ in range(3):
        noise = 1 + 1e-12 * rng.choice([-1, 1], code.samples.shape)
        shaken = whole(replace(code, samples=code.samples * noise), [model], times)
        assert np.linalg.norm(shaken - a) <= limits.allowed[0] * (1 + 5e-3)


def rate(library, *terms):
    xi = np.zeros((library.size, library.states))
    for name, equation, value in terms:
        xi[library.names().index(name), equation] = value
    return Dynamics(library, xi)


LIBRARY = PolynomialLibrary(3, 3)
BAD_MODELS = {
    "explodes": rate(LIBRARY, ("a1^3", 0, 1e3), ("a2^3", 1, 1e3), ("a3^2", 2, -1e5)),
    "stiff": rate(LIBRARY, ("a1", 0, -1e6), ("a2", 1, -1e4), ("a3", 2, -1e9)),
    "overflows": rate(LIBRARY, ("1", 0, 1e300), ("a1^3", 1, 1e300)),
    "useless": Dynamics(LIBRARY, np.random.default_rng(3).standard_normal((LIBRARY.size, 3))),
    "empty": rate(LIBRARY),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", BAD_MODELS)
def test_a_bad_model_costs_samples_but_neither_the_bound_nor_time(name):
    times, a = LORENZ.record(1500)
    limits = tolerances(a, 1e-2)
    model = BAD_MODELS[name]
    code = keep_samples(a, times, [model], limits, block_steps=256, dtype=DOUBLE)
    assert_sound(code, a, times, [model], limits, 256)
    lines = keep_samples(a, times, [], limits, block_steps=256, dtype=DOUBLE)
    # Each block may take straight lines instead.
    assert code.kept <= lines.kept + len(code.block_model)
    assert code.substeps <= 16


@given(
    m=st.integers(2, 120), r=st.integers(1, 4), variables=st.integers(1, 2),
    tolerance=st.sampled_from([0.5, 1e-1, 1e-3, 1e-6]), block_steps=st.integers(2, 50),
    kind=st.sampled_from(["noise", "walk", "smooth", "constant", "jump"]), uneven=st.booleans(),
    modelled=st.integers(0, 2), seed=seeds,
)  # fmt: skip
@settings(deadline=None, max_examples=80)
def test_the_bound_holds_for_any_record_model_and_inner_product(
    m, r, variables, tolerance, block_steps, kind, uneven, modelled, seed
):
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.uniform(0.01, 1.0, m)) if uneven else 0.1 * np.arange(m)
    a = {
        "noise": lambda: rng.standard_normal((m, r)),
        "walk": lambda: np.cumsum(rng.standard_normal((m, r)), axis=0),
        "smooth": lambda: np.sin(times[:, None] * rng.uniform(0.1, 3, r)),
        "constant": lambda: np.ones((m, 1)) * rng.standard_normal(r),
        "jump": lambda: np.where(np.arange(m) > m // 2, 1e3, 1.0)[:, None] * np.ones((1, r)),
    }[kind]()
    models = []
    if modelled:
        library = PolynomialLibrary(min(modelled, r), 2)
        models = [Dynamics(library, rng.standard_normal((library.size, library.states)))]
    roots = rng.standard_normal((variables, r, r))
    allowed = [tolerance * np.linalg.norm((a - a.mean(axis=0)) @ root.T) for root in roots]
    limits = replace(coding_only(roots, np.array(allowed)), rest=np.zeros((m, 0)))
    code = keep_samples(a, times, models, limits, block_steps=block_steps, dtype=DOUBLE)
    assert_sound(code, a, times, models, limits, block_steps)


@given(
    variables=st.integers(1, 3),
    kept=st.integers(1, 3),
    cut=st.integers(0, 3),
    size=st.sampled_from([0.0, 0.1, 1.0]),
    aligned=st.booleans(),
    seed=seeds,
)
@settings(deadline=None, max_examples=60)
def test_errors_of_cuts_and_coding_are_bounded_together(variables, kept, cut, size, aligned, seed):
    """Modes are orthogonal over all variables, not in each: plain sums of squares fail here."""
    rng = np.random.default_rng(seed)
    m, r, n = 30, kept + cut, 12
    a = np.linalg.qr(rng.standard_normal((m, r)))[0] * np.logspace(1, 0, r)
    modes = rng.standard_normal((variables, r, n))
    difference = size * rng.standard_normal((m, kept))
    if aligned and cut:
        # The worst that coding can do: repeat the modes that were cut.
        difference = size * a[:, kept : kept + 1] @ np.ones((1, kept))
    dropped = rng.standard_normal((variables, m, n)) * 0.1
    # What the tree dropped is orthogonal in time to all its columns, not to the difference.
    basis = np.linalg.qr(a)[0]
    dropped -= basis @ (basis.T @ dropped)
    gram = modes @ np.swapaxes(modes, 1, 2)
    limits = Tolerances(
        roots=np.swapaxes(np.linalg.cholesky(gram[:, :kept, :kept]), 1, 2),
        allowed=np.ones(variables),
        tree=np.linalg.norm(dropped, axis=(1, 2)),
        truncation=np.linalg.norm(a[:, kept:] @ modes[:, kept:], axis=(1, 2)),
        rest=a[:, kept:],
        mixed=gram[:, :kept, kept:],
    )
    bound = limits.errors(difference)
    for v in range(variables):
        missed = difference @ modes[v, :kept] - a[:, kept:] @ modes[v, kept:] - dropped[v]
        error = np.linalg.norm(missed)
        assert error <= bound[v] * (1 + 1e-12)
        # Loose by no more than what the tree and the coding could do to each other.
        slack = 4 * limits.tree[v] * np.sqrt(limits.coding(difference)[v])
        assert bound[v] ** 2 <= error**2 + slack + 1e-9


@given(start=st.integers(0, 699), length=st.integers(1, 700))
@settings(deadline=None, max_examples=60)
def test_any_span_is_rebuilt_as_in_the_whole(start, length):
    """The same bits: what was checked is what is decoded, however it is asked for."""
    times, a, models, code, everything = lorenz_code()
    span = BlockSpan(start, min(start + length, len(a)))
    part = rebuild(code, models, times, span)
    assert_allclose(part, everything[span.start : span.stop], rtol=1e-13, atol=1e-13)


CACHE: list[object] = []


def lorenz_code():
    if not CACHE:
        times, a = LORENZ.record(700)
        models = [true_model(LORENZ)]
        limits = tolerances(a, 1e-2)
        code = keep_samples(a, times, models, limits, block_steps=128, dtype=np.dtype(np.float32))
        CACHE.append((times, a, models, code, whole(code, models, times)))
    return CACHE[0]


def test_straight_lines_need_no_model():
    times = np.cumsum(np.random.default_rng(0).uniform(0.1, 1, 50))
    a = np.stack([3 * times, 1 - times], axis=1)
    code = keep_samples(a, times, [], tolerances(a, 1e-7), block_steps=1000, dtype=DOUBLE)
    assert code.kept == 2
    assert (code.block_model == STRAIGHT_LINE).all()
    assert_allclose(whole(code, [], times), a, rtol=1e-12)


def test_modes_without_a_model_are_interpolated_beside_those_with_one():
    times, a = LINEAR_OSCILLATOR.record(600)
    both = np.column_stack([a, 2.0 + 0.5 * times])
    models = [true_model(LINEAR_OSCILLATOR, 1)]
    limits = tolerances(both, 1e-4)
    code = keep_samples(both, times, models, limits, block_steps=600, dtype=DOUBLE)
    assert_sound(code, both, times, models, limits, 600)
    assert code.kept <= 6


@given(edges=chunkings(40))
@settings(deadline=None, max_examples=20)
def test_between_samples_lines_are_those_of_numpy(edges):
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.uniform(0.1, 1, 41))
    index = np.cumsum([0, *edges])
    samples = rng.standard_normal((len(index), 2))
    code = LatentCode(index, samples, 41, np.full(1, STRAIGHT_LINE, np.int16), 1)
    expected = np.stack([np.interp(times, times[index], s) for s in samples.T], axis=1)
    assert_allclose(whole(code, [], times), expected, rtol=1e-12, atol=1e-12)


def test_each_block_takes_the_model_that_serves_it():
    """First half an oscillator, second half another: neither model serves both."""
    t = 0.05 * np.arange(512)
    _, a = LINEAR_OSCILLATOR.record(256)
    second = np.stack([np.cos(5 * t[:256]), -np.sin(5 * t[:256])], axis=1)
    joined = np.concatenate([a, second])
    library = PolynomialLibrary(2, 1)
    fast = rate(library, ("a2", 0, 5.0), ("a1", 1, -5.0))
    slow = true_model(LINEAR_OSCILLATOR, 1)
    limits = tolerances(joined, 1e-3)
    code = keep_samples(joined, t, [slow, fast], limits, block_steps=256, dtype=DOUBLE)
    assert code.block_model.tolist() == [0, 1]
    assert_sound(code, joined, t, [slow, fast], limits, 256)
    assert code.kept < 20


def test_everything_and_nothing():
    a = np.random.default_rng(0).standard_normal((9, 2))
    assert np.array_equal(whole(keep_everything(a, 4, DOUBLE), [], np.arange(9.0)), a)
    nothing = keep_nothing(9, DOUBLE)
    assert (nothing.index.tolist(), nothing.samples.shape) == ([0, 8], (2, 0))

"""What the greedy search keeps, what is rebuilt from it, and how errors add up."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from romzarr.contracts import BlockSpan, LatentCode
from romzarr.numerics.dynamics.integrate import Dynamics
from romzarr.numerics.dynamics.library import PolynomialLibrary
from romzarr.numerics.dynamics.sampling import (
    STRAIGHT_LINE,
    Deviation,
    SampleSearch,
    Spread,
    Tolerances,
    choose_substeps,
    looked_at,
    rebuild,
    step_accuracy,
)
from tests.strategies import chunkings, seeds
from tests.systems_of_odes import (
    LINEAR_OSCILLATOR,
    LORENZ,
    VAN_DER_POL,
    coding_only,
    dynamics_of,
    true_model,
    whole_within,
)


def whole(code, models, times):
    return rebuild(code, models, times, BlockSpan(0, len(times)))


def searched(a, times, models, limits, block_steps, allowance=1.0, blocks=None):
    """Greedy code of exact samples, with in each block the best of the models."""
    some, spread = looked_at(len(a)), Spread.of(a)
    accurate = step_accuracy(spread.products, limits) * spread.deviation
    substeps = choose_substeps(a[some], np.diff(times)[some], models, accurate)
    count = -(-len(a) // block_steps)
    search = SampleSearch(
        a, a, times, models, limits, block_steps, substeps, blocks=count, snapshots=len(a)
    )
    (code,) = search.encode([allowance], blocks)
    return code


def assert_structure(code, a, block_steps):
    """What readers rely on."""
    assert (np.diff(code.index) > 0).all()
    assert np.isin(np.arange(0, len(a), block_steps), code.index).all()
    assert code.index[-1] == len(a) - 1
    assert len(code.block_model) == -(-len(a) // block_steps)
    assert np.array_equal(code.samples, a[code.index])


@pytest.mark.parametrize("system", [LORENZ, VAN_DER_POL, LINEAR_OSCILLATOR], ids=lambda s: s.name)
def test_the_right_model_needs_an_order_of_magnitude_fewer_samples(system):
    times, a = system.record(3000)
    limits = whole_within(a, 1e-3)
    models = [true_model(system)]
    without = searched(a, times, [], limits, 512)
    with_it = searched(a, times, models, limits, 512)
    for code, used in ((without, []), (with_it, models)):
        assert_structure(code, a, 512)
        assert np.linalg.norm(whole(code, used, times) - a) <= limits.allowed[0]
    assert with_it.kept <= 0.1 * without.kept


@given(
    m=st.integers(2, 60), r=st.integers(1, 3), variables=st.integers(1, 2),
    tolerance=st.sampled_from([0.5, 1e-1, 1e-2]), block_steps=st.integers(2, 40),
    allowance=st.sampled_from([1.0, 64.0]), uneven=st.booleans(), modelled=st.integers(0, 2),
    seed=seeds,
)  # fmt: skip
@settings(deadline=None, max_examples=50)
def test_segments_keep_to_the_allowance_and_cannot_grow(
    m, r, variables, tolerance, block_steps, allowance, uneven, modelled, seed
):
    """Each snapshot between samples is within its share; one snapshot more would not be."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.uniform(0.01, 1.0, m)) if uneven else 0.1 * np.arange(m)
    a = np.sin(times[:, None] * rng.uniform(0.1, 3, r)) + 0.05 * rng.standard_normal((m, r))
    models = []
    if modelled:
        library = PolynomialLibrary(min(modelled, r), 2)
        models = [Dynamics(library, rng.standard_normal((library.size, library.states)))]
    roots = rng.standard_normal((variables, r, r))
    allowed = [tolerance * np.linalg.norm((a - a.mean(axis=0)) @ root.T) for root in roots]
    limits = coding_only(roots, np.array(allowed))
    blocks = np.full(-(-m // block_steps), 0 if modelled else STRAIGHT_LINE, np.int16)
    code = searched(a, times, models, limits, block_steps, allowance, blocks)
    assert_structure(code, a, block_steps)

    def excess(index):
        """Largest mean of squared errors in their limits at a snapshot, samples at `index`."""
        these = LatentCode(index, a[index], m, blocks[:1], code.substeps)
        with np.errstate(all="ignore"):
            missed = rebuild(these, models, times, BlockSpan(index[0], index[-1] + 1))
            missed -= a[index[0] : index[-1] + 1]
            squares = np.array([np.sum((missed @ root.T) ** 2, axis=1) for root in roots])
            ratios = squares.T @ (m / (allowance * np.square(allowed))) / variables
        return np.where(np.isnan(ratios), np.inf, ratios).max()

    for start, stop in zip(code.index[:-1], code.index[1:], strict=True):
        assert excess(np.array([start, stop])) <= 1 + 1e-9
        if stop % block_steps and stop < m - 1:
            assert excess(np.array([start, stop + 1])) > 1 - 1e-9


BAD_LIBRARY = PolynomialLibrary(3, 3)
BAD_MODELS = {
    "explodes": dynamics_of(BAD_LIBRARY, ("a1^3", 0, 1e3), ("a2^3", 1, 1e3), ("a3^2", 2, -1e5)),
    "stiff": dynamics_of(BAD_LIBRARY, ("a1", 0, -1e6), ("a2", 1, -1e4), ("a3", 2, -1e9)),
    "overflows": dynamics_of(BAD_LIBRARY, ("1", 0, 1e300), ("a1^3", 1, 1e300)),
    "useless": Dynamics(
        BAD_LIBRARY, np.random.default_rng(3).standard_normal((BAD_LIBRARY.size, 3))
    ),
    "empty": dynamics_of(BAD_LIBRARY),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", BAD_MODELS)
def test_a_bad_model_costs_no_samples_where_blocks_may_choose(name):
    times, a = LORENZ.record(1500)
    limits = whole_within(a, 1e-2)
    models = [BAD_MODELS[name]]
    code = searched(a, times, models, limits, 256)
    assert_structure(code, a, 256)
    assert np.linalg.norm(whole(code, models, times) - a) <= limits.allowed[0]
    assert code.kept <= searched(a, times, [], limits, 256).kept
    assert code.substeps <= 16


@given(
    variables=st.integers(1, 3), kept=st.integers(1, 3), cut=st.integers(0, 3),
    size=st.sampled_from([0.0, 0.1, 1.0]), lost=st.sampled_from([0.0, 0.01, 0.3]),
    tree=st.sampled_from([0.0, 0.1]), aligned=st.booleans(), seed=seeds,
)  # fmt: skip
@settings(deadline=None, max_examples=100)
def test_errors_of_cuts_fields_and_coefficients_add_up(
    variables, kept, cut, size, lost, tree, aligned, seed
):
    """Modes are orthogonal over all variables, not in each, and not at all once decoded:
    plain sums of squares fail here. Exact, but for what the tree dropped, which is bounded."""
    rng = np.random.default_rng(seed)
    m, r, n = 30, kept + cut, 12
    # Orthonormal in time, the last the constant: what `right` of a POD is.
    basis = np.linalg.qr(np.column_stack([np.ones(m), rng.standard_normal((m, r))]))[0]
    right = np.column_stack([basis[:, 1:], basis[:, 0]])
    sigma = np.logspace(1, 0, r)
    fields = rng.standard_normal((variables, r + 1, n))
    fields[:, :r] *= sigma[:, None]
    stored = np.r_[np.arange(kept), r]
    decoded = fields[:, stored] + lost * rng.standard_normal((variables, kept + 1, n))
    missing = fields.copy()
    missing[:, stored] -= decoded
    a, modes = right[:, :kept] * sigma[:kept], decoded[:, :kept] / sigma[:kept, None]
    difference = size * rng.standard_normal((m, kept))
    if aligned and cut:
        # The worst that coefficients can do: repeat the modes that were cut.
        difference = size * right[:, kept : kept + 1] @ np.ones((1, kept))
    dropped = rng.standard_normal((variables, m, n)) * tree
    # What the tree dropped is orthogonal in time to all its columns, not to the difference.
    dropped -= right @ (right.T @ dropped)
    grams = modes @ np.swapaxes(modes, 1, 2)
    limits = Tolerances(
        roots=np.swapaxes(np.linalg.cholesky(grams), 1, 2),
        allowed=np.ones(variables),
        tree=np.linalg.norm(dropped, axis=(1, 2)),
        truncation=np.linalg.norm(missing, axis=(1, 2)),
        mixed=list(zip(np.swapaxes(modes, 1, 2), np.swapaxes(missing, 1, 2), strict=True)),
    )
    deviation = Deviation.of(difference, right)
    bound = limits.errors(deviation)
    for v in range(variables):
        source = right @ fields[v] + dropped[v]
        rebuilt = (a + difference) @ modes[v] + right[:, r:] @ decoded[v, kept:]
        error = np.linalg.norm(rebuilt - source)
        assert error <= bound[v] + 1e-7
        # Loose by no more than what the tree and the coding could do to each other.
        slack = 4 * limits.tree[v] * np.sqrt(limits.coding(deviation.products)[v])
        assert bound[v] ** 2 <= error**2 + slack + 1e-9
        if not tree:
            assert_allclose(bound[v], error, rtol=1e-9, atol=1e-6)


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
        code = searched(a, times, models, whole_within(a, 1e-2), 128)
        CACHE.append((times, a, models, code, whole(code, models, times)))
    return CACHE[0]


def test_straight_lines_need_no_model():
    times = np.cumsum(np.random.default_rng(0).uniform(0.1, 1, 50))
    a = np.stack([3 * times, 1 - times], axis=1)
    code = searched(a, times, [], whole_within(a, 1e-7), 1000)
    assert code.kept == 2
    assert (code.block_model == STRAIGHT_LINE).all()
    assert_allclose(whole(code, [], times), a, rtol=1e-12)


def test_modes_without_a_model_are_interpolated_beside_those_with_one():
    times, a = LINEAR_OSCILLATOR.record(600)
    both = np.column_stack([a, 2.0 + 0.5 * times])
    models = [true_model(LINEAR_OSCILLATOR, 1)]
    limits = whole_within(both, 1e-4)
    code = searched(both, times, models, limits, 600)
    assert_structure(code, both, 600)
    assert np.linalg.norm(whole(code, models, times) - both) <= limits.allowed[0]
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
    fast = dynamics_of(PolynomialLibrary(2, 1), ("a2", 0, 5.0), ("a1", 1, -5.0))
    models = [true_model(LINEAR_OSCILLATOR, 1), fast]
    limits = whole_within(joined, 1e-3)
    code = searched(joined, t, models, limits, 256)
    assert code.block_model.tolist() == [0, 1]
    assert_structure(code, joined, 256)
    assert np.linalg.norm(whole(code, models, t) - joined) <= limits.allowed[0]
    assert code.kept < 20


def test_a_variable_that_has_nothing_of_the_modes_asks_for_no_accuracy():
    times, a = LINEAR_OSCILLATOR.record(300)
    models, allowed = [true_model(LINEAR_OSCILLATOR, 1)], 1e-3 * np.linalg.norm(a)
    both = coding_only(np.stack([np.eye(2), np.zeros((2, 2))]), np.array([allowed, 1e3]))
    one = coding_only(np.eye(2)[None], np.array([allowed]))
    found, expected = (searched(a, times, models, limits, 256) for limits in (both, one))
    assert np.array_equal(found.index, expected.index)
    assert found.substeps == expected.substeps

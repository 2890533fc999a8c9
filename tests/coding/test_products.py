"""Products of levels with directions: exact, and alike for vectors of all widths."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from romzarr.coding import products
from romzarr.coding.coordinates import PANEL, UNIT
from romzarr.coding.kernels import Vectors, library
from romzarr.coding.products import IntegerDirections

seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(params=list(Vectors), autouse=True, scope="module")
def vectors(request):
    library().choose_vectors(request.param)
    yield
    library().choose_vectors(Vectors.WIDEST)


def matrix(directions):
    """Integers (features, directions), with those that fill up."""
    blocks, pairs, features, _ = directions.integers.shape
    return directions.integers.swapaxes(1, 2).reshape(blocks * features, 2 * pairs)


def in_panels(levels):
    """Levels (tokens, directions) as the kernel reads them."""
    tokens, directions = levels.shape
    filled = np.pad(levels, ((0, -tokens % PANEL), (0, 0)))
    panels = filled.reshape(-1, PANEL, directions // 2, 2)
    return np.ascontiguousarray(panels.swapaxes(1, 2))


def directions_of(rng, directions, features):
    axes = rng.standard_normal((directions, features)) * 10.0 ** rng.uniform(-5, 5, features)
    steps = 10.0 ** rng.uniform(-3, 3, directions)
    most = UNIT * 2 ** rng.integers(7, 11, directions)
    return axes.astype(np.float32), steps.astype(np.float32), most


@settings(deadline=None, max_examples=40)
@given(
    seed=seeds,
    tokens=st.integers(0, 20),
    features=st.integers(1, 50),
    directions=st.integers(1, 100),
    first=st.integers(0, 20),
    last=st.integers(0, 50),
)
def test_expanded_levels_are_exact_sums(seed, tokens, features, directions, first, last):
    """Even the largest: the oracle has 64 bits."""
    rng = np.random.default_rng(seed)
    axes, steps, most = directions_of(rng, directions, features)
    found = IntegerDirections.of(axes, steps, most)
    mean = rng.standard_normal(features).astype(np.float32)
    levels = np.zeros((tokens, directions + directions % 2), np.int16)
    levels[:, :directions] = rng.integers(-most, most + 1, (tokens, directions))
    # The largest sums that there are.
    integers = matrix(found)[:features].astype(np.int64)
    levels[:features, :directions] = most * np.sign(integers[:tokens, :directions])
    sums = levels.astype(np.int64) @ integers.T
    assert np.abs(sums).max(initial=0) < 2**31
    some = slice(first, max(first, last))
    expected = mean[some] + found.scales[some] * sums[:, some].astype(np.float32)
    assert_array_equal(products.expand(in_panels(levels), tokens, found, mean, some), expected)


@settings(deadline=None, max_examples=40)
@given(seed=seeds, features=st.integers(1, 20), directions=st.integers(1, 100))
def test_directions_are_rounded_to_the_nearest_integers(seed, features, directions):
    """Which have 15 bits, or the largest sum of sizes that is safe to within a percent."""
    axes, steps, most = directions_of(np.random.default_rng(seed), directions, features)
    found = IntegerDirections.of(axes, steps, most)
    filled = matrix(found)
    integers = filled[:features, :directions].astype(np.float64)
    exact = (axes * steps[:, None].astype(np.float64)).T / UNIT
    scales = found.scales[:, None].astype(np.float64)
    assert (np.abs(integers * scales - exact) <= (0.5 + 2**15 * 2.0**-21) * scales).all()
    assert not filled[:, directions:].any()
    assert not filled[features:].any()
    room = np.maximum(np.abs(integers).max(axis=1) / 2**15, np.abs(integers) @ most / 2**31)
    assert (room > 0.99).all()


def test_directions_that_are_zero_stay_so():
    most = np.full(3, 2048)
    found = IntegerDirections.of(np.zeros((3, 2), np.float32), np.ones(3, np.float32), most)
    assert not found.integers.any()
    assert (found.scales > 0).all()


def test_halves_are_those_of_numpy():
    """All sizes of numbers, and around every float16 what is rounded to it and to the next."""
    every = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
    bits = every.view(np.uint32).astype(np.int64)
    around = [bits + step for size in (1, 2**12, 2**13) for step in (-size, size)]
    random = np.random.default_rng(0).integers(0, 2**32, 2**16)
    values = np.concatenate([bits, *around, random]).astype(np.uint32)
    values = values.view(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = values.astype(np.float16)
    # A number that is none has any bits.
    assert_array_equal(products.halves(values), expected)
    signs = np.signbit(products.halves(values)) == np.signbit(expected)
    assert signs[~np.isnan(expected)].all()


@pytest.mark.parametrize(
    "shape", [(), (0,), (13,), (0, 3), (3, 5), (2, 3, 9), (2, 3, 4, 5), (1, 2, 3, 1, 7)]
)
def test_halves_of_axes_in_any_order_are_those_of_numpy(shape):
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    orders = {tuple(range(len(shape))), tuple(range(len(shape)))[::-1]}
    if len(shape) > 2:
        orders.add((0, 2, 1, *range(3, len(shape))))
    for order in orders:
        turned = values.transpose(order)
        assert_array_equal(products.halves(turned), turned.astype(np.float16))
        assert products.halves(turned).flags.c_contiguous


@settings(deadline=None, max_examples=40)
@given(
    seed=seeds,
    tokens=st.integers(0, 5),
    heads=st.integers(1, 3),
    pairs=st.integers(1, 150),
    spare=st.integers(0, 3),
    interleaved=st.booleans(),
    sign=st.sampled_from([1.0, -1.0]),
)
def test_pairs_are_turned_as_complex_numbers_are(
    seed, tokens, heads, pairs, spare, interleaved, sign
):
    rng = np.random.default_rng(seed)
    keys = rng.standard_normal((tokens, heads, 2 * pairs + spare)).astype(np.float32)
    turns = np.exp(1j * rng.uniform(0, 7, (tokens + 2, pairs)))
    start = np.exp(1j * rng.uniform(0, 7, pairs))
    found = keys.copy()
    products.turn(found, turns, start, interleaved=interleaved, sign=sign)
    left = np.s_[..., : 2 * pairs : 2] if interleaved else np.s_[..., :pairs]
    right = np.s_[..., 1 : 2 * pairs : 2] if interleaved else np.s_[..., pairs : 2 * pairs]
    waves = (turns[:tokens] * start)[:, None]
    expected = (keys[left] + 1j * keys[right]) * (waves if sign > 0 else waves.conj())
    assert_allclose(found[left] + 1j * found[right], expected, atol=2e-6)
    assert_array_equal(found[..., 2 * pairs :], keys[..., 2 * pairs :])

"""Coding of arrays: what comes back, how far off it is, and what hostile bytes do."""

import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from romzarr.coding.bands import depth
from romzarr.coding.field import (
    coded_field,
    decode_field,
    encode_field,
    encoded_and_decoded,
    rounded_share,
    share_of,
)
from romzarr.errors import StoreError
from tests.strategies import seeds

FLOATS = [np.dtype(np.float32), np.dtype(np.float64)]


def made_up(kind, shape, rng):
    """White noise, a random walk along all axes, pulses, or one value everywhere."""
    noise = rng.standard_normal(shape)
    if kind == "walk":
        for axis in range(noise.ndim):
            noise = np.cumsum(noise, axis=axis)
    elif kind == "pulses":
        noise = np.where(rng.random(shape) < 0.03, noise, 0)
    elif kind == "constant":
        noise = np.full(shape, noise.ravel()[0] if noise.size else 0.0)
    return np.asarray(noise)


@st.composite
def cases(draw, smallest=0):
    shape = draw(st.lists(st.integers(smallest, 40), min_size=0, max_size=3).map(tuple))
    rng = np.random.default_rng(draw(seeds))
    values = made_up(draw(st.sampled_from(["noise", "walk", "pulses", "constant"])), shape, rng)
    levels = tuple(draw(st.sampled_from([0, depth(n)])) for n in shape)
    return values, levels


@given(case=cases(), decades=st.floats(-14, 2), dtype=st.sampled_from(FLOATS))
@settings(deadline=None)
def test_what_coding_will_give_back_is_known_to_the_bit(case, decades, dtype):
    values, levels = case
    step = 10.0**decades
    before = values.copy()
    content = encode_field(values, step, levels)
    decoded = decode_field(content, values.shape, step, levels, dtype)
    assert decoded.dtype == dtype
    assert_array_equal(decoded, coded_field(values, step, levels, dtype))
    assert_array_equal(values, before)


@given(case=cases(smallest=1), decades=st.floats(-12, 2))
@settings(deadline=None)
def test_errors_are_a_third_of_a_step_at_most(case, decades):
    values, levels = case
    step = 10.0**decades
    coded = coded_field(values, step, levels, np.dtype(np.float64))
    # Of many coefficients, a third of a step at most; of a few, or of many that are alike, all
    # may lie where rounding is worst: 1/2 + WORTH / 2 * log2(2 * (1 + 0.1) / 0.1), beside zeros.
    worst = 0.73 if np.ptp(values) == 0 else min(0.73, 0.35 + 1.0 / values.size**0.5)
    # Three axes of wavelets that are orthogonal to a few per cent.
    slack = 1e-14 * np.abs(values).max()
    assert np.sqrt(np.mean((coded - values) ** 2)) <= 1.2 * worst * step + slack


@pytest.mark.parametrize("kind", ["noise", "walk", "pulses"])
@pytest.mark.parametrize("shape", [(2000,), (60, 71), (16, 17, 18), (6, 64, 64)])
def test_mean_square_errors_are_a_tenth_of_a_squared_step(kind, shape):
    values = made_up(kind, shape, np.random.default_rng(5))
    levels = [depth(n) for n in shape]
    for step in np.std(values) * np.array([1e-5, 1e-3, 1e-1, 1.0]):
        coded = coded_field(values, step, levels, np.dtype(np.float64))
        assert np.mean((coded - values) ** 2) <= 0.105 * step**2


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(), (1,), (0,), (0, 5), (3, 0, 2), (1, 1, 1), (1, 9, 1)])
def test_shapes_of_all_kinds(shape, dtype):
    levels = [depth(n) for n in shape]
    values = np.random.default_rng(0).standard_normal(shape)
    decoded = decode_field(encode_field(values, 1e-6, levels), shape, 1e-6, levels, dtype)
    assert decoded.shape == shape
    assert_allclose(decoded, values, atol=2e-6)


@pytest.mark.parametrize("shape", [(), (7,), (45, 64, 64)])
def test_zeros_cost_two_bytes(shape):
    levels = [0 if n == 45 else depth(n) for n in shape]
    content = encode_field(np.full(shape, 1e-9), 1.0, levels)
    assert len(content) == 2
    assert not decode_field(content, shape, 1.0, levels, FLOATS[1]).any()


def test_one_value_among_zeros_costs_a_few_bytes():
    values = np.zeros((20, 64, 64))
    values[3, 20, 30] = 1.0
    assert len(encode_field(values, 0.7, (0, 3, 3))) < 30


@pytest.mark.parametrize("steps", [2**19, 2**20, 2**31, 2**40, 2**52, 2**59])
@pytest.mark.parametrize("levels", [(0, 0), (2, 2)])
def test_steps_may_be_tiny(steps, levels):
    values = np.random.default_rng(1).uniform(-1, 1, (20, 20))
    step = 1 / steps
    content = encode_field(values, step, levels)
    decoded = decode_field(content, values.shape, step, levels, np.dtype(np.float64))
    assert_allclose(decoded, values, rtol=0, atol=4 * step + 1e-14)
    # Not far from what plain integers would take.
    assert len(content) * 8 < (np.log2(steps) + 4) * values.size


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e300, 1e308])
def test_values_that_no_integer_reaches_are_refused(wrong):
    values = np.ones((12, 12))
    values[3, 4] = wrong
    with pytest.raises(ValueError, match=r"finite and below 2\*\*60 steps of 0.1"):
        encode_field(values, 0.1, (1, 1))


@pytest.mark.parametrize("step", [0.0, -1.0, np.nan, np.inf])
def test_steps_must_be_positive(step):
    values = np.ones(4)
    with pytest.raises(ValueError, match="must be a positive number"):
        encode_field(values, step, (0,))
    with pytest.raises(ValueError, match="must be a positive number"):
        decode_field(b"\0\0", (4,), step, (0,), FLOATS[1])


@pytest.mark.parametrize("levels", [(), (1, 1), (-1,), (10**9,)])
def test_levels_must_fit_the_shape(levels):
    with pytest.raises(ValueError, match="do not fit the shape"):
        decode_field(b"\0\0", (9,), 1.0, levels, FLOATS[1])


def test_neither_layout_nor_threads_change_a_byte():
    values = made_up("walk", (9, 30, 44), np.random.default_rng(2))
    levels = (0, 2, 3)
    content = encode_field(values, 0.05, levels)
    wide = np.zeros((18, 30, 88))
    wide[::2, :, ::-2] = values
    for other in (np.asfortranarray(values), wide[::2, :, ::-2], values.astype(">f8")):
        assert encode_field(other, 0.05, levels) == content
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda _: encode_field(values, 0.05, levels), range(12))
        assert set(found) == {content}


def test_the_format_is_what_it_was():
    # A change of a context or of a count makes stores of before unreadable: it must be meant.
    values = np.round(8 * np.sin(np.add.outer(np.arange(12) ** 2, 3 * np.arange(10)))) / 2
    assert encode_field(values, 1.0, (1, 1)).hex() == FORMAT


FORMAT = "688084562e7aef194efcf9acde1c4eb69b92a15ec8c38d463e99f080701f00fc2fc022fec3"


def hostile(draw_bytes, shape, dtype, levels):
    try:
        found = decode_field(draw_bytes, shape, 1e300, levels, dtype)
    except StoreError:
        return
    assert found.shape == shape
    assert np.isfinite(found).all()


@given(content=st.binary(max_size=300), dtype=st.sampled_from(FLOATS), case=cases())
@settings(deadline=None)
def test_hostile_bytes_end_in_finite_values_or_an_error(content, dtype, case):
    values, levels = case
    hostile(content, values.shape, dtype, levels)


@given(case=cases(smallest=1), seed=seeds, dtype=st.sampled_from(FLOATS))
@settings(deadline=None)
def test_damage_ends_in_finite_values_or_an_error(case, seed, dtype):
    values, levels = case
    content = bytearray(encode_field(values, 0.1, levels))
    rng = np.random.default_rng(seed)
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    hostile(bytes(content[: rng.integers(len(content) + 1)]), values.shape, dtype, levels)


def test_hostile_bytes_do_not_fill_the_memory():
    shape = (4, 200, 200)
    rng = np.random.default_rng(3)
    for first in (0, 1):
        content = bytes([first, 0]) + rng.bytes(50_000)
        tracemalloc.start()
        hostile(content, shape, FLOATS[1], (0, 5, 5))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 12 * 8 * np.prod(shape)


@given(share=st.integers(0, 255), dtype=st.sampled_from(["f4", "f8"]), seed=seeds)
def test_a_payload_may_have_a_share_of_the_step(share, dtype, seed):
    """It decodes, with the step of its array, to what it was coded as with its own."""
    values = np.random.default_rng(seed).standard_normal((9, 8)).astype(dtype)
    content, decoded = encoded_and_decoded(values, 0.5, (1, 1), np.dtype(dtype), share)
    np.testing.assert_array_equal(
        decode_field(content, values.shape, 0.5, (1, 1), np.dtype(dtype)), decoded
    )
    own = coded_field(values, 0.5 * share_of(share), (1, 1), np.dtype(dtype))
    np.testing.assert_array_equal(own, decoded)


@given(share=st.floats(0.25, 2.2))
def test_shares_of_a_step_are_rounded_down_by_a_hundredth_at_most(share):
    assert 0 <= share - share_of(rounded_share(share)) < 1 / 100

"""Coarser grids, against the filter that they are known by, and the norms of its matrices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from romzarr.coding import entropy
from romzarr.coding.bands import bands, bands_until, coarse_shape, depth
from romzarr.coding.coarse import coarsened
from romzarr.coding.field import decode_coefficients, decode_field, encode_field
from romzarr.coding.gains import axis_gains
from romzarr.coding.layers import Payload, joined, split
from tests import oracles
from tests.strategies import seeds


@st.composite
def halved_arrays(draw):
    """Values, the levels of their transform, and how many of these are left out."""
    shape = draw(st.lists(st.integers(1, 40), min_size=1, max_size=3))
    levels = [draw(st.integers(0, depth(n))) for n in shape]
    halvings = [draw(st.integers(0, count)) for count in levels]
    rng = np.random.default_rng(draw(seeds))
    return rng.standard_normal(shape), tuple(levels), tuple(halvings)


def by_oracle(values, halvings):
    for axis, count in enumerate(halvings):
        values = oracles.coarsened(values, axis, count)
    return values


@given(halved_arrays())
@settings(deadline=None, max_examples=60)
def test_points_are_means_by_the_low_pass_filter(case):
    values, _, halvings = case
    found = coarsened(values, halvings)
    assert found.shape == coarse_shape(values.shape, halvings)
    assert_allclose(found, by_oracle(values, halvings), rtol=0, atol=1e-12)


@given(halved_arrays(), st.sampled_from([np.float32, np.float64]))
@settings(deadline=None, max_examples=60)
def test_what_is_decoded_without_details_is_the_coarsened_array(case, dtype):
    values, levels, halvings = case
    content = encode_field(values, 0.01, levels)
    whole = decode_field(content, values.shape, 0.01, levels, np.dtype(dtype))
    some = decode_coefficients(
        content, values.shape, 0.01, levels, np.dtype(dtype), halvings=halvings
    )
    # Some ten roundings a halving and axis, there and back; wrong ones would be parts of a step.
    eps = 500 * np.finfo(dtype).eps * max(1.0, float(np.abs(whole).max()))
    assert some.array().dtype == dtype
    assert_allclose(some.array(), by_oracle(whole, halvings), rtol=0, atol=eps)


@given(halved_arrays())
@settings(deadline=None, max_examples=20)
def test_layers_are_coarsened_together(case):
    values, levels, halvings = case
    payload = Payload(encode_field(values, 0.01, levels), 0.01)
    steps = [0.5, 0.1]
    contents = split(payload, values.shape, levels, steps)
    layers = [Payload(*each) for each in zip(contents, [*steps, 0.01], strict=True)]
    for count in range(1, 4):
        kind = np.dtype(np.float64)
        whole = joined(layers[:count], values.shape, levels, kind).array()
        some = joined(layers[:count], values.shape, levels, kind, halvings).array()
        assert_allclose(some, by_oracle(whole, halvings), rtol=0, atol=1e-12)


@given(
    st.integers(1, 300), st.integers(0, 4), st.sampled_from([np.float32, np.float64]),
    st.floats(-1e6, 1e6, width=32),
)  # fmt: skip
@settings(deadline=None, max_examples=40)
def test_constants_stay_and_so_does_what_is_linear_away_from_the_ends(n, most, dtype, value):
    halvings = min(most, depth(n))
    constant = coarsened(np.full(n, value, dtype), (halvings,))
    assert_allclose(constant, value, rtol=100 * np.finfo(dtype).eps)
    line = coarsened(np.arange(float(n)), (halvings,))
    # Each halving reaches four points to both sides.
    inside = slice(4, max(4, len(line) - 4))
    assert_allclose(line[inside], np.arange(0.0, n, 2**halvings)[inside], atol=1e-11)


@given(st.integers(1, 200), st.integers(1, 25), st.integers(1, 4))
@settings(deadline=None, max_examples=60)
def test_errors_grow_by_no_more_than_the_gains(length, units, halvings):
    piece = 2**halvings * units
    halvings = min(halvings, depth(piece))
    matrix = oracles.coarsened(np.eye(length), 1, halvings, piece).T
    gains = axis_gains(length, piece, halvings)
    norm = np.linalg.norm(matrix, 2)
    assert norm <= gains.l2 <= 1.2 * norm
    largest = np.abs(matrix).sum(axis=1).max()
    assert largest * (1 - 1e-9) <= gains.largest <= largest * (1 + 1e-9)


def test_many_halvings_grow_errors_by_no_more_than_some_and_the_others():
    matrix = oracles.coarsened(np.eye(1100), 1, 7).T
    gains = axis_gains(1100, 1100, 7)
    assert np.linalg.norm(matrix, 2) <= gains.l2
    assert np.abs(matrix).sum(axis=1).max() <= gains.largest


@pytest.mark.parametrize("halvings", [1, 3])
def test_gains_of_long_axes_are_those_of_short_ones_with_the_same_ends(halvings):
    """Lengths are compared that the shortening changes, and must not."""
    for length in (700, 701, 837):
        matrix = oracles.coarsened(np.eye(length), 1, halvings).T
        gains = axis_gains(length, length, halvings)
        assert np.linalg.norm(matrix, 2) <= gains.l2
        assert gains.largest == pytest.approx(np.abs(matrix).sum(axis=1).max(), rel=1e-9)


@given(halved_arrays())
@settings(deadline=None, max_examples=30)
def test_no_band_is_missing_and_none_is_decoded_beyond(case):
    values, levels, halvings = case
    shape = values.shape
    last = bands_until(shape, levels, halvings)
    inside = coarse_shape(shape, halvings)
    needed = [
        number
        for number, band in enumerate(bands(shape, levels))
        if all(part.stop <= n for part, n in zip(band.region, inside, strict=True))
    ]
    assert max(needed) == last - 1
    integers = np.rint(10 * values).astype(np.int32)
    found = entropy.decode(
        entropy.encode(integers, levels), shape, levels, integers.dtype, halvings
    )
    box = tuple(map(slice, inside))
    assert_array_equal(found[box], integers[box])
    if any(halvings):
        for band in bands(shape, levels)[last:]:
            assert not found[band.region].any()

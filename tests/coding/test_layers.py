"""Layers of a coded array add up to it, to the bit, and the first ones are coarser arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from romzarr.coding.bands import depth
from romzarr.coding.field import decode_field, encode_field, encoded_and_decoded
from romzarr.coding.layers import Payload, joined, lost_squares, split
from romzarr.errors import StoreError
from tests.strategies import seeds


def smooth(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal(shape)
    for axis in range(1, values.ndim):
        values = np.cumsum(values, axis=axis)
    return values


@given(
    seed=seeds, shape=st.tuples(st.integers(1, 5), st.integers(1, 40), st.integers(1, 20)),
    ratios=st.lists(st.floats(1.5, 30), min_size=1, max_size=4), whole=st.booleans(),
    share=st.sampled_from([40, 96, 200]), dtype=st.sampled_from(["f4", "f8"]),
    scale=st.sampled_from([0.0, 1e-30, 1.0, 1e12]),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_all_layers_are_the_array_to_the_bit(seed, shape, ratios, whole, share, dtype, scale):
    values, step = scale * smooth(seed, shape), 0.05 * (scale or 1)
    levels = (0 if whole else depth(shape[0]), *map(depth, shape[1:]))
    content, decoded = encoded_and_decoded(values, step, levels, np.dtype(dtype), share)
    steps = (step * np.cumprod(ratios)[::-1]).tolist()
    contents = split(Payload(content, step), shape, levels, steps)
    payloads = [Payload(each, s) for each, s in zip(contents, [*steps, step], strict=True)]
    found = joined(payloads, shape, levels, np.dtype(dtype)).array()
    np.testing.assert_array_equal(found, decoded)
    first = joined(payloads[:1], shape, levels, np.dtype(dtype)).array()
    np.testing.assert_array_equal(
        first, decode_field(contents[0], shape, steps[0], levels, np.dtype(dtype))
    )


def test_what_layers_miss_is_what_decoding_them_misses():
    values, levels, step = smooth(0, (4, 64, 48)), (0, 4, 4), 0.01
    content = encode_field(values, step, levels)
    steps = [1.0, 0.1]
    missed = lost_squares(Payload(content, step), values.shape, levels, steps)
    decoded = decode_field(content, values.shape, step, levels, np.dtype("f8"))
    payloads = split(Payload(content, step), values.shape, levels, steps)
    for number, expected in enumerate(missed, start=1):
        some = [Payload(*each) for each in zip(payloads, steps, strict=False)][:number]
        part = joined(some, values.shape, levels, np.dtype("f8")).array()
        assert expected == pytest.approx(np.sum((part - decoded)[1:] ** 2), rel=0.2)


def test_layers_take_little_more_than_the_array():
    values, levels, step = smooth(1, (8, 128, 128)), (0, 5, 5), 0.02
    content = encode_field(values, step, levels)
    contents = split(Payload(content, step), values.shape, levels, [8 * step])
    assert sum(map(len, contents)) < 1.06 * len(content)
    assert len(contents[0]) < 0.65 * len(content)


@pytest.mark.parametrize("steps", [(1e300, 1e-300), (1e18, 1e-3)])
def test_layers_that_do_not_belong_together_are_refused(steps):
    content = encode_field(smooth(2, (2, 8, 8)) * 1e15, 1.0, (0, 1, 1))
    with pytest.raises(StoreError, match="do not belong together"):
        joined([Payload(content, step) for step in steps], (2, 8, 8), (0, 1, 1), np.dtype("f8"))

"""Entropy coding of integers: what comes back, what it costs, and what hostile bytes do."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from romzarr.coding.entropy import NARROW, WIDE, decode, encode
from tests.second_decoder import integers_of
from tests.strategies import seeds

NUMBERS = {np.dtype(np.int32): NARROW, np.dtype(np.int64): WIDE}
shapes = st.lists(st.integers(0, 17), max_size=4).map(tuple)


def back(integers, levels):
    return decode(encode(integers, levels), integers.shape, levels, integers.dtype)


@given(shape=shapes, seed=seeds, data=st.data(), dtype=st.sampled_from(list(NUMBERS)),
       share=st.sampled_from([0.0, 0.02, 0.5, 1.0]), digits=st.integers(0, 61))  # fmt: skip
@settings(deadline=None)
def test_a_decoder_gives_back_what_was_encoded(shape, seed, data, dtype, share, digits):
    levels = [data.draw(st.integers(0, max(0, n - 1).bit_length())) for n in shape]
    rng = np.random.default_rng(seed)
    most = NUMBERS[dtype] - 1
    sizes = np.minimum(2.0 ** rng.uniform(0, digits, shape), most).astype(np.int64)
    integers = np.where(rng.random(shape) < share, sizes * rng.choice([-1, 1], shape), 0)
    integers = np.clip(integers, -most, most).astype(dtype)
    before = integers.copy()
    assert_array_equal(back(integers, levels), integers)
    assert_array_equal(integers, before)


@given(shape=shapes, seed=seeds, data=st.data(), dtype=st.sampled_from(list(NUMBERS)),
       share=st.sampled_from([0.02, 0.2, 1.0]), digits=st.integers(1, 61))  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_a_decoder_written_from_the_description_agrees(shape, seed, data, dtype, share, digits):
    levels = [data.draw(st.integers(0, max(0, n - 1).bit_length())) for n in shape]
    rng = np.random.default_rng(seed)
    # Bursts, so that neighbours tell something, on scales from less than one to the largest.
    most = NUMBERS[dtype] - 1
    logarithms = np.cumsum(rng.normal(size=shape), axis=-1) if shape else np.zeros(())
    sizes = np.minimum(2.0 ** np.clip(logarithms + digits / 4, -2, digits), most)
    integers = np.where(rng.random(shape) < share, rng.laplace(size=shape) * sizes, 0)
    integers = np.clip(np.rint(integers), -most, most).astype(dtype)
    wide = dtype == np.int64
    assert_array_equal(integers_of(encode(integers, levels), shape, levels, wide), integers)


@pytest.mark.parametrize("width", range(1, 50))
def test_rows_of_every_length_are_coded_as_described(width):
    rng = np.random.default_rng(width)
    integers = np.rint(rng.laplace(size=(6, width)) * (rng.random((6, 1)) < 0.7)).astype(np.int32)
    levels = [0, min(2, (width - 1).bit_length())]
    assert_array_equal(
        integers_of(encode(integers, levels), integers.shape, levels, False), integers
    )


@pytest.mark.parametrize(("dtype", "bound"), NUMBERS.items())
@pytest.mark.parametrize("levels", [(0, 0), (0, 2), (2, 0), (2, 2)])
def test_the_largest_integers_there_are(dtype, bound, levels):
    integers = np.full((12, 9), bound - 1, dtype)
    integers[::2] *= -1
    assert_array_equal(back(integers, levels), integers)


def test_payloads_may_be_longer_than_what_they_are_given_room_for():
    integers = np.random.default_rng(0).integers(-WIDE + 1, WIDE, (300, 40))
    content = encode(integers, (0, 0))
    assert 7.5 * integers.size < len(content) < 8.2 * integers.size
    assert_array_equal(decode(content, integers.shape, (0, 0), integers.dtype), integers)


def geometric_entropy(mean):
    p = 1 / (1 + mean)
    return (-p * np.log2(p) - (1 - p) * np.log2(1 - p)) / p


@pytest.mark.parametrize("levels", [(0, 0), (0, 4), (4, 4)])
@pytest.mark.parametrize("mean", [0.02, 0.2, 1.0, 6.0, 60.0])
def test_noise_costs_its_entropy(mean, levels):
    # What quantised Laplacian noise is. Contexts can say nothing about it: all that may be lost
    # is what learning costs, in each band anew. A sign costs a bit.
    rng = np.random.default_rng(int(100 * mean))
    sizes = (rng.geometric(1 / (1 + mean), (256, 256)) - 1).astype(np.int32)
    bits = 8 * len(encode(sizes, levels)) - np.count_nonzero(sizes)
    most = 1.07 if any(levels) and mean < 0.1 else 1.03
    assert 0.98 < bits / (sizes.size * geometric_entropy(mean)) < most


def test_empty_bands_cost_next_to_nothing():
    sizes = np.zeros((10, 256, 256), np.int32)
    sizes[:, :8, :8] = np.random.default_rng(0).geometric(0.2, (10, 8, 8))
    alone = len(encode(np.ascontiguousarray(sizes[:, :8, :8]), (0, 1, 1)))
    assert 8 * len(encode(sizes, (0, 6, 6))) < 8 * alone + 0.001 * sizes.size


def test_neighbours_foretell_sizes():
    rng = np.random.default_rng(1)
    x, y = np.meshgrid(*2 * [np.linspace(-3, 3, 128)])
    mean = 8 * np.exp(-(x**2) - y**2)
    sizes = (rng.geometric(1 / (1 + mean)) - 1).astype(np.int32)
    ideal = np.sum(geometric_entropy(mean))
    shuffled = rng.permutation(sizes.ravel()).reshape(128, -1)
    found, without = (
        8 * len(encode(each, (0, 0))) - np.count_nonzero(each) for each in (sizes, shuffled)
    )
    # The ideal knows the mean everywhere; shuffled sizes have no neighbourhood.
    assert found < 1.2 * ideal
    assert found < 0.8 * without


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_planes_before_foretell_sizes_along_any_axis(axis):
    # Where sizes are large is noise within a plane, and alike in all planes.
    rng = np.random.default_rng(2)
    places = np.expand_dims(rng.random((48, 48)) < 0.2, axis)
    shape = np.broadcast_shapes(places.shape, tuple(24 if k == axis else 48 for k in range(3)))
    sizes = (rng.geometric(0.1, shape) * places).astype(np.int32)
    shuffled = np.apply_along_axis(rng.permutation, (axis + 1) % 3, sizes)
    for levels in ((0, 0, 0), tuple(0 if k == 0 else 1 for k in range(3))):
        assert len(encode(sizes, levels)) < 0.9 * len(encode(shuffled, levels))


def test_parents_foretell_sizes():
    # Children lie at twice the place of their parent along the axis.
    rng = np.random.default_rng(3)
    parents = rng.geometric(0.05, (64, 64)) * (rng.random((64, 64)) < 0.15)
    children = np.repeat(parents, 2, axis=1) // 2
    unrelated = rng.permutation(children.ravel()).reshape(children.shape)
    mean = np.zeros((64, 64))
    sizes, without = (
        np.concatenate([mean, parents, each], axis=1).astype(np.int32)
        for each in (children, unrelated)
    )
    assert len(encode(sizes, (0, 2))) < 0.9 * len(encode(without, (0, 2)))


def test_neither_layout_nor_threads_change_a_byte():
    integers = np.random.default_rng(2).integers(-3, 4, (9, 30, 44)).astype(np.int32)
    content = encode(integers, (0, 2, 3))
    wide = np.zeros((18, 30, 88), np.int32)
    wide[::2, :, ::-2] = integers
    for other in (np.asfortranarray(integers), wide[::2, :, ::-2]):
        assert encode(other, (0, 2, 3)) == content
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda _: encode(integers, (0, 2, 3)), range(12))
        assert set(found) == {content}


@given(content=st.binary(max_size=300), shape=shapes, data=st.data(),
       dtype=st.sampled_from(list(NUMBERS)))  # fmt: skip
@settings(deadline=None)
def test_other_bytes_decode_to_some_integers(content, shape, data, dtype):
    levels = [data.draw(st.integers(0, max(0, n - 1).bit_length())) for n in shape]
    found = decode(content, shape, levels, dtype)
    assert found.shape == shape
    assert found.dtype == dtype
    assert np.abs(found.astype(np.float64)).max(initial=0.0) <= 2.0 * NUMBERS[dtype]


@pytest.mark.parametrize("byte", [0x00, 0x55, 0xFF])
def test_other_bytes_do_not_take_long(byte):
    before = time.thread_time()
    decode(bytes([byte]) * 50_000, (8, 256, 256), (0, 6, 6), np.dtype(np.int64))
    # 8 MB of values; all that a payload can ask for is a decision for each of their digits.
    assert time.thread_time() - before < 5

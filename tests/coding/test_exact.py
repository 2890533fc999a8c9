"""Integers in place of floats give every bit back, and smooth floats small integers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs.blosc import Blosc

from romzarr.coding.exact import (
    SHUFFLES,
    ExactCoding,
    Packing,
    encode_exact,
    from_integers,
    packs,
    same_bits,
    to_integers,
)
from tests.strategies import seeds

NASTY = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan]


@given(
    shape=st.lists(st.integers(0, 6), min_size=0, max_size=4).map(tuple),
    dtype=st.sampled_from(["f2", "f4", "f8", ">f4"]),
    seed=seeds,
    data=st.data(),
)
@settings(deadline=None, max_examples=60)
def test_any_bits_come_back(shape, dtype, seed, data):
    """Random bits hold NaN of every payload, infinities, subnormal values and both zeros."""
    native = np.dtype(dtype).newbyteorder("=")
    axes = tuple(data.draw(st.permutations(range(len(shape)))))[: data.draw(st.integers(0, 4))]
    size = int(np.prod(shape)) * native.itemsize
    raw = np.random.default_rng(seed).integers(0, 256, size, np.uint8).tobytes()
    values = np.frombuffer(raw, native).reshape(shape).astype(dtype)
    back = from_integers(to_integers(values, axes), axes, native)
    assert back.dtype == native
    assert same_bits(back, values).all()


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_integers_are_as_far_apart_as_floats_are(dtype):
    """By one for neighbours, across powers of two and zero; even numbers stand for rises."""
    start = np.dtype(dtype).type(0.75)
    values = [start]
    for _ in range(5):
        values.append(np.nextafter(values[-1], np.dtype(dtype).type(2)))
    found = to_integers(np.array(values), (0,))
    assert found[1:].tolist() == [2] * 5
    assert to_integers(np.array([0.0, -0.0], dtype), (0,))[1] == 1


def test_same_bits_tells_zeros_and_nan_apart():
    a = np.array([0.0, np.nan, 1.0], "f4")
    b = np.array([-0.0, np.nan, 1.0], "f4")
    b.view("u4")[1] ^= 1
    assert same_bits(a, a.astype(">f4")).all()
    assert same_bits(a, b).tolist() == [False, False, True]


@given(
    integer=st.sampled_from(["int8", "int16", "int32", "uint8", "uint16"]),
    dtype=st.sampled_from(["f4", "f8"]),
    scale=st.sampled_from([0.01, 1.0, -3e-5, 7e8]),
    offset=st.sampled_from([0.0, 273.15, -1e5]),
    missing=st.booleans(),
    seed=seeds,
)
@settings(deadline=None, max_examples=60)
def test_what_is_packed_comes_back_or_is_refused(integer, dtype, scale, offset, missing, seed):
    """Oracle: the arithmetic with which CF conventions unpack."""
    limits = np.iinfo(integer)
    integers = np.random.default_rng(seed).integers(limits.min, limits.max, (7, 9), integer)
    packing = Packing(integer, scale, offset, int(limits.min) if missing else None)
    values = integers.astype(dtype) * np.dtype(dtype).type(scale) + np.dtype(dtype).type(offset)
    if missing:
        values[integers == limits.min] = np.nan
    # Where single precision cannot tell the integers apart there is nothing to unpack.
    if packs(values, packing):
        back = from_integers(to_integers(values, (0, 1), packing), (0, 1), values.dtype, packing)
        assert same_bits(back, values).all()
    else:
        assert dtype == "f4" or abs(scale) * limits.max > 1e9 or abs(offset) > 1e4
    values[3, 3] = np.nextafter(values[0, 0], 2 * values[0, 0] + 1)
    if not packs(values, packing):
        with pytest.raises(ValueError, match="values are not integers times"):
            to_integers(values, (), packing)


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.0, 1e300])
def test_what_no_integer_stands_for_is_not_packed(value):
    packing = Packing("int16", 1.0, 0.0, None)
    assert packs(np.array([5.0, -3.0]), packing)
    assert not packs(np.array([5.0, value]), packing)


@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_a_tile_that_sticks_out_is_filled_and_little_endian(shuffle):
    values = np.random.default_rng(0).standard_normal((5, 3))
    content = encode_exact(values, (8, 4), ExactCoding((0, 1), shuffle))
    integers = np.frombuffer(Blosc().decode(content), "<u8").reshape(8, 4)
    assert same_bits(from_integers(integers, (0, 1), values.dtype)[:5, :3], values).all()


def test_without_differences_it_is_the_values_themselves():
    values = np.array(NASTY)
    coding = ExactCoding((), "shuffle")
    assert coding.is_plain
    assert Blosc().decode(encode_exact(values, (7,), coding)) == values.tobytes()

"""Rounding of coefficients, against what is said of it, one coefficient at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from romzarr.coding.bands import bands, depth
from romzarr.coding.quantise import LEAST_MEAN, WORTH, Excess, quantise, restore
from tests.strategies import seeds


def expected(coefficients, levels, step):
    """To the nearest; up to 64, one below where half of `WORTH` times the bits saved is more than
    what lies between the size and the middle below it. Both neighbours along each axis of the band
    count, the only one at an end twice."""
    ratios = np.asarray(np.abs(coefficients) / step)
    nearest = np.asarray(np.floor(ratios + 0.5))
    sizes = np.array(nearest)
    for band in bands(coefficients.shape, levels):
        part = nearest[band.region]
        for place in np.argwhere((part > 0) & (part <= 64)):
            around = []
            for axis, length in enumerate(part.shape):
                if length > 1:
                    for side in (-1, 1):
                        other = place.copy()
                        other[axis] += side if 0 <= place[axis] + side < length else -side
                        around.append(part[tuple(other)])
            mean = max(np.floor(64 * np.mean(around or [0])) / 64, LEAST_MEAN)
            bits = np.log2((1 + mean) / mean) + (part[tuple(place)] == 1)
            index = tuple(place + [s.start for s in band.region])
            if ratios[index] + 0.5 - nearest[index] < 0.5 * WORTH * bits:
                sizes[index] -= 1
    return np.where(coefficients < 0, -sizes, sizes).astype(int)


@given(shape=st.lists(st.integers(1, 20), min_size=0, max_size=3).map(tuple), seed=seeds,
       scale=st.floats(-1.5, 1.3), dtype=st.sampled_from(["f4", "f8"]),
       transformed=st.booleans())  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_integers_are_what_the_rule_says(shape, seed, scale, dtype, transformed):
    rng = np.random.default_rng(seed)
    values = (rng.laplace(size=shape) * 10.0**scale * rng.integers(0, 2, shape)).astype(dtype)
    levels = [depth(n) if transformed and axis else 0 for axis, n in enumerate(shape)]
    found, excess = quantise(np.asarray(values), levels, 0.7, np.dtype(np.int32))
    # Axes without levels count as one, if there are others.
    outer = [k for k, count in enumerate(levels) if not count and any(levels)]
    inner = [k for k in range(len(shape)) if k not in outer]
    merged = (-1, *(shape[k] for k in inner)) if outer else values.shape
    as_seen = np.reshape(np.transpose(values, outer + inner), merged).astype(float)
    rule = expected(as_seen, [0] * bool(outer) + [levels[k] for k in inner], 0.7)
    assert_array_equal(np.reshape(np.transpose(found, outer + inner), merged), rule)
    sizes, ratios = np.abs(found), np.abs(values.astype(float)) / 0.7
    for chosen, mean in ((sizes == 1, excess.one), (sizes > 1, excess.others)):
        assert_allclose(mean, np.mean((ratios - sizes)[chosen]) if chosen.any() else 0, atol=1e-6)


@pytest.mark.parametrize("kind", ["i4", "i8"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_coefficients_are_multiples_moved_by_their_excess(kind, dtype):
    integers = np.array([[0, 1, -1], [2, -7, 2**20]], kind)
    found = restore(integers, 0.5, Excess(0.25, -0.125), np.dtype(dtype))
    assert found.dtype == dtype
    assert_array_equal(found, [[0, 0.625, -0.625], [0.9375, -3.4375, 2**19 - 0.0625]])
    assert not np.signbit(found[0, 0])


def test_sizes_may_need_64_bits():
    values = np.array([2.0**59, -(2.0**50), 3.0])
    found, _ = quantise(values, (0,), 1.0, np.dtype(np.int64))
    assert_array_equal(found, values)


@pytest.mark.parametrize("exponent", [-1060, -1020, -300, 300, 1000])
def test_steps_of_any_size_round_alike(exponent):
    values = np.random.default_rng(0).laplace(scale=3, size=(40, 33))
    expected, _ = quantise(values, (2, 2), 0.75, np.dtype(np.int32))
    scaled, step = np.ldexp(values, exponent), float(np.ldexp(0.75, exponent))
    found, _ = quantise(scaled, (2, 2), step, np.dtype(np.int32))
    if exponent > -1020:
        np.testing.assert_array_equal(found, expected)
    # Numbers below the normal ones have few digits.
    assert np.abs(found - expected).max() <= 1

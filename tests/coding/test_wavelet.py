"""The transform, against the filters it is known by."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from romzarr.coding.bands import bands, depth
from romzarr.coding.wavelet import forward, inverse
from tests.strategies import seeds

# JPEG 2000 Part 1 (ISO/IEC 15444-1), Table F.2 (analysis filters of the 9-7 irreversible
# transform): from the middle outwards, low-pass of sum 1, high-pass of alternating sum 2.
LOW = [0.6029490182363579, 0.2668641184428723, -0.07822326652898785, -0.01686411844287495,
       0.02674875741080976]  # fmt: skip
HIGH = [1.115087052456994, -0.5912717631142470, -0.05754352622849957, 0.09127176311424948]


@st.composite
def arrays(draw):
    shape = draw(st.lists(st.integers(1, 40), min_size=0, max_size=3))
    rng = np.random.default_rng(draw(seeds))
    values = rng.standard_normal(shape) * 10.0 ** draw(st.integers(-3, 3))
    most = [max(0, n - 1).bit_length() for n in shape]
    return np.asarray(values), tuple(draw(st.integers(0, m)) for m in most)


@given(arrays())
@settings(deadline=None)
def test_the_inverse_undoes_the_transform(case):
    values, levels = case
    before = values.copy()
    coefficients = forward(values, levels)
    assert (values == before).all()
    assert coefficients.shape == values.shape
    # A level of an axis has a condition of about two.
    slack = 1e-14 * 2 ** max((0, *levels)) * np.abs(values).max(initial=0)
    assert_allclose(inverse(coefficients, levels), values, rtol=0, atol=slack)


@given(arrays())
@settings(deadline=None)
def test_bands_hold_every_coefficient_once(case):
    values, levels = case
    seen = np.zeros(values.shape, int)
    every = bands(values.shape, levels)
    for band in every:
        seen[band.region] += 1
    assert (seen == 1).all()
    assert [band.scales for band in every] == sorted(
        product(*(range(k + 1) for k in levels)), key=lambda s: (sum(s), s)
    )


@pytest.mark.parametrize("length", [32, 33])
def test_a_level_is_two_convolutions(length):
    x = np.random.default_rng(0).standard_normal(length)
    c = forward(x, [1])
    half = (length + 1) // 2
    low, high = np.array(LOW[:0:-1] + LOW), np.array(HIGH[:0:-1] + HIGH)
    # Of unit norm on white noise: the low-pass of sum sqrt(2), the high-pass alike.
    for i in range(2, half - 2):
        assert_allclose(c[i], 2**0.5 * low @ x[2 * i - 4 : 2 * i + 5], atol=1e-12)
    for i in range(2, length - half - 2):
        assert_allclose(c[half + i], 0.5**0.5 * high @ x[2 * i - 2 : 2 * i + 5], atol=1e-12)


def test_polynomials_up_to_the_third_degree_leave_no_details():
    x = np.linspace(-1, 1, 64)
    details = forward(1 + x - 2 * x**2 + 0.5 * x**3, [1])[32:]
    assert np.abs(details[3:-3]).max() < 1e-13


def test_axes_are_transformed_each_for_itself():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((3, 21, 16))
    along = np.apply_along_axis(lambda line: forward(line, [2]), 1, x)
    both = np.apply_along_axis(lambda line: forward(line, [1]), 2, along)
    assert_allclose(forward(x, (0, 2, 1)), both, atol=1e-13)


@pytest.mark.parametrize("shape", [(400,), (37, 53), (16, 17, 18), (5, 64, 64)])
def test_noise_keeps_its_norm_to_a_few_per_cent(shape):
    x = np.random.default_rng(2).standard_normal(shape)
    c = forward(x, [depth(n) for n in shape])
    # The filters are orthogonal to two per cent; ends, and repeated levels, double that.
    assert abs(np.linalg.norm(c) / np.linalg.norm(x) - 1) < 0.04 * len(shape)


def test_an_axis_is_halved_until_fewer_than_eight_are_left():
    assert [depth(n) for n in (0, 1, 7, 8, 13, 14, 256)] == [0, 0, 0, 1, 1, 1, 6]


@pytest.mark.parametrize("shape", [(70, 5, 33), (3, 9, 64), (100,), (2, 40, 1), (33, 31)])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_lines_do_not_depend_on_those_that_are_transformed_with_them(shape, dtype):
    x = np.random.default_rng(3).standard_normal(shape).astype(dtype)
    for axis, length in enumerate(shape):
        levels = [depth(length) if k == axis else 0 for k in range(len(shape))]
        for function in (forward, inverse):
            alone = np.apply_along_axis(lambda line: function(line, [depth(len(line))]), axis, x)  # noqa: B023
            assert (function(x, levels) == alone).all()

"""Rounding to the dtype of a variable: once, and never to infinity."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from romzarr.numerics.rounding import rounded, rounded_sum

DTYPES = ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sign", [1, -1])
def test_finite_numbers_beyond_the_largest_become_it(dtype, sign):
    dtype = np.dtype(dtype)
    most = float(np.finfo(dtype).max)
    given = sign * np.array([most, min(most * 1.5, 1.7e308), 1.7e308, 1.0, np.inf, np.nan])
    expected = np.clip(given, -most, most)
    expected[4] = sign * np.inf
    out = np.empty(6, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rounded_sum(given, np.zeros(6), out)
        found = rounded(given, dtype)
    assert found.dtype == dtype
    assert_array_equal(found, expected.astype(dtype))
    assert_array_equal(out, expected.astype(dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_that_overflow_are_the_largest_number_too(dtype):
    most = np.finfo(dtype).max
    first, out = np.array([most, -most, 1, np.inf], dtype), np.empty(4, dtype)
    rounded_sum(first, np.array([most, -most, 2, 1], dtype), out)
    assert_array_equal(out, np.array([most, -most, 3, np.inf], dtype))


def test_all_other_numbers_are_the_nearest():
    values = np.random.default_rng(0).standard_normal(1000) * 10.0 ** np.arange(-30, 20, 0.05)
    assert_array_equal(rounded(values, np.float32), values.astype(np.float32))
    out = np.empty(1000, np.float32)
    rounded_sum(values, 1.5, out)
    assert_array_equal(out, (values + 1.5).astype(np.float32))

"""Coefficients without the zeros between them, and sums that are taken of them."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from pipeline.coding.coefficients import Coefficients
from pipeline.coding.field import coded_field, decode_coefficients, encode_field
from pipeline.coding.wavelet import depth
from pipeline.errors import StoreError
from tests.strategies import seeds

spaces = st.lists(st.integers(0, 20), min_size=0, max_size=3).map(tuple)


def coefficients_of(values, step, dtype):
    levels = (0, *map(depth, values.shape[1:]))
    content = encode_field(values, step, levels)
    return decode_coefficients(content, values.shape, step, levels, np.dtype(dtype))


@given(space=spaces, rows=st.integers(0, 9), sums=st.integers(0, 5), step=st.floats(1e-3, 3),
       dtype=st.sampled_from(["f4", "f8"]), seed=seeds)  # fmt: skip
@settings(deadline=None)
def test_sums_of_coefficients_are_coefficients_of_sums(space, rows, sums, step, dtype, seed):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((rows, *space))
    weights = rng.standard_normal((sums, rows)) * 10.0 ** rng.uniform(-3, 3)
    found = coefficients_of(values, step, dtype)
    fields = coded_field(values, step, found.levels, np.dtype(dtype))
    assert_array_equal(found.array(), fields)
    assert np.count_nonzero(found.values) == len(found.places)

    combined = found.combined(weights)
    assert combined.shape == (sums, *space)
    assert combined.dtype == dtype
    # Both orders round, and the transform of three axes adds up a few dozen values.
    largest = np.abs(weights).sum() * np.abs(fields).max(initial=0.0)
    expected = np.tensordot(weights, fields.astype(float), axes=1)
    assert_allclose(combined, expected, rtol=0, atol=200 * np.finfo(dtype).eps * largest)


@given(space=spaces, rows=st.integers(1, 5), seed=seeds)
@settings(deadline=None)
def test_the_first_row_is_that_of_all_to_the_bit(space, rows, seed):
    values = np.random.default_rng(seed).standard_normal((rows, *space))
    found = coefficients_of(values, 0.3, "f4")
    assert_array_equal(found.first(), found.array()[0])


def test_few_sums_take_no_memory_for_all_rows():
    values = np.zeros((60, 128, 128))
    values[:, ::32, ::32] = 1.0
    levels = (0, depth(128), depth(128))
    content = encode_field(values, 1.0, levels)
    tracemalloc.start()
    found = decode_coefficients(content, values.shape, 1.0, levels, np.dtype("f4"))
    found.combined(np.ones((1, 60)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Where a band holds anything it is decoded whole, a few times over; rows have 4 bytes a value.
    assert found.nbytes < values.size
    assert peak < 4 * values.size


@pytest.mark.parametrize("weight", [1e39, np.inf, np.nan])
def test_sums_that_are_not_finite_are_errors(weight):
    found = coefficients_of(np.ones((2, 4)), 0.1, "f4")
    with pytest.raises(StoreError, match="values beyond float32"):
        found.combined(np.full((1, 2), weight))


def test_coefficients_that_are_not_finite_are_errors():
    beyond = Coefficients((2, 3), (0, 0), np.array([4]), np.array([np.inf], np.float32))
    with pytest.raises(StoreError, match="values beyond float32"):
        beyond.array()
    assert not beyond.first().any()

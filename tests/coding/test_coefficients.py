"""Coefficients without the zeros between them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from romzarr.coding.bands import depth
from romzarr.coding.coefficients import Coefficients
from romzarr.coding.field import coded_field, decode_coefficients, encode_field
from romzarr.errors import StoreError
from tests.strategies import seeds

spaces = st.lists(st.integers(0, 20), min_size=0, max_size=3).map(tuple)


def coefficients_of(values, step, dtype):
    levels = (0, *map(depth, values.shape[1:]))
    content = encode_field(values, step, levels)
    return decode_coefficients(content, values.shape, step, levels, np.dtype(dtype))


@given(space=spaces, rows=st.integers(0, 9), step=st.floats(1e-3, 3),
       dtype=st.sampled_from(["f4", "f8"]), seed=seeds)  # fmt: skip
@settings(deadline=None)
def test_coefficients_that_are_not_zero_make_the_array(space, rows, step, dtype, seed):
    values = np.random.default_rng(seed).standard_normal((rows, *space))
    found = coefficients_of(values, step, dtype)
    assert_array_equal(found.array(), coded_field(values, step, found.levels, np.dtype(dtype)))
    assert np.count_nonzero(found.values) == len(found.places)


@given(space=spaces, rows=st.integers(1, 5), seed=seeds)
@settings(deadline=None)
def test_the_first_row_is_that_of_all_to_the_bit(space, rows, seed):
    values = np.random.default_rng(seed).standard_normal((rows, *space))
    found = coefficients_of(values, 0.3, "f4")
    assert_array_equal(found.first(), found.array()[0])


def test_coefficients_that_are_not_finite_are_errors():
    beyond = Coefficients((2, 3), (0, 0), np.array([4]), np.array([np.inf], np.float32))
    with pytest.raises(StoreError, match="values beyond float32"):
        beyond.array()
    assert not beyond.first().any()

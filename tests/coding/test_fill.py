"""What stands at masked points."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from romzarr.coding.bands import depth
from romzarr.coding.field import encode_field
from romzarr.coding.fill import fill_masked
from tests.strategies import seeds


@given(shape=st.lists(st.integers(1, 12), min_size=1, max_size=3), k=st.integers(0, 3),
       share=st.sampled_from([0.0, 0.1, 0.6, 0.95, 1.0]), seed=seeds,
       dtype=st.sampled_from([np.float32, np.float64]))  # fmt: skip
@settings(deadline=None)
def test_valid_values_stay_and_others_lie_between_them(shape, k, share, seed, dtype):
    rng = np.random.default_rng(seed)
    valid = rng.random(shape) >= share
    values = rng.standard_normal((k, *shape)).astype(dtype)
    values[:, ~valid] = np.nan
    filled = fill_masked(values, valid)
    assert filled.shape == values.shape
    assert filled.dtype == dtype
    assert_array_equal(filled[:, valid], values[:, valid])
    if not valid.any():
        assert (filled == 0).all()
    for field, known in zip(filled, values[:, valid], strict=True):
        if valid.any():
            slack = 1e-5 * np.abs(known).max()
            assert field.min() >= known.min() - slack
            assert field.max() <= known.max() + slack


def test_a_constant_is_continued_and_a_hole_in_a_plane_nearly_so():
    valid = np.ones((32, 32), bool)
    valid[10:14, 12:16] = False
    assert_allclose(fill_masked(np.full((1, 32, 32), 3.0), valid), 3.0)
    plane = np.add.outer(np.arange(32.0), 2 * np.arange(32.0))[None]
    assert np.abs(fill_masked(plane, valid) - plane).max() < 3


@pytest.mark.parametrize("step", [1e-3, 1e-2])
def test_filling_takes_fewer_bytes_than_zeros(step):
    y, x = np.meshgrid(np.linspace(0, 6, 90), np.linspace(0, 6, 120), indexing="ij")
    fields = np.stack([np.sin(k * x + y) * np.cos(y - k) + 0.5 for k in (1, 2, 3)])
    # Land with a ragged coast, and islands.
    valid = (y - 0.3 * np.sin(5 * x) > 1.3) & ((x - 4) ** 2 + (y - 4) ** 2 > 0.3)
    levels = (0, depth(90), depth(120))
    zeros = len(encode_field(np.where(valid, fields, 0), step, levels))
    assert len(encode_field(fill_masked(fields, valid), step, levels)) < 0.75 * zeros

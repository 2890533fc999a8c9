"""Residuals come back exactly, and leave no more than half a step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from romzarr.coding.field import decode_field
from romzarr.coding.residuals import encode_residuals, residual_bits, rounded_residuals
from tests.strategies import seeds


@given(
    shape=st.lists(st.integers(1, 12), min_size=1, max_size=3).map(tuple),
    step=st.sampled_from([1.0, 0.3, 1e-7, 123.4]),
    spread=st.sampled_from([0.05, 0.4, 3.0, 1e5, 1e9]),
    seed=seeds,
    data=st.data(),
)
@settings(deadline=None, max_examples=60)
def test_residuals_are_exact_multiples_within_half_a_step(shape, step, spread, seed, data):
    """Rounding that looks at bits too would leave more than half a step here and there."""
    tile = tuple(data.draw(st.integers(n, n + 3)) for n in shape)
    rng = np.random.default_rng(seed)
    difference = step * spread * rng.standard_normal(shape)
    residuals = rounded_residuals(difference, step)
    assert (np.abs(difference - residuals) <= step / 2 * (1 + 1e-9 * spread)).all()
    assert (residuals[np.abs(difference) <= step / 2] == 0).all()
    # Never worse than without.
    assert (np.abs(difference - residuals) <= np.abs(difference)).all()
    content = encode_residuals(residuals, tile, step)
    decoded = decode_field(content, tile, step, (0,) * len(tile), np.dtype("f8"))
    np.testing.assert_array_equal(decoded[tuple(slice(0, n) for n in shape)], residuals)


def test_where_nothing_is_there_is_no_residual():
    difference = np.array([np.nan, 0.4, 2.0])
    assert rounded_residuals(difference, 1.0).tolist() == [0.0, 0.0, 2.0]


def test_nothing_but_zeros_takes_two_bytes():
    assert len(encode_residuals(np.zeros((40, 50)), (64, 64), 0.1)) == 2


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.8, 3.0, 40.0])
def test_bits_are_the_entropy_of_rounded_laplace_errors(ratio):
    rng = np.random.default_rng(1)
    errors = rng.laplace(scale=ratio / 2**0.5, size=1_000_000)
    shares = np.unique(np.rint(errors / 2), return_counts=True)[1] / errors.size
    entropy = -np.sum(shares * np.log2(shares))
    assert residual_bits(ratio) == pytest.approx(entropy, rel=0.02, abs=1e-3)

"""What rounding may cost, against rounding that is measured."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from romzarr.errors import AccuracyError
from romzarr.numerics.budget import VariableNorms, split_budget
from tests.strategies import seeds

F2, F4, F8 = (np.dtype(f"float{bits}") for bits in (16, 32, 64))


def norms(fluctuation, mean, dtype=F4, name="u"):
    return VariableNorms(name, fluctuation, mean, np.dtype(dtype))


@given(
    tolerance=st.floats(-10, -0.1).map(lambda e: 10.0**e),
    offset=st.sampled_from([0.0, 1.0, 300.0, 1e5]),
    dtype=st.sampled_from([F4, F8]),
    seed=seeds,
)
@settings(deadline=None, max_examples=60)
def test_decoding_rounds_less_than_is_set_aside_for_it(tolerance, offset, dtype, seed):
    """Decodes in the chosen arithmetic as a reader would."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((40, 6)) * np.logspace(0, -3, 6) @ rng.standard_normal((6, 50))
    source = (offset + rows).astype(dtype).astype(np.float64)
    # All modes, so that nothing is lost before rounding.
    mean = source.mean(axis=0)
    u, s, phi = np.linalg.svd(source - mean, full_matrices=False)
    a = u * s
    fluctuation = float(np.linalg.norm(s))
    size = norms(fluctuation, float(np.sqrt(40) * np.linalg.norm(mean)), dtype)
    try:
        budget = split_budget([size], tolerance)
    except AccuracyError:
        assert tolerance * fluctuation < 10 * np.finfo(dtype).eps * size.mean + 1e-12 * fluctuation
        return
    # An error of exactly the size that truncation and coding may leave...
    off = rng.standard_normal(a.shape)
    off *= budget.allowed[0] / np.linalg.norm(off @ phi)
    kept = (a + off).astype(budget.basis)
    decoded = kept @ phi.astype(budget.basis) + mean.astype(budget.basis)
    error = np.linalg.norm(decoded.astype(dtype).astype(np.float64) - source)
    # ... and all rounding together stay within the bound.
    assert error <= tolerance * fluctuation
    assert budget.with_rounding(size, budget.allowed[0]) <= tolerance * fluctuation
    assert error <= budget.with_rounding(size, budget.allowed[0])


def test_a_modest_tolerance_leaves_nearly_all_of_it_to_compression():
    budget = split_budget([norms(1.0, 10.0)], 1e-2)
    assert budget.basis == F4
    assert budget.allowed[0] > 0.99 * 1e-2


@pytest.mark.parametrize(
    ("size", "tolerance", "basis"),
    [
        (norms(1.0, 1.0), 1e-2, F4),
        (norms(1.0, 1e5), 1e-2, F8),
        (norms(1.0, 1.0, F8), 1e-8, F8),
        (norms(0.0, 1.0, F4), 1e-8, F4),
        (norms(0.0, 1.0, F8), 0.5, F8),
        (norms(0.0, 1.0, F2), 0.5, F4),
    ],
)
def test_arithmetic_is_as_wide_as_it_must_be(size, tolerance, basis):
    assert split_budget([size], tolerance).basis == basis


def test_one_demanding_variable_widens_the_store_for_all():
    assert split_budget([norms(1.0, 1.0), norms(1.0, 1e6, F8, "v")], 1e-2).basis == F8


def test_a_tolerance_below_the_rounding_of_float64_is_refused():
    with pytest.raises(AccuracyError, match=r"'u'.*1e-14.*below the rounding of float64; raise"):
        split_budget([norms(1.0, 1e3, F8)], 1e-14)


def test_a_constant_variable_may_not_be_off_at_all():
    assert split_budget([norms(0.0, 5.0), norms(1.0, 0.0, name="v")], 1e-2).allowed[0] == 0.0

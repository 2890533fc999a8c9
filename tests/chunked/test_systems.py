"""Weak systems on Dask: any blocks, any scheduler, the same answer."""

import dask
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from romzarr.chunked import tables
from romzarr.chunked.latent import LatentRecord
from romzarr.chunked.systems import QuietRecord, time_blocks, weak_factors
from romzarr.chunked.tables import LeftOut
from romzarr.contracts import BlockSpan
from romzarr.numerics.dynamics.library import PolynomialLibrary
from romzarr.numerics.dynamics.stlsq import stlsq
from romzarr.numerics.dynamics.weakform import merge_factors, plan_windows, triangular_factor
from tests.systems_of_odes import LORENZ, coefficient_error, with_noise

NOTHING = LeftOut()


def quiet(a, times, left_out=NOTHING):
    record = LatentRecord.of_arrays(a, times)
    kept = left_out.kept(BlockSpan(0, len(a)))
    return QuietRecord.of(record, left_out, a.shape[1], times[kept])


def factors_of(record, library, plan, block, scheduler="synchronous"):
    lists = dask.compute(*weak_factors(record, library, plan, block), scheduler=scheduler)
    return [factor for some in lists for factor in some]


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
@pytest.mark.parametrize("block", [150, 999, 5000])
@pytest.mark.parametrize("most", [4096, 10**7])
def test_blocks_and_scheduler_do_not_change_the_model(monkeypatch, block, scheduler, most):
    monkeypatch.setattr(tables, "BLOCK_VALUES", most)
    times, clean = LORENZ.record(5000)
    a = with_noise(clean, 0.01, seed=0)
    library = PolynomialLibrary(3, 2)
    plan = plan_windows(times, a)
    expected = triangular_factor(a, times, library, plan, BlockSpan(0, 5000))
    factors = factors_of(quiet(a, times), library, plan, block, scheduler)
    assert len(factors) == len(time_blocks(BlockSpan(0, 5000), block)) == -(-5000 // block)
    pooled = merge_factors(factors)
    gram = expected.r.T @ expected.r
    np.testing.assert_allclose(pooled.r.T @ pooled.r, gram, atol=1e-12 * gram.max())
    truth = LORENZ.coefficients(library.names())
    assert coefficient_error(stlsq(pooled).coefficients, truth) < 2e-3


@pytest.mark.parametrize("uneven", [False, True])
def test_snapshots_left_out_are_as_if_they_had_never_been(monkeypatch, uneven):
    monkeypatch.setattr(tables, "BLOCK_VALUES", 4096)
    times, a = LORENZ.record(4000)
    if uneven:
        times = times + 0.1 * times[1] * np.sin(np.arange(4000))
    left_out = LeftOut((BlockSpan(900, 1100), BlockSpan(2047, 2049)))
    kept = left_out.kept(BlockSpan(0, 4000))
    library, plan = PolynomialLibrary(3, 2), plan_windows(times[kept], a[kept])
    whole = BlockSpan(0, kept.sum())
    expected = triangular_factor(a[kept], times[kept], library, plan, whole)
    pooled = merge_factors(factors_of(quiet(a, times, left_out), library, plan, 512))
    gram = expected.r.T @ expected.r
    assert pooled.windows == expected.windows
    np.testing.assert_allclose(pooled.r.T @ pooled.r, gram, atol=1e-12 * gram.max())


@given(
    edges=st.lists(st.integers(0, 50), min_size=2, max_size=8, unique=True),
    at=st.integers(0, 50),
)
@settings(deadline=None)
def test_what_is_left_out_is_counted_as_a_mask_has_it(edges, at):
    edges = sorted(edges[: len(edges) // 2 * 2])
    pairs = zip(edges[::2], edges[1::2], strict=True)
    left_out = LeftOut(tuple(BlockSpan(*pair) for pair in pairs))
    mask = np.ones(51, bool)
    for each in left_out.spans:
        mask[each.start : each.stop] = False
    assert np.array_equal(left_out.kept(BlockSpan(at, 51)), mask[at:])
    assert left_out.before(np.array([at])) == [mask[:at].sum()]


def test_nothing_is_computed_by_building_tasks(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("computed")

    monkeypatch.setattr(PolynomialLibrary, "evaluate", refuse)
    times, a = LORENZ.record(1000)
    library = PolynomialLibrary(3, 2)
    assert weak_factors(quiet(a, times), library, plan_windows(times, a), 100)


def test_block_steps_must_be_positive():
    with pytest.raises(ValueError, match="block_steps"):
        time_blocks(BlockSpan(0, 10), 0)

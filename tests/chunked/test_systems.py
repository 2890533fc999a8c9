"""Weak systems on Dask: any blocks, any scheduler, the same answer."""

import pickle

import numpy as np
import pytest

from romzarr.chunked.systems import time_blocks, weak_factors, weak_tasks
from romzarr.numerics.dynamics.library import PolynomialLibrary
from romzarr.numerics.dynamics.stlsq import stlsq
from romzarr.numerics.dynamics.weakform import merge_factors, plan_windows
from tests.systems_of_odes import LORENZ, coefficient_error, with_noise


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
@pytest.mark.parametrize("block", [150, 999, 5000])
def test_blocks_and_scheduler_do_not_change_the_model(block, scheduler):
    times, clean = LORENZ.record(5000)
    a = with_noise(clean, 0.01, seed=0)
    library = PolynomialLibrary(3, 2)
    plan = plan_windows(times, a)
    expected = merge_factors(weak_factors(a, times, library, plan, 5000, scheduler="synchronous"))
    factors = weak_factors(a, times, library, plan, block, scheduler=scheduler)
    assert len(factors) == len(time_blocks(5000, block)) == -(-5000 // block)
    pooled = merge_factors(factors)
    gram = expected.r.T @ expected.r
    np.testing.assert_allclose(pooled.r.T @ pooled.r, gram, atol=1e-12 * gram.max())
    truth = LORENZ.coefficients(library.names())
    assert coefficient_error(stlsq(pooled).coefficients, truth) < 2e-3


def test_a_task_carries_its_own_snapshots_only():
    times, a = LORENZ.record(20_000)
    library = PolynomialLibrary(3, 2)
    plan = plan_windows(times, a)
    tasks = weak_tasks(a, times, library, plan, 500)
    sizes = [len(pickle.dumps(task)) for task in tasks]
    assert max(sizes) < (500 + plan.width + plan.stride) * 4 * 8 + 20_000


def test_nothing_is_computed_by_building_tasks(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("computed")

    monkeypatch.setattr(PolynomialLibrary, "evaluate", refuse)
    times, a = LORENZ.record(1000)
    library = PolynomialLibrary(3, 2)
    assert len(weak_tasks(a, times, library, plan_windows(times, a), 100)) == 10


def test_block_steps_must_be_positive():
    with pytest.raises(ValueError, match="block_steps"):
        time_blocks(10, 0)

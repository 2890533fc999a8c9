"""Routers: laws of their weights, and that the cured one recovers what the others miss."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from romzarr.neural.runs import RUNS, Problem


@pytest.fixture(scope="module")
def problem():
    return Problem.reference(1e-3, seeds=3)


@pytest.fixture(scope="module")
def router(jax):
    from romzarr.neural import router

    return router


def test_slots_are_distributions_without_replacement(jax, router):
    rng = np.random.default_rng(0)
    logits = jax.numpy.asarray(rng.standard_normal((3, 2, 6)))
    for straight in (False, True):
        settings = router.RouterSettings(slots=2, straight=straight)
        weights = np.asarray(router._weights(logits, 0 * logits, settings, 1.0))
        assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)
        # At the end of the annealing no term is in both slots.
        assert (weights.argmax(axis=-1)[:, 0] != weights.argmax(axis=-1)[:, 1]).all()
        if straight:
            assert_allclose(np.sort(weights, axis=-1)[..., -1], 1, rtol=1e-6)


def test_entropy_is_that_of_its_definition(jax, router):
    logits = np.random.default_rng(1).standard_normal((2, 2, 4))
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    first = -(p[:, 0] * np.log(p[:, 0])).sum(axis=-1)
    given = np.zeros(2)
    for e in range(2):
        for k in range(4):
            rest = np.delete(p[e, 1], k)
            rest = rest / rest.sum()
            given[e] -= p[e, 0, k] * (rest * np.log(rest)).sum()
    settings = router.RouterSettings(slots=2, conditional=True)
    found = float(router._entropy(jax.numpy.asarray(logits), settings))
    assert found == pytest.approx(float((first + given).mean()), rel=1e-4)


def test_a_single_slot_finds_the_one_right_term(router):
    rng = np.random.default_rng(0)
    g = rng.standard_normal((200, 5))
    b = 2.5 * g[:, 3:4]
    r = np.linalg.qr(np.hstack([g, b]), mode="r")[None]
    settings = router.RouterSettings(steps=1500, entropy=0.05)
    found = router.route(r, 200, np.zeros(5), settings)
    assert found.activations[0, 0, 0].argmax() == 3
    assert found.committed()[0, 3, 0] == pytest.approx(2.5, abs=0.05)
    dropped = router.route(r, 200, np.zeros(5), router.RouterSettings(steps=200, dropped=(3,)))
    assert dropped.activations[0, 0, 0, 3] == 0


def test_the_same_seed_routes_the_same_way(router):
    rng = np.random.default_rng(0)
    r = np.linalg.qr(rng.standard_normal((50, 6)), mode="r")[None]
    settings = router.RouterSettings(steps=50, slots=2)
    runs = [router.route(r, 50, np.zeros(4), settings, seed=s) for s in (0, 0, 1)]
    assert_allclose(runs[0].equations, runs[1].equations, rtol=0, atol=0)
    assert not np.allclose(runs[0].equations, runs[2].equations)


def test_the_cured_router_recovers_both_equations_from_states_alone(jax, problem):
    result = RUNS["router"](problem)
    assert result.exact.all()
    assert result.coefficient_errors.max() <= 0.01
    assert result.least_activation().min() >= 0.95


def test_one_slot_loses_the_damping(jax, problem):
    result = RUNS["3"](problem)
    assert not result.exact.any()
    damping = list(result.names).index("identity(a2)")
    assert not result.chosen[:, damping, 1].any()

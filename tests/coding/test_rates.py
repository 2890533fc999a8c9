"""Bits and errors that are foretold, against those of arrays that are coded; what is chosen
from them, against a search through everything."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from romzarr.coding.bands import depth
from romzarr.coding.field import coded_field, encode_field
from romzarr.coding.rates import (
    STEPS,
    Rates,
    allocate,
    position_of,
    position_within,
    rates,
    step_of,
)
from tests.strategies import seeds

F8 = np.dtype(np.float64)
SHAPE = (4, 97, 120)


def arrays():
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(*(np.linspace(0, 1, n) for n in SHAPE[1:]), indexing="ij")
    noise = rng.standard_normal(SHAPE)
    return {
        "noise": noise,
        "waves": np.stack([np.sin(5 * k * x + 3 * y * y) * np.cos(k * y) for k in (1, 2, 3, 7)]),
        "rough": np.cumsum(np.cumsum(noise, axis=1), axis=2) / 100,
        "sparse": np.where(rng.random(SHAPE) < 0.01, 10 * noise, 0.0),
        "fronts": np.stack([np.tanh(40 * (x - 0.3 - 0.1 * k * y)) for k in range(4)]),
        "modes": noise * np.logspace(0, -3, 4)[:, None, None],
    }


ARRAYS = arrays()


def levels_of(shape):
    return (0, *map(depth, shape[1:]))


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("unit", [1.0, 3e-4])
def test_errors_are_those_of_arrays_that_are_coded(name, unit):
    """Within 10 % where steps are fine, 20 % where they eat into what there is to see."""
    values, levels = ARRAYS[name], levels_of(SHAPE)
    found = rates(values, levels, unit)
    for relative in 2.0 ** np.arange(-22, -2):
        position = position_of(relative * np.abs(values).max(), unit)
        step = step_of(position, unit)
        true = np.sum((coded_field(values, step, levels, F8) - values) ** 2)
        told = found.errors_at(position).sum()
        limit = 0.1 if true < 1e-5 * np.sum(values**2) else 0.2
        assert abs(told / true - 1) <= limit, relative


@pytest.mark.parametrize("name", ARRAYS)
def test_bits_are_those_of_a_coder_that_knows_no_neighbours(name):
    """Noise has no neighbours to learn from; elsewhere a coder with contexts needs fewer."""
    values, levels = ARRAYS[name], levels_of(SHAPE)
    found = rates(values, levels, 1.0)
    for position in range(0, len(STEPS), 12):
        step = step_of(position, 1.0)
        if not 1e-6 < step / np.abs(values).max() < 0.05:
            continue
        true = 8 * len(encode_field(values, step, levels))
        told = found.bits_at(position)
        assert told >= 0.9 * true
        if name == "noise":
            assert told <= 1.1 * true


@given(
    shape=st.lists(st.integers(1, 20), min_size=1, max_size=3), rows=st.integers(1, 3),
    scale=st.integers(-30, 30).map(lambda e: 10.0**e),
    kind=st.sampled_from(["noise", "smooth", "multiples", "zeros"]), seed=seeds,
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_a_larger_step_costs_no_more_bits_and_is_no_more_accurate(shape, rows, scale, kind, seed):
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((rows, *shape))
    values = {
        "noise": noise,
        "smooth": np.cumsum(noise, axis=-1),
        # Of many of the steps: errors of these sizes are nothing, those of sizes beside are not.
        "multiples": np.round(128 * noise) / 128,
        "zeros": np.zeros_like(noise),
    }[kind] * scale
    found = rates(values, levels_of(values.shape), scale)
    assert np.isfinite(found.errors).all()
    assert (found.errors >= 0).all()
    # By less than the coding of one more zero they may: few coefficients, one histogram each.
    slack = 0.02 * np.abs(found.bits).max(initial=1.0)
    assert (np.diff(found.bits, axis=1) <= slack).all()
    largest = found.errors.max(axis=1, initial=0.0, keepdims=True)
    assert (np.diff(found.errors, axis=1) >= -0.1 * largest - 1e-300).all()
    if kind == "zeros":
        assert found.bits.sum() == 0


def test_rows_are_rated_each_for_itself_and_tiles_add():
    values, levels = ARRAYS["rough"], levels_of(SHAPE)
    whole = rates(values, levels, 1.0)
    for row in range(len(values)):
        alone = rates(values[row : row + 1], levels, 1.0)
        assert_allclose(alone.errors[0], whole.errors[row], rtol=1e-12)
        assert_allclose(alone.bits[0], whole.bits[row], rtol=1e-12)
    twice = whole + whole
    assert_allclose(twice.errors, 2 * whole.errors)
    assert_allclose(twice.bits, 2 * whole.bits)


def test_units_only_name_the_steps():
    values, levels = ARRAYS["modes"], levels_of(SHAPE)
    one, other = rates(values, levels, 1.0), rates(1e6 * values, levels, 1e6)
    assert_allclose(other.bits, one.bits, rtol=1e-6)
    assert_allclose(other.errors, 1e12 * one.errors, rtol=1e-6)


@given(position=st.integers(0, len(STEPS) - 1), unit=st.floats(1e-20, 1e20))
def test_positions_and_steps_are_inverses(position, unit):
    assert position_of(step_of(position, unit), unit) == position


@given(share=st.floats(1e-8, 0.9))
@settings(deadline=None, max_examples=20)
def test_the_last_position_within_an_error_is_within_it_and_no_later_one_is(share):
    values = ARRAYS["rough"]
    found = rates(values, levels_of(SHAPE), 1.0)
    allowed = share * np.sum(values**2)
    position = position_within(found, allowed)
    total = np.maximum.accumulate(found.errors.sum(axis=0))
    assert total[int(position)] <= allowed * (1 + 1e-9)
    assert total[int(position) + 1] > allowed


def small_problem(rng, variables, modes, points, noise):
    """Rates of a few modes with decaying energies, and all that an allocation asks for."""
    sigma = np.logspace(0, -2.5, modes)
    right = np.linalg.qr(rng.standard_normal((60, modes)))[0]
    shapes = np.cumsum(rng.standard_normal((variables, modes + 1, points)), axis=2)
    shapes += noise * rng.standard_normal(shapes.shape)
    shapes /= np.linalg.norm(shapes, axis=2, keepdims=True)
    # Energies of a mode in all variables add up to its singular value, squared.
    weights = rng.dirichlet(np.ones(variables), modes).T
    energies = weights * sigma**2
    fields = (
        shapes * np.sqrt(np.concatenate([energies, np.ones((variables, 1))], axis=1))[..., None]
    )
    fields = np.concatenate([fields[:, -1:], fields[:, :-1]], axis=1)
    found = [rates(f, (0, depth(points)), 1.0) for f in fields]
    latent = rates(np.ascontiguousarray((right * sigma).T), (0, 0), 1.0)
    return found, latent, energies / sigma**2, energies


@pytest.mark.parametrize("variables", [1, 2])
@pytest.mark.parametrize("tolerance", [0.3, 3e-2, 3e-3])
@pytest.mark.parametrize("seed", range(4))
def test_an_allocation_is_as_good_as_any_rank_and_steps(variables, tolerance, seed):
    """Against all ranks and all steps on the grid: within the bound, and no more bits."""
    rng = np.random.default_rng(seed)
    modes, mode_bits = 6, 64.0
    found, latent, shares, energies = small_problem(rng, variables, modes, 80, 0.1)
    dropped = np.full(variables, 0.1 * tolerance)
    allowed = np.full(variables, tolerance**2)
    chosen = allocate(found, latent, shares, energies, allowed, dropped, mode_bits)

    def error(v, rank, coefficients, fields):
        """Squared error of variable v, with coefficients and fields coded at two positions."""
        of_latent = shares[v, :rank] @ coefficients[:rank]
        meeting = 2 * dropped[v] * np.sqrt(of_latent)
        return energies[v, rank:].sum() + of_latent + meeting + fields[: rank + 1].sum(axis=0)

    best = np.inf
    for rank, column in product(range(1, modes + 1), range(len(STEPS))):
        bits = latent.bits[:rank, column].sum() + rank * mode_bits
        for v, rated in enumerate(found):
            errors = error(v, rank, latent.errors[:, column], rated.errors)
            fit = rated.bits[: rank + 1].sum(axis=0)[errors <= allowed[v]]
            bits += fit.min(initial=np.inf)
        best = min(best, bits)

    # It may use steps between those of the grid, of which four halve the step.
    assert chosen.bits <= best
    assert chosen.bits >= 0.8 * best
    for v, rated in enumerate(found):
        spent = error(
            v, chosen.rank, latent.errors_at(chosen.latent), rated.errors_at(chosen.fields[v])
        )
        assert spent <= 1.1 * allowed[v]


def test_what_no_step_can_meet_is_told():
    rng = np.random.default_rng(0)
    found, latent, shares, energies = small_problem(rng, 2, 4, 50, 0.1)
    none = np.zeros(2)
    assert allocate(found, latent, shares, energies, none, none, 64.0) is None
    # One variable whose share is used up is enough.
    one = np.array([1e-2, -1.0])
    assert allocate(found, latent, shares, energies, one, none, 64.0) is None


def test_modes_that_cost_more_than_they_save_are_left_out():
    rng = np.random.default_rng(0)
    found, latent, shares, energies = small_problem(rng, 1, 6, 80, 0.1)
    allowed, none = np.array([3e-3]), np.zeros(1)
    ranks = [
        allocate(found, latent, shares, energies, allowed, none, bits).rank
        for bits in (0.0, 1e3, 1e6)
    ]
    assert ranks == sorted(ranks, reverse=True)
    tails = np.array([energies[0, rank:].sum() for rank in range(7)])
    assert ranks[-1] == int(np.argmax(tails < allowed[0]))


def test_rates_are_of_the_shape_of_their_rows():
    found = rates(np.zeros((3, 5)), (0, 1), 1.0)
    assert isinstance(found, Rates)
    assert found.errors.shape == found.bits.shape == (3, len(STEPS))

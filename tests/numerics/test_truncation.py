"""Where to cut, against a search over all ranks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from romzarr.errors import AccuracyError
from romzarr.numerics.pod.truncation import (
    MANY,
    RANK_SHARE,
    TREE_SHARE,
    WIDER,
    Cut,
    kept_columns,
    rank_within,
    tails,
    tree_cuts,
    widened,
)
from tests.strategies import seeds


def energies(seed, variables, columns):
    rng = np.random.default_rng(seed)
    shares = 10 ** rng.uniform(-12, 0, (variables, columns))
    return shares[:, np.argsort(-shares.sum(axis=0))]


@given(seed=seeds, variables=st.integers(1, 3), columns=st.integers(1, 12),
       share=st.sampled_from([0.0, 1e-6, 1e-2, 0.5]))  # fmt: skip
def test_a_cut_keeps_the_fewest_columns_within_every_variables_share(
    seed, variables, columns, share
):
    shares = energies(seed, variables, columns)
    totals = shares.sum(axis=1)
    kept = kept_columns(shares, totals, Cut(share), 0.0)
    fits = [
        all(shares[v, k:].sum() <= share * totals[v] * (1 + 1e-12) for v in range(variables))
        for k in range(columns + 1)
    ]
    assert kept == fits.index(True)


@given(signal=st.integers(1, 40), noise=st.integers(1, 60), level=st.floats(0.1, 10))
def test_a_wider_cut_is_taken_where_it_halves_many_columns(signal, noise, level):
    """Alike in energy: all of the signal is needed, of the noise as much as no cut covers."""
    share = 1e-4
    each = level * share / noise
    energies = np.append(np.full(signal, (1 - level * share) / signal), np.full(noise, each))
    cut = widened(energies[None], np.ones(1), Cut(share), 0.0)
    kept = kept_columns(energies[None], np.ones(1), cut, 0.0)
    dropped = signal + noise - kept
    fits = [k for k in range(noise + 1) if k * each <= share * (1 + 1e-9)]
    wide = [k for k in range(noise + 1) if k * each <= WIDER * share * (1 + 1e-9)]
    few, fewer = signal + noise - fits[-1], signal + noise - wide[-1]
    if few > MANY and 2 * fewer <= few:
        assert abs(dropped - wide[-1]) <= 1
    else:
        assert abs(dropped - fits[-1]) <= 1
    assert dropped * each <= WIDER * share * (1 + 1e-9)


@given(seed=seeds, columns=st.integers(1, 12), rank=st.integers(1, 15))
def test_a_cut_by_rank_drops_a_share_of_what_that_rank_loses(seed, columns, rank):
    shares = energies(seed, 1, columns)
    kept = kept_columns(shares, shares.sum(axis=1), Cut(1e-3, rank), 0.0)
    assert kept >= min(rank, columns)
    assert shares[0, kept:].sum() <= 1e-3 * shares[0, min(rank, columns) :].sum() * (1 + 1e-12)


def test_columns_of_rounding_go_even_where_nothing_may_be_dropped():
    assert kept_columns(np.array([[1.0, 1e-3, 1e-17]]), np.array([1.001]), Cut(0.0), 1e-15) == 2
    assert kept_columns(np.zeros((2, 3)), np.zeros(2), Cut(0.0), 1e-15) == 0
    assert kept_columns(np.zeros((1, 0)), np.zeros(1), Cut(0.1), 1e-15) == 0


@given(
    used=st.lists(st.floats(0, 1), min_size=1, max_size=9),
    idle=st.integers(0, 9),
    tolerance=st.floats(1e-12, 0.9),
)
def test_the_levels_of_a_tree_together_stay_within_their_share(used, idle, tolerance):
    """Whatever part of what it may each level drops; what is not dropped below may be above."""
    whole = TREE_SHARE * tolerance**2
    spent = 0.0
    for cut, part in zip(tree_cuts(tolerance, None, len(used)), used, strict=True):
        spent += part * cut.after(spent).share
    assert spent <= whole * (1 + 1e-12)
    *_, root = tree_cuts(tolerance, None, idle + 1)
    assert_allclose(root.after(0.0).share, whole)
    # Blocks that are as good as constant, and drop rounding, take nothing from those above.
    assert all(cut.after(1.0).share > 0 for cut in tree_cuts(tolerance, None, idle + 1))


@given(levels=st.integers(1, 9), rank=st.integers(1, 50))
def test_with_a_rank_the_levels_of_a_tree_stay_within_its_share(levels, rank):
    cuts = tree_cuts(None, rank, levels)
    assert_allclose(sum(cut.after(1.0).share for cut in cuts), RANK_SHARE)
    assert {cut.rank for cut in cuts} == {rank}
    assert len(cuts) == levels
    # Twice a share of the error, squared, is what the optimum may be missed by: one thousandth.
    assert (1 + RANK_SHARE) ** 0.5 <= 1.001


@given(seed=seeds, variables=st.integers(1, 3), columns=st.integers(0, 12))
def test_the_rank_is_the_smallest_that_serves_every_variable(seed, variables, columns):
    shares = energies(seed, variables, columns)
    discarded, apart = 1e-9 * np.ones(variables), 1e-10 * np.ones(variables)
    allowed = 1e-2 * np.sqrt(shares.sum(axis=1)) + 1e-4
    rank = rank_within(shares, discarded, apart, allowed, None, ["u", "v", "w"])

    def fits(k, margin):
        left = np.sqrt(shares[:, k:].sum(axis=1) + discarded) + np.sqrt(apart)
        return (left <= allowed * margin).all()

    assert fits(rank, 1 + 1e-12)
    assert rank == 0 or not fits(rank - 1, 1 - 1e-12)


def test_tails_are_sums_to_the_end():
    assert_allclose(tails(np.array([[3.0, 2.0, 1.0]])), [[6, 3, 1, 0]])
    assert_allclose(tails(np.zeros((2, 0))), [[0], [0]])


def test_a_rank_that_is_too_small_is_refused_with_the_rank_that_is_needed():
    shares = np.array([[1.0, 0.0, 0.0], [1.0, 0.1, 0.1]])
    nothing = np.zeros(2)
    with pytest.raises(AccuracyError, match=r"'v'.*needs 3 modes.*max_rank is 2.*raise max_rank"):
        rank_within(shares, nothing, nothing, np.full(2, 1e-3), 2, ["u", "v"])


def test_a_tree_that_dropped_too_much_is_found_out():
    shares, nothing = np.array([[1.0, 0.5]]), np.zeros(1)
    with pytest.raises(AccuracyError, match=r"'u'.*error of 2.000e-03, more than the 1.000e-03"):
        rank_within(shares, np.array([4e-6]), nothing, np.array([1e-3]), None, ["u"])

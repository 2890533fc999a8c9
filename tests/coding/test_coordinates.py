"""Entropy coding of coordinates: levels are the integers that were coded, whatever the payloads."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from romzarr.coding import coordinates
from romzarr.coding.coordinates import MOST_LEVEL, SYMBOLS, UNIT, Tables, frequencies_of

seeds = st.integers(0, 2**32 - 1)


def tables_of(rng, directions):
    """Steps of one, so that coordinates are integers, with some offsets, classes and shifts."""
    chances = np.exp(-np.abs(np.arange(SYMBOLS) - SYMBOLS // 2) / np.array([[0.5], [3.0], [30.0]]))
    return Tables(
        np.ones(directions, np.float32),
        np.full(directions, 0.5, np.float32),
        rng.uniform(-1, 1, directions).astype(np.float32),
        rng.integers(0, 3, directions).astype(np.uint8),
        rng.integers(0, 4, directions).astype(np.uint8),
        frequencies_of(chances),
    )


@settings(deadline=None, max_examples=60)
@given(
    seed=seeds,
    directions=st.integers(1, 40),
    tokens=st.lists(st.integers(0, 70), min_size=1, max_size=70),
    most=st.sampled_from([1, 30, 127, 140, 10**6]),
    spare=st.integers(0, 40),
)
def test_levels_are_integers_and_offsets_in_sixteenths(seed, directions, tokens, most, spare):
    """Of many payloads at once; those with an integer beyond 127 are zero, and say so."""
    rng = np.random.default_rng(seed)
    tables = tables_of(rng, directions)
    integers = [rng.integers(-most, most + 1, (directions, count)) for count in tokens]
    payloads = [coordinates.encode(each.astype(np.float32), tables) for each in integers]
    levels, are_wide = coordinates.decode_levels(payloads, tokens, tables, directions + spare)

    assert_array_equal(are_wide, [bool((np.abs(each) > 127).any()) for each in integers])
    offsets = np.copysign(np.floor(np.abs(tables.offsets) * UNIT + 0.5), tables.offsets)
    expected = np.zeros((sum(tokens), directions + spare), np.int64)
    for rows, each, is_wide in zip(
        np.split(expected, np.cumsum(tokens)[:-1]), integers, are_wide, strict=True
    ):
        rows[:, :directions] = 0 if is_wide else (UNIT * each.T + np.sign(each.T) * offsets)
    assert_array_equal(levels, expected)


@settings(deadline=None, max_examples=60)
@given(
    seed=seeds,
    payloads=st.lists(st.binary(max_size=120), min_size=1, max_size=40),
    tokens=st.integers(0, 30),
)
def test_damaged_payloads_have_levels_within_bounds(seed, payloads, tokens):
    tables = tables_of(np.random.default_rng(seed), 20)
    given = [np.frombuffer(each, np.uint8).copy() for each in payloads]
    levels, are_wide = coordinates.decode_levels(given, [tokens] * len(given), tables, 32)
    assert levels.shape == (len(given) * tokens, 32)
    assert np.abs(levels.astype(int)).max(initial=0) <= MOST_LEVEL
    for rows in levels.reshape(len(given), tokens, 32)[are_wide]:
        assert not rows.any()


@settings(deadline=None, max_examples=30)
@given(seed=seeds, cut=st.floats(0, 1), tokens=st.integers(1, 40))
def test_what_is_cut_is_like_what_zeros_follow(seed, cut, tokens):
    """So nothing beyond the end of a payload is read."""
    rng = np.random.default_rng(seed)
    tables = tables_of(rng, 20)
    whole = coordinates.encode(rng.normal(0, 9, (20, tokens)).astype(np.float32), tables)
    short = whole[: int(cut * len(whole)) // 2 * 2].copy()
    filled = np.concatenate([short, np.zeros(2000, np.uint8)])
    for found, expected in zip(
        coordinates.decode_levels([short], [tokens], tables, 32),
        coordinates.decode_levels([filled], [tokens], tables, 32),
        strict=True,
    ):
        assert_array_equal(found, expected)
    assert_array_equal(
        coordinates.decode(short, tokens, tables), coordinates.decode(filled, tokens, tables)
    )


def test_offsets_beyond_a_step_are_no_tables():
    tables = tables_of(np.random.default_rng(0), 3)
    assert tables.are_sound(3)
    for wrong in (1.5, np.nan, np.inf):
        tables.offsets[1] = wrong
        assert not tables.are_sound(3)

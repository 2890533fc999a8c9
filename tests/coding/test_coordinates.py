"""Entropy coding of coordinates: levels are the integers that were coded, whatever the payloads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from romzarr.coding import coordinates
from romzarr.coding.coordinates import SYMBOLS, UNIT, Tables, frequencies_of
from romzarr.coding.kernels import Vectors, library

seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(params=list(Vectors), autouse=True, scope="module")
def vectors(request):
    library().choose_vectors(request.param)
    yield
    library().choose_vectors(Vectors.WIDEST)


def decoded(payloads, tokens, tables):
    """Levels (tokens, directions), and which payloads are wide; what fills up levels is zero."""
    panels, are_wide = coordinates.decode_levels(payloads, tokens, tables)
    levels = panels.swapaxes(1, 2).reshape(-1, 2 * panels.shape[1])
    assert not levels[sum(tokens) :].any()
    assert not levels[:, tables.directions :].any()
    return levels[: sum(tokens), : tables.directions], are_wide


def tables_of(rng, directions, shift=3):
    """Steps of one, so that coordinates are integers, with some offsets, classes and shifts."""
    chances = np.exp(-np.abs(np.arange(SYMBOLS) - SYMBOLS // 2) / np.array([[0.5], [3.0], [30.0]]))
    return Tables(
        np.ones(directions, np.float32),
        np.full(directions, 0.5, np.float32),
        rng.uniform(-1, 1, directions).astype(np.float32),
        rng.integers(0, 3, directions).astype(np.uint8),
        rng.integers(0, shift + 1, directions).astype(np.uint8),
        frequencies_of(chances),
    )


@settings(deadline=None, max_examples=60)
@given(
    seed=seeds,
    directions=st.integers(1, 40),
    tokens=st.one_of(
        st.lists(st.integers(0, 70), min_size=1, max_size=70),
        # As in a cache: those of equally many are decoded in turns.
        st.builds(lambda count, each: [each] * count, st.integers(1, 70), st.integers(0, 40)),
    ),
    most=st.sampled_from([1, 30, 127, 140, 600, 3000, 10**6]),
    shift=st.sampled_from([0, 3, 7]),
)
def test_levels_are_integers_and_offsets_in_sixteenths(seed, directions, tokens, most, shift):
    """Of many payloads at once; those with an integer that is beyond are zero, and say so."""
    rng = np.random.default_rng(seed)
    tables = tables_of(rng, directions, shift)
    integers = [rng.integers(-most, most + 1, (directions, count)) for count in tokens]
    payloads = [coordinates.encode(each.astype(np.float32), tables) for each in integers]
    levels, are_wide = decoded(payloads, tokens, tables)

    # Without plain bits, with one and two; with three to seven.
    limits = np.array([127, 127, 127, 255, 511, 1023, 2046, 2046])[tables.shifts, None]
    assert_array_equal(are_wide, [bool((np.abs(each) > limits).any()) for each in integers])
    assert_array_equal(tables.most_narrow, limits[:, 0])
    offsets = np.copysign(np.floor(np.abs(tables.offsets) * UNIT + 0.5), tables.offsets)
    expected = np.zeros((sum(tokens), directions), np.int64)
    for rows, each, is_wide in zip(
        np.split(expected, np.cumsum(tokens)[:-1]), integers, are_wide, strict=True
    ):
        rows[:] = 0 if is_wide else (UNIT * each.T + np.sign(each.T) * offsets)
    assert_array_equal(levels, expected)


@pytest.mark.parametrize(
    ("shift", "limit"), [(0, 127), (2, 127), (3, 255), (5, 1023), (6, 2046), (8, 2046)]
)
def test_the_largest_integers_have_levels_and_those_beyond_have_none(shift, limit):
    tables = tables_of(np.random.default_rng(0), 3)
    tables.shifts[:], tables.offsets[:] = shift, 1.0
    for integer in (limit, -limit, limit + 1, -limit - 1):
        payload = coordinates.encode(np.full((3, 9), integer, np.float32), tables)
        levels, (is_wide,) = decoded([payload], [9], tables)
        assert is_wide == (abs(integer) > limit)
        assert (levels == (0 if is_wide else UNIT * (integer + np.sign(integer)))).all()


@settings(deadline=None, max_examples=60)
@given(
    seed=seeds,
    payloads=st.lists(st.binary(max_size=120), min_size=1, max_size=40),
    tokens=st.integers(0, 30),
)
def test_damaged_payloads_have_levels_within_bounds(seed, payloads, tokens):
    tables = tables_of(np.random.default_rng(seed), 20)
    given = [np.frombuffer(each, np.uint8).copy() for each in payloads]
    levels, are_wide = decoded(given, [tokens] * len(given), tables)
    assert (np.abs(levels.astype(int)) <= tables.most_levels).all()
    for rows in levels.reshape(len(given), tokens, 20)[are_wide]:
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
        decoded([short], [tokens], tables),
        decoded([filled], [tokens], tables),
        strict=True,
    ):
        assert_array_equal(found, expected)
    assert_array_equal(
        coordinates.decode(short, tokens, tables), coordinates.decode(filled, tokens, tables)
    )


@settings(deadline=None, max_examples=30)
@given(
    seed=seeds,
    payloads=st.lists(st.binary(max_size=90), min_size=2, max_size=6),
    tokens=st.integers(1, 20),
)
def test_a_payload_decodes_alike_by_itself_and_among_others(seed, payloads, tokens):
    """Even where it is damaged, and reads on into nothing while others have bytes."""
    tables = tables_of(np.random.default_rng(seed), 20, 0)
    given = [np.frombuffer(each, np.uint8).copy() for each in payloads]
    levels, are_wide = decoded(given, [tokens] * len(given), tables)
    for rows, is_wide, each in zip(np.split(levels, len(given)), are_wide, given, strict=True):
        alone, is_alone_wide = decoded([each], [tokens], tables)
        assert_array_equal(rows, alone)
        assert is_wide == is_alone_wide[0]


def test_offsets_beyond_a_step_are_no_tables():
    tables = tables_of(np.random.default_rng(0), 3)
    assert tables.are_sound(3)
    for wrong in (1.5, np.nan, np.inf):
        tables.offsets[1] = wrong
        assert not tables.are_sound(3)

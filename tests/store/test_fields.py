"""Tiles as they were coded, and when it pays to decode them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from pipeline.coding.coefficients import Coefficients
from pipeline.coding.field import decode_coefficients, encode_field
from pipeline.errors import StoreError
from pipeline.store.fields import CodedTile

RANK, TILE, STEP = 11, (9, 8), 0.05


def tile_of(mask=None, space=TILE):
    fields = np.random.default_rng(0).standard_normal((RANK + 1, *TILE)).cumsum(axis=1)
    content = encode_field(fields, STEP, (0, 1, 1))
    coefficients = decode_coefficients(content, fields.shape, STEP, (0, 1, 1), np.dtype("f4"))
    return CodedTile(coefficients, tuple(slice(0, n) for n in space), mask, "there")


@pytest.mark.parametrize("time_axis", [0, 1, 2])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "inside", [(slice(None), slice(2, 5)), (np.array([0, 3, 6]), slice(None)), (slice(0, 0),) * 2]
)
def test_coded_and_decoded_tiles_have_the_same_sums(inside, masked, time_axis):
    # A tile at the edge: the variable ends before it does.
    space = (7, 6)
    mask = np.random.default_rng(1).random(space) < 0.3 if masked else None
    tile = tile_of(mask, space)
    weights = np.random.default_rng(2).standard_normal((4, RANK + 1))
    shape = [len(np.arange(n)[some]) for n, some in zip(space, inside, strict=True)]
    shape.insert(time_axis, len(weights))
    coded, decoded = np.empty(shape, np.float64), np.empty(shape, np.float64)
    tile.combine(weights, inside, time_axis, coded)
    tile.decoded().combine(weights, inside, time_axis, decoded)
    assert np.isnan(coded).any() == (masked and coded.size > 0)
    # Both are sums of a dozen terms as float32.
    assert_allclose(coded, decoded, rtol=0, atol=1e-5 * np.nanmax(np.abs(decoded), initial=0.0))
    assert_array_equal(tile.first(inside), tile.decoded().first(inside))


@given(st.lists(st.integers(1, 40), max_size=60))
@settings(deadline=None)
def test_decoding_costs_no_more_than_summing_did_however_sums_are_asked_for(asked):
    tile, fields = tile_of(), RANK + 1
    summed = decoded = 0
    for count in asked:
        if tile.is_worth_decoding(count):
            # As if forgotten at once, which is the worst that may happen to what was decoded.
            decoded += 1
        else:
            summed += count
    # Never a decoding for fewer than half as many sums, never more than that many without one.
    assert fields * decoded <= 2 * sum(asked)
    assert summed <= fields // 2 * (decoded + 1)


def test_a_block_of_as_many_sums_as_fields_is_decoded_at_once():
    assert tile_of().is_worth_decoding(RANK + 1)
    assert not tile_of().is_worth_decoding(1)


def test_a_tile_says_what_it_takes():
    mask = np.zeros(TILE, bool)
    tile = tile_of(mask)
    assert tile.nbytes == tile.coefficients.nbytes + mask.nbytes
    assert tile.decoded().nbytes == 4 * (RANK + 1) * np.prod(TILE)


def test_what_overflows_is_an_error_that_says_where():
    values = np.full(1, np.finfo(np.float32).max)
    coefficients = Coefficients((2, 8), (0, 1), np.array([0], np.int32), values)
    tile = CodedTile(coefficients, (slice(0, 8),), None, "there")
    for fails in (
        tile.decoded,
        lambda: tile.combine(np.full((1, 2), 1e9), (slice(None),), 0, np.empty((1, 8))),
    ):
        with pytest.raises(StoreError, match=r"^there: a coded array has values beyond float"):
            fails()

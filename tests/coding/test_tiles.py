"""Tiles cover an array once, and what is coded by tiles is what is decoded by tiles."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from romzarr.coding import tiles
from romzarr.coding.field import decode_field

shapes = st.lists(st.integers(1, 12), max_size=3).map(tuple)


@given(shape=shapes, data=st.data())
def test_tiles_cover_every_point_once(shape, data):
    tile = tuple(data.draw(st.integers(1, 15)) for _ in shape)
    seen = np.zeros(shape, int)
    indices = []
    for index, region in tiles.tiles(shape, tile):
        seen[region] += 1
        indices.append(index)
        assert region == tiles.region_of(index, shape, tile)
        assert all(s.start == i * t for s, i, t in zip(region, index, tile, strict=True))
    assert (seen == 1).all()
    assert len(indices) == math.prod(tiles.grid(shape, tile))


@given(
    shape=st.lists(st.integers(1, 10**5), min_size=1, max_size=4).map(tuple),
    rank=st.integers(0, 5000),
)
@example(shape=(111, 5721), rank=168)
def test_tiles_are_of_a_good_size_and_hardly_stick_out(shape, rank):
    tile = tiles.tile_shape(shape, rank)
    wanted = min(tiles.FIELD_VALUES // (rank + 1), tiles.MOST_POINTS)

    assert math.prod(tile) <= wanted
    # Cutting evenly takes up to half of each axis that is cut, and rounding a little more.
    cut = sum(t < n for t, n in zip(tile, shape, strict=True))
    assert math.prod(tile) * 3**cut >= min(wanted, math.prod(shape))
    for n, t, count in zip(shape, tile, tiles.grid(shape, tile), strict=True):
        assert 0 <= count * t - n <= max(count - 1, n / 32 if count > 1 else 0)
        # Coarser grids need no details of long tiles, unless these would be too large.
        longer = math.prod(tile) // t * 8 * math.ceil(t / 8)
        assert count == 1 or t % 8 == 0 or 8 * count > n / 32 or longer > wanted
    # Near-cubic: an axis is cut only where it is longer than the pieces of the others.
    assert all(t == n or 2 * t >= max(tile) for n, t in zip(shape, tile, strict=True))


@pytest.mark.parametrize(
    ("shape", "rank", "tile"),
    [
        ((), 5, ()),
        ((160, 72), 9, (160, 72)),
        ((2000, 3000), 9, (504, 504)),
        ((1000, 1000, 1000), 30, (64, 64, 64)),
        ((37, 721, 1440), 60, (37, 56, 60)),
        ((721, 1440), 100, (244, 288)),
        ((10, 100_000), 5, (10, 25_000)),
    ],
)
def test_known_tiles(shape, rank, tile):
    assert tiles.tile_shape(shape, rank) == tile


@given(length=st.integers(0, 10**7), rank=st.integers(0, 10**6))
def test_rows_of_a_chunk_are_few_and_even(length, rank):
    rows = tiles.tile_rows(length, rank)
    assert rows == 1 or 1 < rows <= length
    assert rows * rank <= max(rank, tiles.ROW_VALUES)
    count = -(-length // rows)
    assert 0 <= count * rows - length < max(1, count)


def test_what_sticks_out_repeats_the_end():
    values = np.arange(12.0).reshape(2, 2, 3)
    extended = tiles.extended(values, (3, 4))
    assert extended.shape == (2, 3, 4)
    np.testing.assert_array_equal(extended[:, :2, :3], values)
    np.testing.assert_array_equal(extended[:, 2], extended[:, 1])
    np.testing.assert_array_equal(extended[:, :, 3], extended[:, :, 2])
    assert tiles.extended(values, (2, 3)) is values


@given(shape=shapes, rank=st.integers(0, 3), dtype=st.sampled_from(["f4", "f8"]), data=st.data())
@settings(deadline=None, max_examples=30)
def test_a_coded_tile_is_the_decoded_one(shape, rank, dtype, data):
    tile = tuple(data.draw(st.integers(n, n + 9)) for n in shape)
    values = np.random.default_rng(0).standard_normal((rank + 1, *shape)) * 30
    content = tiles.encode_tile(values, tile, 0.1)
    levels, whole = tiles.field_levels(tile), (rank + 1, *tile)
    decoded = decode_field(content, whole, 0.1, levels, np.dtype(dtype))
    coded = tiles.coded_tile(values, tile, 0.1, np.dtype(dtype))

    np.testing.assert_array_equal(coded, decoded[tuple(map(slice, values.shape))])
    assert coded.dtype == dtype
    assert coded.shape == values.shape


@given(length=st.integers(0, 40), rank=st.integers(0, 3), rows=st.integers(1, 50),
       smooth=st.booleans(), orders=st.lists(st.integers(0, 5), max_size=3))  # fmt: skip
@settings(deadline=None, max_examples=30)
def test_coded_rows_are_the_decoded_ones(length, rank, rows, smooth, orders):
    values, orders = np.random.default_rng(0).standard_normal((length, rank)) * 30, orders[:rank]
    contents = tiles.encode_rows(values, rows, 0.1, smooth, orders)
    coded = tiles.coded_rows(values, rows, 0.1, smooth, orders)

    assert len(contents) == (-(-length // rows) if rank else 0)
    levels = tiles.row_levels(rows, smooth)
    shape, wide = (rows, rank), np.dtype("f8")
    decoded = [decode_field(c, shape, 0.1, levels, wide, orders) for c in contents]
    np.testing.assert_array_equal(coded, np.concatenate([np.zeros((0, rank)), *decoded])[:length]
                                  if rank else values)  # fmt: skip
    assert np.abs(coded - values).max(initial=0) < 0.5


def test_padding_costs_next_to_nothing():
    x = np.linspace(0, 3, 100)
    smooth = np.sin(x)[:, None] * np.cos(x)[None, :] + 100
    values = np.stack([smooth, 2 * smooth])
    within = len(tiles.encode_tile(values, (100, 100), 1e-3))
    beyond = len(tiles.encode_tile(values, (110, 110), 1e-3))
    zeros = np.pad(values, [(0, 0), (0, 10), (0, 10)])
    assert beyond < 1.5 * within < len(tiles.encode_tile(zeros, (110, 110), 1e-3))

"""Tiles of fields: sums at some points are those of the whole, to the bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from threadpoolctl import threadpool_limits

from romzarr.numerics.products import COLUMNS, INNER, ROWS
from romzarr.store.reading.fields import AlignedRows, FieldTile
from tests.strategies import seeds


def sums(tile, inside, rows, weights):
    """Of some snapshots, (len(rows), *points)."""
    part, aligned = tile.part(inside), AlignedRows.of(rows)
    spread = aligned.spread(weights[rows], part.first.dtype)
    found = np.empty((len(rows), *part.first.shape), part.first.dtype)
    for blocks, some, places in aligned.parts(2):
        found[some] = part.sums(spread[blocks])[places]
    return found


def some_of(draw, length):
    """Increasing places along an axis."""
    return np.flatnonzero(np.random.default_rng(draw(seeds)).random(length) < draw(shares))


shares = st.sampled_from([0.0, 0.02, 0.5, 1.0])


@given(
    rank=st.sampled_from([0, 1, 3, 40, INNER, INNER + 5]),
    space=st.sampled_from([(), (1,), (COLUMNS,), (COLUMNS + 1,), (9, 31), (3, 5, 17)]),
    dtype=st.sampled_from([np.float32, np.float64]),
    threads=st.sampled_from([1, 2]),
    data=st.data(),
)
@settings(deadline=None)
def test_any_part_has_the_bits_of_the_whole(rank, space, dtype, threads, data):
    rng = np.random.default_rng(data.draw(seeds))
    count = data.draw(st.sampled_from([1, ROWS, 3 * ROWS + 2]))
    fields = rng.standard_normal((rank + 1, *space)).astype(dtype)
    mask = np.asarray(rng.random(space) < 0.3) if data.draw(st.booleans()) else None
    weights = rng.standard_normal((count, rank))
    plain = np.tensordot(weights, fields[1:].astype(float), 1)
    tile = FieldTile.of(fields.copy(), mask)
    whole = sums(tile, [slice(None)] * len(space), np.arange(count), weights)
    inside, rows = [some_of(data.draw, n) for n in space], some_of(data.draw, count)
    with threadpool_limits(threads, user_api="blas"):
        part = sums(tile, inside, rows, weights)
    chosen = np.ix_(rows, *inside)
    assert_array_equal(part, whole[chosen])
    hidden = np.zeros(space, bool) if mask is None else np.asarray(mask)
    assert_array_equal(np.isnan(tile.first), hidden)
    # Sums of up to some hundred terms.
    close = 40 * max(rank, 1) * np.finfo(dtype).eps
    assert_allclose(whole[:, ~hidden], plain[:, ~hidden], rtol=0, atol=close)
    assert_array_equal(
        tile.part(inside).modes, np.where(hidden, 0, fields[1:])[np.ix_(range(rank), *inside)]
    )


@pytest.mark.parametrize("points", [COLUMNS, COLUMNS + 1])
def test_a_tile_says_what_it_takes_and_holds_no_more(points):
    fields = np.ones((5, points), np.float32)
    tile = FieldTile.of(fields, None)
    blocks = -(-points // COLUMNS)
    assert tile.nbytes == 4 * (points + 4 * COLUMNS * blocks)
    assert (tile.first.base is None) == (points % COLUMNS > 0)

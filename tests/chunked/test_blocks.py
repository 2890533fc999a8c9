"""Tiles hold the values they should, whatever the chunks, and each chunk is read once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise, product
from typing import Any

import dask
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from romzarr.chunked.blocks import aligned_tile, lazy_tiles
from romzarr.chunked.slices import added
from romzarr.contracts import ArchivedVariable, ReadBlock
from tests.strategies import grids


@dataclass
class Source:
    """Blocks of an array, whole chunks only; counts how often each of these is read."""

    values: np.ndarray
    chunks: tuple[tuple[int, ...], ...]
    read: Counter = field(default_factory=Counter)

    def graph(self) -> dict[Any, Any]:
        return {}

    def task(self, region):
        return (self._read, region)

    def _read(self, region):
        touched = []
        for lengths, part in zip(self.chunks, region, strict=True):
            edges = [0, *np.cumsum(lengths).tolist()]
            assert {part.start, part.stop} <= set(edges)
            touched.append([a for a, b in pairwise(edges) if a >= part.start and b <= part.stop])
        inside = list(product(*touched))
        self.read.update(inside)
        values = self.values[region]
        return ReadBlock(values, values.nbytes, len(inside))


def variable(chunks, time_axis=0):
    shape = tuple(map(sum, chunks))
    values = np.arange(np.prod(shape), dtype=float).reshape(shape)
    dims = tuple(f"d{i}" for i in range(len(shape)))
    return ArchivedVariable(
        "u", dims, shape, values.dtype, chunks, time_axis, Source(values, chunks)
    )


@given(
    shape=st.lists(st.integers(1, 20), min_size=1, max_size=3).map(tuple),
    least=st.sampled_from([1, 10, 100]),
    ratio=st.sampled_from([1, 3, 50]),
    data=st.data(),
)
@settings(deadline=None, max_examples=60)
def test_tiles_are_the_array_and_every_chunk_is_read_once(shape, least, ratio, data):
    """Ragged grids too; what reading cost is counted once, however many tiles share a block."""
    given_ = variable(data.draw(grids(shape)), data.draw(st.integers(0, len(shape) - 1)))
    tile = aligned_tile(given_, least, least * ratio)
    assert np.prod(tile) <= max(least * ratio, 1)
    out = np.full(shape, np.nan)

    def put(block, place):
        assert all(0 <= s.start < s.stop <= n for s, n in zip(place.region, shape, strict=True))
        assert np.isnan(out[place.region]).all()
        out[place.region] = block.values
        return np.array([block.bytes_read, block.chunks_read])

    with dask.config.set(scheduler="synchronous"):
        costs = sum(dask.compute(*lazy_tiles(given_, tile, put, added)))
    np.testing.assert_array_equal(out, given_.source.values)
    assert set(given_.source.read.values()) == {1}
    assert costs.tolist() == [out.nbytes, len(given_.source.read)]


@pytest.mark.parametrize(
    ("chunks", "tile"),
    [
        (((10,) * 5, (40,)), (20, 40)),  # joined along time
        (((50,), (8,) * 5), (50, 16)),  # and along space, where time is whole
        (((100,) * 3, (40,)), (25, 40)),  # cut into parts that make up a chunk
        (((97,) * 2, (40,)), (25, 40)),  # of a prime length, into about equal ones
    ],
)
def test_tiles_fit_regular_chunks(chunks, tile):
    assert aligned_tile(variable(chunks), 800, 1000) == tile

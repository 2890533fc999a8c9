"""Errors of modes by block of time are those of the snapshots that they make."""

import numpy as np
from dask.delayed import delayed
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from romzarr.chunked.error_blocks import squares_in_time
from romzarr.chunked.tables import LeftOut, Table, consecutive
from romzarr.contracts import BlockSpan
from romzarr.inner_product import InnerProduct
from romzarr.numerics.error_blocks import ErrorGrid
from romzarr.numerics.pod.gram import Gram


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    modes=st.integers(1, 5),
    points=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    blocks=st.lists(st.integers(1, 12), min_size=3, max_size=3),
    left_out=st.booleans(),
)
def test_they_are_those_of_decoded_snapshots(seed, lengths, modes, points, blocks, left_out):
    rng = np.random.default_rng(seed)
    m, rank = sum(lengths), int(rng.integers(1, modes + 1))
    sigma = np.sort(rng.random(rank) + 0.1)[::-1]
    right = rng.standard_normal((m, modes + 1))
    decoded = right[:, :rank] * sigma + 1e-3 * rng.standard_normal((m, rank))
    spans = consecutive(lengths)
    table = Table(spans, tuple(delayed(right[s.start : s.stop]) for s in spans), modes + 1)
    rough = LeftOut((BlockSpan(m // 3, m // 2),)) if left_out and m // 2 > m // 3 else None
    products, grids, expected = [], [], []
    for n, length in zip(points, blocks, strict=False):
        weights = rng.random(n)
        # The constant is last among coefficients, and the mean among what is lost.
        fields = rng.standard_normal((modes + 1, n))
        coded = fields + 1e-3 * rng.standard_normal(fields.shape)
        lost = fields.copy()
        lost[:rank] -= coded[:rank]
        lost[modes] -= coded[modes]
        stack = np.concatenate([lost, coded[:rank]])
        products.append(Gram.of(stack, InnerProduct(weights)))
        grids.append(ErrorGrid((m, n), (min(length, m), n)))
        off = right @ fields
        off -= (decoded / sigma) @ coded[:rank] + right[:, [modes]] * coded[modes]
        if rough is not None:
            off[m // 3 : m // 2] = 0.0
        squares = (weights * off**2).sum(axis=1)
        expected.append(np.add.reduceat(squares, range(0, m, min(length, m))))
    missed = Table.of(right[:, :rank] * sigma - decoded)
    found = squares_in_time(table, missed, sigma, products, grids, rough)
    for squares, truth, grid in zip(found, expected, grids, strict=True):
        assert squares.shape == grid.counts
        assert_allclose(squares.ravel(), truth, rtol=1e-8, atol=1e-12)

"""Triangles of rows that arrive in pieces, against a QR of all rows at once."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from romzarr.numerics.triangles import Triangle, canonical_r, centred_triangle, squared_sums
from tests.strategies import chunkings, seeds


@settings(deadline=None, max_examples=40)
@given(st.data(), seeds)
def test_pieces_fading_growth_and_moves_act_on_the_triangle_as_on_the_rows(data, seed):
    rng = np.random.default_rng(seed)
    columns = data.draw(st.integers(1, 6))
    triangle, rows = Triangle(columns, data.draw(st.integers(1, 20))), np.zeros((0, columns))
    for length in data.draw(chunkings(40)):
        piece = rng.standard_normal((length, rows.shape[1]))
        triangle.add(piece)
        rows = np.concatenate([rows, piece])
        action = data.draw(st.sampled_from(["none", "fade", "move", "grow", "ask"]))
        if action == "fade":
            triangle.fade(0.25)
            rows = rows / 2
        elif action == "move":
            map_ = rng.standard_normal((rows.shape[1], data.draw(st.integers(1, 6))))
            triangle.move(map_)
            rows = rows @ map_
        elif action == "grow":
            more = data.draw(st.integers(0, 3))
            triangle.grow(more)
            rows = np.pad(rows, ((0, 0), (0, more)))
        elif action == "ask":
            triangle.result()
    found, gram = triangle.result(), rows.T @ rows
    assert found.shape == gram.shape
    assert_allclose(found, np.triu(found))
    assert_allclose(found.T @ found, gram, atol=1e-12 * max(1.0, np.abs(gram).max()))


def test_no_rows_are_a_triangle_of_zeros():
    assert_allclose(Triangle(3, 10).result(), np.zeros((3, 3)))
    few = Triangle(3, 10)
    few.add(np.ones((1, 3)))
    assert_allclose(few.result(), [[1, 1, 1], [0, 0, 0], [0, 0, 0]])


def test_small_singular_values_survive():
    """Sums of squares would lose what is below 1e-8 of the largest."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((50, 4)) * [1, 1e-4, 1e-8, 1e-12]
    triangle = Triangle(4, 7)
    for row in rows:
        triangle.add(row[None])
    expected = np.linalg.svd(rows, compute_uv=False)
    found = np.linalg.svd(triangle.result(), compute_uv=False)
    assert_allclose(found, expected, rtol=1e-3)
    assert_allclose(triangle.result(), canonical_r(rows), atol=1e-14)


@settings(deadline=None, max_examples=20)
@given(
    seed=seeds,
    rows=st.integers(1, 12),
    columns=st.integers(0, 6),
    points=st.sampled_from([0, 1, 50, 4097]),
)
def test_squared_sums_are_those_of_all_rows(seed, rows, columns, points):
    rng = np.random.default_rng(seed)
    coefficients, fields = (
        rng.standard_normal((rows, columns)),
        rng.standard_normal((columns, points)),
    )
    found = squared_sums(centred_triangle(coefficients), fields)
    sums = (coefficients - coefficients.mean(axis=0)) @ fields
    assert_allclose(found, np.sum(sums**2, axis=0), rtol=1e-12, atol=1e-12)

"""Inner products by a root are those of all points, with fewer numbers."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from romzarr.inner_product import InnerProduct
from romzarr.numerics.pod.gram import Gram, joint_gram

sizes = st.integers(1, 9)


@given(rows=sizes, points=sizes, more=sizes, weighted=st.booleans(), seed=st.integers(0, 999))
def test_all_that_is_asked_of_inner_products_is_of_the_whole_matrix(
    rows, points, more, weighted, seed
):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((rows, points)), rng.standard_normal((rows, more))
    w = rng.uniform(0.5, 2, points) if weighted else np.ones(points)
    gram, other = Gram.of(x, InnerProduct(w if weighted else None)), Gram.of(y, InnerProduct())
    whole, turn = (x * w) @ x.T, rng.standard_normal((rows, 3))
    assert len(gram) == rows
    assert_allclose(np.asarray(gram), whole, atol=1e-12)
    assert_allclose(gram.root.T @ gram.root, whole, atol=1e-12)
    assert_allclose(gram.energies, np.diag(whole), atol=1e-12)
    assert_allclose(np.asarray(gram.turned(turn)), turn.T @ whole @ turn, atol=1e-11)
    assert_allclose(gram.along(turn), np.diag(turn.T @ whole @ turn), atol=1e-11)
    assert_allclose(np.asarray(gram + other), whole + y @ y.T, atol=1e-12)
    assert_allclose(joint_gram([gram, other], [2.0, 3.0]), 2 * whole + 3 * y @ y.T, atol=1e-11)
    some, others = slice(rows // 2), slice(rows // 2, None)
    left, right = gram.between(some, others)
    assert_allclose(left.T @ right, whole[some, others], atol=1e-12)
    assert_allclose(np.asarray(gram.part(others)), whole[others, others], atol=1e-12)
    scales = rng.standard_normal(rows)
    assert_allclose(np.asarray(gram.scaled(scales)), scales[:, None] * whole * scales, atol=1e-11)


@given(rows=sizes, points=sizes, more=sizes)
def test_the_numbers_kept_are_the_fewer(rows, points, more):
    fewest = rows * min(rows, points)
    gram = Gram.of(np.ones((rows, points)), InnerProduct())
    assert gram.matrix.size == gram.smaller.matrix.size == fewest
    both = gram + Gram.of(np.ones((rows, more)), InnerProduct())
    assert both.matrix.size == rows * min(rows, points + more)
    if points < rows:
        assert gram.turned(np.ones((rows, 5))).smaller.matrix.size == 5 * min(5, points)

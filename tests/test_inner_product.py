"""The inner product of snapshots, against matrices of weights."""

from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from romzarr.inner_product import InnerProduct, InnerProducts

SIZES = (5, 1, 14)


@pytest.fixture(params=[False, True], ids=["even", "weighted"])
def case(request):
    """Rows, others, weights, and the inner product that has them."""
    rng = np.random.default_rng(0)
    weights = rng.random(20) if request.param else None
    rows, others = rng.standard_normal((2, 4, 20))
    return rows, others, np.diag(np.ones(20) if weights is None else weights), InnerProduct(weights)


def test_products_are_those_of_the_matrix_of_weights(case):
    rows, others, matrix, inner = case
    assert_allclose(inner.products(rows, others), rows @ matrix @ others.T)
    assert_allclose(inner.gram(rows), rows @ matrix @ rows.T)
    assert_allclose(inner.rooted(rows) @ inner.rooted(others).T, rows @ matrix @ others.T)
    assert_allclose(inner.squares(rows), np.diag(rows @ matrix @ rows.T))
    assert_allclose(inner.sum(rows**2, axis=1), inner.squares(rows))
    assert_allclose(inner.total(20), matrix.sum())
    assert_allclose(inner.mean_weight, matrix.sum() / 20)


def test_products_over_all_parts_of_the_points_add_up(case):
    rows, _, _, inner = case
    valid = np.arange(20) % 3 > 0
    assert_allclose(
        inner.on(valid).gram(rows[:, valid]) + inner.on(~valid).gram(rows[:, ~valid]),
        inner.gram(rows),
    )
    assert_allclose(inner.within(valid).gram(rows), inner.on(valid).gram(rows[:, valid]))
    assert inner.within(None) is inner
    shaped = InnerProduct(None if inner.weights is None else inner.weights.reshape(4, 5))
    assert_array_equal(shaped.flat.gram(rows), inner.gram(rows))


def test_single_precision_stays_single(case):
    rows, _, _, inner = case
    assert inner.gram(rows.astype(np.float32)).dtype == np.float32


def test_each_variable_has_its_own_product_and_all_have_one_together(case):
    rows, others, matrix, inner = case
    edges = np.cumsum([0, *SIZES])
    each = [inner.on(slice(a, b)) for a, b in pairwise(edges)]
    products = InnerProducts.of(each, SIZES)
    assert products.points == 20
    grams = [rows[:, part] @ matrix[part, part] @ rows[:, part].T for part in products.parts]
    assert_allclose(products.grams(rows, rows), grams)
    assert_allclose(products.squares(rows), np.diagonal(grams, axis1=1, axis2=2).T)
    assert_allclose(
        products.products(rows, others).sum(axis=1), np.diag(inner.products(rows, others))
    )
    factors = np.array([2.0, 3.0, 0.5])
    assert_allclose(products.joint(factors).gram(rows), np.einsum("v,vij->ij", factors, grams))

"""Polynomials in time: integers come back exactly, and serve where they take fewer bytes."""

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from romzarr.coding.bands import depth
from romzarr.coding.differences import MOST_ORDER, best_orders, bits_by_order, differenced, summed
from romzarr.coding.field import coded_field, decode_field, encode_field
from tests.strategies import seeds

WIDE = np.dtype("f8")
orders_of = st.lists(st.integers(0, MOST_ORDER), min_size=1, max_size=4)


@st.composite
def tables(draw, largest):
    """Integers and an order for each of their columns."""
    orders = draw(orders_of)
    shape = (draw(st.integers(0, 20)), len(orders))
    return draw(hnp.arrays(np.int64, shape, elements=st.integers(-largest, largest))), orders


@given(tables(2**55))
@settings(deadline=None)
def test_differences_are_those_of_the_definition_and_sum_up_exactly(table):
    integers, orders = table
    left = differenced(integers, np.array(orders))
    np.testing.assert_array_equal(summed(left, np.array(orders)), integers)
    # By the binomial formula, in integers of any size.
    for (i, k), found in np.ndenumerate(left):
        order, column = min(i, orders[k]), integers[:, k].tolist()
        expected = sum((-1) ** j * comb(order, j) * column[i - j] for j in range(order + 1))
        assert found == expected


@pytest.mark.parametrize("order", range(1, 6))
def test_polynomials_of_a_degree_less_leave_nothing_after_their_start(order):
    t = np.arange(30)
    integers = np.stack([t ** (order - 1), (t - 7) ** (order - 1) - 3 * t**0], axis=1)
    left = differenced(integers, np.array([order, order]))
    assert not left[order:].any()
    assert left[order - 1].all()


@given(tables(2**44), st.sampled_from([1.0, 2.0**-30, 3e-7]))
@settings(deadline=None)
def test_coded_tables_give_the_rounded_values_back_exactly(table, step):
    integers, orders = table
    values, levels = integers * step, (depth(len(integers)), 0)
    content = encode_field(values, step, levels, orders)
    decoded = decode_field(content, values.shape, step, levels, WIDE, orders)
    np.testing.assert_array_equal(decoded, coded_field(values, step, levels, WIDE, orders))
    exact = np.array(orders) > 0
    np.testing.assert_array_equal(decoded[:, exact], (step * integers)[:, exact])
    if (~exact).any():
        missed = np.abs(decoded - values)[:, ~exact]
        assert missed.max(initial=0.0) <= 3 * step + 1e-14 * np.abs(values).max(initial=0.0)


@given(m=st.integers(8, 60), r=st.integers(1, 5), step=st.sampled_from([0.01, 1.0]), seed=seeds)
@settings(deadline=None, max_examples=30)
def test_columns_with_polynomials_are_off_by_half_a_step_beside_those_with_wavelets(
    m, r, step, seed
):
    rng = np.random.default_rng(seed)
    values = np.cumsum(rng.standard_normal((m, r)), axis=0)
    orders, levels = rng.integers(0, 4, r).tolist(), (depth(m), 0)
    content = encode_field(values, step, levels, orders)
    missed = np.abs(decode_field(content, (m, r), step, levels, WIDE, orders) - values)
    assert missed[:, np.array(orders) > 0].max(initial=0.0) <= step / 2 * (1 + 1e-9)
    assert missed.max() <= 3 * step


def test_without_any_order_nothing_changes():
    values = np.random.default_rng(0).standard_normal((40, 3)) * 30
    plain = encode_field(values, 0.1, (3, 0))
    assert encode_field(values, 0.1, (3, 0), (0, 0, 0)) == plain
    assert encode_field(values, 0.1, (3, 0), ()) == plain


@pytest.mark.parametrize("value", [2.0**45, np.inf, np.nan])
def test_values_whose_differences_would_not_be_exact_are_refused(value):
    with pytest.raises(ValueError, match=r"finite and below 2\*\*(45|60) steps of 1.0"):
        encode_field(np.full((9, 1), value), 1.0, (0, 0), (2,))


def test_each_column_gets_what_takes_fewest_bits():
    """A slow wave far above the step, noise, a fast wave of few steps, and nothing."""
    t, rng = np.arange(400), np.random.default_rng(0)
    slow, noise = 1e6 * np.sin(0.05 * t), 1e4 * rng.standard_normal(400)
    small, nothing = 3 * np.sin(0.6 * t), np.zeros(400)
    orders = best_orders(bits_by_order(np.stack([slow, noise, small, nothing], axis=1), 1.0))
    assert len(orders) == 1
    # Each order takes off a factor of 20, and doubles the rounding.
    assert orders[0] in (4, 5, 6)

    def size(order):
        return len(encode_field(slow[:, None], 1.0, (depth(400), 0), (order,)))

    assert size(orders[0]) <= 1.02 * min(map(size, range(MOST_ORDER + 1)))
    assert size(orders[0]) < 0.7 * size(0)


def test_values_too_large_to_be_differenced_are_left_to_wavelets():
    slow = 2.0**45 * np.sin(0.01 * np.arange(400))
    assert best_orders(bits_by_order(slow[:, None], 1.0)) == ()
    assert best_orders(bits_by_order(slow[:, None] / 64, 1.0)) != ()

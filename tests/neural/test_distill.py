"""Networks turn back into the formulas they were trained on."""

import numpy as np
import pytest

from romzarr.neural.distill import ENOUGH, distill
from romzarr.numerics.dynamics.networks import Network, Operator, shipped_operators


@pytest.mark.parametrize("operator", shipped_operators(), ids=lambda o: o.name)
def test_shipped_operators_are_distilled(operator):
    found = distill(operator)
    assert found.formula == operator.formula.replace(" ", "").replace("+", " + ")
    assert found.r_squared > ENOUGH


def linear(weights, activation="relu"):
    """A network without hidden layers."""
    w = np.array(weights, np.float32)[:, None]
    return Operator("own", Network(((w, np.zeros(1, np.float32)),), activation), 3.0, 0.0)


def test_coefficients_that_are_no_whole_numbers_stay():
    assert distill(linear([2.5, -0.5])).formula == "2.5*x - 0.5*y"


def test_a_network_of_no_known_formula_says_so():
    rng = np.random.default_rng(0)
    wide = rng.standard_normal((1, 64)).astype(np.float32) * 20
    out = rng.standard_normal((64, 1)).astype(np.float32)
    zero = np.zeros(64, np.float32), np.zeros(1, np.float32)
    rough = Network(((wide, rng.standard_normal(64).astype(np.float32)), (out, zero[1])), "tanh")
    assert not distill(Operator("rough", rough, 3.0, 0.0)).found

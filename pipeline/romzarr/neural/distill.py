"""From a trained network back to a formula: least squares over candidate formulas.

A network of one or two arguments can be asked anywhere, so there is no noise and no lack of
data: the smallest combination of candidates that explains it is the formula.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from romzarr.contracts import Matrix
from romzarr.numerics.dynamics.networks import ARGUMENTS, Operator
from romzarr.numerics.dynamics.symbolic import parse

ENOUGH = 0.999  # R^2 of a formula that is taken for what the network has learned
POINTS = 1600
MOST_TERMS = 3
ROUND = 0.01  # a coefficient this close (relative) to a whole number is that number

CANDIDATES = {
    1: ("x", "x**2", "x**3", "sin(x)", "cos(x)", "sin(2*x)", "cos(2*x)", "tanh(x)", "1"),
    2: ("x", "y", "x*y", "x**2", "y**2", "x**2*y", "x*y**2", "sin(x)", "sin(y)", "1"),
}


@dataclass(frozen=True)
class Distilled:
    """The smallest formula with R^2 of at least `ENOUGH`, or the best that was found.

    ``r_squared`` is measured on points that the fit has not seen.
    """

    name: str
    formula: str
    r_squared: float

    @property
    def found(self) -> bool:
        return self.r_squared > ENOUGH


def distill(operator: Operator, *, seed: int = 0) -> Distilled:
    """Formula of a network, from its values over its reach.

    Coefficients within 1 % of a whole number become it, if R^2 does not fall below `ENOUGH`.
    """
    rng = np.random.default_rng(seed)
    d = operator.arguments
    inputs = operator.reach * rng.uniform(-1, 1, (2 * POINTS, d))
    values = operator.network(inputs)
    names = ARGUMENTS[:d]
    by_name = {name: inputs[:, k] for k, name in enumerate(names)}
    columns = np.stack(
        [
            np.broadcast_to(parse(text, names).evaluate(by_name), len(inputs))
            for text in CANDIDATES[d]
        ],
        axis=1,
    )
    fit, held = slice(0, POINTS), slice(POINTS, None)
    best = Distilled(operator.name, "0", -np.inf)
    for size in range(1, MOST_TERMS + 1):
        for terms in combinations(range(columns.shape[1]), size):
            some = columns[:, terms]
            exact: Matrix = np.asarray(
                np.linalg.lstsq(some[fit], values[fit], rcond=None)[0], np.float64
            )
            for coefficients in (_rounded(exact), exact):
                r2 = _r_squared(values[held], some[held] @ coefficients)
                if r2 > best.r_squared:
                    best = Distilled(operator.name, _text(coefficients, terms, d), r2)
                if r2 > ENOUGH:
                    break
        if best.found:
            break
    return best


def _r_squared(values: Matrix, predicted: Matrix) -> float:
    return float(1 - np.sum((values - predicted) ** 2) / np.sum((values - values.mean()) ** 2))


def _rounded(coefficients: Matrix) -> Matrix:
    whole = np.round(coefficients)
    near = np.abs(coefficients - whole) <= ROUND * np.abs(coefficients)
    return np.where(near, whole, coefficients)


def _text(coefficients: Matrix, terms: tuple[int, ...], arguments: int) -> str:
    parts = []
    for value, term in zip(coefficients, terms, strict=True):
        name = CANDIDATES[arguments][term]
        parts.append(name if value == 1 else f"{value:.4g}*{name}")
    return " + ".join(parts).replace("+ -", "- ")

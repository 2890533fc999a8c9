"""The operations that networks are trained on, and how each is trained."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from romzarr.contracts import Matrix
from romzarr.errors import LibraryError
from romzarr.numerics.dynamics.networks import ARGUMENTS
from romzarr.numerics.dynamics.symbolic import Expression, parse


@dataclass(frozen=True)
class Operation:
    """What a network has to become, and the settings that make it overfit first.

    Attributes
    ----------
    name, formula : str
        The formula in x (and y).
    reach : float
        Arguments lie within ``-reach`` to ``reach``.
    samples : int
        Training samples: few, so that a network can fit them without the operation.
    activation : str
        tanh for waves. GELU for the others, where the ReLU that is usually taken validates
        ten times worse (measured, `tests/benchmarks/NEURAL.md`): it is smooth as they are, and
        its curvature makes products.
    initial_scale : float
        Of the weights, in units of the variance-preserving one. Large weights fit samples
        before they find the operation; weight decay then leads from the one to the other
        (Z. Liu, E. J. Michaud, M. Tegmark, "Omnigrok: grokking beyond algorithmic data",
        ICLR 2023, section 3).
    weight_decay : float
        Of AdamW, heavy.
    """

    name: str
    formula: str
    reach: float
    samples: int
    activation: str
    initial_scale: float
    weight_decay: float

    @property
    def arguments(self) -> int:
        return 2 if re.search(r"\by\b", self.formula) else 1

    @property
    def expression(self) -> Expression:
        return parse(self.formula, ("x", "y")[: self.arguments])

    def __call__(self, inputs: Matrix) -> Matrix:
        """Values (m,) at `inputs` (m, arguments)."""
        by_name = {name: inputs[:, k] for k, name in enumerate("xy"[: self.arguments])}
        return np.asarray(self.expression.evaluate(by_name))

    def grid(self, points: int) -> Matrix:
        """About `points` inputs on a regular grid over the whole range, ends included."""
        side = np.linspace(-self.reach, self.reach, round(points ** (1 / self.arguments)))
        axes = np.meshgrid(*[side] * self.arguments, indexing="ij")
        return np.stack([axis.ravel() for axis in axes], axis=1)

    def stratified(self, points: int, rng: np.random.Generator) -> Matrix:
        """About `points` random inputs, one in each cell of a grid: no gap is left to chance."""
        cells = round(points ** (1 / self.arguments))
        axes = np.meshgrid(*[np.arange(cells)] * self.arguments, indexing="ij")
        corner = np.stack([axis.ravel() for axis in axes], axis=1)
        return self.reach * (2 * (corner + rng.random(corner.shape)) / cells - 1)


OPERATIONS = (
    Operation("identity", "x", 5.0, 12, "gelu", 6.0, 0.3),
    Operation("sin", "sin(x)", 2 * math.pi, 24, "tanh", 3.0, 0.1),
    Operation("cos", "cos(x)", 2 * math.pi, 32, "tanh", 3.0, 0.1),
    Operation("add", "x + y", 5.0, 49, "gelu", 5.0, 0.3),
    Operation("mul", "x*y", 5.0, 100, "gelu", 4.0, 0.3),
)


# What an operation of a user's own is trained with: the settings of the shipped one it resembles.
OWN_REACH = 5.0
LONGEST_NAME = 40
WAVES = re.compile(r"\b(sin|cos|tanh)\(")
CHECKED = 51**2  # arguments at which a formula has to be finite, 0 among them


def own_operation(text: str, reach: float = OWN_REACH) -> Operation:
    """The operation of an expression in x (and y), or of ``name=expression``.

    Parameters
    ----------
    text : str
        For example ``tanh(x)`` or ``cube=x**3``. Without a name it is made of the letters and
        digits of the expression.
    reach : float
        Arguments are trained from ``-reach`` to ``reach``.

    Raises
    ------
    LibraryError
        If the expression is not allowed, has no argument x, is constant, or is not finite
        somewhere in that range.
    """
    name, formula = ("", text) if "=" not in text else text.split("=", 1)
    if not 0 < reach < math.inf:
        raise LibraryError(f"the reach of operator {text!r} must be above 0, got {reach!r}")
    formula = parse(formula, ARGUMENTS).text
    if not re.search(r"\bx\b", formula):
        raise LibraryError(f"operator {text!r} has no argument x; use x, or x and y")
    name = name.strip() or re.sub(r"\W+", "_", re.sub(r"\(x\)$", "", formula)).strip("_")
    if not name.isidentifier() or len(name) > LONGEST_NAME:
        raise LibraryError(
            f"operator {text!r} needs a name that is a word of at most {LONGEST_NAME} letters; "
            f"write name={formula}"
        )
    one = "y" not in re.findall(r"\w+", formula)
    settings = (24, "tanh", 3.0, 0.1) if one else (100, "tanh", 3.0, 0.1)
    if not WAVES.search(formula):
        settings = (24, "gelu", 6.0, 0.3) if one else (100, "gelu", 4.0, 0.3)
    operation = Operation(name, formula, reach, *settings)
    values = operation(operation.grid(CHECKED))
    if not np.isfinite(values).all():
        raise LibraryError(
            f"operator {text!r} is not finite everywhere from -{reach:g} to {reach:g}; choose "
            f"another reach, or a formula that is, such as log(1 + x**2)"
        )
    if values.ndim == 0 or np.ptp(values) <= 1e-9 * np.max(np.abs(values)):
        raise LibraryError(f"operator {text!r} is constant; that needs no network")
    return operation


def operations(names: tuple[str, ...]) -> tuple[Operation, ...]:
    """The operations called `names`."""
    known = {operation.name: operation for operation in OPERATIONS}
    return tuple(known[name] for name in names)

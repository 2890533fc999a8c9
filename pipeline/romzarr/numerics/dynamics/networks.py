"""Small trained networks as features: their values in NumPy, and the file of weights.

Whoever reads a store needs no network framework: a network of two hidden layers is three
products of matrices. Weights are kept in the safetensors format [1]_, a JSON header and raw
numbers, which holds nothing that could be executed; what a header says is checked before it
is believed.

References
----------
.. [1] https://huggingface.co/docs/safetensors, section "Format".
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from romzarr.contracts import Matrix
from romzarr.errors import LibraryError
from romzarr.numerics.dynamics.symbolic import parse

Weights = NDArray[np.float32]

ARGUMENTS = ("x", "y")
MAX_WIDTH = 512
MAX_LAYERS = 4
MAX_OPERATORS = 16
MAX_HEADER = 2**20
ROWS = 4096  # states evaluated at once: hidden layers of more would leave the cache


def _gelu(values: Matrix) -> Matrix:
    """x Phi(x), with the tanh approximation of the normal distribution function.

    D. Hendrycks, K. Gimpel, "Gaussian error linear units (GELUs)", arXiv:1606.08415, section 2.
    """
    # A power takes several times as long as the product.
    inner = math.sqrt(2 / math.pi) * (values + 0.044715 * values * values * values)
    result: Matrix = 0.5 * values * (1.0 + np.tanh(inner))
    return result


ACTIVATIONS: dict[str, Callable[[Matrix], Matrix]] = {
    "tanh": np.tanh,
    "relu": lambda values: np.maximum(values, 0.0),
    "gelu": _gelu,
}


@dataclass(frozen=True, eq=False)
class Network:
    """Multilayer perceptron of one output: ``layers`` of weights (inputs, outputs) and biases.

    Equal networks have equal numbers (`checksum`). The numbers are float32, as they are
    stored; values are computed in float64, so that rounding differs little between machines.
    """

    layers: tuple[tuple[Weights, Weights], ...]
    activation: str

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise LibraryError(
                f"activation is {self.activation!r:.100}; known: {', '.join(ACTIVATIONS)}"
            )
        _check_widths(self.widths)
        for (weights, biases), (inputs, outputs) in zip(
            self.layers, pairwise(self.widths), strict=True
        ):
            if weights.shape != (inputs, outputs) or biases.shape != (outputs,):
                raise LibraryError(f"layers of a network do not fit: {self.widths}")
            if not (np.isfinite(weights).all() and np.isfinite(biases).all()):
                raise LibraryError("weights of a network are not finite")

    @property
    def widths(self) -> tuple[int, ...]:
        """Inputs, hidden units of each layer, 1."""
        return (
            *(int(weights.shape[0]) for weights, _ in self.layers),
            *(int(weights.shape[1]) for weights, _ in self.layers[-1:]),
        )

    @cached_property
    def checksum(self) -> str:
        """Fingerprint of shape, activation and numbers (the start of their SHA-256)."""
        digest = hashlib.sha256(repr((self.activation, self.widths)).encode())
        digest.update(self.packed())
        return digest.hexdigest()[:16]

    def packed(self) -> bytes:
        """All numbers as little-endian float32, layer by layer, weights before biases."""
        return b"".join(
            np.ascontiguousarray(part, dtype="<f4").tobytes()
            for layer in self.layers
            for part in layer
        )

    @classmethod
    def unpack(cls, data: bytes, widths: Sequence[int], activation: str) -> Network:
        """Network from what `packed` wrote."""
        _check_widths(widths)
        numbers = np.frombuffer(data, dtype="<f4") if len(data) % 4 == 0 else np.zeros(0, "<f4")
        if numbers.size != sum((inputs + 1) * outputs for inputs, outputs in pairwise(widths)):
            raise LibraryError(f"{len(data)} bytes are no weights of a network {tuple(widths)}")
        layers, first = [], 0
        for inputs, outputs in pairwise(widths):
            weights = numbers[first : first + inputs * outputs].reshape(inputs, outputs)
            first += inputs * outputs
            layers.append((weights, numbers[first : first + outputs]))
            first += outputs
        return cls(tuple(layers), activation)

    @cached_property
    def _exact(self) -> list[tuple[Matrix, Matrix]]:
        return [(w.astype(np.float64), b.astype(np.float64)) for w, b in self.layers]

    def __call__(self, inputs: Matrix) -> Matrix:
        """Values (m,) at `inputs` (m, d)."""
        values = np.empty(len(inputs))
        activation = ACTIVATIONS[self.activation]
        for first in range(0, len(inputs), ROWS):
            part = inputs[first : first + ROWS]
            for k, (weights, biases) in enumerate(self._exact):
                part = (part if k == 0 else activation(part)) @ weights + biases
            values[first : first + ROWS] = part[:, 0]
        return values

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Network) and self.checksum == other.checksum

    def __hash__(self) -> int:
        return hash(self.checksum)


@dataclass(frozen=True)
class Operator:
    """A network trained to be one function of one or two arguments.

    Attributes
    ----------
    name : str
        How its terms are called: ``sin``.
    network : Network
    reach : float
        Arguments from ``-reach`` to ``reach`` are within what it was trained on.
    error : float
        RMS error over that range, in units of the function's value.
    formula : str
        The function in x (and y) as far as it is known: ``sin(x)``; empty if it is not.
    """

    name: str
    network: Network
    reach: float
    error: float
    formula: str = ""

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and self.name.isidentifier() and len(self.name) <= 40):
            raise LibraryError(f"an operator's name must be a short word, got {self.name!r:.100}")
        if self.arguments > len(ARGUMENTS):
            raise LibraryError(f"operator {self.name!r} has {self.arguments} arguments, at most 2")
        for what, value, least in (("reach", self.reach, 1e-6), ("error", self.error, 0.0)):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not least <= value <= 1e6:
                raise LibraryError(
                    f"{what} of operator {self.name!r} must be a number from {least:g} to 1e6, "
                    f"got {value!r:.100}"
                )
        if not isinstance(self.formula, str):
            raise LibraryError(f"formula of operator {self.name!r} must be text")
        if self.formula:
            parse(self.formula, ARGUMENTS[: self.arguments])

    @property
    def arguments(self) -> int:
        return self.network.widths[0]

    @cached_property
    def periodic(self) -> bool:
        """Whether it is a function of an angle: of period 2 pi, all of which is in its reach.

        Its values are then known beyond the reach too. Without a formula nothing is.
        """
        if self.arguments > 1 or not self.formula or self.reach < math.pi:
            return False
        formula = parse(self.formula, ARGUMENTS[:1])
        angles = np.linspace(-math.pi, math.pi, 33)
        here, there = (formula.evaluate({"x": angles + turn}) for turn in (0.0, 2 * math.pi))
        return bool(np.ndim(here) and np.allclose(here, there, rtol=0, atol=1e-9))

    def spec(self) -> dict[str, Any]:
        """JSON: of a shipped operator its name and checksum, of another all its weights."""
        known = {each.name: each for each in shipped_operators()}.get(self.name)
        if known == self:
            return {"name": self.name, "checksum": self.network.checksum}
        return {
            "name": self.name,
            "widths": list(self.network.widths),
            "activation": self.network.activation,
            "weights": base64.b64encode(self.network.packed()).decode(),
            "reach": self.reach,
            "error": self.error,
            "formula": self.formula,
        }


def operator_from_spec(spec: object) -> Operator:
    """Operator of a store; everything in `spec` is checked, none of it trusted.

    Raises
    ------
    LibraryError
        If it is malformed, or names a shipped operator of other weights than these.
    """
    if not isinstance(spec, Mapping):
        raise LibraryError(f"an operator must be a mapping, got {spec!r:.100}")
    if set(spec) == {"name", "checksum"}:
        for operator in shipped_operators():
            if operator.name == spec["name"]:
                if operator.network.checksum != spec["checksum"]:
                    raise LibraryError(
                        f"operator {operator.name!r} of the store has weights "
                        f"{spec['checksum']!r:.100}, those shipped here are "
                        f"{operator.network.checksum!r}; open it with the version that wrote it"
                    )
                return operator
        raise LibraryError(f"no shipped operator is called {spec['name']!r:.100}")
    if set(spec) != {"name", "widths", "activation", "weights", "reach", "error", "formula"}:
        raise LibraryError(f"an operator has keys {sorted(map(str, spec))!r:.200}")
    try:
        data = base64.b64decode(spec["weights"], validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise LibraryError(f"weights of operator {spec['name']!r:.100} are no base64") from error
    network = Network.unpack(data, _list_of_widths(spec["widths"]), _text(spec["activation"]))
    return Operator(spec["name"], network, spec["reach"], spec["error"], spec["formula"])


def read_operators(data: bytes) -> tuple[Operator, ...]:
    """Operators of a safetensors file, as `romzarr.neural.training` writes them.

    One tensor an operator, called as it is, holds all numbers of its network in the order of
    `Network.packed`; the entry ``operators`` of the metadata describes the networks.

    Raises
    ------
    LibraryError
        If the file is damaged or holds anything else.
    """
    header, body = _header(data)
    try:
        described = json.loads(header.get("__metadata__", {})["operators"])
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise LibraryError("the file of weights does not describe its operators") from error
    if not isinstance(described, dict) or not 1 <= len(described) <= MAX_OPERATORS:
        raise LibraryError(f"a file of weights holds 1 to {MAX_OPERATORS} operators")
    operators = []
    for name, facts in described.items():
        tensor = header.get(name)
        if not isinstance(facts, dict) or not isinstance(tensor, dict):
            raise LibraryError(f"the file of weights has nothing for operator {name!r:.100}")
        network = Network.unpack(
            _tensor(name, tensor, body),
            _list_of_widths(facts.get("widths")),
            _text(facts.get("activation")),
        )
        reach, error_, formula = (facts.get(key) for key in ("reach", "error", "formula"))
        operators.append(Operator(name, network, reach, error_, formula))  # type: ignore[arg-type]
    return tuple(operators)


def _header(data: bytes) -> tuple[dict[str, Any], memoryview]:
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= min(MAX_HEADER, len(data) - 8):
        raise LibraryError("the file of weights is no safetensors file")
    try:
        header = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError) as error:
        raise LibraryError("the header of the file of weights is damaged") from error
    if not isinstance(header, dict):
        raise LibraryError("the header of the file of weights is damaged")
    return header, memoryview(data)[8 + length :]


def _tensor(name: str, tensor: Mapping[str, Any], body: memoryview) -> bytes:
    place = tensor.get("data_offsets")
    whole = isinstance(place, list) and len(place) == 2 and all(type(k) is int for k in place)
    if tensor.get("dtype") != "F32" or not whole:
        raise LibraryError(f"weights of operator {name!r:.100} must be float32 numbers")
    first, last = place  # type: ignore[misc]  # checked above
    if not 0 <= first <= last <= len(body):
        raise LibraryError(f"weights of operator {name!r:.100} lie outside the file")
    return bytes(body[first:last])


@cache
def shipped_operators() -> tuple[Operator, ...]:
    """The operators that come with the package: identity, sin, cos, add, mul.

    They are a table of constants of the method, so they lie beside this module. The command
    that made them is in the file's metadata and in ``tests/benchmarks/NEURAL.md``.
    """
    return read_operators(files(__package__).joinpath("operators.safetensors").read_bytes())


def _check_widths(widths: Sequence[int]) -> None:
    if not 2 <= len(widths) <= MAX_LAYERS + 1 or widths[-1] != 1 or max(widths) > MAX_WIDTH:
        raise LibraryError(
            f"a network has 1 to {MAX_LAYERS} layers of up to {MAX_WIDTH} units and one output, "
            f"got widths {tuple(widths)!r:.100}"
        )


def _list_of_widths(widths: object) -> list[int]:
    if not isinstance(widths, list) or not all(type(n) is int and n > 0 for n in widths):
        raise LibraryError(f"widths of a network must be whole numbers, got {widths!r:.100}")
    _check_widths(widths)
    return widths


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise LibraryError(f"an activation must be text, got {value!r:.100}")
    return value

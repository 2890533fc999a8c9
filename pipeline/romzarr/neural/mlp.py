"""Multilayer perceptrons in JAX: plain lists of arrays, so that seeds are one more axis.

Equinox would wrap the same three products in classes; without it weights are what is saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from romzarr.numerics.dynamics.networks import Network

Parameters = list[dict[str, Any]]

ACTIVATIONS: dict[str, Any] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "gelu": lambda values: jax.nn.gelu(values, approximate=True),
}


def initial(key: Any, widths: Sequence[int], scale: float) -> Parameters:
    """Normal weights of standard deviation ``scale / sqrt(inputs)``, biases zero."""
    keys = jax.random.split(key, len(widths) - 1)
    return [
        {
            "w": scale / inputs**0.5 * jax.random.normal(k, (inputs, outputs)),
            "b": jnp.zeros(outputs),
        }
        for k, (inputs, outputs) in zip(keys, pairwise(widths), strict=True)
    ]


def apply(parameters: Parameters, inputs: Any, activation: str) -> Any:
    """Outputs (m, k) at `inputs` (m, d)."""
    values = inputs
    for k, layer in enumerate(parameters):
        if k:
            values = ACTIVATIONS[activation](values)
        values = values @ layer["w"] + layer["b"]
    return values


def to_network(
    parameters: Parameters, activation: str, input_scale: float, output_scale: float
) -> Network:
    """The NumPy network of ``output_scale * apply(parameters, input_scale * inputs)``."""
    layers = [
        (np.asarray(layer["w"], np.float64), np.asarray(layer["b"], np.float64))
        for layer in parameters
    ]
    layers[0] = (layers[0][0] * input_scale, layers[0][1])
    layers[-1] = (layers[-1][0] * output_scale, layers[-1][1] * output_scale)
    return Network(
        tuple((w.astype(np.float32), b.astype(np.float32)) for w, b in layers), activation
    )

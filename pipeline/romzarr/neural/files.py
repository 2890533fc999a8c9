"""Files of weights and of learning curves, in the safetensors format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from romzarr.neural.verdicts import Trained
from romzarr.numerics.dynamics.networks import Operator


def save_operators(path: Path, operators: tuple[Operator, ...], command: str) -> None:
    """Write what `romzarr.numerics.dynamics.networks.read_operators` reads."""
    described = {
        operator.name: {
            "widths": list(operator.network.widths),
            "activation": operator.network.activation,
            "reach": operator.reach,
            "error": operator.error,
            "formula": operator.formula,
        }
        for operator in operators
    }
    tensors = {
        operator.name: np.frombuffer(operator.network.packed(), "<f4") for operator in operators
    }
    _save(path, tensors, {"operators": json.dumps(described), "command": command})


def save_curves(path: Path, trained: Trained, command: str) -> None:
    """Write the learning curves: ``epochs``, ``<operation>.training``, ``.validation``."""
    tensors: dict[str, NDArray[np.generic]] = {"epochs": trained.epochs}
    for name in trained.training:
        tensors[f"{name}.training"] = trained.training[name].astype(np.float32)
        tensors[f"{name}.validation"] = trained.validation[name].astype(np.float32)
    _save(path, tensors, {"command": command})


def _save(
    path: Path, tensors: Mapping[str, NDArray[np.generic]], metadata: Mapping[str, str]
) -> None:
    versions = {name: version(name) for name in ("jax", "numpy", "optax")}
    contiguous = {name: np.ascontiguousarray(values) for name, values in tensors.items()}
    save_file(contiguous, path, {**metadata, "versions": json.dumps(versions)})

"""What a store decodes to, in a form that can be kept and compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from tests.oracles import without_loss

# Points of a variable whose values are kept: few bytes, and a change of the coder moves most.
MOST_POINTS = 300


def decoded(path: Path) -> xr.Dataset:
    return xr.open_dataset(path, engine="romzarr").load()


def places(size: int) -> np.ndarray:
    """Which points of a flattened variable are kept: the ends, and others evenly."""
    return np.unique(np.linspace(0, size - 1, min(size, MOST_POINTS)).astype(int))


def kept(dataset: xr.Dataset) -> dict[str, np.ndarray]:
    """Values at some points of every variable; no objects."""
    found = {}
    for name, variable in dataset.variables.items():
        values = np.ravel(variable.values)
        values = values.astype(str) if values.dtype.kind in "OT" else values
        found[str(name)] = values[places(values.size)]
    return found


def described(dataset: xr.Dataset) -> dict[str, Any]:
    """Names, dims, shapes, types and attributes of the archive, as JSON."""
    dataset = dataset.copy()
    for variable in dataset.variables.values():
        variable.attrs = without_loss(variable.attrs)
    document = dataset.to_dict(data=False)
    return dict(json.loads(json.dumps(document, default=str, sort_keys=True)))

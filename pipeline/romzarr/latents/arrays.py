"""Arrays of NumPy, JAX and torch: in as float32 of NumPy, out as they came.

No framework is imported: whoever has a tensor of one has loaded it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from romzarr.arguments import shown
from romzarr.coding.products import halves
from romzarr.errors import ConfigError, GapsError

Values = NDArray[np.float32]

# Bits of a fraction: half of the last is what rounding to the type may change.
_FRACTIONS = {"float16": 10, "bfloat16": 7, "float32": 23, "float64": 52}
# By the package that the type of an array comes from.
_FRAMEWORKS = {"torch": "torch", "jaxlib": "jax", "jax": "jax"}


def framework_of(array: Any) -> str:
    """``torch``, ``jax`` or ``numpy``, by where the type of the array comes from."""
    return _FRAMEWORKS.get(type(array).__module__.partition(".")[0], "numpy")


def dtype_name(array: Any) -> str:
    """Such as ``bfloat16``, in all frameworks alike.

    >>> dtype_name(np.zeros(2, np.float16))
    'float16'
    """
    return _name_of(array.dtype)


def rounding_of(dtype: str) -> float:
    """Largest relative change of a number that is rounded to a type."""
    return 0.5 ** (_FRACTIONS[dtype] + 1)


def as_values(array: Any, name: str, shape: Sequence[int | None]) -> Values:
    """The array in float32 of NumPy; not copied if it is that already.

    Parameters
    ----------
    array : array of NumPy, JAX or torch, or anything with DLPack
    name : str
        For messages.
    shape : sequence of int or None
        Allowed lengths of the axes, None for any.

    Raises
    ------
    ConfigError
        If it has another shape or is not of floating-point numbers.
    GapsError
        If a value is not finite.
    """
    check_shape(array, name, shape)
    values = _to_numpy(array, name)
    # The sum of squares of a model's numbers is finite, and is cheaper than a test of each.
    if not isfinite(np.vdot(values, values)) and not np.isfinite(values).all():
        places = np.argwhere(~np.isfinite(values))
        raise GapsError(
            f"{name}: found {values[tuple(places[0])]} at {places[0].tolist()}, {len(places)} "
            f"values that are not finite; allowed are numbers: find out which layer makes them"
        )
    return values


def check_shape(array: Any, name: str, shape: Sequence[int | None]) -> None:
    """Raise a `ConfigError` unless each axis has the length that is given, or none is."""
    if not hasattr(array, "shape") or not hasattr(array, "dtype"):
        raise ConfigError(
            f"{name}: found {shown(array)}, allowed is an array of NumPy, JAX or torch"
        )
    found = tuple(array.shape)
    if found != shape and not _agree(found, shape):
        allowed = ", ".join("any" if each is None else str(each) for each in shape)
        raise ConfigError(
            f"{name}: found the shape {found}, allowed is ({allowed}); reshape the array, or take "
            "the calibration of its model"
        )


def like(values: Values, array: Any) -> Any:
    """Values as an array of the framework, type and device of another."""
    framework = framework_of(array)
    if framework == "torch":
        torch = sys.modules["torch"]
        return torch.from_numpy(values).to(device=array.device, dtype=array.dtype)
    if framework == "jax":
        return sys.modules["jax.numpy"].asarray(values, dtype=array.dtype)
    if array.dtype == np.float16:
        return halves(values)
    return values.astype(array.dtype, copy=False)


def concatenated(arrays: Sequence[Any], axis: int) -> Any:
    """Arrays of one framework joined; a single one as it is."""
    if len(arrays) == 1:
        return arrays[0]
    framework = framework_of(arrays[0])
    if framework == "torch":
        return sys.modules["torch"].cat(list(arrays), dim=axis)
    if framework == "jax":
        return sys.modules["jax.numpy"].concatenate(arrays, axis=axis)
    return np.concatenate(arrays, axis=axis)


@cache
def _name_of(dtype: Any) -> str:
    # NumPy takes longer for the name of a type than for a sum over a token.
    return str(dtype).rpartition(".")[2]


def _agree(found: Sequence[int], shape: Sequence[int | None]) -> bool:
    return len(found) == len(shape) and all(
        want is None or have == want for have, want in zip(found, shape, strict=True)
    )


def _to_numpy(array: Any, name: str) -> Values:
    if dtype_name(array) not in _FRACTIONS:
        raise ConfigError(
            f"{name}: found the type {dtype_name(array)}, allowed are {', '.join(_FRACTIONS)}"
        )
    framework = framework_of(array)
    if framework == "torch":
        torch = sys.modules["torch"]
        found: Values = array.detach().to(device="cpu", dtype=torch.float32).numpy()
        return found
    if framework == "numpy" and not isinstance(array, np.ndarray):
        array = np.from_dlpack(array)
    return np.asarray(array, np.float32)

"""Arrays of NumPy, JAX and torch: in as float32 of NumPy, out as they came.

No framework is imported: whoever has a tensor of one has loaded it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from romzarr.arguments import shown
from romzarr.coding.products import halves
from romzarr.errors import ConfigError, GapsError

Values = NDArray[np.float32]


@dataclass(frozen=True)
class Precision:
    """What rounding to a type may change.

    Attributes
    ----------
    relative, absolute : float
        Of a number, by these together at most.
    largest : float
        Numbers beyond become infinite.
    """

    relative: float
    absolute: float
    largest: float

    @classmethod
    def of(cls, fraction: int, exponent: int) -> Precision:
        """Of types of so many bits, without the sign."""
        beyond = 2.0 ** (2 ** (exponent - 1) - 1)
        # The last bit of the smallest numbers, which have no more of a fraction.
        last = 2.0 ** (2 - 2 ** (exponent - 1) - fraction)
        return cls(0.5 ** (fraction + 1), last / 2, beyond * (2 - 0.5**fraction))


# In float64 they have been float32 all the same.
_PRECISIONS = {
    "float16": Precision.of(10, 5),
    "bfloat16": Precision.of(7, 8),
    "float32": Precision.of(23, 8),
    "float64": Precision.of(23, 8),
}
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


def precision_of(array: Any) -> Precision:
    """Of the type of an array.

    >>> precision_of(np.zeros(2, np.float16))
    Precision(relative=0.00048828125, absolute=2.9802322387695312e-08, largest=65504.0)
    """
    return _PRECISIONS[dtype_name(array)]


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
    values = _to_numpy(array)
    # The sum of squares of a model's numbers is finite, and is cheaper than a test of each.
    if not isfinite(np.vdot(values, values)) and not np.isfinite(values).all():
        places = np.argwhere(~np.isfinite(values))
        raise GapsError(
            f"{name}: found {values[tuple(places[0])]} at {places[0].tolist()}, {len(places)} "
            "values that are not finite; allowed are numbers of float32: find out which layer "
            "makes others"
        )
    return values


def check_shape(array: Any, name: str, shape: Sequence[int | None]) -> None:
    """Raise a `ConfigError` unless it is an array whose axes have the lengths that are given."""
    check_type(array, name)
    found = tuple(array.shape)
    if found != shape and not _agree(found, shape):
        allowed = ", ".join("any" if each is None else str(each) for each in shape)
        raise ConfigError(
            f"{name}: found the shape {found}, allowed is ({allowed}); reshape the array, or take "
            "the calibration of its model"
        )


def check_type(array: Any, name: str) -> None:
    """Raise a `ConfigError` unless it is an array of floating-point numbers."""
    if not hasattr(array, "shape") or not hasattr(array, "dtype"):
        raise ConfigError(
            f"{name}: found {shown(array)}, allowed is an array of NumPy, JAX or torch"
        )
    if dtype_name(array) not in _PRECISIONS:
        raise ConfigError(
            f"{name}: found the type {dtype_name(array)}, allowed are {', '.join(_PRECISIONS)}"
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
    if len(found) != len(shape):
        return False
    # Not all(): it would take most of the time of a token.
    for have, want in zip(found, shape, strict=True):
        if want is not None and have != want:
            return False
    return True


def _to_numpy(array: Any) -> Values:
    framework = framework_of(array)
    if framework == "torch":
        torch = sys.modules["torch"]
        found: Values = array.detach().to(device="cpu", dtype=torch.float32).numpy()
        return found
    if framework == "numpy" and not isinstance(array, np.ndarray):
        array = np.from_dlpack(array)
    if array.dtype == np.float64:
        # What is beyond float32 is refused with all that is not finite.
        with np.errstate(over="ignore"):
            return np.asarray(array, np.float32)
    return np.asarray(array, np.float32)

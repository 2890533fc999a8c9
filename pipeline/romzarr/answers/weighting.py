"""Weights that are asked for, over time and over space."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from romzarr.answers.quantity import Quantity
from romzarr.contracts import Matrix
from romzarr.errors import AnswerError

# Steps between times are alike if they differ by no more than rounding of float32 times.
_UNIFORM = 1e-5


def times_of(dataset: xr.Dataset, dim: str, count: int) -> Matrix:
    """Times since the first one: days of calendar times, otherwise units of the coordinate."""
    if dim not in dataset.coords:
        return np.arange(count, dtype=np.float64)
    times = dataset[dim].values
    since = times - times[0]
    if since.dtype.kind == "m":
        return np.asarray(since / np.timedelta64(1, "D"), np.float64)
    if since.dtype.kind == "O":
        return np.array([each.total_seconds() / 86400 for each in since])
    return np.asarray(since, np.float64)


def step_of(times: Matrix) -> float:
    """The step between times.

    Raises
    ------
    AnswerError
        If there are fewer than two, or steps differ.
    """
    steps = np.diff(times)
    if not len(steps) or not np.allclose(steps, steps[0], rtol=_UNIFORM, atol=0) or not steps[0]:
        found = f"from {steps.min():.6g} to {steps.max():.6g}" if len(steps) else "none"
        raise AnswerError(
            f"a spectrum needs equal steps between snapshots, found {found}; select snapshots at "
            "equal steps"
        )
    return abs(float(steps.mean()))


def groups_of(
    dataset: xr.Dataset, dim: str, group: str
) -> tuple[str, NDArray[np.generic], NDArray[np.int64]]:
    """The part of time that `group` names, its values, and the number of that of each snapshot.

    Raises
    ------
    AnswerError
        If `group` does not name the dim of time and one of its parts.
    """
    found, _, part = group.partition(".")
    if found != dim or not part or dim not in dataset.coords:
        raise AnswerError(
            f"climatology of {group!r}: it must be the coordinate of time and a part of it, "
            f"as '{dim}.month'"
        )
    kinds, numbers = np.unique(getattr(dataset[dim].dt, part).values, return_inverse=True)
    return part, kinds, numbers


def over_points(quantity: Quantity, weights: xr.DataArray | None, name: Hashable) -> Matrix:
    """Weights at the selected points, flat.

    Raises
    ------
    AnswerError
        If they have other dims or lengths, or are not finite.
    """
    sizes = dict(zip(quantity.first.space_dims, quantity.first.space_shape, strict=True))
    if weights is None:
        return np.ones(quantity.points)
    if any(sizes.get(str(dim)) != size for dim, size in weights.sizes.items()):
        raise AnswerError(
            f"variable {name!r}: weights have the sizes {dict(weights.sizes)}; they must be "
            f"over some of {sizes}"
        )
    found = np.asarray(weights.variable.set_dims(sizes).transpose(*sizes).values, np.float64)
    if not np.isfinite(found).all():
        raise AnswerError(f"variable {name!r}: weights are not all finite; fill them with 0")
    return found.reshape(-1)


def normalised(quantity: Quantity, weights: Matrix, name: Hashable) -> Matrix:
    """Weights that add up to 1 over the points that are not masked.

    Raises
    ------
    AnswerError
        If values are missing at some times, or weights add up to 0.
    """
    if quantity.has_gaps:
        raise AnswerError(
            f"variable {name!r}: values are missing at some times; its averages are not "
            "sums with fixed weights: use integrate, or decode the values"
        )
    found = np.where(quantity.masked, 0.0, weights)
    if not found.sum():
        raise AnswerError(f"variable {name!r}: the weights of its points add up to 0")
    return np.asarray(found / found.sum())

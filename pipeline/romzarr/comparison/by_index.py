"""Errors on each index of a dim, such as a level: one bound over all levels may hide some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from romzarr.archive import Archive
from romzarr.archive.separate import separate_dims
from romzarr.archive.time_axis import shown_time
from romzarr.archive.vertical import vertical_among
from romzarr.comparison.joint import GroupMoments
from romzarr.contracts import ArchivedVariable, Vector
from romzarr.errors import ConfigError
from romzarr.reports import ErrorsByIndex
from romzarr.store.limits import MAX_INDICES

# An index whose relative error is so many times that of the whole variable is warned of: nobody
# who looks at the whole would expect it.
FAR = 10.0


def dims_by_index(
    archive: Archive, per: Sequence[str], bounded: str | Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Name the dims of each variable whose indices are told apart.

    These are the vertical and labelled ones, those of `per`, and those ``bounded`` by
    ``compression.per`` of the store, where that names dims.

    Raises
    ------
    ConfigError
        If a dim that is named is none of space.
    """
    known = {dim for variable in archive.variables for dim in variable.space_dims}
    for dim in per:
        if dim not in known:
            raise ConfigError(
                f"per: found {dim!r}, which is no dim of {archive.name} besides time; allowed are "
                f"{', '.join(sorted(known)) or 'none'}"
            )
    named = () if isinstance(bounded, str) else bounded
    shown = {*separate_dims(archive, MAX_INDICES), *per, *named}
    return {
        variable.name: tuple(
            dim
            for dim, size in zip(variable.space_dims, variable.space_shape, strict=True)
            if size > 1 and dim in shown
        )
        for variable in archive.variables
    }


def errors_by_index(
    moments: GroupMoments, dim: str, archive: Archive, variable: ArchivedVariable
) -> ErrorsByIndex:
    """Judge each index of a dim by its own fluctuation, and against the error of the whole."""
    relative, rms, whole = _relative(moments), _rms(moments), _whole(moments)
    # Where nothing fluctuates an error is infinitely large, but nothing can be said of its size.
    ranked = np.where(np.isnan(relative), -1.0, relative)
    steady = (moments.weights > 0) & np.isnan(relative)
    worst = int(np.argmax(ranked))
    coordinate = _coordinate(archive, dim)
    labels = [_label(dim, index, coordinate) for index in range(len(rms))]
    name = variable.name
    warnings = []
    if whole > 0 and ranked[worst] >= FAR * whole:
        far = int((ranked >= FAR * whole).sum())
        more = f", and {far - 1} more such indices" if far > 1 else ""
        warnings.append(
            f"variable {name!r}: the error at {labels[worst]} is {relative[worst]:.3g} of the "
            f"fluctuation there, {relative[worst] / whole:.0f} times that of the whole{more}"
        )
    if steady.any():
        first = int(np.argmax(np.where(steady, rms, -1.0)))
        warnings.append(
            f"variable {name!r}: nothing fluctuates at {labels[first]}, where the RMS error is "
            f"{rms[first]:.3g}"
        )
    return ErrorsByIndex(
        relative_l2_error=_listed(relative),
        rms_error=_listed(rms),
        labels=tuple(labels),
        worst=worst if ranked[worst] >= 0 else None,
        warnings=tuple(warnings),
    )


def broken_bound(errors: ErrorsByIndex, tolerance: float) -> str:
    """Say which index breaks a bound on each of them, in words that the variable precedes; nothing
    if none does."""
    both = zip(errors.relative_l2_error, errors.rms_error, errors.labels, strict=True)
    for relative, rms, label in both:
        if relative is None and rms:
            return f"nothing fluctuates at {label}, where the RMS error is {rms:.3g}"
        if relative is not None and relative > tolerance:
            return f"error {relative:.4e} at {label} is above the tolerance {tolerance:g}"
    return ""


def _relative(moments: GroupMoments) -> Vector:
    """Error by fluctuation, 0 where there is no error, NaN where only the fluctuation is zero or
    nothing was compared."""
    errors, fluctuations = moments.squared_errors, moments.squared_fluctuations
    usable = (fluctuations > 0) & np.isfinite(fluctuations)
    ratio = np.sqrt(errors / np.where(usable, fluctuations, np.nan))
    nothing = (errors == 0) & (moments.weights > 0)
    return np.asarray(np.where(nothing, 0.0, ratio))


def _whole(moments: GroupMoments) -> float:
    """Error of all indices together by their fluctuation; zero where that cannot be told."""
    error, square = moments.squared_errors.sum(), moments.squared_fluctuations.sum()
    return float(np.sqrt(error / square)) if 0 < square < np.inf else 0.0


def _rms(moments: GroupMoments) -> Vector:
    """Root of the mean squared error in the units of the variable, NaN where nothing was
    compared."""
    weights = np.where(moments.weights > 0, moments.weights, np.nan)
    return np.asarray(np.sqrt(moments.squared_errors / weights))


def _listed(values: Vector) -> tuple[float | None, ...]:
    return tuple(float(value) if np.isfinite(value) else None for value in values)


def _coordinate(archive: Archive, dim: str) -> tuple[str, xr.Variable] | None:
    """Name and values of the coordinate along a dim: its own, or a vertical one, or any."""
    coords: Mapping[Any, Any] = archive.carried.coords
    along = {str(name): each.variable for name, each in coords.items() if each.dims == (dim,)}
    vertical = [name for name in along if vertical_among((dim,), {name: along[name]})]
    for name in [dim, *vertical, *along]:
        if name in along:
            return name, along[name]
    return None


def _label(dim: str, index: int, coordinate: tuple[str, xr.Variable] | None) -> str:
    """Name an index and its coordinate, such as ``lev=12 (1200 m)``."""
    if coordinate is None:
        return f"{dim}={index}"
    name, values = coordinate
    units = str(values.attrs.get("units", ""))
    words = [] if name == dim else [name]
    words += [shown_time(values.values, index), *([units] if units not in ("", "1") else [])]
    return f"{dim}={index} ({' '.join(words)})"

"""Which derivatives of an archive's variables are bounded, from the settings.

They are those of `numpy.gradient` by the coordinates. On a grid of longitude and latitude they are
those on a sphere, in units of its radius.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xarray as xr

from romzarr.archive import Archive
from romzarr.archive.directions import Direction, angles_of, directions_of, is_scattered
from romzarr.config import BoundKind, CompressionConfig, DerivativeBound, DerivativeKind
from romzarr.contracts import ArchivedVariable, Derivative, Matrix, Slope, Vector
from romzarr.errors import ConfigError

SETTING = "compression.derivatives"
# Cosines of latitude below are those of a pole, where no direction is east.
POLE = 1e-6


def bounded_derivatives(archive: Archive, config: CompressionConfig) -> tuple[Derivative, ...]:
    """The derivatives that have a bound. Reads nothing but coordinates.

    The gradient of a variable is one derivative along each dim that goes along x, y or z
    (`romzarr.archive.directions`), or along all dims in space where none is known to.

    Raises
    ------
    ConfigError
        If a variable is not compressed, or has no such derivative; if the components of a vector
        are on different grids; or if each value has a bound relative to itself.
    """
    known = {variable.name: variable for variable in archive.variables}
    coordinates = {name: archive.carried.variables[name] for name in archive.carried.coords}
    found: list[Derivative] = []
    for bound in config.derivative_bounds:
        if not bound.variables:
            for name, variable in known.items():
                one = DerivativeBound(bound.kind, (name,), bound.tolerance)
                found += _gradient(one, _Grid(variable, coordinates))
            continue
        _refuse_unknown(bound, known, archive.name)
        _refuse_other_grids([known[name] for name in bound.variables], bound)
        found += _MAKERS[bound.kind](bound, _Grid(known[bound.variables[0]], coordinates))
    _refuse_relative_bounds(found, config)
    return tuple(found)


@dataclass(frozen=True)
class _Grid:
    """The dims in space of a variable, and the coordinates of an archive."""

    variable: ArchivedVariable
    coordinates: Mapping[Hashable, xr.Variable]

    @cached_property
    def directions(self) -> dict[Direction, str]:
        """Dims along x, y and z, of those that can be differentiated along."""
        return {
            direction: dim
            for direction, dim in directions_of(self.variable.space_dims, self.coordinates).items()
            if dim in self.dims
        }

    @cached_property
    def dims(self) -> list[str]:
        """Dims of two points at least, whose neighbours by number are neighbours in space."""
        sizes = zip(self.variable.space_dims, self.variable.space_shape, strict=True)
        return [dim for dim, n in sizes if n > 1 and not is_scattered(dim, self.coordinates)]

    def slope(self, name: str, dim: str, sign: float = 1.0, weighted: bool = False) -> Slope:
        """The derivative of a variable on this grid along a dim."""
        axis = self.variable.dims.index(dim)
        return Slope(name, axis, self._coordinate(dim), sign, weighted and self.cosines is not None)

    @cached_property
    def cosines(self) -> Matrix | None:
        """Cosines of latitude, 0 at poles, on a grid of longitude and latitude."""
        east, north = (self.directions.get(each) for each in (Direction.X, Direction.Y))
        if east is None or north is None or angles_of(east, self.coordinates) is None:
            return None
        latitude = angles_of(north, self.coordinates)
        if latitude is None:
            return None
        cosines = np.cos(latitude)
        shape = [len(cosines) if dim == north else 1 for dim in self.variable.dims]
        return np.where(cosines > POLE, cosines, 0.0).reshape(shape)

    def _coordinate(self, dim: str) -> Vector:
        """Values of the coordinate of a dim; numbers of its points if it has none of numbers."""
        own = self.coordinates.get(dim)
        if own is None or own.dims != (dim,) or own.dtype.kind not in "iuf":
            return np.arange(self.variable.shape[self.variable.dims.index(dim)], dtype=np.float64)
        angles = angles_of(dim, self.coordinates)
        values = np.asarray(own.values, np.float64) if angles is None else angles
        steps = np.diff(values)
        if not ((steps > 0).all() or (steps < 0).all()):
            raise ConfigError(
                f"{SETTING}: the coordinate {dim!r} neither increases nor decreases throughout; "
                "allowed are coordinates that do"
            )
        return values


def _gradient(bound: DerivativeBound, grid: _Grid) -> list[Derivative]:
    (name,) = bound.variables
    return [
        Derivative(
            f"{bound.name} along {dim}",
            bound.tolerance,
            (grid.slope(name, dim),),
            grid.cosines if dim == grid.directions.get(Direction.X) else None,
        )
        for dim in grid.directions.values() or grid.dims
    ]


def _asked_gradient(bound: DerivativeBound, grid: _Grid) -> list[Derivative]:
    found = _gradient(bound, grid)
    if not found:
        raise ConfigError(
            f"{SETTING}: {bound.name} has no dim to differentiate along: there are "
            f"{grid.variable.space_dims}, allowed are dims in space of two points at least that do "
            "not number cells or stations"
        )
    return found


def _divergence(bound: DerivativeBound, grid: _Grid) -> list[Derivative]:
    dims = _dims_of(bound, grid)
    if len(dims) > 2 and grid.cosines is not None:
        raise ConfigError(
            f"{SETTING}: {bound.name} has three components on a grid of longitude and latitude; "
            "allowed are the two that are horizontal"
        )
    slopes = [
        grid.slope(name, dim, weighted=number == 1)
        for number, (name, dim) in enumerate(zip(bound.variables, dims, strict=True))
    ]
    return [Derivative(bound.name, bound.tolerance, tuple(slopes), grid.cosines)]


def _vorticity(bound: DerivativeBound, grid: _Grid) -> list[Derivative]:
    (first, second), (east, north) = bound.variables, _dims_of(bound, grid)
    slopes = grid.slope(second, east), grid.slope(first, north, sign=-1.0, weighted=True)
    return [Derivative(bound.name, bound.tolerance, slopes, grid.cosines)]


_MAKERS: Mapping[DerivativeKind, Callable[[DerivativeBound, _Grid], list[Derivative]]] = {
    DerivativeKind.GRADIENT: _asked_gradient,
    DerivativeKind.DIVERGENCE: _divergence,
    DerivativeKind.VORTICITY: _vorticity,
}


def _dims_of(bound: DerivativeBound, grid: _Grid) -> list[str]:
    """The dims that the components of a vector belong to, in their order."""
    count, dims = len(bound.variables), list(grid.directions.values())
    if len(dims) < count:
        raise ConfigError(
            f"{SETTING}: {bound.name} needs {count} dims along x, y and z; of "
            f"{grid.variable.space_dims} these are known: {dims}; give their coordinates the "
            "attribute axis (X, Y or Z)"
        )
    dims = dims[:count]
    units = {
        dim: str(grid.coordinates[dim].attrs.get("units", ""))
        for dim in dims
        if dim in grid.coordinates and grid.cosines is None
    }
    if len(set(units.values())) > 1:
        raise ConfigError(
            f"{SETTING}: {bound.name} adds derivatives by coordinates in units {units}; allowed "
            "are coordinates in the same units, or longitude and latitude"
        )
    return dims


def _refuse_unknown(
    bound: DerivativeBound, known: Mapping[str, ArchivedVariable], archive: str
) -> None:
    for name in bound.variables:
        if name not in known:
            raise ConfigError(
                f"{SETTING}: {bound.name} names {name!r}, allowed are variables of {archive} that "
                f"are compressed: {', '.join(map(repr, known)) or 'there are none'}"
            )


def _refuse_other_grids(several: Sequence[ArchivedVariable], bound: DerivativeBound) -> None:
    sizes = [dict(zip(each.dims, each.shape, strict=True)) for each in several]
    for other in sizes[1:]:
        if [*other.items()] != [*sizes[0].items()]:
            raise ConfigError(
                f"{SETTING}: {bound.name} has components on different grids, {sizes[0]} and "
                f"{other}; allowed are components at the same points"
            )


def _refuse_relative_bounds(found: Sequence[Derivative], config: CompressionConfig) -> None:
    relative = {name for name, each in config.bounds.items() if each.kind == BoundKind.VALUE}
    for derivative in found:
        if both := relative.intersection(derivative.variables):
            raise ConfigError(
                f"{SETTING}: variable {min(both)!r} has a bound relative to each value "
                "(compression.max_error); allowed is one of the two"
            )

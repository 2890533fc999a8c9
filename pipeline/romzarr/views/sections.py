"""Which part of a variable's space a picture shows: whatever its dims, few enough points.

A section is a map (two dims), points scattered over a plane (cells that have two coordinates),
a line (one dim) or a single value; other dims are fixed at their middle. Points are taken at
even distances, and of a grid that is too large to be decoded for a picture a part is taken.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from romzarr.archive.points import points_of
from romzarr.contracts import Matrix

Indexer = int | NDArray[np.int64]
Kind = Literal["map", "scatter", "line", "value"]

# Points of a picture along a dim of a map, along a line, and of scattered ones altogether.
MAP_POINTS, LINE_POINTS, SCATTERED = 180, 1000, 8000
# Points of the grid that may have to be decoded for them.
MOST_POINTS = 1 << 24

# How coordinates say that they run to the right or upwards (CF conventions, chapter 4).
HORIZONTAL = frozenset({"x", "lon", "longitude", "rlon", "degrees_east", "projection_x_coordinate"})
VERTICAL = frozenset({"y", "lat", "latitude", "rlat", "degrees_north", "projection_y_coordinate"})
HEIGHTS = frozenset({"z", "lev", "level", "depth", "height", "altitude", "plev"})


class Axis(NamedTuple):
    """An axis of a picture: its label with units, where its points lie, whether it runs down."""

    label: str
    values: NDArray[Any]
    down: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the space of one variable.

    ``axes`` has the horizontal axis first; ``indexers`` one entry for each space dim, in the
    variable's order, an int where the section is fixed; ``turned`` says that the horizontal dim
    comes first there, ``to_scale`` that both axes measure alike. ``note`` says what is not shown,
    in words; ``title`` what the values are.
    """

    variable: str
    title: str
    kind: Kind
    axes: tuple[Axis, ...]
    indexers: tuple[Indexer, ...]
    turned: bool
    to_scale: bool
    note: str

    def arranged(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values at the indexers, in the variable's order, with the horizontal axis last."""
        return np.swapaxes(values, -1, -2) if self.turned else values


class _Shown(NamedTuple):
    """Dims of a section, horizontal first; of scattered points one dim and two coordinates."""

    kind: Kind
    dims: tuple[Hashable, ...]
    coordinates: tuple[xr.Variable, ...] = ()


def section_of(dataset: xr.Dataset, variable: str, time: str) -> Section:
    """What to show of the space of a variable of an opened dataset; reads coordinates only."""
    data = dataset.variables[variable]
    sizes = {dim: size for dim, size in zip(data.dims, data.shape, strict=True) if dim != time}
    coords = {name: dataset.variables[name] for name in dataset.coords}
    fixed_in_time = [name for name, each in dataset.variables.items() if time not in each.dims]
    shown = _shown(sizes, coords, dataset[fixed_in_time])
    places = _places(shown, sizes)
    axes = [_axis(dim, coords.get(dim), places[dim]) for dim in shown.dims]
    if shown.kind == "scatter":
        at = places[shown.dims[0]]
        axes = [Axis(label(str(c.attrs.get("name", "")), c), _numbers(c)[at])
                for c in shown.coordinates]  # fmt: skip
    fixed = {dim: size // 2 for dim, size in sizes.items() if dim not in shown.dims}
    order = list(sizes)
    turned = shown.kind == "map" and order.index(shown.dims[0]) < order.index(shown.dims[1])
    return Section(
        variable=variable,
        title=label(variable, data),
        kind=shown.kind,
        axes=tuple(axes),
        indexers=tuple(fixed.get(dim, places.get(dim, 0)) for dim in sizes),
        turned=turned,
        to_scale=len(axes) == 2 and _alike(axes[0].label, axes[1].label),
        note=", ".join([*_fixed_words(fixed, sizes, coords), *_part_words(shown, places, sizes)]),
    )


def _shown(
    sizes: dict[Hashable, int], coords: dict[Hashable, xr.Variable], carried: xr.Dataset
) -> _Shown:
    long = [dim for dim, size in sizes.items() if size > 1]
    right = [dim for dim in long if _runs(dim, coords.get(dim), HORIZONTAL)]
    up = [dim for dim in long if _runs(dim, coords.get(dim), VERTICAL)]
    if right and up:
        return _Shown("map", (right[0], up[0]))
    for dim in long:
        plane = _plane(dim, coords) or _plane_of_mesh(str(dim), carried)
        if plane is not None:
            return _Shown("scatter", (dim,), plane)
    if len(long) >= 2:
        first, second = sorted(sorted(long, key=lambda d: sizes[d])[-2:], key=list(sizes).index)
        upright = first in right or _runs(second, coords.get(second), VERTICAL | HEIGHTS)
        return _Shown("map", (first, second) if upright else (second, first))
    return _Shown("line", (long[0],)) if long else _Shown("value", ())


def _runs(name: Hashable, coordinate: xr.Variable | None, way: frozenset[str]) -> bool:
    """Whether a coordinate runs that way, by its name or its attributes."""
    attrs = {} if coordinate is None else coordinate.attrs
    words = [str(name), *(str(attrs.get(key, "")) for key in ("standard_name", "units", "axis"))]
    return any(word.lower() in way for word in words)


def _plane(
    dim: Hashable, coords: dict[Hashable, xr.Variable]
) -> tuple[xr.Variable, xr.Variable] | None:
    """The two coordinates of points that one dim numbers."""
    found = []
    for way in (HORIZONTAL, VERTICAL):
        along = [
            xr.Variable(c.dims, c.values, {**c.attrs, "name": str(name)})
            for name, c in coords.items()
            if c.dims == (dim,) and c.dtype.kind in "fiu" and _runs(_stem(name), c, way)
        ]
        found += along[:1]
    return (found[0], found[1]) if len(found) == 2 else None


def _plane_of_mesh(dim: str, carried: xr.Dataset) -> tuple[xr.Variable, xr.Variable] | None:
    """The first two coordinates of a mesh whose names or attributes are those of its model."""
    if (points := points_of(carried, dim)) is None:
        return None
    across, up = (carried.variables[name].copy() for name in points.names[:2])
    across.attrs["name"], up.attrs["name"] = points.names[:2]
    return across, up


def _stem(name: Hashable) -> str:
    """The first or last word of names like ``cell_lon`` or ``lon_cell`` that says a direction."""
    words = str(name).lower().split("_")
    return next((word for word in words if word in HORIZONTAL | VERTICAL), words[0])


def _places(shown: _Shown, sizes: dict[Hashable, int]) -> dict[Hashable, NDArray[np.int64]]:
    """Points shown along each dim: of a grid that is too large those in its middle."""
    most = {"map": MAP_POINTS, "scatter": SCATTERED, "line": LINE_POINTS, "value": 1}[shown.kind]
    whole = float(np.prod([sizes[dim] for dim in shown.dims]))
    share = min(1.0, (MOST_POINTS / whole) ** (1 / max(1, len(shown.dims))))
    places = {}
    for dim in shown.dims:
        length = max(1, int(sizes[dim] * share))
        start = (sizes[dim] - length) // 2
        count = min(length, most)
        places[dim] = start + np.linspace(0, length - 1, count).round().astype(np.int64)
    return places


def axis_along(dataset: xr.Dataset, dim: str, count: int) -> Axis:
    """The axis of a picture along the whole of a dim of so many indices."""
    coords = {name: dataset.variables[name] for name in dataset.coords}
    return _axis(dim, coords.get(dim), np.arange(count))


def _axis(dim: Hashable, coordinate: xr.Variable | None, at: NDArray[np.int64]) -> Axis:
    """Positions in the coordinate of a dim, or numbers where it has none that increases."""
    if coordinate is not None and coordinate.dims == (dim,) and coordinate.dtype.kind in "fiu":
        values = _numbers(coordinate)
        steps = np.diff(values)
        if np.isfinite(values).all() and ((steps > 0).all() or (steps < 0).all()):
            down = coordinate.attrs.get("positive") == "down"
            return Axis(label(str(dim), coordinate), values[at], down)
    return Axis(f"{dim} (number)", at.astype(np.float64))


def _numbers(coordinate: xr.Variable) -> Matrix:
    return np.asarray(coordinate.values, np.float64)


def label(name: str, variable: xr.Variable) -> str:
    """A name with its units.

    >>> label("u", xr.Variable((), 0.0, {"units": "m s-1"}))
    'u (m s-1)'
    """
    units = str(variable.attrs.get("units", ""))
    return f"{name} ({units})" if units not in ("", "1") else name


def _alike(one: str, other: str) -> bool:
    """Whether two labels have the same units, both degrees, or none."""
    units = [text.partition(" (")[2] for text in (one, other)]
    return units[0] == units[1] or all(unit.startswith("degree") for unit in units)


def _fixed_words(
    fixed: dict[Hashable, int], sizes: dict[Hashable, int], coords: dict[Hashable, xr.Variable]
) -> list[str]:
    words = []
    for dim, index in fixed.items():
        coordinate = coords.get(dim)
        at = f"number {index} of {sizes[dim]}"
        if coordinate is not None and coordinate.dims == (dim,):
            at = f"{_shortly(coordinate.values[index])} ({at})"
        if sizes[dim] > 1:
            words.append(f"{dim} = {at}")
    return words


def _shortly(value: Any) -> str:
    return f"{value:.4g}" if np.issubdtype(type(value), np.number) else str(value)


def _part_words(
    shown: _Shown, places: dict[Hashable, NDArray[np.int64]], sizes: dict[Hashable, int]
) -> list[str]:
    return [
        f"{dim} {places[dim][0]} to {places[dim][-1]} of {sizes[dim]}"
        for dim in shown.dims
        if places[dim][-1] - places[dim][0] + 1 < sizes[dim]
    ]

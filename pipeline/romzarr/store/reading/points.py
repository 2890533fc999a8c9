"""Orders of the points of meshes, from the facts of a store and its coordinates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from romzarr.coding.hilbert import MOST_POINTS, curve_order
from romzarr.contracts import Curve, PointOrder
from romzarr.errors import StoreError
from romzarr.store import layout
from romzarr.store.layout import ArrayLayout, JsonObject
from romzarr.store.reading.arrays import StoredArrays
from romzarr.store.reading.variables import StoredVariable

# Coordinates that each curve goes through.
_COUNTS = {Curve.PLANE: 2, Curve.SPACE: 3, Curve.DEGREES: 2, Curve.RADIANS: 2}
_NUMBERS = frozenset({f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}) | {
    "float16", "float32", "float64"
}  # fmt: skip


@dataclass(frozen=True)
class StoredOrder:
    """The rule by which points of a dim are ordered: a `PointOrder` without its positions."""

    dim: str
    curve: Curve
    coordinates: tuple[str, ...]
    pieces: int | tuple[int, ...]
    checksum: str

    def positions(self, arrays: StoredArrays) -> NDArray[np.int64]:
        """Compute where the stored points are in the archive, from their coordinates.

        Raises
        ------
        StoreError
            If this is not the order in which they were stored.
        """
        values = [arrays.finite(f"coordinates/{name}") for name in self.coordinates]
        found = curve_order(self.curve, values, self.pieces)
        if layout.order_checksum(found) != self.checksum:
            raise StoreError(
                f"{arrays.url}: the order of points along {self.dim!r} cannot be computed again "
                f"from {', '.join(self.coordinates)} (wrong checksum); the store is damaged, or "
                "this machine does not round as IEEE 754 says"
            )
        return found

    def complete(self, arrays: StoredArrays) -> PointOrder:
        """Return the order with its positions."""
        positions, pieces = self.positions(arrays), self.pieces
        if isinstance(pieces, int):
            size = len(positions)
            pieces = tuple(min(pieces, size - start) for start in range(0, size, pieces))
        return PointOrder(self.dim, self.curve, self.coordinates, pieces, positions)


def orders_of(
    facts: JsonObject, variables: Mapping[str, StoredVariable], layouts: Mapping[str, ArrayLayout]
) -> dict[str, StoredOrder]:
    """Parse and check the orders of points by dim.

    Raises
    ------
    StoreError
    """
    if "orders" not in facts.document:
        return {}
    listed = facts.object("orders")
    sizes = {d: n for v in variables.values() for d, n in zip(v.dims, v.shape, strict=True)}
    times = {v.dims[v.time_axis] for v in variables.values()}
    for dim in listed:
        if dim not in sizes or dim in times:
            raise StoreError(f"{listed.where}: no variable has {dim!r} as a dim of space")
    return {dim: _order(dim, listed.object(dim), sizes[dim], layouts) for dim in listed}


def _order(
    dim: str, fields: JsonObject, size: int, layouts: Mapping[str, ArrayLayout]
) -> StoredOrder:
    known = [str(each) for each in Curve]
    if (text := fields.text("curve")) not in known:
        raise StoreError(f"{fields.where}: 'curve' must be one of {known}, found {text!r}")
    if size > MOST_POINTS:
        raise StoreError(f"{fields.where}: {size} points, allowed are {MOST_POINTS}")
    curve, names = Curve(text), fields.names("coordinates")
    if len(names) != _COUNTS[curve]:
        raise StoreError(f"{fields.where}: {text!r} needs {_COUNTS[curve]} 'coordinates'")
    for name in names:
        path = f"coordinates/{name}"
        if path not in layouts or layouts[path].shape != (size,):
            raise StoreError(f"{fields.where}: {path} must be an array of {size} numbers")
        if layouts[path].dtype not in _NUMBERS:
            raise StoreError(f"{fields.where}: {path} must be numbers, found {layouts[path].dtype}")
    return StoredOrder(dim, curve, names, _pieces(fields, size), fields.checksum("checksum"))


def _pieces(fields: JsonObject, size: int) -> int | tuple[int, ...]:
    if not isinstance(fields.document.get("pieces"), list):
        return fields.integer("pieces", 1, size)
    lengths = _lengths(fields)
    if sum(lengths) != size:
        raise StoreError(f"{fields.where}: 'pieces' must be {size} points together")
    return lengths


def _lengths(fields: JsonObject) -> tuple[int, ...]:
    given = fields.document["pieces"]
    if not all(type(each) is int and each > 0 for each in given):
        raise StoreError(f"{fields.where}: 'pieces' must be positive integers")
    return tuple(given)

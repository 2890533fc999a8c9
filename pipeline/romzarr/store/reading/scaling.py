"""Factors of decoded values, by index, and what is constant at some indices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from romzarr.coding.tiles import region_of
from romzarr.contracts import Floats, Matrix
from romzarr.errors import StoreError
from romzarr.numerics.scaling import MOST, along, factors_of
from romzarr.store import limits
from romzarr.store.layout import JsonObject
from romzarr.store.reading.arrays import StoredArrays
from romzarr.store.reading.indexing import Positions, pieces, points


@dataclass(frozen=True)
class StoredScaling:
    """``factors`` broadcast over the variable without time. ``steady`` is the array of values that
    are constant at some indices and NaN elsewhere, "" if there are none."""

    factors: Matrix
    steady: str

    def at(self, wanted: Sequence[Positions]) -> Matrix:
        """The factors at points in space."""
        both = zip(self.factors.shape, wanted, strict=True)
        return self.factors[np.ix_(*([0] if n == 1 else places for n, places in both))]

    def apply(
        self,
        values: Floats,
        arrays: StoredArrays,
        wanted: Sequence[Positions],
        time_axis: int | None = None,
    ) -> None:
        """Put decoded values of points in space into the variable's units.

        They may have an axis of time among those of space.
        """
        added = () if time_axis is None else time_axis
        # Only malicious stores have products that overflow.
        with np.errstate(over="ignore", invalid="ignore"):
            values *= np.expand_dims(self.at(wanted), added).astype(values.dtype)
        self.put_steady(values, arrays, wanted, time_axis)

    def put_steady(
        self,
        values: Floats,
        arrays: StoredArrays,
        wanted: Sequence[Positions],
        time_axis: int | None = None,
    ) -> None:
        """Put what is constant at some indices into decoded values, as in `apply`."""
        added = () if time_axis is None else time_axis
        if self.steady:
            steady = np.expand_dims(self._steady(arrays, wanted), added)
            np.copyto(values, steady, where=~np.isnan(steady), casting="same_kind")

    def _steady(self, arrays: StoredArrays, wanted: Sequence[Positions]) -> Floats:
        values: Floats = np.empty([len(places) for places in wanted])
        layout = arrays.layouts[self.steady]
        for tile, inside, region in pieces(wanted, layout.chunk):
            read = partial(
                arrays.selected, self.steady, region_of(tile, layout.shape, layout.chunk)
            )
            values[region] = points(arrays.cached((self.steady, tile), read)[None], inside)[0]
        return values


def scaling_of(
    fields: JsonObject, dims: Sequence[str], shape: Sequence[int], time_axis: int, steady: str
) -> StoredScaling | None:
    """Parse the factors of a variable; None if it has none.

    Raises
    ------
    StoreError
    """
    if "scaling" not in fields.document:
        return None
    scaling = fields.object("scaling")
    exponents: Any = scaling.document.get("exponents")
    some = scaling.names("dims")
    space = [dim for axis, dim in enumerate(dims) if axis != time_axis]
    if not some or some != tuple(dim for dim in space if dim in some):
        raise StoreError(f"{scaling.where}: 'dims' must be dims of the variable, in their order")
    lengths = [shape[dims.index(dim)] for dim in some]
    valid = isinstance(exponents, list) and len(exponents) == math.prod(lengths)
    valid = valid and len(exponents) <= limits.MAX_INDICES
    if not valid or not all(type(each) is int and abs(each) <= MOST for each in exponents):
        raise StoreError(
            f"{scaling.where}: 'exponents' must be {math.prod(lengths)} integers of at most {MOST} "
            f"by their size, one for each index, and at most {limits.MAX_INDICES}"
        )
    values = factors_of(np.array(exponents, np.int64)).reshape(lengths)
    return StoredScaling(along(space, some, values), steady)

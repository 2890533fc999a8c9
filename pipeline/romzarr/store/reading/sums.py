"""What is added to decoded values so that weighted sums over space are exact."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from romzarr.errors import StoreError
from romzarr.store import limits
from romzarr.store.layout import ArrayLayout, JsonObject
from romzarr.store.reading.arrays import StoredArrays
from romzarr.store.reading.checks import agree
from romzarr.store.reading.indexing import Positions


@dataclass(frozen=True)
class StoredSums:
    """``count`` sums over some of the ``space`` axes of a variable (True: summed over).

    Arrays ``fields`` (J, *space), of length 1 along other axes, and ``multiples`` (J, m, *rest)
    are below ``path``.
    """

    path: str
    count: int
    summed: tuple[bool, ...]

    def check(
        self, arrays: Mapping[str, ArrayLayout], snapshots: int, space: Sequence[int], where: str
    ) -> None:
        """Check the arrays.

        Raises
        ------
        StoreError
        """
        both = list(zip(space, self.summed, strict=True))
        fields = (self.count, *(n if some else 1 for n, some in both))
        multiples = (self.count, snapshots, *(n for n, some in both if not some))
        agree(arrays, f"{self.path}/sum_fields", "int8", fields, where)
        agree(arrays, f"{self.path}/sums", "float", multiples, where)
        if math.prod(multiples) + math.prod(fields) > limits.MAX_SUM_VALUES:
            raise StoreError(
                f"{where}: sums below {self.path} have more than {limits.MAX_SUM_VALUES} values"
            )

    def add_to(
        self,
        values: NDArray[np.float64],
        arrays: StoredArrays,
        time_axis: int,
        rows: Positions,
        wanted: Sequence[Positions],
    ) -> None:
        """Add them to decoded values of rows in time and points in space, in the order of dims."""
        both = list(zip(wanted, self.summed, strict=True))
        fields, multiples = self._read(arrays, "sum_fields"), self._read(arrays, "sums")
        every = np.arange(self.count)
        alone = np.zeros(1, np.int64)
        fields = fields[np.ix_(every, *(w if some else alone for w, some in both))]
        multiples = multiples[np.ix_(every, rows, *(w for w, some in both if not some))]
        # Axes that are summed over have the length 1 in the multiples.
        for axis, some in enumerate(self.summed):
            if some:
                multiples = np.expand_dims(multiples, axis + 2)
        fields = np.expand_dims(fields, time_axis + 1)
        multiples = np.moveaxis(multiples, 1, time_axis + 1)
        # Only malicious stores have sums that overflow.
        with np.errstate(over="ignore", invalid="ignore"):
            for field, multiple in zip(fields, multiples, strict=True):
                values += multiple.astype(np.float64) * field

    def _read(self, arrays: StoredArrays, name: str) -> NDArray[Any]:
        path = f"{self.path}/{name}"
        return arrays.cached((path, ()), partial(arrays.read, path))


def sums_of(
    fields: JsonObject, dims: Sequence[str], time_axis: int, group: str
) -> StoredSums | None:
    """Parse the sums of a variable; None if it has none.

    Raises
    ------
    StoreError
    """
    if "sums" not in fields.document:
        return None
    sums = fields.object("sums")
    names, over = sums.names("names"), sums.names("dims")
    space = [dim for axis, dim in enumerate(dims) if axis != time_axis]
    if not 0 < len(names) <= limits.MAX_SUMS or not over or not set(over) <= set(space):
        raise StoreError(
            f"{sums.where}: 'names' must be up to {limits.MAX_SUMS} texts, and 'dims' some of "
            "those of the variable in space"
        )
    return StoredSums(f"basis/{group}", len(names), tuple(dim in over for dim in space))

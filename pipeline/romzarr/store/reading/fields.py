"""Tiles of fields, and their weighted sums, which are snapshots of a variable.

A value has the same bits in every selection. Tiles are decoded completely, sums over modes are
products of blocks of fixed shape (`romzarr.numerics.products`) in which each snapshot and point has
a fixed place, and everything else is elementwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from romzarr.contracts import Floats
from romzarr.errors import StoreError
from romzarr.numerics.products import COLUMNS, ROWS, product
from romzarr.store.reading.indexing import Positions, narrowed
from romzarr.store.reading.indexing import points as chosen

Inside = Sequence[slice | Positions]


@contextmanager
def prefixed_errors(where: str) -> Iterator[None]:
    """Prefix errors of invalid coefficients with their location."""
    try:
        yield
    except StoreError as error:
        raise StoreError(f"{where}: {error}") from error


@dataclass(frozen=True)
class FieldTile:
    """The fields of a variable in one tile.

    Attributes
    ----------
    first : ndarray, shape of the tile
        The first field.
    modes : ndarray, shape (r, points)
        The others, padded with zeros to blocks of `COLUMNS` points.
    """

    first: Floats
    modes: Floats

    @classmethod
    def of(cls, fields: Floats, mask: NDArray[np.bool_] | None) -> FieldTile:
        """Make a tile of fields (r + 1, *tile); at masked points the first is NaN, others are 0."""
        if mask is not None:
            fields = fields.copy()
            fields[:1, mask] = np.nan
            fields[1:, mask] = 0
        modes = fields[1:]
        flat = modes.reshape(len(modes), math.prod(modes.shape[1:]))
        first = fields[0, ...]
        if missing := -first.size % COLUMNS:
            # A view would keep all fields in memory.
            first, flat = first.copy(), np.pad(flat, ((0, 0), (0, missing)))
        first.flags.writeable = flat.flags.writeable = False
        return cls(first, flat)

    @property
    def nbytes(self) -> int:
        return self.first.nbytes + self.modes.nbytes

    def part(self, inside: Inside) -> FieldPart:
        """Select points, each axis indexed independently."""
        first = chosen(self.first[None], inside)[0, ...]
        rank, width = self.modes.shape
        blocks = self.modes.reshape(rank, width // COLUMNS, COLUMNS)
        if first.size == self.first.size:
            return FieldPart(first, blocks, slice(0, first.size))
        numbers: NDArray[Any] = np.arange(self.first.size).reshape(1, *self.first.shape)
        flat = np.asarray(chosen(numbers, inside).ravel(), np.int64)
        needed, which = np.unique(flat // COLUMNS, return_inverse=True)
        some: Floats = blocks[:, narrowed(needed), :]
        return FieldPart(first, some, narrowed(which * COLUMNS + flat % COLUMNS))


@dataclass(frozen=True)
class FieldPart:
    """The fields of a variable at some points of a tile.

    Attributes
    ----------
    first : ndarray
        The first field.
    blocks : ndarray, shape (r, blocks, COLUMNS)
        The others, in all blocks with one of the points.
    columns : slice or positions
        The places of the points in these blocks.
    """

    first: Floats
    blocks: Floats
    columns: slice | Positions

    @property
    def modes(self) -> Floats:
        """All fields except the first, (r, *shape of the first)."""
        rank = len(self.blocks)
        flat = self.blocks.reshape(rank, self.width)[:, self.columns]
        return flat.reshape(rank, *self.first.shape)

    @property
    def width(self) -> int:
        """Number of values of a snapshot in its sum."""
        return math.prod(self.blocks.shape[1:])

    def sums(self, weights: Floats) -> Floats:
        """Compute weighted sums over all fields except the first.

        Parameters
        ----------
        weights : ndarray, shape (n, ROWS, k)
            In the fields' dtype, of the leading k of them.

        Returns
        -------
        ndarray, shape (n * ROWS, *shape of the first)
        """
        leading = self.blocks[: weights.shape[2]]
        _, blocks, _ = leading.shape
        sums = np.empty((len(weights), ROWS, blocks, COLUMNS), leading.dtype)
        product(weights[:, None], leading.swapaxes(0, 1), sums.swapaxes(1, 2))
        rows = len(weights) * ROWS
        return sums.reshape(rows, self.width)[:, self.columns].reshape(rows, *self.first.shape)


@dataclass(frozen=True)
class AlignedRows:
    """Increasing snapshots, each in a fixed place of a block of `ROWS`."""

    blocks: int
    places: Positions

    @classmethod
    def of(cls, rows: Positions) -> AlignedRows:
        numbers, which = np.unique(rows // ROWS, return_inverse=True)
        return cls(len(numbers), which * ROWS + rows % ROWS)

    def spread(self, weights: Floats, dtype: np.dtype[Any]) -> Floats:
        """Arrange weights (m, r) of the snapshots as (blocks, ROWS, r), padded with zeros."""
        out = np.zeros((self.blocks, ROWS, weights.shape[1]), dtype)
        out[self.places // ROWS, self.places % ROWS] = weights
        return out

    def parts(self, most: int) -> Iterator[tuple[slice, slice, slice | Positions]]:
        """Yield some blocks at a time, with the snapshots in them and their places."""
        for start in range(0, self.blocks, most):
            stop = min(start + most, self.blocks)
            first, last = np.searchsorted(self.places, [start * ROWS, stop * ROWS])
            inside = narrowed(self.places[first:last] - start * ROWS)
            yield slice(start, stop), slice(int(first), int(last)), inside

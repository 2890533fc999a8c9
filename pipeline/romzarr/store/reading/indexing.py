"""Converts indexers to positions, and positions to tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from romzarr.contracts import Floats, Region

Indexer = int | slice | NDArray[np.integer[Any]]
Positions = NDArray[np.int64]


class OutOfRangeError(IndexError):
    """An index of the caller is out of range."""


class Piece(NamedTuple):
    """Requested points in one tile.

    ``tile`` is its grid position, ``inside`` selects the points in it along each axis, ``region``
    is their place among all requested points.
    """

    tile: tuple[int, ...]
    inside: tuple[slice | Positions, ...]
    region: Region


def positions(indexer: Indexer, n: int) -> tuple[Positions, Positions]:
    """Return increasing positions of an indexer, and the indices that restore its order."""
    if isinstance(indexer, slice):
        asked = np.arange(*indexer.indices(n))
    else:
        asked = np.atleast_1d(np.asarray(indexer, dtype=np.int64))
        if ((asked < -n) | (asked >= n)).any():
            raise OutOfRangeError(
                f"index {asked.min()} to {asked.max()} is out of range for length {n}"
            )
        asked = np.where(asked < 0, asked + n, asked)
    return np.unique(asked, return_inverse=True)


def across(
    starts: NDArray[np.int64],
    indexer: Indexer,
    axis: int,
    read: Callable[[int, Positions], NDArray[Any]],
) -> NDArray[Any]:
    """Index several arrays as if they were concatenated along an axis.

    Parameters
    ----------
    starts : ndarray of int
        Start of each array, and the end of the last one.
    indexer : int, slice or ndarray of int
        An int drops the axis.
    axis : int
        The axis in results of `read`.
    read : callable
        Takes the number of an array and increasing positions in it.
    """
    rows, back = positions(indexer, int(starts[-1]))
    edges = np.searchsorted(rows, starts)
    found = [
        read(number, rows[first:last] - starts[number])
        for number, (first, last) in enumerate(pairwise(edges))
        if first < last
    ]
    # An empty selection of any array gives the shape.
    found = found or [read(len(starts) - 2, rows)]
    # The dtype keeps the byte order; strings may have different lengths.
    same = {array.dtype for array in found} == {found[0].dtype}
    whole = np.concatenate(found, axis=axis, dtype=found[0].dtype if same else None)
    values = np.take(whole, back, axis=axis)
    return values.take(0, axis) if isinstance(indexer, int | np.integer) else values


def pieces(wanted: Sequence[Positions], tile: Sequence[int]) -> Iterator[Piece]:
    """Divide requested points, increasing along each axis, into tiles."""
    axes = [list(_runs(places, n)) for places, n in zip(wanted, tile, strict=True)]
    for runs in product(*axes):
        yield Piece(
            tuple(number for number, _, _ in runs),
            tuple(narrowed(inside) for _, inside, _ in runs),
            tuple(region for _, _, region in runs),
        )


def _runs(places: Positions, length: int) -> Iterator[tuple[int, Positions, slice]]:
    """Yield each tile with some of `places`, their positions in it, and their range."""
    numbers, starts = np.unique(places // length, return_index=True)
    stops = np.append(starts, len(places))[1:]
    for number, start, stop in zip(numbers, starts, stops, strict=True):
        yield int(number), places[start:stop] - number * length, slice(int(start), int(stop))


def narrowed(inside: Positions) -> slice | Positions:
    """Convert contiguous positions to a slice, which copies nothing."""
    if not len(inside):
        return slice(0, 0)
    first, last = int(inside[0]), int(inside[-1])
    return slice(first, last + 1) if last - first + 1 == len(inside) else inside


def points(tile: Floats, inside: Sequence[slice | Positions]) -> Floats:
    """Select points of a tile (fields, *space), each axis indexed independently."""
    for axis, chosen in enumerate(inside, start=1):
        tile = tile[(slice(None),) * axis + (chosen,)]
    return tile


def as_asked(
    values: NDArray[Any], backs: Sequence[Positions], indexers: Sequence[Indexer]
) -> NDArray[Any]:
    """Restore the order of the indexers, and drop the dims of ints."""
    for axis, back in enumerate(backs):
        if not np.array_equal(back, np.arange(values.shape[axis])):
            values = np.take(values, back, axis=axis)
    key = (0 if isinstance(i, int | np.integer) else slice(None) for i in indexers)
    # The ellipsis keeps a zero-dimensional array.
    return values[(*key, ...)]

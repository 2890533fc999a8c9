"""From indexers to positions, from positions to tiles, and from fields to values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.contracts import Floats, Region

Indexer = int | slice | NDArray[np.integer[Any]]
Positions = NDArray[np.int64]
# Values a temporary of another type or order than the result's may hold.
_SLAB_VALUES = 1 << 21
# Rows of this many values make a BLAS call worth its overhead.
_LEAST_ROW = 32


class OutOfRangeError(IndexError):
    """An index that whoever asks gave is beyond the end."""


class Piece(NamedTuple):
    """Wanted points that lie in one tile.

    ``tile`` is its place in the grid, ``inside`` selects the points of it along each axis,
    ``region`` is where they go among all wanted points.
    """

    tile: tuple[int, ...]
    inside: tuple[slice | Positions, ...]
    region: Region


def positions(indexer: Indexer, n: int) -> tuple[Positions, Positions]:
    """Increasing positions that `indexer` touches, and how to take its result from them."""
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
    """What `read` gives of several arrays, indexed as if they were one along an axis.

    Parameters
    ----------
    starts : ndarray of int
        Where each array begins, and at last where all end.
    indexer : int, slice or ndarray of int
        An int drops the axis.
    axis : int
        Where the axis is in what `read` returns.
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
    # Where nothing is wanted any array tells the shape.
    whole = np.concatenate(found or [read(len(starts) - 2, rows)], axis=axis)
    values = np.take(whole, back, axis=axis)
    return values.take(0, axis) if isinstance(indexer, int | np.integer) else values


def pieces(wanted: Sequence[Positions], tile: Sequence[int]) -> Iterator[Piece]:
    """Wanted points, increasing along each axis, tile by tile."""
    axes = [list(_runs(places, n)) for places, n in zip(wanted, tile, strict=True)]
    for runs in product(*axes):
        yield Piece(
            tuple(number for number, _, _ in runs),
            tuple(_narrowed(inside) for _, inside, _ in runs),
            tuple(region for _, _, region in runs),
        )


def _runs(places: Positions, length: int) -> Iterator[tuple[int, Positions, slice]]:
    """Number of each tile that holds some of `places`, where in it they lie, which they are."""
    numbers, starts = np.unique(places // length, return_index=True)
    stops = np.append(starts, len(places))[1:]
    for number, start, stop in zip(numbers, starts, stops, strict=True):
        yield int(number), places[start:stop] - number * length, slice(int(start), int(stop))


def _narrowed(inside: Positions) -> slice | Positions:
    """A slice where the positions are contiguous: it copies nothing."""
    first, last = int(inside[0]), int(inside[-1])
    return slice(first, last + 1) if last - first + 1 == len(inside) else inside


def points(tile: Floats, inside: Sequence[slice | Positions]) -> Floats:
    """The chosen points of a tile (fields, *space), each axis indexed for itself."""
    for axis, chosen in enumerate(inside, start=1):
        tile = tile[(slice(None),) * axis + (chosen,)]
    return tile


def as_asked(
    values: NDArray[Any], backs: Sequence[Positions], indexers: Sequence[Indexer]
) -> NDArray[Any]:
    """Values at increasing positions in the order asked for, without the dims of ints."""
    for axis, back in enumerate(backs):
        if not np.array_equal(back, np.arange(values.shape[axis])):
            values = np.take(values, back, axis=axis)
    key = (0 if isinstance(i, int | np.integer) else slice(None) for i in indexers)
    # The ellipsis keeps an array of what has no dims left.
    return values[(*key, ...)]


def combine(weights: Floats, fields: Floats, time_axis: int, out: NDArray[Any]) -> None:
    """``out = sum_k weights[t, k] fields[k]`` with time as dim `time_axis`.

    Parameters
    ----------
    weights : ndarray, shape (m, r + 1)
    fields : ndarray, shape (r + 1, *space)
    time_axis : int
    out : ndarray, shape of space with m put in at `time_axis`
        Written at once where it is contiguous and of the fields' dtype, else in slabs of
        time.
    """
    space = fields.shape[1:]
    before, after = math.prod(space[:time_axis]), math.prod(space[time_axis:])
    weights = weights.astype(fields.dtype)
    fields = fields.reshape(len(fields), before, after)
    if out.flags.c_contiguous and out.dtype == fields.dtype:
        _multiply(weights, fields, out.reshape(before, len(weights), after))
        return
    rows = max(1, _SLAB_VALUES // max(1, before * after))
    room = np.empty(before * min(rows, len(weights)) * after, fields.dtype)
    for start in range(0, len(weights), rows):
        some = weights[start : start + rows]
        slab = room[: before * len(some) * after].reshape(before, len(some), after)
        _multiply(some, fields, slab)
        place = out[(slice(None),) * time_axis + (slice(start, start + rows),)]
        place[...] = slab.reshape(place.shape)


def place(
    snapshots: Floats, inside: Sequence[slice | Positions], time_axis: int, out: NDArray[Any]
) -> None:
    """``out = snapshots`` at the chosen points, with time, the first dim, as dim `time_axis`."""
    out[...] = np.moveaxis(points(snapshots, inside), 0, time_axis)


def _multiply(weights: Floats, fields: Floats, out: Floats) -> None:
    """``out[i, t, j] = sum_k weights[t, k] fields[k, i, j]`` with few and large BLAS calls."""
    count, before, after = fields.shape
    if before > 1 and after < _LEAST_ROW:
        flat = fields.reshape(count, before * after)
        if after == 1:
            np.matmul(flat.T, weights.T, out=out[:, :, 0])
        else:
            out[...] = (flat.T @ weights.T).reshape(before, after, -1).transpose(0, 2, 1)
    else:
        np.matmul(weights, fields.transpose(1, 0, 2), out=out)

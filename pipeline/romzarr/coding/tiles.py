"""Arrays cut into equal tiles, each coded for itself, of which the last may stick out.

A chunk of a Zarr array is full even where the array ends inside of it. What lies beyond is
filled with the last value inside: a jump there would cost bits, and nobody reads it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from romzarr.coding.bands import depth
from romzarr.coding.field import WHOLE, coded_field, encode_field, encoded_and_decoded
from romzarr.contracts import Floats, Region

N = TypeVar("N", bound=np.generic)

# Values of a tile of fields (all modes together), and the points in space they are cut to:
# small tiles know little of their neighbours, large ones make reading one point slow.
FIELD_VALUES, MOST_POINTS = 1 << 23, 1 << 18
# Values of a tile of values coded as they are, and its snapshots where the record is long:
# whoever reads one snapshot decodes all of them.
VALUES, MOST_SNAPSHOTS = 1 << 21, 1 << 7
# Values of a tile with more snapshots than that: those of a small grid take some 15 ms.
LOOK_VALUES = 1 << 19
# Lengths of axes that are cut are multiples of one of these, the first that makes no more than such
# a part of the axis stick out: grids up to three times coarser then need no detail
# (`romzarr.coding.coarse`).
MULTIPLES, MOST_BEYOND = (8, 4, 2), 1 / 32
# Values of a chunk of samples or corrections: whoever reads one snapshot decodes one of each (some
# 10 ms), whoever reads a history fetches all of them.
ROW_VALUES = 1 << 18


def tile_shape(
    shape: Sequence[int], rank: int, longest: Sequence[int] | None = None
) -> tuple[int, ...]:
    """Shape in space of the tiles of a variable's fields.

    Parameters
    ----------
    shape : sequence of int
        Of the variable, without time.
    rank : int
        Modes that lie together in a tile, besides the mean.
    longest : sequence of int, optional
        What it has at most along each axis, if not the whole.

    Returns
    -------
    tuple of int
        As long in all directions where `shape` allows it, which wavelets like best; every axis
        is cut evenly, so that the last tile sticks out by little.
    """
    points = min(max(1, FIELD_VALUES // (rank + 1)), MOST_POINTS)
    return cube(shape if longest is None else longest, points)


def usual_snapshots(points: int) -> int:
    """Snapshots of a tile of values of so many points, where the record is long."""
    return max(MOST_SNAPSHOTS, LOOK_VALUES // max(1, points))


def value_tile(shape: Sequence[int], longest: Sequence[int] | None = None) -> tuple[int, ...]:
    """Shape of the tiles in time and space of values coded as they are, time first.

    It has at most what `longest` says along each axis.
    """
    snapshots, *space = shape if longest is None else map(min, shape, longest)
    time = even_length(snapshots, usual_snapshots(math.prod(space)))
    return (time, *cube(space, max(1, VALUES // time)))


def cube(shape: Sequence[int], points: int) -> tuple[int, ...]:
    """Lengths of tiles of at most so many points, alike where `shape` allows it."""
    if math.prod(shape) <= points:
        return tuple(shape)
    side = 1
    while math.prod(min(n, 2 * side) for n in shape) <= points:
        side *= 2
    # The longest side that keeps to `points`, by bisection.
    step = side
    while step := step // 2:
        if math.prod(min(n, side + step) for n in shape) <= points:
            side += step
    return tuple(even_multiple(n, side) for n in shape)


def even_multiple(length: int, most: int) -> int:
    """`even_length`, or a little more that is halved without remainder, where an axis is cut."""
    even = even_length(length, most)
    pieces = math.ceil(length / even)
    if pieces == 1:
        return length
    tried = (math.ceil(even / unit) * unit for unit in MULTIPLES)
    fits = (n for n in tried if n <= most and n * pieces - length <= MOST_BEYOND * length)
    return next(fits, even)


def tile_rows(length: int, rank: int) -> int:
    """Rows of a chunk of samples or corrections of `rank` coefficients, at least one."""
    return even_length(length, max(1, ROW_VALUES // max(1, rank)))


def even_length(length: int, most: int) -> int:
    """Length of the fewest equal pieces, none longer than `most`, that cover an axis."""
    return max(1, math.ceil(length / math.ceil(max(1, length) / most)))


def grid(shape: Sequence[int], tile: Sequence[int]) -> tuple[int, ...]:
    """Number of tiles along each axis."""
    return tuple(-(-n // t) for n, t in zip(shape, tile, strict=True))


def tiles(shape: Sequence[int], tile: Sequence[int]) -> Iterator[tuple[tuple[int, ...], Region]]:
    """Place in the grid, and region within the array, of every tile.

    >>> list(tiles((5,), (3,)))
    [((0,), (slice(0, 3, None),)), ((1,), (slice(3, 5, None),))]
    """
    for index in product(*map(range, grid(shape, tile))):
        yield index, region_of(index, shape, tile)


def region_of(index: Sequence[int], shape: Sequence[int], tile: Sequence[int]) -> Region:
    """Region of one tile, cut off where the array ends."""
    return tuple(
        slice(i * t, min((i + 1) * t, n)) for i, n, t in zip(index, shape, tile, strict=True)
    )


def extended(values: NDArray[N], tile: Sequence[int]) -> NDArray[N]:
    """`values` with its trailing axes brought to the lengths of `tile` by repeating the end."""
    leading = values.ndim - len(tile)
    missing = [t - n for n, t in zip(values.shape[leading:], tile, strict=True)]
    if not any(missing):
        return values
    return np.pad(values, [(0, 0)] * leading + [(0, m) for m in missing], mode="edge")


def field_levels(tile: Sequence[int]) -> tuple[int, ...]:
    """Levels of a tile of fields: modes do not resemble one another, places nearby do."""
    return (0, *map(depth, tile))


def value_levels(tile: Sequence[int]) -> tuple[int, ...]:
    """Levels of a tile of values, whose axes are all alike."""
    return tuple(map(depth, tile))


def row_levels(rows: int, smooth: bool) -> tuple[int, int]:
    """Levels of a chunk of rows, which resemble one another if `smooth`."""
    return (depth(rows) if smooth else 0, 0)


def encode_tile(values: Floats, tile: Sequence[int], step: float) -> bytes:
    """Code one tile of fields.

    Parameters
    ----------
    values : ndarray, shape (r + 1, *region)
        All fields in the part of a tile that lies within the array.
    tile : sequence of int
    step : float
    """
    return encode_field(extended(values, tile), step, field_levels(tile))


def coded_tile(values: Floats, tile: Sequence[int], step: float, dtype: np.dtype[Any]) -> Floats:
    """What decoding gives back of the `values` that `encode_tile` was given, in their shape."""
    decoded = coded_field(extended(values, tile), step, field_levels(tile), dtype)
    return decoded[tuple(slice(0, n) for n in values.shape)]


def code_fields(
    values: Floats, tile: Sequence[int], step: float, dtype: np.dtype[Any]
) -> tuple[bytes, Floats]:
    """What `encode_tile` and `coded_tile` return, from one transform."""
    levels = field_levels(tile)
    content, decoded = encoded_and_decoded(extended(values, tile), step, levels, dtype)
    return content, decoded[tuple(slice(0, n) for n in values.shape)]


def code_values(
    values: Floats, tile: Sequence[int], step: float, dtype: np.dtype[Any], share: int = WHOLE
) -> tuple[bytes, Floats]:
    """Code one tile of values, the part of it that lies within the array.

    Returns the payload, and what decoding it gives back of the values. Its step may be another
    `share` of that of the array (`romzarr.coding.field.share_of`).
    """
    levels = value_levels(tile)
    content, decoded = encoded_and_decoded(extended(values, tile), step, levels, dtype, share)
    return content, decoded[tuple(slice(0, n) for n in values.shape)]


def coded_values(values: Floats, tile: Sequence[int], step: float, dtype: np.dtype[Any]) -> Floats:
    """What decoding gives back of the `values` that `code_values` was given."""
    decoded = coded_field(extended(values, tile), step, value_levels(tile), dtype)
    return decoded[tuple(slice(0, n) for n in values.shape)]


def encode_rows(
    values: Floats, rows: int, step: float, smooth: bool, orders: Sequence[int] = ()
) -> tuple[bytes, ...]:
    """Code a table in chunks of rows.

    Parameters
    ----------
    values : ndarray, shape (n, r)
    rows : int
        Rows of a chunk.
    step : float
    smooth : bool
        Whether rows that follow one another are alike: corrections at every snapshot, and
        not samples, which lie far apart.
    orders : sequence of int
        Orders of the differences of the leading columns (`romzarr.coding.differences`).

    Returns
    -------
    tuple of bytes
        One for each chunk; none where there are no columns.
    """
    levels = row_levels(rows, smooth)
    return tuple(encode_field(part, step, levels, orders) for part in _row_chunks(values, rows))


def coded_rows(
    values: Floats, rows: int, step: float, smooth: bool, orders: Sequence[int] = ()
) -> Floats:
    """What decoding gives back of the `values` that `encode_rows` was given, as float64."""
    levels, dtype = row_levels(rows, smooth), np.dtype(np.float64)
    out = np.empty(values.shape, dtype)
    for number, part in enumerate(_row_chunks(values, rows)):
        place = out[number * rows : (number + 1) * rows]
        place[...] = coded_field(part, step, levels, dtype, orders)[: len(place)]
    return out


def _row_chunks(values: Floats, rows: int) -> Iterator[Floats]:
    if not values.size:
        return
    for (number, _), _ in tiles(values.shape, (rows, values.shape[1])):
        yield extended(values[number * rows : (number + 1) * rows], (rows, values.shape[1]))

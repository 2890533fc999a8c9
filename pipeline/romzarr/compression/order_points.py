"""The order in which a store has the points of a mesh: along a curve, where that takes fewer bytes.

Neighbours in space are then neighbours in a tile. Points of one chunk stay together, so that each
chunk is still read once.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import dask
import numpy as np
from dask.delayed import Delayed, delayed
from numpy.typing import NDArray

from romzarr.archive import Archive
from romzarr.archive.ordered import ordered, pieces_of
from romzarr.archive.points import points_of
from romzarr.chunked.spots import spread
from romzarr.coding.field import encode_field
from romzarr.coding.fill import fill_masked
from romzarr.coding.hilbert import MOST_POINTS, curve_order
from romzarr.coding.tiles import field_levels
from romzarr.compression.by_index import bounded_dims
from romzarr.config import CompressionConfig
from romzarr.contracts import ArchivedVariable, Floats, Matrix, PointOrder, ReadBlock, Region
from romzarr.progress import step

log = logging.getLogger(__name__)

# Fewer points are coded in few bytes in any order.
LEAST_POINTS = 128
# Fields that are coded in both orders, and points of each.
FIELDS, SAMPLED = 8, 1 << 17
# Another order is worth computing where it takes less than this share of the bytes of the file's
# own, and so many less: what is said of it in the facts.
WORTH, RULE_BYTES = 0.98, 150
# Tolerances that a sample is coded with: where values are kept to the bit, and where there is none
# but bounds on single values.
LEAST_TOLERANCE, LARGEST_TOLERANCE = 1e-4, 0.1
# Values beyond these quantiles, such as fill values, say nothing of a field.
QUANTILES = (0.005, 0.995)


def in_best_order(archive: Archive, compression: CompressionConfig) -> Archive:
    """The archive with the points of meshes in an order that takes fewer bytes. Runs Dask.

    Reads coordinates, and one block of chunks for each dim whose points have some. Points that have
    bounds of their own stay where they are.
    """
    bounded = {dim for dims in bounded_dims(archive, compression).values() for dim in dims}
    dims = dict.fromkeys(dim for v in archive.variables for dim in v.space_dims)
    tolerance = min(compression.tolerance, LARGEST_TOLERANCE)
    orders = (_order(archive, dim, tolerance) for dim in dims if dim not in bounded)
    found = [order for order in orders if order is not None]
    return ordered(archive, found) if found else archive


def in_order_of(archive: Archive, orders: Sequence[PointOrder]) -> Archive:
    """The archive with its points as a store has them, if its coordinates and chunks allow it."""
    for order in orders:
        found = points_of(archive.carried, order.dim)
        if found is None or (found.curve, found.names) != (order.curve, order.coordinates):
            return archive
        ends = np.cumsum(pieces_of(archive.variables, order.dim))
        if not np.isin(ends, np.cumsum(order.pieces)).all():
            return archive
        positions = curve_order(order.curve, found.values, order.pieces)
        if not np.array_equal(positions, order.positions):
            return archive
    return ordered(archive, orders) if orders else archive


def _order(archive: Archive, dim: str, tolerance: float) -> PointOrder | None:
    """The order of the points of a dim; None to leave them as they are."""
    variables = [variable for variable in archive.variables if dim in variable.space_dims]
    largest = max(variables, key=lambda variable: variable.nbytes)
    if not LEAST_POINTS <= largest.shape[largest.dims.index(dim)] <= MOST_POINTS:
        return None
    found, pieces = points_of(archive.carried, dim), pieces_of(variables, dim)
    if found is None or max(pieces) < LEAST_POINTS:
        return None
    positions = curve_order(found.curve, found.values, pieces)
    with step("order"):
        (sizes,) = dask.compute(_sizes(largest, dim, positions, tolerance))
    log.info("%r: %d bytes of a sample in the order of the file, %d along a curve", dim, *sizes)
    own, along = sizes
    if along > min(WORTH * own, own - RULE_BYTES):
        return None
    return PointOrder(dim, found.curve, found.names, pieces, positions)


def _sizes(
    variable: ArchivedVariable, dim: str, positions: NDArray[np.int64], tolerance: float
) -> Delayed:
    """Bytes of some fields of a variable in both orders, from a block in its middle."""
    axis, region = variable.dims.index(dim), _middle_block(variable)
    inside = positions[region[axis]] - region[axis].start
    key = f"sample-{variable.name}-{dim}"
    graph = dict(variable.source.graph()) | {key: variable.source.task(region)}
    block = Delayed(key, graph)
    return delayed(partial(_coded_sizes, variable.time_axis, axis), pure=False)(
        block, inside, tolerance
    )


def _middle_block(variable: ArchivedVariable) -> Region:
    """The region of the chunk in the middle along each dim."""
    middle = []
    for lengths in variable.chunks:
        number = len(lengths) // 2
        start = sum(lengths[:number])
        middle.append(slice(start, start + lengths[number]))
    return tuple(middle)


def _coded_sizes(
    time_axis: int, axis: int, block: ReadBlock, inside: NDArray[np.int64], tolerance: float
) -> tuple[int, int]:
    """Task: bytes of the mean and of what some snapshots are about it, in both orders."""
    rows = _rows(block.values, time_axis, axis)
    mean = rows.mean(axis=0, keepdims=True)
    fields = np.concatenate([mean - mean.mean(), rows - mean])
    rms = float(np.sqrt(np.mean(fields[1:] ** 2))) or float(np.sqrt(np.mean(fields**2)))
    if not rms:
        return 0, 0
    length = max(tolerance, LEAST_TOLERANCE) * 12**0.5 * rms
    most = slice(0, SAMPLED)

    def size(ordered: Matrix) -> int:
        part = np.ascontiguousarray(ordered[:, most])
        return len(encode_field(part, length, field_levels(part.shape[1:])))

    return size(fields), size(fields[:, inside])


def _rows(values: Floats, time_axis: int, axis: int) -> Matrix:
    """Some snapshots (k, n) along one axis of space, in the middle of all others, without gaps."""
    index: list[Any] = [n // 2 for n in values.shape]
    index[time_axis], index[axis] = spread(values.shape[time_axis], FIELDS), slice(None)
    part = values[tuple(index)]
    rows = np.asarray(part if time_axis < axis else np.moveaxis(part, -1, 0), np.float64)
    valid = np.isfinite(rows)
    if not valid.any():
        return np.zeros_like(rows)
    low, high = np.quantile(rows[valid], QUANTILES)
    filled = [fill_masked(row[None], known)[0] for row, known in zip(rows, valid, strict=True)]
    return np.clip(np.stack(filled), low, high)

"""Truncated higher-order SVD with float32 factors and core, in NumPy: a baseline.

The ranks are those with the fewest bytes of all that meet the error, found from the core; an
axis of full rank keeps no factor.
"""

from __future__ import annotations

import itertools
import math
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def encode(array: Array, rms: float) -> bytes:
    """Bytes from which `decode` makes the array again within a root-mean-square error of `rms`."""
    bases = [_basis(array, axis) for axis in range(array.ndim)]
    core = np.asarray(array, np.float64)
    for axis, basis in enumerate(bases):
        core = _times(core, basis.T, axis)
    ranks = _ranks(np.square(core), array.size * rms**2)
    kept = np.asarray(array, np.float64)
    factors = []
    for axis, rank in enumerate(ranks):
        if rank < array.shape[axis]:
            # Projected onto what is stored, so that its rounding costs nothing more.
            factor = bases[axis][:, :rank].astype(np.float32)
            factors.append(factor)
            kept = _times(kept, factor.T.astype(np.float64), axis)
    head = struct.pack(f"<B{2 * array.ndim}I", array.ndim, *array.shape, *ranks)
    stored = [factor.tobytes() for factor in factors]
    return b"".join([head, *stored, kept.astype(np.float32).tobytes()])


def decode(data: bytes) -> Array:
    axes = data[0]
    numbers = struct.unpack_from(f"<{2 * axes}I", data, 1)
    shape, ranks, start = numbers[:axes], numbers[axes:], 1 + 8 * axes
    values = np.frombuffer(data, np.float32, offset=start)
    factors: dict[int, Array] = {}
    for axis, (size, rank) in enumerate(zip(shape, ranks, strict=True)):
        if rank < size:
            factors[axis] = values[: size * rank].reshape(size, rank)
            values = values[size * rank :]
    decoded: Array = values.reshape(ranks)
    # The axis that grows least goes first.
    for axis in sorted(factors, key=lambda axis: shape[axis] / max(ranks[axis], 1)):
        decoded = _times(decoded, factors[axis], axis)
    return np.ascontiguousarray(decoded)


def _basis(array: Array, axis: int) -> Array:
    """Left singular vectors along `axis`, leading first, from a Gram matrix in float64."""
    size = array.shape[axis]
    gram = np.zeros((size, size))
    flat = np.moveaxis(array, axis, 0).reshape(size, -1)
    for start in range(0, flat.shape[1], 16384):
        panel = flat[:, start : start + 16384].astype(np.float64)
        gram += panel @ panel.T
    return np.linalg.eigh(gram)[1][:, ::-1]


def _times(array: Array, matrix: Array, axis: int) -> Array:
    return np.moveaxis(np.tensordot(matrix, array, axes=(1, axis)), 0, axis)


def _ranks(energy: Array, allowed: float) -> tuple[int, ...]:
    """Cheapest ranks that leave out at most `allowed` of the squared core."""
    # The longest axis last: the cheapest rank of it is found by bisection.
    order = np.argsort(energy.shape, kind="stable")
    kept = energy.transpose(order)
    for axis in range(kept.ndim):
        kept = kept.cumsum(axis=axis)
    needed = kept[(-1,) * kept.ndim] - allowed
    least, found = np.inf, kept.shape
    for ranks in itertools.product(*(range(1, size + 1) for size in kept.shape[:-1])):
        rank = int(np.searchsorted(kept[tuple(r - 1 for r in ranks)], needed)) + 1
        # Full rank too: it spares the factor.
        for last in {rank, kept.shape[-1]} if rank <= kept.shape[-1] else ():
            cost = _numbers((*ranks, last), kept.shape)
            if cost < least:
                least, found = cost, (*ranks, last)
    return tuple(found[place] for place in np.argsort(order))


def _numbers(ranks: tuple[int, ...], shape: tuple[int, ...]) -> int:
    """Numbers in core and factors."""
    return math.prod(ranks) + sum(s * r for s, r in zip(shape, ranks, strict=True) if r < s)

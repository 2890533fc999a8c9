"""Entropy coding of integers: each is foretold by what was coded before it.

The integers of a transformed array are coded band by band, from coarse to fine, in raster order.
How large one will be is expected from the sizes of its neighbours, of its parents (the same place
one scale coarser) and of the modes before, with weights that are fitted to the rows coded last
(`neighbours.h`). What is expected chooses two adaptive tables of chances, which are averaged and
code the size as one symbol of a range coder (`contexts.h`, `symbols.h`). So neither tables nor
weights are stored. Signs, and the last digits of large integers, are kept as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import c_int64
from typing import Any

import numpy as np

from romzarr.coding.bands import bands_until, geometry
from romzarr.coding.kernels import address, library
from romzarr.coding.quantise import Integers

# Answers of the kernels other than lengths.
_TOO_LONG, _NO_MEMORY = -1, -2
# Bytes that a payload has room for at first, and how many times more when they are not enough:
# nearly all take less than one a value.
_LEAST_CAPACITY, _GROWTH = 1 << 10, 4
# Smallest size that int32 does not hold, and smallest that no coding does.
NARROW, WIDE = 2**31, 2**61


def encode(integers: Integers, levels: Sequence[int]) -> bytes:
    """Payload of an array of int32, or of int64 smaller than `WIDE` in size.

    Parameters
    ----------
    integers : ndarray
    levels : sequence of int
        Of the transform that they are coefficients of.
    """
    view = geometry(integers.shape, tuple(levels))
    arranged = view.arranged(integers)
    capacity = max(_LEAST_CAPACITY, arranged.size)
    while True:
        payload = np.empty(capacity, np.uint8)
        length = library().encode(
            address(arranged),
            int(arranged.itemsize == 8),
            len(view.shape) - 1,
            address(view.shape),
            c_int64(view.bands),
            address(view.extents),
            address(payload),
            c_int64(capacity),
        )
        _check_memory(length)
        if length != _TOO_LONG:
            return payload[:length].tobytes()
        capacity *= _GROWTH


def decode(
    payload: bytes,
    shape: Sequence[int],
    levels: Sequence[int],
    dtype: np.dtype[Any],
    halvings: Sequence[int] = (),
) -> Integers:
    """Array of int32 or int64 from what `encode` made of it; of other bytes, some integers.

    With `halvings` of the axes only the mean part that these leave is complete: nothing is decoded
    beyond its last band.
    """
    view = geometry(tuple(shape), tuple(levels))
    bands = view.bands
    if any(halvings):
        inner = [axis for axis, count in enumerate(levels) if count]
        some = (tuple(each[axis] for axis in inner) for each in (shape, levels, halvings))
        bands = bands_until(*some)
    integers = np.zeros([shape[axis] for axis in view.order], dtype)
    content = np.frombuffer(payload, np.uint8)
    answer = library().decode(
        address(integers),
        int(dtype.itemsize == 8),
        len(view.shape) - 1,
        address(view.shape),
        c_int64(bands),
        address(view.extents),
        address(content),
        c_int64(len(content)),
    )
    _check_memory(answer)
    return view.restored(integers)


def _check_memory(answer: int) -> None:
    if answer == _NO_MEMORY:
        raise MemoryError("no memory for the entropy coding of an array")

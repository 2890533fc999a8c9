"""Chunks to the bit: differences of integers or none, and zstd; or the bytes as they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numcodecs.blosc import Blosc

from romzarr.coding.exact import QUICK_LEVEL, ExactCoding, Numbers, encode_exact, from_integers
from romzarr.coding.tiles import cube
from romzarr.contracts import Region
from romzarr.errors import CodecError

# Blosc compresses no more bytes at once, and its head takes so many.
MOST_BYTES, _HEAD = (1 << 31) - 17, 16
# Values on which ways of coding are tried.
_TRIED = 1 << 18


def middle_of(shape: Sequence[int]) -> Region:
    """A region about the middle of a chunk, small enough to try on it what the chunk needs."""
    part = cube(shape, _TRIED)
    return tuple(slice((n - k) // 2, (n - k) // 2 + k) for n, k in zip(shape, part, strict=True))


def encode_bits(values: Numbers) -> bytes:
    """Code an array to the bit: a byte that says along which axes differences are, then zstd.

    Of the ways to do it, the smallest on a part of the array is taken.

    Parameters
    ----------
    values : ndarray of numbers or booleans, at least one and at most `MOST_BYTES`
        Of at most eight axes.
    """
    every = tuple(range(values.ndim))
    ways = [
        ExactCoding(axes, shuffle)
        for axes in dict.fromkeys(((), every[-1:], every[:1], every))
        for shuffle in ("shuffle", "bitshuffle")
    ]
    part = values[middle_of(values.shape)]
    best = min(ways, key=lambda way: len(encode_exact(part, part.shape, way, QUICK_LEVEL)))
    content = encode_exact(values, values.shape, best, QUICK_LEVEL)
    return bytes([sum(1 << axis for axis in best.axes)]) + content


def decode_bits(content: bytes, shape: Sequence[int], dtype: np.dtype[Any]) -> Numbers:
    """The array that `encode_bits` was given.

    Raises
    ------
    CodecError
        If `content` is nothing that `encode_bits` returns for such an array.
    """
    axes = [axis for axis in range(8) if content[:1] and content[0] >> axis & 1]
    frame, size = content[1:], math.prod(shape) * dtype.itemsize
    # Blosc believes what its head says, which is looked at before anything is allocated.
    sizes = np.frombuffer(frame[4:_HEAD], "<u4") if len(frame) >= _HEAD else np.zeros(3, "<u4")
    if sizes[0] != size or sizes[2] != len(frame) or any(axis >= len(shape) for axis in axes):
        raise CodecError(
            f"a chunk of {size} bytes: its lossless part says {sizes[0]} bytes and is {len(frame)} "
            "long; it is damaged"
        )
    try:
        plain = Blosc().decode(frame)
    except (RuntimeError, ValueError) as error:
        raise CodecError(f"a chunk of {size} bytes: its lossless part is damaged") from error
    integers = np.frombuffer(plain, f"<u{dtype.itemsize}").reshape(shape)
    native = integers.astype(integers.dtype.newbyteorder("="))
    if dtype.kind == "b":
        return np.asarray(from_integers(native, axes, np.dtype(np.uint8)) != 0)
    return from_integers(native, axes, dtype.newbyteorder("="))

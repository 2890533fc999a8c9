"""A chunk as bytes, within bounds of its own, and back: what `romzarr.Codec` writes.

The first byte says the version, in its upper half, and how the chunk is kept, in the lower; what
follows is in the format's page (`codecs/FORMAT.md`).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from romzarr.coding.chunks.bounds import Allowed, Bounds
from romzarr.coding.chunks.exact import MOST_BYTES, decode_bits, encode_bits
from romzarr.coding.chunks.gaps import Gaps, decode_gaps, encode_gaps, filled, gaps_in
from romzarr.coding.chunks.lossy import decode_numbers, encode_numbers
from romzarr.contracts import Floats
from romzarr.errors import CodecError, StoreError

VERSION = 1
# Axes longer than one that are seen as such; each doubles the number of bands and more.
_MOST_AXES = 4
# What takes more than this share of its bytes may take fewer to the bit.
_SMALL = 0.4


class Kind(IntEnum):
    """How a chunk is kept. Numbers are part of the format."""

    RAW = 0
    EXACT = 1
    NUMBERS = 2
    GAPS = 3


def check_dtype(dtype: np.dtype[Any]) -> None:
    """Refuse what is neither numbers, booleans nor times.

    Raises
    ------
    CodecError
    """
    widest = 16 if dtype.kind == "c" else 8
    if dtype.kind not in "fiubcmM" or dtype.itemsize > widest:
        raise CodecError(
            f"romzarr.Codec: codes floats and complex numbers of float16, float32 and float64, "
            f"integers, booleans and times, not {dtype}; leave this array to another codec"
        )


def encode_chunk(values: NDArray[Any], bounds: Bounds) -> bytes:
    """Code a chunk so that it keeps all bounds, or to the bit where these are 0 or cannot be kept.

    Parameters
    ----------
    values : ndarray
        Of any shape and byte order; all but floats are kept to the bit. NaN, infinities, and a
        known fill value that stands out of all others are kept to the bit, and no bound counts
        them.
    bounds : Bounds

    Returns
    -------
    bytes
        One more than those of the values at most.

    Raises
    ------
    CodecError
        If the dtype is none that can be coded.
    """
    check_dtype(values.dtype)
    plain = np.asarray(values, values.dtype.newbyteorder("<"), order="C")
    if not plain.size:
        return _as(Kind.RAW, b"")
    seen = _seen(np.asarray(values, values.dtype.newbyteorder("="), order="C"))
    content = _lossy(seen, bounds) if seen.dtype.kind == "f" and bounds.given() else None
    if content is None or len(content) > _SMALL * plain.nbytes:
        exact = [_as(Kind.EXACT, encode_bits(seen))] if plain.nbytes <= MOST_BYTES else []
        every = [content or _as(Kind.RAW, plain.tobytes()), *exact]
        content = min(every, key=len)
    return content if len(content) <= plain.nbytes else _as(Kind.RAW, plain.tobytes())


def decode_chunk(content: bytes, shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The chunk that `encode_chunk` made `content` of, within its bounds.

    Nothing is larger on the way than some arrays of `shape`, whatever `content` is.

    Raises
    ------
    CodecError
        If `content` is of another version, another shape or dtype, or damaged. Not all damage can
        be found without a checksum.
    """
    check_dtype(dtype)
    if not content or content[0] >> 4 != VERSION:
        raise CodecError(
            f"romzarr.Codec: a chunk begins with {content[:1]!r}, which is no version that this "
            f"romzarr reads ({VERSION}); install a newer one, or the chunk is damaged"
        )
    native = dtype.newbyteorder("=")
    try:
        found = _decoded(content[0] & 15, content[1:], shape, native)
    except StoreError as error:
        raise CodecError(f"romzarr.Codec: {error}") from error
    return found.astype(dtype, copy=False)


def _as(kind: Kind, content: bytes) -> bytes:
    return bytes([VERSION << 4 | kind]) + content


def _seen_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Times count as integers, and complex numbers as the bits of pairs."""
    if dtype.kind in "mM":
        return np.dtype(np.int64)
    return np.dtype(f"u{dtype.itemsize // 2}") if dtype.kind == "c" else dtype


def _seen(values: NDArray[Any]) -> NDArray[Any]:
    """The chunk as it is coded: no axes of length one, and few others."""
    shape = _seen_shape(values.shape, values.dtype)
    return values.reshape(-1).view(_seen_dtype(values.dtype)).reshape(shape)


def _seen_shape(shape: Sequence[int], dtype: np.dtype[Any]) -> tuple[int, ...]:
    long = [*[n for n in shape if n != 1], *([2] if dtype.kind == "c" else [])] or [1]
    together = max(0, len(long) - _MOST_AXES) + 1
    return (math.prod(long[:together]), *long[together:])


def _lossy(values: Floats, bounds: Bounds) -> bytes | None:
    """The chunk within its bounds; None where it is better kept to the bit."""
    try:
        gaps = gaps_in(values)
    except CodecError:
        return None
    if gaps is None:
        content = _numbers(values, None, bounds)
        return None if content is None else _as(Kind.NUMBERS, content)
    content = _beside(values, gaps, bounds)
    if content is None:
        return None
    kept = encode_gaps(gaps)
    return _as(Kind.GAPS, struct.pack("<I", len(kept)) + kept + content)


def _beside(values: Floats, gaps: Gaps, bounds: Bounds) -> bytes | None:
    """All numbers beside gaps; nothing where there are none."""
    present = gaps.present
    if not present.any():
        return b""
    return _numbers(filled(values, present), gaps, bounds)


def _numbers(values: Floats, gaps: Gaps | None, bounds: Bounds) -> bytes | None:
    present = None if gaps is None else gaps.present
    some = values if present is None else values[present]
    allowed = Allowed.of(some, bounds)
    return None if allowed.lossless else encode_numbers(values, present, allowed)


def _decoded(kind: int, content: bytes, shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]:
    size = math.prod(shape) * dtype.itemsize
    if kind == Kind.RAW:
        if len(content) != size:
            raise CodecError(f"a chunk has {len(content)} bytes of {size}; it is damaged")
        plain = np.frombuffer(content, dtype.newbyteorder("<")).reshape(shape)
        return plain.astype(dtype)
    inner, seen = _seen_dtype(dtype), _seen_shape(shape, dtype)
    if not size or (kind != Kind.EXACT and inner.kind != "f"):
        raise CodecError(f"a chunk of {tuple(shape)} {dtype} has a wrong kind; it is damaged")
    return _read(kind, content, seen, inner).reshape(-1).view(dtype).reshape(shape)


def _read(kind: int, content: bytes, shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]:
    if kind == Kind.EXACT:
        return decode_bits(content, shape, dtype)
    if kind == Kind.NUMBERS:
        return decode_numbers(content, shape, dtype)
    if kind != Kind.GAPS or len(content) < 4:
        raise CodecError(f"a chunk is of an unknown kind {kind}, or cut off; it is damaged")
    (length,) = struct.unpack_from("<I", content)
    gaps = decode_gaps(content[4 : 4 + length], shape, dtype)
    rest = content[4 + length :]
    found = decode_numbers(rest, shape, dtype) if rest else np.zeros(shape, dtype)
    gaps.put_into(found)
    return found

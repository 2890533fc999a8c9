"""The codec of numcodecs, for Zarr v2 and all who call its codecs: `romzarr.NumcodecsCodec`.

Its bytes say dtype, order and shape before those of the chunk: two letters, the kind and itemsize
of the dtype, flags, the number of axes, and their lengths, four bytes each.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
from numcodecs.abc import Codec
from numcodecs.compat import ensure_contiguous_ndarray_like, ndarray_copy
from numcodecs.registry import register_codec
from numpy.typing import NDArray

from romzarr.coding.chunks.bounds import Bounds
from romzarr.coding.chunks.chunk import check_dtype, decode_chunk, encode_chunk
from romzarr.errors import CodecError

_HEAD = struct.Struct("<2scBBB")
_SIGNATURE = b"RZ"
_BIG_ENDIAN, _FORTRAN = 1, 2
# As many axes as arrays of NumPy have, and bytes as other codecs of numcodecs do.
_MOST_AXES, _MOST_BYTES = 64, (1 << 31) - 1


class NumcodecsCodec(Codec):  # type: ignore[misc]
    """Codes each chunk for itself, within bounds on its error: `romzarr.Codec` for numcodecs.

    A compressor of Zarr v2 arrays, or the first filter of those of others; registered with
    numcodecs as "romzarr". Chunks are arrays: what has become bytes on the way is kept to the bit.

    Parameters
    ----------
    tolerance, max_error, range_error : float, optional
        As those of `romzarr.Codec`.

    Raises
    ------
    CodecError
        A `ValueError`, if a bound is negative or not finite.
    """

    codec_id = "romzarr"

    def __init__(
        self,
        *,
        tolerance: float | None = None,
        max_error: float | None = None,
        range_error: float | None = None,
    ) -> None:
        self._bounds = Bounds(tolerance, max_error, range_error)

    def encode(self, buf: Any) -> bytes:
        """Code an array, or anything with a buffer.

        Raises
        ------
        CodecError
            If it holds neither numbers, booleans nor times, or 2 GiB or more.
        """
        values = np.asarray(buf)
        check_dtype(values.dtype)
        if values.dtype.kind in "mM":
            # Whoever asked for times views them as such again.
            values = values.view(f"{values.dtype.str[0]}i8")
        if _most_bytes(values.shape, values.dtype) > _MOST_BYTES:
            raise CodecError(
                f"romzarr: a chunk has {values.nbytes} bytes, at most {_MOST_BYTES} are allowed; "
                "take smaller chunks"
            )
        dtype, fortran = values.dtype, values.flags.f_contiguous and not values.flags.c_contiguous
        flags = _BIG_ENDIAN * (dtype.str[0] == ">") + _FORTRAN * fortran
        head = _HEAD.pack(_SIGNATURE, dtype.kind.encode(), dtype.itemsize, flags, values.ndim)
        lengths = struct.pack(f"<{values.ndim}I", *values.shape)
        return head + lengths + encode_chunk(values, self._bounds)

    def decode(self, buf: Any, out: Any = None) -> NDArray[Any]:
        """The array that was coded, in its order in memory; copied to `out` if that is given.

        Raises
        ------
        CodecError
            If these are no bytes of this codec, or damaged.
        """
        content = bytes(ensure_contiguous_ndarray_like(buf))
        dtype, shape, fortran = _read_head(content)
        if out is not None and np.asarray(out).nbytes != math.prod(shape) * dtype.itemsize:
            raise CodecError(
                f"romzarr: a chunk of {shape} {dtype} does not fit {np.asarray(out).nbytes} bytes"
            )
        start = _HEAD.size + 4 * len(shape)
        values = decode_chunk(content[start:], shape, dtype)
        if fortran:
            values = np.asfortranarray(values)
        return values if out is None else ndarray_copy(values, out)

    def get_config(self) -> dict[str, Any]:
        """What numcodecs makes the same codec of again."""
        return {"id": self.codec_id, **self._bounds.given()}


def _most_bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Bytes of an array, or of one of no length with one index there."""
    return math.prod(max(n, 1) for n in shape) * dtype.itemsize


def _read_head(content: bytes) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    """Dtype and shape that bytes say they are of, and whether in Fortran's order.

    Raises
    ------
    CodecError
    """
    if len(content) < _HEAD.size or content[:2] != _SIGNATURE:
        raise CodecError(f"romzarr: a chunk begins with {content[:6]!r}; it is of another codec")
    _, kind, itemsize, flags, axes = _HEAD.unpack_from(content)
    if axes > _MOST_AXES or len(content) < _HEAD.size + 4 * axes:
        raise CodecError(f"romzarr: a chunk says that it has {axes} axes; it is damaged")
    shape = struct.unpack_from(f"<{axes}I", content, _HEAD.size)
    try:
        dtype = np.dtype(f"{'>' if flags & _BIG_ENDIAN else '<'}{kind.decode()}{itemsize}")
    except (TypeError, ValueError) as error:
        raise CodecError(f"romzarr: a chunk has dtype {kind!r}{itemsize}; it is damaged") from error
    check_dtype(dtype)
    if _most_bytes(shape, dtype) > _MOST_BYTES:
        raise CodecError(f"romzarr: a chunk has the shape {shape} of {dtype}; it is damaged")
    return dtype, shape, bool(flags & _FORTRAN)


register_codec(NumcodecsCodec)

"""Codecs of single chunks beside `romzarr.Codec`: what each needs for a bound on every value.

Each is called as its own documentation says for such a bound, in all of its modes that have one,
and of these the fewest bytes count. SPERR sees dims before the last two as one, which is all that
it allows; chunks of one dim it does not take.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks import peers

Array = NDArray[Any]
Decode = Callable[[bytes, Array], Array]


@dataclass(frozen=True)
class ChunkCodec:
    """`encode(array, mode, bound)` keeps a bound on every value, as far as it does what it says;
    `decode(content, like)` gives back an array of the shape and dtype of `like`."""

    package: str | None
    modes: tuple[str, ...]
    encode: Callable[[Array, str, float], bytes]
    decode: Decode


def _sperr_shape(array: Array) -> tuple[int, ...]:
    if array.ndim < 2:
        raise ValueError("SPERR takes chunks of two or three dims")
    return (-1, *array.shape[-2:]) if array.ndim > 3 else array.shape


def _encode_sperr(array: Array, mode: str, bound: float) -> bytes:
    import hdf5plugin

    seen = array.reshape(_sperr_shape(array))
    with peers._memory() as file:
        setting = hdf5plugin.Sperr(absolute=bound, swap=True)
        dataset = file.create_dataset("x", data=seen, chunks=seen.shape, **setting)
        file.flush()
        return bytes(dataset.id.read_direct_chunk((0,) * seen.ndim)[1])


def _decode_sperr(content: bytes, like: Array) -> Array:
    import hdf5plugin

    shape = like.reshape(_sperr_shape(like)).shape
    setting = hdf5plugin.Sperr(rate=1, swap=True)
    with peers._memory() as file:
        dataset = file.create_dataset("x", shape, like.dtype, chunks=shape, **setting)
        dataset.id.write_direct_chunk((0,) * len(shape), content)
        values: Array = dataset[...]
    return values.reshape(like.shape)


def _encode_zfp(array: Array, mode: str, bound: float) -> bytes:
    import zfpy

    return bytes(zfpy.compress_numpy(array, tolerance=bound, write_header=True))


def _decode_zfp(content: bytes, like: Array) -> Array:
    import zfpy

    values: Array = zfpy.decompress_numpy(content)
    return values


def _bit_rounded(array: Array, bound: float) -> Array:
    """Values with the fewest bits of the mantissa that keep the bound."""
    unsigned = np.dtype(f"u{array.itemsize}")
    mantissa = np.finfo(array.dtype).nmant
    bits = array.view(unsigned)
    for kept in range(mantissa):
        drop = unsigned.type(mantissa - kept)
        one = unsigned.type(1)
        # To the nearest, to even where two are.
        half = (one << (drop - one)) - one + ((bits >> drop) & one)
        found: Array = (((bits + half) >> drop) << drop).view(array.dtype)
        if np.abs(found.astype(np.float64) - array).max() <= bound:
            return found
    return array


def _encode_pcodec(array: Array, mode: str, bound: float) -> bytes:
    from pcodec import ChunkConfig, standalone

    if mode == "multiples":
        # The plainest quantiser: with it, too, all loss is before the codec. Decoded in float64.
        integers = np.rint(array.astype(np.float64) / (2 * bound * (1 - 1e-6)))
        head = struct.pack("<d", 2 * bound * (1 - 1e-6))
        values = integers.astype(np.int64).ravel()
    else:
        head, values = b"", _bit_rounded(array, bound).ravel()
    return head + bytes(standalone.simple_compress(values, ChunkConfig()))


def _decode_pcodec(content: bytes, like: Array) -> Array:
    from pcodec import standalone

    step = struct.unpack_from("<d", content)[0] if content[:3] != b"pco" else None
    found = standalone.simple_decompress(content if step is None else content[8:])
    values = found if step is None else found * step
    return np.asarray(values, like.dtype).reshape(like.shape)


def _encode_rounding(array: Array, mode: str, bound: float) -> bytes:
    from numcodecs.blosc import Blosc

    compressor = Blosc("zstd", 9, getattr(Blosc, mode))
    return bytes(compressor.encode(_bit_rounded(array, bound)))


def _decode_rounding(content: bytes, like: Array) -> Array:
    from numcodecs.blosc import Blosc

    return np.frombuffer(Blosc().decode(content), like.dtype).reshape(like.shape)


def _encode_romzarr(array: Array, mode: str, bound: float) -> bytes:
    import romzarr

    return romzarr.NumcodecsCodec(max_error=bound).encode(array)


def _decode_romzarr(content: bytes, like: Array) -> Array:
    import romzarr

    return romzarr.NumcodecsCodec().decode(content)


def _decode_sz3(content: bytes, like: Array) -> Array:
    return peers._decode_sz3(content)


SZ3_MODES = ("INTERP_LORENZO", "INTERP", "LORENZO_REG")
CODECS: dict[str, ChunkCodec] = {
    "romzarr": ChunkCodec(None, ("",), _encode_romzarr, _decode_romzarr),
    "SZ3": ChunkCodec("pysz", SZ3_MODES, peers._encode_sz3, _decode_sz3),
    "SPERR": ChunkCodec("hdf5plugin", ("absolute",), _encode_sperr, _decode_sperr),
    "ZFP": ChunkCodec("zfpy", ("accuracy",), _encode_zfp, _decode_zfp),
    "pcodec": ChunkCodec("pcodec", ("multiples", "rounding"), _encode_pcodec, _decode_pcodec),
    "bit rounding": ChunkCodec(
        "numcodecs", ("SHUFFLE", "BITSHUFFLE"), _encode_rounding, _decode_rounding
    ),
}


def within_mean(
    encode: Callable[[float], bytes], error: Callable[[bytes], float], bound: float, first: float
) -> bytes:
    """The fewest bytes of a codec with a mean error of at most `bound`, by its absolute setting."""

    def trial(scale: float) -> peers.Trial:
        content = encode(scale)
        found[scale] = content
        return peers.Trial(scale, len(content), error(content))

    found: dict[float, bytes] = {}
    tried = peers.search(trial, trial(first), bound, peers.TRIALS_LARGE)
    best = peers.smallest(tried, bound)
    if best is None or not math.isfinite(best.size):
        raise ValueError("no setting meets the error")
    return found[best.scale]

"""Coding of an array within a quantisation step: wavelets, rounding, range coding."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.coding.contexts import traverse
from pipeline.coding.rangecoder import Decoder, Encoder, Integers
from pipeline.coding.wavelet import forward, inverse
from pipeline.contracts import Floats

# Coefficients up to this share of a step above a multiple are rounded down: they cost
# fewer bits than they are worth, and the decoder knows where in its bin one is likely to lie.
ROUNDING = 0.42
_HEADER = struct.Struct("<2B")


def encode_field(values: Floats, step: float, levels: Sequence[int]) -> bytes:
    """Code an array so that `decode_field` gives it back with errors of about ``step / 4``.

    Parameters
    ----------
    values : ndarray of finite floats
    step : float
        Quantisation step of the wavelet coefficients, which have the norm of the values to
        a few per cent: the mean square error is at most about ``step**2 / 10``.
    levels : sequence of int
        Levels of the transform per axis (`pipeline.coding.wavelet.depth`); 0 along axes
        without smoothness, such as that of POD modes.
    """
    q, head = _quantised(values, step, levels)
    s = np.abs(q)
    encoder = Encoder()
    traverse(s, levels, encoder)
    encoder.transfer_bits((q[s > 0] < 0).astype(np.int32))
    return head + encoder.finish()


def _quantised(values: Floats, step: float, levels: Sequence[int]) -> tuple[Integers, bytes]:
    c = forward(values.astype(np.float64), levels)
    q = quantise(c, step)
    s = np.abs(q)
    ratio = np.abs(c) / step - s
    shifts = [float(ratio[p].mean()) if p.any() else 0.0 for p in (s == 1, s > 1)]
    return q, _HEADER.pack(*(int(np.clip(round(128 + 256 * v), 0, 255)) for v in shifts))


def _restored(
    s: Integers, signs: Integers, head: bytes, step: float, levels: Sequence[int], dtype: Any
) -> Floats:
    first, rest = _HEADER.unpack(head)
    c = s.astype(dtype)
    c[s == 1] += (first - 128) / 256
    c[s > 1] += (rest - 128) / 256
    c *= step
    c[s > 0] *= 1 - 2 * signs
    return inverse(c, levels)


def decode_field(
    content: bytes, shape: Sequence[int], step: float, levels: Sequence[int], dtype: np.dtype[Any]
) -> Floats:
    """Array of `shape` and `dtype` (float32 or float64) from what `encode_field` made of it."""
    decoder = Decoder(content[_HEADER.size :])
    s = np.zeros(shape, np.int32)
    traverse(s, levels, decoder)
    signs = np.empty(np.count_nonzero(s), np.int32)
    decoder.transfer_bits(signs)
    return _restored(s, signs, content[: _HEADER.size], step, levels, dtype)


def coded_field(
    values: Floats, step: float, levels: Sequence[int], dtype: np.dtype[Any]
) -> Floats:
    """What `decode_field` will give back, without the entropy coding in between."""
    q, head = _quantised(values, step, levels)
    s = np.abs(q)
    return _restored(s, (q[s > 0] < 0).astype(np.int32), head, step, levels, dtype)


def quantise(coefficients: Floats, step: float) -> Integers:
    q = np.floor(np.abs(coefficients) * (1 / step) + ROUNDING).astype(np.int32)
    return np.where(coefficients < 0, -q, q)

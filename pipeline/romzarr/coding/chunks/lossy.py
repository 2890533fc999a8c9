"""One chunk of numbers with the fewest bytes that keep its bounds: wavelets, and corrections.

A bound on the mean error alone is met by the step of the wavelet coefficients. One on single values
is kept by a step so large that some values are off by more, and corrections of these: whole
multiples of twice what may be off, coded where most are zero. How large a step takes fewest bytes
differs from chunk to chunk, so a few are tried, on a part of large chunks.

What is written was decoded before and compared with the values, after its rounding to their dtype.

References
----------
.. [1] S. Li, P. Lindstrom, J. Clyne, "Lossy scientific data compression with SPERR", IPDPS 2023,
   1007-1017 (wavelets, and outliers that are corrected).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from romzarr.coding.bands import depth
from romzarr.coding.chunks.bounds import Allowed
from romzarr.coding.chunks.exact import middle_of
from romzarr.coding.field import coded_field, decode_field, encoded_and_decoded
from romzarr.coding.residuals import rounded_residuals
from romzarr.contracts import Floats, Mask
from romzarr.errors import CodecError, PipelineError, TooFineError
from romzarr.numerics.rounding import rounded

# Root of the mean squared error, as a share of the step, where most coefficients are not zero.
_USUAL_RMS = 0.29
# How close to the bound on the mean error is close enough, and trials to get there.
_CLOSE, _NEARLY, _TRIALS = 0.99, 1 - 1e-8, 6
_BEYOND = 2.0**20
# Steps in units of the bound on single values: the first that is tried (best for most of our
# chunks of 10 kB to 10 MB at 1e-2 to 1e-4 of the range are 1.75 to 4), the factor between
# neighbours, about which bytes hardly change, and how often a larger or smaller one is taken.
_FIRST, _FACTOR, _MOST_MOVES = 2.5, 1.35, 6
# float32 is exact enough where the largest value has so many steps at most.
_EXACT_ENOUGH = 2.0**15
# Neighbours along an axis that differ by this share of what strangers would are no reason for a
# transform; less than all, as axes are short.
_STRANGERS = 0.9
_WIDE, _CORRECTED = 1, 2


class _Numbers(NamedTuple):
    """The chunk: its values, filled in where they are not present, and what may be lost."""

    values: Floats
    present: Mask | None
    allowed: Allowed
    offset: float
    levels: tuple[int, ...]


@dataclass(frozen=True)
class _Way:
    """How to code: step of the coefficients, of corrections (0: none), dtype of the arithmetic."""

    step: float
    correction: float
    arithmetic: np.dtype[Any]


def encode_numbers(values: Floats, present: Mask | None, allowed: Allowed) -> bytes | None:
    """Code finite values within what is allowed.

    Parameters
    ----------
    values : ndarray of float16, float32 or float64, in native byte order
    present : ndarray of bool, optional
        Where values count; None: everywhere.
    allowed : Allowed

    Returns
    -------
    bytes, or None where the bounds are too close to the rounding of the values to be kept
    """
    offset = float(_number(values.dtype, allowed.middle))
    numbers = _Numbers(values, present, allowed, offset, _levels(values, allowed))
    try:
        way = _fewest_bytes(numbers)
        while way is not None:
            content, decoded = _coded(numbers, way)
            if allowed.kept(values, decoded, present):
                return content
            way = _finer(way)
    # Neither is wrong: these values need more digits than the integers have, or the dtype.
    except PipelineError:
        return None
    return None


def decode_numbers(content: bytes, shape: Sequence[int], dtype: np.dtype[Any]) -> Floats:
    """The values that `encode_numbers` compared with its own, to the bit, on every machine.

    Raises
    ------
    CodecError, StoreError
        If `content` is nothing that it returns.
    """
    size = _number_size(dtype)
    head = struct.Struct("<BBdd" if size == 8 else "<BBff")
    if len(content) < head.size:
        raise CodecError("a chunk is shorter than its head; it is damaged")
    flags, axes, offset, step = head.unpack_from(content)
    rest, correction = content[head.size :], 0.0
    if flags & _CORRECTED:
        correction, length = struct.unpack("<dI", rest[:12]) if len(rest) >= 12 else (0.0, 0)
        rest, corrections = rest[12 : 12 + length], rest[12 + length :]
    if not (math.isfinite(offset) and 0 < step < math.inf and 0 <= correction < math.inf):
        raise CodecError(
            f"a chunk has steps {step} and {correction}, offset {offset}; it is damaged"
        )
    levels = tuple(depth(n) if axes >> axis & 1 else 0 for axis, n in enumerate(shape))
    arithmetic = np.dtype(np.float64 if flags & _WIDE else np.float32)
    total = decode_field(rest, shape, step, levels, arithmetic) + np.float64(offset)
    if correction:
        plain = (0,) * len(shape)
        # Of damaged bytes, sums may be beyond float64.
        with np.errstate(over="ignore"):
            total += decode_field(corrections, shape, correction, plain, np.dtype(np.float64))
    return rounded(total, dtype)


def _number_size(dtype: np.dtype[Any]) -> int:
    """Bytes of the numbers in a head."""
    return max(4, dtype.itemsize)


def _number(dtype: np.dtype[Any], value: float) -> np.floating[Any]:
    """A number as a head has it, or the largest there is."""
    kind = np.float64 if _number_size(dtype) == 8 else np.float32
    return kind(min(value, float(np.finfo(kind).max)))


def _levels(values: Floats, allowed: Allowed) -> tuple[int, ...]:
    """Levels along each axis; 0 where neighbours are no more alike than strangers."""
    part = values[middle_of(values.shape)].astype(np.float64)
    some = (part - allowed.middle) / allowed.unit
    spread = np.var(some)
    levels = []
    for axis, length in enumerate(values.shape):
        differences = np.diff(some, axis=axis)
        alike = np.mean(differences**2) <= 2 * _STRANGERS * spread if differences.size else True
        levels.append(depth(length) if alike else 0)
    return tuple(levels)


def _fewest_bytes(numbers: _Numbers) -> _Way | None:
    """The way to code a chunk, from trials on the whole or on its middle."""
    allowed, values = numbers.allowed, numbers.values
    step = _mean_step(numbers) if allowed.rms < math.inf else math.inf
    if allowed.single == math.inf:
        return _way(numbers, step, 0.0)
    # Rounding to the dtype, and the last bits of the arithmetic before.
    dtype = np.finfo(values.dtype)
    rounding = float(dtype.eps) * allowed.greatest / 2 + float(dtype.smallest_subnormal)
    exact = 8 * float(np.finfo(np.float64).eps) * allowed.greatest
    correction = 2 * (allowed.single - rounding - exact)
    if not 0 < correction < math.inf:
        return None
    region = middle_of(values.shape)
    present = None if numbers.present is None else numbers.present[region]
    levels = tuple(
        depth(part.stop - part.start) if level else 0
        for part, level in zip(region, numbers.levels, strict=True)
    )
    part = numbers._replace(values=values[region], present=present, levels=levels)
    step = _cheapest_step(part, min(_FIRST * allowed.single, step), step, correction)
    return _way(numbers, step, correction)


def _cheapest_step(numbers: _Numbers, first: float, most: float, correction: float) -> float:
    """The step with fewest bytes among neighbours by a factor, none above `most`."""

    def size(step: float) -> int:
        return len(_coded(numbers, _way(numbers, step, correction))[0])

    sizes = {first: size(first)}
    for factor in (_FACTOR, 1 / _FACTOR):
        step = first
        for _ in range(_MOST_MOVES):
            further = step * factor
            if further > most:
                break
            sizes[further] = size(further)
            if sizes[further] >= sizes[step]:
                break
            step = further
        # Larger steps are better: smaller ones are not.
        if step != first:
            return step
    return min(sizes, key=lambda step: sizes[step])


def _mean_step(numbers: _Numbers) -> float:
    """The largest step, to a per cent or so, with a mean error within the bound.

    Secants through logarithms of step and error, which is nearly a power of the step.
    """
    rms, best, power = numbers.allowed.rms, 0.0, 1.0
    step = rms / _USUAL_RMS
    last: tuple[float, float] | None = None
    for _ in range(_TRIALS):
        error = _mean_error(numbers, step)
        if error <= _NEARLY * rms:
            best = max(best, step)
            if error >= _CLOSE * rms:
                break
        if last is not None and error > 0 and last[1] > 0 and step != last[0]:
            power = math.log(error / last[1]) / math.log(step / last[0])
            # All zeros, or rounding alone, tell nothing.
            power = min(max(power, 0.3), 1.5)
        last = step, error
        aim = 0.5 * (1 + _CLOSE) * rms / max(error, rms / 16)
        # Steps far beyond the values lose all of these, however large they are.
        step = min(step * aim ** (1 / power), _BEYOND * numbers.allowed.unit)
    return best or step / 2


def _mean_error(numbers: _Numbers, step: float) -> float:
    """Root of the mean squared error with a step, after rounding to the dtype."""
    way = _way(numbers, step, 0.0)
    decoded = coded_field(_centred(numbers, way), way.step, numbers.levels, way.arithmetic)
    total = rounded(decoded + np.float64(numbers.offset), numbers.values.dtype)
    error = total.astype(np.float64) - numbers.values
    if numbers.present is None:
        return numbers.allowed.rms_of(error)
    present = numbers.present
    share = np.count_nonzero(present) / present.size
    return numbers.allowed.rms_of(np.where(present, error, 0.0)) / math.sqrt(share)


def _way(numbers: _Numbers, step: float, correction: float) -> _Way:
    step = float(_number(numbers.values.dtype, step))
    if not step:
        raise TooFineError(f"a step is below all numbers of {numbers.values.dtype}")
    farthest = numbers.allowed.farthest
    # Values near the largest float32 are beyond it on their way.
    narrow = farthest <= _EXACT_ENOUGH * step and farthest < 2.0**100
    return _Way(step, correction, np.dtype(np.float32 if narrow else np.float64))


def _finer(way: _Way) -> _Way | None:
    """What to try where rounding broke a bound: another arithmetic, then nothing."""
    if way.arithmetic == np.float32:
        return replace(way, arithmetic=np.dtype(np.float64), step=way.step * 0.99)
    return None


def _centred(numbers: _Numbers, way: _Way) -> Floats:
    apart = np.subtract(numbers.values, numbers.offset, dtype=np.float64)
    return apart.astype(way.arithmetic, copy=False)


def _coded(numbers: _Numbers, way: _Way) -> tuple[bytes, Floats]:
    """Content, and what it decodes to."""
    values, arithmetic = numbers.values, way.arithmetic
    field, decoded = encoded_and_decoded(
        _centred(numbers, way), way.step, numbers.levels, arithmetic
    )
    total = decoded + np.float64(numbers.offset)
    flags = _WIDE * (arithmetic == np.float64)
    residuals = _residuals(numbers, total, way.correction)
    tail = field
    if residuals is not None:
        corrections, added = encoded_and_decoded(
            residuals, way.correction, (0,) * residuals.ndim, np.dtype(np.float64)
        )
        total += added
        flags |= _CORRECTED
        tail = struct.pack("<dI", way.correction, len(field)) + field + corrections
    axes = sum(1 << axis for axis, level in enumerate(numbers.levels) if level)
    parameters = b"".join(
        np.asarray(_number(values.dtype, p)).astype(f"<f{_number_size(values.dtype)}").tobytes()
        for p in (numbers.offset, way.step)
    )
    return bytes([flags, axes]) + parameters + tail, rounded(total, values.dtype)


def _residuals(numbers: _Numbers, total: Floats, correction: float) -> Floats | None:
    """What has to be added to decoded values; None where nothing has, or there is no such bound."""
    if not correction:
        return None
    difference = numbers.values - total
    if numbers.present is not None:
        difference = np.where(numbers.present, difference, 0.0)
    found = rounded_residuals(difference, correction)
    return found if found.any() else None

"""Coding of an array within a quantisation step: wavelets, rounding, range coding.

A payload is a head of two bytes and a stream of the range coder. The lowest bit of the first
byte says whether sizes above 2**20 occur; the other seven and the second byte say how far the
sizes 1, and those above, lie from their multiples of the step on average. An array of zeros is
the head alone.

Columns of a table may be extrapolated by polynomials along its first axis instead of transformed:
in place of their wavelet coefficients stand finite differences of their integers, which are kept
exactly (see `romzarr.coding.differences`).

Decoding finds the same integers on every machine (see `romzarr.coding.rangecoder`); the values
are then the same to rounding, and to the bit where the same NumPy runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from romzarr.coding.coefficients import Coefficients
from romzarr.coding.contexts import capped, flags_of, no_flags, traverse
from romzarr.coding.differences import LARGEST, differenced, summed
from romzarr.coding.rangecoder import NARROW, WIDE, Decoder, Encoder, Integers
from romzarr.coding.wavelet import bands, forward
from romzarr.contracts import Floats, Region
from romzarr.errors import StoreError, TooFineError

# Squared steps of error that a bit is worth. At high rates a bit more for all divides the
# error, a twelfth of a squared step, by four: 2 ln(2) / 12 = 0.116. The best is broad about 0.1.
WORTH = 0.1
# Least mean size that is believed of a place with nothing but zeros around it. With less,
# sparse noise, where zeros around say nothing, would be rounded down too eagerly.
LEAST_MEAN = 0.1
# Mean sizes around a coefficient are told apart in steps of 1 / _FINENESS.
_FINENESS = 64
# Largest size of narrow coding, which fits all arithmetic into 32 bits, and of any coding.
_NARROW_SIZE, _LARGEST = 2**20, 2**60
_HEAD_BYTES = 2


class _Coded(NamedTuple):
    """What a payload says: the sizes in steps that are not zero, where in the flat array they
    are, and which are `negative`."""

    places: NDArray[np.signedinteger[Any]]
    sizes: Integers
    negative: NDArray[np.int32]
    head: bytes


def encode_field(
    values: Floats, step: float, levels: Sequence[int], orders: Sequence[int] = ()
) -> bytes:
    """Code an array so that `decode_field` gives it back with errors of about ``step / 4``.

    Parameters
    ----------
    values : ndarray of finite floats
    step : float
        Quantisation step of the wavelet coefficients, which have the norm of the values to
        a few per cent: the mean square error is at most about ``step**2 / 10``.
    levels : sequence of int
        Levels of the transform per axis (`romzarr.coding.wavelet.depth`); 0 along axes
        without smoothness, such as that of POD modes.
    orders : sequence of int
        Orders of the differences along the first of two axes, for the leading columns. A column
        of any order but 0 is not transformed, and has errors of at most ``step / 2``.

    Raises
    ------
    ValueError
        If `step` is not a positive number.
    TooFineError
        If a value is not finite or above 2**60 steps, or 2**45 where there are differences.
    """
    array, coded = _quantised(values, step, levels, orders)
    if not len(coded.places):
        return coded.head
    array, levels = _with_an_axis(array, levels)
    encoder = Encoder(_exponents(coded.head))
    traverse(flags_of(array, levels), array.shape, levels, encoder, array.__getitem__)
    encoder.transfer_bits(coded.negative)
    # A stream that is nothing but zeros is empty, but must not be taken for an array of zeros.
    return coded.head + (encoder.finish() or b"\0")


def decode_field(
    content: bytes,
    shape: Sequence[int],
    step: float,
    levels: Sequence[int],
    dtype: np.dtype[Any],
    orders: Sequence[int] = (),
) -> Floats:
    """Array of `shape` and `dtype` (float32 or float64) from what `encode_field` made of it.

    Raises
    ------
    StoreError
        If `content` is not what `encode_field` returns. Not all damage can be found; what is
        returned is finite.
    """
    return decode_coefficients(content, shape, step, levels, dtype, orders).array()


def decode_coefficients(
    content: bytes,
    shape: Sequence[int],
    step: float,
    levels: Sequence[int],
    dtype: np.dtype[Any],
    orders: Sequence[int] = (),
) -> Coefficients:
    """The coefficients of what `decode_field` returns: their `array`, to the bit.

    Those of a table with differences are its values.

    Raises
    ------
    StoreError
        As for `decode_field`; values that are not finite are found by who asks for them.
    """
    _check(step, shape, levels)
    head = bytes(content[:_HEAD_BYTES])
    if len(head) < _HEAD_BYTES:
        raise StoreError("a coded array is too short; the store is damaged")
    integers = np.dtype(np.int64 if _is_wide(head) else np.int32)
    places, sizes = np.zeros(0, _place_type(shape)), np.zeros(0, integers)
    negative = np.zeros(0, np.int32)
    if len(content) > _HEAD_BYTES:
        decoder = Decoder(content[_HEAD_BYTES:], _exponents(head))
        places, sizes = _decoded_sizes(decoder, shape, levels, integers)
        negative = np.empty(len(places), np.int32)
        decoder.transfer_bits(negative)
    return _restored(_Coded(places, sizes, negative, head), shape, step, levels, dtype, orders)


def coded_field(
    values: Floats,
    step: float,
    levels: Sequence[int],
    dtype: np.dtype[Any],
    orders: Sequence[int] = (),
) -> Floats:
    """What `decode_field` will give back, to the bit, without the entropy coding in between."""
    _, coded = _quantised(values, step, levels, orders)
    return _restored(coded, values.shape, step, levels, dtype, orders).array()


def _decoded_sizes(
    decoder: Decoder, shape: Sequence[int], levels: Sequence[int], dtype: np.dtype[Any]
) -> tuple[NDArray[np.signedinteger[Any]], Integers]:
    """Sizes that are not zero, and where they are in the flat array, which is never made."""

    def zeros(region: Region) -> Integers:
        return np.zeros([s.stop - s.start for s in region], dtype)

    shape, levels = shape or (1,), levels or (0,)
    parts = traverse(no_flags(shape, levels), shape, levels, decoder, zeros)
    kind = _place_type(shape)
    places, sizes = [np.zeros(0, kind)], [np.zeros(0, dtype)]
    while parts:
        part = parts.pop()
        some = part.sizes != 0
        sizes.append(part.sizes[some])
        places.append(_flat_places(part.region, shape, kind)[some])
        del part
    found = np.concatenate(places)
    order = np.argsort(found)
    return found[order], np.concatenate(sizes)[order]


def _place_type(shape: Sequence[int]) -> np.dtype[Any]:
    """Integers that hold every place of a flat array of `shape`."""
    return np.dtype(np.int32 if math.prod(shape) < 2**31 else np.int64)


def _flat_places(
    region: Region, shape: Sequence[int], kind: np.dtype[Any]
) -> NDArray[np.signedinteger[Any]]:
    """Places of a region in the flat array of `shape`."""
    stride, places = math.prod(shape), np.zeros((), kind)
    for part, length in zip(region, shape, strict=True):
        stride //= max(1, length)
        places = np.add.outer(places, stride * np.arange(part.start, part.stop, dtype=kind))
    return places


def _with_an_axis(sizes: Integers, levels: Sequence[int]) -> tuple[Integers, Sequence[int]]:
    return (sizes, levels) if sizes.ndim else (sizes.reshape(1), (0,))


def _check(step: float, shape: Sequence[int], levels: Sequence[int]) -> None:
    if not (math.isfinite(step) and step > 0):
        raise ValueError(f"a quantisation step must be a positive number, got {step!r}")
    most = [max(0, length - 1).bit_length() for length in shape]
    if len(levels) != len(shape) or any(not 0 <= k <= m for k, m in zip(levels, most, strict=True)):
        raise ValueError(
            f"levels {tuple(levels)} do not fit the shape {tuple(shape)}; take depth() of each axis"
        )


def _quantised(
    values: Floats, step: float, levels: Sequence[int], orders: Sequence[int]
) -> tuple[Integers, _Coded]:
    """Sizes in steps of all coefficients, and what is to be said of them."""
    _check(step, values.shape, levels)
    with np.errstate(over="ignore", invalid="ignore"):
        array = np.ascontiguousarray(values, np.float64).reshape(values.shape)
        coefficients = forward(array, levels) / step
    if any(orders):
        _put_differences(coefficients, array, step, orders)
    ratios = np.abs(coefficients)
    largest = ratios.max(initial=0.0)
    if not largest < _LARGEST:
        raise TooFineError(
            f"values must be finite and below 2**60 steps of {step!r}; the largest wavelet "
            f"coefficient is {largest:.3g} steps"
        )
    wide = bool(largest >= _NARROW_SIZE)
    sizes = _rounded(ratios, levels, np.dtype(np.int64 if wide else np.int32))
    where = np.flatnonzero(sizes)
    size = sizes.ravel()[where]
    excess, one = ratios.ravel()[where] - size, size == 1
    if any(orders):
        transformed = ~np.isin(where % values.shape[1], np.flatnonzero(orders))
        excess, one = excess[transformed], one[transformed]
    first, others = _mean(excess[one]), _mean(excess[~one])
    head = bytes([2 * _byte(first, 7) + wide, _byte(others, 8)])
    negative = (coefficients.ravel()[where] < 0).astype(np.int32)
    return sizes, _Coded(where, size, negative, head)


def _put_differences(
    coefficients: Floats, values: Floats, step: float, orders: Sequence[int]
) -> None:
    """Overwrite coefficients, in steps, by the differences of the columns that have any."""
    columns, nonzero = _differenced_columns(orders)
    ratios = np.rint(values[:, columns] / step)
    largest = np.abs(ratios).max(initial=0.0)
    if not largest < LARGEST:
        raise TooFineError(
            f"values that are differenced must be finite and below 2**45 steps of {step!r}; the "
            f"largest is {largest:.3g} steps"
        )
    # As floats they are exact, and `_rounded` leaves what is a multiple of the step as it is.
    coefficients[:, columns] = differenced(ratios.astype(np.int64), nonzero)


def _differenced_columns(orders: Sequence[int]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Numbers of the columns of any order but 0, and their orders."""
    columns = np.flatnonzero(orders)
    return columns, np.array(orders, np.intp)[columns]


def _rounded(ratios: Floats, levels: Sequence[int], dtype: np.dtype[Any]) -> Integers:
    """Sizes to the nearest step, or one below where that saves bits worth more than the error.

    How many it saves follows from the mean size of the coefficients around: where they are
    small, a larger one is a surprise. With a geometric distribution of that mean one step
    less saves the same for every size, and the sign besides if nothing is left.

    References
    ----------
    .. [1] G. J. Sullivan, T. Wiegand, "Rate-distortion optimization for video compression",
       IEEE Signal Process. Mag. 15 (1998) 74-90.
    """
    raised = ratios + 0.5
    sizes: Integers = raised.astype(dtype)
    raised -= sizes
    for band in bands(sizes.shape, levels):
        view = sizes[band.region]
        if not view.any():
            continue
        least = _LEAST_ROUNDED.take(_around(view), mode="clip")
        least += np.float32(0.5 * WORTH) * (view == 1)
        # Without effect on zeros: they lie above 1/2, and no bit is worth that.
        view -= raised[band.region] < least
    return sizes


def _around(sizes: Integers) -> Integers:
    """Mean of the two neighbours along every axis, in units of 1 / `_FINENESS`."""
    sizes = capped(sizes)
    total, count = np.zeros_like(sizes), 0
    for axis, length in enumerate(sizes.shape):
        if length > 1:
            along, sums = sizes.swapaxes(0, axis), total.swapaxes(0, axis)
            sums[1:] += along[:-1]
            sums[:-1] += along[1:]
            sums[0] += along[1]
            sums[-1] += along[-2]
            count += 2
    total *= _FINENESS
    total //= max(count, 1)
    return total


def _least_rounded() -> NDArray[np.float32]:
    """Least distance from the middle between two sizes at which the larger is worth its bits."""
    mean = np.maximum(np.arange(64 * _FINENESS) / _FINENESS, LEAST_MEAN)
    return np.asarray(0.5 * WORTH * np.log2((1 + mean) / mean), np.float32)


_LEAST_ROUNDED = _least_rounded()


def _mean(excess: Floats) -> float:
    return float(excess.mean()) if len(excess) else 0.0


def _byte(excess: float, bits: int) -> int:
    """A number from -1/2 to 1/2 in so many bits."""
    half = 1 << (bits - 1)
    return min(max(round(half + 2 * half * excess), 0), 2 * half - 1)


def _excess(byte: int, bits: int) -> float:
    return byte / (1 << bits) - 0.5


def _is_wide(head: bytes) -> bool:
    return bool(head[0] & 1)


def _exponents(head: bytes) -> int:
    return WIDE if _is_wide(head) else NARROW


def _restored(
    coded: _Coded,
    shape: Sequence[int],
    step: float,
    levels: Sequence[int],
    dtype: np.dtype[Any],
    orders: Sequence[int],
) -> Coefficients:
    """Coefficients from sizes and signs, the same way for both who codes and who decodes."""
    first, others = _excess(coded.head[0] >> 1, 7), _excess(coded.head[1], 8)
    size = coded.sizes
    with np.errstate(over="ignore", invalid="ignore"):
        magnitude = np.where(size == 1, first, others)
        magnitude += size
        magnitude *= step
        np.negative(magnitude, out=magnitude, where=coded.negative != 0)
        values = magnitude.astype(dtype, copy=False)
    places = coded.places.astype(_place_type(shape), copy=False)
    found = Coefficients(tuple(shape), tuple(levels), places, values)
    return _with_sums(found, coded, step, orders) if any(orders) else found


def _with_sums(
    found: Coefficients, coded: _Coded, step: float, orders: Sequence[int]
) -> Coefficients:
    """The same with values in place of coefficients: sums of differences where there are any."""
    values = found.array()
    integers = np.zeros(found.shape, np.int64)
    integers.ravel()[found.places] = np.where(coded.negative, -coded.sizes, coded.sizes)
    columns, nonzero = _differenced_columns(orders)
    with np.errstate(over="ignore"):
        values[:, columns] = step * summed(integers[:, columns], nonzero)
    return Coefficients(found.shape, (0, 0), np.arange(values.size), values.ravel())

"""Coding of an array within a quantisation step: wavelets, rounding, entropy coding.

A payload is a head and what `romzarr.coding.entropy` makes of the integers. The lowest bit of the
first byte says whether these have 64 bits; its six highest and the second byte say how far the
sizes 1, and those above, lie from their multiples of the step on average. If the other bit is set,
the step of this payload is not that of its array but `share_of` a third byte times it. An array of
zeros is the head alone.

Columns of a table may be extrapolated by polynomials along its first axis instead of transformed:
in place of their wavelet coefficients stand finite differences of their integers, which are kept
exactly (see `romzarr.coding.differences`).

Decoding finds the same values, to the bit, on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from romzarr.coding.bands import coarse_shape
from romzarr.coding.coarse import coarse_coefficients, coarse_levels
from romzarr.coding.coefficients import Coefficients, inverted
from romzarr.coding.differences import LARGEST, differenced, summed
from romzarr.coding.entropy import NARROW, decode, encode
from romzarr.coding.quantise import Excess, Integers, quantise, restore
from romzarr.coding.wavelet import forward
from romzarr.contracts import Floats
from romzarr.errors import StoreError, TooFineError

# Largest size of an integer.
_LARGEST = 2**60
_WIDE_BIT, _SHARE_BIT = 1, 2
# Bits of the excess of ones, and of others.
_ONE_BITS, _OTHERS_BITS = 6, 8
# Steps of payloads are so many parts of that of their array: fractions that all machines round
# alike. Neighbours near the whole differ by less than a hundredth.
_PARTS, _FEWEST_PARTS = 128, 32
# Largest coefficient, in steps, at which rounding of float32 stays far below half a step.
_EXACT_ENOUGH = 2**17
_NARROW, _WIDE = np.dtype(np.int32), np.dtype(np.int64)


def share_of(byte: int) -> float:
    """Share of the step of its array that the step of a payload is, from 0.25 to 2.24.

    >>> share_of(96)
    1.0
    """
    return (byte + _FEWEST_PARTS) / _PARTS


def rounded_share(share: float) -> int:
    """The byte of the largest share up to this one, or of the smallest there is."""
    return min(max(int(share * _PARTS) - _FEWEST_PARTS, 0), 255)


WHOLE = rounded_share(1.0)


class Coded(NamedTuple):
    """What a payload says: integers in the shape of the array, and their excess."""

    integers: Integers
    excess: Excess


def encode_field(
    values: Floats, step: float, levels: Sequence[int], orders: Sequence[int] = ()
) -> bytes:
    """Code an array so that `decode_field` gives it back with errors of about ``step / 4``.

    Parameters
    ----------
    values : ndarray of finite floats
        float32 is transformed as such, anything else as float64.
    step : float
        Quantisation step of the wavelet coefficients, which have the norm of the values to
        a few per cent: the mean square error is at most about ``step**2 / 10``.
    levels : sequence of int
        Levels of the transform per axis (`romzarr.coding.bands.depth`); 0 along axes
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
    return encoded(_quantised(values, step, levels, orders), levels)


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
    read = _read(content, shape, step, levels)
    if read is None:
        return np.zeros(shape, dtype)
    coded, step = read
    return _decoded(coded, step, levels, dtype, orders)


def decode_coefficients(
    content: bytes,
    shape: Sequence[int],
    step: float,
    levels: Sequence[int],
    dtype: np.dtype[Any],
    orders: Sequence[int] = (),
    halvings: Sequence[int] = (),
) -> Coefficients:
    """The coefficients of what `decode_field` returns: their `array`, to the bit.

    Those of a table with differences are its values. With `halvings` of the axes of an array
    without differences they are of that array on a coarser grid (`romzarr.coding.coarse`).

    Raises
    ------
    StoreError
        As for `decode_field`; values that are not finite are found by who asks for them.
    """
    read = _read(content, shape, step, levels, halvings)
    if read is None:
        nothing, shape = np.zeros(0, np.intp), coarse_shape(shape, halvings)
        return Coefficients(shape, coarse_levels(levels, halvings), nothing, np.zeros(0, dtype))
    coded, step = read
    coefficients = _restored(coded, step, levels, dtype, orders)
    if any(halvings):
        return coarse_coefficients(coefficients, levels, halvings)
    return Coefficients.of(coefficients, _levels_left(levels, orders))


def _read(
    content: bytes,
    shape: Sequence[int],
    step: float,
    levels: Sequence[int],
    halvings: Sequence[int] = (),
) -> tuple[Coded, float] | None:
    """What a payload says, and its step; None if all is zero."""
    head = _head(content)
    _check(step, shape, levels)
    if len(content) == head.length:
        return None
    return _coded(content, shape, levels, halvings), head.share * step


def read_integers(
    content: bytes,
    shape: Sequence[int],
    step: float,
    levels: Sequence[int],
    halvings: Sequence[int] = (),
) -> tuple[Coded, float]:
    """What a payload says, and its step; with `halvings` of the axes only their mean part.

    Raises
    ------
    StoreError
        If `content` is no payload.
    """
    head = _head(content)
    _check(step, shape, levels)
    return _coded(content, shape, levels, halvings), head.share * step


class _Head(NamedTuple):
    """The head of a payload: its length, whether integers are wide, the byte of its share."""

    length: int
    wide: bool
    excess: Excess
    share_byte: int

    @property
    def share(self) -> float:
        return share_of(self.share_byte)


def _head(content: bytes) -> _Head:
    shared = bool(content) and bool(content[0] & _SHARE_BIT)
    head = content[: 2 + shared]
    if len(head) < 2 + shared:
        raise StoreError("a coded array is too short; the store is damaged")
    excess = Excess(_excess(head[0] >> 2, _ONE_BITS), _excess(head[1], _OTHERS_BITS))
    return _Head(len(head), bool(head[0] & _WIDE_BIT), excess, head[2] if shared else WHOLE)


def share_byte_of(content: bytes) -> int:
    """The byte of the share of a payload (`share_of`)."""
    return _head(content).share_byte


def _coded(
    content: bytes, shape: Sequence[int], levels: Sequence[int], halvings: Sequence[int] = ()
) -> Coded:
    head = _head(content)
    kind, rest = _WIDE if head.wide else _NARROW, content[head.length :]
    if not rest:
        return Coded(np.zeros(coarse_shape(shape, halvings), kind), head.excess)
    integers = decode(rest, shape, levels, kind, halvings)
    if any(halvings):
        integers = integers[tuple(map(slice, coarse_shape(shape, halvings)))]
    return Coded(integers, head.excess)


def coded_field(
    values: Floats,
    step: float,
    levels: Sequence[int],
    dtype: np.dtype[Any],
    orders: Sequence[int] = (),
) -> Floats:
    """What `decode_field` will give back, to the bit, without the entropy coding in between."""
    return _decoded(_quantised(values, step, levels, orders), step, levels, dtype, orders)


def encoded_and_decoded(
    values: Floats, step: float, levels: Sequence[int], dtype: np.dtype[Any], share: int = WHOLE
) -> tuple[bytes, Floats]:
    """What `encode_field` and `coded_field` return, from one transform.

    With another `share` than the whole (`share_of`) the payload has a step of its own.
    """
    step *= share_of(share)
    coded = _quantised(values, step, levels, ())
    return encoded(coded, levels, share), _decoded(coded, step, levels, dtype, ())


def _check(step: float, shape: Sequence[int], levels: Sequence[int]) -> None:
    if not (math.isfinite(step) and step > 0):
        raise ValueError(f"a quantisation step must be a positive number, got {step!r}")
    most = [max(0, length - 1).bit_length() for length in shape]
    if len(levels) != len(shape) or any(not 0 <= k <= m for k, m in zip(levels, most, strict=True)):
        raise ValueError(
            f"levels {tuple(levels)} do not fit the shape {tuple(shape)}; take depth() of each axis"
        )


def _quantised(values: Floats, step: float, levels: Sequence[int], orders: Sequence[int]) -> Coded:
    """Integers of all coefficients, and of differences where there are any."""
    _check(step, values.shape, levels)
    if not any(orders):
        return _quantised_coefficients(values, step, levels)
    columns, nonzero = _differenced_columns(orders)
    others = np.setdiff1d(np.arange(values.shape[1]), columns)
    integers = np.empty(values.shape, np.int64)
    coded = _quantised_coefficients(values[:, others], step, levels)
    integers[:, others] = coded.integers
    integers[:, columns] = _differences(values[:, columns], step, nonzero)
    narrow = np.abs(integers).max(initial=0) < NARROW
    return Coded(integers.astype(_NARROW if narrow else _WIDE), coded.excess)


def _quantised_coefficients(values: Floats, step: float, levels: Sequence[int]) -> Coded:
    coefficients, largest = _transformed(values, step, levels)
    return rounded_coefficients(coefficients, largest, step, levels)


def rounded_coefficients(
    coefficients: Floats, largest: float, step: float, levels: Sequence[int]
) -> Coded:
    """Integers of coefficients, of which the `largest` has so many steps.

    Raises
    ------
    TooFineError
    """
    if not largest < _LARGEST:
        raise TooFineError(
            f"values must be finite and below 2**60 steps of {step!r}; the largest wavelet "
            f"coefficient is {largest:.3g} steps"
        )
    # Rounding adds one at most.
    kind = _NARROW if largest < NARROW - 1 else _WIDE
    integers, excess = quantise(coefficients, levels, step, kind)
    # As the head will say it.
    one, others = _byte(excess.one, _ONE_BITS), _byte(excess.others, _OTHERS_BITS)
    return Coded(integers, Excess(_excess(one, _ONE_BITS), _excess(others, _OTHERS_BITS)))


def _transformed(values: Floats, step: float, levels: Sequence[int]) -> tuple[Floats, float]:
    """Coefficients, and the largest of them in steps; float32 where that is exact enough."""
    for dtype in (np.float32, np.float64) if values.dtype == np.float32 else (np.float64,):
        with np.errstate(over="ignore"):
            coefficients = forward(values.astype(dtype, copy=False), levels)
            least, most = coefficients.min(initial=0.0), coefficients.max(initial=0.0)
            largest = max(float(most), -float(least)) / step
        if largest < _EXACT_ENOUGH:
            break
    return coefficients, largest


def _differences(values: Floats, step: float, orders: NDArray[np.intp]) -> NDArray[np.int64]:
    """Differences of the integers of columns that have any."""
    ratios = np.rint(values / step)
    largest = np.abs(ratios).max(initial=0.0)
    if not largest < LARGEST:
        raise TooFineError(
            f"values that are differenced must be finite and below 2**45 steps of {step!r}; the "
            f"largest is {largest:.3g} steps"
        )
    return differenced(ratios.astype(np.int64), orders)


def _differenced_columns(orders: Sequence[int]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Numbers of the columns of any order but 0, and their orders."""
    columns = np.flatnonzero(orders)
    return columns, np.array(orders, np.intp)[columns]


def encoded(coded: Coded, levels: Sequence[int], share: int = WHOLE) -> bytes:
    """The payload of integers."""
    own = share != WHOLE
    flags = _WIDE_BIT * (coded.integers.dtype == _WIDE) + _SHARE_BIT * own
    first = 4 * _byte(coded.excess.one, _ONE_BITS) + flags
    head = bytes([first, _byte(coded.excess.others, _OTHERS_BITS), *([share] if own else [])])
    return head + encode(coded.integers, levels) if coded.integers.any() else head


def _byte(excess: float, bits: int) -> int:
    """A number from -1/2 to 1/2 in so many bits."""
    half = 1 << (bits - 1)
    return min(max(round(half + 2 * half * excess), 0), 2 * half - 1)


def _excess(byte: int, bits: int) -> float:
    return byte / (1 << bits) - 0.5


def _restored(
    coded: Coded,
    step: float,
    levels: Sequence[int],
    dtype: np.dtype[Any],
    orders: Sequence[int],
) -> Floats:
    """Coefficients, or values of a table with differences, for both who codes and who decodes."""
    coefficients = restore(coded.integers, step, coded.excess, dtype)
    if not any(orders):
        return coefficients
    values = inverted(coefficients, levels)
    columns, nonzero = _differenced_columns(orders)
    with np.errstate(over="ignore"):
        values[:, columns] = step * summed(coded.integers[:, columns].astype(np.int64), nonzero)
    return values


def _levels_left(levels: Sequence[int], orders: Sequence[int]) -> tuple[int, ...]:
    """Levels of what `_restored` returns."""
    return (0, 0) if any(orders) else tuple(levels)


def _decoded(
    coded: Coded,
    step: float,
    levels: Sequence[int],
    dtype: np.dtype[Any],
    orders: Sequence[int],
) -> Floats:
    return inverted(_restored(coded, step, levels, dtype, orders), _levels_left(levels, orders))

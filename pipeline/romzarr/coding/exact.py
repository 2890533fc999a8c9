"""Floats and integers as integers that compress better, and back to the bit.

The bits of a float, read as an integer with the sign taken care of, grow with the float; so
what is smooth has small differences, whatever the bits mean. Differences wrap around, and
their sums wrap back: NaN of any payload, infinities and the sign of zero are bits like others.

References
----------
.. [1] P. Lindstrom, M. Isenburg, "Fast and efficient compression of floating-point data", IEEE
   Trans. Vis. Comput. Graph. 12 (2006) 1245-1250, Section 3 (floats as integers; the Lorenzo
   predictor, which is the differences along all axes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numcodecs.blosc import Blosc
from numpy.typing import NDArray

from romzarr.coding.tiles import extended
from romzarr.contracts import Floats

Unsigned = NDArray[np.unsignedinteger[Any]]
Numbers = NDArray[np.number[Any]]


@dataclass(frozen=True)
class Packing:
    """Floats that are ``integer * scale + offset``, as CF conventions pack them.

    ``integer`` is the dtype of the integers, one of `PACKABLE`; ``missing`` the integer that
    stands for NaN.
    """

    integer: str
    scale: float
    offset: float
    missing: int | None


# Integers that floats are packed in, by name.
PACKABLE = ("int8", "int16", "int32", "uint8", "uint16", "uint32")
# Blosc's highest level of zstd: a byte saved is saved for good, and decoding is as fast. And
# one that tells which of two ways is smaller ten times as fast.
LEVEL, QUICK_LEVEL = 9, 5
SHUFFLES = {"noshuffle": Blosc.NOSHUFFLE, "shuffle": Blosc.SHUFFLE, "bitshuffle": Blosc.BITSHUFFLE}


@dataclass(frozen=True)
class ExactCoding:
    """How values are kept to the bit: differences along `axes`, packed or not, and how their
    bytes are shuffled (one of `SHUFFLES`) before zstd."""

    axes: tuple[int, ...]
    shuffle: str
    packing: Packing | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it is the values themselves that are compressed."""
        return not self.axes and self.packing is None

    def itemsize(self, dtype: np.dtype[Any]) -> int:
        """Bytes of what stands for one value."""
        return dtype.itemsize if self.packing is None else np.dtype(self.packing.integer).itemsize


def encode_exact(
    values: Numbers, tile: Sequence[int], coding: ExactCoding, level: int = LEVEL
) -> bytes:
    """Code one tile, the part of it that lies within the array, to the bit.

    Raises
    ------
    ValueError
        If values are not what the packing makes of integers.
    """
    integers = to_integers(extended(values, tile), coding.axes, coding.packing)
    compressor = Blosc("zstd", level, SHUFFLES[coding.shuffle])
    content: bytes = compressor.encode(
        np.ascontiguousarray(integers, integers.dtype.newbyteorder("<"))
    )
    return content


def to_integers(values: Numbers, axes: Sequence[int], packing: Packing | None = None) -> Unsigned:
    """Integers of the shape of `values`: their differences along each of `axes`.

    Without axes, those they are packed in, or else their own bits.

    Raises
    ------
    ValueError
        If values are not exactly what `packing` makes of integers.
    """
    if packing is None:
        found = _ordered(values) if len(axes) else _bits(values)
    else:
        integers = _packed(values, packing)
        if integers is None:
            raise ValueError(f"values are not integers times {packing.scale} + {packing.offset}")
        found = integers.view(_unsigned(integers.dtype))
    for axis in axes:
        found = np.diff(found, axis=axis, prepend=found.dtype.type(0))
    return _folded(found) if len(axes) else found


def from_integers(
    integers: Unsigned, axes: Sequence[int], dtype: np.dtype[Any], packing: Packing | None = None
) -> Numbers:
    """Values of `dtype` (native byte order) from what `to_integers` made of them, to the bit."""
    found = _unfolded(integers) if len(axes) else integers
    for axis in reversed(axes):
        found = np.cumsum(found, axis=axis, dtype=found.dtype)
    if packing is None:
        return _values(found, dtype) if len(axes) else found.view(dtype)
    return _unpacked(found.view(packing.integer), dtype, packing)


def packs(values: Numbers, packing: Packing) -> bool:
    """Whether packing loses nothing of `values`, not even a bit."""
    return _packed(values, packing) is not None


def same_bits(a: Numbers, b: Numbers) -> NDArray[np.bool_]:
    """Where values of one dtype agree in every bit."""
    agree: NDArray[np.bool_] = _bits(a) == _bits(b)
    return agree


def _unsigned(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(f"u{dtype.itemsize}")


def _bits(values: Numbers) -> Unsigned:
    native = np.asarray(values, values.dtype.newbyteorder("="), order="C")
    bits: Unsigned = native.view(_unsigned(values.dtype))
    return bits


def _ordered(values: Numbers) -> Unsigned:
    """Bits of floats as unsigned integers in the order of the floats; integers as they are."""
    bits = _bits(values)
    if values.dtype.kind != "f":
        return bits
    top = bits.dtype.type(1 << (8 * bits.itemsize - 1))
    ordered: Unsigned = np.where(bits & top, ~bits, bits | top)
    return ordered


def _values(ordered: Unsigned, dtype: np.dtype[Any]) -> Numbers:
    if dtype.kind != "f":
        return ordered.view(dtype)
    top = ordered.dtype.type(1 << (8 * ordered.itemsize - 1))
    floats: Floats = np.where(ordered & top, ordered ^ top, ~ordered).view(dtype)
    return floats


def _folded(differences: Unsigned) -> Unsigned:
    """Signed differences as unsigned ones, small where they are small: 0, -1, 1, -2, ..."""
    signed = differences.view(f"i{differences.itemsize}")
    folded: Unsigned = ((signed << 1) ^ (signed >> (8 * signed.itemsize - 1))).view(
        differences.dtype
    )
    return folded


def _unfolded(folded: Unsigned) -> Unsigned:
    one = folded.dtype.type(1)
    unfolded: Unsigned = (folded >> one) ^ (~(folded & one) + one)
    return unfolded


def _packed(values: Numbers, packing: Packing) -> NDArray[Any] | None:
    """Integers that unpack to `values` to the bit; None if there are none."""
    limits = np.iinfo(packing.integer)
    missing = np.isnan(values)
    with np.errstate(all="ignore"):
        nearest = np.rint((values.astype(np.float64) - packing.offset) / packing.scale)
    nearest[missing] = limits.min if packing.missing is None else packing.missing
    if not ((nearest >= limits.min) & (nearest <= limits.max)).all():
        return None
    integers = nearest.astype(packing.integer)
    return integers if same_bits(_unpacked(integers, values.dtype, packing), values).all() else None


def _unpacked(integers: NDArray[Any], dtype: np.dtype[Any], packing: Packing) -> Floats:
    # The arithmetic of xarray, in the dtype of the values.
    with np.errstate(all="ignore"):
        values: Floats = integers.astype(dtype) * packing.scale + packing.offset
    if packing.missing is not None:
        values[integers == packing.missing] = np.nan
    return values

"""Entropy coding of coordinates whose distributions are known beforehand.

Each direction is rounded with a step of its own and coded with the static table of its class, by
four interleaved rANS coders (`kernels/coordinates.c`). Nothing adapts, so blocks are independent
of one another, and short ones cost little: a payload has 16 bytes besides what it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import POINTER, Structure, byref, c_float, c_int64, c_uint8, c_uint16, c_uint32
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from romzarr.coding.kernels import address, library

Values = NDArray[np.float32]
Payload = NDArray[np.uint8]
Levels = NDArray[np.int16]

# As in the kernel: symbols are integers from -CENTRE to CENTRE, and one for all others.
CENTRE = 31
SYMBOLS = 2 * CENTRE + 2
FREQUENCY_BITS = 12
# What a payload has besides its symbols; and the most that one integer takes: three pieces of
# 11 bits and a symbol of 12, of which the states hold back some.
_HEAD_BYTES, _MOST_BYTES = 16, 6
# Shifts of a table and of one payload together are those of one piece of plain bits.
MOST_SHIFT = FREQUENCY_BITS
# Tokens of a panel of levels.
PANEL = 8
# Levels of a step; integers that have levels in all directions, and in those with the most plain
# bits, as far as 16 bits have room.
UNIT, FEWEST_NARROW, MOST_NARROW = 16, 127, 2046


# Behind payloads that are decoded side by side, for the kernel to read on without asking whether
# there is more: all that it may take at once.
_ZEROS = bytes(64)


class _Tables(Structure):
    _fields_ = (
        ("directions", c_int64),
        ("steps", POINTER(c_float)),
        ("rounding", POINTER(c_float)),
        ("offsets", POINTER(c_float)),
        ("classes", POINTER(c_uint8)),
        ("shifts", POINTER(c_uint8)),
        ("starts", POINTER(c_uint16)),
        ("slots", POINTER(c_uint32)),
    )


@dataclass(frozen=True)
class Tables:
    """How the coordinates of each direction are rounded and coded.

    Attributes
    ----------
    steps, rounding, offsets : ndarray of float32 (directions,)
        Width of an interval; what is added to a size before its fraction is cut, 1/2 without a
        dead zone; how much farther from zero than its integer a value is decoded, in steps.
    classes, shifts : ndarray of uint8 (directions,)
        Table of a direction; how many of the last bits are kept as they are.
    frequencies : ndarray of uint16 (classes, SYMBOLS)
        Positive, with a sum of 2**FREQUENCY_BITS in each class.
    """

    steps: Values
    rounding: Values
    offsets: Values
    classes: NDArray[np.uint8]
    shifts: NDArray[np.uint8]
    frequencies: NDArray[np.uint16]

    @property
    def directions(self) -> int:
        return len(self.steps)

    @property
    def finest(self) -> int:
        """How often all steps may be halved for one payload."""
        return MOST_SHIFT - int(self.shifts.max(initial=0))

    @property
    def most_narrow(self) -> NDArray[np.int64]:
        """The largest integer of each direction that has a level: those beyond are rare."""
        most = (FEWEST_NARROW + 1) << np.maximum(self.shifts.astype(np.int64) - 2, 0)
        return np.minimum(most - 1, MOST_NARROW)

    @property
    def most_levels(self) -> NDArray[np.int64]:
        """The largest level of each direction: that of an integer, and a step beyond."""
        return UNIT * (self.most_narrow + 1)

    def are_sound(self, directions: int) -> bool:
        """Whether arrays that were read from somewhere are such as the kernel may be given."""
        sizes: tuple[NDArray[Any], ...] = (
            self.steps,
            self.rounding,
            self.offsets,
            self.classes,
            self.shifts,
        )
        kinds = (np.float32, np.float32, np.float32, np.uint8, np.uint8)
        return bool(
            all(
                a.shape == (directions,) and a.dtype == k for a, k in zip(sizes, kinds, strict=True)
            )
            and self.frequencies.dtype == np.uint16
            and self.frequencies.shape[1:] == (SYMBOLS,)
            and self.frequencies.all()
            and (self.frequencies.sum(axis=1, dtype=np.int64) == 2**FREQUENCY_BITS).all()
            and self.classes.max(initial=0) < len(self.frequencies)
            and self.finest >= 0
            and (self.steps > 0).all()
            and (np.abs(self.offsets) <= 1).all()
        )

    @cached_property
    def _starts(self) -> NDArray[np.uint16]:
        ends = np.cumsum(self.frequencies, axis=1, dtype=np.int64)
        return np.pad(ends, ((0, 0), (1, 0))).astype(np.uint16)

    @cached_property
    def _slots(self) -> NDArray[np.uint32]:
        counts = self.frequencies.astype(np.uint32)
        rows = []
        for starts, count in zip(self._starts, counts, strict=True):
            symbols = np.repeat(np.arange(SYMBOLS, dtype=np.uint32), count)
            within = np.arange(len(symbols), dtype=np.uint32) - starts[symbols]
            rows.append(count[symbols] << (8 + FREQUENCY_BITS) | within << 8 | symbols)
        return np.array(rows, np.uint32).reshape(len(rows), -1)

    @cached_property
    def _structure(self) -> _Tables:
        arrays: tuple[NDArray[Any], ...] = (self.steps, self.rounding, self.offsets)
        arrays = (*arrays, self.classes, self.shifts, self._starts, self._slots)
        pointers = (kind for _, kind in _Tables._fields_[1:])
        fields = [a.ctypes.data_as(p) for a, p in zip(arrays, pointers, strict=True)]
        return _Tables(self.directions, *fields)


def encode(coordinates: Values, tables: Tables, finer: int = 0) -> Payload:
    """Payload of coordinates (directions, tokens), with steps of 2**-finer times the tables'."""
    values = np.ascontiguousarray(coordinates, np.float32)
    buffer = np.empty((_HEAD_BYTES + _MOST_BYTES * values.size) // 2 * 2, np.uint8)
    length: int = library().encode_coordinates(
        address(values),
        c_int64(values.shape[1]),
        byref(tables._structure),
        finer,
        address(buffer),
        c_int64(len(buffer)),
    )
    # A copy: the buffer is much longer.
    return buffer[len(buffer) - length :].copy()


def decode(payload: Payload, tokens: int, tables: Tables, finer: int = 0) -> Values:
    """Coordinates (directions, tokens) from what `encode` made; of other bytes, some values."""
    values = np.empty((tables.directions, tokens), np.float32)
    library().decode_coordinates(
        address(values),
        c_int64(tokens),
        byref(tables._structure),
        finer,
        address(payload),
        c_int64(len(payload)),
    )
    return values


def decode_levels(
    payloads: Sequence[Payload], tokens: Sequence[int], tables: Tables
) -> tuple[Levels, NDArray[np.bool_]]:
    """Levels of the coordinates of several payloads, with the steps of the tables.

    Parameters
    ----------
    payloads : sequence of ndarray of uint8
    tokens : sequence of int
        Of each payload.
    tables : Tables

    Returns
    -------
    levels : ndarray of int16 (panels, pairs, PANEL, 2)
        Of pairs of directions and panels of tokens: coordinates in units of a step / 16, up to
        `Tables.most_levels` in size. Zero beyond the directions and the tokens.
    are_wide : ndarray of bool (payloads,)
        Whether a payload has an integer beyond `Tables.most_narrow`, so that its levels are all
        zero.
    """
    # Whole words: only what is damaged has half a one.
    words: list[Any] = [each if len(each) % 2 == 0 else each[:-1] for each in payloads]
    # Copied into one, as to ask each for its address takes longer.
    joined = _ZEROS.join([*words, b""])
    sizes = np.array([[len(each) + len(_ZEROS) for each in words], tokens], np.int64)
    total = sum(tokens)
    levels = np.empty((-(-total // PANEL), (tables.directions + 1) // 2, PANEL, 2), np.int16)
    # Of the last panel the kernel leaves out what is beyond the tokens.
    levels[total // PANEL :] = 0
    are_wide = np.empty(len(payloads), np.bool_)
    # The kernel's, for two directions of all tokens.
    integers = np.empty(2 * total, np.int32)
    library().decode_levels(
        address(levels),
        byref(tables._structure),
        c_int64(len(payloads)),
        joined,
        address(sizes),
        address(are_wide),
        address(integers),
    )
    return levels, are_wide


def frequencies_of(counts: NDArray[Any]) -> NDArray[np.uint16]:
    """Frequencies (classes, SYMBOLS) of a table from how often each symbol was met.

    All are positive, so that whatever comes can be coded.
    """
    total = 2**FREQUENCY_BITS
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    found = 1 + np.floor(share * (total - SYMBOLS)).astype(np.int64)
    # The most frequent symbol takes what rounding has left.
    rows = np.arange(len(found))
    found[rows, found.argmax(axis=1)] += total - found.sum(axis=1)
    return found.astype(np.uint16)

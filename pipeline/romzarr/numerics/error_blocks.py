"""Squared errors by block of time and tile of space, as bounds that take a byte each.

Axes are those of values as they are coded: time first, and then space.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from romzarr.contracts import Matrix, Region

# A byte each, as text, is 684 bytes of 512 blocks, and with what else is said of them less than
# 1 kB. Fewer along time alone: there coefficients take little themselves.
MOST_BLOCKS, MOST_IN_TIME = 512, 32
# Levels up to here are blocks of their own, which leaves some to time and space.
MOST_SINGLE = 64
# Values of a block at least: its byte should count nothing beside what they take coded.
LEAST_VALUES = 1 << 14
# Squares are the largest of them over powers of two to an eighth of the code, which is 255 for 0.
PARTS, NOTHING = 8, 255
# Significant digits of the largest.
_DIGITS = 4


@dataclass(frozen=True)
class ErrorGrid:
    """Blocks of an array of this ``shape``, of equal ``lengths`` but for the last of each axis."""

    shape: tuple[int, ...]
    lengths: tuple[int, ...]

    @classmethod
    def cut(
        cls,
        shape: Sequence[int],
        axes: Sequence[int],
        most: int = MOST_BLOCKS,
        single: Sequence[int] = (),
    ) -> ErrorGrid:
        """Blocks as alike along some `axes` as halving the longest makes them, `most` at most.

        Those along `single` axes have single indices, if these are few.
        """
        most = min(most, math.prod(shape) // LEAST_VALUES)
        few = math.prod(shape[a] for a in single) <= min(most, MOST_SINGLE)
        counts = [n if few and a in single else 1 for a, n in enumerate(shape)]
        while 2 * math.prod(counts) <= most:
            a = max(axes, key=lambda a: shape[a] / counts[a])
            if shape[a] < 2 * counts[a]:
                break
            counts[a] *= 2
        lengths = (-(-n // count) for n, count in zip(shape, counts, strict=True))
        return cls(tuple(shape), tuple(max(1, length) for length in lengths))

    @property
    def counts(self) -> tuple[int, ...]:
        """Blocks along each axis."""
        return tuple(-(-n // length) for n, length in zip(self.shape, self.lengths, strict=True))

    def cuts(self, axis: int, part: slice) -> list[int]:
        """Where in a part of an axis the blocks begin that it overlaps, from its start on."""
        length = self.lengths[axis]
        return [0, *range(length - part.start % length, part.stop - part.start, length)]

    def collected(self, region: Region, squares: Matrix) -> Matrix:
        """The squares of a region in an array of all blocks.

        Those along time, (k, *extent), are sums over the blocks that it overlaps already.
        """
        for axis in range(1, len(region)):
            squares = np.add.reduceat(squares, self.cuts(axis, region[axis]), axis=axis)
        found = np.zeros(self.counts)
        firsts = [part.start // n for part, n in zip(region, self.lengths, strict=True)]
        both = zip(firsts, squares.shape, strict=True)
        found[tuple(slice(first, first + count) for first, count in both)] = squares
        return found


@dataclass(frozen=True)
class BlockErrors:
    """The squared errors (*counts) of all blocks, and the norm of what may be ``anywhere``.

    The norm of the error on some of the blocks is at most the root of the sum of their squares, and
    that norm besides.
    """

    squares: Matrix
    anywhere: float = 0.0

    @property
    def whole(self) -> float:
        """Bound on the norm on all blocks."""
        return float(self.squares.sum() ** 0.5) + self.anywhere

    def within(self, places: Sequence[NDArray[np.int64]]) -> float:
        """Bound the norm on the blocks that have these places along each axis."""
        return float(np.sum(self.squares[np.ix_(*places)]) ** 0.5) + self.anywhere


def encode_squares(squares: Matrix) -> tuple[float, str]:
    """The largest square, rounded up, and a byte in base64 for each that says it by that one.

    What they decode to is nowhere less than what it was, nor above it by more than a ninth, but
    for squares 2^31 times less than the largest.
    """
    largest = float(squares.max(initial=0.0))
    if not largest:
        return 0.0, base64.b64encode(bytes([NOTHING] * squares.size)).decode()
    largest = float(f"{largest * (1 + 10.0 ** (1 - _DIGITS)):.{_DIGITS}g}")
    with np.errstate(divide="ignore"):
        exact = PARTS * np.log2(largest / squares)
    # Logarithms are rounded too.
    codes = np.clip(np.floor(exact - 1e-9), 0, NOTHING - 1).astype(np.uint8)
    codes[squares == 0] = NOTHING
    return largest, base64.b64encode(codes.tobytes()).decode()


def decode_squares(largest: float, codes: str, counts: Sequence[int]) -> Matrix:
    """What `encode_squares` has made of squares of this shape.

    Raises
    ------
    ValueError
        If there are other numbers of them.
    """
    found = np.frombuffer(base64.b64decode(codes, validate=True), np.uint8).reshape(counts)
    return np.where(found == NOTHING, 0.0, largest * np.exp2(-(found / PARTS)))

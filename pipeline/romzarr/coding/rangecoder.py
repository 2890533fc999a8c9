"""Range coding of non-negative integers whose size is foretold by a context.

The context of an integer is the number of a bucket of expected sizes. Each bucket keeps
counts of the symbols it has seen, on both sides alike, from a geometric distribution on, so
no tables are stored. The counts are integers, and what the package `constriction` does with
them to place the symbols in its range of integers are single IEEE operations in a fixed
order: no logarithms, no sums that a processor may reorder. So a decoder on any machine finds
the counts that the encoder had.

References
----------
.. [1] G. N. N. Martin, "Range encoding: an algorithm for removing redundancy from a digitised
   message", Video and Data Recording Conference, Southampton, 1979.
.. [2] R. Bamler, "Understanding entropy coding with asymmetric numeral systems (ANS): a
   statistician's perspective", arXiv:2201.01741 (the package that is used).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum
from functools import lru_cache
from typing import Any, Protocol

import constriction
import numpy as np
from numpy.typing import NDArray

from romzarr.errors import StoreError

_Categorical = constriction.stream.model.Categorical
Integers = NDArray[np.signedinteger[Any]]
Buckets = NDArray[np.uint8]


class Kind(IntEnum):
    """Sorts of integers, which have counts of their own: flags, and sizes of coefficients with
    no known neighbours, with neighbours but no parents, and with both."""

    FLAG = 0
    ALONE = 1
    ORPHAN = 2
    AMONG = 3


# Expected sizes are given in units of 1 / UNIT, a number with many divisors, so that most
# means of a few integers are integers.
UNIT = 960
# Bucket i is for what is expected from EDGES[i] on. They grow by a third or so, and then
# double: finer ones would learn more slowly, and within one the best code of the middle costs
# the ends next to nothing.
_RISES = (0, 1, 3, 5, 8, 12, 18, 26, 36, 50, 70, 96, 130, 180, 250, 350, 500, 700, 1000)
EDGES = np.array([15 * e for e in _RISES] + [15 * 1400 * 2**k for k in range(37)])
# Sizes below EXACT are symbols of their own; above, symbols are powers of two, followed by as
# many plain bits: within a power of two, sizes are about equally likely.
EXACT = 14
# Powers of narrow and of wide coding, which reach sizes of 2**20 and 2**60.
NARROW, WIDE = 20, 60
# What one observation counts, in units of the counts.
_SEEN = 256
# Observations that the first guess counts as: it is good, and must not be forgotten over the
# first few. After MEMORY the past counts half, as data change on their way to finer scales.
PRIOR_WEIGHT, MEMORY = 24, 4096
# Symbols coded with the same counts: at least so many, and one in BATCH_SHARE of those seen.
LEAST_BATCH, BATCH_SHARE = 24, 4
# Bits that are decoded at a time: as integers they take many times their memory.
_FEW_BITS = 1 << 20
# Of each symbol of a batch; none is larger, as what was seen is halved at MEMORY.
_EACH = np.full(MEMORY, float(_SEEN))


@lru_cache(maxsize=2)
def _first_counts(exponents: int) -> NDArray[np.float64]:
    """Geometric distributions (buckets, symbols), the mean of each bucket its middle."""
    counts = np.ones((len(EDGES), EXACT + exponents))
    highs = [*EDGES[1:], 2 * EDGES[-1]]
    for row, low, high in zip(counts, EDGES, highs, strict=True):
        mean = 0.5 * float(low + high) / UNIT
        ratio, left = mean / (1 + mean), float(_SEEN * PRIOR_WEIGHT)
        for symbol in range(EXACT):
            row[symbol] += round(left * (1 - ratio))
            left *= ratio
        for symbol in range(EXACT, len(row)):
            row[symbol] += round(left * (1 - ratio))
            left *= ratio
            ratio *= ratio
    counts.flags.writeable = False
    return counts


# Looked up below the last of the edges that do not double.
_BUCKET_OF = (np.searchsorted(EDGES, np.arange(EDGES[19] + 1), side="right") - 1).astype(np.uint8)


def buckets_of(expected: Integers) -> Buckets:
    """Bucket of each expected size, given in units of 1 / `UNIT`."""
    near: Buckets = _BUCKET_OF.take(expected, mode="clip")
    if expected.size and expected.max() >= len(_BUCKET_OF):
        far = expected >= len(_BUCKET_OF)
        near[far] = np.searchsorted(EDGES, expected[far], side="right") - 1
    return near


class Coder(Protocol):
    """Either side of the coding: an encoder reads the values, a decoder overwrites them."""

    def transfer(self, values: Sequence[Integers], buckets: Sequence[Buckets], kind: Kind) -> None:
        """Next arrays of integers, each integer foretold by its bucket."""

    def transfer_bits(self, bits: NDArray[np.int32]) -> None:
        """Next bits, which nothing foretells."""


class _Counts:
    """What both sides have seen so far of a kind and bucket: whole numbers, as floats.

    Attributes
    ----------
    batch : int
        How many symbols to code before `saw` must be told of them.
    """

    __slots__ = ("_counts", "_total", "batch")

    def __init__(self, first: NDArray[np.float64]) -> None:
        self._counts, self._total, self.batch = first.copy(), int(first.sum()), LEAST_BATCH

    def model(self) -> Any:
        # Lazy or not, models are the same; most are used for a few integers only.
        return _Categorical(self._counts, perfect=False, lazy=True)

    def saw(self, symbols: NDArray[np.int32]) -> None:
        count, counts = len(symbols), self._counts
        counts += np.bincount(symbols, _EACH[:count], len(counts))
        self._total += count * _SEEN
        if self._total > MEMORY * _SEEN:
            self._counts = (counts + 1) // 2
            self._total = int(self._counts.sum())
        self.batch = max(LEAST_BATCH, self._total // (_SEEN * BATCH_SHARE))


class _Memory:
    """Counts of all kinds and buckets, made when they are first asked for."""

    def __init__(self, exponents: int) -> None:
        self._first = _first_counts(exponents)
        self._counts: list[dict[int, _Counts]] = [{} for _ in Kind]

    def batches(self, kind: Kind, populations: list[int]) -> Iterator[tuple[int, int, _Counts]]:
        """Ends of the batches of integers that are sorted by bucket, so many of each."""
        of_kind, stop = self._counts[kind], 0
        for bucket, population in enumerate(populations):
            if not population:
                continue
            counts = of_kind.get(bucket)
            if counts is None:
                counts = of_kind[bucket] = _Counts(self._first[bucket])
            end = stop + population
            while stop < end:
                start, stop = stop, min(stop + counts.batch, end)
                yield start, stop, counts


def _sorted(buckets: Buckets) -> tuple[NDArray[np.intp], list[int]]:
    """Order that sorts by bucket, and how many there are of each."""
    populations = np.bincount(buckets).tolist()
    return np.argsort(buckets, kind="stable"), populations


class Encoder:
    """Collects integers into a string of bytes."""

    def __init__(self, exponents: int) -> None:
        self._stream = constriction.stream.queue.RangeEncoder()
        self._memory = _Memory(exponents)

    def transfer(self, values: Sequence[Integers], buckets: Sequence[Buckets], kind: Kind) -> None:
        """Append arrays of integers, each integer foretold by its bucket."""
        order, populations = _sorted(_joined(buckets))
        sizes = _joined(values)[order]
        symbols = _symbols(sizes)
        for start, stop, counts in self._memory.batches(kind, populations):
            part = symbols[start:stop]
            self._stream.encode(part, counts.model())
            counts.saw(part)
        for width, some in _powers(symbols):
            self._put_plain(sizes[some] - (EXACT - 1 + (1 << width)), width)

    def transfer_bits(self, bits: NDArray[np.int32]) -> None:
        """Append bits that nothing foretells."""
        self._put_plain(bits, 1)

    def _put_plain(self, numbers: Integers, width: int) -> None:
        for shift, some in _pieces(width):
            part = (numbers >> shift) & ((1 << some) - 1)
            self._stream.encode(part.astype(np.int32), constriction.stream.model.Uniform(1 << some))

    def finish(self) -> bytes:
        """All that was coded, in the fewest bytes that a decoder takes for it."""
        words = self._stream.get_compressed()
        # What is left to say is any number from `low` on, below `low + span`, modulo 2**64, in
        # the two words at `done`. Of those that leave the words before as they are, take the
        # one with the most zeros at its end: the decoder takes missing bytes for zeros.
        done, (low, span) = self._stream.pos()
        first, second = [*map(int, words[done:]), 0, 0][:2]
        sealed = (first << 32) | second
        for zeros in range(64, -1, -8):
            number = -(-low >> zeros) << zeros
            if number - low < span and (number >= 2**64) == (sealed < low):
                break
        head: bytes = words[:done].astype(">u4").tobytes()
        return (head + (number % 2**64).to_bytes(8, "big")).rstrip(b"\0")


class Decoder:
    """Gives back what an `Encoder` was given, if asked in the same order."""

    def __init__(self, content: bytes, exponents: int) -> None:
        padded = content + b"\0" * (-len(content) % 4)
        words = np.frombuffer(padded, ">u4").astype(np.uint32)
        self._stream = constriction.stream.queue.RangeDecoder(words)
        self._memory = _Memory(exponents)

    def transfer(self, values: Sequence[Integers], buckets: Sequence[Buckets], kind: Kind) -> None:
        """Overwrite arrays by the next integers."""
        order, populations = _sorted(_joined(buckets))
        symbols = np.empty(len(order), np.int32)
        for start, stop, counts in self._memory.batches(kind, populations):
            part = self._decoded(counts.model(), stop - start)
            counts.saw(part)
            symbols[start:stop] = part
        large = list(_powers(symbols))
        sizes = symbols.astype(values[0].dtype, copy=False)
        for width, some in large:
            sizes[some] = self._plain(len(some), width) + (EXACT - 1 + (1 << width))
        flat = np.empty_like(sizes)
        flat[order] = sizes
        start = 0
        for value in values:
            value[...] = flat[start : start + value.size].reshape(value.shape)
            start += value.size

    def transfer_bits(self, bits: NDArray[np.int32]) -> None:
        """Overwrite bits by the next ones."""
        for start in range(0, len(bits), _FEW_BITS):
            part = bits[start : start + _FEW_BITS]
            part[...] = self._plain(len(part), 1)

    def _plain(self, count: int, width: int) -> NDArray[np.int64]:
        numbers = np.zeros(count, np.int64)
        for shift, some in _pieces(width):
            part = self._decoded(constriction.stream.model.Uniform(1 << some), count)
            numbers |= part.astype(np.int64) << shift
        return numbers

    def _decoded(self, model: Any, count: int) -> NDArray[np.int32]:
        try:
            symbols: NDArray[np.int32] = self._stream.decode(model, count)
        except AssertionError as error:
            raise StoreError("a coded array does not decode; the store is damaged") from error
        return symbols


def _joined(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return arrays[0].ravel() if len(arrays) == 1 else np.concatenate([a.ravel() for a in arrays])


def _pieces(width: int) -> list[tuple[int, int]]:
    """Shifts and widths of the parts that a plain number is coded in: 16 bits at a time."""
    return [(shift, min(16, width - shift)) for shift in range(0, width, 16)]


def _symbols(sizes: Integers) -> NDArray[np.int32]:
    symbols = sizes.astype(np.int32)
    if sizes.size and sizes.max() >= EXACT:
        large = np.flatnonzero(sizes >= EXACT)
        symbols[large] = EXACT - 1 + _lengths(sizes[large] - (EXACT - 1))
    return symbols


def _lengths(numbers: Integers) -> NDArray[np.int32]:
    """Bits of positive integers below 2**62."""
    high = numbers >> 31
    # Exact: what is turned into floats is below 2**31.
    low = np.frexp((numbers & (2**31 - 1)).astype(np.float64))[1]
    return np.where(high > 0, 31 + np.frexp(high.astype(np.float64))[1], low)


def _powers(symbols: NDArray[np.int32]) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Powers of two that occur, which are followed by as many plain bits, and where they do."""
    if symbols.size and symbols.max() >= EXACT:
        large = np.flatnonzero(symbols >= EXACT)
        widths = symbols[large] - EXACT
        for width in np.flatnonzero(np.bincount(widths)).tolist():
            yield width, large[widths == width]

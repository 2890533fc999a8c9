"""Range coding of non-negative integers whose size is foretold by a context.

The context of an integer is the number of a bucket of expected sizes. Each bucket keeps
counts of what it has seen, on both sides alike, from a geometric distribution on, so no
tables are stored. All arithmetic is of integers or of single IEEE operations, so that every
machine finds the same counts.
"""

from __future__ import annotations

from typing import Any, Protocol

import constriction
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StoreError

Integers = NDArray[np.int32]
Buckets = NDArray[np.uint8]

# Expected sizes are given in units of 1 / UNIT; bucket i begins at EDGES[i].
UNIT = 64
EDGES = np.array(
    [0, 1, 3, 5, 8, 12, 18, 26, 36, 50, 70, 96, 130, 180, 250, 350, 500, 700, 1000]
    + [1400 * 2**k for k in range(22)]
)
# Sizes below EXACT are symbols of their own; above, symbols are powers of two.
EXACT = 14
SYMBOLS = EXACT + 27
# Observations that the first guess counts as, and after which the past counts half.
PRIOR_WEIGHT, MEMORY = 8.0, 4096.0
# Symbols coded with the same counts: at least so many, and a share of those seen.
LEAST_BATCH, BATCH_SHARE = 24, 0.25


def _first_counts() -> NDArray[np.float64]:
    """Geometric distributions (buckets, symbols), the mean of each bucket its middle."""
    counts = np.empty((len(EDGES), SYMBOLS))
    for bucket, low in enumerate(EDGES):
        high = EDGES[bucket + 1] if bucket + 1 < len(EDGES) else 2 * low
        mean = max(0.5 * (low + high) / UNIT, 0.004)
        ratio, left = mean / (1 + mean), 1.0
        for symbol in range(EXACT):
            counts[bucket, symbol] = left * (1 - ratio)
            left *= ratio
        reach = ratio
        for symbol in range(EXACT, SYMBOLS):
            counts[bucket, symbol] = left * (1 - reach)
            left *= reach
            reach *= reach
    counts += 2e-4
    return counts * (PRIOR_WEIGHT / counts.sum(axis=1, keepdims=True))


FIRST_COUNTS = _first_counts()
_BUCKET_OF = np.searchsorted(EDGES, np.arange(1400), side="right").astype(np.uint8) - 1


def buckets_of(expected: NDArray[np.int64]) -> Buckets:
    """Bucket of each expected size, given in units of 1 / `UNIT`."""
    near: Buckets = _BUCKET_OF[np.minimum(expected, 1399)]
    if expected.size and expected.max() >= 1400:
        far = expected >= 1400
        near[far] = np.searchsorted(EDGES, expected[far], side="right") - 1
    return near


class Coder(Protocol):
    """Either side of the coding: an encoder reads `values`, a decoder fills them."""

    def transfer(self, values: Integers, buckets: Buckets) -> None: ...

    def transfer_bits(self, bits: Integers) -> None: ...


class _Counts:
    """What both sides have seen so far."""

    def __init__(self) -> None:
        self.counts = np.concatenate([FIRST_COUNTS,FIRST_COUNTS])

    def batch(self, bucket: int) -> tuple[Any, int]:
        """Model of the next symbols of a bucket, and how many it is for."""
        counts = self.counts[bucket]
        size = max(LEAST_BATCH, int(BATCH_SHARE * counts.sum()))
        return constriction.stream.model.Categorical(counts, perfect=False), size

    def saw(self, bucket: int, symbols: Integers) -> None:
        self.counts[bucket] += np.bincount(symbols, minlength=SYMBOLS)
        if self.counts[bucket].sum() > MEMORY:
            self.counts[bucket] *= 0.5


def _runs(buckets: Buckets) -> tuple[NDArray[np.intp], list[tuple[int, int, int]]]:
    """Order that sorts by bucket, and (bucket, start, stop) of each run."""
    order = np.argsort(buckets, kind="stable")
    ends = np.cumsum(np.bincount(buckets, minlength=2*len(EDGES)))
    starts = ends - np.diff(ends, prepend=0)
    filled = np.flatnonzero(ends > starts)
    return order, [(int(b), int(starts[b]), int(ends[b])) for b in filled]


class Encoder:
    """Collects integers into a string of bytes."""

    def __init__(self) -> None:
        self._stream = constriction.stream.queue.RangeEncoder()
        self._counts = _Counts()

    def transfer(self, values: Integers, buckets: Buckets) -> None:
        """Append `values` (any shape), each foretold by its bucket."""
        flat, where = values.ravel(), buckets.ravel()
        order, runs = _runs(where)
        sizes = flat[order]
        symbols, large = _symbols(sizes)
        for bucket, start, stop in runs:
            while start < stop:
                model, size = self._counts.batch(bucket)
                part = symbols[start : min(start + size, stop)]
                self._stream.encode(part, model)
                self._counts.saw(bucket, part)
                start += len(part)
        for width in np.unique(symbols[large]) - EXACT if large.any() else ():
            some = sizes[symbols == EXACT + width]
            self._put_plain(some - (EXACT - 1) - (1 << int(width)), int(width))

    def transfer_bits(self, bits: Integers) -> None:
        self._put_plain(bits, 1)

    def _put_plain(self, numbers: Integers, width: int) -> None:
        for shift in range(0, width, 16):
            part = (numbers >> shift) & ((1 << min(16, width - shift)) - 1)
            model = constriction.stream.model.Uniform(1 << min(16, width - shift))
            self._stream.encode(part.astype(np.int32), model)

    def finish(self) -> bytes:
        words: bytes = self._stream.get_compressed().astype("<u4").tobytes()
        # The decoder takes missing bytes for zeros.
        return words.rstrip(b"\0")


class Decoder:
    """Gives back what an `Encoder` was given, if asked in the same order."""

    def __init__(self, content: bytes) -> None:
        padded = content + b"\0" * (-len(content) % 4)
        words = np.frombuffer(padded, "<u4").astype(np.uint32)
        self._stream = constriction.stream.queue.RangeDecoder(words)
        self._counts = _Counts()

    def transfer(self, values: Integers, buckets: Buckets) -> None:
        """Fill `values` with the next integers."""
        order, runs = _runs(buckets.ravel())
        symbols = np.empty(buckets.size, np.int32)
        for bucket, start, stop in runs:
            while start < stop:
                model, size = self._counts.batch(bucket)
                size = min(size, stop - start)
                part = symbols[start : start + size] = self._decoded(model, size)
                self._counts.saw(bucket, part)
                start += size
        sizes = symbols.copy()
        for width in np.unique(symbols[symbols >= EXACT]) - EXACT:
            some = symbols == EXACT + width
            plain = self._plain(int(np.count_nonzero(some)), int(width))
            sizes[some] = plain + (EXACT - 1) + (1 << int(width))
        flat = np.empty_like(sizes)
        flat[order] = sizes
        values[...] = flat.reshape(values.shape)

    def transfer_bits(self, bits: Integers) -> None:
        bits[...] = self._plain(len(bits), 1)

    def _plain(self, count: int, width: int) -> Integers:
        numbers = np.zeros(count, np.int32)
        for shift in range(0, width, 16):
            model = constriction.stream.model.Uniform(1 << min(16, width - shift))
            numbers |= self._decoded(model, count) << shift
        return numbers

    def _decoded(self, model: Any, count: int) -> Integers:
        try:
            symbols: Integers = self._stream.decode(model, count)
        except AssertionError as error:
            raise StoreError("a coded array does not decode; the store is damaged") from error
        return symbols


def _symbols(sizes: Integers) -> tuple[Integers, NDArray[np.bool_]]:
    large = sizes >= EXACT
    symbols = np.where(large, 0, sizes)
    if large.any():
        exponent = np.frexp((sizes[large] - (EXACT - 1)).astype(np.float64))[1] - 1
        symbols[large] = EXACT + exponent
    return symbols.astype(np.int32), large

"""A decoder of `romzarr.coding.entropy` in plain Python: slow, and as short as the format allows.

It shares no code with the compiled one but the geometry of bands. Where that has vectors of four
numbers and intervals of 32 bits in registers, this has arrays of NumPy and integers of any length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise, product

import numpy as np

from romzarr.coding.bands import geometry

F = np.float32
WHOLE = 2**18
FIRST_OF = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 17, 25, 41, 73)
BITS_OF = (0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 3, 4, 5, 0)
# Sizes count up to here in what they foretell.
COUNTED = 2**22
NORTH, BEFORE, PARENTS, WEST = range(4)


def counted(sums: np.ndarray) -> np.ndarray:
    """Sums as floats; what is beyond 31 bits is lost."""
    return (sums & 2**31 - 1).astype(F)


def sides(sizes: np.ndarray) -> np.ndarray:
    """Sums of both neighbours, of which an end has itself for one."""
    ends = np.concatenate([sizes[:1], sizes, sizes[-1:]])
    return ends[:-2] + ends[2:]


class Message:
    """The two streams of a payload: bits from the front, of a range coder, and from the end."""

    def __init__(self, payload: bytes) -> None:
        self.front = self._bits(payload)
        self.back = self._bits(payload[::-1])
        self.range, self.code = 2**32 - 1, self._next(self.front, 32)

    @staticmethod
    def _bits(payload: bytes):
        for byte in payload:
            yield from (byte >> shift & 1 for shift in range(7, -1, -1))
        while True:
            yield 0

    @staticmethod
    def _next(bits, count: int) -> int:
        number = 0
        for _ in range(count):
            number = 2 * number + next(bits)
        return number

    def plain(self, count: int) -> int:
        return self._next(self.back, count)

    def narrow(self, start: int, width: int) -> None:
        shift = 32 - width.bit_length()
        self.range = width << shift
        self.code = (self.code - start << shift) + self._next(self.front, shift)

    def bit(self, counter: Counter) -> int:
        chance = min(max(counter.estimate >> 4, 8), WHOLE - 8)
        middle = (self.range // WHOLE) * chance
        found = int(self.code < middle)
        self.narrow(*((0, middle) if found else (middle, self.range - middle)))
        counter.learn(found)
        return found

    def symbol(self, first: np.ndarray, second: np.ndarray, share: F) -> tuple[int, F]:
        """A symbol that two slots foretell, which learn from it, and the gradient of the share."""
        edges = (second + share * (first - second)).astype(int)
        ends = [WHOLE, *(int(edge) for edge in edges[1:]), 0]
        unit = self.range // WHOLE
        found = 0
        while self.code < unit * ends[found + 1]:
            found += 1
        top = unit * ends[found] if found else self.range
        self.narrow(unit * ends[found + 1], top - unit * ends[found + 1])
        chances = []
        for slot in (first, second):
            chance = slot[found] if found else F(WHOLE)
            chances.append(chance - slot[found + 1] if found < 15 else chance)
        one, other = chances
        gradient = (one - other) / (other + share * (one - other))
        for slot in (first, second):
            slot += slot[0] * (target(found) - slot)
        return found, gradient


class Counter:
    def __init__(self, chance: float, seen: int) -> None:
        self.estimate, self.seen = int(chance * 2**22), seen

    def learn(self, bit: int) -> None:
        share = int(2**16 / (self.seen + 1.6))
        self.estimate += (((2**22 - 1) * bit - self.estimate) * share) >> 16
        self.seen = min(self.seen + 1, 400)


def slot(rate: float, chances: Sequence[float]) -> np.ndarray:
    guards = [8 * (16 - k) + chance * (WHOLE - 8 * 16) for k, chance in enumerate(chances, 1)]
    return np.array([rate, *guards], F)


def target(symbol: int) -> np.ndarray:
    return slot(1 / 401.6, [k <= symbol for k in range(1, 16)])


def guess(mean: float, seen: int) -> np.ndarray:
    ratio = max(mean, 0.02) / (1 + max(mean, 0.02))
    chances, chance = [], 1.0
    for low, high in pairwise(FIRST_OF):
        for _ in range(high - low):
            chance *= ratio
        chances.append(chance)
    return slot(1 / (seen + 1.6), chances)


def mean_of_level(level: int) -> float:
    return (2.0 * 2 ** (level // 4) * (1 + (level % 4 + 0.5) / 4) - 2) / 16


def shift_of(level: int) -> int:
    return next(k for k in range(25) if k == 24 or mean_of_level(level) / 2**k <= 5)


def octaves(value: F, fineness: int) -> int:
    """Where a number lies among factors of two, and so many equal parts of them."""
    mantissa, exponent = math.frexp(float(value))
    return fineness * (exponent - 1) + int(fineness * (2 * mantissa - 1))


class Fit:
    """Weights of neighbours, by least squares from rows that are decoded."""

    def __init__(self, kind: tuple[bool, ...]) -> None:
        north, before, parents = kind
        of_parents = 1 / 8 if parents else 0.0
        of_before = 3 / 8 * (1 - of_parents) if before else 0.0
        left = 1 - of_parents - of_before
        of_north = left / 2 if north else 0.0
        self.first = self.weights = np.array([of_north, of_before, of_parents, left - of_north], F)
        self.products, self.targets = np.zeros((4, 4, 4), F), np.zeros((4, 4), F)
        self.seen = self.since = 0

    def learn(self, features: np.ndarray, sizes: np.ndarray) -> None:
        width = features.shape[1]
        padded = np.zeros((5, -(-width // 4) * 4), F)
        padded[:4, :width], padded[4, :width] = features, 16 * sizes
        for x in range(0, width, 4):
            part = padded[:, x : x + 4]
            off = np.full(4, 16, F)
            for i in range(4):
                off = off + part[i] * self.weights[i]
            counted = F(1) / (off * off) * part[:4]
            self.products += counted[:, None] * part[None, :4]
            self.targets += counted * part[4]
        self.seen += width
        self.since += width
        if self.since >= 128:
            self.solve()
            self.since = 0
            if self.seen >= 1500:
                self.seen //= 2
                self.products, self.targets = self.products / F(2), self.targets / F(2)

    def solve(self) -> None:
        def total(four: np.ndarray) -> float:
            return float((four[0] + four[1]) + (four[2] + four[3]))

        rows = [
            [total(self.products[min(i, j), max(i, j)]) + 20.0 * (i == j) for j in range(4)]
            + [total(self.targets[i]) + 20.0 * float(self.first[i])]
            for i in range(4)
        ]
        for i in range(4):
            for below in range(i + 1, 4):
                ratio = rows[below][i] / rows[i][i]
                rows[below] = [b - ratio * a for a, b in zip(rows[i], rows[below], strict=True)]
        weights = np.zeros(4, F)
        for i in reversed(range(4)):
            weight = rows[i][4]
            for j in range(i + 1, 4):
                weight -= rows[i][j] * float(weights[j])
            weights[i] = min(max(weight / rows[i][i], 0), 4)
        self.weights = weights


class Decoder:
    def __init__(
        self, payload: bytes, shape: Sequence[int], levels: Sequence[int], most_counted: int
    ) -> None:
        self.most_counted = most_counted
        self.message, self.view = Message(payload), geometry(tuple(shape), tuple(levels))
        self.arranged = [shape[axis] for axis in self.view.order]
        self.array = np.zeros(self.view.shape, np.int64)
        self.sizes = {}
        self.kinds = list(product([False, True], repeat=3))
        self.fits = {kind: Fit(kind) for kind in self.kinds}
        self.shares = {kind: np.full(13, 0.6, F) for kind in self.kinds}
        self.ends = guess(0.2, 8)
        self.digits = [Counter(0.5, 2) for _ in range(61)]
        self.places = [Counter(0.5, 6) for _ in range(16)]
        self.alive_counters = [Counter(0.5, 1) for _ in range(32)]
        self.alive = np.zeros((self.view.bands, self.view.shape[0]), int)

    def decoded(self) -> np.ndarray:
        for number, extents in enumerate(self.view.extents):
            middle = [
                guess(mean_of_level(4 * g + 2) / 2 ** shift_of(4 * g + 2), 8) for g in range(12)
            ]
            self.band = [*middle, guess(0.2, 8)]
            self.runs = [Counter(0.9, 3) for _ in range(4)]
            spans = [range(start, stop) for start, stop, _, _ in extents]
            for outer in range(self.view.shape[0] if all(map(len, spans)) else 0):
                if self.is_alive(number, extents, outer):
                    for index in product(*spans[:-1]):
                        self.row(extents, (outer, *index), spans[-1])
        return self.view.restored(self.array.reshape(self.arranged))

    def is_alive(self, number: int, extents: np.ndarray, outer: int) -> int:
        above = [self.alive[parent, outer] for *_, parent in extents if parent >= 0]
        before = self.alive[number, outer - 1] if outer else 2
        context = 8 * before + (1 + min(sum(above), 6) if above else 0)
        self.alive[number, outer] = self.message.bit(self.alive_counters[context])
        return self.alive[number, outer]

    def sums(
        self, extents: np.ndarray, index: tuple[int, ...], span: range
    ) -> tuple[np.ndarray, tuple[bool, ...]]:
        """Features of a row but WEST, and which of them there are."""
        self.known = np.minimum(np.abs(self.array), self.most_counted)
        self.first = [0, *extents[:-1, 0]]
        self.stop = [self.view.shape[0], *extents[:-1, 1]]
        features, last = np.zeros((4, len(span)), F), len(extents) - 1
        north = len(extents) > 1 and index[last] > self.first[last]
        if north:
            near = self.other(index, span, last, -1)
            far = self.other(index, span, last, -2, near)
            features[NORTH] = F(2) * counted(3 * near + far + 2 * sides(near))
        planes = [
            self.plane(index, span, k) for k in range(max(1, last)) if index[k] > self.first[k]
        ]
        if planes:
            features[BEFORE] = F(F(2) / F(len(planes))) * counted(sum(planes))
        parents = self.parents(extents, index, span)
        if parents:
            features[PARENTS] = F(F(8) / F(len(parents))) * counted(sum(parents))
        return features, (bool(north), bool(planes), bool(parents))

    def other(
        self,
        index: Sequence[int],
        span: range,
        axis: int,
        by: int,
        without: np.ndarray | None = None,
    ) -> np.ndarray:
        """Sizes of the row at another index along an axis; `without` where there is none."""
        place = [i + by * (k == axis) for k, i in enumerate(index)]
        if without is not None and not self.first[axis] <= place[axis] < self.stop[axis]:
            return without
        return self.known[(*place, slice(span.start, span.stop))]

    def plane(self, index: tuple[int, ...], span: range, axis: int) -> np.ndarray:
        """What the planes before along an axis add."""
        near, last = self.other(index, span, axis, -1), len(index) - 1
        # Along what is not transformed only one counts.
        far = self.other(index, span, axis, -2, near) if axis else near
        place = [i - (k == axis) for k, i in enumerate(index)]
        around = [self.other(place, span, last, by, near) if last else near for by in (-1, 1)]
        return 2 * (near + far) + sum(around) + sides(near)

    def parents(self, extents: np.ndarray, index: tuple[int, ...], span: range) -> list[np.ndarray]:
        """Sizes of the parents along each axis that has any."""
        found = []
        for k, (start, _, above, parent) in enumerate(extents, 1):
            length = start - above
            if parent >= 0 and k < len(extents):
                place = above + min((index[k] - start) // 2, length - 1)
                found.append(self.other(index, span, k, place - index[k]))
            elif parent >= 0:
                halves = np.minimum(np.arange(len(span)) // 2, length - 1)
                found.append(self.known[index][above:start][halves])
        return found

    def row(self, extents: np.ndarray, index: tuple[int, ...], span: range) -> None:
        features, kind = self.sums(extents, index, span)
        fit, shares = self.fits[kind], self.shares[kind]
        w = fit.weights
        expected = features[0] * w[0] + features[1] * w[1] + features[2] * w[2]
        left = next((features[k, 0] for k in range(3) if kind[k]), F(16))
        empty = ~features[:3].any(axis=0)
        gradients, found = np.zeros(13, F), np.zeros(len(span), np.int64)
        history, x = 0, 0
        while x < len(span):
            some = 0
            west, further = (abs(found[x - k]) if x >= k else 0 for k in (1, 2))
            unknown = x % 16 == 0 and x + 16 <= len(span) and not (west or further)
            if unknown and empty[x : x + 16].all():
                zeros, history = self.run(history)
                left = F(0) if zeros else left
                x += zeros
                if zeros == 16:
                    continue
                some = 1
            features[WEST, x] = left
            found[x] = self.integer(
                expected[x], left, features[BEFORE, x], w, shares, gradients, some
            )
            sizes = np.minimum(np.abs(found), COUNTED)
            left = F(12 * sizes[x] + 4 * sizes[max(x - 1, 0)])
            x += 1
        for group in range(13):
            share = shares[group]
            share = share + F(0.04) * gradients[group] * share * (F(1) - share)
            shares[group] = min(max(share, F(0.02)), F(1) - F(0.02))
        self.array[(*index, slice(span.start, span.stop))] = found
        fit.learn(features, np.minimum(np.abs(found), COUNTED))

    def run(self, history: int) -> tuple[int, int]:
        if self.message.bit(self.runs[history]):
            return 16, 2 * history & 3
        node = 1
        for _ in range(4):
            node = 2 * node + self.message.bit(self.places[node])
        return node - 16, (2 * history + 1) & 3

    def integer(self, expected, left, before, weights, shares, gradients, some) -> int:
        if some:
            group, first, shift = 12, self.ends, 0
        else:
            level = min(octaves(expected + weights[WEST] * left + F(2), 4) - 4, 127)
            near = min(octaves(before + F(4), 1) - 2, 7)
            group, shift = min(level // 4, 11), shift_of(level)
            if (level, near) not in self.sizes:
                other = (1.5 * 4 * 2**near - 4) / 16
                mean = 0.75 * mean_of_level(level) + 0.25 * (
                    mean_of_level(level) if shift else other
                )
                self.sizes[level, near] = guess(mean / 2**shift, 24)
            first = self.sizes[level, near]
        symbol, gradient = self.message.symbol(first, self.band[group], shares[group])
        gradients[group] += gradient
        symbol += some
        if symbol == 15:
            left = 0
            while left < 60 and self.message.bit(self.digits[left]):
                left += 1
            upper = self.message.plain(left - 32) if left > 32 else 0
            number = 2**left + (upper << 32) + self.message.plain(min(left, 32))
            size = (FIRST_OF[15] - 1 + number << shift) + self.message.plain(shift)
        elif symbol:
            size = (FIRST_OF[symbol] << shift) + self.message.plain(BITS_OF[symbol] + shift)
        else:
            size = self.message.plain(shift)
        return -size if size and self.message.plain(1) else size


def decoded(payload: bytes, shape: Sequence[int], levels: Sequence[int], wide: bool) -> np.ndarray:
    """The integers of a payload, as int64; `wide` if they have 64 bits."""
    return Decoder(payload, shape, levels, COUNTED if wide else 2**31).decoded()

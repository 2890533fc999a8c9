"""KVTC's recipe as its paper has it: principal directions, bits for each, integers, DEFLATE.

Directions are of the same groups of layers as romzarr's, without weights by gradients. Bits are 0,
1, 2, 4 or 8 for each direction, chosen by dynamic programming on the errors that samples have;
on convex hulls of these errors, as here, the greedy choice is the optimum.

References
----------
.. [1] K. Staniszewski, A. Lancucki, "KV cache transform coding for compact storage in LLM
   inference", arXiv:2511.01815, section 3.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

LEVELS = (0, 1, 2, 4, 8)
# Deviations that integers of so many bits reach to either side of the mean, for the least error
# of Gaussian values.
REACH = {1: 1.6, 2: 2.0, 4: 2.8, 8: 4.3}


@dataclass(frozen=True)
class TransformCoding:
    """Directions (features, directions), their deviations, and bits for each."""

    mean: Array
    axes: Array
    deviations: Array
    bits: NDArray[np.int64]

    @classmethod
    def of(cls, samples: Array, budget: float) -> TransformCoding:
        """Bits a value before DEFLATE are at most `budget`."""
        mean = samples.mean(axis=0)
        moments = (samples - mean).T @ (samples - mean) / len(samples)
        spectrum, axes = np.linalg.eigh(moments)
        deviations = np.sqrt(np.maximum(spectrum, 1e-12)).astype(np.float32)
        coordinates = ((samples - mean) @ axes)[:: max(1, len(samples) // 1024)]
        errors = np.stack([_errors(coordinates, deviations, bits) for bits in LEVELS])
        return cls(mean, axes, deviations, _allocated(errors, budget * len(mean)))

    def coded(self, x: Array, block: int) -> tuple[Array, int]:
        """Tokens as they decode, and their bytes in blocks."""
        coordinates = (x - self.mean) @ self.axes
        integers = np.zeros(coordinates.shape, np.int64)
        decoded = np.zeros_like(coordinates)
        for bits in LEVELS[1:]:
            some = np.flatnonzero(self.bits == bits)
            found = _rounded(coordinates[:, some], self.deviations[some], bits)
            integers[:, some], decoded[:, some] = found
        nbytes = sum(self._deflated(integers[k : k + block]) for k in range(0, len(x), block))
        return decoded @ self.axes.T + self.mean, nbytes

    def _deflated(self, integers: NDArray[np.int64]) -> int:
        """Bits packed direction by direction, then DEFLATE."""
        streams = []
        for bits in LEVELS[1:]:
            some = integers[:, self.bits == bits].T.ravel()
            streams.append((some[:, None] >> np.arange(bits)[::-1] & 1).ravel())
        packed = np.packbits(np.concatenate(streams).astype(np.uint8))
        return len(zlib.compress(packed.tobytes(), 9))


def _rounded(coordinates: Array, deviations: Array, bits: int) -> tuple[NDArray[np.int64], Array]:
    step = 2 * REACH[bits] * deviations / 2**bits
    integers = np.floor(coordinates / step).astype(np.int64) + 2 ** (bits - 1)
    integers = np.clip(integers, 0, 2**bits - 1)
    return integers, (integers - 2 ** (bits - 1) + np.float32(0.5)) * step


def _errors(coordinates: Array, deviations: Array, bits: int) -> Array:
    """Mean squared error of each direction."""
    if not bits:
        return np.mean(coordinates**2, axis=0)
    return np.mean((coordinates - _rounded(coordinates, deviations, bits)[1]) ** 2, axis=0)


def _allocated(errors: Array, budget: float) -> NDArray[np.int64]:
    """Bits for each direction that take the largest drops of error for a bit first."""
    levels = np.array(LEVELS)
    steps = []
    for direction, column in enumerate(errors.T):
        at = 0
        while at < len(levels) - 1:
            slopes = (column[at] - column[at + 1 :]) / (levels[at + 1 :] - levels[at])
            best = at + 1 + int(slopes.argmax())
            if slopes.max() <= 0:
                break
            steps.append((slopes.max(), levels[best] - levels[at], direction, levels[best]))
            at = best
    bits, spent = np.zeros(errors.shape[1], np.int64), 0.0
    for _, cost, direction, level in sorted(steps, key=lambda each: -each[0]):
        if spent + cost > budget:
            break
        spent += cost
        bits[direction] = level
    return bits

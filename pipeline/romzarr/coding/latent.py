"""Coding of a block of time of the coefficients a(t): samples, a model between them, corrections.

The model is integrated from kept samples, and what it misses is transformed along time,
quantised and coded; or, mode by mode where that takes fewer bytes, quantised and extrapolated
by polynomials. Rounding differences of a decoder are never fed back: the integration starts
anew from each sample, corrections only add, and polynomials are of integers. Without a model
everything is a correction, which is plain coding; so a model costs nothing where it is no use.

A block of time is a whole number of blocks of the code, each of which starts from a sample of its
own. So the blocks of a record are coded one by one; what they have to agree on, such as the step,
follows from sums (`romzarr.chunked.latent`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from romzarr.coding.bands import depth
from romzarr.coding.differences import LARGEST, bits_by_order
from romzarr.coding.rates import bits_of
from romzarr.coding.tiles import coded_rows, encode_rows
from romzarr.contracts import BlockSpan, LatentCode, Matrix, Vector
from romzarr.numerics.dynamics.integrate import Dynamics
from romzarr.numerics.dynamics.sampling import (
    STRAIGHT_LINE,
    Deviation,
    SampleSearch,
    Spread,
    Tolerances,
    rebuild,
)

BlockModel = NDArray[np.int16]
Index = NDArray[np.int64]

# How far off, in squares of what is allowed, samples may leave a model to corrections.
ALLOWANCES = (16.0, 1024.0)
# A range coder with contexts needs about this share of the bits that `rates` tells.
CONTEXT_GAIN = 0.8
# Samples from which a model starts are so much finer than corrections: an error at the
# start stays an error all along.
FINER = 8
# A model that is more steps off than this is no use, and its corrections no integers.
MOST_LEFT = 2.0**50
# Relative error of samples as another machine may round them.
SHAKEN_BY = 1e-12


@dataclass(frozen=True)
class LatentBlock:
    """Coefficients of a block of time.

    Attributes
    ----------
    a : (n, r) float64, or (n + 1, r) where the record goes on
        The last row is then the sample with which the next block starts.
    times : (n,) or (n + 1,) float64
    rest : (n, k) float64
        Coefficients of the modes that were cut off.
    """

    a: Matrix
    times: Vector
    rest: Matrix

    @property
    def own(self) -> Matrix:
        """The coefficients (n, r) of its own snapshots."""
        return self.a[: len(self.rest)]

    def spread(self) -> Spread:
        """How large its coefficients are."""
        return Spread.of(self.own)


@dataclass(frozen=True)
class BlockCode:
    """Which snapshots of a block of time are samples, and which model follows them.

    Attributes
    ----------
    index : (k,) int64
        Counted from the first snapshot of the block; also the snapshot that the record goes on
        with.
    models : (blocks + 2,) int16
        Number of the model of each block of the code, and of those before and after.
    bits : float
        What samples and corrections should take.
    first : int
        Samples of the record before those of the block.
    """

    index: Index
    models: BlockModel
    bits: float = np.inf
    first: int = 0

    @property
    def own_models(self) -> BlockModel:
        return self.models[1:-1]


class CodedBlock(NamedTuple):
    """Corrections of a block as they are stored, and the inner products in time (r, r) of what
    rounding in a decoder may change, not finite if that is not."""

    corrections: tuple[bytes, ...]
    drift: Matrix


@dataclass(frozen=True)
class LatentCoder:
    """Codes any block of a record, with the same settings for all.

    Attributes
    ----------
    models : sequence of Dynamics
    tolerances : Tolerances
        Of the record, which has so many ``snapshots``.
    block_steps : int
        Snapshots of a block of the code.
    substeps : int
        Runge-Kutta steps a snapshot.
    rows : int
        Rows of a chunk of corrections; a block of time starts with a chunk.
    """

    models: tuple[Dynamics, ...]
    tolerances: Tolerances
    snapshots: int
    block_steps: int
    substeps: int
    rows: int

    def plan(self, block: LatentBlock, choices: Sequence[BlockModel], step: float) -> BlockCode:
        """The best mixture, block by block, of models with few samples and of no model.

        Parameters
        ----------
        block : LatentBlock
        choices : sequence of (blocks + 2,) int16
            Numbers of the models that may serve the blocks of the code, and those before and
            after.
        step : float
            That corrections should have.
        """
        count = -(-len(block.rest) // self.block_steps)
        starts = np.arange(0, len(block.rest), self.block_steps)
        starts = np.unique(np.append(starts, len(block.a) - 1))
        codes = [BlockCode(starts, np.full(count + 2, STRAIGHT_LINE, np.int16))]
        if choices:
            kept = step * np.round(block.a / step)
            search = SampleSearch(
                block.a, kept, block.times, self.models, self.tolerances, self.block_steps,
                self.substeps, count, self.snapshots,
            )  # fmt: skip
        for choice in choices:
            codes.append(BlockCode(starts, choice))
            for code in search.encode(ALLOWANCES, choice[1:-1]):
                codes.append(BlockCode(code.index, choice))
        return self._mixed(block, codes, step)

    def _mixed(self, block: LatentBlock, codes: Sequence[BlockCode], step: float) -> BlockCode:
        """For each block of the code that of several which leaves fewest bits."""
        bits = np.array([self._bits(block, code, step) for code in codes])
        best = np.argmin(bits, axis=0)
        kept = np.zeros(len(block.a), bool)
        kept[codes[0].index] = True
        for choice in np.unique(best):
            index = codes[choice].index
            index = index[index < len(block.rest)]
            kept[index] |= best[index // self.block_steps] == choice
        models = [codes[c].own_models[b] for b, c in enumerate(best)]
        ends = np.full(1, STRAIGHT_LINE, np.int16)
        around = np.concatenate([ends, np.array(models, np.int16), ends])
        return BlockCode(np.flatnonzero(kept), around, float(bits.min(axis=0).sum()))

    def _bits(self, block: LatentBlock, code: BlockCode, step: float) -> Vector:
        """Bits of samples and corrections of every block of the code."""
        fine = step / FINER
        samples = fine * np.round(self._samples(block, code) / fine)
        left = block.own - self._rebuilt(block, code, samples)
        bits = np.concatenate([self._correction_bits(part, step) for part in self._by_length(left)])
        size = np.log2(2 + 2 * np.abs(samples) / fine).sum(axis=1) + 8.0
        own = code.index < len(block.rest)
        number = code.index[own] // self.block_steps
        inside = code.own_models[number] != STRAIGHT_LINE
        np.add.at(bits, number, np.where(inside, size[own], 0.0))
        return bits

    def _by_length(self, left: Matrix) -> list[Matrix]:
        """Rows of `left` as blocks (n, steps, r): the full ones, and the last if it is shorter."""
        full, over = divmod(len(left), self.block_steps)
        parts = [left[: full * self.block_steps].reshape(full, self.block_steps, left.shape[1])]
        return [*parts, left[None, full * self.block_steps :]] if over else parts

    @staticmethod
    def _correction_bits(left: Matrix, step: float) -> Vector:
        """Bits of the corrections `left` (n, steps, r) of blocks; without end if not finite."""
        blocks, steps, modes = left.shape
        bits = np.full(blocks, np.inf)
        finite = np.isfinite(left).all(axis=(1, 2))
        rows = np.ascontiguousarray(left[finite].swapaxes(1, 2)).reshape(-1, steps)
        found = bits_of(rows, (0, depth(steps)), step).reshape(np.count_nonzero(finite), modes)
        bits[finite] = CONTEXT_GAIN * found.sum(axis=1)
        return bits

    def _samples(self, block: LatentBlock, code: BlockCode) -> Matrix:
        """Coefficients (k, r) of the samples, as far as a model needs them."""
        modelled = code.models != STRAIGHT_LINE
        number, within = np.divmod(code.index, self.block_steps)
        needed = modelled[number + 1] | ((within == 0) & modelled[number])
        modes = self.models[0].modes if self.models else 0
        mine = needed[:, None] & (np.arange(block.a.shape[1]) < modes)
        return np.where(mine, block.a[code.index], 0)

    def samples(self, block: LatentBlock, code: BlockCode) -> Matrix:
        """Samples (k, r) of its own snapshots before they are rounded, zero where no model needs
        them."""
        own = np.count_nonzero(code.index < len(block.rest))
        return self._samples(block, code)[:own]

    def _rebuilt(self, block: LatentBlock, code: BlockCode, samples: Matrix | None) -> Matrix:
        """The coefficients (n, r) of its own snapshots from samples (None: zeros) and models."""
        modelled = bool((code.own_models != STRAIGHT_LINE).any())
        if samples is None or not (modelled or samples.any()):
            return np.zeros_like(block.own)
        latent = LatentCode(
            code.index, samples, self.block_steps, code.own_models, self.substeps, code.first
        )
        with np.errstate(all="ignore"):
            return rebuild(latent, self.models, block.times, BlockSpan(0, len(block.rest)))

    def trial(
        self,
        block: LatentBlock,
        code: BlockCode,
        samples: Matrix | None,
        step: float,
        orders: tuple[int, ...],
    ) -> Deviation | None:
        """How far off decoding would be with corrections of a step, of which the leading ones are
        differences of these `orders`; None if these could not be coded.

        `samples` (k, r) are those that decode, with that of the next block; None if all are zero.
        """
        rebuilt = self._rebuilt(block, code, samples)
        left = block.own - rebuilt
        most = min(LARGEST, MOST_LEFT) if orders else MOST_LEFT
        if not np.abs(left).max(initial=0.0) < most * step:
            return None
        decoded = rebuilt + coded_rows(left, self.rows, step, True, orders)
        return Deviation.of(np.asarray(decoded - block.own), block.rest)

    def missed(
        self,
        block: LatentBlock,
        code: BlockCode,
        samples: Matrix | None,
        step: float,
        orders: tuple[int, ...],
    ) -> Matrix:
        """What decoding misses of its own snapshots (n, r), coded as in a `trial` that met the
        tolerances."""
        rebuilt = self._rebuilt(block, code, samples)
        left = block.own - rebuilt
        decoded = rebuilt + coded_rows(left, self.rows, step, True, orders)
        return np.asarray(block.own - decoded)

    def order_bits(
        self, block: LatentBlock, code: BlockCode, samples: Matrix | None, step: float
    ) -> Matrix:
        """Bits of corrections by the order of their differences (`bits_by_order`)."""
        left = block.own - self._rebuilt(block, code, samples)
        return np.asarray(bits_by_order(left, step))

    def coded(
        self,
        block: LatentBlock,
        code: BlockCode,
        samples: Matrix | None,
        step: float,
        orders: tuple[int, ...],
    ) -> CodedBlock:
        """The block coded as in a `trial`."""
        rebuilt = self._rebuilt(block, code, samples)
        corrections = encode_rows(block.own - rebuilt, self.rows, step, True, orders)
        return CodedBlock(corrections, self._drift(block, code, samples, rebuilt))

    def _drift(
        self, block: LatentBlock, code: BlockCode, samples: Matrix | None, rebuilt: Matrix
    ) -> Matrix:
        """Inner products in time of what changes if samples are shaken by `SHAKEN_BY`."""
        if samples is None:
            return np.zeros((rebuilt.shape[1], rebuilt.shape[1]))
        signs = (-1.0) ** (1 + code.first + np.arange(len(samples)))
        shaken = samples * (1 + SHAKEN_BY * signs)[:, None]
        with np.errstate(all="ignore"):
            drift = self._rebuilt(block, code, shaken) - rebuilt
            return np.asarray(drift.T @ drift)

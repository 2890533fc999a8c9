"""Coding of the coefficients a(t): samples, a model between them, and corrections.

The model is integrated from kept samples, and what it misses is transformed along time,
quantised and coded; or, mode by mode where that takes fewer bytes, quantised and extrapolated
by polynomials. Rounding differences of a decoder are never fed back: the integration starts
anew from each sample, corrections only add, and polynomials are of integers. Without a model
everything is a correction, which is plain coding; so a model costs nothing where it is no use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from romzarr.coding.bands import depth
from romzarr.coding.differences import LARGEST, best_orders
from romzarr.coding.rates import bits_of
from romzarr.coding.tiles import coded_rows, encode_rows, tile_rows
from romzarr.contracts import BlockSpan, CodedLatent, LatentCode
from romzarr.numerics.dynamics.integrate import Dynamics
from romzarr.numerics.dynamics.sampling import STRAIGHT_LINE, SampleSearch, Tolerances, rebuild

Matrix = NDArray[np.float64]
BlockModel = NDArray[np.int16]

# How far off, in squares of what is allowed, samples may leave a model to corrections.
ALLOWANCES = (16.0, 1024.0)
# A range coder with contexts needs about this share of the bits that `rates` tells.
CONTEXT_GAIN = 0.8
# Ratio of one step tried to the next, and how many: down to 1/256 of the first, which at loose
# tolerances may be far above all coefficients.
STEP_RATIO, MOST_STEPS = 2**0.125, 64
# Samples from which a model starts are so much finer than corrections: an error at the
# start stays an error all along.
FINER = 8
# A model that is more steps off than this is no use, and its corrections no integers.
MOST_LEFT = 2.0**50
# A list of orders takes up these bytes of metadata, and a digit and a comma for each.
LIST_BYTES = len('"differences":[],')
# Share of the squared error that rounding in a decoder may make.
SHAKEN = 1e-6


@dataclass(frozen=True)
class Decoded:
    """A coded latent state, its bytes, and the coefficients (m, r) it decodes to."""

    coded: CodedLatent
    a: Matrix

    @property
    def nbytes(self) -> int:
        coded, orders = self.coded, 2 * len(self.coded.correction_orders)
        corrections = sum(map(len, coded.correction_bytes)) + orders + (LIST_BYTES if orders else 0)
        if coded.code.says_nothing:
            return corrections
        return corrections + 2 * coded.code.kept + sum(map(len, coded.sample_bytes))


def code_latent(
    a: Matrix,
    times: Matrix,
    models: Sequence[Dynamics],
    choices: Sequence[BlockModel],
    tolerances: Tolerances,
    step: float,
    *,
    block_steps: int,
) -> Decoded | None:
    """Code a(t) within the tolerances with few bytes.

    Parameters
    ----------
    a : (m, r) float64
    times : (m,) float64
    models : sequence of Dynamics
    choices : sequence of (blocks,) int16
        Numbers of the models that may serve each block of `block_steps` snapshots; without
        any, the coefficients are coded without a model.
    tolerances : Tolerances
    step : float
        Step to begin with; what is used is the largest near it that meets the tolerances.
    block_steps : int
        Snapshots a block; each starts with a sample.

    Returns
    -------
    Decoded, or None
        If no step meets the tolerances, or no block is better off with a model.

    References
    ----------
    .. [1] B. P. Russo, M. P. Laiu, R. Archibald, "Streaming compression of scientific data
       via weak-SINDy", arXiv:2308.14962 (samples and a weak-form model in place of data).
    """
    plan = plan_latent(a, times, models, choices, tolerances, step, block_steps=block_steps)
    return plan.coded()


def plan_latent(
    a: Matrix,
    times: Matrix,
    models: Sequence[Dynamics],
    choices: Sequence[BlockModel],
    tolerances: Tolerances,
    step: float,
    *,
    block_steps: int,
) -> LatentPlan:
    """Choose samples and models for `code_latent`, of which this is the first and cheaper half."""
    coder = _Coder(a, times, tuple(models), tuple(choices), tolerances, block_steps)
    return LatentPlan(coder, coder.plan(step), step)


@dataclass(frozen=True)
class LatentPlan:
    """Samples and models by which a(t) is to be coded, and what is expected of them."""

    _coder: _Coder
    _plan: _Plan
    _step: float

    @property
    def expected_bytes(self) -> float:
        """Bytes of samples and corrections, to be compared with those of other plans."""
        return self._plan.bits / 8

    @property
    def modelled(self) -> bool:
        """Whether any block is better off with a model."""
        return bool((self._plan.block_model != STRAIGHT_LINE).any())

    def coded(self) -> Decoded | None:
        """The plan carried out; None as `code_latent` has it."""
        if self._coder.choices and not self.modelled:
            return None
        return self._coder.smallest(self._plan, self._step)


@dataclass(frozen=True)
class _Plan:
    """Which snapshots are samples, which model follows them, and the bits expected."""

    index: NDArray[np.int64]
    block_model: BlockModel
    substeps: int
    bits: float = np.inf


@dataclass(frozen=True)
class _Start:
    """A plan with samples as `given` and as in the `code` that decodes, the `step` of corrections
    that goes with these, and what is rebuilt without any."""

    plan: _Plan
    step: float
    given: LatentCode
    code: LatentCode
    rebuilt: Matrix


@dataclass(frozen=True)
class _Trial:
    """All coefficients as decoded with corrections, of which the leading ones are differences of
    these `orders`; ``used`` is the share of the tolerance that their errors take."""

    start: _Start
    orders: tuple[int, ...]
    decoded: Matrix
    used: float


def _next_place(used: Mapping[int, float], low: int, high: int) -> int:
    """Where between `low`, which is within the tolerance, and `high`, which is not, to look next.

    Where the straight line through the logarithms of what was `used` at the two nearest places
    reaches all of it; of one place alone, what is used is taken to grow as the step.
    """
    sides = [place for place in (low, high) if 0 < used.get(place, np.inf) < np.inf]
    if not sides:
        return (low + high) // 2
    logarithms = [float(np.log(used[place]) / np.log(STEP_RATIO)) for place in sides]
    slope = 1.0
    if len(sides) == 2:
        slope = (logarithms[1] - logarithms[0]) / (sides[1] - sides[0])
    guess = sides[0] - logarithms[0] / slope
    return int(np.clip(np.floor(guess), low + 1, high - 1))


@dataclass(frozen=True)
class _Coder:
    a: Matrix
    times: Matrix
    models: tuple[Dynamics, ...]
    choices: tuple[BlockModel, ...]
    tolerances: Tolerances
    block_steps: int

    @property
    def blocks(self) -> int:
        return -(-len(self.a) // self.block_steps)

    def plan(self, step: float) -> _Plan:
        """The best mixture, block by block, of models with few samples and of no model."""
        starts = np.unique(np.append(np.arange(0, len(self.a), self.block_steps), len(self.a) - 1))
        plans = [_Plan(starts, np.full(self.blocks, STRAIGHT_LINE, np.int16), 1)]
        if self.choices:
            kept = step * np.round(self.a / step)
            search = SampleSearch.of(
                self.a, kept, self.times, self.models, self.tolerances, self.block_steps
            )
        for choice in self.choices:
            plans.append(_Plan(starts, choice, search.substeps))
            for code in search.encode(ALLOWANCES, choice):
                plans.append(_Plan(code.index, choice, search.substeps))
        return self._mixed(plans, step)

    def _mixed(self, plans: Sequence[_Plan], step: float) -> _Plan:
        """For each block that of the plans which leaves fewest bits."""
        bits = np.array([self._bits(plan, step) for plan in plans])
        best = np.argmin(bits, axis=0)
        number = np.arange(len(self.a)) // self.block_steps
        kept = np.zeros(len(self.a), bool)
        kept[plans[0].index] = True
        for choice in np.unique(best):
            kept[plans[choice].index] |= best[number[plans[choice].index]] == choice
        model = np.array([plans[c].block_model[b] for b, c in enumerate(best)], np.int16)
        least = float(bits.min(axis=0).sum())
        return _Plan(np.flatnonzero(kept), model, plans[-1].substeps, least)

    def _bits(self, plan: _Plan, step: float) -> Matrix:
        """Bits of samples and corrections of every block."""
        fine = step / FINER
        code = self._code(plan, fine * np.round(self.a / fine))
        left = self.a - self._rebuilt(code)
        bits = np.concatenate([self._correction_bits(part, step) for part in self._by_length(left)])
        size = np.log2(2 + 2 * np.abs(code.samples) / fine).sum(axis=1) + 8.0
        inside = plan.block_model[plan.index // self.block_steps] != STRAIGHT_LINE
        np.add.at(bits, plan.index // self.block_steps, np.where(inside, size, 0.0))
        return bits

    def _by_length(self, left: Matrix) -> list[Matrix]:
        """Rows of `left` as blocks (n, steps, r): the full ones, and the last if it is shorter."""
        full = len(left) // self.block_steps
        parts = [left[: full * self.block_steps].reshape(full, self.block_steps, left.shape[1])]
        return parts if full == self.blocks else [*parts, left[None, full * self.block_steps :]]

    @staticmethod
    def _correction_bits(left: Matrix, step: float) -> Matrix:
        """Bits of the corrections `left` (n, steps, r) of blocks; without end if not finite."""
        blocks, steps, modes = left.shape
        bits = np.full(blocks, np.inf)
        finite = np.isfinite(left).all(axis=(1, 2))
        rows = np.ascontiguousarray(left[finite].swapaxes(1, 2)).reshape(-1, steps)
        found = bits_of(rows, (0, depth(steps)), step).reshape(np.count_nonzero(finite), modes)
        bits[finite] = CONTEXT_GAIN * found.sum(axis=1)
        return bits

    def _code(self, plan: _Plan, values: Matrix) -> LatentCode:
        """Code with samples `values`, as far as a model needs them."""
        samples = values[plan.index]
        modelled = plan.block_model != STRAIGHT_LINE
        block = plan.index // self.block_steps
        start = plan.index % self.block_steps == 0
        needed = modelled[block] | (start & modelled[np.maximum(block - 1, 0)])
        modes = self.models[0].modes if self.models else 0
        samples = np.where(needed[:, None] & (np.arange(samples.shape[1]) < modes), samples, 0)
        return LatentCode(plan.index, samples, self.block_steps, plan.block_model, plan.substeps)

    def _rebuilt(self, code: LatentCode) -> Matrix:
        with np.errstate(all="ignore"):
            return rebuild(code, self.models, self.times, BlockSpan(0, len(self.a)))

    def smallest(self, plan: _Plan, step: float) -> Decoded | None:
        """The plan carried out with wavelets, or with polynomials for the modes that gain."""
        trial = self._at_best_step(self._start(plan, step), ())
        if trial is None:
            return None
        found = [self._encoded(trial)]
        orders = best_orders(self.a - trial.start.rebuilt, trial.start.step)
        if orders and (another := self._at_best_step(trial.start, orders)):
            found.append(self._encoded(another))
        return min(found, key=lambda each: each.nbytes)

    def _at_best_step(self, start: _Start, orders: tuple[int, ...]) -> _Trial | None:
        """The trial with the largest step near that of `start` that meets the tolerances.

        Steps are those of `start` times powers of `STEP_RATIO`: the next larger one does not meet
        them. Errors grow about as the step does, which tells where to look.
        """
        best: _Trial | None = None
        low, high, place = -MOST_STEPS - 1, MOST_STEPS + 1, 0
        used = dict[int, float]()
        while high - low > 1:
            step = start.step * STEP_RATIO**place
            trial = self._trial(self._start(start.plan, step) if place else start, orders)
            used[place] = np.inf if trial is None else trial.used
            if trial is not None and trial.used <= 1:
                best, low = trial, place
            else:
                high = place
            place = _next_place(used, low, high)
        return None if best is None or not self._steady(best.start) else best

    def _start(self, plan: _Plan, step: float) -> _Start:
        """A plan with its samples rounded as one step of the corrections has it."""
        given = self._code(plan, self.a)
        rows = tile_rows(given.kept, self.a.shape[1])
        samples = coded_rows(given.samples, rows, step / FINER, smooth=False)
        code = replace(given, samples=samples)
        return _Start(plan, step, given, code, self._rebuilt(code))

    def _trial(self, start: _Start, orders: tuple[int, ...]) -> _Trial | None:
        """What decoding would give with these orders (None: nothing that can be coded)."""
        left = self.a - start.rebuilt
        most = min(LARGEST, MOST_LEFT) if orders else MOST_LEFT
        if not np.abs(left).max(initial=0.0) < most * start.step:
            return None
        rows = tile_rows(*self.a.shape)
        decoded = start.rebuilt + coded_rows(left, rows, start.step, True, orders)
        return _Trial(start, orders, decoded, self.tolerances.used_by(decoded - self.a))

    def _steady(self, start: _Start) -> bool:
        """Whether rounding in a decoder, as if samples were shaken by 1e-12, stays nothing."""
        code, rebuilt = start.code, start.rebuilt
        shaken = np.where(np.arange(code.kept) % 2, 1 + 1e-12, 1 - 1e-12)[:, None]
        drift = self._rebuilt(replace(code, samples=code.samples * shaken)) - rebuilt
        margin = SHAKEN * self.tolerances.for_coding()
        return bool(np.isfinite(drift).all() and np.all(self.tolerances.coding(drift) <= margin))

    def _encoded(self, trial: _Trial) -> Decoded:
        start = trial.start
        rows, long = tile_rows(start.code.kept, self.a.shape[1]), tile_rows(*self.a.shape)
        fine, left = start.step / FINER, self.a - start.rebuilt
        coded = CodedLatent(
            code=start.code,
            step=start.step,
            sample_step=fine,
            sample_rows=rows,
            sample_bytes=encode_rows(start.given.samples, rows, fine, smooth=False),
            correction_rows=long,
            correction_bytes=encode_rows(left, long, start.step, True, trial.orders),
            correction_orders=trial.orders,
        )
        return Decoded(coded, trial.decoded)

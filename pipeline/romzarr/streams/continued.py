"""A segment that goes on with the modes of parts before it.

Its snapshots are projected onto these modes, as they decode; what is left of them gets modes of
its own, as many as the bound asks for. Coefficients are rounded to multiples of one step and
extrapolated by polynomials, so that tomorrow they can be written again together with more,
without another loss. Nothing of the past is coded anew, and all of the bound is spent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from romzarr.coding.bands import depth
from romzarr.coding.differences import MOST_ORDER
from romzarr.coding.rates import Rates, allocate, rates, step_of
from romzarr.coding.tiles import encode_rows, field_levels, tile_rows
from romzarr.compression.allocate_bits import MODE_BITS
from romzarr.compression.pod import NEGLIGIBLE, Earlier
from romzarr.contracts import CodedLatent, Matrix, Vector
from romzarr.errors import AccuracyError
from romzarr.numerics.budget import ErrorBudget, VariableNorms, split_budget
from romzarr.numerics.pod.basis import SQUARED
from romzarr.numerics.pod.incremental import IncrementalPOD
from romzarr.numerics.pod.truncation import tails
from romzarr.streams.blocks import Frame
from romzarr.streams.chain import Chain, Tail
from romzarr.streams.parts import norms_of
from romzarr.streams.running import RunningFields, code_fields_with, corrections_alone

# Coding modes of the tail together with new ones moves them a little, which new ones coded so much
# finer make up for; or so many more of them.
FINER, MOST_MORE = 2.0, 8
# Ratio of one step tried to the next, and how many.
STEP_RATIO, MOST_STEPS = 0.9, 40


@dataclass(frozen=True)
class Continued:
    """A segment, coded.

    ``a`` (m, r) are whole multiples of ``step``, differenced with ``orders``; they begin with
    the snapshots of the `tail` that is written anew. ``fields`` and ``scales`` are of the modes
    that it adds. ``errors`` (V,) bound those of the whole store by its fluctuation.
    """

    extends: str
    tail: Tail | None
    fields: list[RunningFields | None]
    scales: Vector
    a: Matrix
    step: float
    orders: tuple[int, ...]
    content: tuple[bytes, ...]
    dtype: np.dtype[Any]
    errors: Vector

    @property
    def latent(self) -> CodedLatent:
        rows = tile_rows(*self.a.shape)
        code = corrections_alone(self.a, self.step, rows, self.content)
        form = replace(code.format, correction_orders=self.orders, smooth=False)
        return replace(code, format=form)

    @property
    def nbytes(self) -> int:
        """Bytes of coefficients and fields, less those of the tail before."""
        fields = [len(c) for each in self.fields if each for c in each.contents.values()]
        before = self.tail.nbytes if self.tail else 0
        return sum(map(len, self.content)) + sum(fields) - before


def continuations(
    pod: IncrementalPOD, a: Matrix, frame: Frame, chain: Chain, earlier: Earlier, tolerance: float
) -> Iterator[Continued]:
    """Ways to code a segment in the modes of a chain: with its tail, and as a part of its own.

    Parameters
    ----------
    pod : IncrementalPOD
        Settled, if it is exact.
    a : (m, r) float64
    frame : Frame
    chain : Chain
    earlier : Earlier
    tolerance : float
    """
    if (chain.varies != (pod.fluctuation > 0)).any():
        return
    # A step has to do for the snapshots that will join, which have no more than they fluctuate
    # by; those that join take what there is.
    own = pod.fluctuation - earlier.fluctuation
    every = own + 2 * earlier.spare(tolerance)
    for tail, counted in ((chain.tail, every), (None, own)):
        norms = norms_of(frame, pod, np.maximum(counted, 0.0))
        try:
            budget = split_budget(norms, tolerance, chain.arithmetic == np.float64)
        except AccuracyError:
            continue
        if budget.basis != chain.arithmetic:
            continue
        coder = _Coder(pod, a, frame, chain, earlier, norms, budget)
        if tail and (joined := coder.joined(tail)):
            yield joined
        elif not tail and (apart := coder.apart()):
            yield apart


@dataclass(frozen=True)
class _Coder:
    pod: IncrementalPOD
    a: Matrix
    frame: Frame
    chain: Chain
    earlier: Earlier
    norms: list[VariableNorms]
    budget: ErrorBudget

    # --- what is to be coded ----------------------------------------------------------------

    @cached_property
    def _rows(self) -> Matrix:
        """What the table ``[1 a]`` is multiplied by (r + 1, n) to give snapshots less origin."""
        return np.concatenate([(self.pod.origin - self.chain.origin)[None], self.pod.modes])

    @cached_property
    def _table(self) -> Matrix:
        return np.concatenate([np.ones((len(self.a), 1)), self.a], axis=1)

    @cached_property
    def _room(self) -> Vector:
        """Squared error (V,) that coding may make of these snapshots."""
        return np.maximum(self.budget.tolerated - np.sqrt(self.pod.lost), 0.0) ** 2

    @cached_property
    def _modes(self) -> tuple[Matrix, Matrix]:
        """New modes (K, n), and the combinations (r + 1, r0 + K) of the table that are the
        coefficients of all."""
        old, rows = self.chain.modes, self._rows
        # All variables fluctuate alike in it.
        joint = self.pod.inner.joint(self.pod.balance)
        inverse = np.linalg.pinv(joint.gram(old), rtol=SQUARED, hermitian=True)
        on = joint.products(rows, old) @ inverse
        rest = rows - on @ old
        left = self.pod.triangle @ rest
        values, turn = np.linalg.eigh(joint.gram(left))
        rank = int(np.count_nonzero(values > SQUARED * max(values[-1], 0.0)))
        new = (turn[:, ::-1].T @ left)[:rank] / np.sqrt(values[::-1][:rank, None])
        energies = values[::-1][:rank, None] * self.pod.inner.squares(new)
        useful = int(np.argmax((tails(energies.T) <= NEGLIGIBLE * self._room[:, None]).all(axis=0)))
        new = new[:useful]
        return new, np.concatenate([on, joint.products(rest, new)], axis=1)

    @cached_property
    def _coefficients(self) -> Matrix:
        return np.asarray(self._table @ self._modes[1])

    @property
    def _known(self) -> int:
        return len(self.chain.modes)

    @cached_property
    def _scales(self) -> Vector:
        """Norms (K,) of the coefficients of new modes."""
        return np.linalg.norm(self._coefficients[:, self._known :], axis=0)

    # --- choices ----------------------------------------------------------------------------

    @cached_property
    def _live(self) -> list[int]:
        return np.flatnonzero(self.chain.varies).tolist()

    def _plan(self) -> tuple[int, float, Vector] | None:
        """New modes, step of the coefficients, steps (V,) of the fields that cost fewest bits."""
        new, a = self._modes[0], self._coefficients
        shares = self.pod.inner.squares(np.concatenate([self.chain.modes, new])).T[self._live]
        units = np.sqrt(self.pod.fluctuation)
        chosen = allocate(
            [self._field_rates(v, units[v]) for v in self._live],
            rates(np.ascontiguousarray(a.T), (0, depth(len(a))), 1.0),
            shares,
            shares * np.sum(a**2, axis=0),
            self._room[self._live],
            np.zeros(len(self._live)),
            MODE_BITS,
        )
        if chosen is None:
            return None
        steps = np.zeros(len(units))
        steps[self._live] = [
            step_of(place, units[v]) for place, v in zip(chosen.fields, self._live, strict=True)
        ]
        return max(chosen.rank - self._known, 0), step_of(chosen.latent, 1.0), steps

    def _field_rates(self, number: int, unit: float) -> Rates:
        """Rates of the fields of a variable: the mean and modes that are known cost nothing."""
        variable, part = self.frame.variables[number], self.frame.edges[number]
        fields = self._scales[:, None] * self._modes[0][:, part]
        space = variable.space_shape
        found = rates(fields.reshape(-1, *space), field_levels(space), unit)
        known = np.zeros((1 + self._known, found.errors.shape[1]))
        errors = variable.inner_product.mean_weight * found.errors
        return Rates(np.concatenate([known, errors]), np.concatenate([known, found.bits]))

    def apart(self) -> Continued | None:
        """A part of its own, with steps of its own."""
        if (plan := self._plan()) is None:
            return None
        more, step, steps = plan
        for _ in range(MOST_STEPS):
            if found := self._coded(more, step, steps, None):
                return found
            step, steps = step * STEP_RATIO, steps * STEP_RATIO
        return None

    def joined(self, tail: Tail) -> Continued | None:
        """One part with the tail: with its steps, and as many new modes as these need.

        The scales of new modes make up for the steps of their fields, which suit the tail.
        """
        if (plan := self._plan()) is None:
            return None
        more, _, steps = plan
        gain = 1.0
        if tail.field_steps[self._live].all():
            if more:
                gain = max(1.0, float(np.max(tail.field_steps[self._live] / steps[self._live])))
            steps = tail.field_steps
        first = min(more, self._enough)
        for finer in (1.0, FINER):
            for count in range(first, min(first + MOST_MORE, len(self._modes[0])) + 1):
                if found := self._coded(count, tail.step, steps, tail, finer * gain):
                    return found
        return None

    @property
    def _enough(self) -> int:
        """New modes with which what is left out alone is within the bound."""
        energies = self._scales[:, None] ** 2 * self.pod.inner.squares(self._modes[0])
        return int(np.argmax((tails(energies.T) <= self._room[:, None]).all(axis=0)))

    # --- coding -----------------------------------------------------------------------------

    def _coded(
        self, more: int, step: float, steps: Vector, tail: Tail | None, gain: float = 1.0
    ) -> Continued | None:
        """Everything coded with these steps; None if that is not within the bound.

        Scales of new modes are `gain` times the norms of their coefficients.
        """
        own = tail.own if tail else 0
        fields, scales, modes = self._coded_fields(more, steps, tail, gain)
        old = self._known - own
        basis = np.concatenate([self.chain.modes[:old], modes])
        exact = self._table @ self._modes[1][:, : self._known + more]
        a = step * np.rint(exact / step)
        lost = self._lost(a, a - exact, basis)
        if tail and own:
            change = modes[:own] - self.chain.modes[old:]
            r = np.linalg.qr(tail.a[:, old:], mode="r")
            moved = self.pod.inner.squares(r @ change).sum(axis=0)
            lost = lost + moved + 2 * np.sqrt(self.earlier.lost * moved)
        if (lost > self.budget.tolerated**2).any():
            return None
        if tail:
            a = np.concatenate([np.pad(tail.a, ((0, 0), (0, a.shape[1] - tail.a.shape[1]))), a])
        orders = whole_orders(a, step)
        name = self.chain.before if tail else self.chain.extends
        content = encode_rows(a, tile_rows(*a.shape), step, False, orders)
        return Continued(
            str(name), tail, fields, scales, a, step, orders, content,
            self.chain.arithmetic, self._errors(lost),
        )  # fmt: skip

    def _coded_fields(
        self, more: int, steps: Vector, tail: Tail | None, gain: float
    ) -> tuple[list[RunningFields | None], Vector, Matrix]:
        """Fields of the modes that a part adds, their scales, and the modes they decode to."""
        modes, scales = self._modes[0][:more], gain * self._scales[:more]
        if tail and tail.own:
            modes = np.concatenate([self.chain.modes[self._known - tail.own :], modes])
            scales = np.concatenate([tail.scales, scales])
        found: list[RunningFields | None] = [None] * len(self.frame.variables)
        decoded = np.zeros_like(modes)
        for v in self._live if len(scales) else []:
            variable, part = self.frame.variables[v], self.frame.edges[v]
            valid = self.pod.valid
            inside = None if valid is None or valid[part].all() else valid[part]
            rows = scales[:, None] * modes[:, part]
            rows = np.concatenate([np.zeros((1, rows.shape[1])), rows])
            dtype: np.dtype[Any] = self.chain.arithmetic
            found[v] = coded = code_fields_with(variable, rows, inside, steps[v], dtype)
            decoded[:, part] = coded.decoded[1:] / scales[:, None]
        return found, scales, decoded

    def _lost(self, a: Matrix, noise: Matrix, basis: Matrix) -> Vector:
        """Squared error (V,) of these snapshots with the coefficients `a`, off by `noise`.

        What the segment lost is orthogonal in time to its coefficients, if it is all known, and
        meets the noise alone; or else everything.
        """
        both = np.concatenate([self._table, -a], axis=1)
        r = np.linalg.qr(both, mode="r")
        missed = self.pod.inner.squares(r @ np.concatenate([self._rows, basis])).sum(axis=0)
        lost = self.pod.lost
        if not self.pod.is_exact:
            return (np.sqrt(lost) + np.sqrt(missed)) ** 2
        noisy = self.pod.inner.squares(np.linalg.qr(noise, mode="r") @ basis).sum(axis=0)
        return np.asarray(lost + missed + 2 * np.sqrt(lost * noisy))

    def _errors(self, lost: Vector) -> Vector:
        """Bounds (V,) on the errors of the whole store by its fluctuation, with rounding."""
        both = zip(self.norms, np.sqrt(lost).tolist(), strict=True)
        now = np.array([self.budget.with_rounding(norms, error) for norms, error in both])
        total = np.sqrt(self.pod.fluctuation)
        return np.hypot(now, np.sqrt(self.earlier.lost)) / np.where(total > 0, total, 1.0)


def whole_orders(a: Matrix, step: float) -> tuple[int, ...]:
    """Order of the differences of each column with which integers should take fewest bits."""
    left = np.rint(a / step)
    bits = [_bits(left)]
    for order in range(1, MOST_ORDER + 1):
        left[order:] = np.diff(left[order - 1 :], axis=0)
        bits.append(_bits(left))
    return tuple(np.argmin(bits, axis=0).tolist())


def _bits(integers: Matrix) -> Vector:
    """Bits (r,) that the sizes of integers (m, r) ask for."""
    bits: Vector = np.log2(1 + np.abs(integers)).sum(axis=0)
    return bits

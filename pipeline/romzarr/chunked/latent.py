"""Coding of the coefficients a(t) of a record, block of time by block of time, on Dask.

Coefficients stay on the workers. What all blocks have to agree on, as the quantisation step with
which the bound is met, is decided here from sums over them (`romzarr.coding.latent`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import dask
import numpy as np
from dask.delayed import Delayed, delayed
from numpy.typing import NDArray

from romzarr.chunked.slices import added, joined, slices
from romzarr.chunked.tables import Table, block_spans, consecutive, pieces, stacked
from romzarr.coding.differences import best_orders
from romzarr.coding.latent import (
    FINER,
    BlockCode,
    BlockModel,
    CodedBlock,
    LatentBlock,
    LatentCoder,
)
from romzarr.coding.tiles import ROW_VALUES, coded_rows, encode_rows, tile_rows
from romzarr.contracts import (
    BlockSpan,
    CodedLatent,
    LatentFormat,
    Matrix,
    Times,
    UniformTimes,
    Vector,
)
from romzarr.numerics.dynamics.integrate import Dynamics
from romzarr.numerics.dynamics.sampling import (
    STRAIGHT_LINE,
    Deviation,
    Spread,
    Tolerances,
    choose_substeps,
    looked_at,
    step_accuracy,
)

# Ratio of one step tried to the next, and how many: down to 1/256 of the first, which at loose
# tolerances may be far above all coefficients.
STEP_RATIO, MOST_STEPS = 2**0.125, 64
# A list of orders takes up these bytes of metadata, and a digit and a comma for each.
LIST_BYTES = len('"differences":[],')
# Share of the squared error that rounding in a decoder may make.
SHAKEN = 1e-6


class ChunkWriter(Protocol):
    """Where tasks put chunks of a table; works in any process."""

    def write_chunk(self, number: int, content: bytes) -> None: ...


@dataclass(frozen=True)
class LatentRecord:
    """Coefficients a(t) in blocks of time.

    Attributes
    ----------
    spans : sequence of BlockSpan
        Of equal lengths but for the last, as of `block_spans`.
    blocks : sequence of Delayed
        A `LatentBlock` each, where it was made.
    rank : int
        Number of coefficients.
    """

    spans: tuple[BlockSpan, ...]
    blocks: tuple[Delayed, ...]
    rank: int

    @classmethod
    def of(cls, a: Table, times: Times, rest: Table) -> LatentRecord:
        """A record of coefficients (m, r) at these times (m,), and those (m, k) of modes that were
        cut off. Runs Dask."""
        spans, task = block_spans(len(a), a.columns + rest.columns), delayed(_block, pure=False)
        # With the snapshot that the record goes on with.
        further = (BlockSpan(span.start, min(span.stop + 1, len(a))) for span in spans)
        blocks = [
            task(a.rows(more), _part(times, more), rest.rows(span))
            for span, more in zip(spans, further, strict=True)
        ]
        return cls(spans, dask.persist(*blocks), a.columns)

    @classmethod
    def of_arrays(cls, a: Matrix, times: Vector) -> LatentRecord:
        """A record (m, r) that is here, of which no modes were cut off. Runs Dask."""
        return cls.of(Table.of(a), times, Table.of(np.zeros((len(a), 0))))

    @property
    def snapshots(self) -> int:
        return self.spans[-1].stop

    @cached_property
    def spread(self) -> Spread:
        """How large coefficients are. Runs Dask."""
        return self.sum(self.map(LatentBlock.spread))

    def map(self, function: Callable[..., Any], *args: Any) -> list[Delayed]:
        """``function(block, *args)`` of every block, as tasks."""
        task = delayed(function, pure=False)
        return [task(block, *args) for block in self.blocks]

    @staticmethod
    def sum(parts: Sequence[Delayed]) -> Any:
        """Sum over blocks, here; None if a part is. Runs Dask."""
        return dask.compute(joined(parts, _added_or_none))[0]

    def at(self, snapshots: NDArray[np.int64]) -> tuple[Matrix, Vector]:
        """Coefficients (k, r) at some snapshots but the last, increasing, and the times to the
        next. Runs Dask."""
        edges = np.searchsorted(snapshots, [span.stop for span in self.spans])
        parts = [
            delayed(_rows_at, pure=False)(block, some - span.start)
            for span, block, some in zip(
                self.spans, self.blocks, np.split(snapshots, edges[:-1]), strict=True
            )
            if len(some)
        ]
        found = dask.compute(*parts)
        return np.concatenate([a for a, _ in found]), np.concatenate([dt for _, dt in found])

    def stretches(self, wanted: Sequence[BlockSpan]) -> Delayed:
        """A `LatentBlock` of stretches of the record, one after the other, as a task.

        Time goes on from stretch to stretch as if nothing lay between them.
        """
        some = [part for span in wanted for part in self._within(span)]
        return delayed(_in_a_row, pure=False)(some)

    def _within(self, wanted: BlockSpan) -> list[Delayed]:
        cut = delayed(_stretch, pure=False)
        return [
            cut(block, max(wanted.start, s.start) - s.start, min(wanted.stop, s.stop) - s.start)
            for s, block in zip(self.spans, self.blocks, strict=True)
            if s.start < wanted.stop and wanted.start < s.stop
        ]


def plan_latent(
    record: LatentRecord,
    models: Sequence[Dynamics],
    choices: Sequence[BlockModel],
    tolerances: Tolerances,
    step: float,
    *,
    block_steps: int,
) -> LatentPlan:
    """Choose samples and models, of which coding is the second and dearer half. Runs Dask.

    Parameters
    ----------
    record : LatentRecord
    models : sequence of Dynamics
    choices : sequence of (blocks,) int16
        Numbers of the models that may serve each block of `block_steps` snapshots; without
        any, the coefficients are coded without a model.
    tolerances : Tolerances
    step : float
        Step to begin with; what is used is the largest near it that meets the tolerances.
    block_steps : int
        Snapshots a block of the code; each starts with a sample.
    """
    coder = coder_of(record, models, choices, tolerances, step, block_steps)
    cut = [[around(choice, span, block_steps) for choice in choices] for span in record.spans]
    plan, common = delayed(LatentCoder.plan, pure=False), shared(coder)
    tasks = [plan(common, b, c, step) for b, c in zip(record.blocks, cut, strict=True)]
    return LatentPlan(record, coder, tuple(here(tasks)), step)


def coder_of(
    record: LatentRecord,
    models: Sequence[Dynamics],
    choices: Sequence[BlockModel],
    tolerances: Tolerances,
    step: float,
    block_steps: int,
) -> LatentCoder:
    """What codes the blocks of a record. Runs Dask, if there are models."""
    substeps = 1
    if choices:
        a, dt = record.at(looked_at(record.snapshots))
        substeps = substeps_for(record.spread, a, dt, models, tolerances, step)
    rows = correction_rows(record)
    return LatentCoder(tuple(models), tolerances, record.snapshots, block_steps, substeps, rows)


def substeps_for(
    spread: Spread,
    a: Matrix,
    dt: Vector,
    models: Sequence[Dynamics],
    tolerances: Tolerances,
    step: float,
) -> int:
    """Runge-Kutta steps a snapshot that suit the tolerances, from coefficients (k, r) at some
    snapshots and the times (k,) to the next."""
    accurate = step_accuracy(spread.products, tolerances) * spread.deviation
    return choose_substeps(step * np.round(a / step), dt, models, accurate)


def correction_rows(record: LatentRecord) -> int:
    """Rows of a chunk of corrections: a power of two, and no more than a block has, where there are
    several blocks, so that each begins with a chunk."""
    if len(record.spans) == 1:
        return tile_rows(record.snapshots, record.rank)
    most = 1 << (max(1, ROW_VALUES // record.rank).bit_length() - 1)
    return min(most, len(record.spans[0]))


def around(choice: BlockModel, span: BlockSpan, block_steps: int) -> BlockModel:
    """Models of the blocks of the code in `span`, and of those before and after."""
    padded = np.pad(choice, 1, constant_values=STRAIGHT_LINE)
    return padded[span.start // block_steps : -(-span.stop // block_steps) + 2].copy()


@dataclass(frozen=True)
class LatentPlan:
    """Samples and models by which a(t) is to be coded, and what is expected of them."""

    record: LatentRecord
    coder: LatentCoder
    codes: tuple[BlockCode, ...]
    step: float

    @property
    def expected_bytes(self) -> float:
        """Bytes of samples and corrections, to be compared with those of other plans."""
        return sum(code.bits for code in self.codes) / 8

    @property
    def modelled(self) -> bool:
        """Whether any block is better off with a model."""
        return any((code.own_models != STRAIGHT_LINE).any() for code in self.codes)

    def coded(self) -> CodedRecord | None:
        """The plan carried out with few bytes. Runs Dask.

        None if no step meets the tolerances, or no block is better off with a model.

        References
        ----------
        .. [1] B. P. Russo, M. P. Laiu, R. Archibald, "Streaming compression of scientific data
           via weak-SINDy", arXiv:2308.14962 (samples and a weak-form model in place of data).
        """
        if self.coder.models and not self.modelled:
            return None
        return _Coding.of(self).smallest()


@dataclass(frozen=True)
class CodedRecord:
    """A coded a(t), its bytes where they were made.

    Attributes
    ----------
    format : LatentFormat
    errors : (V,) float64
        Bound on the error of every variable, as of `Tolerances.errors`.
    nbytes : int
        Of samples and corrections.
    missed : Table (m, r)
        What decoding misses of a(t), made where it is asked for.
    samples, corrections : mapping of int to Delayed
        Chunks that follow one another, by the number of the first; no samples where all are zero.
    """

    format: LatentFormat
    errors: Vector
    nbytes: int
    missed: Table
    samples: Mapping[int, Delayed]
    corrections: Mapping[int, Delayed]

    def here(self) -> CodedLatent:
        """The same with its bytes. Runs Dask."""
        parts = dask.compute(list(self.samples.values()), list(self.corrections.values()))
        samples, corrections = (tuple(c for part in some for c in part) for some in parts)
        return CodedLatent(self.format, samples, corrections)

    def write(self, samples: ChunkWriter, corrections: ChunkWriter) -> None:
        """Have the workers write all chunks. Runs Dask."""
        put = delayed(_put, pure=False)
        tasks = [put(part, samples, first) for first, part in self.samples.items()]
        tasks += [put(part, corrections, first) for first, part in self.corrections.items()]
        here(tasks)


class _Best(NamedTuple):
    """The largest step within the tolerances, and how far off all is with it."""

    step: float
    deviation: Deviation


@dataclass(frozen=True)
class _Coding:
    """A plan that is carried out.

    ``codes`` are those of the plan, with the number of samples before each block; ``parts`` are
    pairs of block and code, and ``given`` the samples of each before they are rounded: none where
    no model needs any, as all are zero then.
    """

    plan: LatentPlan
    coder: Delayed
    codes: tuple[BlockCode, ...]
    parts: tuple[Delayed, ...]
    given: tuple[Delayed, ...]

    @classmethod
    def of(cls, plan: LatentPlan) -> _Coding:
        """With all that trials of every step need, on the workers. Runs Dask."""
        coder, codes = shared(plan.coder), _numbered(plan)
        pair, samples = delayed(_pair, pure=False), delayed(_samples, pure=False)
        parts = [pair(b, code) for b, code in zip(plan.record.blocks, codes, strict=True)]
        given = [samples(coder, part) for part in parts] if plan.modelled else []
        held = dask.persist(*parts, *given)
        return cls(plan, coder, codes, held[: len(parts)], held[len(parts) :])

    def smallest(self) -> CodedRecord | None:
        """With wavelets, or with polynomials for the modes that gain; None if no step meets the
        tolerances."""
        best = self.best(self.plan.step, ())
        first = None if best is None else self.carried_out(best, ())
        if best is None or first is None:
            return None
        orders = best_orders(self.plan.record.sum(self.tasks(_order_bits, best.step)))
        other = self.best(best.step, orders) if orders else None
        another = None if other is None else self.carried_out(other, orders)
        found = [first] if another is None else [first, another]
        return min(found, key=lambda each: each.nbytes)

    def best(self, begin: float, orders: tuple[int, ...]) -> _Best | None:
        """The largest step near one to begin with that meets the tolerances. Runs Dask.

        Steps are that times powers of `STEP_RATIO`: the next larger one does not meet them. Errors
        grow about as the step does, which tells where to look.
        """
        best: _Best | None = None
        low, high, place = -MOST_STEPS - 1, MOST_STEPS + 1, 0
        tolerances, used = self.plan.coder.tolerances, dict[int, float]()
        while high - low > 1:
            step = begin * STEP_RATIO**place
            deviation = self.plan.record.sum(self.tasks(_trial, step, orders))
            used[place] = np.inf if deviation is None else tolerances.used_by(deviation)
            if used[place] <= 1:
                best, low = _Best(step, deviation), place
            else:
                high = place
            place = _next_place(used, low, high)
        return best

    def tasks(self, function: Callable[..., Any], step: float, *args: Any) -> list[Delayed]:
        """``function(coder, part, samples, step, *args)`` of every block."""
        task = delayed(function, pure=False)
        return [
            task(self.coder, part, some, step, *args)
            for part, some in zip(self.parts, self._decoded(step), strict=True)
        ]

    def _decoded(self, step: float) -> Sequence[list[Delayed] | None]:
        """Pieces of the samples of each block as they decode, with that of the next block."""
        if not self.given:
            return [None] * len(self.parts)
        task, spans = delayed(_rounded, pure=False), self._chunks
        chunks = [task(some, self._rows, step) for some in self._given(spans)]
        # Of the last block there is none of the next.
        wanted = (BlockSpan(code.first, code.first + len(code.index)) for code in self.codes)
        return [pieces(spans, chunks, each) for each in wanted]

    @property
    def _kept(self) -> int:
        """Samples of the whole record."""
        return self.codes[-1].first + len(self.codes[-1].index)

    @property
    def _rows(self) -> int:
        """Samples of a chunk."""
        return tile_rows(self._kept, self.plan.record.rank)

    @property
    def _chunks(self) -> tuple[BlockSpan, ...]:
        """Chunks of samples."""
        kept, rows = self._kept, self._rows
        return consecutive([min(rows, kept - first) for first in range(0, kept, rows)])

    def _given(self, spans: Sequence[BlockSpan]) -> list[list[Delayed]]:
        """Pieces of the samples before they are rounded, for each of these spans of samples."""
        firsts = [code.first for code in self.codes]
        own = consecutive(np.diff([*firsts, self._kept]).tolist())
        return [pieces(own, self.given, span) for span in spans]

    def carried_out(self, best: _Best, orders: tuple[int, ...]) -> CodedRecord | None:
        """All bytes; None if rounding in a decoder might count. Runs Dask."""
        record, coder, task = self.plan.record, self.plan.coder, delayed(_sample_bytes, pure=False)
        spans = self._chunks if self.given else ()
        samples = [task(some, self._rows, best.step) for some in self._given(spans)]
        coded = dask.persist(*self.tasks(_coded, best.step, orders))
        part = delayed(getattr, pure=False)
        drift = record.sum([part(each, "drift") for each in coded])
        limit = SHAKEN * coder.tolerances.for_coding()
        if not (np.isfinite(drift).all() and np.all(coder.tolerances.coding(drift) <= limit)):
            return None
        held = dask.persist(*samples, *(part(each, "corrections") for each in coded))
        sizes = here([delayed(_total_bytes, pure=False)(each) for each in held])
        corrections = held[len(samples) :]
        firsts = [span.start // coder.rows for span in record.spans]
        return CodedRecord(
            self._format(best.step, orders),
            coder.tolerances.errors(best.deviation),
            sum(sizes) + self._metadata_bytes(orders),
            Table(record.spans, tuple(self.tasks(_missed, best.step, orders)), record.rank),
            dict(enumerate(held[: len(samples)])),
            dict(zip(firsts, corrections, strict=True)),
        )

    def _metadata_bytes(self, orders: tuple[int, ...]) -> int:
        """Bytes of the numbers of samples, and of orders."""
        return 2 * self._kept * bool(self.given) + (LIST_BYTES + 2 * len(orders) if orders else 0)

    def _format(self, step: float, orders: tuple[int, ...]) -> LatentFormat:
        plan, coder = self.plan, self.plan.coder
        own = [
            code.index[code.index < len(span)] + span.start
            for code, span in zip(self.codes, plan.record.spans, strict=True)
        ]
        return LatentFormat(
            np.concatenate(own),
            coder.block_steps,
            np.concatenate([code.own_models for code in self.codes]),
            coder.substeps,
            plan.record.rank,
            step,
            step / FINER,
            self._rows,
            coder.rows,
            orders,
        )


def _numbered(plan: LatentPlan) -> tuple[BlockCode, ...]:
    """Codes of all blocks with the models around them and the numbers of samples before."""
    models = np.concatenate([code.own_models for code in plan.codes])
    found, first = list[BlockCode](), 0
    for code, span in zip(plan.codes, plan.record.spans, strict=True):
        mine = around(models, span, plan.coder.block_steps)
        found.append(replace(code, models=mine, first=first))
        first += int(np.count_nonzero(code.index < len(span)))
    return tuple(found)


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


def _part(times: Times, span: BlockSpan) -> Times:
    """Times of some snapshots, without those around them in memory."""
    if isinstance(times, UniformTimes):
        return times.part(span)
    return times[span.start : span.stop].copy()


def here(tasks: Iterable[Delayed]) -> list[Any]:
    """Results of tasks, which are small. Runs Dask, slice by slice."""
    return [result for some in slices(tasks) for result in dask.compute(*some)]


def shared(value: Any) -> Delayed:
    """A value that many tasks are given, on a worker. Runs Dask."""
    constant = delayed(value, pure=False, traverse=False)
    return kept(delayed(_as_is, pure=False)(constant))


def kept(task: Delayed) -> Delayed:
    """The result of a task, where it was made. Runs Dask."""
    (held,) = dask.persist(task)
    return held


# --- tasks --------------------------------------------------------------------------------

_Part = tuple[LatentBlock, BlockCode]


def _as_is(value: Any) -> Any:
    return value


def _added_or_none(parts: Sequence[Any]) -> Any:
    return None if any(part is None for part in parts) else added(parts)


def _block(a: Sequence[Matrix], times: Times, rest: Sequence[Matrix]) -> LatentBlock:
    return LatentBlock(stacked(a), times[:], stacked(rest))


def _rows_at(block: LatentBlock, rows: NDArray[np.int64]) -> tuple[Matrix, Vector]:
    return block.a[rows], block.times[rows + 1] - block.times[rows]


def _pair(block: LatentBlock, code: BlockCode) -> _Part:
    return block, code


def _samples(coder: LatentCoder, part: _Part) -> Matrix:
    return coder.samples(*part)


def _rounded(given: Sequence[Matrix], rows: int, step: float) -> Matrix:
    """A chunk of samples as it decodes, with that step of the corrections."""
    return np.asarray(coded_rows(stacked(given), rows, step / FINER, smooth=False))


def _sample_bytes(given: Sequence[Matrix], rows: int, step: float) -> tuple[bytes, ...]:
    return encode_rows(stacked(given), rows, step / FINER, smooth=False)


def _trial(
    coder: LatentCoder,
    part: _Part,
    samples: Sequence[Matrix] | None,
    step: float,
    orders: tuple[int, ...],
) -> Deviation | None:
    return coder.trial(*part, _whole(samples), step, orders)


def _order_bits(
    coder: LatentCoder, part: _Part, samples: Sequence[Matrix] | None, step: float
) -> Matrix:
    return coder.order_bits(*part, _whole(samples), step)


def _coded(
    coder: LatentCoder,
    part: _Part,
    samples: Sequence[Matrix] | None,
    step: float,
    orders: tuple[int, ...],
) -> CodedBlock:
    return coder.coded(*part, _whole(samples), step, orders)


def _missed(
    coder: LatentCoder,
    part: _Part,
    samples: Sequence[Matrix] | None,
    step: float,
    orders: tuple[int, ...],
) -> Matrix:
    return coder.missed(*part, _whole(samples), step, orders)


def _whole(samples: Sequence[Matrix] | None) -> Matrix | None:
    return None if samples is None else stacked(samples)


def _total_bytes(contents: Sequence[bytes]) -> int:
    return sum(map(len, contents))


def _put(contents: Sequence[bytes], writer: ChunkWriter, first: int) -> None:
    for number, content in enumerate(contents, first):
        writer.write_chunk(number, content)


def _stretch(block: LatentBlock, start: int, stop: int) -> LatentBlock:
    """Some snapshots of a block; times with that of the next snapshot, where there is one."""
    return LatentBlock(block.a[start:stop], block.times[start : stop + 1], block.rest[start:stop])


def _in_a_row(parts: Sequence[LatentBlock]) -> LatentBlock:
    # How long nothing was seen is of no matter.
    steps = np.concatenate([_steps(part.times, len(part.a)) for part in parts])
    a, rest = (stacked([getattr(part, name) for part in parts]) for name in ("a", "rest"))
    return LatentBlock(a, np.cumsum(steps) - steps[0], rest)


def _steps(times: Vector, count: int) -> Vector:
    """Time to the next snapshot, of `count` snapshots; the last of a record as the one before."""
    steps = np.diff(times)
    return steps if len(steps) == count else np.append(steps, steps[-1:])

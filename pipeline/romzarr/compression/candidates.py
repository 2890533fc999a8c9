"""Candidate models of a(t): fitted to weak systems and compared on stretches of time, in tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from dask.delayed import Delayed, delayed
from numpy.typing import NDArray

from romzarr.chunked.latent import LatentRecord, around, substeps_for
from romzarr.coding.latent import BlockCode, LatentBlock, LatentCoder
from romzarr.coding.tiles import tile_rows
from romzarr.compression.weak_systems import CODE_BLOCK, Offer, WeakSystems
from romzarr.config import SparseRegressionConfig
from romzarr.contracts import BlockSpan, Matrix, SparseModel
from romzarr.numerics.dynamics.integrate import Dynamics
from romzarr.numerics.dynamics.sampling import STRAIGHT_LINE, Tolerances, looked_at
from romzarr.numerics.dynamics.stlsq import stlsq

# Ratio of one threshold tried to the next, and how many to either side.
THRESHOLD_RATIO, MOST_THRESHOLDS = 2.0, 12
# Significant digits of a coefficient, and what it takes up with its number among the terms.
DIGITS, TERM_BYTES = 8, 14
# Blocks on which candidates are compared, and how many of them follow one another. Fewer are
# hardly faster, as calls take most of the time.
SHORT_BLOCKS, STRETCH = 24, 6
# Largest relative difference of coefficients that are those of the same model: a few times their
# last digit, of `DIGITS`.
ALIKE = 1e-6


class Candidate(NamedTuple):
    """Models fitted to what an offer has."""

    systems: WeakSystems
    offer: Offer
    fitted: tuple[SparseModel, ...]

    @property
    def terms(self) -> list[int]:
        """Number of terms of each model."""
        return [model.nonzero_terms for model in self.fitted]

    @property
    def dynamics(self) -> list[Dynamics]:
        return [Dynamics(self.systems.library, model.coefficients) for model in self.fitted]

    @property
    def choices(self) -> list[NDArray[np.int16]]:
        """Numbers of the models that may serve each block of the code (blocks,)."""
        # Without terms a model foretells what no model does.
        return [self.offer.serving] if any(self.terms) else []

    def same(self, other: Candidate) -> bool:
        """Whether another of the same settings foretells the same but for rounding."""
        return (
            self.systems.library.states == other.systems.library.states
            and len(self.fitted) == len(other.fitted)
            and np.array_equal(self.offer.serving, other.offer.serving)
            and all(
                np.allclose(mine.coefficients, theirs.coefficients, rtol=ALIKE, atol=0)
                for mine, theirs in zip(self.fitted, other.fitted, strict=True)
            )
        )


class Estimate(NamedTuple):
    """What coding with a candidate should take: ``nbytes`` of samples and corrections, and the
    `code` of the stretches of the record that say so, with its ``coder``."""

    nbytes: float
    code: BlockCode
    coder: LatentCoder
    candidate: Candidate

    @property
    def bytes_with_terms(self) -> float:
        return self.nbytes + TERM_BYTES * sum(self.candidate.terms)

    @property
    def modelled(self) -> bool:
        """Whether any block is better off with a model."""
        return bool((self.code.own_models != STRAIGHT_LINE).any())


@dataclass(frozen=True)
class Comparison:
    """Stretches of a record by which candidates are compared.

    ``numbers`` (blocks,) are those of their blocks of the code among all of the record, ``scale``
    what the record takes without a model by what the stretches should take.
    """

    block: LatentBlock
    numbers: NDArray[np.intp]
    tolerances: Tolerances
    step: float
    scale: float = 1.0

    @classmethod
    def of(
        cls,
        block: LatentBlock,
        numbers: NDArray[np.intp],
        share: float,
        tolerances: Tolerances,
        step: float,
        plain_bytes: int,
    ) -> Comparison:
        """Of a `share` of the record, which takes so many bytes without a model."""
        part = tolerances if share == 1 else tolerances.part(share)
        found = cls(block, numbers, part, step)
        _, code = found._coded([], [])
        return replace(found, scale=plain_bytes / max(code.bits / 8, 1.0))

    def estimate(self, candidate: Candidate) -> Estimate:
        """What a candidate should take."""
        coder, code = self._coded(candidate.dynamics, candidate.choices)
        return Estimate(self.scale * (code.bits / 8), code, coder, candidate)

    def _coded(
        self, models: Sequence[Dynamics], choices: Sequence[NDArray[np.int16]]
    ) -> tuple[LatentCoder, BlockCode]:
        block, count, substeps = self.block, len(self.block.rest), 1
        if choices:
            some = looked_at(count)
            a, dt = block.a[some], block.times[some + 1] - block.times[some]
            substeps = substeps_for(block.spread(), a, dt, models, self.tolerances, self.step)
        rows = tile_rows(*block.own.shape)
        coder = LatentCoder(tuple(models), self.tolerances, count, CODE_BLOCK, substeps, rows)
        whole = BlockSpan(0, count)
        mine = [around(choice[self.numbers], whole, CODE_BLOCK) for choice in choices]
        return coder, coder.plan(block, mine, self.step)

    def other_thresholds(
        self, best: Estimate, ratio: float, regression: SparseRegressionConfig
    ) -> list[Estimate]:
        """Candidates with fewer or more terms, by a threshold that is `ratio` times the last, as
        long as bytes become fewer."""
        found, last = list[Estimate](), best
        threshold = best.candidate.fitted[0].threshold
        systems, offer, _ = best.candidate
        for _ in range(MOST_THRESHOLDS):
            threshold *= ratio
            candidate = Candidate(systems, offer, fitted_to(systems, offer, regression, threshold))
            if candidate.terms == last.candidate.terms:
                continue
            # No terms at all are no equations: they replace none that statistics find.
            if not any(candidate.terms):
                break
            another = self.estimate(candidate)
            if another.bytes_with_terms >= last.bytes_with_terms:
                break
            found.append(another)
            last = another
        return found


def lazy_comparison(
    record: LatentRecord, tolerances: Tolerances, step: float, plain_bytes: int
) -> Delayed:
    """The `Comparison` of candidates, as a task: stretches of `STRETCH` blocks of the code at even
    distances, `SHORT_BLOCKS` in all, one after the other; or all of a record that is no longer."""
    whole, share = record.snapshots // CODE_BLOCK, 1.0
    numbers = np.arange(-(-record.snapshots // CODE_BLOCK))
    stretches = [BlockSpan(0, record.snapshots)]
    if whole > SHORT_BLOCKS:
        starts = np.linspace(0, whole - STRETCH, SHORT_BLOCKS // STRETCH).astype(np.intp)
        numbers = (starts[:, None] + np.arange(STRETCH)).ravel()
        ends = [(CODE_BLOCK * k, CODE_BLOCK * (k + STRETCH)) for k in starts.tolist()]
        stretches = [BlockSpan(*each) for each in ends]
        share = len(numbers) * CODE_BLOCK / record.snapshots
    block = record.blocks[0] if is_compared_whole(record) else record.stretches(stretches)
    task = delayed(Comparison.of, pure=False)
    return task(block, numbers, share, tolerances, step, plain_bytes)


def is_compared_whole(record: LatentRecord) -> bool:
    """Whether candidates are compared on all of the record, in one block of time."""
    return len(record.spans) == 1 and record.snapshots // CODE_BLOCK <= SHORT_BLOCKS


def candidates_of(
    systems: WeakSystems, regression: SparseRegressionConfig, threshold: float | None
) -> list[Candidate]:
    """A candidate for each offer."""
    return [
        Candidate(systems, offer, fitted_to(systems, offer, regression, threshold))
        for offer in systems.offers
    ]


def fitted_to(
    systems: WeakSystems,
    offer: Offer,
    regression: SparseRegressionConfig,
    threshold: float | None,
) -> tuple[SparseModel, ...]:
    """A sparse model for each triangle that is offered; no threshold is that of statistics."""
    found = [
        stlsq(
            factor,
            threshold=threshold,
            ridge=regression.ridge,
            max_iterations=regression.max_iterations,
            names=systems.library.names(),
        )
        for factor in offer.factors
    ]
    return tuple(replace(each, coefficients=_rounded(each.coefficients)) for each in found)


def _rounded(coefficients: Matrix) -> Matrix:
    """Coefficients as a store has them."""
    return np.vectorize(lambda value: float(f"{value:.{DIGITS}g}"), otypes=[float])(coefficients)

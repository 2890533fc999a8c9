"""Coefficients a(t) of one generation, and their models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from romzarr.contracts import BlockSpan, LatentCode
from romzarr.errors import StoreError
from romzarr.numerics.dynamics.integrate import Dynamics
from romzarr.numerics.dynamics.sampling import STRAIGHT_LINE, rebuild
from romzarr.store import layout, limits
from romzarr.store.layout import JsonObject
from romzarr.store.models import StoredModels, models_from_facts
from romzarr.store.reading.arrays import ChunkPlace, StoredArrays

# Snapshots with larger gaps are decoded as separate spans: a block has no more (`MAX_BLOCK_STEPS`).
_LARGEST_GAP = limits.MAX_BLOCK_STEPS
# Chunks of corrections that are fetched side by side with those of modes.
_MOST_CHUNKS = 16


@dataclass(frozen=True)
class StoredLatent:
    """a(t), (snapshots, rank), decoded on demand.

    ``perturbation`` is a relative error added to samples, to measure its amplification by a model.
    """

    arrays: StoredArrays
    facts: Mapping[str, Any]
    rank: int
    snapshots: int
    perturbation: float = 0.0

    @property
    def url(self) -> str:
        return self.arrays.url

    @property
    def sampled(self) -> bool:
        """Whether there are samples; otherwise the corrections are the coefficients."""
        return "latent/steps" in self.arrays

    @cached_property
    def stored_models(self) -> StoredModels | None:
        """The models for decoding, if there are any."""
        if not self.sampled or "model" not in self.facts:
            return None
        facts = JsonObject(self.facts, self.url).object("model")
        found = models_from_facts(facts)
        if found is None or not found.decode:
            return None
        if found.coefficients.shape[2] > self.rank:
            raise StoreError(f"{facts.where}: more equations than the {self.rank} modes")
        return found

    @property
    def coefficients(self) -> NDArray[np.float64]:
        """Xi of every model for decoding, (models, p, q)."""
        found = self.stored_models
        return np.zeros((0, 0, 0)) if found is None else found.coefficients

    @cached_property
    def times(self) -> NDArray[np.float64]:
        """Times of all snapshots since the first."""
        return self.times_of(0, self.snapshots)

    def times_of(self, start: int, stop: int) -> NDArray[np.float64]:
        """Return times of some snapshots since the first of the record."""
        step = self.facts["time"].get("step")
        if step is not None:
            uniform: NDArray[np.float64] = step * np.arange(start, stop)
            return uniform
        scale, path = self.facts["time"].get("scale"), "latent/times"
        if scale is not None:
            path = f"coordinates/{self.facts['time']['dim']}"
        times: NDArray[np.float64] = self.arrays.finite(path, slice(start, stop))
        if scale is not None:
            first = self.arrays.finite(path, slice(0, 1))
            times = scale * layout.since_first(np.concatenate([first, times]))[1:]
        if not (np.diff(times) > 0).all():
            raise StoreError(f"{self.url}: the times in {path} do not increase")
        return times

    @cached_property
    def models(self) -> tuple[Dynamics, ...]:
        """Right-hand sides da/dt of the stored models."""
        found = self.stored_models
        if found is None:
            return ()
        models = tuple(Dynamics(found.library, xi) for xi in found.coefficients)
        self._refuse_slow(max(model.operations for model in models))
        return models

    def _refuse_slow(self, operations: int) -> None:
        """Refuse models that take too long for a block, given the operations of an evaluation."""
        steps = min(self.facts["latent"]["block_steps"], self.snapshots)
        # A Runge-Kutta step takes four evaluations.
        needed = 4 * steps * self.facts["latent"]["substeps"] * operations
        if needed > limits.MAX_OPERATIONS:
            raise StoreError(
                f"{self.url}: the model takes {needed:.3g} operations for a block, at most "
                f"{limits.MAX_OPERATIONS:.3g} are allowed"
            )

    @cached_property
    def index(self) -> NDArray[np.int64]:
        """Numbers of the kept snapshots; none if there are only corrections."""
        if not self.sampled:
            return np.zeros(0, np.int64)
        index: NDArray[np.int64] = np.cumsum(self.arrays.read("latent/steps"), dtype=np.int64)
        ends = np.array([0, self.snapshots - 1])
        steps = self.facts["latent"]["block_steps"]
        fewer_blocks = -(-self.snapshots // steps) <= len(index)
        starts = np.arange(0, self.snapshots if fewer_blocks else 1, steps)
        increasing = (np.diff(index) > 0).all()
        # Every block has a sample at its start, which bounds the cost of decoding one snapshot.
        if (
            not (increasing and fewer_blocks)
            or index[[0, -1]].tolist() != ends.tolist()
            or (not np.isin(starts, index, assume_unique=True).all())
        ):
            raise StoreError(
                f"{self.url}: latent/steps must lead from snapshot 0 to {ends[1]} and include the "
                "first snapshot of every block"
            )
        return index

    @cached_property
    def block_model(self) -> NDArray[np.int16]:
        """Number of the model of each block of time, -1 for none; the first model by default."""
        if not self.sampled:
            return np.zeros(0, np.int16)
        count = len(self.coefficients)
        if "latent/block_model" not in self.arrays:
            blocks = -(-self.snapshots // self.facts["latent"]["block_steps"])
            return np.full(blocks, 0 if count else STRAIGHT_LINE, np.int16)
        block_model = self.arrays.read("latent/block_model")
        if ((block_model < -1) | (block_model >= count)).any():
            raise StoreError(f"{self.url}: latent/block_model names a model beyond {count}")
        return block_model.astype(np.int16)

    def code(self, span: BlockSpan | None = None) -> LatentCode:
        """Return the latent code, or the part of it around `span`."""
        first, last = 0, len(self.index)
        if span is not None:
            first = int(np.searchsorted(self.index, span.start, "right")) - 1
            last = int(np.searchsorted(self.index, span.stop - 1, "left")) + 1
        return LatentCode(
            index=self.index[first:last],
            samples=self._perturbed(self.arrays.rows("latent/samples", first, last), first),
            block_steps=self.facts["latent"]["block_steps"],
            block_model=self.block_model,
            substeps=self.facts["latent"]["substeps"],
            first=first,
        )

    def _perturbed(self, samples: NDArray[np.float64], first: int) -> NDArray[np.float64]:
        if not self.perturbation:
            return samples
        return (
            samples
            * (1 + self.perturbation * (-1.0) ** np.arange(first, first + len(samples)))[:, None]
        )

    def span(self, span: BlockSpan) -> NDArray[np.float64]:
        """Decode the POD coefficients a(t) of the snapshots in `span`, (len(span), r)."""
        if not 0 <= span.start <= span.stop <= self.snapshots:
            raise IndexError(f"{span} is not within the {self.snapshots} snapshots of {self.url}")
        if not len(span) or not self.rank:
            return np.zeros((len(span), self.rank))
        if not self.sampled:
            return self.corrections(span)
        code = self.code(span)
        # Relative to the first block needed, so that not all times of a long record are computed.
        block = int(code.index[0]) // code.block_steps
        offset = block * code.block_steps
        near = replace(code, index=code.index - offset, block_model=code.block_model[block:])
        times = self.times_of(offset, int(code.index[-1]) + 1)
        here = BlockSpan(span.start - offset, span.stop - offset)
        return rebuild(near, self.models, times, here) + self.corrections(span)

    def corrections(self, span: BlockSpan) -> NDArray[np.float64]:
        """Decode the corrections of the coefficients of `span`, (len(span), r)."""
        if "latent/corrections" not in self.arrays:
            return np.zeros((len(span), self.rank))
        return self.arrays.rows("latent/corrections", span.start, span.stop)

    @property
    def orders(self) -> tuple[int, ...]:
        """Orders of the differences that code the corrections of the leading modes.

        Wavelets code modes of order 0 and all others.
        """
        if "latent/corrections" not in self.arrays:
            return ()
        return self.arrays.codec("latent/corrections").differences

    def at(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Decode the coefficients of increasing snapshot numbers `rows`."""
        if not len(rows):
            return np.zeros((0, self.rank))
        return np.concatenate([self.span(_span(run))[run - run[0]] for run in _runs(rows)])

    def correction_chunks(self, rows: NDArray[np.int64]) -> list[ChunkPlace]:
        """Return the chunks of corrections that `at` reads first, as far as they are not cached."""
        path = "latent/corrections"
        if path not in self.arrays or not len(rows):
            return []
        spans = [_span(run) for run in _runs(rows)]
        found = [each for s in spans for each in self.arrays.row_chunks(path, s.start, s.stop)]
        return list(dict.fromkeys(found))[:_MOST_CHUNKS]


def _runs(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Divide increasing rows where there are large gaps between them."""
    return np.split(rows, np.flatnonzero(np.diff(rows) > _LARGEST_GAP) + 1)


def _span(run: NDArray[np.int64]) -> BlockSpan:
    return BlockSpan(int(run[0]), int(run[-1]) + 1)

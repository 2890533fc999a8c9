"""One generation of a store: some consecutive snapshots of all variables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from romzarr.contracts import Floats
from romzarr.errors import StoreError
from romzarr.numerics.rounding import rounded
from romzarr.store.reading.arrays import StoredArrays
from romzarr.store.reading.fields import AlignedRows
from romzarr.store.reading.indexing import Indexer, Positions, as_asked, positions
from romzarr.store.reading.latent import StoredLatent
from romzarr.store.reading.values import (
    DirectValues,
    ExactValues,
    FieldValues,
    Residuals,
    Term,
    Wanted,
    write_sums,
)
from romzarr.store.reading.variables import StoredVariable


@dataclass(frozen=True)
class Generation:
    """A generation: what it says about itself, and its values on demand.

    Attributes
    ----------
    name : str
    facts : mapping
        All JSON facts (FORMAT.md).
    variables : mapping of str to StoredVariable
    own : int
        Modes that it adds to those of the generations `before`.
    arrays : StoredArrays
    latent : StoredLatent
        Coefficients of all modes.
    before : tuple of Generation
        Those whose fields it goes on with, oldest first.
    """

    name: str
    facts: Mapping[str, Any]
    variables: Mapping[str, StoredVariable]
    own: int
    arrays: StoredArrays = field(repr=False)
    latent: StoredLatent = field(repr=False)
    before: tuple[Generation, ...] = field(default=(), repr=False)

    @property
    def rank(self) -> int:
        return self.latent.rank

    @property
    def snapshots(self) -> int:
        return self.latent.snapshots

    @cached_property
    def episodes(self) -> NDArray[np.int64]:
        """Numbers of the snapshots at which variables of POD are coded as they are."""
        spans = self.facts.get("episodes", [])
        return np.concatenate([np.zeros(0, np.int64), *(np.arange(*span) for span in spans)])

    @cached_property
    def singular_values(self) -> NDArray[np.float64]:
        """Factors (r,) that fields are divided by to give modes."""
        return np.concatenate([each.own_values for each in (*self.before, self)])

    @cached_property
    def own_values(self) -> NDArray[np.float64]:
        """The `singular_values` of its own modes."""
        if not self.own:
            return np.zeros(0)
        values = self.arrays.finite("basis/singular_values")
        # Fields are divided by them.
        if not (values > 0).all():
            raise StoreError(f"{self.arrays.url}: basis/singular_values are not all positive")
        return values

    def decode(
        self, variable: str, time_indexer: Indexer, space_indexers: Sequence[Indexer]
    ) -> NDArray[Any]:
        """As `romzarr.store.reading.reader.CoefficientStore.decode`, of its own snapshots."""
        stored = self.variables[variable]
        axis = stored.time_axis
        rows, back = positions(time_indexer, stored.shape[axis])
        wanted, backs = _places(stored, space_indexers)
        if stored.coding == "lossless":
            values = ExactValues(self.arrays, stored).values(rows, wanted)
        elif f"basis/{stored.group}/residuals" in self.arrays:
            values = self._predicted(stored, rows, wanted)
            Residuals(self.arrays, stored).add_to(values, rows, wanted)
            values = rounded(values, stored.dtype)
        else:
            values = self._decoded(stored, rows, wanted, stored.dtype)
        backs.insert(axis, back)
        indexers = list(space_indexers)
        indexers.insert(axis, time_indexer)
        return as_asked(values, backs, indexers)

    def predict(
        self, variable: str, time_indexer: Indexer, space_indexers: Sequence[Indexer]
    ) -> NDArray[np.float64]:
        """What residuals are added to: as `decode`, of increasing indexers, in float64."""
        stored = self.variables[variable]
        rows, _ = positions(time_indexer, stored.shape[stored.time_axis])
        return self._predicted(stored, rows, _places(stored, space_indexers)[0])

    def mean(self, variable: str, space_indexers: Sequence[Indexer] | None = None) -> Floats:
        """Temporal mean of `variable`, everywhere or as in `decode`; NaN at masked points.

        What the fields are about, where there are any: the generation that was the first with
        these modes decides it. Taken over decoded values where there are none.
        """
        stored = self.variables[variable]
        indexers = space_indexers or [slice(None)] * len(stored.space_shape)
        wanted, backs = _places(stored, indexers)
        if stored.coding == "direct":
            mean = DirectValues(self.arrays, stored).mean(wanted).astype(self.facts["arithmetic"])
            return as_asked(mean, backs, indexers)
        if stored.coding == "lossless":
            return as_asked(ExactValues(self.arrays, stored).mean(wanted), backs, indexers)
        constant = stored.coding == "constant"
        first = self if constant else self._chain[0]
        weight = 1.0 if constant else first.mean_weight
        dtype = stored.dtype if constant else self.facts["arithmetic"]
        fields = FieldValues(first.arrays, first.variables[variable])
        # A value alone would lose its order of bytes.
        values: Floats = np.asarray(fields.first(wanted) * weight, dtype)
        if len(first.episodes) and not constant:
            there = DirectValues(first.arrays, first.variables[variable], "episodes").mean(wanted)
            values += (there - values) * (len(first.episodes) / first.snapshots)
        return as_asked(values, backs, indexers)

    def modes(
        self,
        variable: str,
        space_indexers: Sequence[Indexer] | None = None,
        leading: int | None = None,
    ) -> Floats:
        """POD modes phi_k in the variable's units, (r, *space); 0 at masked points.

        All of them or the `leading` ones, everywhere or as in `decode`. All 0 where the
        variable is coded without them.
        """
        stored = self.variables[variable]
        indexers = space_indexers or [slice(None)] * len(stored.space_shape)
        wanted, backs = _places(stored, indexers)
        count = self.rank if leading is None else min(leading, self.rank)
        values = np.zeros((count, *map(len, wanted)), self.facts["arithmetic"])
        if stored.coding == "pod":
            for each, columns in self._with_fields():
                fields = FieldValues(each.arrays, each.variables[variable])
                fields.modes(wanted, each.own_values, values[columns])
        return as_asked(values, [np.arange(count), *backs], [slice(None), *indexers])

    @property
    def mean_weight(self) -> float:
        """What the first field of a variable is multiplied by to give its mean."""
        return float(self.snapshots**-0.5)

    @property
    def _chain(self) -> tuple[Generation, ...]:
        return (*self.before, self)

    def _with_fields(self) -> Iterator[tuple[Generation, slice]]:
        """Generations whose fields take part, and which of the modes are theirs."""
        start = 0
        for number, each in enumerate(self._chain):
            if each.own or not number:
                yield each, slice(start, start + each.own)
            start += each.own

    def _predicted(
        self, stored: StoredVariable, rows: Positions, wanted: Wanted
    ) -> NDArray[np.float64]:
        """Values without residuals at the snapshots `rows`, not rounded."""
        return self._decoded(stored, rows, wanted, np.dtype(np.float64))

    def _decoded(
        self, stored: StoredVariable, rows: Positions, wanted: Wanted, dtype: np.dtype[Any]
    ) -> NDArray[Any]:
        """Values without residuals at the snapshots `rows`, rounded once, to `dtype`."""
        if stored.coding == "direct":
            return DirectValues(self.arrays, stored).values(rows, wanted, dtype)
        axis, shape = stored.time_axis, [len(places) for places in wanted]
        values = np.empty((*shape[:axis], len(rows), *shape[axis:]), dtype)
        by_time = np.moveaxis(values, axis, 0)
        if stored.coding == "constant":
            by_time[...] = FieldValues(self.arrays, stored).first(wanted)
        else:
            self._sum_fields(stored, rows, wanted, by_time)
            self._put_episodes(stored, rows, wanted, by_time)
        return values

    def _sum_fields(
        self, stored: StoredVariable, rows: Positions, wanted: Wanted, out: NDArray[Any]
    ) -> None:
        """Write the sums over all modes, time first."""
        a, aligned = self.latent.at(rows), AlignedRows.of(rows)
        dtype = np.dtype(self.facts["arithmetic"])
        # Only a store made to harm lets sums overflow.
        with np.errstate(over="ignore", invalid="ignore"):
            terms = [
                Term(
                    FieldValues(each.arrays, each.variables[stored.name]),
                    aligned.spread(a[:, columns] / each.own_values, dtype),
                )
                for each, columns in self._with_fields()
            ]
            write_sums(terms, self._chain[0].mean_weight, aligned, wanted, out)

    def _put_episodes(
        self, stored: StoredVariable, snapshots: Positions, wanted: Wanted, values: NDArray[Any]
    ) -> None:
        """Replace what fields make of the snapshots that belong to episodes, time first."""
        there = np.isin(snapshots, self.episodes)
        if there.any():
            rows = np.searchsorted(self.episodes, snapshots[there])
            direct = DirectValues(self.arrays, stored, "episodes")
            found = direct.values(rows, wanted, values.dtype)
            values[there] = np.moveaxis(found, stored.time_axis, 0)


def _places(
    stored: StoredVariable, space_indexers: Sequence[Indexer]
) -> tuple[list[Positions], list[Positions]]:
    """Increasing positions per space dim, and how to take the result from them."""
    found = [positions(i, n) for i, n in zip(space_indexers, stored.space_shape, strict=True)]
    return [wanted for wanted, _ in found], [back for _, back in found]

"""Layers of a store, of which the first ones are the store at a larger error.

A store is written without layers, and what is coded is then split, so its values stay as they are,
to the bit. Steps of layers are found by what these miss, which is measured on decoded values; the
error of a layer is bounded by that and by the error of the store.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from dask.delayed import Delayed, delayed

from romzarr.archive import Archive
from romzarr.chunked.blocks import aligned_tile
from romzarr.chunked.layers import LostSquares, MissedByLayers, SplitChunk
from romzarr.chunked.slices import added, gathered
from romzarr.coding.tiles import tiles
from romzarr.compression.index_norms import LEAST, MOST
from romzarr.compression.write_store import rounded_up
from romzarr.contracts import ArchivedVariable, Matrix
from romzarr.store.layout import FIELDS
from romzarr.store.reading.draft import Draft
from romzarr.store.writing.writer import StoreWriter

log = logging.getLogger(__name__)

# With a smaller ratio of steps a layer saves next to nothing.
LEAST_RATIO = 1.5
# Ratios looked at for each variable; between them losses follow powers of the step.
RATIOS = 12
# Less than this share of what is allowed says nothing of what larger steps would miss.
LEAST_MISSED = 1e-6
# Attempts at the steps of a variable, the share of the error allowed that they aim at, and the
# share that is close enough.
ATTEMPTS, AIM, CLOSE = 4, 0.98, 0.9


def write_layers(
    writer: StoreWriter, archive: Archive, facts: Mapping[str, Any], tolerances: Sequence[float]
) -> dict[str, Any]:
    """Split what a store has coded into layers, and return its facts with them. Runs Dask.

    Parameters
    ----------
    writer : StoreWriter
        Of a store that is complete, but not committed.
    archive : Archive
        Nothing of it is read.
    facts : mapping
        Of the store.
    tolerances : sequence of float
        Relative errors that the first layer, the first two, and so on may leave. A variable has no
        layer for those that are hardly larger than its error.
    """
    known = dict(facts)
    for variable in archive.variables:
        errors = _Split(writer, known, variable).written(tolerances)
        if errors:
            known = _with_layers(known, variable.name, errors)
        else:
            log.info("%s: no layer would be coarse enough to save bytes", variable.name)
        for array in writer.layered_arrays(variable.name):
            writer.drop_layers(variable.name, array, keep=bool(errors))
    return known


def _with_layers(facts: Mapping[str, Any], name: str, errors: Sequence[float]) -> dict[str, Any]:
    described = {**facts["variables"][name], "layers": list(errors)}
    return {**facts, "variables": {**facts["variables"], name: described}}


@dataclass(frozen=True)
class _Losses:
    """What layers miss of a variable in squares of coefficients, by their ``ratios`` of steps."""

    ratios: Matrix
    squares: Matrix

    def squares_of(self, ratios: Matrix) -> Matrix:
        """What is missed with these ratios."""
        return self._between(ratios, self.ratios, self.squares)

    def ratios_for(self, squares: Matrix) -> Matrix:
        """Ratios at which so much is missed."""
        return self._between(squares, self.squares, self.ratios)

    def _between(self, places: Matrix, known: Matrix, values: Matrix) -> Matrix:
        some = self.squares > 0
        logs = np.interp(np.log(places), np.log(known[some]), np.log(values[some]))
        return np.asarray(np.exp(logs))


@dataclass(frozen=True)
class _Split:
    """Splits one variable of a draft, of which these are the facts."""

    writer: StoreWriter
    facts: Mapping[str, Any]
    variable: ArchivedVariable

    def written(self, tolerances: Sequence[float]) -> list[float]:
        """Write layers; returns the relative errors of all but the last, or none."""
        name = self.variable.name
        error = self.facts["relative_l2_error"][name]
        squared = self.facts.get("fluctuation", {}).get(name, 0.0)
        wider = sorted({each for each in tolerances if each > LEAST_RATIO * error}, reverse=True)
        if not (self.writer.layered_arrays(name) and wider and squared > 0 and error > 0):
            return []
        room, draft = np.array(wider) - error, Draft(*self.writer.draft(self.facts))
        allowed, ratios = room**2 * squared, np.array(wider) / error
        losses = self._losses(draft, 4 * ratios[0])
        if not losses.squares.any():
            return []
        for _ in range(ATTEMPTS):
            useful = ratios >= LEAST_RATIO * np.append(ratios[1:], 1.0)
            ratios, room, allowed = ratios[useful], room[useful], allowed[useful]
            if not len(ratios):
                return []
            draft = self._layered(draft, ratios)
            missed = self._missed(draft, len(ratios))
            worst = float(np.max(missed / allowed))
            if CLOSE**2 <= worst <= 1:
                break
            wanted = AIM**2 * allowed / np.maximum(missed, LEAST_MISSED * allowed)
            ratios = losses.ratios_for(losses.squares_of(ratios) * wanted)
        if worst > 1:
            return []
        errors = error + np.sqrt(missed / squared)
        return [rounded_up(*pair) for pair in zip(errors.tolist(), error + room, strict=True)]

    def _losses(self, draft: Draft, largest: float) -> _Losses:
        """What layers miss, with ratios up to the `largest`."""
        ratios, total = np.geomspace(LEAST_RATIO, largest, RATIOS), np.zeros(RATIOS)
        for array, path, leading in self._arrays:
            steps = (ratios * self.writer.step_of(self.variable.name, array)).tolist()
            task = LostSquares(draft, path, leading, steps)
            total += gathered(self._on_chunks(array, task), added)
        # What is missed grows with the step, but for chance.
        return _Losses(ratios, np.maximum.accumulate(total))

    def _layered(self, draft: Draft, ratios: Matrix) -> Draft:
        """Write layers with these ratios of steps; returns a draft that has them."""
        variable = self.variable
        for array, path, leading in self._arrays:
            steps = (ratios * self.writer.step_of(variable.name, array)).tolist()
            writers = self.writer.create_layers(variable.name, array, steps)
            task = SplitChunk(draft, path, leading, steps, variable.name, writers)
            gathered(self._on_chunks(array, task), added)
        # Their errors are not known yet.
        facts = _with_layers(self.facts, variable.name, [1.0] * len(ratios))
        return Draft(*self.writer.draft(facts))

    def _missed(self, draft: Draft, layers: int) -> Matrix:
        """The squares that each of so many layers misses, of decoded values."""
        variable = self.variable
        axis, inner = variable.time_axis, variable.inner_product
        measure = MissedByLayers(draft, variable.name, axis, inner, layers)
        tile = aligned_tile(variable, LEAST, MOST)
        regions = (region for _, region in tiles(variable.shape, tile))
        found: Matrix = gathered((_lazy(measure, region) for region in regions), added)
        return found

    @property
    def _arrays(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """Arrays that are split, their paths, and what the indices of their chunks start with."""
        name = self.variable.name
        return [
            (array, self.writer.path_of(name, array), (0,) if array == FIELDS else ())
            for array in self.writer.layered_arrays(name)
        ]

    def _on_chunks(self, array: str, task: Callable[[Any], Any]) -> Iterator[Delayed]:
        counts = self.writer.layered_arrays(self.variable.name)[array]
        return (_lazy(task, index) for index in product(*map(range, counts)))


def _lazy(task: Callable[[Any], Any], argument: Any) -> Delayed:
    # Dask would look for tasks in an argument that is a tuple.
    lazy: Delayed = delayed(partial(task, argument), pure=False)()
    return lazy

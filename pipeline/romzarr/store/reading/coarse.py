"""Stores on a coarser grid: level k keeps every ``2**k``-th point (`romzarr.coding.coarse`).

As many halvings as its tiles allow are left out of the decoding of a variable; the rest is computed
from what was decoded, on the whole grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from romzarr.coding.bands import coarse_shape, depth
from romzarr.coding.coarse import coarsened
from romzarr.coding.fill import fill_masked
from romzarr.coding.gains import NO_GAINS, Gains, axis_gains
from romzarr.contracts import EXACT, Coding, Floats
from romzarr.numerics.rounding import rounded
from romzarr.store import layout
from romzarr.store.reading.arrays import as_store_errors
from romzarr.store.reading.decoding import Decoder, decoder_of, places_of, without_gaps
from romzarr.store.reading.facts import ERRORS_BY_INDEX
from romzarr.store.reading.gaps import put_gaps
from romzarr.store.reading.generation import Generation
from romzarr.store.reading.indexing import Indexer, Positions, across, as_asked, positions
from romzarr.store.reading.reader import CACHED_BYTES, CoefficientStore
from romzarr.store.reading.tile_cache import TileCache
from romzarr.store.reading.values import Wanted
from romzarr.store.reading.variables import StoredVariable

# Values that are coarsened at a time: in float64 some dozen MB.
_TOGETHER = 1 << 21


def halvings_of(store: CoefficientStore, level: int) -> dict[str, int]:
    """How often each dim is halved at a level; only dims that are.

    These are dims of space of coded variables, each as often as wavelets halve it at most. Those
    stay as they are whose indices are bounded one by one, such as levels, or whose points lie along
    a curve, such as those of meshes.
    """
    sizes = {
        dim: n
        for stored in store.variables.values()
        for dim, n in zip(stored.space_dims, stored.space_shape, strict=True)
    }
    fine = {dim for part in store.parts for dim in _kept(part)}
    found = {dim: min(level, depth(n)) for dim, n in sizes.items() if dim not in fine}
    return {dim: count for dim, count in found.items() if count}


def _kept(part: Generation) -> Iterator[str]:
    """Yield the dims that stay as they are."""
    yield from part.orders
    for fact in part.facts.get(ERRORS_BY_INDEX, {}).values():
        yield from fact["dims"]
    for stored in part.variables.values():
        if stored.scaling is not None:
            scaled = stored.scaling.factors.shape
            yield from (dim for dim, n in zip(stored.space_dims, scaled, strict=True) if n > 1)


@dataclass(frozen=True)
class CoarseStore:
    """A store of which dims are halved, by name so often; ``tiles`` are those decoded."""

    fine: CoefficientStore
    halvings: Mapping[str, int]
    tiles: TileCache

    @classmethod
    def of(cls, store: CoefficientStore, level: int) -> CoarseStore:
        return cls(store, halvings_of(store, level), TileCache(CACHED_BYTES))

    @cached_property
    def variables(self) -> Mapping[str, StoredVariable]:
        """Variables over all snapshots, as they are on the coarser grid."""
        return {name: self._described(each) for name, each in self.fine.variables.items()}

    def gains(self, variable: str) -> Gains:
        """By how much errors grow at most, as of single values and in the L2 norm of all."""
        gains = [each.gains for each in self._parts[variable]]
        return Gains(max(each.l2 for each in gains), max(each.largest for each in gains))

    def decode(
        self, variable: str, time_indexer: Indexer, space_indexers: Sequence[Indexer]
    ) -> NDArray[Any]:
        """Decode as `CoefficientStore.decode`, by indices of the coarser grid."""
        with as_store_errors(f"{self.fine.url}: {variable!r} cannot be decoded"):
            parts = self._parts[variable]
            before = space_indexers[: parts[0].stored.time_axis]
            axis = sum(not isinstance(i, int | np.integer) for i in before)
            if len(parts) == 1:
                return parts[0].decode(time_indexer, space_indexers)

            def read(number: int, rows: Positions) -> NDArray[Any]:
                return parts[number].decode(rows, space_indexers)

            return across(self.fine.starts, time_indexer, axis, read)

    @cached_property
    def _parts(self) -> Mapping[str, tuple[CoarseVariable, ...]]:
        return {
            name: tuple(self._of_part(part, name) for part in self.fine.parts)
            for name in self.fine.variables
        }

    def _of_part(self, part: Generation, name: str) -> CoarseVariable:
        wanted = tuple(self.halvings.get(dim, 0) for dim in part.variables[name].space_dims)
        return CoarseVariable.of(part, name, wanted, self.tiles)

    def _described(self, stored: StoredVariable) -> StoredVariable:
        halvings = [self.halvings.get(dim, 0) for dim in stored.dims]
        if stored.chunks is None:
            return replace(stored, shape=coarse_shape(stored.shape, halvings))
        chunks = tuple(map(_coarse_chunks, stored.chunks, halvings))
        return replace(stored, shape=coarse_shape(stored.shape, halvings), chunks=chunks)


@dataclass(frozen=True)
class CoarseVariable:
    """A variable of a generation on a coarser grid.

    ``home`` has it with all that decoding leaves out, by ``pieces`` of its space; ``rest`` is how
    often each axis of space is still to be halved then.
    """

    fine: Generation
    home: Generation
    name: str
    pieces: tuple[int, ...]
    decoded: tuple[int, ...]
    rest: tuple[int, ...]

    @classmethod
    def of(
        cls, part: Generation, name: str, halvings: Sequence[int], tiles: TileCache
    ) -> CoarseVariable:
        """A variable of which the axes of space are halved so often."""
        pieces, most = _halved_by_decoding(part, name)
        decoded = tuple(map(min, halvings, most))
        rest = tuple(count - done for count, done in zip(halvings, decoded, strict=True))
        home = _coarser(part, name, decoded, tiles) if any(decoded) else part
        return cls(part, home, name, pieces, decoded, rest)

    @property
    def stored(self) -> StoredVariable:
        return self.home.variables[self.name]

    @property
    def gains(self) -> Gains:
        """By how much its errors grow at most."""
        gains = NO_GAINS
        fine, coarse = self.fine.variables[self.name].space_shape, self.stored.space_shape
        for length, piece, count in zip(fine, self.pieces, self.decoded, strict=True):
            gains = gains.times(axis_gains(length, piece, count))
        for length, count in zip(coarse, self.rest, strict=True):
            gains = gains.times(axis_gains(length, length, count))
        return gains

    def decode(self, time_indexer: Indexer, space_indexers: Sequence[Indexer]) -> NDArray[Any]:
        """Decode as `CoarseStore.decode`, for one generation."""
        decoder, axis = decoder_of(self.home, self.name), self.stored.time_axis
        wanted, backs = places_of(self.home, _halved(self.stored, self.rest), space_indexers)
        rows, back = positions(time_indexer, self.stored.shape[axis])
        if self.stored.coding is Coding.CONSTANT:
            values = np.repeat(self._low_passed(decoder, rows[:1], wanted), len(rows), axis)
        elif any(self.rest):
            values = self._low_passed(decoder, rows, wanted)
        else:
            values = without_gaps(decoder, rows, wanted)
        self._put_gaps(values, rows, wanted)
        backs.insert(axis, back)
        indexers = list(space_indexers)
        indexers.insert(axis, time_indexer)
        return as_asked(values, backs, indexers)

    def _put_gaps(self, values: NDArray[Any], rows: Positions, wanted: Wanted) -> None:
        stored, arrays = self.fine.variables[self.name], self.fine.arrays
        if stored.gaps is not None:
            halvings = map(sum, zip(self.decoded, self.rest, strict=True))
            there = [places << count for places, count in zip(wanted, halvings, strict=True)]
            put_gaps(values, stored.gaps, arrays, stored.shape, stored.time_axis, rows, there)

    def _low_passed(self, decoder: Decoder, rows: Positions, wanted: Wanted) -> NDArray[Any]:
        """Coarsen decoded values as often as is left, some snapshots at a time."""
        axis, every = self.stored.time_axis, list(wanted)
        chosen: list[slice | Positions] = [slice(None)] * len(every)
        for number, count in enumerate(self.rest):
            if count:
                chosen[number] = every[number]
                every[number] = np.arange(self.stored.space_shape[number])
        together = max(1, _TOGETHER // max(1, int(np.prod([len(each) for each in every]))))
        parts = [
            _coarse_rows(
                np.moveaxis(without_gaps(decoder, rows[k : k + together], every), axis, 0),
                self.rest,
                chosen,
            )
            for k in range(0, max(1, len(rows)), together)
        ]
        return np.moveaxis(np.concatenate(parts), 0, axis)


def _coarse_rows(
    values: NDArray[Any], halvings: Sequence[int], chosen: Sequence[slice | Positions]
) -> NDArray[Any]:
    """Coarsen snapshots (m, *space), and choose some of the points along each axis.

    What is not finite counts as something smooth, and stays where it stands at a coarse point. Only
    along axes that are halved do values depend on others: so they do not on what is selected.
    """
    axes = [axis for axis, count in enumerate(halvings, start=1) if count]
    last = range(-len(axes), 0)
    rows = np.moveaxis(values, axes, last)
    alone = rows.shape[: rows.ndim - len(axes)]
    flat = rows.reshape(-1, *rows.shape[len(alone) :])
    counts = (0, *(halvings[axis - 1] for axis in axes))
    points = flat[tuple(slice(None, None, 1 << count) for count in counts)]
    with np.errstate(over="ignore", invalid="ignore"):
        means = coarsened(_filled(flat.astype(np.float64)), counts)
    flat = np.where(np.isfinite(points), rounded(means, values.dtype), points)
    coarse = np.moveaxis(flat.reshape(*alone, *flat.shape[1:]), last, axes)
    for axis, some in enumerate(chosen, start=1):
        coarse = coarse[(slice(None),) * axis + (some,)]
    return coarse


def _filled(rows: Floats) -> Floats:
    """Each row with something smooth in place of what is not finite; those alike together."""
    valid = np.isfinite(rows)
    if valid.all():
        return rows
    flags = valid.reshape(len(rows), -1)
    some = np.flatnonzero(~flags.all(axis=1))
    packed = np.packbits(flags[some], axis=1)
    _, first, kinds = np.unique(packed, axis=0, return_index=True, return_inverse=True)
    for kind, number in enumerate(first):
        alike = some[kinds.ravel() == kind]
        rows[alike] = fill_masked(rows[alike], valid[some[number]])
    return rows


def _coarse_chunks(chunks: Any, halvings: int) -> Any:
    """Chunks of an axis that is halved: a length, or all lengths."""
    if not isinstance(chunks, tuple):
        return -(-chunks // (1 << halvings))
    edges = -(-np.cumsum([0, *chunks]) // (1 << halvings))
    return tuple(int(length) for length in np.diff(edges) if length)


def _halved(stored: StoredVariable, halvings: Sequence[int]) -> StoredVariable:
    """A variable without what is in its gaps, of which the axes of space are halved so often."""
    axis = stored.time_axis
    shape = coarse_shape(stored.shape, (*halvings[:axis], 0, *halvings[axis:]))
    return replace(stored, shape=shape, gaps=None)


def _coarser(
    part: Generation, name: str, halvings: tuple[int, ...], tiles: TileCache
) -> Generation:
    """A generation with one variable alone, of which the axes of space are halved in decoding."""
    stored = part.variables[name]
    by_path = dict.fromkeys(_tiled(part, name), (0, *halvings))
    if stored.mask is not None:
        by_path[f"basis/{stored.mask}/mask"] = halvings
    return replace(
        part,
        variables={name: _halved(stored, halvings)},
        arrays=replace(part.arrays, halvings=by_path, tiles=tiles),
        before=tuple(_coarser(each, name, halvings, tiles) for each in part.before),
    )


def _halved_by_decoding(part: Generation, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Pieces of a variable's space that are coded for themselves, and how often decoding can halve
    each axis: not at all unless all its arrays are cut alike, and values are no more than sums of
    theirs. Where there are several pieces, each must begin at a point of the coarser grid."""
    stored = part.variables[name]
    whole, never = stored.space_shape, (0,) * len(stored.space_shape)
    if stored.coding in EXACT or stored.column is not None or _is_changed(part, stored):
        return whole, never
    arrays = [(each.arrays, path) for each in part.chain for path in _tiled(each, name)]
    cuts = [each.chunk(path)[1:] for each, path in arrays]
    levels = [each.codec(path).levels[1:] for each, path in arrays]
    pieces, most = list(whole), list(never)
    for axis, length in enumerate(whole):
        lengths = {cut[axis] for cut in cuts}
        if len(lengths) == 1:
            (pieces[axis],) = lengths
            most[axis] = min(each[axis] for each in levels)
            if pieces[axis] < length:
                most[axis] = min(most[axis], _twos(pieces[axis]))
    return tuple(pieces), tuple(most)


def _is_changed(part: Generation, stored: StoredVariable) -> bool:
    """Whether something is done to decoded values point by point."""
    steady = stored.scaling is not None and bool(stored.scaling.steady)
    residuals = f"basis/{stored.group}/residuals" in part.arrays
    return steady or residuals or stored.unit is not None or stored.sums is not None


def _twos(number: int) -> int:
    """How often a number can be divided by two."""
    return (number & -number).bit_length() - 1


def _tiled(part: Generation, name: str) -> list[str]:
    """Paths of the coded arrays of a variable that have its points."""
    group = part.variables[name].group
    paths = (f"basis/{group}/{array}" for array in layout.LAYERED)
    return [path for path in paths if path in part.arrays]

"""Decoders of the variables of one generation, one class for each coding.

Positions along each axis are increasing; `rows` are those of time, `wanted` those of space.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from romzarr.coding.tiles import region_of
from romzarr.contracts import Coding, Floats
from romzarr.numerics.logarithm import numbers
from romzarr.numerics.rounding import rounded
from romzarr.store.reading.fields import AlignedRows
from romzarr.store.reading.gaps import put_gaps
from romzarr.store.reading.generation import Generation
from romzarr.store.reading.indexing import Indexer, Positions, as_asked, pieces, points, positions
from romzarr.store.reading.values import (
    FieldValues,
    Residuals,
    Term,
    TiledValues,
    Wanted,
    write_sums,
)
from romzarr.store.reading.variables import StoredVariable

# Snapshots of a tile of values, about, which are decoded together for a mean.
MEAN_SNAPSHOTS = 64


@dataclass(frozen=True)
class Decoder(ABC):
    """Decodes one variable of a generation."""

    home: Generation
    stored: StoredVariable

    @abstractmethod
    def values(self, rows: Positions, wanted: Wanted, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Decode values without residuals, in the order of dims, rounded once to `dtype`."""

    @abstractmethod
    def mean(self, wanted: Wanted) -> Floats:
        """Temporal mean; NaN at masked points."""

    def modes(self, wanted: Wanted, out: Floats) -> None:
        """Write the leading POD modes (r, *space) to `out`; zeros without POD."""
        out[...] = 0.0

    @property
    def arithmetic(self) -> np.dtype[Any]:
        """The dtype of fields and sums over them."""
        return np.dtype(self.home.facts["arithmetic"])

    def _empty(self, rows: Positions, wanted: Wanted, dtype: np.dtype[Any]) -> NDArray[Any]:
        shape = [len(places) for places in wanted]
        shape.insert(self.stored.time_axis, len(rows))
        return np.empty(shape, dtype)


class ConstantDecoder(Decoder):
    """Decodes a variable that is constant in time, without loss."""

    def values(self, rows: Positions, wanted: Wanted, dtype: np.dtype[Any]) -> NDArray[Any]:
        values = self._empty(rows, wanted, dtype)
        np.moveaxis(values, self.stored.time_axis, 0)[...] = self.mean(wanted)
        return values

    def mean(self, wanted: Wanted) -> Floats:
        arrays, path = self.home.arrays, f"basis/{self.stored.group}/mean"
        values: Floats = np.empty([len(places) for places in wanted], self.stored.dtype)
        for tile, inside, region in pieces(wanted, arrays.chunk(path)):
            whole = region_of(tile, self.stored.space_shape, arrays.chunk(path))
            read = partial(arrays.selected, path, whole)
            values[region] = points(arrays.cached((path, tile), read)[None], inside)[0]
        return values


class LosslessDecoder(Decoder):
    """Decodes values without loss."""

    def values(self, rows: Positions, wanted: Wanted, dtype: np.dtype[Any]) -> NDArray[Any]:
        arrays, path = self.home.arrays, f"basis/{self.stored.group}/exact"
        axis, tile_shape = self.stored.time_axis, arrays.chunk(path)
        values = self._empty(rows, wanted, self.stored.dtype)
        for tile, inside, region in pieces([*wanted[:axis], rows, *wanted[axis:]], tile_shape):
            read = partial(arrays.selected, path, region_of(tile, self.stored.shape, tile_shape))
            decoded = arrays.cached((path, tile), read)
            values[region] = points(decoded[None], inside)[0]
        return values

    def mean(self, wanted: Wanted) -> Floats:
        """Temporal mean; NaN where any value is NaN."""
        axis, snapshots = self.stored.time_axis, self.stored.shape[self.stored.time_axis]
        total = np.zeros([len(places) for places in wanted])
        length = self.home.arrays.chunk(f"basis/{self.stored.group}/exact")[axis]
        for start in range(0, snapshots, length):
            rows = np.arange(start, min(start + length, snapshots))
            values = self.values(rows, wanted, self.stored.dtype)
            with np.errstate(over="ignore", invalid="ignore"):
                total += values.sum(axis=axis, dtype=np.float64)
        mean: Floats = total / snapshots
        return mean


class DirectDecoder(Decoder):
    """Decodes values that are coded by wavelets, without POD."""

    def values(self, rows: Positions, wanted: Wanted, dtype: np.dtype[Any]) -> NDArray[Any]:
        return TiledValues(self.home.arrays, self.stored).values(rows, wanted, dtype)

    def mean(self, wanted: Wanted) -> Floats:
        return TiledValues(self.home.arrays, self.stored).mean(wanted).astype(self.arithmetic)


class PODDecoder(Decoder):
    """Decodes sums over the modes of this generation and of those that it extends; values of
    episodes are coded without POD."""

    def values(self, rows: Positions, wanted: Wanted, dtype: np.dtype[Any]) -> NDArray[Any]:
        values = self._empty(rows, wanted, dtype)
        by_time = np.moveaxis(values, self.stored.time_axis, 0)
        self._sum_fields(rows, wanted, by_time)
        self._put_episodes(rows, wanted, by_time)
        return values

    def mean(self, wanted: Wanted) -> Floats:
        """Temporal mean of the first generation with these modes."""
        first = self.home.chain[0]
        stored = first.variables[self.stored.name]
        # np.asarray: a scalar would lose its byte order.
        values: Floats = np.asarray(
            FieldValues(first.arrays, stored).first(wanted) * first.mean_weight, self.arithmetic
        )
        if len(first.episodes):
            there = TiledValues(first.arrays, stored, "episodes").mean(wanted)
            values += (there - values) * (len(first.episodes) / first.snapshots)
        return values

    def modes(self, wanted: Wanted, out: Floats) -> None:
        for each, columns in self.with_fields():
            fields = FieldValues(each.arrays, each.variables[self.stored.name])
            fields.modes(wanted, each.own_values, out[columns])

    def with_fields(self) -> Iterator[tuple[Generation, slice]]:
        """Yield the generations with fields, and the range of their modes."""
        start = 0
        for number, each in enumerate(self.home.chain):
            if each.own or not number:
                yield each, slice(start, start + each.own)
            start += each.own

    def _sum_fields(self, rows: Positions, wanted: Wanted, out: NDArray[Any]) -> None:
        """Write the sums over all modes, time first."""
        self._fetch_ahead(rows, wanted)
        a, aligned = self.home.latent.at(rows), AlignedRows.of(rows)
        # Sums overflow only in malicious stores.
        with np.errstate(over="ignore", invalid="ignore"):
            terms = [
                Term(
                    FieldValues(each.arrays, each.variables[self.stored.name]),
                    aligned.spread(a[:, columns] / each.own_values, self.arithmetic),
                )
                for each, columns in self.with_fields()
            ]
            write_sums(terms, self.home.chain[0].mean_weight, aligned, wanted, out)

    def _fetch_ahead(self, rows: Positions, wanted: Wanted) -> None:
        """Fetch coefficients and modes side by side, if they are far."""
        arrays = self.home.arrays
        if arrays.is_far and self.home.own:
            fields = FieldValues(arrays, self.stored).first_chunks(wanted)
            arrays.fetch_ahead([*self.home.latent.correction_chunks(rows), *fields])

    def _put_episodes(self, snapshots: Positions, wanted: Wanted, values: NDArray[Any]) -> None:
        """Replace the values of episodes, time first."""
        there = np.isin(snapshots, self.home.episodes)
        if there.any():
            rows = np.searchsorted(self.home.episodes, snapshots[there])
            found = TiledValues(self.home.arrays, self.stored, "episodes").values(
                rows, wanted, values.dtype
            )
            values[there] = np.moveaxis(found, self.stored.time_axis, 0)


class HybridDecoder(PODDecoder):
    """Decodes sums over few modes, and the values of what they leave, which are added."""

    def values(self, rows: Positions, wanted: Wanted, dtype: np.dtype[Any]) -> NDArray[Any]:
        wide = super().values(rows, wanted, np.dtype(np.float64))
        wide += TiledValues(self.home.arrays, self.stored).values(rows, wanted, wide.dtype)
        return rounded(wide, dtype)


DECODERS: Mapping[Coding, type[Decoder]] = {
    Coding.CONSTANT: ConstantDecoder,
    Coding.LOSSLESS: LosslessDecoder,
    Coding.DIRECT: DirectDecoder,
    Coding.POD: PODDecoder,
    Coding.HYBRID: HybridDecoder,
}


def decoder_of(home: Generation, variable: str) -> Decoder:
    """Return the decoder of a variable of a generation."""
    stored = home.variables[variable]
    return DECODERS[stored.coding](home, stored)


# --- by any indexers ----------------------------------------------------------------------


def decode(
    home: Generation, variable: str, time_indexer: Indexer, space_indexers: Sequence[Indexer]
) -> NDArray[Any]:
    """Decode as in `romzarr.store.reading.reader.CoefficientStore.decode`, for one generation."""
    decoder = decoder_of(home, variable)
    stored = decoder.stored
    rows, back = positions(time_indexer, stored.shape[stored.time_axis])
    wanted, backs = places_of(home, stored, space_indexers)
    values = without_gaps(decoder, rows, wanted)
    if stored.gaps is not None:
        put_gaps(values, stored.gaps, home.arrays, stored.shape, stored.time_axis, rows, wanted)
    backs.insert(stored.time_axis, back)
    indexers = list(space_indexers)
    indexers.insert(stored.time_axis, time_indexer)
    return as_asked(values, backs, indexers)


def without_gaps(decoder: Decoder, rows: Positions, wanted: Wanted) -> NDArray[Any]:
    """Decode values in the dtype of the variable; where gaps are, these are some smooth filling."""
    dtype = decoder.stored.dtype
    if _is_corrected(decoder):
        return rounded(_corrected(decoder, rows, wanted), dtype)
    return decoder.values(rows, wanted, dtype)


def _is_corrected(decoder: Decoder) -> bool:
    """Whether decoded values become those of the variable by more than rounding."""
    stored = decoder.stored
    changed = (stored.scaling, stored.unit, stored.sums)
    return _has_residuals(decoder) or any(each is not None for each in changed)


def _has_residuals(decoder: Decoder) -> bool:
    return f"basis/{decoder.stored.group}/residuals" in decoder.home.arrays


def _corrected(decoder: Decoder, rows: Positions, wanted: Wanted) -> NDArray[np.float64]:
    """Values in float64, before they are rounded."""
    wide, unit = _in_units(decoder, rows, wanted), decoder.stored.unit
    if _has_residuals(decoder):
        Residuals(decoder.home.arrays, decoder.stored).add_to(wide, rows, wanted)
    if (sums := decoder.stored.sums) is not None:
        arrays, axis = decoder.home.arrays, decoder.stored.time_axis
        sums.add_to(wide, arrays, axis, rows, wanted)
        if decoder.stored.scaling is not None:
            decoder.stored.scaling.put_steady(wide, arrays, wanted, axis)
    return wide if unit is None else numbers(wide, unit)


def predict(
    home: Generation,
    variable: str,
    time_indexer: Indexer,
    space_indexers: Sequence[Indexer],
    as_coded: bool = False,
) -> NDArray[np.float64]:
    """Decode without residuals, for increasing indexers, in float64; ``as_coded`` without scaling,
    too."""
    decoder = decoder_of(home, variable)
    stored = decoder.stored
    rows, _ = positions(time_indexer, stored.shape[stored.time_axis])
    wanted = places_of(home, stored, space_indexers)[0]
    if as_coded:
        return decoder.values(rows, wanted, np.dtype(np.float64))
    return _in_units(decoder, rows, wanted)


def _in_units(decoder: Decoder, rows: Positions, wanted: Wanted) -> NDArray[np.float64]:
    """Values without residuals in the variable's units, or as logarithms, in float64."""
    values, stored = decoder.values(rows, wanted, np.dtype(np.float64)), decoder.stored
    if stored.scaling is not None:
        stored.scaling.apply(values, decoder.home.arrays, wanted, stored.time_axis)
    return values


def mean(
    home: Generation, variable: str, space_indexers: Sequence[Indexer] | None = None
) -> Floats:
    """Compute the temporal mean of `variable`, everywhere or as in `decode`; NaN if masked.

    With POD it is the stored mean, otherwise the mean of decoded values; where these are coded as
    logarithms that of the numbers.
    """
    decoder = decoder_of(home, variable)
    indexers = space_indexers or [slice(None)] * len(decoder.stored.space_shape)
    wanted, backs = places_of(home, decoder.stored, indexers)
    if decoder.stored.unit is not None:
        return as_asked(_mean_of_numbers(decoder, wanted), backs, indexers)
    found, scaling = decoder.mean(wanted), decoder.stored.scaling
    if scaling is not None:
        scaling.apply(found, decoder.home.arrays, wanted)
    return as_asked(found, backs, indexers)


def _mean_of_numbers(decoder: Decoder, wanted: Wanted) -> Floats:
    """Temporal mean of values that are coded as logarithms; a few snapshots are held at a time."""
    stored = decoder.stored
    snapshots = stored.shape[stored.time_axis]
    total = np.zeros([len(places) for places in wanted])
    for start in range(0, snapshots, MEAN_SNAPSHOTS):
        rows = np.arange(start, min(start + MEAN_SNAPSHOTS, snapshots))
        total += _corrected(decoder, rows, wanted).sum(axis=stored.time_axis)
    return total / snapshots


def modes(
    home: Generation,
    variable: str,
    space_indexers: Sequence[Indexer] | None = None,
    leading: int | None = None,
) -> Floats:
    """Decode POD modes phi_k in the variable's units, (r, *space); 0 at masked points.

    Returns all modes or the `leading` ones, everywhere or as in `decode`. They are zero for
    variables without POD; of one that is coded as logarithms they are modes of these.
    """
    decoder = decoder_of(home, variable)
    indexers = space_indexers or [slice(None)] * len(decoder.stored.space_shape)
    wanted, backs = places_of(home, decoder.stored, indexers)
    count = home.rank if leading is None else min(leading, home.rank)
    values = np.empty((count, *map(len, wanted)), decoder.arithmetic)
    decoder.modes(wanted, values)
    if decoder.stored.scaling is not None:
        values *= decoder.stored.scaling.at(wanted)
    return as_asked(values, [np.arange(count), *backs], [slice(None), *indexers])


def places_of(
    home: Generation, stored: StoredVariable, space_indexers: Sequence[Indexer]
) -> tuple[list[Positions], list[Positions]]:
    """Return increasing stored positions per space dim, and the indices that restore the order."""
    found = []
    for dim, indexer, n in zip(stored.space_dims, space_indexers, stored.space_shape, strict=True):
        wanted, back = positions(indexer, n)
        if dim in home.orders:
            wanted, there = np.unique(home.places[dim][wanted], return_inverse=True)
            back = there[back]
        found.append((wanted, back))
    return [wanted for wanted, _ in found], [back for _, back in found]

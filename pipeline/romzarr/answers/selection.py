"""What of a store a lazily opened variable selects."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import product
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.core import indexing

from romzarr.archive.weights import weights_of
from romzarr.contracts import Coding, Floats, Matrix, Region
from romzarr.errors import AnswerError
from romzarr.recorded_config import config_of
from romzarr.store.layout import Root
from romzarr.store.reading import decoding
from romzarr.store.reading.generation import Generation
from romzarr.store.reading.indexing import Indexer
from romzarr.store.reading.lazy import DecodedArray
from romzarr.store.reading.reader import CoefficientStore, open_store
from romzarr.store.reading.variables import StoredVariable

# Points that are worked on together have no more than this in float64, whole tiles mostly.
PIECE_BYTES = 64 * 2**20
# Decoded values of these held at a time: larger arrays are returned to the system each time, and
# filling new pages takes longer than sums over them.
BLOCK_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Selection:
    """A part of a stored variable, each dim indexed independently.

    ``rows`` are snapshots in the order asked for, ``space`` the indexers of the other dims, and
    ``time_dim`` the name that the dataset has for the dim of time.
    """

    store: CoefficientStore
    stored: StoredVariable
    rows: NDArray[np.int64]
    space: tuple[Indexer, ...]
    time_dim: str
    space_dims: tuple[str, ...]

    @cached_property
    def factored(self) -> bool:
        """Whether mean, modes and coefficients of generations are all there is to it.

        Several have fields of their own: with more of these than snapshots nothing is gained.
        """
        name, parts = self.stored.name, [part for part, _ in self._parts]
        several = len(parts) > 1
        return all(_is_factored(part, name) for part in parts) and not (
            several
            and (
                sum(1 + part.rank for part in parts) > len(self.rows)
                or any(not _masked_alike(part, parts[0], name) for part in parts[1:])
            )
        )

    @cached_property
    def coefficients(self) -> Matrix:
        """Those of all fields: a(t) after a column of ones, (m, 1 + r).

        Of each generation but the first, after whether snapshots are among its own.
        """
        found = []
        for part, own in self._parts:
            wanted, back = np.unique(own[own >= 0], return_inverse=True)
            columns = np.zeros((len(own), 1 + part.rank))
            columns[own >= 0, 0] = 1.0
            columns[own >= 0, 1:] = part.latent.at(wanted)[back]
            found.append(columns)
        found[0][:, 0] = 1.0
        return np.hstack(found)

    @cached_property
    def fields(self) -> Matrix:
        """The mean and the modes, (1 + r, points) float64; the mean is NaN at masked points.

        Of each generation but the first, the difference of its mean from that of the first.
        """
        found: list[Floats] = []
        name = self.stored.name
        for part, _ in self._parts:
            # Modes first: the mean is then found among what was decoded for these.
            modes = decoding.modes(part, name, self.space)
            mean = np.asarray(decoding.mean(part, name, self.space), np.float64).reshape(1, -1)
            modes = modes.reshape(part.rank, mean.size)
            found += [np.nan_to_num(mean - found[0]) if found else mean, modes]
        return np.concatenate(found, dtype=np.float64)

    @cached_property
    def _parts(self) -> list[tuple[Generation, NDArray[np.int64]]]:
        """The generations of the selected snapshots; with each, the numbers of these in it, or -1
        where they are of another one."""
        store = self.store
        numbers = np.searchsorted(store.starts, self.rows, side="right") - 1
        return [
            (store.parts[n], np.where(numbers == n, self.rows - store.starts[n], -1))
            for n in np.unique(numbers)
        ]

    @cached_property
    def space_shape(self) -> tuple[int, ...]:
        """Lengths of the space dims that are left."""
        pairs = zip(self.space, self.stored.space_shape, strict=True)
        lengths = (np.arange(n)[index].shape for index, n in pairs)
        return tuple(n for shape in lengths for n in shape)

    @property
    def places(self) -> list[NDArray[np.int64]]:
        """Numbers of the points selected along each dim of space, without those that are gone."""
        pairs = zip(self.space, self.stored.space_shape, strict=True)
        return [np.atleast_1d(np.arange(n)[index]) for index, n in pairs]

    @cached_property
    def repeats(self) -> int:
        """How often a value is selected at most: its error counts as often."""
        lists = [self.rows, *(each for each in self.space if isinstance(each, np.ndarray))]
        most = (np.unique(each, return_counts=True)[1].max(initial=1) for each in lists)
        return math.prod(int(each) for each in most)

    def blocks(self) -> Iterator[tuple[slice, Matrix]]:
        """Yield decoded values (rows, points) in float64, some snapshots at a time."""
        points = int(np.prod(self.space_shape, dtype=np.int64))
        most = max(1, BLOCK_BYTES // (8 * max(1, points)))
        before = self.space[: self.stored.time_axis]
        axis = sum(not isinstance(index, int | np.integer) for index in before)
        for start in range(0, len(self.rows), most):
            rows = self.rows[start : start + most]
            values = self.store.decode(self.stored.name, rows, self.space)
            flat = np.moveaxis(values, axis, 0).reshape(len(rows), points)
            yield slice(start, start + len(rows)), flat.astype(np.float64)

    def at_first(self) -> Selection:
        """The same of the first snapshot alone."""
        return replace(self, rows=self.rows[:1])

    def part(self, region: Region) -> Selection:
        """The same of some of its points: `region` has a slice for each space dim that is left."""
        left, space = iter(region), list(self.space)
        for axis, (index, n) in enumerate(zip(self.space, self.stored.space_shape, strict=True)):
            if not isinstance(index, int | np.integer):
                space[axis] = np.arange(n)[index][next(left)]
        return replace(self, space=tuple(space))

    @cached_property
    def weights(self) -> Matrix:
        """What each point (points,) counts in the recorded error."""
        weights = _counted(self.store.url, Root(self.store.root.parts), self.stored.name)
        for axis in reversed(range(weights.ndim)):
            weights = weights[(slice(None),) * axis + (self.space[axis],)]
        return np.asarray(weights, np.float64).reshape(-1)


def _is_factored(part: Generation, name: str) -> bool:
    stored = part.variables[name]
    corrected = f"basis/{stored.group}/residuals" in part.arrays
    return (
        stored.coding == Coding.POD
        and stored.unit is None
        and stored.sums is None
        and not (corrected or len(part.episodes) or stored.gaps)
    )


def _masked_alike(first: Generation, second: Generation, name: str) -> bool:
    """Whether the same points of a variable have no values in two generations."""
    masks = [_mask_of(part.chain[0], name) for part in (first, second)]
    return np.array_equal(masks[0], masks[1])


def _mask_of(part: Generation, name: str) -> NDArray[np.bool_]:
    stored = part.variables[name]
    if stored.mask is None:
        return np.zeros(stored.space_shape, bool)
    return part.arrays.read(f"basis/{stored.mask}/mask")


# Finding the weights opens the dataset, which takes longer than most answers.
@lru_cache(maxsize=256)
def _counted(url: str, root: Root, name: str) -> Matrix:
    """What each point (*space) of a variable counts in the recorded error."""
    store = open_store(url, root)
    stored, kind = store.variables[name], config_of(store).archive.weights
    found = None
    if kind != "none":
        dataset = xr.open_dataset(url, engine="romzarr")
        found = weights_of(dataset, name, stored.dims[stored.time_axis], kind, url)
    one = np.ones((1,) * len(stored.space_shape))
    return np.broadcast_to(one if found is None else found, stored.space_shape)


def selection_of(variable: xr.DataArray) -> Selection:
    """Find the store behind a variable, and what of it is selected.

    Raises
    ------
    AnswerError
        If its values are in memory, in Dask, computed, transposed, or selected point by point.
    """
    data: Any = variable.variable._data
    while not isinstance(data, indexing.LazilyIndexedArray) and hasattr(data, "array"):
        data = data.array
    if not isinstance(data, indexing.LazilyIndexedArray) or not isinstance(
        data.array, DecodedArray
    ):
        raise AnswerError(
            f"variable {variable.name!r}: its values ({type(data).__name__}) are not lazily those "
            "of a store; answers take what xarray.open_dataset(store, engine='romzarr') returns, "
            "without chunks, before values are loaded, and selections of it by isel and sel along "
            "dims. Use romzarr.open(store)"
        )
    lazy, key = data.array, list(data.key.tuple)
    if lazy.view.level or lazy.view.modes is not None:
        raise AnswerError(
            f"variable {variable.name!r}: it was opened with level={lazy.view.level}, "
            f"modes={lazy.view.modes}, but answers are about all modes on the whole grid; use "
            f"romzarr.open({lazy.url!r})"
        )
    store = open_store(lazy.url, lazy.root)
    stored = store.variables[lazy.variable.name]
    axis = stored.time_axis
    if stored.is_timeless or isinstance(key[axis], int | np.integer):
        raise AnswerError(
            f"variable {variable.name!r} has no dim of time left: answers are about time; select "
            "a stretch of it, as with slice, or decode the values"
        )
    left = [n for n, each in enumerate(key) if not isinstance(each, int | np.integer)]
    dims = [str(dim) for dim in variable.dims]
    time_dim = dims.pop(left.index(axis))
    rows = np.arange(stored.shape[axis])[key.pop(axis)]
    if not len(rows):
        raise AnswerError(f"variable {variable.name!r}: no snapshot is selected; select some")
    return Selection(store, stored, rows, tuple(key), time_dim, tuple(dims))


def regions(shape: Sequence[int], most: int) -> Iterator[Region]:
    """Yield boxes of at most `most` points that make up an array of this shape."""
    lengths = list(shape)
    while math.prod(lengths) > most:
        axis = lengths.index(max(lengths))
        lengths[axis] = -(-lengths[axis] // 2)
    starts = (range(0, n, length) for n, length in zip(shape, lengths, strict=True))
    for corner in product(*starts):
        yield tuple(slice(a, a + length) for a, length in zip(corner, lengths, strict=True))

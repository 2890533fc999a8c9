"""What of a store a lazily opened variable selects."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.core import indexing

from romzarr.archive.weights import weights_of
from romzarr.contracts import Coding, Matrix
from romzarr.errors import AnswerError
from romzarr.recorded_config import config_of
from romzarr.store.reading import decoding
from romzarr.store.reading.indexing import Indexer
from romzarr.store.reading.lazy import DecodedArray
from romzarr.store.reading.reader import CoefficientStore, open_store
from romzarr.store.reading.variables import StoredVariable

# Decoded values held at a time, in float64.
_BLOCK_BYTES = 64 * 2**20


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

    @property
    def factored(self) -> bool:
        """Whether mean, modes and coefficients of one generation are all there is to it."""
        last, stored = self.store.last, self.stored
        corrected = f"basis/{stored.group}/residuals" in last.arrays
        return (
            stored.coding == Coding.POD
            and len(self.store.parts) == 1
            and stored.unit is None
            and not (corrected or len(last.episodes) or stored.gaps)
        )

    @cached_property
    def coefficients(self) -> Matrix:
        """a(t) after a column of ones, (m, 1 + r)."""
        wanted, back = np.unique(self.rows, return_inverse=True)
        found = self.store.last.latent.at(wanted)[back]
        return np.insert(found, 0, 1.0, axis=1)

    @cached_property
    def fields(self) -> Matrix:
        """The mean and the modes, (1 + r, points) float64; the mean is NaN at masked points."""
        last, name = self.store.last, self.stored.name
        mean = np.asarray(decoding.mean(last, name, self.space), np.float64).reshape(1, -1)
        modes = decoding.modes(last, name, self.space)
        return np.concatenate([mean, modes.reshape(len(modes), mean.size)], dtype=np.float64)

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
        most = max(1, _BLOCK_BYTES // (8 * max(1, points)))
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

    @cached_property
    def weights(self) -> Matrix:
        """What each point (points,) counts in the recorded error."""
        name = config_of(self.store).archive.weights
        dims, shape = self.stored.dims, self.stored.space_shape
        found = None
        if name != "none":
            dataset = xr.open_dataset(self.store.url, engine="romzarr")
            time = dims[self.stored.time_axis]
            found = weights_of(dataset, self.stored.name, time, name, self.store.url)
        weights = np.ones((1,) * len(shape)) if found is None else found
        weights = np.broadcast_to(weights, shape)
        for axis in reversed(range(len(shape))):
            weights = weights[(slice(None),) * axis + (self.space[axis],)]
        return np.asarray(weights, np.float64).reshape(-1)


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

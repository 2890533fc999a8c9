"""The recorded errors by block of time, tile of space, and index, as a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from romzarr.answers.selection import Selection
from romzarr.contracts import Matrix
from romzarr.store.reading.block_errors import errors_by_part
from romzarr.store.reading.facts import ERRORS_BY_INDEX

_NORM = "L2 norm of the error on the block, in the weights of the store"
_BY_INDEX = "L2 norm of the error at the index, relative to its fluctuation"
Numbers = NDArray[np.int64]


def error_by_block(selections: Mapping[str, Selection], dataset: xr.Dataset) -> xr.Dataset:
    """Bounds on the error of each variable on the blocks that are selected.

    Parameters
    ----------
    selections : mapping of str to Selection
    dataset : xarray.Dataset
        The same, with its coordinates.
    """
    axes, found = _Axes(dataset), dict[str, xr.Variable]()
    for name, selected in selections.items():
        numbers, values = _on_blocks(selected)
        units = dataset[name].attrs.get("units")
        attrs = {"norm": _NORM} | ({} if units is None else {"units": units})
        found[name] = xr.Variable(axes.named(_dims(selected), numbers), values, attrs)
        by_index = selected.store.facts.get(ERRORS_BY_INDEX, {}).get(selected.stored.name)
        if by_index is not None and by_index["dims"]:
            found[f"{name}_by_index"] = _at_indices(axes, selected, by_index)
    return xr.Dataset(found, coords=axes.coords)


def _dims(selected: Selection) -> list[str]:
    return [selected.time_dim, *selected.space_dims]


def _left(selected: Selection) -> list[int]:
    """Which of the dims of space are left."""
    return [n for n, i in enumerate(selected.space) if not isinstance(i, int | np.integer)]


def _on_blocks(selected: Selection) -> tuple[list[Numbers], Matrix]:
    """For each dim the number of the block of each place selected, and bounds on all blocks."""
    parts = errors_by_part(selected.store, selected.stored.name)
    alike = len({part.grid.lengths[1:] for part in parts}) == 1
    lengths = parts[0].grid.lengths[1:] if alike else selected.stored.space_shape
    in_space = [place // n for place, n in zip(selected.places, lengths, strict=True)]
    starts, rows, before = selected.store.starts, selected.rows, 0
    in_time, bounds = np.empty(len(rows), np.int64), list[Matrix]()
    for part, start, stop in zip(parts, starts, starts[1:], strict=False):
        mine = (rows >= start) & (rows < stop)
        own = (rows[mine] - start) // part.grid.lengths[0]
        in_time[mine] = before + own
        before += part.grid.counts[0]
        squares = part.errors.squares
        if not alike:
            squares = squares.sum(axis=tuple(range(1, squares.ndim)), keepdims=True)
        if len(own):
            some = np.ix_(np.unique(own), *map(np.unique, in_space))
            bounds.append(np.sqrt(squares[some]) + part.errors.anywhere)
    left = _left(selected)
    gone = tuple(1 + n for n in range(len(in_space)) if n not in left)
    return [in_time, *(in_space[n] for n in left)], np.concatenate(bounds).squeeze(gone)


def _at_indices(axes: _Axes, selected: Selection, fact: Mapping[str, Sequence[str]]) -> xr.Variable:
    stored = selected.stored
    which = [stored.space_dims.index(dim) for dim in fact["dims"]]
    errors = np.reshape(fact["errors"], [stored.space_shape[n] for n in which])
    places = [selected.places[n] for n in which]
    values = errors[np.ix_(*map(np.unique, places))]
    left = _left(selected)
    values = values.squeeze(tuple(a for a, n in enumerate(which) if n not in left))
    kept = [n for n in which if n in left]
    dims = [selected.space_dims[left.index(n)] for n in kept]
    numbers = [selected.places[n] for n in kept]
    return xr.Variable(axes.named(dims, numbers), values, {"norm": _BY_INDEX})


@dataclass
class _Axes:
    """Names of dims of blocks, one for each way in which those of a dataset are cut."""

    dataset: xr.Dataset
    coords: dict[str, xr.Variable] = field(default_factory=dict)
    known: dict[tuple[str, bytes], str] = field(default_factory=dict)

    def named(self, dims: Sequence[str], numbers: Sequence[Numbers]) -> list[str]:
        """The names where places along `dims` lie in blocks of these numbers."""
        return [self._named(dim, each) for dim, each in zip(dims, numbers, strict=True)]

    def _named(self, dim: str, numbers: Numbers) -> str:
        _, first = np.unique(numbers, return_index=True)
        key = (dim, first.tobytes())
        if key not in self.known:
            others = sum(name == dim for name, _ in self.known)
            name = self.known[key] = f"{dim}_{others + 1}" if others else dim
            last = len(numbers) - 1 - np.unique(numbers[::-1], return_index=True)[1]
            self.coords[name] = self._labels(dim, name, first)
            self.coords[f"{name}_last"] = self._labels(dim, name, last)
        return self.known[key]

    def _labels(self, dim: str, name: str, places: Numbers) -> xr.Variable:
        labels = self.dataset.coords.get(dim)
        if labels is None:
            return xr.Variable(name, places)
        return xr.Variable(name, labels.values[places], labels.attrs)

"""Errors of single levels, or indices of other dims, where each has a bound of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from romzarr.answers.selection import PIECE_BYTES, Selection, regions
from romzarr.contracts import Matrix
from romzarr.numerics.triangles import centred_triangle, squared_sums
from romzarr.recorded_config import config_of
from romzarr.store.layout import Root
from romzarr.store.reading.facts import ERRORS_BY_INDEX
from romzarr.store.reading.reader import open_store


def error_of_indices(selected: Selection) -> float:
    """The L2 norm of the error of all values at the selected indices; inf if it is not known.

    It is known from factors of one generation, where single indices are bounded relative to their
    fluctuations; and not looked for if all of them are selected.
    """
    bounded = selected.store.facts.get(ERRORS_BY_INDEX, {}).get(selected.stored.name)
    one = selected.factored and len(selected.store.parts) == 1
    if bounded is None or not one or not _chooses(selected, bounded["dims"]):
        return np.inf
    root = Root(selected.store.root.parts)
    squares = _squares(selected.store.url, root, selected.stored.name)
    if squares is None:
        return np.inf
    for axis in reversed(range(squares.ndim)):
        if squares.shape[axis] > 1:
            chosen = np.unique(np.arange(squares.shape[axis])[selected.space[axis]])
            squares = np.take(squares, chosen, axis=axis)
    return float(np.sum(squares)) ** 0.5


def _chooses(selected: Selection, dims: Sequence[str]) -> bool:
    """Whether some of the indices along any of `dims` are left out."""
    stored = selected.stored
    every = zip(stored.space_dims, selected.space, stored.space_shape, strict=True)
    return any(len(np.unique(np.arange(n)[index])) < n for dim, index, n in every if dim in dims)


@lru_cache(maxsize=256)
def _squares(url: str, root: Root, name: str) -> Matrix | None:
    """Squared errors of indices at most, of length 1 along dims that have no bounds of their own.

    Recorded is the error e of an index by its fluctuation f, which is not. That of decoded values
    is at least ``f - e``: subtracting means makes no error larger. What rounding changes in f is,
    times e / f, far below the rounding of values, which counts beside e.
    """
    store = open_store(url, root)
    stored, found = store.variables[name], store.facts[ERRORS_BY_INDEX][name]
    if config_of(store).compression.climatology:
        return None
    sizes = zip(stored.space_dims, stored.space_shape, strict=True)
    shape = [size if dim in found["dims"] else 1 for dim, size in sizes]
    relative = np.reshape(found["errors"], shape)
    if (relative >= 1).any():
        return None
    rows, every = np.arange(store.snapshots), (slice(None),) * len(shape)
    whole = Selection(store, stored, rows, every, "", stored.space_dims)
    fluctuations = np.sqrt(_decoded_squares(whole, shape))
    return (relative * fluctuations / (1 - relative)) ** 2


def _decoded_squares(whole: Selection, shape: list[int]) -> Matrix:
    """Squared fluctuations of decoded values about their mean, by index (shape)."""
    triangle = centred_triangle(whole.coefficients[:, 1:])
    most = max(1, PIECE_BYTES // (16 * (1 + len(triangle))))
    squares = np.empty(whole.space_shape)
    for region in regions(whole.space_shape, most):
        part = whole.part(region)
        found = squared_sums(triangle, part.fields[1:]) * part.weights
        known = np.where(np.isnan(part.fields[0]), 0.0, found)
        squares[region] = known.reshape(squares[region].shape)
    others = tuple(axis for axis, size in enumerate(shape) if size == 1)
    return np.asarray(squares.sum(axis=others, keepdims=True))

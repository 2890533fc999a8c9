"""Stores of which only the leading modes are read, and what that leaves out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from romzarr.contracts import Matrix
from romzarr.store.reading.decoding import PODDecoder
from romzarr.store.reading.generation import Generation
from romzarr.store.reading.indexing import Positions
from romzarr.store.reading.reader import CoefficientStore
from romzarr.store.reading.values import FieldValues
from romzarr.store.reading.variables import StoredVariable

# Coefficients that are rebuilt at a time.
_TOGETHER = 1 << 20


def with_leading(store: CoefficientStore, modes: int) -> CoefficientStore:
    """A store of which no more than the leading modes are read, in the order of the store."""
    return replace(store, parts=tuple(_leading(part, modes) for part in store.parts))


def _leading(part: Generation, modes: int) -> Generation:
    before = tuple(_leading(each, modes) for each in part.before)
    earlier = part.rank - part.own
    return replace(part, before=before, own=min(part.own, max(0, modes - earlier)))


def norm_beyond(store: CoefficientStore, variable: str, modes: int) -> float:
    """Bound the L2 norm of what all modes but the leading ones add to a variable, in its units.

    It is exact where a part of the store has all modes of its own. All points count alike. The
    modes are decoded for it, and then in the cache.
    """
    norms = (_norm_beyond(part, variable, modes) for part in store.parts)
    return float(np.sqrt(sum(norm**2 for norm in norms)))


def _norm_beyond(part: Generation, variable: str, modes: int) -> float:
    """The same for one part: with weights W of fields F, ``||W F||**2 = <W'W, F F'>``."""
    decoder = PODDecoder(part, part.variables[variable])
    total = 0.0
    for each, columns in decoder.with_fields():
        first = max(0, modes - columns.start)
        if first < each.own:
            chosen = slice(columns.start + first, columns.stop)
            weights = _gram_in_time(part, chosen) / np.outer(*2 * [each.own_values[first:]])
            fields = _gram_in_space(each, each.variables[variable], first)
            total += float(np.sqrt(max(0.0, float(np.sum(weights * fields)))))
    return total


def _gram_in_time(part: Generation, columns: slice) -> Matrix:
    """Products of coefficients, over the snapshots that are made of modes."""
    gram: Matrix = np.zeros((columns.stop - columns.start,) * 2)
    for rows in _some_rows(part):
        a = part.latent.at(rows)[:, columns]
        gram += a.T @ a
    return gram


def _some_rows(part: Generation) -> Iterator[Positions]:
    rows = np.setdiff1d(np.arange(part.snapshots), part.episodes)
    together = max(1, _TOGETHER // max(1, part.rank))
    for start in range(0, len(rows), together):
        yield rows[start : start + together]


def _gram_in_space(part: Generation, stored: StoredVariable, first: int) -> Matrix:
    """Products of fields from one on, over all points, in units of the variable."""
    wanted = [np.arange(n) for n in stored.space_shape]
    gram: Matrix = np.zeros((part.own - first,) * 2)
    for region, fields in FieldValues(part.arrays, stored).parts(wanted):
        modes = fields.modes[first:].astype(np.float64)
        if stored.scaling is not None:
            places = [each[piece] for each, piece in zip(wanted, region, strict=True)]
            modes *= stored.scaling.at(places)
        flat = modes.reshape(len(modes), -1)
        gram += flat @ flat.T
    return gram

"""Amplitudes of modes of a store: those that it holds, or of what it decodes to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from romzarr.contracts import MIN_SNAPSHOTS, BlockSpan, Coding, Matrix, Vector
from romzarr.store.reading.reader import CoefficientStore

# Values that are decoded to make modes where a store has none (128 MB), and the modes made.
MOST_VALUES, MADE = 1 << 24, 8


@dataclass(frozen=True)
class Amplitudes:
    """Coefficients a(t) of the modes of the newest part of a store.

    ``span`` gives those of some snapshots (m, r), ``times_of`` times since the first snapshot;
    ``energy`` (r,) is that of each mode, ``total`` that of all there is; ``episodes`` are numbers
    of snapshots without coefficients. ``stored`` tells whether the modes are those of the store.
    """

    url: str
    snapshots: int
    energy: Vector
    total: float
    units: str
    span: Callable[[BlockSpan], Matrix] = field(repr=False)
    times_of: Callable[[int, int], Vector] = field(repr=False)
    episodes: NDArray[np.int64] = field(repr=False)
    stored: bool

    @property
    def rank(self) -> int:
        return len(self.energy)


def amplitudes_of(opened: CoefficientStore) -> Amplitudes:
    """Those that the store holds; of values coded without modes, if they are few enough, those of
    POD of all variables, each scaled to a fluctuation of norm one. Rank 0 if there are none."""
    part = opened.last
    coefficients: Callable[[BlockSpan], Matrix]
    if part.rank:
        energy, coefficients = part.singular_values**2, part.latent.span
        total, episodes = float(energy.sum()), part.episodes
    else:
        made, total = _made(opened)
        energy, coefficients = np.sum(made**2, axis=0), _rows(made)
        episodes = np.zeros(0, np.int64)
    return Amplitudes(
        opened.url,
        part.snapshots,
        np.asarray(energy, np.float64),
        total,
        str(part.facts["time"]["units"]),
        coefficients,
        part.latent.times_of,
        episodes,
        bool(part.rank),
    )


def _rows(made: Matrix) -> Callable[[BlockSpan], Matrix]:
    def rows(span: BlockSpan) -> Matrix:
        return made[span.start : span.stop]

    return rows


def _made(opened: CoefficientStore) -> tuple[Matrix, float]:
    """Coefficients (m, r) of what the newest part decodes to, and its energy."""
    m, first = opened.last.snapshots, int(opened.starts[-2])
    names = [name for name, v in opened.variables.items() if v.coding is not Coding.CONSTANT]
    size = sum(int(np.prod(opened.variables[name].space_shape)) for name in names)
    if not size or m < MIN_SNAPSHOTS or m * size > MOST_VALUES:
        return np.zeros((m, 0)), 0.0
    dataset, dim = xr.open_dataset(opened.url, engine="romzarr"), str(opened.facts["time"]["dim"])
    columns = []
    for name in names:
        values = dataset[name].isel({dim: slice(first, None)}).transpose(dim, ...).values
        flat = values.reshape(m, -1).astype(np.float64)
        flat = flat[:, np.isfinite(flat).all(axis=0)]
        flat = flat - flat.mean(axis=0)
        columns.append(flat / (np.linalg.norm(flat) or 1.0))
    x = np.concatenate(columns, axis=1)
    # Where every point has gaps, nothing is left.
    if not x.size:
        return np.zeros((m, 0)), 0.0
    return _leading(x), float(np.sum(x**2))


def _leading(x: Matrix) -> Matrix:
    """The leading principal components (m, r) of snapshots (m, n).

    By the smaller Gram matrix: that it squares what is small does not matter to leading modes.
    """
    m, n = x.shape
    values, vectors = np.linalg.eigh(x @ x.T if m <= n else x.T @ x)
    leading = vectors[:, ::-1][:, :MADE]
    if m > n:
        return np.asarray(x @ leading, np.float64)
    return np.asarray(leading * np.sqrt(np.maximum(values[::-1][:MADE], 0.0)), np.float64)

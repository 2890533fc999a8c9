"""Small parts of a store to look at, however large the store: what a report is made of.

Everything here reads and decodes a bounded part of the store: a few modes at a few points, and
the coefficients of some snapshots.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from romzarr.chunked.spots import spread
from romzarr.contracts import BlockSpan, Matrix
from romzarr.numerics.dynamics.integrate import Dynamics, trajectories
from romzarr.store.models import UNEXPLAINED
from romzarr.store.reading import decoding
from romzarr.store.reading.latent import StoredLatent
from romzarr.store.reading.reader import CoefficientStore
from romzarr.views.sections import Section

# Snapshots that are shown one by one; of longer records these lie in the middle, and the whole
# is shown by its range in so many parts, decoded so many together. Where all coefficients are
# more than so many, at most the first snapshots of each part are looked at.
SNAPSHOTS, PARTS, TOGETHER = 600, 300, 20
MOST_VALUES, LOOKED_AT = 1 << 26, 64
# Snapshots of a picture whose other axis is space.
ROWS = 240


# What the dim of a single snapshot is called, where the archive has no time.
SNAPSHOT = "snapshot"


def time_dim(store: CoefficientStore) -> str:
    """Name of the time dim in pictures."""
    return str(store.facts["time"]["dim"]) or SNAPSHOT


def with_time(dataset: xr.Dataset, store: CoefficientStore) -> tuple[xr.Dataset, str]:
    """A decoded dataset with a time dim, also where the archive had none, and its name."""
    dim, names = time_dim(store), list(store.variables)
    if dim in dataset.dims:
        return dataset, dim
    return dataset.assign({name: dataset[name].expand_dims(dim) for name in names}), dim


@dataclass(frozen=True)
class Spectrum:
    """Singular values (r,) of the joint matrix of the `variables` coded by POD, each scaled to
    a fluctuation of norm 1, and what the leading k of them leave out (r + 1,): the root of the
    mean over these variables of the squared relative error.

    The energy of the joint matrix is the number of variables, so what the store does not keep
    is known too, down to the rounding of the sum. Of a store of several `parts` the spectrum is
    that of the newest, whose scales are those of the whole record: there ``energy`` is what is
    kept, and ``left_out`` relative to it.
    """

    singular_values: Matrix
    left_out: Matrix
    energy: float
    parts: int
    tolerance: float


def spectrum(store: CoefficientStore) -> Spectrum:
    """The spectrum of a store, with what its modes leave out; reads one small array."""
    count = sum(variable.coding.has_modes for variable in store.variables.values())
    parts, energy = len(store.starts) - 1, store.last.singular_values**2
    total = float(count if parts == 1 else energy.sum())
    left = np.maximum(total - np.concatenate([[0.0], np.cumsum(energy)]), 0.0) / (total or 1.0)
    rounding = len(left) * float(np.finfo(np.float64).eps)
    return Spectrum(
        store.last.singular_values,
        np.sqrt(np.where(left > rounding, left, 0.0)),
        total,
        parts,
        float(store.facts["tolerance"]),
    )


@dataclass(frozen=True)
class Coefficients:
    """Leading k coefficients of consecutive snapshots, and their range over the whole record.

    ``numbers`` (n,) of the snapshots; ``coded`` (n, k) as decoded; ``modelled`` (n, k) as the
    model goes on from every snapshot in ``kept``, places among them where a sample is kept, up
    to the next (NaN where no equation explains a coefficient or no model serves, and before the
    first). ``parts`` (p, 2)
    first and last snapshot of each part of a record too long to show whole (empty else),
    ``lowest`` and ``highest`` (p, k) the range seen there. ``corrected`` says whether anything
    is coded beside the samples.
    """

    numbers: NDArray[np.int64]
    coded: Matrix
    modelled: Matrix
    kept: NDArray[np.int64]
    parts: NDArray[np.int64]
    lowest: Matrix
    highest: Matrix
    corrected: bool


def coefficients(store: CoefficientStore, leading: int) -> Coefficients:
    """Coefficients of `leading` modes; of a long record its middle, and the range of the rest.

    Of a store of several parts those of the newest, whose modes they belong to.
    """
    latent, before = store.last.latent, int(store.starts[-2])
    m, k = latent.snapshots, min(leading, latent.rank)
    start = max(0, (m - SNAPSHOTS) // 2)
    span = BlockSpan(start, min(m, start + SNAPSHOTS))
    coded, numbers = latent.span(span), np.arange(span.start, span.stop)
    kept = np.flatnonzero(np.isin(numbers, latent.index))
    edges = np.linspace(0, m, PARTS + 1).astype(np.int64) if m > SNAPSHOTS else np.zeros(1, int)
    ranges = list(_ranges(latent, edges, k))
    return Coefficients(
        numbers=numbers + before,
        coded=coded[:, :k],
        modelled=_modelled(latent, coded, numbers, kept)[:, :k],
        kept=kept,
        parts=np.stack([edges[:-1], edges[1:] - 1], axis=1) + before,
        lowest=np.array([low for low, _ in ranges]).reshape(-1, k),
        highest=np.array([high for _, high in ranges]).reshape(-1, k),
        corrected=bool(latent.corrections(span).any()),
    )


def _modelled(
    latent: StoredLatent, coded: Matrix, numbers: NDArray[np.int64], kept: NDArray[np.int64]
) -> Matrix:
    """The model that serves each kept sample, if any does, integrated up to the next."""
    found = np.full_like(coded, np.nan)
    if not len(kept) or not latent.coefficients.any():
        return found
    lengths = np.diff(kept, append=len(coded))
    serving = latent.block_model[numbers[kept] // latent.facts["latent"]["block_steps"]]
    residuals = latent.stored_models.residuals if latent.stored_models else ()
    for number, (model, residual) in enumerate(zip(latent.models, residuals, strict=True)):
        own = serving == number
        _integrate(latent, model, numbers, kept[own], lengths[own], coded, found)
        # What an equation foretells that explains nothing may lie anywhere.
        rows = kept[0] + np.flatnonzero(np.repeat(own, lengths))
        found[np.ix_(rows, np.flatnonzero(np.array(residual) >= UNEXPLAINED))] = np.nan
    return found


def _integrate(
    latent: StoredLatent,
    model: Dynamics,
    numbers: NDArray[np.int64],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    coded: Matrix,
    found: Matrix,
) -> None:
    """Fill `found` with what a model makes of each start for so many snapshots."""
    if not len(starts):
        return
    first = coded[starts, : model.modes]
    found[starts, : model.modes] = first
    substeps = latent.facts["latent"]["substeps"]
    states = trajectories(model, first, latent.times[numbers], starts, substeps)
    for step, now in zip(range(1, int(lengths.max())), states, strict=False):
        going = lengths > step
        found[starts[going] + step, : model.modes] = now[going]


def _ranges(
    latent: StoredLatent, edges: NDArray[np.int64], leading: int
) -> Iterator[tuple[Matrix, Matrix]]:
    """Lowest and highest coefficients between consecutive edges, or in the first part of each."""
    if latent.snapshots * latent.rank > MOST_VALUES:
        for a, b in pairwise(edges.tolist()):
            values = latent.span(BlockSpan(a, min(b, a + LOOKED_AT)))[:, :leading]
            yield values.min(axis=0), values.max(axis=0)
        return
    # Snapshots together cost far less than the same ones apart: models run side by side.
    for first in range(0, len(edges) - 1, TOGETHER):
        some = edges[first : first + TOGETHER + 1]
        values = latent.span(BlockSpan(int(some[0]), int(some[-1])))[:, :leading]
        starts = some[:-1] - some[0]
        yield from zip(
            np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts), strict=True
        )


def modes_at(store: CoefficientStore, section: Section, leading: int) -> Matrix:
    """The leading modes (k, *section) of a variable, NaN where it has no values."""
    found = decoding.modes(store.last, section.variable, section.indexers, leading).astype(
        np.float64
    )
    nothing = np.isnan(store.mean(section.variable, section.indexers))
    return section.arranged(np.where(nothing, np.nan, found))


def rows_at(dataset: xr.Dataset, section: Section, time: str) -> tuple[NDArray[np.int64], Matrix]:
    """Numbers of snapshots at even distances, and their values (n, *section) as decoded."""
    numbers = np.array(spread(dataset.sizes[time], ROWS), np.int64)
    data = dataset[section.variable].transpose(time, ...)
    chosen = data.isel({time: numbers, **_places(dataset, section, time)})
    return numbers, np.asarray(chosen.values, np.float64)


def snapshot_at(dataset: xr.Dataset, section: Section, time: str, number: int) -> Matrix:
    """Decoded values (*section) of one snapshot."""
    chosen = dataset[section.variable].isel({time: number, **_places(dataset, section, time)})
    return section.arranged(np.asarray(chosen.values, np.float64))


def _places(dataset: xr.Dataset, section: Section, time: str) -> dict[Hashable, Any]:
    dims = (dim for dim in dataset[section.variable].dims if dim != time)
    return dict(zip(dims, section.indexers, strict=True))

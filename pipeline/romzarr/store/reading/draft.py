"""A store before its commit, as readers will see it, but for the order of points."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from romzarr.coding.layers import Payload
from romzarr.contracts import Region
from romzarr.store.layout import Part
from romzarr.store.reading.decoding import decode, predict
from romzarr.store.reading.generation import Generation
from romzarr.store.reading.layers import coarser
from romzarr.store.reading.reader import open_draft
from romzarr.store.reading.tile_cache import TileCache

Matrix = NDArray[np.float64]

# Relative perturbation of samples in tests of a model: thousands of roundings of another machine.
PERTURBATION = 1e-12
# Decoded tiles of what is read in layers.
_CACHED_BYTES = 1 << 26


@dataclass(frozen=True)
class Draft:
    """A generation from `romzarr.store.writing.writer.StoreWriter.draft`; works in any process.

    Its points are where the store has them, as in the archive while it is written.
    """

    url: str
    part: Part

    def predict(self, variable: str, time_axis: int, region: Region) -> Matrix:
        """Decode a region in the variable's order of dims, before residuals and rounding."""
        return _predicted(_opened(self), variable, time_axis, region)

    def coded(self, variable: str, time_axis: int, region: Region) -> Matrix:
        """The same, without the scaling of the variable."""
        return _predicted(_opened(self), variable, time_axis, region, as_coded=True)

    def decode(self, variable: str, time_axis: int, region: Region) -> NDArray[Any]:
        """Decode a region as readers will see it."""
        space = region[:time_axis] + region[time_axis + 1 :]
        return decode(_opened(self), variable, region[time_axis], space)

    def decode_layers(
        self, variable: str, time_axis: int, region: Region, layers: int
    ) -> NDArray[Any]:
        """Decode a region from the first layers alone."""
        space = region[:time_axis] + region[time_axis + 1 :]
        return decode(_opened_layers(self, layers), variable, region[time_axis], space)

    def payload(self, path: str, index: tuple[int, ...]) -> Payload:
        """Return the payload of a chunk of a coded array, even if it is there in layers too."""
        return _opened(self).arrays.payload(path, index)

    def form(self, path: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shape of the chunks of a coded array, and the levels of their transform."""
        arrays = _opened(self).arrays
        return arrays.chunk(path), arrays.codec(path).levels

    def drift(self, variable: str, time_axis: int, region: Region, predicted: Matrix) -> float:
        """Bound the change of `predicted` values by a reader's rounding of the samples of a(t)."""
        store = _opened(self)
        modelled = len(store.latent.models) > 0
        if not (store.variables[variable].coding.has_modes and modelled):
            return 0.0
        moved = _predicted(_opened(self, PERTURBATION), variable, time_axis, region) - predicted
        return float(np.nanmax(np.abs(moved), initial=0.0))


@lru_cache(maxsize=2)
def _opened(draft: Draft, perturbation: float = 0.0) -> Generation:
    store = replace(open_draft(draft.url, draft.part), orders={})
    return (
        replace(store, latent=replace(store.latent, perturbation=perturbation))
        if perturbation
        else store
    )


@lru_cache(maxsize=8)
def _opened_layers(draft: Draft, layers: int) -> Generation:
    return coarser(_opened(draft), lambda variable: layers, TileCache(_CACHED_BYTES))


def _predicted(
    store: Generation, variable: str, time_axis: int, region: Region, as_coded: bool = False
) -> Matrix:
    space = region[:time_axis] + region[time_axis + 1 :]
    return predict(store, variable, region[time_axis], space, as_coded)

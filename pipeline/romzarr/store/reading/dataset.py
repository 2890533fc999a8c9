"""The dataset that a store, or a view of it, opens as."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import xarray as xr
from xarray.core import indexing

from romzarr.contracts import NO_TIME
from romzarr.encoding import encoding_from_json
from romzarr.store.layout import JsonObject, Root
from romzarr.store.reading.arrays import as_store_errors
from romzarr.store.reading.coarse import CoarseStore
from romzarr.store.reading.coordinates import carried, restored
from romzarr.store.reading.lazy import DecodedArray
from romzarr.store.reading.leading import norm_beyond
from romzarr.store.reading.loss import Shown, with_loss
from romzarr.store.reading.reader import CoefficientStore
from romzarr.store.reading.variables import StoredVariable
from romzarr.store.reading.views import View, open_view

# Entries of an encoding that fit arrays of one shape alone.
_OF_SHAPE = frozenset({"chunks", "shards", "chunksizes", "contiguous", "original_shape"})


def dataset_of(
    store: CoefficientStore,
    view: View,
    options: Mapping[str, Any],
    dropped: Collection[str] = (),
) -> xr.Dataset:
    """Open a view of a store lazily; `options` are those of decoding what was carried over."""
    root = Root(store.root.parts)
    opened = open_view(store.url, root, view)
    halvings = opened.halvings if isinstance(opened, CoarseStore) else {}
    variables = {
        name: _at_points(variable, halvings)
        for name, variable in carried(store, options).variables.items()
    }
    errors = store.errors_within(view.tolerance) if view.tolerance else {}
    for name, stored in opened.variables.items():
        if name not in dropped:
            array = DecodedArray(store.url, root, stored, view.of(stored))
            shown = _shown(store, opened, stored, view.of(stored), errors)
            variables[name] = _lazy(array, with_loss(store.facts, stored, shown), shown)
    facts = JsonObject(store.facts, store.url)
    order: list[Any] = [name for name in facts.names("order") if name in variables]
    # Coordinates that the order does not name come last.
    order += [name for name in variables if name not in order]
    with as_store_errors(f"{store.url}: inconsistent variables"):
        dataset = xr.Dataset({name: variables[name] for name in order if name not in dropped})
        coords = [name for name in facts.names("coords") if name in dataset.variables]
        dataset = dataset.set_coords(coords)
    dataset.attrs = restored(store.facts, "attrs")
    dataset.encoding = restored(store.facts, "encoding") | {"source": store.url}
    return dataset


def _shown(
    store: CoefficientStore,
    opened: CoefficientStore | CoarseStore,
    stored: StoredVariable,
    view: View,
    errors: Mapping[str, float],
) -> Shown:
    """What a view shows of a variable, given the `errors` at its tolerance."""
    beyond = 0.0
    if view.modes is not None:
        within = store.within(view.tolerance) if view.tolerance else store
        beyond = norm_beyond(within, stored.name, view.modes)
    shown = Shown(view.tolerance, errors.get(stored.name), view.modes, beyond)
    if isinstance(opened, CoarseStore):
        halved = sum(opened.halvings.get(dim, 0) for dim in stored.space_dims)
        return shown.on(view.level if halved else 0, opened.gains(stored.name), 2.0**-halved)
    return shown


def _lazy(array: DecodedArray, attrs: Mapping[str, Any], shown: Shown) -> xr.Variable:
    """A variable that is decoded when it is read."""
    stored = array.variable
    encoding = encoding_from_json(stored.encoding)
    if shown.level:
        encoding = _of_any_shape(encoding)
    if stored.chunks is not None:
        chunks = dict(zip(stored.dims, stored.chunks, strict=True))
        chunks.pop(NO_TIME, None)
        encoding["preferred_chunks"] = chunks
    dims = stored.space_dims if stored.is_timeless else stored.dims
    return xr.Variable(dims, indexing.LazilyIndexedArray(array), attrs, encoding)


def _at_points(variable: xr.Variable, halvings: Mapping[str, int]) -> xr.Variable:
    """What was carried over, at the points of a coarser grid."""
    steps = {
        dim: slice(None, None, 1 << halved)
        for dim, halved in halvings.items()
        if dim in variable.dims
    }
    if not steps:
        return variable
    found = variable.isel(steps)
    found.encoding = _of_any_shape(variable.encoding)
    return found


def _of_any_shape(encoding: Mapping[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in encoding.items() if name not in _OF_SHAPE}

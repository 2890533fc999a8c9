"""Lazy coordinates and variables that were copied unchanged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from xarray.backends import BackendArray, ZarrStore
from xarray.backends.store import StoreBackendEntrypoint
from xarray.core import indexing

from romzarr.encoding import encoding_from_json, with_shared
from romzarr.errors import StoreError
from romzarr.store.layout import JsonObject
from romzarr.store.reading.arrays import as_store_errors
from romzarr.store.reading.generation import Generation
from romzarr.store.reading.indexing import Positions, across
from romzarr.store.reading.reader import CoefficientStore


class CarriedArray(BackendArray):
    """One variable of consecutive parts of a store, concatenated along an axis.

    Parameters
    ----------
    what : str
        Name of the variable in messages.
    pieces : sequence of Variable
        As opened by xarray's Zarr backend; equal except for their lengths along the axis.
    axis : int
    dtype : dtype
    missing : set of int
        Positions at which objects are NaN.
    """

    def __init__(
        self,
        what: str,
        pieces: Sequence[xr.Variable],
        axis: int,
        dtype: np.dtype[Any],
        missing: frozenset[int] = frozenset(),
    ) -> None:
        self.what, self.pieces, self.axis, self.dtype = what, pieces, axis, dtype
        self.missing = missing
        self.starts = np.cumsum([0, *(each.shape[axis] for each in pieces if each.ndim)])
        first = pieces[0].shape
        self.shape = (*first[:axis], int(self.starts[-1]), *first[axis + 1 :]) if first else ()

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        if isinstance(key, indexing.BasicIndexer | indexing.OuterIndexer):
            return self._read(key.tuple)
        support = indexing.IndexingSupport.OUTER
        return indexing.explicit_indexing_adapter(key, self.shape, support, self._read)

    def _read(self, key: tuple[Any, ...]) -> NDArray[Any]:
        with as_store_errors(f"{self.what} cannot be read"):
            if len(self.pieces) == 1:
                return self._values(0, key)
            axis = self.axis
            before = sum(not isinstance(each, int | np.integer) for each in key[:axis])

            def read(number: int, rows: Positions) -> NDArray[Any]:
                return self._values(number, (*key[:axis], rows, *key[axis + 1 :]))

            return across(self.starts, key[axis], before, read)

    def _values(self, number: int, key: tuple[Any, ...]) -> NDArray[Any]:
        values = np.asarray(self.pieces[number][key].values).astype(self.dtype, copy=False)
        if not self.missing:
            return values
        # Of the places along each axis, how many values each is away from the first.
        strides = [math.prod(self.shape[axis + 1 :]) for axis in range(len(self.shape))]
        places = np.zeros(values.shape, np.int64)
        shown = iter(range(values.ndim))
        for index, stride, size in zip(key, strides, self.shape, strict=True):
            steps = stride * np.arange(size)[index]
            if isinstance(index, int | np.integer):
                places += steps
            else:
                following = values.ndim - 1 - next(shown)
                places += steps.reshape(-1, *(1 for _ in range(following)))
        return np.where(np.isin(places, list(self.missing)), np.nan, values)


def carried(store: CoefficientStore, options: Mapping[str, Any]) -> xr.Dataset:
    """Open copied coordinates and variables; those that change in time are concatenated."""
    opened = [_opened(part, store.url, options) for part in store.parts]
    last, dim = opened[-1], JsonObject(store.facts, store.url).object("time").text("dim")
    variables = {}
    for name, variable in last.variables.items():
        changing = dim in variable.dims
        pieces = [each.variables.get(name) for each in opened] if changing else [variable]
        where = f"{store.url}: coordinates/{name}"
        variables[name] = _joined(pieces, variable.dims.index(dim) if changing else 0, where)
        variables[name].encoding = variable.encoding
    return xr.Dataset(variables).set_coords(list(last.coords))


def _joined(pieces: Sequence[xr.Variable | None], axis: int, where: str) -> xr.Variable:
    """Concatenate a variable of all parts, lazily unless it is an index."""
    found = [piece for piece in pieces if piece is not None]
    last = found[-1]
    outlines = {(piece.dims, (*piece.shape[:axis], *piece.shape[axis + 1 :])) for piece in found}
    if len(found) < len(pieces) or len(outlines) > 1:
        raise StoreError(f"{where}: the parts of the store have inconsistent coordinates")
    if all(isinstance(piece, xr.IndexVariable) for piece in found):
        with as_store_errors(f"{where} cannot be read"):
            return xr.Variable.concat(found, last.dims[axis]) if len(found) > 1 else last
    with as_store_errors(f"{where} cannot be read"):
        dtype = np.result_type(*(piece.dtype for piece in found))
    array = CarriedArray(where, found, axis, dtype)
    return xr.Variable(last.dims, indexing.LazilyIndexedArray(array), last.attrs)


def _opened(part: Generation, url: str, options: Mapping[str, Any]) -> xr.Dataset:
    """Open group ``coordinates`` of a part, with the encodings from the archive."""
    group = part.arrays.group.get("coordinates")
    if not isinstance(group, zarr.Group):
        return xr.Dataset()
    # xarray reads all indexes, one after the other.
    part.arrays.fetch_ahead(
        (f"coordinates/{name}", (0,))
        for name, array in group.members()
        if isinstance(array, zarr.Array) and array.shape == array.chunks and array.ndim == 1
    )
    # xarray's Zarr backend reads through the checked store of `group`.
    backend = ZarrStore(group, mode="r", use_zarr_fill_value_as_mask=False)
    with as_store_errors(f"{url}: coordinates cannot be read"):
        dataset = StoreBackendEntrypoint().open_dataset(backend, **options)
    beyond = JsonObject(part.facts, url).object("carried")
    shared = JsonObject(part.facts, url).object("shared_encoding").document
    for name in beyond:
        if name not in dataset.variables:
            raise StoreError(f"{url}: coordinates/{name} is missing")
        document = beyond.object(name).document
        variable = dataset.variables[name]
        if document.get("dtype") == "object" and variable.dtype.kind == "T":
            missing = document.get("missing", [])
            where = f"{url}: coordinates/{name}"
            dataset[name] = variable = _as_objects(variable, missing, where)
        encoding = beyond.object(name).object("encoding").document
        variable.encoding = encoding_from_json(with_shared(encoding, shared))
        if "attrs" in document and options["decode_times"]:
            variable.attrs = restored(document, "attrs")
    return dataset


def _as_objects(variable: xr.Variable, missing: Any, where: str) -> xr.Variable:
    """Convert strings to objects, as in the archive, with NaN at positions that are `missing`."""
    size = math.prod(variable.shape)
    if not isinstance(missing, list) or not all(type(i) is int and 0 <= i < size for i in missing):
        raise StoreError(f"{where}: 'missing' must be positions among {size} texts")
    if isinstance(variable, xr.IndexVariable):
        values = variable.values.astype(object)
        values.reshape(-1)[missing] = np.nan
        return xr.IndexVariable(variable.dims, values, variable.attrs)
    array = CarriedArray(where, [variable], 0, np.dtype(object), frozenset(missing))
    return xr.Variable(variable.dims, indexing.LazilyIndexedArray(array), variable.attrs)


def restored(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Decode attributes or an encoding in a document under `key`."""
    return (
        encoding_from_json(JsonObject(document, key).object(key).document)
        if key in document
        else {}
    )

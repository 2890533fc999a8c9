"""The xarray backend ``romzarr``, which decodes variables lazily."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

import xarray as xr
from xarray.backends import BackendEntrypoint
from xarray.core import indexing

from romzarr.contracts import NO_TIME
from romzarr.encoding import encoding_from_json
from romzarr.errors import ConfigError
from romzarr.store import layout
from romzarr.store.layout import JsonObject, Root
from romzarr.store.reading.arrays import as_store_errors
from romzarr.store.reading.coordinates import carried, restored
from romzarr.store.reading.lazy import DecodedArray
from romzarr.store.reading.loss import with_loss
from romzarr.store.reading.reader import CoefficientStore, open_store
from romzarr.store.reading.variables import StoredVariable
from romzarr.store.trees import read_tree, store_of


def _answers(dataset: xr.Dataset) -> Any:
    """The accessor `romzarr.answers.accessor.Answers`, imported on first use: reading needs none
    of it."""
    return import_module("romzarr.answers.accessor").Answers(dataset)


xr.register_dataset_accessor("romzarr")(_answers)


class RomzarrBackendEntrypoint(BackendEntrypoint):
    """Opens coefficient stores as the datasets they were made from.

    Variables that are not exact have attributes more, which say so (`romzarr.loss`).
    """

    description = "Open coefficient stores of romzarr (POD basis and sparse dynamics)"
    url = "https://github.com/romzarr/romzarr"
    supports_groups = True

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        if not isinstance(filename_or_obj, str | os.PathLike):
            return False
        try:
            url = layout.normalised(filename_or_obj)
            if read_tree(url) is not None:
                return True
            layout.parse_root(layout.read_bytes(layout.joined(url, layout.ROOT)), url)
        except layout.OtherFormatError:
            # Opening it will say which version is needed.
            return True
        # Other files may cause any error.
        except Exception:
            return False
        return True

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        mask_and_scale: bool = True,
        decode_times: bool = True,
        concat_characters: bool = True,
        decode_coords: bool = True,
        drop_variables: str | Iterable[str] | None = None,
        use_cftime: bool | None = None,
        decode_timedelta: bool | None = None,
        tolerance: float = 0.0,
    ) -> xr.Dataset:
        """Open the store at `filename_or_obj` (a path or a URL).

        The decoding options apply to coordinates and other variables that were copied unchanged;
        decoded variables are always in physical units.

        With a `tolerance`, no more is read than it needs, of stores that were made with layers
        (``compression.layers``). The attributes of each variable bound the error of what is read
        (`romzarr.loss`).
        """
        store = open_store(filename_or_obj)
        errors = store.errors_within(_checked(tolerance)) if tolerance != 0 else {}
        dropped = {drop_variables} if isinstance(drop_variables, str) else set(drop_variables or ())
        options = {
            "mask_and_scale": mask_and_scale,
            "decode_times": decode_times,
            "concat_characters": concat_characters,
            "decode_coords": decode_coords,
            "use_cftime": use_cftime,
            "decode_timedelta": decode_timedelta,
        }
        variables = dict(carried(store, options).variables)
        variables |= {
            name: _lazy(store, v, tolerance, errors) for name, v in store.variables.items()
        }
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

    def open_groups_as_dict(self, filename_or_obj: Any, **options: Any) -> dict[str, xr.Dataset]:
        """Open every group of a tree of stores, or the only one of a store.

        `options` are those of `open_dataset`.
        """
        url = layout.normalised(filename_or_obj)
        tree = read_tree(url)
        if tree is None:
            return {"/": self.open_dataset(filename_or_obj, **options)}
        return {
            each.path: self.open_dataset(store_of(url, each), **options)
            if each.store
            else xr.Dataset(attrs=each.attrs)
            for each in tree.branches
        }

    def open_datatree(self, filename_or_obj: Any, **options: Any) -> xr.DataTree:
        """Open a tree of stores as it was compressed; a single store is its root."""
        return xr.DataTree.from_dict(self.open_groups_as_dict(filename_or_obj, **options))


def _checked(tolerance: float) -> float:
    if not isinstance(tolerance, float) or not 0 < tolerance < 1:
        raise ConfigError(f"tolerance: found {tolerance!r}, allowed are numbers from 0 to below 1")
    return tolerance


def _lazy(
    store: CoefficientStore, stored: StoredVariable, tolerance: float, errors: Mapping[str, float]
) -> xr.Variable:
    """A variable, decoded as far as a tolerance needs; then its error is among `errors`."""
    array = DecodedArray(store.url, Root(store.root.parts), stored, tolerance)
    data = indexing.LazilyIndexedArray(array)
    encoding = encoding_from_json(stored.encoding)
    if stored.chunks is not None:
        chunks = dict(zip(stored.dims, stored.chunks, strict=True))
        chunks.pop(NO_TIME, None)
        encoding["preferred_chunks"] = chunks
    attrs = with_loss(encoding_from_json(stored.attrs), store.facts, stored, tolerance, errors)
    dims = stored.space_dims if stored.is_timeless else stored.dims
    return xr.Variable(dims, data, attrs, encoding)

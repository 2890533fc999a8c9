"""xarray backend ``romzarr``: the archive's variables, decoded where they are indexed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import xarray as xr
import zarr
from numpy.typing import NDArray
from xarray.backends import BackendArray, BackendEntrypoint, ZarrStore
from xarray.backends.store import StoreBackendEntrypoint
from xarray.core import indexing

from pipeline.encoding import encoding_from_json, with_shared
from pipeline.errors import StoreError
from pipeline.store import layout
from pipeline.store.generation import Generation
from pipeline.store.layout import Fields, Root
from pipeline.store.reader import CoefficientStore, open_store
from pipeline.store.variables import StoredVariable


class DecodedArray(BackendArray):
    """A variable of a store, decoded where it is indexed.

    Pickles hold the URL and what its root said: every process opens the store for itself.
    """

    def __init__(self, url: str, root: Root, variable: StoredVariable) -> None:
        self.url, self.root, self.variable = url, root, variable
        self.shape, self.dtype = variable.shape, variable.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        if isinstance(key, indexing.BasicIndexer | indexing.OuterIndexer):
            # The adapter would only split negative steps, and fails on empty ones.
            return self._decode(key.tuple)
        support = indexing.IndexingSupport.OUTER
        return indexing.explicit_indexing_adapter(key, self.shape, support, self._decode)

    def _decode(self, key: tuple[Any, ...]) -> NDArray[Any]:
        axis = self.variable.time_axis
        store = open_store(self.url, self.root)
        return store.decode(self.variable.name, key[axis], key[:axis] + key[axis + 1 :])


class RomzarrBackendEntrypoint(BackendEntrypoint):
    """Opens coefficient stores written by romzarr as the datasets they were made from."""

    description = "Open coefficient stores of romzarr (POD basis and sparse dynamics)"
    url = "https://github.com/romzarr/romzarr"

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        if not isinstance(filename_or_obj, str | os.PathLike):
            return False
        try:
            url = layout.normalised(filename_or_obj)
            layout.parse_root(layout.read_bytes(layout.joined(url, layout.ROOT)), url)
        except layout.OtherFormatError:
            # It is ours: opening it says which version is needed.
            return True
        # Somebody else's path may fail in any way, and is then not ours.
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
    ) -> xr.Dataset:
        """Open the store at `filename_or_obj` (a path or a URL).

        The decoding options apply to coordinates and other variables that were carried over
        unchanged; decoded variables are always in physical units.
        """
        store = open_store(filename_or_obj)
        dropped = {drop_variables} if isinstance(drop_variables, str) else set(drop_variables or ())
        options = {
            "mask_and_scale": mask_and_scale,
            "decode_times": decode_times,
            "concat_characters": concat_characters,
            "decode_coords": decode_coords,
            "use_cftime": use_cftime,
            "decode_timedelta": decode_timedelta,
        }
        variables = dict(_carried(store, options).variables)
        variables |= {name: _lazy(store, v) for name, v in store.variables.items()}
        facts = Fields(store.facts, store.url)
        order: list[Any] = [name for name in facts.names("order") if name in variables]
        # Coordinates need not be named in the order; they come last then.
        order += [name for name in variables if name not in order]
        dataset = xr.Dataset({name: variables[name] for name in order if name not in dropped})
        coords = [name for name in facts.names("coords") if name in dataset.variables]
        dataset = dataset.set_coords(coords)
        dataset.attrs = _restored(store.facts, "attrs")
        dataset.encoding = _restored(store.facts, "encoding") | {"source": store.url}
        return dataset


def _lazy(store: CoefficientStore, stored: StoredVariable) -> xr.Variable:
    data = indexing.LazilyIndexedArray(DecodedArray(store.url, Root(store.root.parts), stored))
    encoding = encoding_from_json(stored.encoding)
    if stored.chunks is not None:
        encoding["preferred_chunks"] = dict(zip(stored.dims, stored.chunks, strict=True))
    attrs = encoding_from_json(stored.attrs)
    return xr.Variable(stored.dims, data, attrs, encoding)


def _carried(store: CoefficientStore, options: Mapping[str, Any]) -> xr.Dataset:
    """Coordinates and variables carried over, those that change in time of all parts."""
    datasets = [_carried_by(part, store.url, options) for part in store.parts]
    last, dim = datasets[-1], Fields(store.facts, store.url).fields("time").text("dim")
    if len(datasets) == 1:
        return last
    try:
        changing = {
            name: xr.Variable.concat([each.variables[name] for each in datasets], dim)
            for name, variable in last.variables.items()
            if dim in variable.dims
        }
    except (ValueError, KeyError) as error:
        raise StoreError(f"{store.url}: coordinates of its parts do not fit: {error}") from error
    for name, variable in changing.items():
        variable.encoding = last.variables[name].encoding
    rest = last.drop_vars(list(changing))
    return rest.assign(changing).set_coords([name for name in changing if name in last.coords])


def _carried_by(part: Generation, url: str, options: Mapping[str, Any]) -> xr.Dataset:
    """The dataset in group ``coordinates`` of a part, with the encodings it had in the archive."""
    group = part.arrays.group.get("coordinates")
    if not isinstance(group, zarr.Group):
        return xr.Dataset()
    # Zarr's own backend reads it through the checked store of `group`.
    backend = ZarrStore(group, mode="r", use_zarr_fill_value_as_mask=False)
    try:
        dataset = StoreBackendEntrypoint().open_dataset(backend, **options)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise StoreError(f"{url}: coordinates cannot be read: {error}") from error
    beyond = Fields(part.facts, url).fields("carried")
    for name in beyond:
        if name not in dataset.variables:
            raise StoreError(f"{url}: coordinates/{name} is missing")
        document = beyond.fields(name).document
        variable = dataset.variables[name]
        if document.get("dtype") == "object" and variable.dtype.kind == "T":
            dataset[name] = variable = variable.astype(object)
        encoding = beyond.fields(name).fields("encoding").document
        shared = Fields(part.facts, url).fields("shared_encoding").document
        variable.encoding = encoding_from_json(with_shared(encoding, shared))
        if "attrs" in document and options["decode_times"]:
            variable.attrs = _restored(document, "attrs")
    return dataset


def _restored(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    return encoding_from_json(Fields(document, key).fields(key).document) if key in document else {}

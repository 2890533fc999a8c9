"""The xarray backend ``romzarr``, which decodes variables lazily."""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib import import_module
from typing import Any

import xarray as xr
from xarray.backends import BackendEntrypoint

from romzarr.errors import ConfigError
from romzarr.store import layout
from romzarr.store.reading.dataset import dataset_of
from romzarr.store.reading.pyramid import multiscales
from romzarr.store.reading.reader import open_store
from romzarr.store.reading.views import View, check_level, deepest
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
        modes: int | None = None,
        level: int = 0,
    ) -> xr.Dataset:
        """Open the store at `filename_or_obj` (a path or a URL), or a view of it.

        The decoding options apply to coordinates and other variables that were copied unchanged;
        decoded variables are always in physical units.

        With a `tolerance`, no more is read than it needs, of stores that were made with layers
        (``compression.layers``). With `modes`, no more than so many leading modes count; variables
        without modes, and logarithms, stay whole. A `level` has every ``2**level``-th point alone
        (`romzarr.coding.coarse`). The attributes of each variable bound the error of what is read
        (`romzarr.loss`), on a coarser grid as a distance from the original data on that grid.
        """
        store = open_store(filename_or_obj)
        view = View.asked(tolerance, modes, level)
        check_level(store, view.level)
        dropped = {drop_variables} if isinstance(drop_variables, str) else set(drop_variables or ())
        options = {
            "mask_and_scale": mask_and_scale,
            "decode_times": decode_times,
            "concat_characters": concat_characters,
            "decode_coords": decode_coords,
            "use_cftime": use_cftime,
            "decode_timedelta": decode_timedelta,
        }
        return dataset_of(store, view, options, dropped)

    def open_groups_as_dict(
        self, filename_or_obj: Any, *, level: int = 0, **options: Any
    ) -> dict[str, xr.Dataset]:
        """Open every group of a tree of stores, or every level of a single store.

        `options` are those of `open_dataset`. The levels of a store are groups "/0", "/1" and so
        on, which the root lists (`romzarr.store.reading.pyramid`).
        """
        if level != 0:
            raise ConfigError(
                f"level: found {level!r}, allowed is 0 in a tree, which has all levels of a store; "
                "take xarray.open_dataset for one of them"
            )
        url = layout.normalised(filename_or_obj)
        tree = read_tree(url)
        if tree is None:
            store = open_store(filename_or_obj)
            levels = {
                f"/{level}": self.open_dataset(filename_or_obj, level=level, **options)
                for level in range(deepest(store) + 1)
            }
            return {"/": xr.Dataset(attrs=multiscales(store)), **levels}
        return {
            each.path: self.open_dataset(store_of(url, each), **options)
            if each.store
            else xr.Dataset(attrs=each.attrs)
            for each in tree.branches
        }

    def open_datatree(self, filename_or_obj: Any, **options: Any) -> xr.DataTree:
        """Open a tree of stores as it was compressed, or a single store as the tree of its levels,
        as `open_groups_as_dict`."""
        return xr.DataTree.from_dict(self.open_groups_as_dict(filename_or_obj, **options))

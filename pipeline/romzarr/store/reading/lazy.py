"""Arrays of a store that xarray indexes."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from romzarr.store.layout import Root
from romzarr.store.reading.variables import StoredVariable
from romzarr.store.reading.views import View, open_view


class DecodedArray(BackendArray):
    """A lazily decoded variable of a store, as it is in a ``view``.

    Pickles contain the URL and the root metadata: every process opens the store itself.
    """

    def __init__(self, url: str, root: Root, variable: StoredVariable, view: View) -> None:
        self.url, self.root, self.variable = url, root, variable
        self.view = view
        self.shape = variable.space_shape if variable.is_timeless else variable.shape
        self.dtype = variable.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        if isinstance(key, indexing.BasicIndexer | indexing.OuterIndexer):
            # The adapter would only split negative steps, and fails on empty indexers.
            return self._decode(key.tuple)
        support = indexing.IndexingSupport.OUTER
        return indexing.explicit_indexing_adapter(key, self.shape, support, self._decode)

    def _decode(self, key: tuple[Any, ...]) -> NDArray[Any]:
        axis, store = self.variable.time_axis, open_view(self.url, self.root, self.view)
        if self.variable.is_timeless:
            return store.decode(self.variable.name, 0, key)
        return store.decode(self.variable.name, key[axis], key[:axis] + key[axis + 1 :])

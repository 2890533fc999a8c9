"""Arrays of a store that xarray indexes."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from romzarr.store.layout import Root
from romzarr.store.reading.reader import open_store
from romzarr.store.reading.variables import StoredVariable


class DecodedArray(BackendArray):
    """A lazily decoded variable of a store.

    Pickles contain the URL and the root metadata: every process opens the store itself. With a
    ``tolerance`` no more layers are read than that needs.
    """

    def __init__(
        self, url: str, root: Root, variable: StoredVariable, tolerance: float = 0.0
    ) -> None:
        self.url, self.root, self.variable = url, root, variable
        self.tolerance = tolerance
        self.shape = variable.space_shape if variable.is_timeless else variable.shape
        self.dtype = variable.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        if isinstance(key, indexing.BasicIndexer | indexing.OuterIndexer):
            # The adapter would only split negative steps, and fails on empty indexers.
            return self._decode(key.tuple)
        support = indexing.IndexingSupport.OUTER
        return indexing.explicit_indexing_adapter(key, self.shape, support, self._decode)

    def _decode(self, key: tuple[Any, ...]) -> NDArray[Any]:
        axis, store = self.variable.time_axis, open_store(self.url, self.root)
        if self.tolerance:
            store = store.within(self.tolerance)
        if self.variable.is_timeless:
            return store.decode(self.variable.name, 0, key)
        return store.decode(self.variable.name, key[axis], key[:axis] + key[axis + 1 :])

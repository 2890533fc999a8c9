"""Writes single arrays of a generation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.codec import ArrayBytesCodec, BytesBytesCodec

from romzarr.store import layout, limits
from romzarr.store.checksums import ChecksumCodec
from romzarr.store.codec import WaveletCodec
from romzarr.store.writing.files import WRITE_ALL, write_errors
from romzarr.store.writing.staged import StagedStore


class ArrayWriter:
    """Creates arrays and groups below `_store`; `target` is the name in messages."""

    target: str
    _store: StagedStore

    def create_group(self, path: str) -> None:
        with write_errors(self.target):
            zarr.open_group(self._store, path=path, mode="a")

    def create(
        self,
        path: str,
        shape: Sequence[int],
        chunk: Sequence[int],
        dtype: np.dtype[Any],
        dims: Sequence[str],
        coding: ArrayBytesCodec | None = None,
        again: bool = False,
        compressors: tuple[BytesBytesCodec, ...] | None = None,
    ) -> zarr.Array[Any]:
        if isinstance(coding, WaveletCodec):
            compressors = (ChecksumCodec(),)
        return zarr.create_array(
            self._store,
            name=path,
            shape=tuple(shape),
            chunks=tuple(chunk),
            dtype=dtype,
            filters=(),
            serializer="auto" if coding is None else coding,
            compressors=compressors or layout.codecs(),
            fill_value=0,
            dimension_names=dims,
            config=WRITE_ALL,
            overwrite=again,
        )

    def write(self, path: str, values: NDArray[Any], dims: Sequence[str]) -> None:
        """Write an array in chunks of about 1 MiB."""
        chunk = limits.chunk_of(values.shape, values.dtype.itemsize, layout.CHUNK_BYTES)
        with write_errors(self.target), self._store.holding(path) as held:
            codecs = layout.codecs_for(values)
            array = self.create(path, values.shape, chunk, values.dtype, dims, compressors=codecs)
            if values.size:
                array[...] = values
            self._store.put_inline(path, held)

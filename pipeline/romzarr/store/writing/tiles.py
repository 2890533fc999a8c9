"""Writes tiles, masks and chunks of rows from any process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import StorePath

from romzarr.contracts import Region
from romzarr.errors import StoreError
from romzarr.store import layout
from romzarr.store.checksums import SealingStore
from romzarr.store.writing.files import WRITE_ALL, put_chunk, write_errors


def _sealing_store(url: str) -> SealingStore:
    """The generation at `url`, whose chunks get checksums that are bound to it."""
    return SealingStore(layout.zarr_store(url, read_only=False), url.rpartition("/")[2])


@dataclass(frozen=True)
class ChunkWriter:
    """Writes chunks of rows of one table; has no open files and no credentials."""

    url: str
    path: str

    def write_chunk(self, number: int, content: bytes) -> None:
        """Write one chunk; repeating it is harmless."""
        with write_errors(self.url):
            put_chunk(_sealing_store(self.url), self.path, (number, 0), content)


@dataclass(frozen=True)
class TileWriter:
    """Writes tiles of one kind of array; has no open files and no credentials.

    ``url`` is the generation, ``array`` the last component of the paths, ``groups`` the path
    segment of each variable, ``grids`` its number of tiles along each dim, ``masks`` the metadata
    of its mask, if it has one. Chunk indices start with ``leading``.
    """

    url: str
    array: str
    groups: Mapping[str, str]
    grids: Mapping[str, tuple[int, ...]]
    masks: Mapping[str, bytes]
    leading: tuple[int, ...] = ()

    @property
    def _store(self) -> SealingStore:
        return _sealing_store(self.url)

    def write_tile(self, variable: str, index: tuple[int, ...], content: bytes) -> None:
        """Write one tile; repeating it is harmless.

        Parameters
        ----------
        variable : str
        index : tuple of int
            Grid position of the tile.
        content : bytes
            The coded tile.

        Raises
        ------
        StoreError
            If there is no such tile, or writing fails (full disk).
        """
        tiles = self.grids[variable]
        path = f"basis/{self.groups[variable]}/{self.array}"
        if len(index) != len(tiles) or not all(
            0 <= i < n for i, n in zip(index, tiles, strict=True)
        ):
            raise StoreError(f"{path}: tile {index} does not fit a grid of {tiles} tiles")
        store = self._store
        with write_errors(self.url):
            put_chunk(store, path, (*self.leading, *index), content)

    def write_mask(self, variable: str, region: Region, mask: NDArray[np.bool_]) -> None:
        """Write the mask of a region in space (True: masked).

        Parameters
        ----------
        variable : str
        region : tuple of slice
            Concurrent tasks need regions of complete tiles.
        mask : ndarray of bool, shape of the region

        Raises
        ------
        StoreError
            If shapes do not fit, or writing fails.
        """
        path = f"basis/{self.groups[variable]}/mask"
        store = self._store
        with write_errors(self.url):
            document = json.loads(self.masks[variable])
            array = zarr.Array(zarr.AsyncArray(document, StorePath(store, path)))
            array = array.with_config(WRITE_ALL)
            expected = tuple(
                len(range(*s.indices(n))) for s, n in zip(region, array.shape, strict=True)
            )
            if mask.shape != expected or mask.dtype != bool:
                raise StoreError(
                    f"{path}: a mask of {mask.dtype} {mask.shape} does not fit region {region} "
                    f"of shape {expected}"
                )
            array[region] = mask

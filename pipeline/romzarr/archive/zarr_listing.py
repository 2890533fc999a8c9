"""Lists the chunks of a Zarr array with their sizes and versions."""

from __future__ import annotations

import asyncio
import os
import zipfile
from collections.abc import Iterable
from typing import Any

import zarr
from zarr.abc.store import Store
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, ZipStore

from romzarr.archive.blocks import Grid
from romzarr.archive.history import Stored
from romzarr.archive.stamp import GONE, StoredFile, local_files, remote_file
from romzarr.archive.zarr_source import chunk_keys, storage_chunks
from romzarr.objects import RemoteStore
from romzarr.objects.listing import listed

# Concurrent requests where chunks cannot be listed: as many as a web server takes from one client.
_PROBES = 64


def stored_below(store: Store, array: zarr.Array[Any]) -> dict[str, Stored]:
    """List every key of `array` with its size and version."""
    if isinstance(store, LocalStore):
        return _by_key(local_files(os.path.join(store.root, array.path)), array.path)
    if isinstance(store, ZipStore):
        return _zipped(store, array.path)
    found: dict[str, Stored] = sync(_listed(store, array.path))
    keys = list(chunk_keys(array, Grid(storage_chunks(array)).positions()))
    if any(key in found for key in keys):
        return found
    # Plain web servers have no listings: probe each chunk.
    probed: dict[str, Stored] = sync(_probed(store, keys))
    return probed


def _zipped(store: ZipStore, path: str) -> dict[str, Stored]:
    prefix = f"{path}/" if path else ""
    with zipfile.ZipFile(store.path) as file:
        return {
            each.filename: Stored(each.file_size, f"{each.CRC:x}")
            for each in file.infolist()
            if each.filename.startswith(prefix) and not each.is_dir()
        }


async def _listed(store: Store, path: str) -> dict[str, Stored]:
    """List the keys below `path`, if the store has listings."""
    prefix = f"{path}/" if path else ""
    if isinstance(store, FsspecStore):
        root = f"{store.path}/".lstrip("/")
        try:
            found = await store.fs._find(f"{store.path}/{prefix}", detail=True)
        except (FileNotFoundError, NotImplementedError):
            return {}
        entries = {key.lstrip("/").removeprefix(root): info for key, info in found.items()}
    elif isinstance(store, RemoteStore):
        entries = await listed(store, prefix)
    else:
        return await _probed(store, [key async for key in store.list_prefix(prefix)])
    return _by_key(remote_file(key, info) for key, info in entries.items())


def _by_key(files: Iterable[StoredFile], path: str = "") -> dict[str, Stored]:
    prefix = f"{path}/" if path else ""
    return {
        f"{prefix}{file.path}": Stored(file.nbytes, file.version)
        for file in files
        if file.version != GONE
    }


async def _probed(store: Store, keys: Iterable[str]) -> dict[str, Stored]:
    gate = asyncio.Semaphore(_PROBES)

    async def probe(key: str) -> tuple[str, Stored | None]:
        async with gate:
            try:
                return key, Stored(await store.getsize(key), "")
            except FileNotFoundError:
                return key, None

    found = await asyncio.gather(*(probe(key) for key in keys))
    return {key: stored for key, stored in found if stored is not None}

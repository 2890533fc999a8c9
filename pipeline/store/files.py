"""Files of a generation that is being written."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import collect_aiterator, sync

from pipeline.errors import StoreError
from pipeline.store import layout

# A chunk that is not there is damage, so a chunk full of zeros has to be there.
WRITE_ALL: Any = {"write_empty_chunks": True}


@contextlib.contextmanager
def reported(place: str) -> Iterator[None]:
    """Failures of the file system as errors of ours that name the place."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{place}: cannot be written: {error}; nothing was replaced") from error


def put(store: Store, key: str, content: bytes) -> None:
    sync(store.set(key, default_buffer_prototype().buffer.from_bytes(content)))


def put_chunk(store: Store, path: str, index: Sequence[int], payload: bytes) -> None:
    key = layout.joined(path, "c", *map(str, index))
    put(store, key, layout.with_checksum(payload))


def finish(store: Store, facts: Mapping[str, Any]) -> bytes:
    """Check that every chunk is there, make the metadata small and write the facts."""
    keys = sorted(collect_aiterator(store.list()))
    checksums = {}
    for key in keys:
        path = key.removesuffix(layout.ROOT).rstrip("/")
        if key == layout.joined(path, layout.ROOT):
            document, content = _compacted(store, key)
            if document["node_type"] == "array":
                _check_complete(path, document, keys)
                checksums[path] = layout.checksum(content)
    metadata = layout.compact_json(layout.group_document({**facts, "arrays": checksums}))
    put(store, layout.ROOT, metadata)
    return metadata


def _compacted(store: Store, key: str) -> tuple[Any, bytes]:
    """Metadata document `key`, and how it is rewritten without indents and empty fields."""
    buffer = sync(store.get(key, default_buffer_prototype()))
    if buffer is None:
        raise StoreError(f"{key}: vanished while the store was being written")
    document = {
        name: value
        for name, value in json.loads(buffer.to_bytes()).items()
        if value or name not in ("attributes", "storage_transformers", "consolidated_metadata")
    }
    if document["node_type"] == "array":
        # The separator "/" is the default.
        document["chunk_key_encoding"] = {"name": "default"}
    content = layout.compact_json(document)
    put(store, key, content)
    return document, content


def _check_complete(path: str, document: Mapping[str, Any], keys: Sequence[str]) -> None:
    chunk = document["chunk_grid"]["configuration"]["chunk_shape"]
    expected = math.prod(-(-n // c) for n, c in zip(document["shape"], chunk, strict=True))
    found = sum(key == f"{path}/c" or key.startswith(f"{path}/c/") for key in keys)
    if found != expected:
        raise StoreError(f"{path}: {found} of {expected} chunks were written; the store is dropped")

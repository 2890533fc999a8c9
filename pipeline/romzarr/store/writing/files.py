"""Writes the files of a generation."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from romzarr import objects
from romzarr.errors import StoreError
from romzarr.objects import is_document
from romzarr.store import checksums, layout
from romzarr.store.checksums import SealingStore
from romzarr.store.document import generation_document
from romzarr.store.writing.staged import StagedStore

# Missing chunks are damage, so chunks full of zeros are written too.
WRITE_ALL: Any = {"write_empty_chunks": True}


@contextlib.contextmanager
def write_errors(place: str) -> Iterator[None]:
    """Turn failures of the file system into a `StoreError` that names the place."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{place}: cannot be written: {error}; nothing was replaced") from error


def put(store: Store, key: str, content: bytes) -> None:
    sync(store.set(key, default_buffer_prototype().buffer.from_bytes(content)))


def put_chunk(store: SealingStore, path: str, index: Sequence[int], payload: bytes) -> None:
    key = layout.joined(path, "c", *map(str, index))
    put(store, key, payload + bytes(checksums.SIZE))


class Finished(NamedTuple):
    """The checksum of a finished generation's metadata, and the ``sizes`` of its files by path."""

    checksum: str
    sizes: Mapping[str, int]

    @property
    def nbytes(self) -> int:
        return sum(self.sizes.values())


def finish(url: str, store: StagedStore, facts: Mapping[str, Any]) -> Finished:
    """Check that all chunks exist at `url`, and write the metadata document with the facts."""
    listed = objects.folder(url).files()
    chunks = {key: int(each["size"]) for key, each in listed.items() if not is_document(key)}
    arrays = {}
    for key, content in sorted(store.documents.items()):
        path, document = key.removesuffix(f"/{layout.ROOT}"), _compacted(content)
        if document["node_type"] == "array":
            if not path.startswith("coordinates/"):
                # Facts have the dims of variables, the page of the format those of tables.
                document.pop("dimension_names", None)
            _check_complete(path, document, list(chunks))
            arrays[path] = document
    metadata = generation_document(facts, arrays, url)
    store.put_metadata(metadata)
    checksum = checksums.checksum(f"{store.generation}/{layout.ROOT}", metadata)
    return Finished(checksum, chunks | {layout.ROOT: len(metadata)})


def _compacted(content: bytes) -> dict[str, Any]:
    """Parse a metadata document, and leave out empty fields."""
    document = {
        name: value
        for name, value in json.loads(content).items()
        if value or name not in ("attributes", "storage_transformers", "consolidated_metadata")
    }
    if document["node_type"] == "array":
        # The separator "/" is the default.
        document["chunk_key_encoding"] = {"name": "default"}
    return document


def _check_complete(path: str, document: Mapping[str, Any], keys: Sequence[str]) -> None:
    chunk = document["chunk_grid"]["configuration"]["chunk_shape"]
    expected = math.prod(-(-n // c) for n, c in zip(document["shape"], chunk, strict=True))
    found = sum(key == f"{path}/c" or key.startswith(f"{path}/c/") for key in keys)
    if found != expected:
        raise StoreError(f"{path}: {found} of {expected} chunks were written; the store is dropped")

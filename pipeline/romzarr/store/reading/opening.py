"""Opens one generation of a store and checks all its metadata."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import zarr
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.core.sync import sync

from romzarr.coding.tiles import grid
from romzarr.errors import StoreError
from romzarr.store import checksums, layout
from romzarr.store.layout import ArrayLayout, JsonObject
from romzarr.store.limits import MAX_METADATA_BYTES, check_indexes
from romzarr.store.reading.arrays import StoredArrays, as_store_errors
from romzarr.store.reading.checked import CheckedStore
from romzarr.store.reading.checks import check_latent, shape_of
from romzarr.store.reading.facts import check_errors, checked_facts
from romzarr.store.reading.generation import Generation
from romzarr.store.reading.latent import StoredLatent
from romzarr.store.reading.points import orders_of
from romzarr.store.reading.tile_cache import TileCache
from romzarr.store.reading.variables import StoredVariable, variables_of


def open_generation(
    url: str, name: str, checksum: str, earlier: Sequence[Generation], tiles: TileCache
) -> Generation:
    """Open and check generation `name` of the store at `url`.

    Parameters
    ----------
    url : str
    name : str
    checksum : str
        The checksum of its metadata.
    earlier : sequence of Generation
        All earlier parts of the store; it may extend some of them.
    tiles : TileMemory

    Raises
    ------
    StoreError
        If anything is missing, damaged, not allowed, or has a wrong type or shape.
    """
    place = layout.joined(url, name)
    facts, documents = checked_metadata(url, name, checksum)
    parsed = {
        path: layout.parse_array(content, layout.joined(place, path), layout.is_coded(path))
        for path, content in documents.items()
    }
    layouts = {path: array for path, (_, array) in parsed.items()}
    parts = (*(part.arrays.layouts for part in earlier), layouts)
    eager = [(a.index, math.prod(grid(a.shape, a.chunk))) for p in parts for a in p.values()]
    check_indexes(eager, facts.where)
    before = _extended(facts, earlier)
    known = before[-1].rank if before else 0
    own, snapshots = check_latent(facts, layouts, known)
    variables = variables_of(facts, layouts, own if own or not before else None, snapshots)
    _check_extended(variables, before, facts)
    group = _opened(place, parsed)
    arrays = StoredArrays(url, name, layouts, group, tiles)
    checked = checked_facts(facts)
    check_errors(checked, variables, facts.where)
    orders = orders_of(facts, variables, layouts)
    latent = StoredLatent(arrays, checked, known + own, snapshots)
    return Generation(name, checked, variables, own, arrays, latent, before, orders)


def _opened(place: str, parsed: Mapping[str, tuple[Any, ArrayLayout]]) -> zarr.Group:
    """Open a generation with some of its arrays, given their documents and layouts by path."""
    layouts = {path: array for path, (_, array) in parsed.items()}
    metadata = layout.consolidated({path: document for path, (document, _) in parsed.items()})
    store = CheckedStore(place, layouts, metadata)
    # Zarr parses unchecked metadata, such as fill values, with many kinds of errors.
    with as_store_errors(f"{place}: invalid metadata of an array"):
        return zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=True)


def _packed_facts(url: str, name: str, checksum: str) -> bytes:
    """Read the facts of a generation from the array that has them."""
    place, path = layout.joined(url, name), layout.FACTS
    (document,) = _array_documents(url, name, {path: checksum}).values()
    where = layout.joined(place, path)
    parsed = layout.parse_array(document, where, coded=False)
    (length,) = shape_of({path: parsed[1]}, path, "uint8", 1, place)
    if length > MAX_METADATA_BYTES:
        raise StoreError(f"{where}: more than {MAX_METADATA_BYTES} bytes of facts")
    group = _opened(place, {path: parsed})
    with as_store_errors(f"{where}: cannot be read"):
        array: Any = group[path]
        return np.asarray(array[...]).tobytes()


def checked_metadata(url: str, name: str, checksum: str) -> tuple[JsonObject, dict[str, bytes]]:
    """Read the facts of a generation, and the metadata of its arrays by path.

    Raises
    ------
    StoreReplacedError
        If any is missing because the generation was superseded.
    StoreError
        If any is missing for other reasons, or has a wrong checksum.
    """
    place = layout.joined(url, name)
    where = layout.joined(place, layout.ROOT)
    try:
        raw = layout.read_bytes(where)
    except FileNotFoundError as error:
        raise layout.missing(url, name, where, layout.read_root(url)) from error
    own = layout.joined(name, layout.ROOT)
    facts = layout.parse_facts(checksums.checked(raw, checksum, own, where), place)
    listed = facts.object("arrays")
    if layout.FACTS in listed:
        text = _packed_facts(url, name, listed.checksum(layout.FACTS))
        facts = layout.unpacked_facts(text, facts)
    return facts, _array_documents(url, name, layout.array_paths(facts))


def _extended(facts: JsonObject, earlier: Sequence[Generation]) -> tuple[Generation, ...]:
    """Return the generations that a generation extends."""
    if "extends" not in facts.document:
        return ()
    name = facts.text("extends")
    for each in earlier:
        if each.name == name:
            return (*each.before, each)
    raise StoreError(f"{facts.where}: extends {name!r}, which is not an earlier part of the store")


def _check_extended(
    variables: Mapping[str, StoredVariable], before: Sequence[Generation], facts: JsonObject
) -> None:
    for each in before:
        if each.facts["arithmetic"] != facts.text("arithmetic"):
            raise StoreError(f"{facts.where}: extends {each.name} with another arithmetic")
        if each.facts.get("orders") != facts.document.get("orders"):
            raise StoreError(f"{facts.where}: extends {each.name} with another order of points")
        for name, variable in variables.items():
            old = each.variables.get(name)
            if old is None or old.coding.has_modes != variable.coding.has_modes:
                raise StoreError(
                    f"{facts.where}: extends {each.name}, but {name!r} has another coding there"
                )


def _array_documents(url: str, name: str, expected: Mapping[str, str]) -> dict[str, bytes]:
    """Fetch the metadata files of arrays concurrently and check them."""
    place = layout.joined(url, name)
    store = layout.zarr_store(place)

    async def fetched() -> list[Buffer | None]:
        prototype = default_buffer_prototype()
        keys = [layout.joined(path, layout.ROOT) for path in expected]
        return await asyncio.gather(*(store.get(key, prototype) for key in keys))

    with as_store_errors(f"{place}: metadata cannot be read"):
        contents = sync(fetched())
    documents = {}
    for (path, checksum), content in zip(expected.items(), contents, strict=True):
        key = layout.joined(name, path, layout.ROOT)
        where = layout.joined(url, key)
        if content is None:
            raise layout.missing(url, name, where, layout.read_root(url))
        documents[path] = checksums.checked(content.to_bytes(), checksum, key, where)
    return documents

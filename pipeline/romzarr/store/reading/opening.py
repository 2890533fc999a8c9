"""Opens one generation of a store and checks all its metadata."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import zarr

from romzarr.coding.tiles import grid
from romzarr.errors import StoreError
from romzarr.store import checksums, layout
from romzarr.store.document import parse_generation
from romzarr.store.inline import INLINE, InlineArray, inline_array
from romzarr.store.layout import ArrayLayout, JsonObject
from romzarr.store.limits import check_indexes
from romzarr.store.reading.arrays import StoredArrays, as_store_errors
from romzarr.store.reading.checked import CheckedStore
from romzarr.store.reading.checks import check_latent
from romzarr.store.reading.facts import check_errors, checked_facts
from romzarr.store.reading.generation import Generation
from romzarr.store.reading.latent import StoredLatent
from romzarr.store.reading.layers import check_layers, layers_of
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
    inline = _inline_arrays(facts)
    documents |= {path: array.metadata for path, array in inline.items()}
    layouts = {
        path: layout.parse_array(
            JsonObject(document, layout.joined(place, path)), layout.is_coded(path)
        )
        for path, document in documents.items()
    }
    layers = layers_of(layouts, facts.where)
    layouts |= {path: layouts[each[-1]] for path, each in layers.items()}
    parts = (*(part.arrays.layouts for part in earlier), layouts)
    eager = [(a.index, math.prod(grid(a.shape, a.chunk))) for p in parts for a in p.values()]
    check_indexes(eager, facts.where)
    before = _extended(facts, earlier)
    known = before[-1].rank if before else 0
    own, snapshots = check_latent(facts, layouts, known)
    variables = variables_of(facts, layouts, own if own or not before else None, snapshots)
    _check_extended(variables, before, facts)
    check_layers(variables, layers, facts.where)
    chunks = {layout.joined(path, array.key): array.chunk for path, array in inline.items()}
    group = _opened(place, layouts, documents, chunks)
    arrays = StoredArrays(url, name, layouts, group, tiles, layers)
    checked = checked_facts(facts)
    check_errors(checked, variables, facts.where)
    orders = orders_of(facts, variables, layouts)
    latent = StoredLatent(arrays, checked, known + own, snapshots)
    return Generation(name, checked, variables, own, arrays, latent, before, orders)


def _inline_arrays(facts: JsonObject) -> dict[str, InlineArray]:
    """Make the coordinates that facts have instead of arrays, by path."""
    carried = facts.object("carried")
    return {
        f"coordinates/{name}": inline_array(fields.object(INLINE))
        for name in carried
        if INLINE in (fields := carried.object(name)).document
    }


def _opened(
    place: str,
    layouts: Mapping[str, ArrayLayout],
    documents: Mapping[str, Any],
    inline: Mapping[str, bytes],
) -> zarr.Group:
    """Open a generation with some of its arrays.

    Parameters
    ----------
    place : str
    layouts, documents : mapping
        Their layouts and metadata, by path.
    inline : mapping
        Chunks that are not files, by key.
    """
    metadata = layout.compact_json(layout.consolidated_group(documents))
    store = CheckedStore(place, layouts, metadata, inline)
    # Zarr parses unchecked metadata, such as fill values, with many kinds of errors.
    with as_store_errors(f"{place}: invalid metadata of an array"):
        return zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=True)


def checked_metadata(url: str, name: str, checksum: str) -> tuple[JsonObject, dict[str, Any]]:
    """Read the facts of a generation, and the metadata of its arrays by path.

    Raises
    ------
    StoreReplacedError
        If they are missing because the generation was superseded.
    StoreError
        If they are missing for other reasons, or have a wrong checksum.
    """
    place = layout.joined(url, name)
    where = layout.joined(place, layout.ROOT)
    try:
        raw = layout.read_bytes(where)
    except FileNotFoundError as error:
        raise layout.missing(url, name, where, layout.read_root(url)) from error
    own = layout.joined(name, layout.ROOT)
    facts, arrays = parse_generation(checksums.checked(raw, checksum, own, where), place)
    # Ignore arrays that later versions may add.
    known = [path for path in layout.array_paths(facts) if path in arrays.document]
    return facts, {path: arrays.document[path] for path in known}


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

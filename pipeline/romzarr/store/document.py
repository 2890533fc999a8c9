"""The metadata document of a generation: its facts, and the metadata of all its arrays.

It is the only metadata file of a generation, so that a store is opened by two requests. Zarr finds
the arrays by its consolidated metadata. Facts that people look for are plain attributes, the others
are compressed.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from typing import Any

from romzarr.errors import StoreError
from romzarr.store import layout
from romzarr.store.layout import JsonObject
from romzarr.store.limits import MAX_METADATA_BYTES, refuse_large_document

# The member of the attribute with all facts that are not plain.
PACKED = "facts"
# Bytes of a plain fact: those of many variables are long, and alike.
PLAIN_BYTES = 1 << 10
PLAIN = frozenset(
    {"config", "max_error", "relative_l2_error", "source", "tolerance", "versions"}
)  # fmt: skip


def generation_document(facts: Mapping[str, Any], arrays: Mapping[str, Any], where: str) -> bytes:
    """Make the metadata document of a generation.

    Parameters
    ----------
    facts : mapping
        Strict JSON.
    arrays : mapping of str to dict
        Zarr v3 metadata of each array, by path.
    where : str
        Begins messages.

    Raises
    ------
    StoreError
        If it is larger than readers allow.
    """
    plain = {key: value for key, value in facts.items() if _is_plain(key, value)}
    others = {key: value for key, value in facts.items() if key not in plain}
    refuse_large_document(layout.compact_json(others), where)
    attribute = plain | {PACKED: packed(others)}
    content = layout.compact_json(layout.consolidated_group(arrays, attribute))
    refuse_large_document(content, where)
    return content


def _is_plain(key: str, value: Any) -> bool:
    return key in PLAIN and len(layout.compact_json(value)) <= PLAIN_BYTES


def packed(facts: Any) -> str:
    """Compress strict JSON to text that JSON need not escape."""
    return base64.b85encode(zlib.compress(layout.compact_json(facts), 9)).decode()


def parse_generation(raw: bytes, url: str) -> tuple[JsonObject, JsonObject]:
    """Parse the metadata document of the generation at `url`: its facts and its arrays by path.

    Raises
    ------
    StoreError
        If anything is missing or has a wrong type, or the document is too large.
    """
    document = JsonObject(layout.parsed_json(raw, layout.joined(url, layout.ROOT)), url)
    plain = document.object("attributes").object(layout.KEY)
    rest = JsonObject(layout.parsed_json(_unpacked(plain), plain.where), plain.where)
    facts = {**rest.document, **plain.document}
    del facts[PACKED]
    arrays = document.object("consolidated_metadata").object("metadata")
    return JsonObject(facts, plain.where), arrays


def _unpacked(plain: JsonObject) -> bytes:
    where = f"{plain.where}/{PACKED}"
    try:
        packed = base64.b85decode(plain.text(PACKED))
        # The limit protects against a few bytes that decompress to many.
        unpacking = zlib.decompressobj()
        text = unpacking.decompress(packed, MAX_METADATA_BYTES + 1)
    except (ValueError, zlib.error) as error:
        raise StoreError(f"{where}: is damaged: {error}") from error
    if len(text) > MAX_METADATA_BYTES or not unpacking.eof:
        raise StoreError(
            f"{where}: is incomplete, or has more than the allowed {MAX_METADATA_BYTES} bytes"
        )
    return text

"""The metadata document of a generation: its facts, and the metadata of all its arrays.

It is the only metadata file of a generation, so that a store is opened by two requests. Zarr finds
the arrays by its consolidated metadata. Facts that people look for are plain attributes, the others
are compressed, those of many variables as columns.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from numcodecs import Blosc

from romzarr.errors import StoreError
from romzarr.store import layout
from romzarr.store.layout import JsonObject
from romzarr.store.limits import MAX_METADATA_BYTES, check_blosc, refuse_large_document

# The member of the attribute with all facts that are not plain.
PACKED = "facts"
# Bytes of a plain fact: those of many variables are long, and alike.
PLAIN_BYTES = 1 << 10
PLAIN = frozenset({"config", "max_error", "relative_l2_error", "tolerance"})
# Facts by name of a coded variable.
BY_NAME = (
    *("relative_l2_error", "max_error", "largest_pointwise_error", "fluctuation"),
    *("max_relative_error", "largest_relative_error", "errors_by_index", "block_errors"),
)
# The member of facts in columns that replaces ``variables``, and the one with their names.
_TABLE, _NAMES = "table", "names"
# How streams of zlib begin, and those of Blosc do not.
_ZLIB = b"x"
# Integers in a progression.
_MOST = 1 << 62


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
    attribute = plain | {PACKED: min(packed(others), packed(_in_columns(others)), key=len)}
    content = layout.compact_json(layout.consolidated_group(arrays, attribute))
    refuse_large_document(content, where)
    return content


def _is_plain(key: str, value: Any) -> bool:
    return key in PLAIN and len(layout.compact_json(value)) <= PLAIN_BYTES


def packed(facts: Any) -> str:
    """Compress strict JSON to text that JSON need not escape."""
    text = layout.compact_json(facts)
    # Zstandard is better on long texts, and has a longer header.
    streams = zlib.compress(text, 9), Blosc("zstd", 9, Blosc.NOSHUFFLE).encode(text)
    return base64.b85encode(min(streams, key=len)).decode()


def _in_columns(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write each field of all variables as a list, with null for those that lack it."""
    variables = facts["variables"]
    names = list(variables)
    fields = dict.fromkeys(field for each in variables.values() for field in each)
    table = {f: _progression([each.get(f) for each in variables.values()]) for f in fields}
    columns = {
        key: [value[name] for name in names] if key in BY_NAME and list(value) == names else value
        for key, value in facts.items()
        if key != "variables" and (key, value) != ("order", names)
    }
    return {_TABLE: {_NAMES: names, **table}, **columns}


def _progression(values: list[Any]) -> list[Any] | dict[str, int]:
    """Write integers that increase by the same step as their start and step."""
    if len(values) < 2 or not all(type(each) is int for each in values):
        return values
    start, step = values[0], values[1] - values[0]
    regular = values == [start + k * step for k in range(len(values))]
    return {"start": start, "step": step} if regular else values


def _by_name(facts: JsonObject) -> dict[str, Any]:
    """Invert `_in_columns`; facts that are not in columns stay as they are.

    Raises
    ------
    StoreError
    """
    if _TABLE not in facts.document:
        return dict(facts.document)
    table = facts.object(_TABLE)
    names = table.names(_NAMES)
    variables: dict[str, dict[str, Any]] = {name: {} for name in names}
    for field in table:
        where = f"{table.where}/{field}"
        if field != _NAMES:
            for name, value in _paired(names, _listed(table, field, len(names)), where):
                if value is not None:
                    variables[name][field] = value
    found = {key: value for key, value in facts.document.items() if key != _TABLE}
    for key in BY_NAME:
        if isinstance(listed := found.get(key), list):
            found[key] = dict(_paired(names, listed, f"{facts.where}/{key}"))
    return {"order": list(names)} | found | {"variables": variables}


def _listed(table: JsonObject, field: str, number: int) -> Any:
    """Invert `_progression` for a field of the table."""
    if not isinstance(table.document[field], Mapping):
        return table.document[field]
    progression = table.object(field)
    start, step = (progression.integer(key, -_MOST, _MOST) for key in ("start", "step"))
    return [start + k * step for k in range(number)]


def _paired(names: Sequence[str], values: Any, where: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(values, list) or len(values) != len(names):
        raise StoreError(f"{where}: must be a list of {len(names)} values, one for each variable")
    return zip(names, values, strict=True)


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
    facts = {**_by_name(rest), **plain.document}
    del facts[PACKED]
    arrays = document.object("consolidated_metadata").object("metadata")
    return JsonObject(facts, plain.where), arrays


def _unpacked(plain: JsonObject) -> bytes:
    where = f"{plain.where}/{PACKED}"
    try:
        stream = base64.b85decode(plain.text(PACKED))
        text = _inflated(stream) if stream.startswith(_ZLIB) else _from_blosc(stream, where)
    except (ValueError, RuntimeError, zlib.error) as error:
        raise StoreError(f"{where}: is damaged: {error}") from error
    if text is None:
        raise StoreError(
            f"{where}: is incomplete, or has more than the allowed {MAX_METADATA_BYTES} bytes"
        )
    return text


def _inflated(stream: bytes) -> bytes | None:
    # The limit protects against a few bytes that decompress to many.
    unpacking = zlib.decompressobj()
    text = unpacking.decompress(stream, MAX_METADATA_BYTES + 1)
    return text if len(text) <= MAX_METADATA_BYTES and unpacking.eof else None


def _from_blosc(stream: bytes, where: str) -> bytes | None:
    check_blosc(stream, None, where)
    text: bytes = Blosc().decode(stream)
    return text if len(text) <= MAX_METADATA_BYTES else None

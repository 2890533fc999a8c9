"""Stores changed by hand, with all checksums set right: as one does who means harm."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import google_crc32c
from numcodecs import Blosc

from romzarr.store import layout
from romzarr.store.reading.reader import _opened

# Facts that are lists, whatever else is.
LISTS = {"order", "coords", "episodes"}


def bound_crc(file: Path, content: bytes) -> bytes:
    """CRC32C of the place of a file in its store and of `content`, as FORMAT.md says."""
    parts = file.parts
    start = next(i for i, part in enumerate(parts) if layout.GENERATION.fullmatch(part))
    return google_crc32c.value("/".join(parts[start:]).encode() + content).to_bytes(4)


def write_chunk(file: Path, payload: bytes) -> None:
    """Put a payload into a chunk, with the checksum that belongs to it there."""
    file.write_bytes(payload + bound_crc(file, payload)[::-1])


def sign(store: Path) -> None:
    """Make all checksums of the only generation of a store fit what is there."""
    (generation,) = store.glob("2*")
    for file in generation.rglob("c/**/*"):
        if file.is_file() and len(file.read_bytes()) >= 4:
            write_chunk(file, file.read_bytes()[:-4])
    sign_metadata(store)


def sign_metadata(store: Path) -> None:
    """The same of metadata alone."""
    (generation,) = store.glob("2*")
    file = generation / layout.ROOT
    part = layout.Part(generation.name, bound_crc(file, file.read_bytes()).hex())
    (store / layout.ROOT).write_bytes(layout.root_document(layout.Root((part,))))
    _opened.cache_clear()


def unpacked(text: str) -> dict[str, Any]:
    """Facts that are compressed; if they are in columns, by name as without."""
    stream = base64.b85decode(text)
    found = json.loads(zlib.decompress(stream) if stream[:1] == b"x" else Blosc().decode(stream))
    if (table := found.pop("table", None)) is None:
        return found
    names = table.pop("names")
    found.setdefault("order", names)
    found["variables"] = {name: {} for name in names}
    for field, values in table.items():
        if isinstance(values, dict):
            values = [values["start"] + k * values["step"] for k in range(len(names))]
        for name, value in zip(names, values, strict=True):
            found["variables"][name] |= {} if value is None else {field: value}
    columns = {k: v for k, v in found.items() if isinstance(v, list) and k not in LISTS}
    return found | {k: dict(zip(names, v, strict=True)) for k, v in columns.items()}


def metadata_of(generation: Path) -> dict[str, Any]:
    """The metadata of a generation, with all its facts, and ``arrays`` by path."""
    document = json.loads((generation / layout.ROOT).read_text())
    facts = document["attributes"]["romzarr"]
    facts |= unpacked(facts.pop("facts"))
    document["arrays"] = document.pop("consolidated_metadata")["metadata"]
    return document


def put_metadata(generation: Path, document: dict[str, Any]) -> None:
    """Write what `metadata_of` has read and somebody has changed, all facts compressed."""
    document = json.loads(json.dumps(document))
    document["consolidated_metadata"] = {"metadata": document.pop("arrays", None)}
    attributes = document.get("attributes")
    if isinstance(attributes, dict) and "romzarr" in attributes:
        packed = base64.b85encode(zlib.compress(json.dumps(attributes["romzarr"]).encode()))
        attributes["romzarr"] = {"facts": packed.decode()}
    (generation / layout.ROOT).write_text(json.dumps(document))

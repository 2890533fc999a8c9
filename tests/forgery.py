"""Stores changed by hand, with all checksums set right: as one does who means harm."""

from __future__ import annotations

import json
from pathlib import Path

import google_crc32c

from romzarr.store import layout
from romzarr.store.reading.reader import _opened


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
    facts = generation / layout.ROOT
    document = json.loads(facts.read_text())
    arrays = document["attributes"]["romzarr"].get("arrays", {})
    for name in [name for name, checksum in arrays.items() if type(checksum) is str]:
        node = generation / name / layout.ROOT
        if node.exists():
            arrays[name] = bound_crc(node, node.read_bytes()).hex()
        else:
            del arrays[name]
    facts.write_text(json.dumps(document))
    part = layout.Part(generation.name, bound_crc(facts, facts.read_bytes()).hex())
    (store / layout.ROOT).write_bytes(layout.root_document(layout.Root((part,))))
    _opened.cache_clear()

"""How much a store may claim: each limit holds for who writes too, so none is met by accident.

Whatever a store says of itself, opening it and reading one value takes at most some 500 MB and
ten seconds. What the limits leave was measured in `tests/store/test_hostile_costs.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from romzarr.coding.tiles import FIELD_VALUES, ROW_VALUES
from romzarr.errors import StoreError

# Bytes of a decoded chunk; decoding holds it several times.
MAX_CHUNK_BYTES = 1 << 26
# A file is read whole: no chunk takes more bytes coded than decoded, but for its heads.
MAX_FILE_BYTES = MAX_CHUNK_BYTES + (1 << 20)
# Texts in a chunk, each of which is an object, and the bytes of all of them.
MAX_TEXTS, MAX_TEXT_BYTES = 1 << 20, 1 << 24
# No tile is larger (`romzarr.coding.tiles`); it decodes in 400 MB and 4 s.
MAX_CODED_VALUES, MAX_TABLE_VALUES = FIELD_VALUES, ROW_VALUES
# Of a metadata file, and brackets and commas in it: each may become 100 bytes of Python objects.
MAX_METADATA_BYTES, MAX_TOKENS, MAX_DEPTH = 1 << 24, 1 << 20, 64
MAX_AXES = 32
MAX_RANK = 1 << 16
MAX_SNAPSHOTS = 1 << 31
# What is held whole: numbers of the snapshots kept, and of those in episodes.
MAX_KEPT, MAX_EPISODES = 1 << 22, 1 << 22
# A trajectory is integrated from the first snapshot of its block on (`CODE_BLOCK`), in as many
# steps as `romzarr.numerics.dynamics.sampling.choose_substeps` allows.
MAX_BLOCK_STEPS, MAX_SUBSTEPS = 256, 8
# Operations of a model for one trajectory of a block.
MAX_OPERATIONS = 1 << 33
# Chunks of the archive along an axis.
MAX_ARCHIVE_CHUNKS = 1 << 22
# xarray makes indexes of coordinates when it opens a dataset: Python objects of what is no number.
MAX_INDEX_BYTES, NUMBER_BYTES, OBJECT_BYTES, MAX_INDEX_CHUNKS = 1 << 28, 40, 160, 1 << 12

_BRACKET = re.compile(rb'[\[{]|[\]}]|"(?:[^"\\]|\\.)*"')


def refuse_large_document(raw: bytes, where: str) -> None:
    """Refuse JSON that becomes far more than its bytes, or is nested too deeply.

    Raises
    ------
    StoreError
    """
    tokens = sum(raw.count(mark) for mark in (b",", b"[", b"{"))
    if len(raw) > MAX_METADATA_BYTES or tokens > MAX_TOKENS:
        raise StoreError(
            f"{where}: {len(raw)} bytes of metadata with {tokens} entries; a store has at most "
            f"{MAX_METADATA_BYTES} bytes and {MAX_TOKENS} entries: keep fewer variables in it, or "
            "shorter attributes"
        )
    depth = 0
    for found in _BRACKET.finditer(raw):
        mark = found[0][:1]
        depth += 1 if mark in b"[{" else -1 if mark in b"]}" else 0
        if depth > MAX_DEPTH:
            raise StoreError(f"{where}: not JSON of a store: nested deeper than {MAX_DEPTH} levels")


def check_chunk(
    chunk: Sequence[int], decoded: int | None, coded: bool, table: bool, where: str
) -> None:
    """Refuse chunks that are larger than any writer makes; `decoded` bytes are None for texts."""
    values = math.prod(chunk)
    if len(chunk) > MAX_AXES:
        raise StoreError(f"{where}: {len(chunk)} dims, at most {MAX_AXES} are allowed")
    # One row of a table is never cut.
    most = max(MAX_TABLE_VALUES, MAX_RANK if chunk[:1] == (1,) else 0)
    if coded and values > (most if table else MAX_CODED_VALUES):
        raise StoreError(
            f"{where}: coded chunks {tuple(chunk)} exceed "
            f"{most if table else MAX_CODED_VALUES} values"
        )
    if decoded is None and values > MAX_TEXTS:
        raise StoreError(f"{where}: chunks {tuple(chunk)} exceed {MAX_TEXTS} texts")
    if (decoded or 0) > MAX_CHUNK_BYTES:
        raise StoreError(f"{where}: chunks {tuple(chunk)} exceed {MAX_CHUNK_BYTES} bytes")


def chunk_of(shape: Sequence[int], itemsize: int, most: int) -> tuple[int, ...]:
    """Chunks of at most so many bytes, cut along the leading axes.

    >>> chunk_of((5, 4, 1000), 8, 16_000)
    (1, 2, 1000)
    """
    lengths, budget = [max(1, n) for n in shape], max(1, most // itemsize)
    for axis in reversed(range(len(lengths))):
        lengths[axis] = min(lengths[axis], budget)
        budget //= lengths[axis]
        budget = max(1, budget)
    return tuple(lengths)


def index_bytes(
    document: Mapping[str, Any],
    where: str,
    shape: Sequence[int],
    chunk_values: int,
    itemsize: int | None,
) -> int:
    """Bytes that xarray may take when it opens an array with this metadata.

    It makes indexes of coordinates, and looks at two values of what it takes for times.
    """
    _, _, name = where.rpartition("coordinates/")
    attributes = document.get("attributes")
    attributes = attributes if isinstance(attributes, Mapping) else {}
    number = str(document.get("data_type")).startswith(("int", "uint", "float", "bool"))
    standard = attributes.get("calendar") in (None, "standard", "gregorian", "proleptic_gregorian")
    each = (NUMBER_BYTES if number and standard else OBJECT_BYTES) + (itemsize or 0)
    if len(shape) == 1 and document.get("dimension_names") == [name]:
        return shape[0] * each
    return 2 * chunk_values * (itemsize or 0) if "since" in str(attributes.get("units")) else 0


def check_indexes(arrays: Iterable[tuple[int, int]], where: str) -> None:
    """Refuse coordinates whose indexes take too much; each array's bytes and chunks are given."""
    eager = [(size, chunks) for size, chunks in arrays if size]
    size, chunks = (sum(each) for each in zip((0, 0), *eager, strict=True))
    if size > MAX_INDEX_BYTES or chunks > MAX_INDEX_CHUNKS:
        raise StoreError(
            f"{where}: to open its coordinates takes {size} bytes in {chunks} chunks, at most "
            f"{MAX_INDEX_BYTES} in {MAX_INDEX_CHUNKS} are allowed"
        )

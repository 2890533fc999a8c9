"""Limits of what a store may contain, enforced for writers and readers.

They bound the cost of opening any store and reading one value to some 500 MB and ten seconds, as
measured in `tests/store/test_hostile_costs.py`.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from romzarr.coding.tiles import FIELD_VALUES, ROW_VALUES
from romzarr.errors import StoreError

# Bytes of a decoded chunk; decoding needs several times as much memory.
MAX_CHUNK_BYTES = 1 << 26
# A file is read completely. No chunk is larger coded than decoded, except for its header.
MAX_FILE_BYTES = MAX_CHUNK_BYTES + (1 << 20)
# Strings in a chunk, each of which is a Python object, and their total bytes.
MAX_TEXTS, MAX_TEXT_BYTES = 1 << 20, 1 << 24
# The largest tiles (`romzarr.coding.tiles`) decode in 400 MB and 4 s.
MAX_CODED_VALUES, MAX_TABLE_VALUES = FIELD_VALUES, ROW_VALUES
# Bytes, brackets and commas of a metadata file: each entry may take 100 bytes of Python objects.
MAX_METADATA_BYTES, MAX_TOKENS, MAX_DEPTH = 1 << 24, 1 << 20, 64
# NumPy 1 allowed no more.
MAX_AXES = 32
# A row of coefficients takes 512 kB.
MAX_RANK = 1 << 16
# Arrays that are read completely: numbers of the kept snapshots, and of those in episodes.
MAX_KEPT, MAX_EPISODES = 1 << 22, 1 << 22
# Gaps that are listed in JSON: as many as it may have entries.
MAX_RUNS = 1 << 18
# Indices that have factors of their own, in JSON as well.
MAX_INDICES = 1 << 16
# Weighted sums that are kept exactly.
MAX_SUMS = 16
# Values of sums of one variable, which are read completely.
MAX_SUM_VALUES = 1 << 25
_BLOSC_HEADER = struct.Struct("<4B3I")
# A trajectory is integrated from the first snapshot of its block (`CODE_BLOCK`), with at most the
# substeps of `romzarr.numerics.dynamics.sampling.choose_substeps`.
MAX_BLOCK_STEPS, MAX_SUBSTEPS = 256, 8
# Operations of a model for one trajectory of a block: some ten seconds.
MAX_OPERATIONS = 1 << 33
# xarray builds indexes of coordinates when it opens a dataset, with Python objects for non-numbers.
MAX_INDEX_BYTES, NUMBER_BYTES, OBJECT_BYTES, MAX_INDEX_CHUNKS = 1 << 28, 40, 160, 1 << 12

_BRACKET = re.compile(rb'[\[{]|[\]}]|"(?:[^"\\]|\\.)*"')


def refuse_large_document(raw: bytes, where: str) -> None:
    """Refuse JSON that is too large or nested too deeply.

    Raises
    ------
    StoreError
    """
    tokens = sum(raw.count(mark) for mark in (b",", b"[", b"{"))
    if len(raw) > MAX_METADATA_BYTES or tokens > MAX_TOKENS:
        raise StoreError(
            f"{where}: {len(raw)} bytes of metadata with {tokens} entries; at most "
            f"{MAX_METADATA_BYTES} bytes and {MAX_TOKENS} entries are allowed: store fewer "
            "variables, or shorter attributes"
        )
    depth = 0
    for found in _BRACKET.finditer(raw):
        mark = found[0][:1]
        depth += 1 if mark in b"[{" else -1 if mark in b"]}" else 0
        if depth > MAX_DEPTH:
            raise StoreError(f"{where}: JSON is nested deeper than {MAX_DEPTH} levels")


def check_chunk(
    chunk: Sequence[int], decoded: int | None, coded: bool, table: bool, where: str
) -> None:
    """Refuse too large chunks; `decoded` is their bytes, None for variable-length strings."""
    values = math.prod(chunk)
    if len(chunk) > MAX_AXES:
        raise StoreError(f"{where}: {len(chunk)} dims, at most {MAX_AXES} are allowed")
    # Rows of a table are never divided.
    most = max(MAX_TABLE_VALUES, MAX_RANK if chunk[:1] == (1,) else 0)
    if coded and values > (most if table else MAX_CODED_VALUES):
        raise StoreError(
            f"{where}: coded chunks {tuple(chunk)} exceed "
            f"{most if table else MAX_CODED_VALUES} values"
        )
    if decoded is None and values > MAX_TEXTS:
        raise StoreError(f"{where}: chunks {tuple(chunk)} exceed {MAX_TEXTS} strings")
    if (decoded or 0) > MAX_CHUNK_BYTES:
        raise StoreError(f"{where}: chunks {tuple(chunk)} exceed {MAX_CHUNK_BYTES} bytes")


def chunk_of(shape: Sequence[int], itemsize: int, most: int) -> tuple[int, ...]:
    """Choose chunks of at most `most` bytes, divided along the leading axes.

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
    """Bound the bytes that xarray takes to open an array with this metadata.

    It builds indexes of coordinates, and reads two values of times.
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
    """Refuse coordinates with too large indexes, given bytes and chunks of each array."""
    eager = [(size, chunks) for size, chunks in arrays if size]
    size, chunks = (sum(each) for each in zip((0, 0), *eager, strict=True))
    if size > MAX_INDEX_BYTES or chunks > MAX_INDEX_CHUNKS:
        raise StoreError(
            f"{where}: opening its coordinates takes {size} bytes in {chunks} chunks, at most "
            f"{MAX_INDEX_BYTES} bytes in {MAX_INDEX_CHUNKS} chunks are allowed"
        )


def check_blosc(payload: bytes, expected: int | None, where: str) -> None:
    """Refuse a chunk that does not decode to the expected number of bytes, if that is known.

    Raises
    ------
    StoreError
    """
    if len(payload) < _BLOSC_HEADER.size:
        raise StoreError(f"{where}: chunk is shorter than its header; the store is damaged")
    *_, decoded, _, encoded = _BLOSC_HEADER.unpack_from(payload)
    fits = decoded == expected if expected is not None else decoded <= MAX_TEXT_BYTES
    if encoded != len(payload) or not fits:
        raise StoreError(
            f"{where}: chunk claims {encoded} bytes that decode to {decoded}, has "
            f"{len(payload)} and should decode to {expected}"
        )

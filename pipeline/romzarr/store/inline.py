"""Small arrays that are written among the facts: numbers along a dim, texts, and codes of gaps.

The metadata and the file of an array take some 700 bytes and a request, where a regular axis is two
numbers. Zarr metadata and the chunk are made again from them when a store is opened. Of texts and
codes the chunk itself is there.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from romzarr.errors import StoreError
from romzarr.store import checksums, layout
from romzarr.store.layout import JsonObject
from romzarr.store.limits import check_blosc

# The fact that has them, by path.
INLINE = "inline"
# Bytes of the values, of their compressed JSON, and where roundings lie, in units of the smallest.
MOST_VALUE_BYTES, _MOST_BYTES, _MOST_UNITS = layout.CHUNK_BYTES, 1 << 12, 1 << 20
# Compressed bytes take so many times their number as text.
_BASE85 = 1.25
# Significant digits of steps that are tried: those of decimal fractions, and all.
_STEP_DIGITS = (6, 9, 12, 15, 17)
# What metadata say that values do not.
_KEPT = ("data_type", "dimension_names", "attributes", "fill_value")
_TYPES = frozenset(
    [*(f"{sign}int{8 * size}" for sign in ("", "u") for size in (1, 2, 4, 8)), "float32", "float64"]
)
_EXACT_INTEGERS = 1 << 53
# Serializers of arrays of which the chunk is kept, by their type.
_SERIALIZERS = {"uint8": "bytes", "string": "vlen-utf8"}
# Blosc reads all that it needs from the chunk.
_BLOSC = {"typesize": 1, "cname": "zstd", "clevel": 1, "shuffle": "noshuffle", "blocksize": 0}
# What the metadata of such an array take among the facts, compressed.
_CHUNK_FACTS = 80


class InlineArray(NamedTuple):
    """An array of one chunk: its Zarr ``metadata``, and the ``chunk`` at ``key`` below it."""

    metadata: dict[str, Any]
    key: str
    chunk: bytes


def chunk_place(metadata: Mapping[str, Any]) -> str:
    """Return the key of the first chunk of an array, below the array."""
    return "/".join(["c", *("0" for _ in metadata["shape"])])


def is_one_chunk(metadata: Mapping[str, Any]) -> bool:
    """Tell whether an array has a single chunk of its own shape, given its Zarr metadata."""
    return bool(metadata["shape"] == metadata["chunk_grid"]["configuration"]["chunk_shape"])


def inlined(metadata: Mapping[str, Any], values: NDArray[Any], nbytes: int) -> dict[str, Any]:
    """Write an array as JSON if that is smaller.

    Parameters
    ----------
    metadata : mapping
        Of Zarr v3.
    values : ndarray
        As the only chunk has them.
    nbytes : int
        Size of this chunk.

    Returns
    -------
    dict
        Empty if the array is smaller, or JSON cannot express it.
    """
    if str(metadata["data_type"]) not in _TYPES or values.ndim > 1 or not np.isfinite(values).all():
        return {}
    kept = {key: metadata[key] for key in _KEPT if key in metadata}
    found = kept | _as_json(values)
    size = _compressed(found)
    array_size = (len(layout.compact_json(metadata)) + nbytes) / _BASE85
    return found if size < min(_MOST_BYTES, array_size) else {}


def inlined_chunk(metadata: Mapping[str, Any], chunk: bytes) -> dict[str, Any]:
    """Write the only chunk of an array of texts or codes, if that is smaller.

    Parameters
    ----------
    metadata : mapping
        Of Zarr v3.
    chunk : bytes
        Compressed by Blosc, with its checksum.

    Returns
    -------
    dict
        Empty if the array is smaller, or of another kind.
    """
    serializer = _SERIALIZERS.get(str(metadata["data_type"]))
    names = [each["name"] for each in metadata["codecs"]]
    if names != [serializer, "blosc", checksums.NAME] or len(chunk) > _MOST_BYTES:
        return {}
    kept = {key: metadata[key] for key in _KEPT if key in metadata}
    text = base64.b64encode(chunk[: -checksums.SIZE]).decode()
    found = kept | {"shape": metadata["shape"], "chunk": text}
    array_size = len(layout.compact_json(metadata)) + len(chunk)
    return found if text_bytes(found) < array_size else {}


def chunk_bytes(nbytes: int) -> float:
    """Estimate the bytes of a chunk of so many bytes among the facts; inf if it is too large."""
    return _CHUNK_FACTS + _BASE85 * nbytes if nbytes <= _MOST_BYTES else math.inf


def text_bytes(document: Any) -> float:
    """Estimate the bytes of a JSON value among the facts."""
    return _BASE85 * _compressed(document)


def inline_bytes(values: NDArray[Any]) -> float:
    """Estimate the bytes of values among the facts; inf if they are no numbers of a single dim."""
    if values.dtype.kind in "mM" and values.size:
        values = (values - values.flat[0]).astype("m8[s]").astype(np.int64)
    if values.dtype.kind not in "iuf" or values.ndim > 1 or not np.isfinite(values).all():
        return math.inf
    return text_bytes(_as_json(values))


def _as_json(values: NDArray[Any]) -> dict[str, Any]:
    formula, listed = _formula(values), {"values": values.tolist()}
    return listed if formula is None else min(formula, listed, key=_compressed)


def _compressed(document: Any) -> int:
    return len(zlib.compress(layout.compact_json(document), 9))


def _formula(values: NDArray[Any]) -> dict[str, Any] | None:
    """Find the start and step of regular values, and how they are rounded otherwise; else None."""
    if values.ndim == 0 or len(values) < 2:
        return None
    # As Python's integers, whose signs change without overflow.
    if max(-values.min().item(), values.max().item()) >= _EXACT_INTEGERS:
        return None
    first, second, last = (values[k].item() for k in (0, 1, -1))
    if isinstance(first, int):
        steps: list[Any] = [second - first]
    else:
        computed = second - first, (last - first) / (len(values) - 1)
        steps = [float(f"{step:.{digits}g}") for step in computed for digits in _STEP_DIGITS]
    tried = []
    for step in dict.fromkeys(filter(math.isfinite, steps)):
        # What is beyond all numbers is no value.
        with np.errstate(over="ignore", invalid="ignore"):
            regular = _regular(first, step, len(values), values.dtype)
            rounded = _rounding(values, regular) if np.isfinite(regular).all() else None
        if rounded is not None:
            tried.append({"size": len(values), "start": first, "step": step, **rounded})
    return min(tried, key=lambda each: len(str(each)), default=None)


def _regular(start: Any, step: Any, size: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    return (start + step * np.arange(size)).astype(dtype)


def _rounding(values: NDArray[Any], regular: NDArray[Any]) -> dict[str, Any] | None:
    """Write differences as small multiples of a power of two; None if that does not give values."""
    if regular.tobytes() == values.tobytes():
        return {}
    missed = values.astype(np.float64) - regular.astype(np.float64)
    if not missed.any():
        # Zeros of another sign.
        return None
    # Every float is an integer of 53 bits times a power of two.
    mantissas, exponents = np.frexp(missed[missed != 0])
    bits = (mantissas * 2.0**53).astype(np.int64)
    trailing = np.log2((bits & -bits).astype(np.float64)).astype(int)
    exponent = int((exponents - 53 + trailing).min())
    units = np.ldexp(missed, -exponent)
    if np.abs(units).max() > _MOST_UNITS:
        return None
    found = {"units": units.astype(int).tolist(), "exponent": exponent}
    return found if _corrected(regular, **found).tobytes() == values.tobytes() else None


def _corrected(regular: NDArray[Any], units: list[int], exponent: int) -> NDArray[Any]:
    return (regular + np.ldexp(np.array(units, np.float64), exponent)).astype(regular.dtype)


def inline_arrays(facts: JsonObject, paths: Container[str]) -> dict[str, InlineArray]:
    """Make the arrays that facts have instead of files, by path, as far as `paths` has these.

    Raises
    ------
    StoreError
    """
    if INLINE not in facts.document:
        return {}
    listed = facts.object(INLINE)
    return {path: inline_array(listed.object(path)) for path in listed if path in paths}


def inline_array(entry: JsonObject) -> InlineArray:
    """Make the array that `inlined` or `inlined_chunk` wrote.

    Raises
    ------
    StoreError
        If anything is missing, or has a wrong type or size.
    """
    if "chunk" in entry.document:
        return _of_chunk(entry)
    values = inline_values(entry)
    endian = {} if values.itemsize == 1 else {"configuration": {"endian": "little"}}
    chunk = values.astype(values.dtype.newbyteorder("<")).tobytes()
    return _made(entry, values.shape, [{"name": "bytes", **endian}], chunk)


def _made(
    entry: JsonObject, shape: Sequence[int], codecs: list[dict[str, Any]], chunk: bytes
) -> InlineArray:
    chunk_shape = [max(1, n) for n in shape]
    metadata = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk_shape}},
        "chunk_key_encoding": {"name": "default"},
        "codecs": [*codecs, {"name": checksums.NAME}],
        **{key: entry.document[key] for key in _KEPT if key in entry.document},
    }
    return InlineArray(metadata, chunk_place(metadata), chunk + bytes(checksums.SIZE))


def _of_chunk(entry: JsonObject) -> InlineArray:
    """Make the array that `inlined_chunk` wrote."""
    dtype, shape = entry.text("data_type"), entry.integers("shape", 1)
    if dtype not in _SERIALIZERS:
        raise StoreError(
            f"{entry.where}: 'data_type' {dtype!r} of a chunk is not one of {sorted(_SERIALIZERS)}"
        )
    try:
        chunk = base64.b64decode(entry.text("chunk"), validate=True)
    except ValueError as error:
        raise StoreError(f"{entry.where}: 'chunk' is not base 64: {error}") from error
    check_blosc(chunk, math.prod(shape) if dtype == "uint8" else None, entry.where)
    compression: dict[str, Any] = {"name": "blosc", "configuration": _BLOSC}
    return _made(entry, shape, [{"name": _SERIALIZERS[dtype]}, compression], chunk)


def inline_values(entry: JsonObject) -> NDArray[Any]:
    """Compute the values of an array that `inlined` wrote.

    Raises
    ------
    StoreError
    """
    dtype = entry.text("data_type")
    if dtype not in _TYPES:
        raise StoreError(f"{entry.where}: 'data_type' {dtype!r} is not one of {sorted(_TYPES)}")
    return _values(entry, np.dtype(dtype))


def _values(entry: JsonObject, dtype: np.dtype[Any]) -> NDArray[Any]:
    if "values" in entry.document:
        return _listed(entry, dtype)
    start, step = (_number(entry, key, dtype) for key in ("start", "step"))
    size = entry.integer("size", 2, MOST_VALUE_BYTES // dtype.itemsize)
    with np.errstate(over="ignore"):
        regular = _regular(start, step, size, dtype)
    if "units" not in entry.document:
        return regular
    units = entry.document["units"]
    if not isinstance(units, list) or not all(
        type(each) is int and abs(each) <= _MOST_UNITS for each in units
    ):
        raise StoreError(f"{entry.where}: 'units' must be integers of at most {_MOST_UNITS}")
    if len(units) != size:
        raise StoreError(f"{entry.where}: {len(units)} 'units' for {size} values")
    return _corrected(regular, units, entry.integer("exponent", -1200, 1000))


def _number(entry: JsonObject, key: str, dtype: np.dtype[Any]) -> float:
    if dtype.kind == "f":
        return entry.number(key)
    return entry.integer(key, -_EXACT_INTEGERS, _EXACT_INTEGERS)


def _listed(entry: JsonObject, dtype: np.dtype[Any]) -> NDArray[Any]:
    given = entry.document["values"]
    kinds = (int, float) if dtype.kind == "f" else (int,)
    if not all(type(each) in kinds for each in (given if isinstance(given, list) else [given])):
        raise StoreError(f"{entry.where}: 'values' must be a number, or a list of numbers")
    try:
        with np.errstate(over="ignore"):
            values = np.array(given, dtype)
    except OverflowError as error:
        raise StoreError(f"{entry.where}: 'values' do not fit into {dtype}") from error
    if not np.isfinite(values).all():
        raise StoreError(f"{entry.where}: 'values' do not fit into {dtype}")
    return values

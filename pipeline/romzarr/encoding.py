"""Converts xarray attributes and encodings to strict JSON, and back.

A store keeps the encoding of each variable (dtype, packing, chunks, codecs) as JSON, so that
`reconstruct` can reproduce it. NaN, dtypes, tuples and codecs become objects ``{"romzarr": <type>,
"value": ...}``. Reading is safe on hostile input: it refuses unknown types, unregistered codecs and
codecs that could run code.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
from zarr.abc.codec import ArrayArrayCodec, ArrayBytesCodec, BytesBytesCodec
from zarr.registry import get_codec_class, get_numcodec

from romzarr.errors import StoreError

logger = logging.getLogger(__name__)

_TAG = "romzarr"
# The source may name machines and users. The preferred chunks depend on where a variable is read
# from.
_DROPPED = frozenset({"source", "preferred_chunks"})
# numcodecs registers a codec that unpickles, which can run any code.
_REFUSED_CODECS = frozenset({"pickle", "numcodecs.pickle"})
_NUMERIC_KINDS = "biufcmM"
Name = TypeVar("Name", bound=Hashable)
# Names become names of folders and files, so variables must not have these.
_RESERVED = frozenset({"", ".", "..", "zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"})
# File systems allow 255 bytes, from which suffixes are taken.
MAX_NAME_BYTES = 200
# Each variable of a store takes half a millisecond to open.
MAX_VARIABLES = 10_000
# Snapshots of a store, and chunks of an archive along a dim:
# a few times as many as any archive has. Readers allocate nothing in proportion before checks.
MAX_SNAPSHOTS, MAX_ARCHIVE_CHUNKS = 1 << 31, 1 << 22
# Allowed size of a fixed-width array of texts in characters: a minimum, and a multiple of the
# characters that its texts have. Larger ones would be a memory bomb.
_WIDEST, _MUCH_LARGER = 1 << 12, 16
# Marks an entry that other encodings share and this one lacks.
_ABSENT = {_TAG: "absent"}


def unfit_name(name: str) -> str:
    """Explain why a variable cannot be called `name`; empty if it can."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "is not valid text"
    if name in _RESERVED or "/" in name or "\\" in name or "\0" in name:
        return "would be a path, or the name of a Zarr metadata file"
    return f"has more than {MAX_NAME_BYTES} bytes" if size > MAX_NAME_BYTES else ""


class _NotJSON(Exception):
    """A value without a JSON form."""


def encoding_to_json(encoding: Mapping[str, Any]) -> dict[str, Any]:
    """Convert an xarray encoding, without ``source`` and ``preferred_chunks``, to strict JSON."""
    return attributes_to_json({key: encoding[key] for key in encoding if key not in _DROPPED})


def attributes_to_json(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the attributes of a variable or dataset to strict JSON.

    Parameters
    ----------
    attributes : mapping of str to anything
        ``Variable.attrs`` or ``Dataset.attrs``.

    Returns
    -------
    dict
        Valid for ``json.dumps(..., allow_nan=False)``. Entries without a JSON form (open files,
        functions) are omitted and logged.
    """
    result = {}
    for key, value in attributes.items():
        try:
            result[str(key)] = _pack(value)
        except _NotJSON:
            logger.warning("%r is not kept: a %s has no JSON form", key, type(value).__name__)
    return result


def encoding_from_json(document: Mapping[str, Any]) -> dict[str, Any]:
    """Invert `encoding_to_json` and `attributes_to_json`.

    Raises
    ------
    StoreError
        If a value has an unknown type tag, or names a codec that is not registered here or
        that can execute code.
    """
    return {str(key): _unpack(value, str(key)) for key, value in document.items()}


def share_encodings(
    encodings: Mapping[Name, Mapping[str, Any]],
) -> tuple[dict[str, Any], dict[Name, dict[str, Any]]]:
    """Separate the common entries of several encodings from their own.

    Parameters
    ----------
    encodings : mapping of name to mapping
        The results of `encoding_to_json` by variable.

    Returns
    -------
    shared : dict
        The most frequent value of each key, if several encodings have it.
    own : dict of name to dict
        The entries of each encoding that differ from the shared ones; shared entries that it
        lacks are marked.
    """
    values: dict[str, list[str]] = {}
    for encoding in encodings.values():
        for key, value in encoding.items():
            values.setdefault(key, []).append(json.dumps(value))
    most = {key: Counter(texts).most_common(1)[0] for key, texts in values.items()}
    shared = {key: json.loads(text) for key, (text, times) in most.items() if times > 1}
    own = {
        name: {key: value for key, value in encoding.items() if shared.get(key, _ABSENT) != value}
        | {key: _ABSENT for key in shared if key not in encoding}
        for name, encoding in encodings.items()
    }
    return shared, own


def with_shared(own: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """Restore an encoding that `share_encodings` has separated."""
    return {key: value for key, value in {**shared, **own}.items() if value != _ABSENT}


def _tagged(kind: str, value: Any) -> dict[str, Any]:
    return {_TAG: kind, "value": value}


def _pack(value: Any) -> Any:
    match value:
        case None | bool() | str() if type(value) in (type(None), bool, str):
            return value
        case np.generic() | np.ndarray():
            return _pack_array(value)
        case int():
            return int(value)
        case float():
            return float(value) if math.isfinite(value) else _tagged("float", repr(float(value)))
        case np.dtype() if value.kind in _NUMERIC_KINDS + "SU":
            return _tagged("dtype", value.str)
        case type() if value is str:
            return _tagged("dtype", "str")
        case ArrayArrayCodec() | ArrayBytesCodec() | BytesBytesCodec():
            return _tagged("codec", {"zarr_format": 3, "codec": _pack(value.to_dict())})
        case _ if callable(getattr(value, "get_config", None)):  # a codec of Zarr v2
            return _tagged("codec", {"zarr_format": 2, "codec": _pack(value.get_config())})
        case tuple():
            return _tagged("tuple", [_pack(item) for item in value])
        case set() | frozenset():
            return _tagged("set", [_pack(item) for item in sorted(value, key=str)])
        case list():
            return [_pack(item) for item in value]
        case Mapping():
            packed = {str(key): _pack(item) for key, item in value.items()}
            return _tagged("dict", packed) if _TAG in packed else packed
        case _:
            raise _NotJSON


def _pack_array(value: np.generic | np.ndarray[Any, Any]) -> dict[str, Any]:
    array = np.asarray(value)
    dtype = array.dtype.str
    if array.dtype.kind in "SU":
        packed = array.astype(str).tolist()
        dtype = "str" if _fits_width(packed) else "object"
    elif array.dtype.kind not in _NUMERIC_KINDS:
        raise _NotJSON
    elif array.dtype.kind in "biu" or (array.dtype.char in "efd" and np.isfinite(array).all()):
        packed = array.tolist()
    else:
        # NaN, complex numbers and datetimes are stored as bytes in hexadecimal digits.
        packed = array.tobytes().hex()
    kind = "array" if isinstance(value, np.ndarray) else "scalar"
    return _tagged(kind, {"dtype": dtype, "shape": list(array.shape), "data": packed})


def _unpack(value: Any, where: str) -> Any:
    if isinstance(value, list):
        return [_unpack(item, where) for item in value]
    if not isinstance(value, Mapping):
        return value
    if _TAG not in value:
        return {str(key): _unpack(item, where) for key, item in value.items()}
    kind = value[_TAG]
    if not isinstance(kind, str) or kind not in _UNPACKERS or set(value) != {_TAG, "value"}:
        raise StoreError(
            f"encoding {where!r}: unknown kind of value {kind!r}; "
            f"known are {', '.join(sorted(_UNPACKERS))}"
        )
    try:
        return _UNPACKERS[kind](value["value"], where)
    except StoreError:
        raise
    # Codecs and dtypes of any library may reject a hostile configuration in any way.
    except Exception as error:
        raise StoreError(f"encoding {where!r}: invalid {kind}: {error}") from error


def _unpack_dtype(value: Any, where: str) -> Any:
    if value == "str":
        return str
    dtype = np.dtype(str(value))
    if dtype.kind not in _NUMERIC_KINDS + "SU":
        raise StoreError(f"encoding {where!r}: dtype {value!r} is not allowed; use a plain one")
    return dtype


def _unpack_float(value: Any, where: str) -> float:
    if value not in ("nan", "inf", "-inf"):
        raise StoreError(f"encoding {where!r}: {value!r} is not one of nan, inf, -inf")
    return float(value)


def _unpack_array(value: Any, where: str) -> np.ndarray[Any, Any]:
    if value["dtype"] in ("str", "object"):
        return _unpack_texts(value, where)
    dtype = _unpack_dtype(value["dtype"], where)
    if dtype is str or dtype.kind not in _NUMERIC_KINDS:
        raise StoreError(f"encoding {where!r}: an array of dtype {value['dtype']!r} is not allowed")
    data = value["data"]
    flat = (
        np.frombuffer(bytes.fromhex(data), dtype).copy()
        if isinstance(data, str)
        else np.array(data, dtype)
    )
    # The shape allocates nothing: reshape refuses one that the data does not fill.
    return flat.reshape(value["shape"])


def _unpack_texts(value: Any, where: str) -> np.ndarray[Any, Any]:
    texts, wide = list(_texts(value["data"])), value["dtype"] == "object"
    if not all(isinstance(text, str) for text in texts):
        raise StoreError(f"encoding {where!r}: an array of texts has items of another type")
    if not (wide or _fits_width(texts)):
        raise StoreError(
            f"encoding {where!r}: {len(texts)} texts of up to {max(map(len, texts))} characters "
            "take far more memory than they have characters"
        )
    return np.array(texts, dtype=object if wide else str).reshape(value["shape"])


def _fits_width(texts: Any) -> bool:
    """Tell whether a fixed-width array is not much larger than its texts.

    Otherwise it is read as an array of objects.
    """
    lengths = [len(text) for text in _texts(texts)]
    return len(lengths) * max(lengths, default=0) <= _WIDEST + _MUCH_LARGER * sum(lengths)


def _texts(nested: Any) -> Iterator[Any]:
    """Flatten nested lists."""
    if not isinstance(nested, list):
        yield nested
        return
    for each in nested:
        yield from _texts(each)


def _unpack_scalar(value: Any, where: str) -> np.generic:
    scalar: Any = _unpack_array(value, where)[()]
    if not isinstance(scalar, np.generic):
        raise StoreError(f"encoding {where!r}: a scalar of shape {value['shape']!r}")
    return scalar


def _unpack_codec(value: Any, where: str) -> Any:
    config = _unpack(value["codec"], where)
    name = config.get("name" if value["zarr_format"] == 3 else "id")
    if not isinstance(name, str) or name in _REFUSED_CODECS:
        raise StoreError(f"encoding {where!r}: codec {name!r} is not allowed")
    if value["zarr_format"] == 3:
        try:
            codec_class = get_codec_class(name)
        except KeyError as error:
            raise StoreError(f"encoding {where!r}: codec {name!r} is not registered") from error
        return codec_class.from_dict(config)
    if value["zarr_format"] != 2:
        raise StoreError(f"encoding {where!r}: zarr_format {value['zarr_format']!r} is not 2 or 3")
    return get_numcodec(config)


def _unpack_dict(value: Any, where: str) -> dict[str, Any]:
    return {str(key): _unpack(item, where) for key, item in value.items()}


_UNPACKERS: dict[str, Callable[[Any, str], Any]] = {
    "array": _unpack_array,
    "codec": _unpack_codec,
    "dict": _unpack_dict,
    "dtype": _unpack_dtype,
    "float": _unpack_float,
    "scalar": _unpack_scalar,
    "set": lambda value, where: {_unpack(item, where) for item in value},
    "tuple": lambda value, where: tuple(_unpack(item, where) for item in value),
}

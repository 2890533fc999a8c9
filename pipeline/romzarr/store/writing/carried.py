"""Writes coordinates and variables that are copied unchanged."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from romzarr.coding.exact import LEVEL, QUICK_LEVEL, SHUFFLES, ExactCoding, encode_exact
from romzarr.encoding import attributes_to_json, encoding_to_json, share_encodings
from romzarr.errors import ArchiveError, PipelineError, refuse_blame
from romzarr.store import layout, limits
from romzarr.store.checksums import ChecksumCodec
from romzarr.store.exact import ExactCodec
from romzarr.store.inline import INLINE, chunk_place, inlined, is_one_chunk
from romzarr.store.writing.staged import StagedStore

_GROUP = "coordinates"
# Carried numbers that take more are coded like lossless variables, in the way that is best on so
# many bytes of them.
EXACT_BYTES, SAMPLE_BYTES = 1 << 14, 1 << 20
# Entries of an encoding about values; the others describe how the source was stored.
_PACKING_KEYS = frozenset(
    {"dtype", "units", "calendar", "scale_factor", "add_offset", "_FillValue", "missing_value"}
    | {"_Unsigned", "coordinates", "grid_mapping"}
)


def write_carried(store: StagedStore, carried: xr.Dataset) -> dict[str, Any]:
    """Write `carried` to group ``coordinates``; return what Zarr metadata cannot express.

    Small coordinates are among what is returned, instead of being arrays (`romzarr.store.inline`).
    """
    with _unstable_types_allowed(), _encodable(carried):
        prepared = carried.reset_coords().drop_attrs(deep=False)
        prepared.encoding = {}
        for name in prepared.variables:
            prepared[name] = _prepared(prepared[name])
        with store.holding(_GROUP) as held:
            # What Dask computes is written by other processes, too, and not held.
            rest = prepared.to_zarr(
                store,
                group=_GROUP,
                mode="w-",
                zarr_format=3,
                consolidated=False,
                write_empty_chunks=True,
                compute=False,
            )
            inline = {str(name): _inlined(store, held, str(name)) for name in carried.variables}
        if prepared.chunks:
            rest.compute()
    return {
        str(name): _beyond_zarr(variable) | inline[str(name)]
        for name, variable in carried.variables.items()
    }


def _inlined(store: StagedStore, held: dict[str, Buffer], name: str) -> dict[str, Any]:
    """Move an array, if its only chunk is held, to the facts, if it is smaller there."""
    path = layout.joined(_GROUP, name)
    document = layout.joined(path, layout.ROOT)
    metadata = json.loads(store.documents[document])
    place = chunk_place(metadata)
    chunk = held.get(layout.joined(path, place))
    if chunk is None or not is_one_chunk(metadata):
        return {}
    content = {layout.ROOT: store.documents[document], place: chunk.to_bytes()}
    entry = inlined(metadata, _read_alone(content), len(chunk))
    if not entry:
        return {}
    del held[layout.joined(path, place)]
    sync(store.delete(document))
    return {INLINE: entry}


def _read_alone(content: Mapping[str, bytes]) -> NDArray[Any]:
    """Read an array whose metadata and chunks are in memory."""
    as_buffer = default_buffer_prototype().buffer.from_bytes
    store = MemoryStore({key: as_buffer(each) for key, each in content.items()})
    return np.asarray(zarr.open_array(store, mode="r")[...])


@contextlib.contextmanager
def _encodable(carried: xr.Dataset) -> Iterator[None]:
    """Name the variable whose attributes xarray cannot write.

    Raises
    ------
    ArchiveError
    """
    try:
        yield
    except (PipelineError, OSError, MemoryError):
        raise
    except Exception as error:
        refuse_blame(error)
        for name, variable in carried.variables.items():
            try:
                xr.conventions.encode_cf_variable(variable, name=name)
            except Exception as reason:
                error, where = reason, f"variable {str(name)!r}"
                break
        else:
            where = "coordinates, and variables that are not compressed,"
        raise ArchiveError(
            f"{where} cannot be stored as the archive describes them ({type(error).__name__}: "
            f"{error}); correct their attributes (units, calendar, _FillValue, scale_factor, "
            "coordinates), or leave them out"
        ) from error


def share(*documents: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Move common entries of encodings out of the documents of variables."""
    found = {
        (number, name): document.get("encoding", {})
        for number, variables in enumerate(documents)
        for name, document in variables.items()
    }
    shared, own = share_encodings(found)
    for (number, name), encoding in own.items():
        documents[number][name] = {**documents[number][name], "encoding": encoding}
    return shared


def _beyond_zarr(variable: xr.Variable) -> dict[str, Any]:
    """Collect what Zarr metadata lose: the source's encoding, attributes of other types."""
    attrs = attributes_to_json(variable.attrs)
    kept: dict[str, Any] = {"encoding": encoding_to_json(variable.encoding)}
    if variable.dtype.kind == "O":
        kept["dtype"] = "object"
        # Zarr stores them as empty texts.
        if len(missing := np.flatnonzero(variable.isnull().values)):
            kept["missing"] = missing.tolist()
    return kept if _plain(variable.attrs) and attrs == variable.attrs else kept | {"attrs": attrs}


def _prepared(array: xr.DataArray) -> xr.DataArray:
    """Keep only the packing in the encoding of `array`, and set chunks and codecs."""
    encoding = {k: v for k, v in array.encoding.items() if k in _PACKING_KEYS}
    if array.chunks is not None:
        # Zarr chunks have one shape: irregular ones grow to the largest.
        most = [max(lengths) for lengths in array.chunks]
        chunk = limits.chunk_of(most, max(1, array.dtype.itemsize), limits.MAX_CHUNK_BYTES)
        array = array.chunk(dict(zip(array.dims, chunk, strict=True)))
    elif array.nbytes > layout.CHUNK_BYTES:
        encoding["chunks"] = limits.chunk_of(array.shape, _bytes_each(array), layout.CHUNK_BYTES)
    for key in ("missing_value", "_FillValue"):
        if _is_nan(encoding.get(key)):
            del encoding[key]
    codecs = layout.codecs("noshuffle" if array.dtype.kind in "OSTU" else "shuffle")
    if array.nbytes > EXACT_BYTES and array.dtype.kind in "iubf":
        encoding |= _exact_codecs(array, encoding)
    elif array.chunks is None and array.nbytes <= layout.CHUNK_BYTES:
        codecs = layout.codecs_for(array.values)
    array.encoding = {"compressors": codecs} | encoding
    array.attrs = {k: v for k, v in array.attrs.items() if _plain(v)}
    return array


def _exact_codecs(array: xr.DataArray, encoding: Mapping[str, Any]) -> dict[str, Any]:
    """Codecs that take fewest bytes on a part of the numbers, as they are stored."""
    region = {
        dim: slice(0, min(n, chunk))
        for dim, n, chunk in zip(array.dims, array.shape, _chunk_of(array, encoding), strict=True)
    }
    part = array.isel(region).variable
    part.encoding = dict(encoding)
    values = xr.conventions.encode_cf_variable(part).values
    every = tuple(range(values.ndim))
    rows = max(1, SAMPLE_BYTES // max(1, values.nbytes // max(1, len(values))))
    sample = values[:rows]
    ways = [
        ExactCoding(axes, shuffle)
        for axes in dict.fromkeys([(), *((axis,) for axis in every), every])
        for shuffle in SHUFFLES
    ]
    sizes = [len(encode_exact(sample, sample.shape, way, QUICK_LEVEL)) for way in ways]
    best = ways[int(np.argmin(sizes))]
    size, shuffle = values.dtype.itemsize, best.shuffle
    blosc = BloscCodec(typesize=size, cname="zstd", clevel=LEVEL, shuffle=shuffle)  # type: ignore[arg-type]
    found: dict[str, Any] = {"compressors": (blosc, ChecksumCodec())}
    return found if best.is_plain else found | {"serializer": ExactCodec(best.axes)}


def _chunk_of(array: xr.DataArray, encoding: Mapping[str, Any]) -> Sequence[int]:
    if array.chunks is not None:
        return [lengths[0] for lengths in array.chunks]
    return encoding.get("chunks", array.shape)


def _bytes_each(array: xr.DataArray) -> int:
    """Return the bytes of one value; for strings those of the longest, with its length."""
    if array.dtype.kind in "OT":
        return 4 + max((len(str(text).encode()) for text in array.values.flat), default=0)
    return int(array.dtype.itemsize)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def _plain(value: Any) -> bool:
    """Tell whether `value` is strict JSON after conversion of NumPy types."""
    try:
        json.dumps(value.tolist() if hasattr(value, "tolist") else value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


@contextlib.contextmanager
def _unstable_types_allowed() -> Iterator[None]:
    """Suppress warnings that fixed-length strings have no Zarr v3 specification yet."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification.*")
        yield

"""Caches of keys and values on disk and back: prefixes that many prompts share.

A cache becomes a Zarr group. Its codes are one array of bytes in the order of tokens, so the first
tokens are read without the others; they are written as they are, with nothing coded anew.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from romzarr.arguments import as_place, shown
from romzarr.errors import ConfigError, StoreError, StoreExistsError
from romzarr.latents.arrays import as_values, dtype_name, like
from romzarr.latents.cache_codec import CacheCodec
from romzarr.latents.codec import Codes
from romzarr.latents.kv_cache import KVCache, Part

KIND = "romzarr.latents cache 1"
# Bytes of a chunk: few files, of which a prefix needs only the first.
CHUNK = 2**22
_SIDES = ("keys", "values")


def save_cache(cache: KVCache, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write a cache to a Zarr group, which `load_cache` reads.

    Parameters
    ----------
    cache : KVCache
        All layers have the same tokens.
    path : str or path
    overwrite : bool, default False
        Whether a group that is there is replaced.

    Raises
    ------
    StoreExistsError
        If the group exists.
    ConfigError
        If layers have different numbers of tokens.
    """
    place = as_place(path, "path")
    if os.path.exists(place) and not overwrite:
        raise StoreExistsError(f"{place}: exists already; choose another place or overwrite=True")
    if len({cache.tokens_of(layer) for layer in range(cache.codec.layers)}) > 1:
        raise ConfigError("cache: found layers with different tokens; append to all layers first")
    codes = list(_in_order(cache.parts()))
    group = zarr.open_group(place, mode="w", zarr_format=3)
    payload = np.concatenate([each.payload for each in codes] or [np.zeros(0, np.uint8)])
    _write(group, "payload", payload)
    _write(group, "lengths", np.array([len(each.payload) for each in codes], np.int64))
    _write(group, "finer", np.array([each.finer for each in codes], np.int8))
    kinds = set()
    for layer, part in enumerate(cache.parts()):
        for side, name in enumerate(_SIDES):
            for what, array in (("sinks", part.sinks[side]), ("recent", part.recent[side])):
                if array is not None:
                    kinds.add(dtype_name(array))
                    _write(group, f"{what}.{name}.{layer}", _plain(array))
    # Last: a group without it is one whose writing was interrupted.
    group.attrs.update(
        {
            "kind": KIND,
            "model": cache.codec.model,
            "dtype": kinds.pop() if kinds else "float32",
            "batch": cache.batch or 0,
            "blocks": [len(part.blocks) for part in cache.parts()],
            "options": {
                name: getattr(cache, name) for name in ("sinks", "window", "block", "bound")
            },
        }
    )


def load_cache(path: str | os.PathLike[str], codec: CacheCodec, *, sample: Any = None) -> KVCache:
    """Read what `save_cache` wrote.

    Parameters
    ----------
    path : str or path
    codec : CacheCodec
        The calibration with which it was coded.
    sample : array, optional
        Arrays that are kept as they came are of its framework, type and device. Without it they
        are of NumPy, and of float32 if they were of bfloat16.

    Raises
    ------
    StoreError
        If there is no cache, or not all of one.
    ConfigError
        If it was coded with the calibration of another model.
    """
    place = as_place(path, "path")
    try:
        group = zarr.open_group(place, mode="r")
        facts: dict[str, Any] = dict(group.attrs)
        if facts["kind"] != KIND:
            raise ValueError(f"its kind is {shown(facts['kind'])}")
        payload, lengths, finer = (_read(group, name) for name in ("payload", "lengths", "finer"))
        options, batch = facts["options"], int(facts["batch"])
    except (FileNotFoundError, KeyError, ValueError, TypeError) as error:
        raise StoreError(
            f"{place}: found no cache ({shown(error)}), allowed is what save_cache wrote"
        ) from error
    if facts["model"] != codec.model or len(facts["blocks"]) != codec.layers:
        raise ConfigError(
            f"codec: found a calibration of the model {shown(codec.model)}, allowed is that of "
            f"{shown(facts['model'])}, with which {place} was coded"
        )
    ends = np.cumsum(lengths)
    if len(finer) != len(ends) or (len(ends) and ends[-1] != len(payload)):
        raise StoreError(f"{place}: found codes that were cut; write the cache again")
    cache = KVCache(codec, **options)
    codes = (
        Codes(payload[end - length : end].copy(), cache.block, int(fine))
        for end, length, fine in zip(ends, lengths, finer, strict=True)
    )
    parts = [_kept(group, layer, facts["dtype"], sample) for layer in range(codec.layers)]
    for number in range(max(facts["blocks"], default=0)):
        for layer in range(0, codec.layers, codec.group):
            if number < facts["blocks"][layer]:
                sides = [tuple(next(codes) for _ in range(batch)) for _ in _SIDES]
                parts[layer].blocks.append((sides[0], sides[1]))
    cache.restore(parts)
    return cache


def _in_order(parts: list[Part]) -> Iterator[Codes]:
    """Codes block by block, of each group its keys and its values, of all sequences."""
    firsts = [part for part in parts if part.is_first]
    for number in range(max((len(part.blocks) for part in firsts), default=0)):
        for part in firsts:
            for side in part.blocks[number] if number < len(part.blocks) else ():
                yield from side


def _kept(group: Any, layer: int, dtype: str, sample: Any) -> Part:
    found: dict[str, list[Any]] = {}
    for what in ("sinks", "recent"):
        found[what] = [None, None]
        for side, name in enumerate(_SIDES):
            if f"{what}.{name}.{layer}" in group:
                array = _read(group, f"{what}.{name}.{layer}")
                plain = array if dtype == "bfloat16" else array.astype(dtype)
                found[what][side] = (
                    plain if sample is None else like(as_values(plain, what, (None,) * 4), sample)
                )
    return Part(found["sinks"], found["recent"], [], False)


def _plain(array: Any) -> NDArray[Any]:
    values = as_values(array, "cache", (None,) * 4)
    return values.astype(np.float16) if dtype_name(array) == "float16" else values


def _write(group: Any, name: str, array: NDArray[Any]) -> None:
    chunks = (CHUNK,) if array.ndim == 1 else array.shape
    # Codes do not get smaller, and what is kept as it came is little.
    stored = group.create_array(
        name,
        shape=array.shape,
        chunks=[max(k, 1) for k in chunks],
        dtype=array.dtype,
        compressors=None,
    )
    if array.size:
        stored[...] = array


def _read(group: Any, name: str) -> NDArray[Any]:
    found: NDArray[Any] = np.asarray(group[name][...])
    return found

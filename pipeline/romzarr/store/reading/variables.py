"""The variables that a store decodes, as its facts describe them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from romzarr.encoding import with_shared
from romzarr.errors import StoreError
from romzarr.store import layout, limits
from romzarr.store.layout import ArrayLayout, Fields
from romzarr.store.reading.checks import agree


@dataclass(frozen=True)
class StoredVariable:
    """A variable that the store decodes, as it was in the archive.

    ``coding`` is "pod" (in episodes its values), "direct" (its values), "constant" or
    "lossless"; values are about ``offset``, and ``mask`` is the group that has the mask, if
    there is one.
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    time_axis: int
    group: str
    coding: str
    mask: str | None
    offset: float
    chunks: tuple[Any, ...] | None
    attrs: Mapping[str, Any]
    encoding: Mapping[str, Any]

    @property
    def space_dims(self) -> tuple[str, ...]:
        return self.dims[: self.time_axis] + self.dims[self.time_axis + 1 :]

    @property
    def space_shape(self) -> tuple[int, ...]:
        return self.shape[: self.time_axis] + self.shape[self.time_axis + 1 :]


def variables_of(
    facts: Fields, arrays: Mapping[str, ArrayLayout], own: int | None, snapshots: int
) -> dict[str, StoredVariable]:
    """Variables of a generation, once their arrays agree with what is said of them.

    It has `own` modes beside those of generations that it goes on from; None: it has no fields.
    """
    listed = facts.fields("variables")
    shared = facts.fields("shared_encoding").document
    variables = {name: _variable(name, listed.fields(name), arrays, shared) for name in listed}
    episodes = _episodes(facts, snapshots)
    for variable in variables.values():
        if variable.shape[variable.time_axis] != snapshots:
            raise StoreError(
                f"{facts.where}: {variable.name!r} has {variable.shape[variable.time_axis]} "
                f"snapshots, the store {snapshots}"
            )
        path, space = f"basis/{variable.group}", variable.space_shape
        arithmetic = facts.text("arithmetic")
        if variable.coding == "constant":
            agree(arrays, f"{path}/mean", variable.dtype.name, space, facts.where)
            continue
        if variable.coding == "lossless":
            agree(arrays, f"{path}/exact", variable.dtype.name, variable.shape, facts.where)
            continue
        if f"{path}/residuals" in arrays:
            agree(arrays, f"{path}/residuals", "float64", variable.shape, facts.where)
        if variable.coding == "direct":
            agree(arrays, f"{path}/values", arithmetic, (snapshots, *space), facts.where)
        elif own is not None:
            agree(arrays, f"{path}/fields", arithmetic, (own + 1, *space), facts.where)
        if variable.coding == "pod" and episodes:
            agree(arrays, f"{path}/episodes", arithmetic, (episodes, *space), facts.where)
        if variable.mask is not None:
            agree(arrays, f"basis/{variable.mask}/mask", "bool", space, facts.where)
    return variables


def _variable(
    name: str, fields: Fields, arrays: Mapping[str, ArrayLayout], shared: Mapping[str, Any]
) -> StoredVariable:
    dims, shape = fields.names("dims"), fields.integers("shape", 1)
    coding = _coding(fields.text("group"), arrays)
    has_values = coding == "direct" or f"basis/{fields.text('group')}/episodes" in arrays
    if len(dims) != len(shape) or not dims or name in dims:
        # What is called like a dim of its own would be read whole, as an index.
        raise StoreError(f"{fields.where}: dims {dims} do not fit shape {shape}, or the name")
    return StoredVariable(
        name=name,
        dims=dims,
        shape=shape,
        dtype=layout.float_dtype(fields.text("dtype"), fields.where),
        time_axis=fields.integer("time_axis", 0, len(dims) - 1),
        group=fields.text("group"),
        coding=coding,
        mask=fields.text("mask") if "mask" in fields.document else None,
        offset=fields.number("offset") if has_values else 0.0,
        chunks=_chunks(fields, shape),
        attrs=fields.fields("attrs").document if "attrs" in fields.document else {},
        encoding=with_shared(
            fields.fields("encoding").document if "encoding" in fields.document else {}, shared
        ),
    )


def _episodes(facts: Fields, snapshots: int) -> int:
    """Number of snapshots at which variables of POD are coded as they are."""
    spans, last = facts.document.get("episodes", []), 0
    valid = isinstance(spans, list)
    for span in spans if valid else ():
        valid &= isinstance(span, list) and len(span) == 2 and all(type(i) is int for i in span)
        valid = valid and last <= span[0] < span[1] <= snapshots
        last = span[1] if valid else snapshots
    total = sum(stop - start for start, stop in spans) if valid else 0
    if not valid or total > limits.MAX_EPISODES:
        raise StoreError(
            f"{facts.where}: 'episodes' must be increasing pairs of snapshots up to {snapshots}, "
            f"of {limits.MAX_EPISODES} at most"
        )
    return total


def _coding(group: str, arrays: Mapping[str, ArrayLayout]) -> str:
    """How a variable is coded, by the array that holds it."""
    if f"basis/{group}/mean" in arrays:
        return "constant"
    if f"basis/{group}/exact" in arrays:
        return "lossless"
    return "direct" if f"basis/{group}/values" in arrays else "pod"


def _chunks(fields: Fields, shape: tuple[int, ...]) -> tuple[Any, ...] | None:
    """Chunks of the archive, a length or the tuple of all lengths per dim."""
    chunks = fields.document.get("chunks")
    if chunks is None:
        return None
    valid = isinstance(chunks, list) and len(chunks) == len(shape)
    for lengths, n in zip(chunks if valid else (), shape, strict=False):
        ragged = isinstance(lengths, list) and all(type(c) is int and c > 0 for c in lengths)
        valid &= (type(lengths) is int and lengths > 0) or (ragged and sum(lengths) == n)
    counts = [
        len(c) if isinstance(c, list) else -(-n // c)
        for c, n in zip(chunks if valid else (), shape, strict=False)
    ]
    if not valid or max(counts, default=0) > limits.MAX_ARCHIVE_CHUNKS:
        raise StoreError(f"{fields.where}: 'chunks' do not fit shape {shape}")
    return tuple(tuple(c) if isinstance(c, list) else c for c in chunks)

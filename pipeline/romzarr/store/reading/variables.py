"""The coded variables of a store, from its facts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from romzarr.contracts import NO_TIME, Coding
from romzarr.encoding import MAX_ARCHIVE_CHUNKS, with_shared
from romzarr.errors import StoreError
from romzarr.store import layout, limits
from romzarr.store.layout import ArrayLayout, JsonObject
from romzarr.store.reading.checks import agree, shape_of
from romzarr.store.reading.gaps import StoredGaps, gaps_of
from romzarr.store.reading.scaling import StoredScaling, scaling_of
from romzarr.store.reading.sums import StoredSums, sums_of


@dataclass(frozen=True)
class StoredVariable:
    """A coded variable, as it was in the archive.

    ``offset`` is subtracted from values, and ``mask`` is the group with the mask, if there is one.
    ``column`` is its first one in the shared fields, if it has them there, and ``step`` the factor.
    ``gaps`` are values that are kept apart. Others are multiplied by factors of ``scaling``, or
    they are logarithms in a ``unit``. What ``sums`` lack is added. ``layers`` are
    the errors that all layers of its arrays but the last leave, relative to the fluctuation.
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    time_axis: int
    group: str
    coding: Coding
    mask: str | None
    offset: float
    column: int | None
    step: float
    gaps: StoredGaps | None
    scaling: StoredScaling | None
    unit: float | None
    sums: StoredSums | None
    layers: tuple[float, ...]
    chunks: tuple[Any, ...] | None
    attrs: Mapping[str, Any]
    encoding: Mapping[str, Any]

    @property
    def is_timeless(self) -> bool:
        """Whether the archive had no time: the time dim is none that it knew."""
        return self.dims[self.time_axis] == NO_TIME

    @property
    def space_dims(self) -> tuple[str, ...]:
        return self.dims[: self.time_axis] + self.dims[self.time_axis + 1 :]

    @property
    def space_shape(self) -> tuple[int, ...]:
        return self.shape[: self.time_axis] + self.shape[self.time_axis + 1 :]


def variables_of(
    facts: JsonObject, arrays: Mapping[str, ArrayLayout], own: int | None, snapshots: int
) -> dict[str, StoredVariable]:
    """Describe the variables of a generation, and check their arrays.

    It adds `own` modes to those that it extends; None: it has no fields.
    """
    listed = facts.object("variables")
    shared = facts.object("shared_encoding").document
    variables = {name: _variable(name, listed.object(name), arrays, shared) for name in listed}
    episodes = _episodes(facts, snapshots)
    for variable in variables.values():
        if variable.shape[variable.time_axis] != snapshots:
            raise StoreError(
                f"{facts.where}: {variable.name!r} has {variable.shape[variable.time_axis]} "
                f"snapshots, the store {snapshots}"
            )
        expected = _expected(variable, facts.text("arithmetic"), own, episodes)
        if variable.column is not None and "fields" in expected:
            dtype, shape = expected.pop("fields")
            _check_shared(variable, arrays, dtype, shape, facts.where)
        for array, (dtype, shape) in expected.items():
            agree(arrays, f"basis/{variable.group}/{array}", dtype, shape, facts.where)
        residuals = f"basis/{variable.group}/residuals"
        if residuals in arrays:
            agree(arrays, residuals, "float64", variable.shape, facts.where)
        if variable.gaps is not None and variable.gaps.runs is None:
            agree(arrays, variable.gaps.path, "uint8", variable.shape, facts.where)
        if variable.scaling is not None and variable.scaling.steady:
            steady, name = variable.scaling.steady, variable.dtype.name
            agree(arrays, steady, name, variable.space_shape, facts.where)
        if variable.sums is not None:
            variable.sums.check(arrays, snapshots, variable.space_shape, facts.where)
        if variable.mask is not None:
            mask = f"basis/{variable.mask}/mask"
            agree(arrays, mask, "bool", variable.space_shape, facts.where)
    return variables


def _check_shared(
    variable: StoredVariable,
    arrays: Mapping[str, ArrayLayout],
    dtype: str,
    shape: tuple[int, ...],
    where: str,
) -> None:
    """Check that the shared fields, in one chunk, have columns for those of a variable."""
    fields, columns = shape_of(arrays, layout.SHARED_FIELDS, dtype, 2, where)
    needed = (variable.column or 0) + math.prod(shape[1:])
    if fields != shape[0] or needed > columns:
        raise StoreError(
            f"{where}: array {layout.SHARED_FIELDS} has shape {(fields, columns)}, but "
            f"{variable.name!r} needs {shape[0]} fields and {needed} columns"
        )
    if not variable.step > 0:
        raise StoreError(f"{where}: {variable.name!r}: 'step' must be positive")
    if arrays[layout.SHARED_FIELDS].chunk != (fields, columns):
        raise StoreError(f"{where}: array {layout.SHARED_FIELDS} must be one chunk")


def _expected(
    variable: StoredVariable, arithmetic: str, own: int | None, episodes: int
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return dtypes and shapes of the arrays that a variable needs."""
    space, snapshots = variable.space_shape, variable.shape[variable.time_axis]
    match variable.coding:
        case Coding.CONSTANT:
            return {"mean": (variable.dtype.name, space)}
        case Coding.LOSSLESS:
            return {"exact": (variable.dtype.name, variable.shape)}
        case Coding.DIRECT:
            return {"values": ("float", (snapshots, *space))}
        case Coding.POD:
            fields = {} if own is None else {"fields": (arithmetic, (own + 1, *space))}
            values = {"episodes": (arithmetic, (episodes, *space))} if episodes else {}
            return {**fields, **values}
        case Coding.HYBRID:
            return {
                "fields": (arithmetic, ((own or 0) + 1, *space)),
                "values": ("float", (snapshots, *space)),
            }


def _variable(
    name: str, fields: JsonObject, arrays: Mapping[str, ArrayLayout], shared: Mapping[str, Any]
) -> StoredVariable:
    dims, shape = fields.names("dims"), fields.integers("shape", 1)
    group = layout.group_of(name, fields)
    coding = _coding(group, arrays)
    shares = "column" in fields.document
    tiled = (f"basis/{group}/{array}" for array in ("values", "episodes"))
    has_values = any(path in arrays for path in tiled)
    if len(dims) != len(shape) or not dims or name in dims:
        # A variable named like its dim would be read completely, as an index.
        raise StoreError(f"{fields.where}: dims {dims} do not fit shape {shape} or the name")
    time_axis = fields.integer("time_axis", 0, len(dims) - 1)
    steady = f"basis/{group}/steady"
    return StoredVariable(
        name=name,
        dims=dims,
        shape=shape,
        dtype=layout.float_dtype(fields.text("dtype"), fields.where),
        time_axis=time_axis,
        group=group,
        coding=coding,
        mask=fields.text("mask") if "mask" in fields.document else None,
        offset=fields.number("offset") if has_values else 0.0,
        column=fields.integer("column", 0, limits.MAX_CODED_VALUES) if shares else None,
        step=fields.number("step") if shares else 1.0,
        gaps=gaps_of(fields, shape),
        unit=_unit(fields),
        sums=sums_of(fields, dims, time_axis, group),
        layers=_layers(fields),
        scaling=scaling_of(fields, dims, shape, time_axis, steady if steady in arrays else ""),
        chunks=_chunks(fields, shape),
        attrs=fields.object("attrs").document if "attrs" in fields.document else {},
        encoding=with_shared(
            fields.object("encoding").document if "encoding" in fields.document else {}, shared
        ),
    )


def _layers(fields: JsonObject) -> tuple[float, ...]:
    """Parse the errors that all layers but the last leave, relative to the fluctuation."""
    listed = fields.document.get("layers", [])
    valid = isinstance(listed, list) and len(listed) < layout.MAX_LAYERS
    if not valid or not all(type(error) is float and 0 < error < np.inf for error in listed):
        raise StoreError(
            f"{fields.where}: 'layers' must be fewer than {layout.MAX_LAYERS} positive numbers"
        )
    return tuple(listed)


def _unit(fields: JsonObject) -> float | None:
    """Parse the unit of logarithms; None if the values are none."""
    if "logarithm" not in fields.document:
        return None
    unit = fields.number("logarithm")
    if not unit > 0:
        raise StoreError(f"{fields.where}: 'logarithm' must be a positive unit")
    return unit


def _episodes(facts: JsonObject, snapshots: int) -> int:
    """Count the snapshots that are coded without POD."""
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
            f"with {limits.MAX_EPISODES} snapshots at most"
        )
    return total


def _coding(group: str, arrays: Mapping[str, ArrayLayout]) -> Coding:
    """Find the coding of a variable by its arrays; fields may be in other generations."""
    has = {a for a in ("mean", "exact", "values", "fields") if f"basis/{group}/{a}" in arrays}
    if {"values", "fields"} <= has:
        return Coding.HYBRID
    homes = {"mean": Coding.CONSTANT, "exact": Coding.LOSSLESS, "values": Coding.DIRECT}
    return next((coding for array, coding in homes.items() if array in has), Coding.POD)


def _chunks(fields: JsonObject, shape: tuple[int, ...]) -> tuple[Any, ...] | None:
    """Parse the chunks of the archive: a length, or all lengths, per dim."""
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
    if not valid or max(counts, default=0) > MAX_ARCHIVE_CHUNKS:
        raise StoreError(f"{fields.where}: 'chunks' do not fit shape {shape}")
    return tuple(tuple(c) if isinstance(c, list) else c for c in chunks)

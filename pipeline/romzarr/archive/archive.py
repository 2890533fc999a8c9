"""Describes an archive by its metadata and times."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import xarray as xr

from romzarr.archive.checks import refuse_names, select
from romzarr.archive.history import Mark, history_of
from romzarr.archive.provider import Piece, Provider, digest_of
from romzarr.archive.single_source import SingleSnapshot
from romzarr.archive.stamp import unchanging
from romzarr.archive.time_axis import time_axis
from romzarr.archive.weights import weights_of
from romzarr.contracts import NO_TIME, ArchivedVariable, PointOrder, TimeAxis
from romzarr.encoding import attributes_to_json, encoding_to_json
from romzarr.inner_product import InnerProduct


@dataclass(frozen=True)
class Archive:
    """An opened archive.

    ``name`` is its path or URL without credentials. ``variables`` are to be compressed.
    ``carried`` has all coordinates and the data variables that stay unchanged, lazily. It may hold
    open files and credentials of this process, so it must not go into tasks. ``order`` names all
    data variables in the order of the archive. ``attrs``, ``encoding`` (of the dataset),
    ``variable_attrs`` and ``variable_encoding`` (by compressed variable) are strict JSON for
    `romzarr.encoding.encoding_from_json`. ``raw_bytes`` counts the decoded variables to be
    compressed. ``fingerprint`` changes with metadata, times or stored values. ``marks`` locate such
    changes in time, if the source lists its chunks or, with ``marks_values``, is in memory.
    With ``gaps_known`` all values were looked at for gaps, and variables that have some say so.
    ``locations`` are the paths or URLs that were opened, and ``stamp`` changes if any of their
    files is written. Both are empty for open datasets; the stamp is also empty where files cannot
    be listed (http). ``orders`` are those in which variables have the points of meshes, while
    coordinates and all else keep that of the source.
    """

    name: str
    variables: tuple[ArchivedVariable, ...]
    time: TimeAxis
    carried: xr.Dataset
    order: tuple[str, ...]
    attrs: Mapping[str, Any]
    encoding: Mapping[str, Any]
    variable_attrs: Mapping[str, Mapping[str, Any]]
    variable_encoding: Mapping[str, Mapping[str, Any]]
    raw_bytes: int
    fingerprint: str
    marks: Mapping[str, tuple[Mark, ...]]
    marks_values: bool
    gaps_known: bool = False
    locations: tuple[str, ...] = ()
    stamp: str = ""
    orders: tuple[PointOrder, ...] = ()

    def of(self, names: Collection[str]) -> Archive:
        """The same archive with only some of the variables to be compressed."""
        variables = tuple(v for v in self.variables if v.name in names)
        return replace(self, variables=variables, raw_bytes=sum(v.nbytes for v in variables))

    @property
    def total_bytes(self) -> int:
        """Bytes of all that a store holds of it, as it is decoded."""
        return self.raw_bytes + sum(v.nbytes for v in self.carried.variables.values())

    def source_facts(self, snapshots: int) -> dict[str, Any]:
        """Describe the origin of the first `snapshots`, for their store."""
        history = history_of(self.marks, snapshots)
        known = {self.history: history} if history else {}
        stamp = {"stamp": self.stamp} if self.stamp else {}
        # Without the folder, which may reveal users and machines.
        name = self.name.rstrip("/\\").replace("\\", "/").rpartition("/")[2]
        return {"name": name, "fingerprint": self.fingerprint, **stamp, **known}

    @property
    def history(self) -> str:
        """Name of the fact that stores the `marks`: of files, or of values."""
        return "value_history" if self.marks_values else "history"

    def unchanging(self) -> AbstractContextManager[None]:
        """Return a context that raises at its end if the archive was written meanwhile."""
        return unchanging(self.locations, self.stamp)


def archive_from(
    provider: Provider,
    time: str,
    variables: str | Sequence[str],
    weights: str,
    exclude: str | Sequence[str] = "none",
) -> Archive:
    """Check and describe the archive of `provider` without reading values of any variable."""
    dataset = provider.dataset
    axis = time_axis(dataset, time, provider.name)
    chosen = select(dataset, axis.dim, variables, exclude, provider.name)
    pieces = {name: _piece(provider, name, axis.dim) for name in chosen.compressed}
    compressed = tuple(
        _variable(dataset, name, axis.dim, piece, weights, provider.name)
        for name, piece in pieces.items()
    )
    kept = {*chosen.compressed, *chosen.carried}
    refuse_names([*kept, *dataset.coords], provider.name)
    # Marks of one kind for all variables: otherwise changes of some would go unnoticed.
    marked = all(piece.marks for piece in pieces.values()) and (
        len({piece.marks_values for piece in pieces.values()}) == 1
    )
    return Archive(
        name=provider.name,
        variables=compressed,
        time=axis,
        carried=dataset.drop_vars((*chosen.compressed, *chosen.left_out)),
        order=tuple(str(name) for name in dataset.data_vars if name in kept),
        attrs=attributes_to_json(_text_keys(dataset.attrs)),
        encoding=encoding_to_json(_text_keys(dataset.encoding)),
        variable_attrs={
            name: attributes_to_json(_text_keys(dataset.variables[name].attrs)) for name in pieces
        },
        variable_encoding={
            name: encoding_to_json(_text_keys(dataset.variables[name].encoding)) for name in pieces
        },
        raw_bytes=sum(variable.nbytes for variable in compressed),
        fingerprint=_fingerprint(dataset, axis, pieces),
        marks={name: piece.marks for name, piece in pieces.items()} if marked else {},
        marks_values=any(piece.marks_values for piece in pieces.values()),
    )


def _piece(provider: Provider, name: str, time_dim: str) -> Piece:
    """The blocks of a variable, which have time as an axis of length 1 where there is none."""
    if time_dim != NO_TIME:
        return provider.piece(name, provider.dataset.variables[name].dims.index(time_dim))
    piece = provider.piece(name, 0)
    return Piece(SingleSnapshot(piece.source), ((1,), *piece.chunks), piece.digest)


def _variable(
    dataset: xr.Dataset, name: str, time_dim: str, piece: Piece, weights: str, archive: str
) -> ArchivedVariable:
    variable = dataset.variables[name]
    dims, shape = tuple(str(dim) for dim in variable.dims), variable.shape
    if time_dim == NO_TIME:
        dims, shape = (NO_TIME, *dims), (1, *shape)
    return ArchivedVariable(
        name=name,
        dims=dims,
        shape=shape,
        dtype=variable.dtype,
        chunks=piece.chunks,
        time_axis=dims.index(time_dim),
        source=piece.source,
        inner_product=InnerProduct(weights_of(dataset, name, time_dim, weights, archive)),
    )


def _fingerprint(dataset: xr.Dataset, axis: TimeAxis, pieces: Mapping[str, Piece]) -> str:
    described = {
        name: [list(map(str, v.dims)), list(v.shape), str(v.dtype), attributes_to_json(v.attrs)]
        for name, v in dataset.variables.items()
        if name in pieces or name in dataset.coords
    }
    parts: list[str | bytes] = [json.dumps(described, sort_keys=True), axis.values.tobytes()]
    # The first time too: the axis counts from it, so a shifted record has the same axis.
    if axis.dim in dataset.coords:
        parts.append(str(dataset[axis.dim].values[0]))
    for name, piece in sorted(pieces.items()):
        parts += [name, piece.digest]
    return digest_of(parts)


def _text_keys(mapping: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in mapping.items()}

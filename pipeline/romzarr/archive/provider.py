"""The interface of opened sources of all formats."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import xarray as xr

from romzarr.archive.blocks import Chunks
from romzarr.archive.history import Mark
from romzarr.contracts import BlockSource


@dataclass(frozen=True)
class Piece:
    """The blocks of one variable: their source, their grid and a digest of the stored data.

    ``marks`` are checksums along time, where chunks can be listed; with ``marks_values`` they are
    checksums of the values.
    """

    source: BlockSource
    chunks: Chunks
    digest: str
    marks: tuple[Mark, ...] = ()
    marks_values: bool = False


class Provider(Protocol):
    """An opened archive. ``name`` has no credentials; ``dataset`` is decoded and lazy."""

    @property
    def name(self) -> str: ...

    @property
    def dataset(self) -> xr.Dataset: ...

    def piece(self, name: str, time_axis: int) -> Piece:
        """Describe the blocks of data variable `name` without reading values."""
        ...


def digest_of(parts: Iterable[str | bytes]) -> str:
    """Compute the SHA-256 of `parts` and their lengths."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()

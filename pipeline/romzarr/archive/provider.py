"""What an opened source offers, whatever its format."""

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
    """One variable's blocks: where they come from, their grid, and a digest of what is stored.

    ``marks`` are checksums of that along time, where it is known chunk by chunk; of the values
    themselves if ``marks_values``.
    """

    source: BlockSource
    chunks: Chunks
    digest: str
    marks: tuple[Mark, ...] = ()
    marks_values: bool = False


class Provider(Protocol):
    """An opened archive. ``name`` is safe to print; ``dataset`` is decoded and lazy."""

    @property
    def name(self) -> str: ...

    @property
    def dataset(self) -> xr.Dataset: ...

    def piece(self, name: str, time_axis: int) -> Piece:
        """Blocks of the data variable `name`, without reading its values."""
        ...


def digest_of(parts: Iterable[str | bytes]) -> str:
    """sha256 over `parts`, told apart by their lengths."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()

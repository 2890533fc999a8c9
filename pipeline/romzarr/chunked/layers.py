"""Splitting the coded arrays of a draft into layers, chunk by chunk, and what these leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from romzarr.chunked.blocks import TileWriter
from romzarr.coding.layers import Payload, lost_squares, split
from romzarr.contracts import Matrix, Region
from romzarr.inner_product import InnerProduct

Index = tuple[int, ...]


class CodedDraft(Protocol):
    """A store before its commit; works in any process."""

    def payload(self, path: str, index: Index) -> Payload: ...

    def form(self, path: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shape of the chunks of an array, and the levels of their transform."""
        ...

    def decode(self, variable: str, time_axis: int, region: Region) -> NDArray[Any]: ...

    def decode_layers(
        self, variable: str, time_axis: int, region: Region, layers: int
    ) -> NDArray[Any]:
        """Decode from the first layers alone."""
        ...


@dataclass(frozen=True)
class LostSquares:
    """Task: the squares that layers with each of the ``steps`` miss of a chunk."""

    draft: CodedDraft
    path: str
    leading: Index
    steps: Sequence[float]

    def __call__(self, index: Index) -> Matrix:
        payload = self.draft.payload(self.path, (*self.leading, *index))
        return lost_squares(payload, *self.draft.form(self.path), self.steps)


@dataclass(frozen=True)
class SplitChunk:
    """Task: write the layers of a chunk, of which all but the last have these ``steps``.

    Returns the bytes of all of them.
    """

    draft: CodedDraft
    path: str
    leading: Index
    steps: Sequence[float]
    variable: str
    writers: Sequence[TileWriter]

    def __call__(self, index: Index) -> int:
        payload = self.draft.payload(self.path, (*self.leading, *index))
        contents = split(payload, *self.draft.form(self.path), self.steps)
        for writer, content in zip(self.writers, contents, strict=True):
            writer.write_tile(self.variable, index, content)
        return sum(map(len, contents))


@dataclass(frozen=True)
class MissedByLayers:
    """Task: squared differences of a region decoded from the first layers alone.

    Values that are no numbers do not count.
    """

    draft: CodedDraft
    variable: str
    time_axis: int
    inner: InnerProduct
    layers: int

    def __call__(self, region: Region) -> Matrix:
        axis = self.time_axis
        whole = self.draft.decode(self.variable, axis, region).astype(np.float64)
        inner = self.inner.on((*region[:axis], *region[axis + 1 :]))
        found = np.zeros(self.layers)
        for number in range(self.layers):
            part = self.draft.decode_layers(self.variable, axis, region, number + 1)
            with np.errstate(invalid="ignore"):
                squares = np.nan_to_num((part - whole) ** 2, nan=0.0, posinf=0.0)
            found[number] = inner.sum(squares.sum(axis=axis))
        return found

"""Coding of a variable to the bit, tile by tile: what ways of coding cost, and writing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from romzarr.chunked.blocks import Tile, TileWriter
from romzarr.chunked.fields import middle
from romzarr.coding.exact import QUICK_LEVEL, ExactCoding, Packing, encode_exact, packs
from romzarr.contracts import Matrix, ReadBlock


@dataclass(frozen=True)
class Trial:
    """Task: bytes of the middle of a tile in each of some ways (infinite: not in this one)."""

    codings: Sequence[ExactCoding]
    points: int

    def __call__(self, block: ReadBlock, tile: Tile) -> Matrix:
        values = block.values[middle(tuple(slice(0, n) for n in block.values.shape), self.points)]
        return np.array([self._size(values, coding) for coding in self.codings])

    def _size(self, values: Any, coding: ExactCoding) -> float:
        if coding.packing is not None and not packs(values, coding.packing):
            return np.inf
        return len(encode_exact(values, values.shape, coding, QUICK_LEVEL))


@dataclass(frozen=True)
class WriteExact:
    """Task: code a tile and put it into the store.

    Returns the bytes and chunks that were read for it, and 1 if its values are not what they
    should be packed in: then nothing was written.
    """

    writer: TileWriter
    variable: str
    coding: ExactCoding

    def __call__(self, block: ReadBlock, tile: Tile) -> NDArray[np.int64]:
        packing: Packing | None = self.coding.packing
        refused = packing is not None and not packs(block.values, packing)
        if not refused:
            content = encode_exact(block.values, tile.shape, self.coding)
            self.writer.write_tile(self.variable, tile.index, content)
        return np.array([block.bytes_read, block.chunks_read, refused], np.int64)

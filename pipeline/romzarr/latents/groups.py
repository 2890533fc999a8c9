"""Groups of layers, whose tokens are coded together in blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from romzarr.latents.arrays import Precision
from romzarr.latents.cache_codec import CacheCodec
from romzarr.latents.codec import Codec, Codes
from romzarr.latents.layers import SIDES

Values = NDArray[np.float32]
# What turning a key back and again may change of it: in float32, an angle, two products and a sum
# each time.
TURNING = 2.0**-21
# Codes of a block: of keys and of values, of each sequence of the batch.
Block = tuple[tuple[Codes, ...], tuple[Codes, ...]]


@dataclass(frozen=True)
class Group:
    """Codes and decodes the keys and values of some layers.

    Attributes
    ----------
    codec : CacheCodec
    number : int
        Which group of the codec.
    block : int
        Tokens of a block.
    sinks : int
        Position of the first coded token.
    bound : float or None
        Of the relative error of each block.
    """

    codec: CacheCodec
    number: int
    block: int
    sinks: int
    bound: float | None

    @property
    def layers(self) -> range:
        start = self.number * self.codec.group
        return range(start, min(start + self.codec.group, self.codec.layers))

    @property
    def _codecs(self) -> tuple[Codec, Codec]:
        return self.codec.keys[self.number], self.codec.values[self.number]

    def encode(
        self, sides: Sequence[Sequence[Values]], first: int, precision: Precision
    ) -> list[Block]:
        """Blocks of tokens.

        Parameters
        ----------
        sides : pair of sequences of ndarray (batch, heads, tokens, dim)
            Keys and values of each layer, of a multiple of the tokens of a block.
        first : int
            Number of the first block, which tells positions.
        precision : Precision
            Of the type that the values came in.
        """
        stacked = [np.stack(list(side)) for side in sides]
        if self.codec.rotary is not None:
            stacked[0] = self.codec.rotary.undo(stacked[0], self.sinks + first * self.block)
        # (batch, tokens, layers, heads, dim)
        rows = [each.transpose(1, 3, 0, 2, 4) for each in stacked]
        starts = range(0, rows[0].shape[1], self.block)
        return [
            (self._coded(0, rows[0][:, k : k + self.block], precision),
             self._coded(1, rows[1][:, k : k + self.block], precision))
            for k in starts
        ]  # fmt: skip

    def _coded(self, side: int, tokens: Values, precision: Precision) -> tuple[Codes, ...]:
        codec = self._codecs[side]
        if side == 0 and self.codec.rotary is not None:
            precision = replace(precision, relative=precision.relative + TURNING)
        rows = tokens.reshape(*tokens.shape[:2], -1)
        if self.bound is None:
            return tuple(codec.encode_values(row) for row in rows)
        return tuple(codec.encode_within(row, self.bound, precision) for row in rows)

    def decode(self, blocks: Sequence[Block], layer: int, side: int, first: int) -> Values:
        """Keys or values (batch, heads, tokens, dim) of one layer.

        Parameters
        ----------
        blocks : sequence of Block
            One or more that follow one another.
        layer : int
        side : int
            0 for keys, 1 for values.
        first : int
            Number of the first block, which tells positions.
        """
        batch, width = len(blocks[0][side]), self.codec.width
        place = (layer - self.layers.start) * width
        codes = [block[side][row] for row in range(batch) for block in blocks]
        found = self._codecs[side].decode_values(codes, slice(place, place + width))
        shape = (batch, len(blocks) * self.block, self.codec.heads, self.codec.dim)
        rows = found.reshape(shape)
        if side == 0 and self.codec.rotary is not None:
            self.codec.rotary.turn_rows(rows, self.sinks + first * self.block)
        return rows.swapaxes(1, 2)


def bytes_of(blocks: Sequence[Block]) -> int:
    """Bytes of codes."""
    return sum(codes.nbytes for block in blocks for side in block for codes in side)


def selected(block: Block, rows: NDArray[np.int64]) -> Block:
    """Some sequences of the batch."""
    keys, values = (tuple(block[side][row] for row in rows) for side in range(SIDES))
    return keys, values

"""A cache of keys and values that codes tokens as they grow old.

The first tokens and the last ones stay as they came. Between them are blocks, each coded by
itself when its tokens leave the window, so no token is coded twice. Groups of layers code at
different tokens: a token makes one group wait, not all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from romzarr.arguments import as_whole, shown, wrong_type
from romzarr.errors import ConfigError
from romzarr.latents.arrays import as_values, concatenated, like, precision_of
from romzarr.latents.cache_codec import SINKS, CacheCodec
from romzarr.latents.codec import as_bound
from romzarr.latents.groups import Block, Group, bytes_of, selected
from romzarr.latents.layers import SIDES, TOKENS, Layer

# Tokens that stay as they came: the setting of arXiv:2511.01815.
WINDOW = 128
# Fewest tokens of a block: a payload has 16 bytes of its own, two percent of one of 8 tokens of
# five layers at a bit a value.
LEAST_BLOCK = 8
# Tokens that are decoded at once, in float32: what is read beyond is in the type of the cache.
SPAN = 256


@dataclass(frozen=True)
class Part:
    """All that a cache holds of a layer, for who moves it: arrays of keys and of values, or None.

    `blocks` are those of the group of the layer; `is_first` tells the first layer of a group.
    """

    sinks: list[Any]
    recent: list[Any]
    blocks: list[Block]
    is_first: bool


class KVCache:
    """Keys and values of all layers of a decoder, coded.

    Arrays are of NumPy, JAX or torch, on any device; codes are in the memory of the CPU. A cache
    is used by one thread at a time.

    Parameters
    ----------
    codec : CacheCodec
        Calibrated with this model.
    sinks : int, default 4
        First tokens that stay as they came.
    window : int, default 128
        Last tokens that do; up to two blocks more wait to be coded.
    block : int, optional
        Tokens that are coded together. By default the least power of two that gives each group of
        layers a token of its own to code at, and 8 or more: then all tokens wait about equally.
    bound : float, optional
        Largest L2 error of the keys, and of the values, of each block of each sequence in a group
        of layers, relative to their distance from the mean of the calibration. A block that the
        calibration cannot code so well takes more bits, at most those of float32.
    model : str, optional
        Fingerprint that the calibration has to have.

    Raises
    ------
    ConfigError
        If a number is not allowed, or the calibration is of another model.

    Examples
    --------
    >>> import numpy as np
    >>> from romzarr.latents import KVCache, calibrate_cache
    >>> shape = (2, 1, 2, 512, 8)  # layers, batch, heads, tokens, dim
    >>> samples = np.random.default_rng(0).standard_normal(shape).astype(np.float16)
    >>> cache = KVCache(calibrate_cache(samples, samples, bits=3.0, group=1))
    >>> for layer in range(2):
    ...     cache.append(layer, samples[layer], samples[layer])
    >>> cache.tokens, cache.keys(0).shape, cache.nbytes < samples.nbytes
    (512, (1, 2, 512, 8), True)
    """

    def __init__(
        self,
        codec: CacheCodec,
        *,
        sinks: int = SINKS,
        window: int = WINDOW,
        block: int | None = None,
        bound: float | None = None,
        model: str | None = None,
    ) -> None:
        if not isinstance(codec, CacheCodec):
            raise wrong_type("codec", codec, "a CacheCodec, as calibrate_cache() makes it")
        if model is not None and model != codec.model:
            raise ConfigError(
                f"codec: found a calibration of the model {shown(codec.model)}, allowed is one of "
                f"{shown(model)}; calibrate with this model"
            )
        self.codec = codec
        self.sinks = as_whole(sinks, "sinks", 0)
        self.window = as_whole(window, "window", 0)
        self.block = _block_for(len(codec.keys)) if block is None else as_whole(block, "block", 1)
        self.bound = None if bound is None else as_bound(bound)
        self._layers = [Layer() for _ in range(codec.layers)]
        self._blocks: list[list[Block]] = [[] for _ in codec.keys]
        self._groups = [
            Group(codec, number, self.block, self.sinks, self.bound)
            for number in range(len(codec.keys))
        ]

    # --- sizes ----------------------------------------------------------------------------

    @property
    def tokens(self) -> int:
        """Tokens of the last layer, which all layers have between two tokens."""
        return self.tokens_of(self.codec.layers - 1)

    @property
    def nbytes(self) -> int:
        """Bytes of codes, and of what is kept as it came; without the calibration."""
        return self.coded_nbytes + sum(layer.nbytes for layer in self._layers)

    @property
    def coded_nbytes(self) -> int:
        """Bytes of codes."""
        return sum(map(bytes_of, self._blocks))

    @property
    def coded_tokens(self) -> int:
        """Tokens of the last layer that are coded."""
        return len(self._blocks[-1]) * self.block

    def tokens_of(self, layer: int) -> int:
        """Tokens of a layer."""
        state = self._layer(layer)
        coded = len(self._blocks[layer // self.codec.group]) * self.block
        return state.first_tokens + coded + state.tokens

    @property
    def batch(self) -> int | None:
        """Sequences of the batch, once there are any."""
        return next((layer.batch for layer in self._layers if layer.batch is not None), None)

    # --- writing --------------------------------------------------------------------------

    def append(self, layer: int, keys: Any, values: Any) -> None:
        """Add tokens to a layer, one or many.

        Parameters
        ----------
        layer : int
        keys, values : array (batch, heads, tokens, dim)
            Keys as attention uses them, turned by their positions. Kept by reference until they
            are coded: do not change them.

        Raises
        ------
        ConfigError
            If a shape is not that of the calibration or of the tokens before, or the type is not
            float16, bfloat16, float32 or float64.
        GapsError
            If a value is not finite.
        """
        state = self._layer(layer)
        shape = (self.batch, self.codec.heads, None, self.codec.dim)
        as_values(keys, "keys", shape)
        as_values(values, "values", tuple(keys.shape))
        state.add(keys, values, self.sinks)
        self._code_old(layer // self.codec.group)

    def truncate(self, tokens: int) -> None:
        """Forget all but the first tokens, in all layers.

        Tokens of a block that is cut are from then on what they decode to.

        Raises
        ------
        ConfigError
            If there are fewer tokens.
        """
        as_whole(tokens, "tokens", 0)
        if tokens > self.tokens:
            raise ConfigError(f"tokens: found {tokens}, allowed are up to {self.tokens}")
        coded = max(tokens - self.sinks, 0)
        for number, blocks in enumerate(self._blocks):
            whole = coded // self.block
            if whole < len(blocks):
                self._cut(number, whole, coded - whole * self.block)
                continue
            for layer in self._groups[number].layers:
                self._layers[layer].keep(coded - len(blocks) * self.block)
        if tokens < self.sinks:
            for state in self._layers:
                state.sinks = [each[:, :, :tokens] for each in state.sinks]

    def copy(self) -> KVCache:
        """A cache that goes on by itself; codes are shared, as nothing changes them."""
        return self._with(
            [layer.copy() for layer in self._layers], [list(blocks) for blocks in self._blocks]
        )

    def select(self, rows: Sequence[int]) -> KVCache:
        """A cache of some sequences of the batch, in any order and as often as they are named.

        Raises
        ------
        ConfigError
            If there is no sequence of such a number, or none is named.
        """
        index = np.array([as_whole(row, "rows") for row in rows], np.int64)
        batch = self.batch
        if batch is not None and not (index.size and 0 <= index.min() <= index.max() < batch):
            raise ConfigError(
                f"rows: found {shown(index.tolist())}, allowed are numbers from 0 to {batch - 1}, "
                "one or more"
            )
        return self._with(
            [layer.select(index) for layer in self._layers],
            [[selected(block, index) for block in blocks] for blocks in self._blocks],
        )

    # --- reading --------------------------------------------------------------------------

    def keys(self, layer: int, tokens: slice = slice(None)) -> Any:
        """Keys (batch, heads, tokens, dim) of a layer, of the framework and type of the last.

        Parameters
        ----------
        layer : int
        tokens : slice, default all
            Without a step; only its blocks are decoded.

        Raises
        ------
        ConfigError
            If nothing was appended yet, or the slice has a step.
        """
        return self._read(layer, 0, tokens)

    def values(self, layer: int, tokens: slice = slice(None)) -> Any:
        """Values, as `keys` are read."""
        return self._read(layer, 1, tokens)

    def _read(self, layer: int, side: int, tokens: slice) -> Any:
        state = self._layer(layer)
        if not state.sinks and not state.tokens:
            raise ConfigError(f"layer: found {layer}, to which no token was appended yet")
        if not isinstance(tokens, slice) or tokens.step not in (None, 1):
            raise ConfigError(f"tokens: found {shown(tokens)}, allowed are slices without a step")
        start, stop, _ = tokens.indices(self.tokens_of(layer))
        first = state.first_tokens
        last = first + len(self._blocks[layer // self.codec.group]) * self.block
        recent = state.joined(side)
        sample = recent if recent is not None else state.sinks[side]
        parts = []
        if start < first:
            parts.append(state.sinks[side][:, :, start:stop])
        coded = self._decoded(layer, side, max(start, first) - first, min(stop, last) - first)
        parts += [like(each, sample) for each in coded]
        if stop > last and recent is not None:
            parts.append(recent[:, :, max(start - last, 0) : stop - last])
        return concatenated(parts, TOKENS) if parts else sample[:, :, :0]

    def _decoded(self, layer: int, side: int, start: int, stop: int) -> Iterator[Any]:
        """Coded tokens of a layer, counted from the first coded one, some at a time."""
        number = layer // self.codec.group
        together, end = max(SPAN // self.block, 1), -(-stop // self.block)
        for first in range(start // self.block, end, together):
            some = self._blocks[number][first : min(first + together, end)]
            found = self._groups[number].decode(some, layer, side, first)
            offset = first * self.block
            yield found[:, :, max(start - offset, 0) : stop - offset]

    # --- coding ---------------------------------------------------------------------------

    def _code_old(self, number: int) -> None:
        """Code the blocks of a group that have left the window of all its layers."""
        group, blocks = self._groups[number], self._blocks[number]
        states = [self._layers[layer] for layer in group.layers]
        # Groups take turns, so that not all of them code at one token.
        limit = self.window + self.block + number * self.block // len(self._blocks)
        count = (min(state.tokens for state in states) - limit) // self.block + 1
        if count <= 0:
            return
        span = count * self.block
        sides = [
            [as_values(state.joined(side)[:, :, :span], "keys", (None,) * 4) for state in states]
            for side in range(SIDES)
        ]
        precision = precision_of(states[0].recent[0][0])
        blocks += group.encode(sides, len(blocks), precision)
        for state in states:
            state.drop(span)

    def _cut(self, number: int, whole: int, rest: int) -> None:
        """Keep `whole` blocks of a group, and `rest` tokens of the next as they decode."""
        start = whole * self.block
        for layer in self._groups[number].layers:
            state = self._layers[layer]
            samples = state.sinks or [side[0] for side in state.recent]
            recent: list[list[Any]] = [[] for _ in range(SIDES)]
            for side, parts in enumerate(recent):
                decoded = self._decoded(layer, side, start, start + rest)
                parts += [like(each, samples[side]) for each in decoded]
            state.recent, state.tokens = recent, rest
        del self._blocks[number][whole:]

    # --- parts ----------------------------------------------------------------------------

    def parts(self) -> list[Part]:
        """What the cache holds, layer by layer; nothing is copied."""
        return [
            Part(
                state.sinks or [None, None],
                [state.joined(side) for side in range(SIDES)],
                self._blocks[layer // self.codec.group],
                layer % self.codec.group == 0,
            )
            for layer, state in enumerate(self._layers)
        ]

    def restore(self, parts: Sequence[Part]) -> None:
        """Hold what `parts` of a cache with the same calibration told."""
        for layer, part in enumerate(parts):
            sinks = [each for each in part.sinks if each is not None]
            recent = [[] if each is None else [each] for each in part.recent]
            tokens = recent[0][0].shape[TOKENS] if recent[0] else 0
            self._layers[layer] = Layer(sinks, recent, int(tokens))
            if layer % self.codec.group == 0:
                self._blocks[layer // self.codec.group] = list(part.blocks)

    def _with(self, layers: list[Layer], blocks: list[list[Block]]) -> KVCache:
        found = KVCache(
            self.codec, sinks=self.sinks, window=self.window, block=self.block, bound=self.bound
        )
        found._layers, found._blocks = layers, blocks
        return found

    def _layer(self, layer: int) -> Layer:
        if not 0 <= as_whole(layer, "layer") < self.codec.layers:
            raise ConfigError(
                f"layer: found {layer}, allowed are 0 to {self.codec.layers - 1}, the layers of "
                "the calibration"
            )
        return self._layers[layer]


def _block_for(groups: int) -> int:
    return max(LEAST_BLOCK, 2 ** (groups - 1).bit_length())

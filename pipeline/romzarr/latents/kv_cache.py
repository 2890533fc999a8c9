"""A cache of keys and values that codes tokens as they grow old.

The first tokens and the last ones stay as they came. Between them are blocks, each coded by
itself when its tokens leave the window, so no token is coded twice. Groups of layers code at
different tokens: a token makes one group wait, not all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from romzarr.arguments import as_whole, shown
from romzarr.errors import ConfigError
from romzarr.latents.arrays import (
    as_values,
    concatenated,
    dtype_name,
    framework_of,
    like,
    rounding_of,
)
from romzarr.latents.cache_codec import SINKS, CacheCodec
from romzarr.latents.codec import Codec, Codes, as_bound

Values = NDArray[np.float32]

# Tokens that stay as they came: the setting of arXiv:2511.01815.
WINDOW = 128
# Fewest tokens of a block: a payload has 16 bytes of its own, two percent of one of 8 tokens of
# five layers at a bit a value.
LEAST_BLOCK = 8

# Keys and values.
_SIDES = 2
_TOKENS = 2  # axis of tokens of (batch, heads, tokens, dim)


@dataclass
class _Layer:
    """Keys and values of a layer that are kept as they came."""

    sinks: list[Any] = field(default_factory=list)
    recent: list[list[Any]] = field(default_factory=lambda: [[], []])
    # Tokens in `recent`.
    tokens: int = 0

    def copy(self) -> _Layer:
        return _Layer(list(self.sinks), [list(side) for side in self.recent], self.tokens)

    def joined(self, side: int) -> Any:
        """All recent tokens in one array, or None."""
        parts = self.recent[side]
        if len(parts) > 1:
            parts[:] = [concatenated(parts, _TOKENS)]
        return parts[0] if parts else None


# Codes of a block: of keys and of values, of each sequence of the batch.
_Block = tuple[tuple[Codes, ...], tuple[Codes, ...]]


@dataclass(frozen=True)
class Part:
    """All that a cache holds of a layer, for who moves it: arrays of keys and of values, or None.

    `blocks` are those of the group of the layer; `is_first` tells the first layer of a group.
    """

    sinks: list[Any]
    recent: list[Any]
    blocks: list[_Block]
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
        self._layers = [_Layer() for _ in range(codec.layers)]
        self._blocks: list[list[_Block]] = [[] for _ in codec.keys]

    # --- sizes ----------------------------------------------------------------------------

    @property
    def tokens(self) -> int:
        """Tokens of the last layer, which all layers have between two tokens."""
        return self.tokens_of(self.codec.layers - 1)

    @property
    def nbytes(self) -> int:
        """Bytes of codes, and of what is kept as it came; without the calibration."""
        return self.coded_nbytes + sum(
            each.nbytes
            for layer in self._layers
            for each in (*layer.sinks, *layer.recent[0], *layer.recent[1])
        )

    @property
    def coded_nbytes(self) -> int:
        """Bytes of codes."""
        return sum(
            codes.nbytes
            for blocks in self._blocks
            for block in blocks
            for side in block
            for codes in side
        )

    @property
    def coded_tokens(self) -> int:
        """Tokens of the last layer that are coded."""
        return len(self._blocks[-1]) * self.block

    def tokens_of(self, layer: int) -> int:
        """Tokens of a layer."""
        state = self._layer(layer)
        first = state.sinks[0].shape[_TOKENS] if state.sinks else 0
        coded = len(self._blocks[layer // self.codec.group]) * self.block
        return int(first + coded + state.tokens)

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
        first = self.sinks - (state.sinks[0].shape[_TOKENS] if state.sinks else 0)
        if first > 0:
            heads = [each[:, :, :first] for each in (keys, values)]
            old = state.sinks
            state.sinks = [
                concatenated([*old[k : k + 1], each], _TOKENS) for k, each in enumerate(heads)
            ]
            keys, values = keys[:, :, first:], values[:, :, first:]
        if keys.shape[_TOKENS]:
            state.recent[0].append(keys)
            state.recent[1].append(values)
            state.tokens += int(keys.shape[_TOKENS])
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
            else:
                self._shorten(number, coded - len(blocks) * self.block)
        if tokens < self.sinks:
            for state in self._layers:
                state.sinks = [each[:, :, :tokens] for each in state.sinks]

    def copy(self) -> KVCache:
        """A cache that goes on by itself; codes are shared, as nothing changes them."""
        return self._with(
            [layer.copy() for layer in self._layers], [list(blocks) for blocks in self._blocks]
        )

    def select(self, rows: Sequence[int]) -> KVCache:
        """A cache of some sequences of the batch, in any order and as often as they are named."""
        index = np.array([int(row) for row in rows], np.int64)
        layers = []
        for layer in self._layers:
            sinks = [each[index] for each in layer.sinks]
            recent = [[each[index] for each in side] for side in layer.recent]
            layers.append(_Layer(sinks, recent, layer.tokens))
        blocks = [
            [(tuple(k[i] for i in index), tuple(v[i] for i in index)) for k, v in each]
            for each in self._blocks
        ]
        return self._with(layers, blocks)

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
        if tokens.step not in (None, 1):
            raise ConfigError(f"tokens: found {shown(tokens)}, allowed are slices without a step")
        start, stop, _ = tokens.indices(self.tokens_of(layer))
        blocks = self._blocks[layer // self.codec.group]
        first = state.sinks[0].shape[_TOKENS] if state.sinks else 0
        last = first + len(blocks) * self.block
        recent = state.joined(side)
        sample = recent if recent is not None else state.sinks[side]
        parts = []
        if start < first:
            parts.append(state.sinks[side][:, :, start:stop])
        if max(start, first) < min(stop, last):
            found = self._decoded(layer, side, max(start, first) - first, min(stop, last) - first)
            parts.append(like(found, sample))
        if stop > last and recent is not None:
            parts.append(recent[:, :, max(start - last, 0) : stop - last])
        return concatenated(parts, _TOKENS) if parts else sample[:, :, :0]

    def _decoded(self, layer: int, side: int, start: int, stop: int) -> Values:
        """Coded tokens of a layer, counted from the first coded one."""
        codec = (self.codec.keys, self.codec.values)[side][layer // self.codec.group]
        width, place = self.codec.width, layer % self.codec.group
        features = slice(place * width, (place + 1) * width)
        blocks = range(start // self.block, -(-stop // self.block))
        some = self._blocks[layer // self.codec.group][blocks.start : blocks.stop]
        batch = len(some[0][side])
        shape = (len(some) * self.block, self.codec.heads, self.codec.dim)
        rows = [
            codec.decode_values([block[side][row] for block in some], features).reshape(shape)
            for row in range(batch)
        ]
        found = np.stack(rows).swapaxes(1, 2)
        rotary = self.codec.rotary if side == 0 else None
        if rotary is not None:
            found = rotary.turn(found, self.sinks + blocks.start * self.block)
        offset = blocks.start * self.block
        return found[:, :, start - offset : stop - offset]

    # --- coding ---------------------------------------------------------------------------

    def _code_old(self, number: int) -> None:
        """Code the blocks of a group that have left the window of all its layers."""
        states = self._group(number)
        # Groups take turns, so that not all of them code at one token.
        limit = self.window + self.block + number * self.block // len(self._blocks)
        count = (min(state.tokens for state in states) - limit) // self.block + 1
        if count <= 0:
            return
        span = count * self.block
        sides = [
            [as_values(state.joined(side)[:, :, :span], "keys", (None,) * 4) for state in states]
            for side in range(_SIDES)
        ]
        first = self.sinks + len(self._blocks[number]) * self.block
        if self.codec.rotary is not None:
            sides[0] = [self.codec.rotary.undo(each, first) for each in sides[0]]
        rounding = rounding_of(dtype_name(states[0].recent[0][0]))
        for start in range(0, span, self.block):
            block = slice(start, start + self.block)
            self._blocks[number].append(
                (
                    self._coded(self.codec.keys[number], sides[0], block, rounding),
                    self._coded(self.codec.values[number], sides[1], block, rounding),
                )
            )
        for state in states:
            _drop(state, span)

    def _coded(
        self, codec: Codec, layers: Sequence[Values], block: slice, rounding: float
    ) -> tuple[Codes, ...]:
        """Codes of a block of a group, of each sequence."""
        # (batch, tokens, layers, heads, dim)
        found = np.stack([each[:, :, block] for each in layers], axis=1).transpose(0, 3, 1, 2, 4)
        rows = found.reshape(len(found), self.block, -1)
        if self.bound is None:
            return tuple(codec.encode_values(row) for row in rows)
        return tuple(codec.encode_within(row, self.bound, rounding) for row in rows)

    def _cut(self, number: int, whole: int, rest: int) -> None:
        """Keep `whole` blocks of a group, and `rest` tokens of the next as they decode."""
        start = whole * self.block
        for layer in self._members(number):
            state = self._layers[layer]
            decoded = [
                like(self._decoded(layer, side, start, start + rest), state.sinks[side])
                if state.sinks
                else like(self._decoded(layer, side, start, start + rest), state.recent[side][0])
                for side in range(_SIDES if rest else 0)
            ]
            state.recent = [[each] for each in decoded] or [[], []]
            state.tokens = rest
        del self._blocks[number][whole:]

    def _shorten(self, number: int, tokens: int) -> None:
        """Keep the first of the recent tokens of a group."""
        for state in self._group(number):
            if tokens < state.tokens:
                parts = [state.joined(side)[:, :, :tokens] for side in range(_SIDES)]
                state.recent = [[each] for each in parts] if tokens else [[], []]
                state.tokens = tokens

    # --- parts ----------------------------------------------------------------------------

    def parts(self) -> list[Part]:
        """What the cache holds, layer by layer; nothing is copied."""
        return [
            Part(
                state.sinks or [None, None],
                [state.joined(side) for side in range(_SIDES)],
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
            tokens = recent[0][0].shape[_TOKENS] if recent[0] else 0
            self._layers[layer] = _Layer(sinks, recent, int(tokens))
            if layer % self.codec.group == 0:
                self._blocks[layer // self.codec.group] = list(part.blocks)

    def _with(self, layers: list[_Layer], blocks: list[list[_Block]]) -> KVCache:
        found = KVCache(
            self.codec, sinks=self.sinks, window=self.window, block=self.block, bound=self.bound
        )
        found._layers, found._blocks = layers, blocks
        return found

    def _members(self, number: int) -> range:
        start = number * self.codec.group
        return range(start, min(start + self.codec.group, self.codec.layers))

    def _group(self, number: int) -> list[_Layer]:
        return [self._layers[layer] for layer in self._members(number)]

    def _layer(self, layer: int) -> _Layer:
        if not 0 <= as_whole(layer, "layer") < self.codec.layers:
            raise ConfigError(
                f"layer: found {layer}, allowed are 0 to {self.codec.layers - 1}, the layers of "
                "the calibration"
            )
        return self._layers[layer]

    @property
    def batch(self) -> int | None:
        """Sequences of the batch, once there are any."""
        for state in self._layers:
            for array in (*state.sinks[:1], *state.recent[0][:1]):
                return int(array.shape[0])
        return None


def _block_for(groups: int) -> int:
    return max(LEAST_BLOCK, 2 ** (groups - 1).bit_length())


def _drop(state: _Layer, tokens: int) -> None:
    """Drop the first of the recent tokens; a copy of the others, which holds no more memory."""
    state.tokens -= tokens
    for side in range(_SIDES):
        rest = state.joined(side)[:, :, tokens:]
        state.recent[side] = [_copied(rest)] if state.tokens else []


def _copied(array: Any) -> Any:
    framework = framework_of(array)
    if framework == "torch":
        return array.clone()
    return array if framework == "jax" else array.copy()

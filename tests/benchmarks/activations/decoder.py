"""A decoder of the Llama family in NumPy: what runs between tokens and logits, and its cache.

Weights are read from a GGUF file, which any package may carry. Keys are cached before they are
turned by their position: turned keys of a channel are waves, whatever the text.

References
----------
.. [1] H. Touvron et al., "LLaMA: open and efficient foundation language models",
   arXiv:2302.13971, section 2.2.
.. [2] J. Su, Y. Lu, S. Pan, B. Wen, Y. Liu, "RoFormer: enhanced transformer with rotary position
   embedding", arXiv:2104.09864.
.. [3] J. Ainslie et al., "GQA: training generalized multi-query transformer models",
   arXiv:2305.13245.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Tokens = NDArray[np.int64]

# Rows of attention scores held at once.
QUERIES = 256


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder: a head has ``width / heads`` features, ``kv_heads`` have keys."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    base: float = 1e4
    epsilon: float = 1e-5

    @property
    def head(self) -> int:
        return self.width // self.heads


@dataclass(frozen=True)
class Cache:
    """Keys, not yet turned by position, and values (layers, tokens, kv_heads * head)."""

    keys: Array
    values: Array

    @property
    def tokens(self) -> int:
        return self.keys.shape[1]

    def first(self, tokens: int) -> Cache:
        return Cache(self.keys[:, :tokens], self.values[:, :tokens])


@dataclass(frozen=True)
class Decoder:
    """Weights by the names that GGUF has for them: (outputs, inputs)."""

    shape: Shape
    weights: Mapping[str, Array]

    @classmethod
    def random(cls, shape: Shape, vocabulary: int, seed: int) -> Decoder:
        """A decoder that was never trained."""
        rng = np.random.default_rng(seed)
        kv, inner = shape.kv_heads * shape.head, 2 * shape.width
        sizes = {
            "attn_q": (shape.width, shape.width),
            "attn_k": (kv, shape.width),
            "attn_v": (kv, shape.width),
            "attn_output": (shape.width, shape.width),
            "ffn_gate": (inner, shape.width),
            "ffn_up": (inner, shape.width),
            "ffn_down": (shape.width, inner),
        }
        weights = {
            f"blk.{layer}.{name}": rng.standard_normal(size, np.float32) / size[1] ** 0.5
            for layer in range(shape.layers)
            for name, size in sizes.items()
        }
        norms = [f"blk.{k}.{n}_norm" for k in range(shape.layers) for n in ("attn", "ffn")]
        weights |= {name: np.ones(shape.width, np.float32) for name in (*norms, "output_norm")}
        weights["token_embd"] = rng.standard_normal((vocabulary, shape.width), np.float32)
        weights["token_embd"] /= shape.width**0.5
        return cls(shape, weights)

    @classmethod
    def from_gguf(cls, path: Path) -> Decoder:
        """The decoder in a GGUF file, its weights in float32."""
        import gguf

        reader = gguf.GGUFReader(path)

        def field(name: str) -> Any:
            return reader.get_field(f"llama.{name}").contents()

        shape = Shape(
            layers=field("block_count"),
            width=field("embedding_length"),
            heads=field("attention.head_count"),
            kv_heads=field("attention.head_count_kv"),
            base=field("rope.freq_base"),
            epsilon=field("attention.layer_norm_rms_epsilon"),
        )
        weights = {
            tensor.name.removesuffix(".weight"): np.asarray(
                gguf.dequantize(tensor.data, tensor.tensor_type), np.float32
            )
            for tensor in reader.tensors
        }
        return cls(shape, weights)

    def start(self, tokens: Sequence[int]) -> Array:
        """Hidden states (tokens, width) before the first layer."""
        return self.weights["token_embd"][np.asarray(tokens)]

    def layers(
        self, hidden: Array, first: int, past: Cache | None = None
    ) -> tuple[list[Array], Cache]:
        """Hidden states after each layer from `first` on; keys and values of the new tokens.

        `past` are those of the tokens before, of all layers.
        """
        states, keys, values = [], [], []
        for layer in range(first, self.shape.layers):
            before = None if past is None else (past.keys[layer], past.values[layer])
            hidden, k, v = self._layer(hidden, layer, before)
            states.append(hidden)
            keys.append(k)
            values.append(v)
        return states, Cache(np.stack(keys), np.stack(values))

    def logits(self, hidden: Array) -> Array:
        """Logits (tokens, vocabulary) of hidden states after the last layer."""
        normed = self._normed(hidden, "output_norm")
        found: Array = normed @ self.weights.get("output", self.weights["token_embd"]).T
        return found

    def _layer(
        self, hidden: Array, layer: int, past: tuple[Array, Array] | None
    ) -> tuple[Array, Array, Array]:
        def linear(values: Array, name: str) -> Array:
            return values @ self.weights[f"blk.{layer}.{name}"].T

        normed = self._normed(hidden, f"blk.{layer}.attn_norm")
        query, key, value = (linear(normed, f"attn_{name}") for name in "qkv")
        keys, values = key, value
        if past is not None:
            keys, values = np.concatenate([past[0], key]), np.concatenate([past[1], value])
        hidden = hidden + linear(self._attention(query, keys, values), "attn_output")
        normed = self._normed(hidden, f"blk.{layer}.ffn_norm")
        gate = linear(normed, "ffn_gate")
        return hidden + linear(_silu(gate) * linear(normed, "ffn_up"), "ffn_down"), key, value

    def _normed(self, hidden: Array, name: str) -> Array:
        square = np.mean(hidden**2, axis=-1, keepdims=True)
        return hidden / np.sqrt(square + self.shape.epsilon) * self.weights[name]

    def _attention(self, query: Array, key: Array, value: Array) -> Array:
        """Values that the last tokens attend to; each sees itself and all before."""
        before, head = len(key) - len(query), self.shape.head
        q = self._turned(query.reshape(len(query), -1, head), before)
        k = self._turned(key.reshape(len(key), -1, head), 0)
        v = value.reshape(len(value), -1, head)
        group = self.shape.heads // self.shape.kv_heads
        out = np.empty_like(q)
        for start in range(0, len(q), QUERIES):
            stop = min(start + QUERIES, len(q))
            later = np.arange(before + stop) > np.arange(start, stop)[:, None] + before
            for number in range(self.shape.heads):
                mine = k[: before + stop, number // group], v[: before + stop, number // group]
                scores = q[start:stop, number] @ mine[0].T / np.float32(head**0.5)
                scores[later] = -np.inf
                out[start:stop, number] = _softmax(scores) @ mine[1]
        return out.reshape(len(query), -1)

    def _turned(self, values: Array, first: int) -> Array:
        """Pairs of features (tokens, heads, head) turned by their position."""
        speed = self.shape.base ** (-np.arange(0, self.shape.head, 2) / self.shape.head)
        angle = (first + np.arange(len(values)))[:, None, None] * speed
        cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
        even, odd = values[..., ::2], values[..., 1::2]
        out = np.empty_like(values)
        out[..., ::2], out[..., 1::2] = even * cos - odd * sin, even * sin + odd * cos
        return out


def _silu(values: Array) -> Array:
    return values / (1 + np.exp(-values))


def _softmax(scores: Array) -> Array:
    found = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return found / found.sum(axis=-1, keepdims=True)

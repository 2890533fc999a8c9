"""A decoder of transformers that serves: it reads a context, and goes on from a cache of it.

The protocol of KVTC [1]_: the first 4 and the last 128 tokens of the context stay as they are, and
logits of the tokens after it are compared with those of the cache undisturbed.

References
----------
.. [1] K. Staniszewski, A. Lancucki, "KV cache transform coding for compact storage in LLM
   inference", arXiv:2511.01815.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from romzarr.latents import Rotary
from tests.benchmarks.activations.decoder import Decoder

Array = NDArray[np.float32]

SINKS, WINDOW = 4, 128


@dataclass(frozen=True)
class Output:
    """Change of the next-token distributions, of all scored tokens."""

    divergences: Array
    agreement: Array
    # Of what followed, with the cache undisturbed and changed.
    losses: tuple[Array, Array]

    @classmethod
    def joined(cls, parts: Sequence[Output]) -> Output:
        def all_of(name: str) -> Array:
            return np.concatenate([getattr(each, name) for each in parts])

        losses = [np.concatenate([each.losses[k] for each in parts]) for k in range(2)]
        return cls(all_of("divergences"), all_of("agreement"), (losses[0], losses[1]))

    def cells(self) -> list[Any]:
        exact, changed = (np.exp(each.mean()) for each in self.losses)
        return [
            float(self.divergences.mean()),
            float(np.quantile(self.divergences, 0.999)),
            f"{100 * (changed / exact - 1):+.2f} %",
            f"{100 * self.agreement.mean():.1f} %",
        ]


COLUMNS = ("KL divergence", "99.9 % of tokens below", "perplexity", "same first choice")


def of_decoder(decoder: Decoder) -> Any:
    """The same model for transformers, which turn halves of a head rather than pairs."""
    shape, weights = decoder.shape, decoder.weights
    config = LlamaConfig(
        vocab_size=len(weights["token_embd"]),
        hidden_size=shape.width,
        intermediate_size=len(weights["blk.0.ffn_gate"]),
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        rms_norm_eps=shape.epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": float(shape.base)},
        tie_word_embeddings="output" not in weights,
        max_position_embeddings=8192,
    )
    names = {
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
    }
    state = {"model.embed_tokens.weight": weights["token_embd"]}
    state["lm_head.weight"] = weights.get("output", weights["token_embd"])
    state["model.norm.weight"] = weights["output_norm"]
    for layer in range(shape.layers):
        for ours, theirs in names.items():
            tensor = weights[f"blk.{layer}.{ours}"]
            if ours in ("attn_q", "attn_k"):
                pairs = tensor.reshape(-1, shape.head // 2, 2, shape.width)
                tensor = pairs.swapaxes(1, 2).reshape(tensor.shape)
            state[f"model.layers.{layer}.{theirs}.weight"] = tensor
    model = LlamaForCausalLM(config).eval()
    model.load_state_dict({name: torch.tensor(tensor) for name, tensor in state.items()})
    return model


@dataclass(frozen=True)
class Serving:
    """A model that has read a context: its cache (layers, batch, heads, tokens, dim)."""

    model: Any
    tokens: Any
    context: int
    keys: Array
    values: Array
    exact: Any

    @classmethod
    def of(cls, model: Any, tokens: Sequence[int], context: int) -> Serving:
        ids = torch.tensor(np.asarray(tokens))[None]
        cache = DynamicCache()
        with torch.no_grad():
            model(input_ids=ids[:, :context], cache=cache, logits_to_keep=1)
        keys, values = (
            np.stack([getattr(layer, name).numpy() for layer in cache.layers])
            for name in ("keys", "values")
        )
        exact = _following(model, ids, context, _cache_of(keys, values))
        return cls(model, ids, context, keys, values, exact)

    @property
    def coded(self) -> slice:
        """Tokens that are not kept as they are."""
        return slice(SINKS, self.context - WINDOW)

    def with_cache(self, keys: Array, values: Array) -> Output:
        """What follows, after coded tokens in place of those of the context."""
        both = [self.keys.copy(), self.values.copy()]
        for mine, other in zip(both, (keys, values), strict=True):
            mine[..., self.coded, :] = other[..., self.coded, :]
        return self.after(_cache_of(*both))

    def after(self, cache: Any) -> Output:
        """What follows any cache of the context."""
        found = _following(self.model, self.tokens, self.context, cache)
        return compared(self.exact, found, self.tokens[0, self.context + 1 :])


def compared(exact: Any, changed: Any, following: Any) -> Output:
    """Log-probabilities (tokens, vocabulary) beside those of the model undisturbed."""
    divergences = torch.sum(exact.exp() * (exact - changed), dim=-1)
    places = torch.arange(len(following))
    losses = tuple((-each[places, following]).numpy() for each in (exact, changed))
    agreement = (exact.argmax(-1) == changed.argmax(-1)).float()
    return Output(divergences.numpy(), agreement.numpy(), losses)


def log_probabilities(logits: Any) -> Any:
    return torch.log_softmax(logits.float(), dim=-1)


def rotary_of(model: Any) -> Rotary:
    return Rotary(model.model.rotary_emb.inv_freq.double().numpy())


def _following(model: Any, ids: Any, context: int, cache: Any) -> Any:
    with torch.no_grad():
        found = model(input_ids=ids[:, context:-1], cache=cache).logits[0]
    return log_probabilities(found)


def _cache_of(keys: Array, values: Array) -> Any:
    cache = DynamicCache()
    for layer, (k, v) in enumerate(zip(keys, values, strict=True)):
        cache.update(torch.from_numpy(k.copy()), torch.from_numpy(v.copy()), layer)
    return cache

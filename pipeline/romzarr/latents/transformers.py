"""A coded cache for the decoders of Hugging Face's transformers, and how to calibrate one.

>>> from romzarr.latents.transformers import CodedCache, calibrate_model  # doctest: +SKIP
>>> codec = calibrate_model(model, tokens, bits=1.5)  # doctest: +SKIP
>>> model.generate(**inputs, cache=CodedCache(codec))  # doctest: +SKIP

Needs the extra ``romzarr[transformers]``. Decoders whose layers all attend to all tokens are
served; windows that slide and states of linear attention are not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin

from romzarr.arguments import shown
from romzarr.errors import ConfigError
from romzarr.latents.cache_codec import GROUP, SINKS, CacheCodec, calibrate_cache
from romzarr.latents.codec import Codec
from romzarr.latents.kv_cache import KVCache
from romzarr.latents.positions import Rotary

# Texts whose gradients are taken: they cost as much as a step of training each.
GRADIENTS = 2


class CodedCache(Cache):  # type: ignore[misc]
    """Pass one as ``cache=``, in older code ``past_key_values=``, to a model or ``generate()``.

    The prompt is attended to as it is, and coded for the tokens after it.

    Parameters
    ----------
    codec : CacheCodec
        Of this model, from `calibrate_model` or `CacheCodec.load`.
    **options
        ``sinks``, ``window``, ``block``, ``bound``, ``model`` of `KVCache`.
    """

    def __init__(self, codec: CacheCodec, **options: Any) -> None:
        self.coded = KVCache(codec, **options)
        self._options = options
        super().__init__(layers=[_CodedLayer(self, k) for k in range(codec.layers)])

    def reset(self) -> None:
        """Forget all tokens."""
        self.coded = KVCache(self.coded.codec, **self._options)

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last tokens, as many as a negative number says."""
        if tokens_to_remove > 0:
            raise ConfigError(
                f"tokens_to_remove: found {tokens_to_remove}, allowed are 0 and negative numbers"
            )
        self.coded.truncate(self.coded.tokens + tokens_to_remove)

    def reorder_cache(self, beam_idx: Any) -> None:
        """Keep the beams of these numbers."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each sequence of the batch."""
        batch = self.coded.batch or 0
        self.coded = self.coded.select([row for row in range(batch) for _ in range(repeats)])

    def batch_select_indices(self, indices: Any) -> None:
        """Keep some sequences of the batch."""
        self.coded = self.coded.select(indices.tolist())


class _CodedLayer(CacheLayerMixin):  # type: ignore[misc]
    """What transformers ask of one layer."""

    is_croppable = True

    def __init__(self, cache: CodedCache, number: int) -> None:
        super().__init__()
        self._cache, self._number = cache, number

    def lazy_initialization(self, key_states: Any, value_states: Any) -> None:
        self.is_initialized = True

    def update(
        self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any
    ) -> tuple[Any, Any]:
        coded = self._cache.coded
        is_first = coded.tokens_of(self._number) == 0
        self.is_initialized = True
        coded.append(self._number, key_states.detach(), value_states.detach())
        if is_first:
            return key_states, value_states
        return coded.keys(self._number), coded.values(self._number)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return self._cache.coded.tokens_of(self._number)

    def get_max_length(self) -> int:
        return -1


def fingerprint(model: Any) -> str:
    """A short text that tells a model from others: its configuration and its first weights."""
    digest = hashlib.sha256()
    for name, weights in model.named_parameters():
        # Some numbers of each tensor: training changes all, and reading all takes seconds.
        some = weights.detach().flatten()[:64].to("cpu", torch.float32).numpy()
        digest.update(f"{name} {tuple(weights.shape)}".encode() + some.tobytes())
    return f"{type(model).__name__} {digest.hexdigest()[:16]}"


@dataclass(frozen=True, eq=False)
class Samples:
    """What a model cached of some texts, and what matters of it: `read_samples` makes it.

    Attributes
    ----------
    keys, values : ndarray of float32 (layers, texts, heads, tokens, dim)
    importance : pair of ndarray (layers, heads * dim), or None
    rotary : Rotary or None
    model : str
    """

    keys: NDArray[np.float32]
    values: NDArray[np.float32]
    importance: tuple[NDArray[np.float32], NDArray[np.float32]] | None
    rotary: Rotary | None
    model: str

    def calibrate(
        self, bits: float | None = None, *, error: float | None = None, group: int = GROUP
    ) -> CacheCodec:
        """As `romzarr.latents.calibrate_cache`; for several rates of one model."""
        return calibrate_cache(
            self.keys,
            self.values,
            bits,
            error=error,
            group=group,
            rotary=self.rotary,
            importance=self.importance,
            model=self.model,
        )


def calibrate_model(
    model: Any,
    tokens: Any,
    bits: float | None = None,
    *,
    error: float | None = None,
    group: int = GROUP,
    rotary: Rotary | None = None,
    gradients: int = GRADIENTS,
) -> CacheCodec:
    """Calibrate the cache of a decoder with texts for it to read.

    Parameters
    ----------
    model, tokens, rotary, gradients
        As `read_samples` has them.
    bits, error, group
        As `romzarr.latents.calibrate_cache` has them.

    Raises
    ------
    ConfigError
        As these raise it.
    """
    samples = read_samples(model, tokens, rotary=rotary, gradients=gradients)
    return samples.calibrate(bits, error=error, group=group)


def read_samples(
    model: Any, tokens: Any, *, rotary: Rotary | None = None, gradients: int = GRADIENTS
) -> Samples:
    """Let a decoder read texts, and keep what it caches.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A causal language model.
    tokens : integer tensor (texts, tokens)
        Some thousand tokens of what the model will read, texts of several hundred tokens each.
    rotary : Rotary, optional
        How keys are turned by their positions. Without it, the buffer ``inv_freq`` of the model
        tells; a model that has none has no rotary positions.
    gradients : int, default 2
        Texts whose gradients tell the importance of features; 0 for none, which costs bits. Takes
        memory and time as a step of training does.

    Raises
    ------
    ConfigError
        If `tokens` are not of two axes, or layers are turned with different frequencies.
    """
    tokens = torch.as_tensor(tokens, device=model.device)
    if tokens.ndim != 2 or not len(tokens):
        raise ConfigError(
            f"tokens: found the shape {tuple(tokens.shape)}, allowed is (texts, tokens)"
        )
    turned = _rotary_of(model) if rotary is None else rotary
    caches = [_read(model, text) for text in tokens]
    keys, values = (np.stack([cache[side] for cache in caches], axis=1) for side in range(2))
    importance = None
    if gradients:
        squares = [_squared_gradients(model, text, turned) for text in tokens[:gradients]]
        means = [np.mean([each[side] for each in squares], axis=0) for side in range(2)]
        importance = means[0], means[1]
    return Samples(keys, values, importance, turned, fingerprint(model))


def code_hidden_states(module: Any, codec: Codec) -> Any:
    """Pass the hidden states behind a module through a codec, as between two machines.

    Parameters
    ----------
    module : torch.nn.Module
        A layer whose output, or the first entry of it, is hidden states (batch, tokens, features).
    codec : Codec

    Returns
    -------
    torch.utils.hooks.RemovableHandle
        Its ``remove()`` ends it.
    """

    def coded(_module: Any, _inputs: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        flat = hidden.reshape(-1, hidden.shape[-1])
        found = codec.decode(codec.encode(flat), like=hidden).reshape(hidden.shape)
        return (found, *output[1:]) if isinstance(output, tuple) else found

    return module.register_forward_hook(coded)


class _Recorder(DynamicCache):  # type: ignore[misc]
    """Keeps the tensors that it is given, for their gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[tuple[Any, Any]] = []

    def update(
        self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Any, Any]:
        self.given.append((key_states, value_states))
        for each in (key_states, value_states):
            if each.requires_grad:
                each.retain_grad()
        super().update(key_states, value_states, layer_idx, *args, **kwargs)
        return key_states, value_states


def _read(model: Any, text: Any) -> tuple[Any, Any]:
    """Keys and values (layers, heads, tokens, dim) of a text."""
    recorder = _Recorder()
    with torch.no_grad():
        model(input_ids=text[None], use_cache=True, logits_to_keep=1, **_named(model, recorder))
    return _stacked([[each[0] for each in pair] for pair in recorder.given])


def _squared_gradients(model: Any, text: Any, rotary: Rotary | None) -> tuple[Any, Any]:
    """Mean squares (layers, heads * dim) of gradients by keys, not turned, and by values.

    Next tokens are drawn from what the model expects: so the squares are the diagonal of the
    Fisher information.
    """
    recorder = _Recorder()
    with _only_inputs(model), torch.enable_grad():
        embedded = model.get_input_embeddings()(text[None]).detach().requires_grad_()
        logits = model(inputs_embeds=embedded, use_cache=True, **_named(model, recorder)).logits[0]
        with torch.no_grad():
            drawn = torch.multinomial(torch.softmax(logits.float(), -1), 1)[:, 0]
        torch.nn.functional.cross_entropy(logits.float(), drawn, reduction="sum").backward()
    found = _stacked([[each.grad[0] for each in pair] for pair in recorder.given])
    keys = found[0] if rotary is None else rotary.undo(found[0], 0)
    squares = [np.mean(each[:, :, SINKS:] ** 2, axis=2) for each in (keys, found[1])]
    return squares[0].reshape(len(keys), -1), squares[1].reshape(len(keys), -1)


def _named(model: Any, cache: Cache) -> dict[str, Cache]:
    """The cache by the name that the model has for it, which transformers is changing."""
    is_new = "cache" in signature(model.forward).parameters
    return {"cache" if is_new else "past_key_values": cache}


def _stacked(pairs: Sequence[Sequence[Any]]) -> tuple[Any, Any]:
    sides = zip(*pairs, strict=True)
    keys, values = (torch.stack(list(s)).detach().to("cpu", torch.float32).numpy() for s in sides)
    return keys, values


@contextmanager
def _only_inputs(model: Any) -> Any:
    """Without gradients by the weights, which would take most of the memory."""
    wanted = [each for each in model.parameters() if each.requires_grad]
    for each in wanted:
        each.requires_grad_(False)
    try:
        yield
    finally:
        for each in wanted:
            each.requires_grad_(True)


def _rotary_of(model: Any) -> Rotary | None:
    found = [buffer for name, buffer in model.named_buffers() if name.endswith("inv_freq")]
    if any(each.shape != found[0].shape or not torch.equal(each, found[0]) for each in found):
        raise ConfigError(
            f"rotary: found layers of {shown(type(model).__name__)} with different frequencies, "
            "allowed are models of one kind of layers"
        )
    if not found:
        return None
    return Rotary(found[0].detach().to("cpu", torch.float64).numpy())

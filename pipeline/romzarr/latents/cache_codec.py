"""Calibration of a whole cache: groups of layers, whose heads are coded together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from romzarr.arguments import as_whole, shown, wrong_type
from romzarr.errors import ConfigError, StoreError
from romzarr.latents.arrays import as_values, check_shape
from romzarr.latents.calibration import directions_of, step_for
from romzarr.latents.codec import Codec
from romzarr.latents.files import Kind, Saved
from romzarr.latents.positions import Rotary

Values = NDArray[np.float32]

# Attention rests on the first tokens, and they look like no others: G. Xiao et al., "Efficient
# streaming language models with attention sinks", arXiv:2309.17453.
SINKS = 4
# Layers of a group. One is fastest to decode; more take fewer bits at the same divergence, as
# layers resemble one another: bench_activations compares them.
GROUP = 5


@dataclass(frozen=True, eq=False)
class CacheCodec(Saved):
    """Codecs of all layers of a model, which share one step.

    `romzarr.latents.calibrate_cache` makes one, `load` reads one from a file.

    Attributes
    ----------
    keys, values : tuple of Codec
        Of each group of layers, with layers * heads * dim features.
    layers, heads, dim, group : int
        Sizes of the cache, and layers of a group; the last group may have fewer.
    rotary : Rotary or None
        Positions that are undone before keys are coded.
    model : str
        Fingerprint of the model.
    """

    kind = Kind.CACHE

    keys: tuple[Codec, ...]
    values: tuple[Codec, ...]
    layers: int
    heads: int
    dim: int
    group: int
    rotary: Rotary | None = None
    model: str = ""

    @property
    def width(self) -> int:
        """Features of one layer."""
        return self.heads * self.dim

    @property
    def nbytes(self) -> int:
        return sum(codec.nbytes for codec in (*self.keys, *self.values))

    def content(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and facts, for a file."""
        facts: dict[str, Any] = {
            name: getattr(self, name) for name in ("layers", "heads", "dim", "group", "model")
        }
        arrays: dict[str, NDArray[Any]] = {}
        for kind, codecs in (("keys", self.keys), ("values", self.values)):
            for number, codec in enumerate(codecs):
                arrays |= codec.arrays(f"{kind}.{number}.")
        if self.rotary is not None:
            arrays["rotary.frequencies"] = np.asarray(self.rotary.frequencies, np.float64)
            facts["interleaved"] = self.rotary.interleaved
        return arrays, facts

    @classmethod
    def of_content(cls, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> CacheCodec:
        """What `content` told; raises a `StoreError` if arrays are missing or disagree."""
        count, name = -(-int(facts["layers"]) // int(facts["group"])), str(facts["model"])
        codecs = {
            kind: tuple(Codec.of_arrays(arrays, f"{kind}.{k}.", name) for k in range(count))
            for kind in ("keys", "values")
        }
        frequencies = arrays.get("rotary.frequencies")
        layers, heads, dim, group = (int(facts[k]) for k in ("layers", "heads", "dim", "group"))
        try:
            rotary = (
                None if frequencies is None else Rotary(frequencies, bool(facts["interleaved"]))
            )
            if rotary is not None:
                rotary.check(dim)
        except ConfigError as error:
            raise StoreError(f"rotary.frequencies: {error}; calibrate anew") from error
        widths = [min(group, layers - k) * heads * dim for k in range(0, layers, group)]
        if any([c.features for c in some] != widths for some in codecs.values()):
            raise StoreError(
                f"keys.*, values.*: the codecs do not have the {heads} * {dim} features of each of "
                f"{layers} layers; calibrate anew"
            )
        return cls(codecs["keys"], codecs["values"], layers, heads, dim, group, rotary, name)


def calibrate_cache(
    keys: Any,
    values: Any,
    bits: float | None = None,
    *,
    error: float | None = None,
    group: int = GROUP,
    rotary: Rotary | None = None,
    importance: tuple[Any, Any] | None = None,
    model: str = "",
) -> CacheCodec:
    """Calibrate the coding of a cache from caches of some texts.

    Parameters
    ----------
    keys, values : array (layers, batch, heads, tokens, dim)
        What layers cached of `batch` texts, all from position 0. Some thousand tokens together.
        The first four of each text are left out.
    bits : float, default 2.0
        Mean bits a value that the samples take.
    error : float, optional
        Instead of `bits`: L2 error of the samples relative to their fluctuation.
    group : int, default 5
        Layers that are coded together. One decodes fastest, more take fewer bits.
    rotary : Rotary, optional
        How keys were turned by their positions.
    importance : pair of arrays (layers, heads * dim), optional
        Weights of squared errors of keys, not turned, and of values: mean squared gradients of
        the model's loss. Without it the keys and the values of each layer count alike, relative
        to their fluctuation.
    model : str, default ""
        Fingerprint of the model, kept with the calibration.

    Returns
    -------
    CacheCodec

    Raises
    ------
    ConfigError
        If shapes disagree or a number is not allowed.
    GapsError
        If a value is not finite.
    """
    shape = _checked(keys, values)
    layers, _, heads, _, dim = shape
    as_whole(group, "group", 1)
    if rotary is not None:
        if not isinstance(rotary, Rotary):
            raise wrong_type("rotary", rotary, "a Rotary, such as Rotary.of_base(dim)")
        rotary.check(dim)
    sides = [_samples(keys, "keys", rotary), _samples(values, "values", None)]
    weights = [_weights(side, k, importance, shape) for k, side in enumerate(sides)]
    starts = range(0, layers, group)
    found, samples = [], []
    for side, weight in zip(sides, weights, strict=True):
        for start in starts:
            some = np.concatenate(list(side[start : start + group]), axis=1)
            found.append(directions_of(some, weight[start : start + group].ravel()))
            samples.append(some)
    step = step_for(found, samples, bits=bits, error=error)
    codecs = [each.codec(step, model) for each in found]
    count = len(starts)
    return CacheCodec(
        tuple(codecs[:count]), tuple(codecs[count:]), layers, heads, dim, group, rotary, model
    )


def _checked(keys: Any, values: Any) -> tuple[int, ...]:
    check_shape(keys, "keys", (None,) * 5)
    shape = tuple(int(length) for length in keys.shape)
    check_shape(values, "values", shape)
    if shape[3] <= SINKS:
        raise ConfigError(
            f"keys: found {shape[3]} tokens, of which the first {SINKS} are left out; give more"
        )
    return shape


def _samples(array: Any, name: str, rotary: Rotary | None) -> Values:
    """Tokens (layers, batch * tokens, heads * dim) without the first."""
    found = as_values(array, name, (None,) * 5)
    if rotary is not None:
        found = rotary.undo(found, 0)
    layers, _, heads, _, dim = found.shape
    return found[:, :, :, SINKS:].transpose(0, 1, 3, 2, 4).reshape(layers, -1, heads * dim)


def _weights(
    side: Values, number: int, importance: tuple[Any, Any] | None, shape: Sequence[int]
) -> Values:
    layers, width = shape[0], shape[2] * shape[4]
    if importance is None:
        fluctuation = side.var(axis=1, dtype=np.float64).sum(axis=1)
        each = 1 / np.where(fluctuation > 0, fluctuation, 1.0)
        return np.repeat(each[:, None], width, axis=1).astype(np.float32)
    if not isinstance(importance, tuple | list) or len(importance) != 2:
        raise ConfigError(
            f"importance: found {shown(importance)}, allowed is a pair: of keys and of values"
        )
    return as_values(importance[number], f"importance[{number}]", (layers, width))

"""KV cache and hidden states of a real decoder in memory: `romzarr.latents` beside integers.

``make bench-activations`` prints Markdown. The decoder reads a context; its cache is coded, but for
the first and last tokens; then it goes on from what was decoded. Calibration is on other texts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pydoc_data.topics import topics
from typing import Any

import numpy as np
from numpy.typing import NDArray

from romzarr.latents import CacheCodec, KVCache, calibrate
from romzarr.latents.transformers import Samples, code_hidden_states, read_samples
from tests.benchmarks.activations import smollm
from tests.benchmarks.activations.decoder import Decoder, Shape
from tests.benchmarks.activations.quantisation import quantised
from tests.benchmarks.activations.serving import COLUMNS, Output, Serving, compared, of_decoder
from tests.benchmarks.activations.serving import log_probabilities as logs
from tests.benchmarks.activations.transform_coding import TransformCoding
from tests.benchmarks.measure import machine, table

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """What is measured: texts of `length` tokens to calibrate with, windows to score."""

    texts: int = 8
    length: int = 1024
    context: int = 1536
    scored: int = 512
    windows: int = 2
    bits: Sequence[float] = (0.8, 1.2, 1.6, 2.0)
    groups: Sequence[int] = (5, 1)
    integers: Sequence[int] = (2, 4)
    hidden: Sequence[int] = (5, 15, 25)
    # Bits a value for which costs are measured, and tokens that are read for it.
    costs: float = 1.3
    read: int = 128


SMALLEST = Case(2, 160, 300, 20, 1, (2.0,), (2,), (4,), (0,))


# --- the cache ----------------------------------------------------------------------------


def cache_rows(case: Case, samples: Samples, windows: Sequence[Serving]) -> Iterator[list[Any]]:
    for group in case.groups:
        for bits in case.bits:
            codec = samples.calibrate(bits, group=group)
            name = f"romzarr, {group} layer{'s' * (group > 1)} a group"
            yield _row(name, windows, lambda w, codec=codec: _by_cache(w, codec))
    for bits in case.bits:
        peers = _kvtc(samples, bits, case.groups[0])
        yield _row("KVTC's recipe", windows, lambda w, p=peers: _by_kvtc(w, samples, *p))
    for bits in case.integers:
        for name, along in (("KIVI", "tokens"), ("integers per token", "features")):
            yield _row(
                f"{name}, {bits} bits", windows, lambda w, b=bits, a=along: _by_integers(w, b, a)
            )


Coded = tuple[Array, Array, float]


def _row(name: str, windows: Sequence[Serving], code: Callable[[Serving], Coded]) -> list[Any]:
    outputs, bits, errors = [], [], []
    for window in windows:
        keys, values, taken = code(window)
        outputs.append(window.with_cache(keys, values))
        bits.append(taken)
        sides = ((window.keys, keys), (window.values, values))
        errors.append([_error(x, d, window.coded) for x, d in sides])
    return [name, float(np.mean(bits)), *np.mean(errors, axis=0), *Output.joined(outputs).cells()]


def _by_cache(window: Serving, codec: CacheCodec) -> Coded:
    cache = KVCache(codec)
    for layer, (k, v) in enumerate(zip(window.keys, window.values, strict=True)):
        cache.append(layer, k, v)
    sides = [
        np.stack([read(k) for k in range(codec.layers)]) for read in (cache.keys, cache.values)
    ]
    coded = sum(len(blocks) for blocks in cache._blocks) / len(cache._blocks) * cache.block
    size = 2 * window.keys[..., 0, :].size * coded
    return sides[0], sides[1], 8 * cache.coded_nbytes / max(size, 1)


def _flat(array: Array) -> Array:
    """Tokens (layers, tokens, heads * dim) of one sequence."""
    return array[:, 0].swapaxes(1, 2).reshape(len(array), array.shape[3], -1)


def _unflat(array: Array, like: Array) -> Array:
    shape = (len(like), like.shape[3], like.shape[2], like.shape[4])
    return array.reshape(shape).swapaxes(1, 2)[:, None]


def _by_integers(window: Serving, bits: int, keys_along: str) -> Coded:
    sides, nbytes, size = [], 0, 0
    for array, along in ((window.keys, keys_along), (window.values, "features")):
        decoded = array.copy()
        for layer, tokens in enumerate(_flat(array[..., window.coded, :])):
            found, taken = quantised(tokens, bits, along)  # type: ignore[arg-type]
            decoded[layer, 0][:, window.coded] = _unflat(
                found[None], array[:1, :, :, window.coded]
            )[0, 0]
            nbytes, size = nbytes + taken, size + tokens.size
        sides.append(decoded)
    return sides[0], sides[1], 8 * nbytes / size


def _kvtc(samples: Samples, bits: float, group: int) -> tuple[list[list[TransformCoding]], int]:
    """Codecs of keys and of values for each group."""
    keys = samples.keys if samples.rotary is None else samples.rotary.undo(samples.keys, 0)
    found = []
    for array in (keys, samples.values):
        tokens = (
            array[:, :, :, 4:]
            .transpose(0, 1, 3, 2, 4)
            .reshape(len(array), -1, array.shape[2] * array.shape[4])
        )
        groups = [tokens[k : k + group] for k in range(0, len(tokens), group)]
        found.append([TransformCoding.of(np.concatenate(list(g), axis=1), bits) for g in groups])
    return found, group


def _by_kvtc(
    window: Serving, samples: Samples, codecs: list[list[TransformCoding]], group: int
) -> Coded:
    turned = samples.rotary
    keys = window.keys if turned is None else turned.undo(window.keys, 0)
    sides, nbytes, size = [], 0, 0
    for array, some in zip((keys, window.values), codecs, strict=True):
        tokens, decoded = _flat(array), _flat(array).copy()
        for number, codec in enumerate(some):
            layers = tokens[number * group : (number + 1) * group, window.coded]
            found, taken = codec.coded(np.concatenate(list(layers), axis=1), 128)
            parts = np.split(found, len(layers), axis=1)
            decoded[number * group : (number + 1) * group, window.coded] = parts
            nbytes, size = nbytes + taken, size + layers.size
        sides.append(_unflat(decoded, array))
    keys = sides[0] if turned is None else turned.turn(sides[0], 0)
    return keys, sides[1], 8 * nbytes / size


def _error(x: Array, decoded: Array, tokens: slice) -> float:
    """Relative to the fluctuation in time, of all coded tokens and layers."""
    x, decoded = x[..., tokens, :], decoded[..., tokens, :]
    return float(np.linalg.norm(x - decoded) / np.linalg.norm(x - x.mean(axis=3, keepdims=True)))


# --- costs --------------------------------------------------------------------------------


def cost_rows(case: Case, codec: CacheCodec, window: Serving) -> list[list[Any]]:
    """CPU time of this thread: other programs of the machine do not count, but for its caches."""
    half = [each.astype(np.float16) for each in (window.keys, window.values)]
    cache, seconds = KVCache(codec), []
    for token in range(window.context):
        before = time.thread_time()
        for layer in range(codec.layers):
            cache.append(layer, *(each[layer][:, :, token : token + 1] for each in half))
        seconds.append(time.thread_time() - before)
    # Once blocks are coded.
    coding = 1e3 * np.array(seconds[len(seconds) // 2 :])
    typical, rare = np.percentile(coding, [50, 99])
    tokens = slice(cache.sinks, cache.sinks + min(case.read, cache.coded_tokens))
    rates = [_gigabytes_a_second(cache, layer, tokens) for layer in range(codec.layers)]
    return [
        ["a token, all layers: mean, CPU ms", float(np.mean(coding))],
        ["p99 over p50 of a token", float(rare / typical)],
        [
            f"{case.read} tokens of one layer decoded, GB/s of float16, median of layers",
            float(np.median(rates)),
        ],
        ["calibration in memory, MB", codec.nbytes / 1e6],
    ]


def _gigabytes_a_second(cache: KVCache, layer: int, tokens: slice) -> float:
    taken, size = [], 0
    for _ in range(20):
        before = time.thread_time()
        size = cache.keys(layer, tokens).nbytes + cache.values(layer, tokens).nbytes
        taken.append(time.thread_time() - before)
    return float(size / np.median(taken) / 1e9)


# --- hidden states, dynamics --------------------------------------------------------------


def hidden_rows(case: Case, model: Any, texts: Any, window: Serving) -> Iterator[list[Any]]:
    """Hidden states behind a layer at 8 and at 4 bits, as they go from one machine to the next."""
    import torch

    def states_of(ids: Any) -> Any:
        with torch.no_grad():
            found = model.model(input_ids=ids, output_hidden_states=True)
        return [each.reshape(-1, each.shape[-1]).numpy() for each in found.hidden_states]

    samples = states_of(texts)
    ids = window.tokens[:, : window.context]
    states = states_of(ids)
    with torch.no_grad():
        exact = logs(model(input_ids=ids).logits[0])

    def row(name: str, decoded: Array, nbytes: int, hook: Any, seconds: float | None) -> list[Any]:
        with torch.no_grad():
            changed = logs(model(input_ids=ids).logits[0])
        hook.remove()
        output = compared(exact, changed, window.tokens[0, 1 : window.context + 1])
        taken = None if seconds is None else 1e6 * seconds / len(x)
        return [name, 8 * nbytes / x.size, _off(x, decoded), taken, *output.cells()]

    for layer in case.hidden:
        module = model.model.layers[layer]
        x = states[layer + 1]
        for bits in (8, 4):
            for what, group in (("", x.shape[1]), (", groups of 64", 64)):
                integers, nbytes = quantised(x, bits, "features", group)
                name = f"layer {layer}: int{bits} per token{what}"
                yield row(name, integers, nbytes, _replaced(module, integers), None)
            codec = calibrate(samples[layer + 1], bits=float(bits))
            before = time.thread_time()
            codes = codec.encode(x)
            decoded = codec.decode(codes)
            seconds = time.thread_time() - before
            hook = code_hidden_states(module, codec)
            yield row(f"layer {layer}: romzarr", decoded, codes.nbytes, hook, seconds)


def _off(x: Array, decoded: Array) -> float:
    return float(np.linalg.norm(decoded - x) / np.linalg.norm(x - x.mean(axis=0)))


def _replaced(module: Any, states: Array) -> Any:
    import torch

    def other(_module: Any, _inputs: Any, output: Any) -> Any:
        found = torch.from_numpy(states).reshape(1, *states.shape)
        return (found, *output[1:]) if isinstance(output, tuple) else found

    return module.register_forward_hook(other)


def dynamics_rows(samples: Samples) -> list[list[Any]]:
    """Bits a value that a linear predictor from the token before would save at most.

    Of the leading 64 principal coordinates of keys and of values of some layers, fitted on the
    first half of the tokens and measured on the second: half the logarithm of the ratio of
    variance to squared error, which is what is saved where errors are small.
    """
    keys = samples.keys if samples.rotary is None else samples.rotary.undo(samples.keys, 0)
    rows = []
    for name, array in (("keys", keys), ("values", samples.values)):
        for layer in np.unique(np.linspace(0, len(array) - 1, 4).astype(int)):
            x = array[layer][:, :, 4:].swapaxes(1, 2).reshape(-1, array.shape[2] * array.shape[4])
            x = x - x.mean(axis=0)
            coordinates = x @ np.linalg.eigh(x.T @ x)[1][:, ::-1][:, :64]
            half = len(x) // 2
            fit = np.linalg.lstsq(coordinates[: half - 1], coordinates[1:half], rcond=None)[0]
            left = coordinates[half + 1 :] - coordinates[half:-1] @ fit
            ratio = np.var(coordinates[half + 1 :], axis=0) / np.mean(left**2, axis=0)
            rows.append([f"{name} of layer {layer}", float(np.mean(0.5 * np.log2(ratio)))])
    return rows


# --- all of it ----------------------------------------------------------------------------


def loaded(case: Case, smallest: bool) -> tuple[Any, Any, list[list[int]]]:
    """The model, texts (texts, tokens) to calibrate with, and windows to score."""
    import torch

    length = case.context + case.scored + 1
    if smallest:
        decoder = Decoder.random(Shape(layers=4, width=64, heads=4, kv_heads=2), 20, seed=0)
        rng = np.random.default_rng(0)
        texts = torch.tensor(rng.integers(0, 20, (case.texts, case.length)))
        return of_decoder(decoder), texts, [rng.integers(0, 20, length).tolist()]
    decoder, scored = smollm.load()
    others = [name for name in topics if name not in smollm.CHAPTERS]
    rest = np.array(smollm.tokens("\n".join(topics[name] for name in others)))
    starts = np.linspace(0, len(rest) - case.length, case.texts).astype(int)
    texts = torch.tensor(np.stack([rest[start : start + case.length] for start in starts]))
    windows = [scored[k * length : (k + 1) * length] for k in range(case.windows)]
    return of_decoder(decoder), texts, windows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smallest", action="store_true", help="a tiny decoder, never trained")
    given = parser.parse_args(arguments)
    case = SMALLEST if given.smallest else Case()
    print(f"{machine()}\n")
    if not given.smallest and smollm.missing():
        print(f"skipped: {', '.join(smollm.missing())} not installed; see the Makefile")
        return
    model, texts, scored = loaded(case, given.smallest)
    samples = read_samples(model, texts)
    windows = [Serving.of(model, tokens, case.context) for tokens in scored]
    header = ["", "bits a value", "error, keys", "error, values", *COLUMNS]
    print(f"## Cache\n\n{table(header, cache_rows(case, samples, windows))}\n", flush=True)
    for group in case.groups:
        rows = cost_rows(case, samples.calibrate(case.costs, group=group), windows[0])
        print(f"## Costs, groups of {group}\n\n{table(['', ''], rows)}\n", flush=True)
    rows = hidden_rows(case, model, texts[:4], windows[0])
    header = ["", "bits a value", "error", "CPU us a token, both ways", *COLUMNS]
    print(f"## Hidden states\n\n{table(header, rows)}\n", flush=True)
    print(f"## Dynamics\n\n{table(['', 'bits a value saved at most'], dynamics_rows(samples))}")


if __name__ == "__main__":
    main()

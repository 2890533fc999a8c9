"""Hidden states and key/value cache of a real decoder: romzarr beside int8, int4 and int2.

``make bench-activations`` prints Markdown. The decoder reads a context; its cache (or its hidden
states behind one layer) is coded; then it goes on, with what was decoded in their place. All
methods take the same bytes: integers with the scales of their groups, romzarr all files of its
stores, with the tolerance at which they are as large.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import romzarr
from romzarr.config import Config, with_values
from tests.benchmarks.activations import smollm
from tests.benchmarks.activations.decoder import Cache, Decoder, Shape
from tests.benchmarks.activations.quantisation import quantised
from tests.benchmarks.measure import machine, table

Array = NDArray[np.float32]
Tensors = Mapping[str, Array]

CONTEXT, SCORED = 1536, 512
BITS = (8, 4, 2)
# Layers whose hidden states are coded.
LAYERS = (5, 15, 25)
# Bytes are equal when romzarr's are at most those of the integers, and at least this share; so
# often a tolerance is tried.
# Tokens at the beginning that may be kept in float16: attention rests on them, however small
# their values are (G. Xiao et al., "Efficient streaming language models with attention sinks",
# arXiv:2309.17453).
SINKS = 4
FIRST_GUESS = 0.2
# Tokens that are read back at once.
RANGE = 100
CLOSE, AIM, TRIALS = 0.97, 0.985, 6
# Tokens obey no differential equation: no time is spent on looking for one.
CONFIG = with_values(Config(), {"library.modes": 1, "library.degree": 1})


@dataclass(frozen=True)
class Coded:
    """Tensors (tokens, features) as they decode, and the bytes they were kept in."""

    tensors: Tensors
    nbytes: int


@dataclass(frozen=True)
class Output:
    """Change of the next-token distributions: mean KL divergence, share of equal first choices,
    perplexity."""

    divergence: float
    agreement: float
    perplexity: float


# --- methods ------------------------------------------------------------------------------


def as_integers(tensors: Tensors, bits: int, keys_along: str) -> Coded:
    """Keys grouped along `keys_along`, all else by token."""
    along = {name: keys_along if name == "keys" else "features" for name in tensors}
    coded = {name: quantised(x, bits, along[name]) for name, x in tensors.items()}
    return Coded({k: x for k, (x, _) in coded.items()}, sum(n for _, n in coded.values()))


def as_store(tensors: Tensors, tolerance: float) -> Coded:
    """Through a coefficient store, one variable a tensor."""
    source = xr.Dataset({name: (("time", "feature_" + name), x) for name, x in tensors.items()})
    source = source.assign_coords(time=np.arange(len(next(iter(tensors.values())))))
    with tempfile.TemporaryDirectory() as folder:
        report = romzarr.compress(source, Path(folder, "store"), tolerance=tolerance, config=CONFIG)
        with xr.open_dataset(Path(folder, "store"), engine="romzarr") as decoded:
            found = {name: decoded[name].values for name in tensors}
    return Coded(found, report.stored_bytes)


def at_bytes(tensors: Tensors, nbytes: int, guess: float) -> tuple[Coded, float]:
    """The store that is at most `nbytes` large, and just so, with its tolerance."""
    values = sum(x.size for x in tensors.values())
    best: tuple[Coded, float] | None = None
    low, high, tolerance = 0.0, np.inf, guess
    for _ in range(TRIALS):
        coded = as_store(tensors, tolerance)
        if coded.nbytes <= nbytes:
            high, best = tolerance, (coded, tolerance)
            if coded.nbytes >= CLOSE * nbytes:
                break
        else:
            low = tolerance
        # A bit a value more halves the error.
        tolerance *= 2.0 ** (8 * (coded.nbytes - AIM * nbytes) / values)
        if not low < tolerance < high:
            tolerance = (low * high) ** 0.5 if low and np.isfinite(high) else tolerance
    if best is None:
        raise ValueError(f"no tolerance up to {tolerance:.3g} makes a store of {nbytes} bytes")
    return best


def streamed(tensors: Tensors, tolerance: float, block: int) -> tuple[Coded, list[float]]:
    """The same by tokens that come in blocks; and seconds of CPU that each block took.

    Read back in ranges of tokens, each decoded by itself.
    """
    count, seconds = len(next(iter(tensors.values()))), []
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder, "store")
        with romzarr.StreamCompressor(store, tolerance=tolerance, config=CONFIG) as stream:
            for start in range(0, count, block):
                tokens = np.arange(start, min(start + block, count))
                some = {k: (("time", "feature_" + k), x[tokens]) for k, x in tensors.items()}
                spent = time.thread_time()
                stream.update(xr.Dataset(some, {"time": tokens}))
                seconds.append(time.thread_time() - spent)
        nbytes = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
        with xr.open_dataset(store, engine="romzarr", chunks=None) as lazy:
            ranges = [slice(start, start + RANGE) for start in range(0, count, RANGE)]
            found = {
                name: np.concatenate([lazy[name][tokens].values for tokens in ranges])
                for name in tensors
            }
    return Coded(found, nbytes), seconds


# --- what it does to the output -----------------------------------------------------------


def log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    found: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found


def compared(exact: Array, changed: Array, following: Sequence[int]) -> Output:
    """Logits (tokens, vocabulary) beside those of the decoder undisturbed."""
    p, q = log_softmax(exact), log_softmax(changed)
    losses = -q[np.arange(len(following)), following]
    return Output(
        float(np.mean(np.sum(np.exp(p) * (p - q), axis=-1))),
        float(np.mean(p.argmax(axis=-1) == q.argmax(axis=-1))),
        float(np.exp(losses.mean())),
    )


def error(x: Array, decoded: Array) -> float:
    """Fluctuation-relative, as everywhere in romzarr."""
    return float(np.linalg.norm(x - decoded) / np.linalg.norm(x - x.mean(axis=0)))


# --- tables -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """A decoder that has read tokens: cache of the context, hidden states, and what follows."""

    decoder: Decoder
    tokens: Sequence[int]
    context: int
    hidden: Sequence[Array]
    cache: Cache

    @classmethod
    def of(cls, decoder: Decoder, tokens: Sequence[int], context: int) -> Reading:
        hidden, cache = decoder.layers(decoder.start(tokens[:context]), 0)
        return cls(decoder, tokens, context, hidden, cache)

    def after_cache(self, cache: Cache) -> Array:
        """Logits of the tokens after the context, which attend to a cache of it."""
        rest = self.decoder.start(self.tokens[self.context : -1])
        return self.decoder.logits(self.decoder.layers(rest, 0, cache)[0][-1])

    def after_hidden(self, layer: int, hidden: Array) -> Array:
        """Logits of the context where the hidden states behind a layer are others."""
        return self.decoder.logits(self.decoder.layers(hidden, layer + 1)[0][-1])


def cache_table(reading: Reading, levels: Sequence[int], kept: int) -> str:
    """The whole cache coded, layer by layer, but for `kept` tokens at the beginning."""
    cache, following = reading.cache, reading.tokens[reading.context + 1 :]
    exact = reading.after_cache(cache)
    size = cache.keys.size + cache.values.size
    lines: list[list[Any]] = [["float16", 2 * size, *[None] * 4, compared(exact, exact, following)]]
    layers = [
        {"keys": k[kept:], "values": v[kept:]}
        for k, v in zip(cache.keys, cache.values, strict=True)
    ]
    for bits in levels:
        kivi = [as_integers(layer, bits, "tokens") for layer in layers]
        methods = {
            f"int{bits} per token": [as_integers(layer, bits, "features") for layer in layers],
            f"int{bits}, keys per channel": kivi,
            "romzarr": _stores(layers, kivi, FIRST_GUESS * 0.5 ** (bits / 2)),
        }
        for name, coded in methods.items():
            found = _joined(cache.first(kept), coded)
            output = compared(exact, reading.after_cache(found), following)
            errors = [
                np.mean([error(x[n], c.tensors[n]) for x, c in zip(layers, coded, strict=True)])
                for n in ("keys", "values")
            ]
            nbytes = sum(c.nbytes for c in coded) + 2 * size * kept // cache.tokens
            lines.append([name, nbytes, 2 * size / nbytes, 8 * nbytes / size, *errors, output])
    return _cells(lines, "keys", "values")


def _stores(layers: Sequence[Tensors], others: Sequence[Coded], guess: float) -> list[Coded]:
    """A store for each layer, as large as what another method makes of it."""
    found = []
    for layer, other in zip(layers, others, strict=True):
        coded, guess = at_bytes(layer, other.nbytes, guess)
        found.append(coded)
    return found


def _joined(beginning: Cache, coded: Sequence[Coded]) -> Cache:
    """The first tokens in float16, and all others as they decode."""

    def both(name: str, first: Array) -> Array:
        rest = np.stack([c.tensors[name] for c in coded])
        halved = first.astype(np.float16).astype(np.float32)
        return np.concatenate([halved, rest], axis=1)

    return Cache(both("keys", beginning.keys), both("values", beginning.values))


def hidden_table(reading: Reading, layers: Sequence[int], levels: Sequence[int]) -> str:
    """Hidden states behind one layer coded, one layer at a time."""
    lines: list[list[Any]] = []
    following = reading.tokens[1 : reading.context + 1]
    exact = reading.decoder.logits(reading.hidden[-1])
    for layer in layers:
        x = {"hidden": reading.hidden[layer]}
        guess = 0.1
        for bits in levels:
            integers = as_integers(x, bits, "features")
            channel, nbytes = quantised(x["hidden"], bits, "tokens")
            store, guess = at_bytes(x, integers.nbytes, guess)
            for name, coded in (
                (f"int{bits} per token", integers),
                (f"int{bits} per channel", Coded({"hidden": channel}, nbytes)),
                ("romzarr", store),
            ):
                found = coded.tensors["hidden"]
                output = compared(exact, reading.after_hidden(layer, found), following)
                size = found.size
                lines.append(
                    [
                        f"layer {layer}: {name}",
                        coded.nbytes,
                        2 * size / coded.nbytes,
                        8 * coded.nbytes / size,
                        error(x["hidden"], found),
                        _typical(x["hidden"], found),
                        output,
                    ]
                )
    return _cells(lines, "all", "median of tokens")


def stream_table(reading: Reading, layer: int, tolerance: float, blocks: Sequence[int]) -> str:
    """Keys and values of one layer, all at once and token by token, in half precision."""
    keys, values = reading.cache.keys[layer], reading.cache.values[layer]
    tensors = {"keys": keys.astype(np.float16), "values": values.astype(np.float16)}
    coded, lines = as_store(tensors, tolerance), []
    lines.append(["all at once", coded.nbytes, *_off(tensors, coded), None, None])
    for block in blocks:
        coded, seconds = streamed(tensors, tolerance, block)
        # Of the second half: what a new stream has to learn is not what a token takes.
        typical = np.percentile(1e3 * np.array(seconds[len(seconds) // 2 :]), [50, 99])
        lines.append([f"{block} a block", coded.nbytes, *_off(tensors, coded), *typical])
    header = [f"layer {layer}, tolerance {tolerance:.3g}", "bytes", "error, keys", "error, values"]
    return table([*header, "p50 of a block, CPU ms", "p99"], lines)


def _off(tensors: Tensors, coded: Coded) -> list[float]:
    return [error(x.astype(np.float32), coded.tensors[name]) for name, x in tensors.items()]


def _typical(x: Array, decoded: Array) -> float:
    """Median of the tokens' errors: a few tokens are a thousand times as large as the others."""
    sizes = np.linalg.norm(x - x.mean(axis=0), axis=1)
    return float(np.median(np.linalg.norm(x - decoded, axis=1) / sizes))


def _cells(lines: Sequence[Sequence[Any]], *errors: str) -> str:
    header = ["", "bytes", "ratio to float16", "bits a value"]
    header += [f"error, {name}" for name in errors]
    header += ["KL divergence", "same first choice", "perplexity"]
    cells = [
        [*line[:-1], line[-1].divergence, f"{100 * line[-1].agreement:.1f} %", line[-1].perplexity]
        for line in lines
    ]
    return table(header, cells)


def tiny() -> tuple[Decoder, list[int], int, tuple[int, ...]]:
    """A decoder that was never trained, what it reads, how much is context, and layers."""
    decoder = Decoder.random(Shape(layers=2, width=128, heads=4, kv_heads=2), 20, seed=0)
    tokens = np.random.default_rng(0).integers(0, 20, 160).tolist()
    return decoder, tokens, 128, (0,)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smallest", action="store_true", help="a tiny decoder, never trained")
    given = parser.parse_args(arguments)
    print(f"{machine()}\n")
    if given.smallest:
        decoder, tokens, context, layers = tiny()
        levels: tuple[int, ...] = (4,)
        by_token: tuple[float, tuple[int, ...]] = (0.3, (16,))
    elif smollm.missing():
        print(f"skipped: {', '.join(smollm.missing())} not installed; see the Makefile")
        return
    else:
        decoder, tokens = smollm.load()
        tokens, context = tokens[: CONTEXT + SCORED + 1], CONTEXT
        layers, levels, by_token = LAYERS, BITS, (0.057, (64, 1))
    reading = Reading.of(decoder, tokens, context)
    for kept in (SINKS,) if given.smallest else (SINKS, 0):
        title = f"Keys and values, the first {kept} tokens in float16" if kept else "All tokens"
        print(f"## {title}\n\n{cache_table(reading, levels, kept)}\n", flush=True)
    print(f"## By token\n\n{stream_table(reading, layers[0], *by_token)}\n", flush=True)
    print(f"## Hidden states\n\n{hidden_table(reading, layers, levels[:2])}\n", flush=True)


if __name__ == "__main__":
    main()

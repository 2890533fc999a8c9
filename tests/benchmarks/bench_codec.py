"""The codec of chunks beside SZ3, SPERR, ZFP, pcodec and bit rounding, at equal bounds.

``python -m tests.benchmarks.bench_codec [FOLDER] > tests/benchmarks/CODEC.md``. Chunks are the last
snapshot, and the last 64 snapshots, of two variables of each archive. Codecs get values in memory
with gaps filled by the mean, which they do not know otherwise; romzarr gets the gaps as they are.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import romzarr
from tests.benchmarks.bench_datasets import DATA
from tests.benchmarks.codec_measures import dssim, spectral_error
from tests.benchmarks.codec_peers import CODECS, ChunkCodec, within_mean
from tests.benchmarks.measure import MB, machine, table

Array = NDArray[Any]

BOUNDS = (1e-2, 1e-3, 1e-4)
# Variables of an archive, and the last of its snapshots.
VARIABLES, SNAPSHOTS = 2, 64
# Names of the chunks of one snapshot, and of many.
SINGLE, MANY = "one snapshot", "many snapshots"
# Mean error of a uniform quantiser whose largest is 1: where the search of settings begins.
FIRST = 3**0.5


@dataclass(frozen=True)
class Chunk:
    """Values as they are (`original`), and as codecs that know no gaps get them (`filled`)."""

    archive: str
    name: str
    size: str
    original: Array
    filled: Array

    @property
    def present(self) -> Array:
        return np.isfinite(self.original)

    def worst(self, decoded: Array) -> float:
        """Largest error, in float64."""
        apart = decoded.astype(np.float64) - self.original
        return float(np.abs(apart[self.present]).max())

    def relative(self, decoded: Array) -> float:
        """L2 error relative to the fluctuation about the mean."""
        values = self.original[self.present].astype(np.float64)
        apart = decoded[self.present].astype(np.float64) - values
        return float(np.linalg.norm(apart) / np.linalg.norm(values - values.mean()))


@dataclass(frozen=True)
class Result:
    """A codec on a chunk: what it took, and what it did to the values."""

    codec: str
    chunk: Chunk
    kind: str
    bound: float
    nbytes: int
    encode_seconds: float
    decode_seconds: float
    used: float
    dssim: float | None
    spectrum: float


def chunks(folder: Path, variables: int, snapshots: int) -> Iterator[Chunk]:
    for path in sorted(folder.glob("*.zarr")):
        with xr.open_zarr(path, consolidated=False) as dataset:
            floats = [
                v for v in dataset.data_vars.values() if v.dtype.kind == "f" and "time" in v.dims
            ]
            for variable in floats[:variables]:
                for size, count in ((SINGLE, 1), (MANY, snapshots)):
                    values = variable.transpose("time", ...)[-count:].values
                    original = np.ascontiguousarray(values[0] if count == 1 else values)
                    gaps = ~np.isfinite(original)
                    mean = original[~gaps].mean(dtype=np.float64)
                    filled = np.where(gaps, original.dtype.type(mean), original)
                    yield Chunk(path.stem, str(variable.name), size, original, filled)


def measured(name: str, chunk: Chunk, kind: str, bound: float) -> Result | None:
    """One codec at one bound, in the best of its modes; None if it fails in all."""
    codec, found = CODECS[name], None
    values = chunk.original if name == "romzarr" else chunk.filled
    for mode in codec.modes:
        try:
            one = _in_mode(name, codec, mode, values, chunk, kind, bound)
        except Exception:  # whatever a codec raises, another mode may work
            continue
        if found is None or one.nbytes < found.nbytes:
            found = one
    return found


def _in_mode(
    name: str, codec: ChunkCodec, mode: str, values: Array, chunk: Chunk, kind: str, bound: float
) -> Result:
    encode = partial(_encoder(name, codec, chunk, kind), mode=mode, bound=bound)
    cpu = time.process_time()
    content = encode(values)
    encode_seconds = time.process_time() - cpu
    if kind == "L2" and name != "romzarr":
        # Users know the setting; what finding it took is not counted.
        fraction = FIRST * bound * float(np.std(chunk.original[chunk.present], dtype=np.float64))
        cpu = time.process_time()
        codec.encode(values, mode, fraction)
        encode_seconds = time.process_time() - cpu
    cpu = time.process_time()
    decoded = codec.decode(content, values)
    decode_seconds = time.process_time() - cpu
    error = chunk.worst(decoded) if kind == "range" else chunk.relative(decoded)
    shown = np.where(chunk.present, decoded, chunk.filled)
    return Result(
        name, chunk, kind, bound, len(content), encode_seconds, decode_seconds,
        error / (_absolute(chunk, bound) if kind == "range" else bound),
        dssim(chunk.filled, shown) if shown.ndim > 1 else None,
        spectral_error(chunk.filled, shown),
    )  # fmt: skip


def _absolute(chunk: Chunk, bound: float) -> float:
    return bound * float(np.ptp(chunk.original[chunk.present]).astype(np.float64))


def _encoder(name: str, codec: ChunkCodec, chunk: Chunk, kind: str) -> Callable[..., bytes]:
    def by_value(values: Array, mode: str, bound: float) -> bytes:
        return codec.encode(values, mode, _absolute(chunk, bound))

    def by_mean(values: Array, mode: str, bound: float) -> bytes:
        if name == "romzarr":
            return romzarr.NumcodecsCodec(tolerance=bound).encode(values)
        spread = float(np.std(chunk.original[chunk.present], dtype=np.float64))
        return within_mean(
            partial(codec.encode, values, mode),
            lambda content: chunk.relative(codec.decode(content, values)),
            bound,
            FIRST * bound * spread,
        )

    return by_value if kind == "range" else by_mean


def geometric(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def advantage(results: Sequence[Result]) -> list[float]:
    """Of each chunk and bound, the bytes of the best peer that kept it over those of romzarr."""
    found: dict[Any, dict[str, int]] = {}
    for r in results:
        if r.used <= 1 + 1e-9:
            found.setdefault((id(r.chunk), r.bound, r.kind), {})[r.codec] = r.nbytes
    return [
        min(n for codec, n in each.items() if codec != "romzarr") / each["romzarr"]
        for each in found.values()
    ]


def _where(results: Sequence[Result], **wanted: Any) -> list[Result]:
    return [
        r for r in results
        if all(getattr(r if hasattr(r, k) else r.chunk, k) == v for k, v in wanted.items())
    ]  # fmt: skip


CONDITIONS = """\
Chunks are the last snapshot, and the last {snapshots}, of {variables} variables of each archive,
in their own dtype. Of several modes of a codec the smallest counts.
Bytes of romzarr include gaps, shape and dtype; the others know no gaps, which are filled by the
mean for them, and all but SZ3 and ZFP are not charged
for the shape. An error beyond the bound is told, and does not count in comparisons; an empty cell
is a codec that fails or does not take such chunks. No peer has a bound on the L2 error: the
absolute setting that meets it was searched for, and that search is not in their seconds. pcodec
gets whole multiples of twice the bound, or bit-rounded values; bit rounding is followed by zstd.
dSSIM is the least of all slices (Baker et al. 2024), and the spectral error the mean of
|P' - P| / P over all wave numbers (`tests/benchmarks/codec_measures.py`). Times are CPU seconds of
one run."""

TITLES = {
    "range": "a bound on every value, relative to the range",
    "L2": "a bound on the L2 error, relative to the fluctuation about the mean of the chunk",
}


def summary(results: Sequence[Result]) -> str:
    """How many times the bytes of romzarr the best peer takes."""
    header = ("bound", "chunk", *(f"{bound:g}" for bound in BOUNDS), "all")
    rows = []
    for kind in TITLES:
        for size in (SINGLE, MANY):
            some = [_where(results, kind=kind, size=size, bound=bound) for bound in BOUNDS]
            every = _where(results, kind=kind, size=size)
            means = [geometric(advantage(each)) for each in [*some, every]]
            rows.append((kind, size, *means))
    return table(header, rows)


def ratios(results: Sequence[Result], kind: str, size: str) -> str:
    """Ratio of each codec, for each variable and bound."""
    rows = []
    cases = dict.fromkeys((r.chunk.archive, r.chunk.name, r.bound) for r in results)
    for archive, name, bound in cases:
        every = _where(results, kind=kind, size=size, bound=bound, archive=archive)
        by_codec = {r.codec: r for r in every if r.chunk.name == name}
        cells = [_ratio(by_codec.get(codec)) for codec in CODECS]
        rows.append((archive, name, f"{bound:g}", *cells))
    return table(("archive", "variable", "bound", *CODECS), rows)


def _ratio(result: Result | None) -> str | None:
    if result is None:
        return None
    ratio = result.chunk.original.nbytes / result.nbytes
    return f"{ratio:.3g}" + ("" if result.used <= 1 + 1e-9 else f" (error {result.used:.3g} x)")


def qualities(results: Sequence[Result], kind: str) -> str:
    """What each codec costs and does, over all chunks of many snapshots."""
    header = (
        "codec", "bound", "ratio (geometric mean)", "encode MB / CPU s", "decode MB / CPU s",
        "worst error / bound", "dSSIM (mean)", "spectral error (mean)",
    )  # fmt: skip
    rows = []
    for codec in CODECS:
        for bound in BOUNDS:
            some = _where(results, kind=kind, size=MANY, bound=bound, codec=codec)
            if some:
                rows.append((codec, f"{bound:g}", *_quality(some)))
    return table(header, rows)


def _quality(some: Sequence[Result]) -> tuple[Any, ...]:
    nbytes = sum(r.chunk.original.nbytes for r in some) / MB
    similar = [r.dssim for r in some if r.dssim is not None]
    return (
        geometric([r.chunk.original.nbytes / r.nbytes for r in some]),
        nbytes / sum(r.encode_seconds for r in some),
        nbytes / sum(r.decode_seconds for r in some),
        f"{max(r.used for r in some):.4f}",
        f"{sum(similar) / len(similar):.5f}" if similar else None,
        sum(r.spectrum for r in some) / len(some),
    )


def installed() -> list[str]:
    """Packages of the peers that are here, with their versions."""
    found = []
    for package in sorted({each.package for each in CODECS.values() if each.package}):
        with suppress(PackageNotFoundError):
            found.append(f"{package} {version(package)}")
    return found


def report(results: Sequence[Result], where: str, variables: int, snapshots: int) -> str:
    parts = [
        "# Codecs of chunks, as measured",
        f"`make bench-codec` measures this again. {where}; {', '.join(installed())}.\n"
        + CONDITIONS.format(variables=variables, snapshots=snapshots),
        "## Bytes of the best peer over those of romzarr, geometric means",
        summary(results),
    ]
    for kind, title in TITLES.items():
        parts += [f"## With {title}", qualities(results, kind)]
        for size in (SINGLE, MANY):
            parts += [f"### Ratios: {size}, {kind}", ratios(results, kind, size)]
    return "\n\n".join(parts)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, nargs="?", default=DATA, help="folder of archives")
    parser.add_argument("--variables", type=int, default=VARIABLES, help="of each archive")
    parser.add_argument("--snapshots", type=int, default=SNAPSHOTS, help="of the larger chunks")
    given = parser.parse_args(arguments)
    where, every = machine(), list(chunks(given.source, given.variables, given.snapshots))
    if not every:
        print(f"skipped: no *.zarr in {given.source}")
        return
    results = [
        found
        for chunk in every
        for kind in TITLES
        for bound in BOUNDS
        for codec in CODECS
        if (found := measured(codec, chunk, kind, bound)) is not None
    ]
    print(report(results, where, given.variables, given.snapshots))


if __name__ == "__main__":
    main()

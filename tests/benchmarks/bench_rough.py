"""Speed of whole commands on archives that POD cannot shrink, and on those of real models.

``make bench-rough``, or ``python -m tests.benchmarks.bench_rough``, prints Markdown: CPU seconds,
megabytes per CPU second, peak memory and ratio of compressing and of decoding red noise of several
lengths and every archive of ``$ROMZARR_BENCH_DATA`` (by default ../shared/data beside the
repository), and the speed of the peers on the same red noise, in one run.

Every measurement has a process of its own, with all imports made before it begins.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import xarray as xr
import zarr

from tests.benchmarks.archives import cache_folder
from tests.benchmarks.measure import MB, ROOT, Record, in_child, machine, measured, table
from tests.benchmarks.peers import PEERS, Field, best

SNAPSHOTS = (1000, 2000)
# Snapshots of a chunk, and points along each of the two axes of space.
CHUNK, SIDE = 50, 256
TOLERANCES = (1e-1, 1e-2, 1e-3)
# Snapshots that the peers get: searching their settings takes them a dozen times.
OF_PEERS = 128


def red_noise(snapshots: int) -> Path:
    """Archive of float32 with spectrum k**-4 in space, large scales slower than small ones."""
    path = cache_folder() / f"red-noise-{snapshots}.zarr"
    if not path.exists():
        unfinished = path.with_suffix(".unfinished")
        group = zarr.open_group(unfinished, mode="w", zarr_format=3)
        shape, names = (snapshots, SIDE, SIDE), ("time", "lat", "lon")
        chunks = (CHUNK, SIDE, SIDE)
        u = group.create_array("u", shape=shape, chunks=chunks, dtype="f4", dimension_names=names)
        for start, block in zip(range(0, snapshots, CHUNK), _blocks(), strict=False):
            u[start : start + CHUNK] = block[: snapshots - start]
        times = np.arange(float(snapshots))
        time_axis = group.create_array(
            "time", shape=times.shape, chunks=times.shape, dtype="f8", dimension_names=("time",)
        )
        time_axis[:] = times
        time_axis.attrs["units"] = "hours since 2000-01-01"
        unfinished.rename(path)
    return path


def _blocks() -> Iterator[np.ndarray]:
    rng = np.random.default_rng(3)
    wave = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None]) * SIDE
    wave[0, 0] = 1
    amplitude = SIDE**2 * wave**-2.0
    amplitude[0, 0] = 0
    kept = np.exp(-0.02 * wave**0.67)

    def noise() -> np.ndarray:
        return rng.standard_normal(wave.shape) + 1j * rng.standard_normal(wave.shape)

    state = noise()
    while True:
        fields = []
        for _ in range(CHUNK):
            state = kept * state + np.sqrt(1 - kept**2) * noise()
            fields.append(np.fft.irfft2(state * amplitude, s=(SIDE, SIDE)))
        yield np.array(fields, np.float32)


def child(path: str, tolerance: float) -> Record:
    """Compress and decode one archive in this process."""
    import romzarr

    for module in ("operations.compress", "store.reading.engine", "streams.compressor"):
        importlib.import_module(f"romzarr.{module}")
    folder = tempfile.mkdtemp()
    try:
        store = os.path.join(folder, "store")
        report, wrote = measured(lambda: romzarr.compress(path, store, tolerance=tolerance))
        _, read = measured(lambda: xr.open_dataset(store, engine="romzarr").load())
    finally:
        shutil.rmtree(folder)
    return {
        "raw": report.raw_bytes,
        "ratio": report.compression_ratio,
        "cpu": wrote.cpu_seconds,
        "peak": wrote.peak_bytes,
        "decode": read.cpu_seconds,
    }


def archives() -> list[Path]:
    data = Path(os.environ.get("ROMZARR_BENCH_DATA", ROOT.parent / "shared" / "data"))
    return sorted(data.glob("*.zarr"))


def own_rows(paths: Sequence[Path]) -> Iterator[tuple[object, ...]]:
    for path in paths:
        for tolerance in TOLERANCES:
            found = in_child("tests.benchmarks.bench_rough", ["--child", str(path), str(tolerance)])
            if "failed" in found:
                yield path.stem, f"{tolerance:g}", found["failed"]
                continue
            size = found["raw"] / MB
            yield (
                path.stem, f"{tolerance:g}", size, found["ratio"], found["cpu"],
                size / found["cpu"], found["peak"] / MB, size / found["decode"],
            )  # fmt: skip


def peer_rows(path: Path) -> Iterator[tuple[object, ...]]:
    values = xr.open_zarr(path, consolidated=False).u[:OF_PEERS].values
    for name, peer in PEERS.items():
        if peer.missing or peer.slow:
            continue
        for tolerance in TOLERANCES:
            field = Field.of(values, tolerance)
            choice = best(peer, field, tolerance)
            start = time.process_time()
            data = choice.encode(peer, field.values)
            coded = time.process_time()
            choice.decode(peer, data)
            decoded = time.process_time()
            size = field.values.nbytes / MB
            yield (
                name, f"{tolerance:g}", size, field.values.nbytes / len(data), coded - start,
                size / (coded - start), None, size / (decoded - coded),
            )  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--snapshots", type=int, nargs="*", default=SNAPSHOTS, help="of red noise")
    given = parser.parse_args(arguments)
    if given.child:
        print(json.dumps(child(given.child[0], float(given.child[1]))))
        return
    print(f"{machine()}.\n")
    header = ("archive", "tolerance", "MB", "ratio", "CPU s", "MB per CPU s", "peak MB",
              "decoding, MB per CPU s")  # fmt: skip
    noise = [red_noise(snapshots) for snapshots in given.snapshots]
    print(table(header, [*own_rows([*noise, *archives()]), *peer_rows(noise[0])]))


if __name__ == "__main__":
    main()

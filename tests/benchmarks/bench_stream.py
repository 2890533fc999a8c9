"""Streams beside batch: the bound, rank, bytes and time; a change of regime; memory over time.

``python -m tests.benchmarks.bench_stream`` prints the tables of STREAMING.md and draws its
picture. Times are of CPU of one process with one BLAS thread, as what else runs on a machine
does not enter these.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

import romzarr
from romzarr import StreamCompressor
from romzarr.config import Config, with_values
from romzarr.numerics.dynamics import regimes as regime_search
from romzarr.store.reading.reader import open_store
from romzarr.streams import segment
from tests.benchmarks.measure import MB, Record, memory, reset_peak, table
from tests.systems_of_odes import LINEAR_OSCILLATOR, LORENZ, VAN_DER_POL, KnownSystem

Vector = NDArray[np.float64]

BLOCKS = (50, 7, 1)
TOLERANCE = 1e-2
# Nights after which a store that grows is beside batch.
GROWN = (2, 5, 10, 15, 20, 29, 30)
PICTURE = Path(__file__).with_name("streaming_memory.png")
# Of the stream whose memory is watched.
POINTS, STEPS, WATCHED = 2000, 100_000, 2000


def blocks_of(source: xr.Dataset, dim: str, length: int) -> Iterator[xr.Dataset]:
    return (source.isel({dim: slice(k, k + length)}) for k in range(0, source.sizes[dim], length))


def page(records: Sequence[Record]) -> str:
    """A table with the keys of the first record."""
    header = list(records[0])
    return table(header, [[record.get(key) for key in header] for record in records])


# --- beside batch -------------------------------------------------------------------------


def beside_batch(source: xr.Dataset, dim: str, name: str, blocks: Sequence[int]) -> list[Record]:
    """One record for each block length."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        batch = romzarr.compress(source, f"{folder}/batch", tolerance=TOLERANCE)
        whole = time.process_time() - began
        return [
            _streamed(source, dim, name, f"{folder}/{length}", length, batch, whole)
            for length in blocks
        ]


def _streamed(
    source: xr.Dataset, dim: str, name: str, store: str, length: int, batch: Any, whole: float
) -> Record:
    pieces = list(blocks_of(source, dim, length))
    began = time.process_time()
    stream = StreamCompressor(store, tolerance=TOLERANCE)
    for piece in pieces:
        stream.update(piece)
    updates, working = time.process_time() - began, stream.rank
    stream.close()
    both, info = time.process_time() - began, romzarr.info(store)
    checked = romzarr.verify(store, source)
    return {
        "dataset": name,
        "block": length,
        "bound kept": checked.ok,
        "error / tolerance": checked.largest_relative_l2_error / TOLERANCE,
        "working rank": working,
        "rank": info.rank,
        "batch rank": batch.rank,
        "bytes": info.stored_bytes,
        "bytes / batch": info.stored_bytes / batch.stored_bytes,
        "update MB/s": batch.raw_bytes / MB / updates,
        "with close MB/s": batch.raw_bytes / MB / both,
        "batch MB/s": batch.raw_bytes / MB / whole,
    }


# --- change of regime ---------------------------------------------------------------------


def two_systems(points: int = 400, snapshots: int = 3000) -> xr.Dataset:
    """An oscillator, then a Lorenz attractor in another subspace."""
    half = snapshots // 2
    shapes = np.linalg.qr(np.random.default_rng(0).standard_normal((points, 5)))[0].T
    first, second = (s.record(half)[1] for s in (LINEAR_OSCILLATOR, LORENZ))
    unit = [each / np.linalg.norm(each - each.mean(axis=0)) for each in (first, second)]
    rows = np.concatenate([unit[0] @ shapes[:2], unit[1] @ shapes[2:]])
    times = 0.01 * np.arange(len(rows))
    return xr.Dataset({"x": (("time", "point"), 1.0 + rows)}, {"time": times})


def switch(source: xr.Dataset, dim: str, name: str, length: int) -> list[Record]:
    """Rank, bytes and error at a commit after every block."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        stream = StreamCompressor(f"{folder}/s", tolerance=TOLERANCE)
        for piece in blocks_of(source, dim, length):
            began = time.process_time()
            stream.update(piece)
            spent = time.process_time() - began
            stream.commit()
            seen = source.isel({dim: slice(stream.snapshots)})
            checked = romzarr.verify(f"{folder}/s", seen)
            info = romzarr.info(f"{folder}/s")
            found.append(
                {
                    "stream": name,
                    "snapshots": stream.snapshots,
                    "rank": stream.rank,
                    "error / tolerance": checked.largest_relative_l2_error / TOLERANCE,
                    "kB": info.stored_bytes / 1e3,
                    "update ms": 1e3 * spent,
                }
            )
        stream.close()
        info = romzarr.info(f"{folder}/s")
        last = {"stream": name, "snapshots": "closed", "rank": info.rank}
        error = info.largest_relative_l2_error / TOLERANCE
        found.append(last | {"error / tolerance": error, "kB": info.stored_bytes / 1e3})
    return found


def lorenz(rhos: Sequence[float], snapshots: int) -> xr.Dataset:
    """Lorenz attractors one after the other in one subspace, each from where the last one ends."""
    state, found = np.array(LORENZ.start), []
    for rho in rhos:
        system = replace(LORENZ, right_hand_side=_lorenz(rho), start=tuple(state))
        states = system.record(snapshots + 1)[1]
        found.append(states[:-1])
        state = states[-1]
    shapes = np.sin(np.pi * np.outer([1, 2, 3], np.linspace(0, 1, 400)))
    rows = np.concatenate(found) @ shapes
    return xr.Dataset({"x": (("time", "point"), rows)}, {"time": 0.01 * np.arange(len(rows))})


def _lorenz(rho: float) -> Callable[[float, Vector], Vector]:
    return lambda _, a: np.array(
        [10 * (a[1] - a[0]), a[0] * (rho - a[2]) - a[1], a[0] * a[1] - 8 / 3 * a[2]]
    )


def regimes(rhos: Sequence[float], snapshots: int) -> list[Record]:
    """Bytes and time with a model for each regime, beside one model for the whole record."""
    source, found = lorenz(rhos, snapshots), []
    for tolerance in (1e-2, 1e-3, 1e-4):
        record: Record = {"rho": ", ".join(f"{rho:g}" for rho in rhos), "tolerance": tolerance}
        for name, most in (("one model", 1), ("regimes", regime_search.MOST_REGIMES)):
            before, regime_search.MOST_REGIMES = regime_search.MOST_REGIMES, most
            with tempfile.TemporaryDirectory() as folder:
                began = time.process_time()
                report = romzarr.compress(source, f"{folder}/s", tolerance=tolerance)
                record[f"{name}, kB"] = report.stored_bytes / 1e3
                record[f"{name}, s"] = time.process_time() - began
                record["models"] = len(open_store(f"{folder}/s").last.latent.coefficients)
            regime_search.MOST_REGIMES = before
        found.append(record)
    return found


# --- noise --------------------------------------------------------------------------------


def noise(system: KnownSystem, degree: int, snapshots: int, points: int = 200) -> list[Record]:
    """Bytes, rank and terms beside batch, where noise of 1 % takes as many modes as points; with
    segments as short as those without noise, and as they are."""
    rng, (times, states) = np.random.default_rng(0), system.record(snapshots)
    rows = states @ np.linalg.qr(rng.standard_normal((points, system.states)))[0].T
    rms = np.sqrt(np.mean((rows - rows.mean(axis=0)) ** 2))
    rows += 0.01 * rms * rng.standard_normal(rows.shape)
    source, found = xr.Dataset({"x": (("time", "point"), rows)}, {"time": times}), []
    for tolerance in (5e-2, 2e-2, 1e-2):
        record: Record = {"system": system.name, "tolerance": tolerance}
        settings = {"compression.tolerance": tolerance, "library.degree": degree}
        config = with_values(Config(), settings)
        with tempfile.TemporaryDirectory() as folder:
            romzarr.compress(source, f"{folder}/batch", config=config)
            batch = record["batch"] = romzarr.info(f"{folder}/batch").stored_bytes
            _add_rank(record, "batch", f"{folder}/batch")
            for name, most in (("short", segment.LEAST_HELD), ("now", segment.LEAST_HELD_OF_NOISE)):
                before, segment.LEAST_HELD_OF_NOISE = segment.LEAST_HELD_OF_NOISE, most
                with StreamCompressor(f"{folder}/{name}", config=config) as stream:
                    for block in blocks_of(source, "time", 50):
                        stream.update(block)
                segment.LEAST_HELD_OF_NOISE = before
                record[f"bytes / batch, {name}"] = (
                    romzarr.info(f"{folder}/{name}").stored_bytes / batch
                )
                _add_rank(record, name, f"{folder}/{name}")
        found.append(record)
    return found


def _add_rank(record: Record, name: str, store: str) -> None:
    info = romzarr.info(store)
    record[f"rank and terms, {name}"] = f"{info.rank}, {info.nonzero_terms}"


# --- night after night --------------------------------------------------------------------


def nights(source: xr.Dataset, dim: str, name: str, count: int = 10) -> list[Record]:
    """Bytes after each of so many nights, each appended for itself, beside batch; parts spend all
    of the bound, and stay."""
    found, ends = [], np.linspace(0, source.sizes[dim], count + 1).astype(int)[1:]
    spending = {"compression.tolerance": TOLERANCE, "compression.compact": "none"}
    with tempfile.TemporaryDirectory() as folder:
        store, batch = f"{folder}/s", f"{folder}/batch"
        for night, end in enumerate(ends, 1):
            seen = source.isel({dim: slice(end)})
            at_once = romzarr.compress(seen, batch, config=spending, overwrite=True)
            if night == 1:
                romzarr.compress(seen, store, config=spending)
            else:
                romzarr.append(store, seen)
            info, checked = romzarr.info(store), romzarr.verify(store, seen)
            found.append(
                {
                    "dataset": name,
                    "night": night,
                    "bound kept": checked.ok,
                    "parts": len(open_store(store).parts),
                    "rank": info.rank,
                    "batch rank": at_once.rank,
                    "bytes": info.stored_bytes,
                    "bytes / batch": info.stored_bytes / at_once.stored_bytes,
                }
            )
    return found


def grown(source: xr.Dataset, dim: str, name: str, count: int = 30) -> list[Record]:
    """Bytes and CPU of a store that grows by so many nights, with its parts put together as it is
    the default, beside batch."""
    found, ends = [], np.linspace(0, source.sizes[dim], count + 1).astype(int)[1:]
    with tempfile.TemporaryDirectory() as folder:
        store, batch, spent, since = f"{folder}/s", f"{folder}/batch", 0.0, 0
        for night, end in enumerate(ends, 1):
            seen, began = source.isel({dim: slice(end)}), time.process_time()
            if night == 1:
                romzarr.compress(seen, store, tolerance=TOLERANCE)
            else:
                romzarr.append(store, seen)
            spent, since = spent + time.process_time() - began, since + 1
            if night not in GROWN:
                continue
            at_once = romzarr.compress(seen, batch, tolerance=TOLERANCE, overwrite=True)
            info, checked = romzarr.info(store), romzarr.verify(store, seen)
            found.append(
                {
                    "dataset": name,
                    "night": night,
                    "bound kept": checked.ok,
                    "parts": len(open_store(store).parts),
                    "bytes": info.stored_bytes,
                    "bytes / batch": info.stored_bytes / at_once.stored_bytes,
                    "CPU s a night": spent / since,
                }
            )
            spent, since = 0.0, 0
    return found


def travelling(snapshots: int = 1200, points: int = 2000) -> xr.Dataset:
    """Five travelling waves."""
    t, x = 0.2 * np.arange(snapshots)[:, None], np.linspace(0, 6, points)
    u = sum(np.sin(k * x - (1 + 0.3 * k) * t) / k for k in range(1, 6))
    return xr.Dataset({"u": (("time", "x"), u)}, {"time": t[:, 0]})


# --- memory -------------------------------------------------------------------------------


def watched(snapshots: int, points: int, every: int, folder: str) -> list[tuple[int, float]]:
    """Most resident MB of this process since the snapshots before, along an endless wave in
    blocks of 50; at last with `close`."""
    x, found = np.linspace(0, 1, points), []
    reset_peak()
    stream = StreamCompressor(f"{folder}/s", tolerance=TOLERANCE)
    for start in range(0, snapshots, 50):
        t = 0.05 * np.arange(start, start + 50)[:, None]
        rows = sum(np.sin(k * (2 * t - 5 * x) + np.sin(0.1 * k * t)) / k**2 for k in (1, 2, 3))
        stream.update(np.asarray(rows, np.float32))
        if (start + 50) % every == 0:
            found.append((start + 50, memory()["peak"] / MB))
            reset_peak()
    stream.close()
    found.append((snapshots, memory()["peak"] / MB))
    return found


def draw(curve: Sequence[tuple[int, float]], raw_bytes: float, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    axes.plot(*zip(*curve, strict=True))
    axes.set(xlabel="snapshots", ylabel="most resident MB", ylim=(0, None))
    axes.set_title(f"{raw_bytes / MB:.0f} MB streamed in blocks of 50", fontsize=10)
    figure.savefig(path, dpi=120)


# --- all of it ----------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("datasets", nargs="*", help="Zarr archives (none: only what is made up)")
    options.add_argument("--blocks", type=int, nargs="+", default=BLOCKS)
    options.add_argument("--steps", type=int, default=STEPS)
    options.add_argument("--picture", type=Path, default=PICTURE)
    chosen = options.parse_args(arguments)
    with dask.config.set(scheduler="synchronous"), threadpool_limits(1, user_api="blas"):
        # First, as whatever else runs leaves something in memory.
        with tempfile.TemporaryDirectory() as folder:
            curve = watched(chosen.steps, POINTS, max(50, min(WATCHED, chosen.steps // 2)), folder)
        print(table(("snapshots", "most resident MB"), curve[:: max(1, len(curve) // 8)]))
        draw(curve, 4.0 * POINTS * chosen.steps, chosen.picture)
        for path in chosen.datasets:
            source, dim = xr.open_zarr(path, consolidated=False).load(), _time_of(path)
            print(page(beside_batch(source, dim, Path(path).stem, chosen.blocks)), flush=True)
            print(page(nights(source, dim, Path(path).stem)), flush=True)
            print(page(grown(source, dim, Path(path).stem)), flush=True)
            if "cylinder_nek" in path:
                print(page(switch(source, dim, Path(path).stem, 25)), flush=True)
        print(page(grown(travelling(), "time", "travelling waves")), flush=True)
        print(page(switch(two_systems(), "time", "two systems", 250)), flush=True)
        for rhos, snapshots in (((28,), 6000), ((28, 40), 3000), ((28, 34, 40, 46, 31, 37), 2000)):
            print(page(regimes(rhos, snapshots)), flush=True)
        for system, degree, count in (
            (LORENZ, 2, 4000), (VAN_DER_POL, 3, 4000), (LINEAR_OSCILLATOR, 1, 3000)
        ):  # fmt: skip
            print(page(noise(system, degree, count)), flush=True)


def _time_of(path: str) -> str:
    from romzarr.archive import open_archive

    return open_archive(path).time.dim


if __name__ == "__main__":
    main()

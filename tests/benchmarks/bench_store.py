"""Opening a store and reading a snapshot; decoding all of it beside reading the archive.

``python -m tests.benchmarks.bench_store`` prints a Markdown table; with ``--what`` it is the
child that does one thing once.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np

from tests.benchmarks.archives import Recipe, archive, recipe_arguments, recipe_from
from tests.benchmarks.measure import MB, Record, in_child, interleaved, machine, measured, table

SMALLEST = Recipe(200, 24, 24, (50, 24, 24))


def one_snapshot(store: Path, archive_path: Path, step: int) -> Record:
    """Open and read a snapshot, from a store and from the archive, the first time in a process."""
    # Imports are not measured, nor that of dask.array, which xarray imports when it first can.
    import dask.array  # noqa: F401
    import xarray as xr

    from romzarr.store.reading.engine import RomzarrBackendEntrypoint

    # Nor xarray's list of engines, made once from all packages installed.
    xr.backends.list_engines()
    _, first = measured(
        lambda: xr.open_dataset(store, engine=RomzarrBackendEntrypoint)["u"][step].values
    )
    _, again = measured(lambda: xr.open_dataset(store, engine="romzarr")["u"][step + 1].values)
    _, read = measured(
        lambda: (
            xr.open_dataset(archive_path, engine="zarr", consolidated=False, chunks=None)["u"][
                step
            ].values
        )
    )
    return {
        "first_ms": 1e3 * first.seconds,
        "again_ms": 1e3 * again.seconds,
        "archive_ms": 1e3 * read.seconds,
        "peak_bytes": first.peak_bytes,
    }


def everything(path: Path, engine: str, block: int, threads: int) -> Record:
    """All values, `block` snapshots at a time on `threads` threads, as a fresh process reads."""
    from concurrent.futures import ThreadPoolExecutor

    import dask.array  # noqa: F401
    import xarray as xr

    import_module("romzarr.store.reading.engine")
    options = {"consolidated": False} if engine == "zarr" else {}
    xr.backends.list_engines()

    def work() -> None:
        field = xr.open_dataset(path, engine=engine, chunks=None, **options)["u"]
        with ThreadPoolExecutor(threads) as pool:
            starts = range(0, field.shape[0], block)
            list(pool.map(lambda i: field[i : i + block].values.shape, starts))

    return measured(work)[1].record()


def build(recipe: Recipe, tolerance: float, folder: Path) -> Path:
    from romzarr.operations.compress import compress

    store = folder / f"{tolerance:g}.romzarr"
    compress(str(archive(recipe)), store, tolerance=tolerance)
    return store


def report(recipe: Recipe, tolerances: tuple[float, ...], threads: int, repetitions: int) -> str:
    folder = Path(tempfile.mkdtemp(prefix="romzarr-bench-"))
    base = ["--threads", str(threads), *recipe_arguments(recipe)]
    blocks = {"at once": recipe.snapshots, "by chunk of the archive": recipe.chunks[0]}

    def child(what: str, store: Path, block: int) -> Callable[[], Record]:
        arguments = ["--what", what, "--store", str(store), "--block", str(block), *base]
        return partial(in_child, __spec__.name, arguments)

    runs = {}
    try:
        for t in tolerances:
            store = build(recipe, t, folder)
            runs[f"snapshot {t:g}"] = child("snapshot", store, 1)
            for how, block in blocks.items():
                runs[f"store {t:g}, {how}"] = child("store", store, block)
        for how, block in blocks.items():
            runs[f"archive, {how}"] = child("archive", folder, block)
        found = interleaved(runs, repetitions)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return "\n\n".join(
        [
            f"## Reading back {recipe.raw_bytes / MB:.0f} MB ({recipe.name})",
            f"{machine()}; {threads} threads, medians of {repetitions} interleaved runs.",
            _snapshots(found, tolerances),
            _everything(found),
        ]
    )


def _snapshots(found: dict[str, Record], tolerances: tuple[float, ...]) -> str:
    rows = []
    for t in tolerances:
        record = found[f"snapshot {t:g}"]
        keys = ("first_ms", "again_ms", "archive_ms")
        cells = [record[k] for k in keys] if "failed" not in record else [record["failed"]]
        rows.append((f"{t:g}", *cells))
    header = ("tolerance", "open and read one snapshot, ms", "again, ms", "from the archive, ms")
    return table(header, rows)


def _everything(found: dict[str, Record]) -> str:
    rows = []
    for name, record in found.items():
        if name.startswith("snapshot"):
            continue
        if "failed" in record:
            rows.append((name, record["failed"], None, None, None))
            continue
        # Beside the archive read in blocks of the same length.
        reading = found["archive," + name.partition(",")[2]]
        ratio = record["cpu_seconds"] / reading["cpu_seconds"]
        peak = round(record["peak_bytes"] / MB)
        rows.append((name, record["seconds"], record["cpu_seconds"], ratio, peak))
    return table(("all values of", "wall s", "CPU s", "CPU / archive", "peak MB"), rows)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--what", choices=("snapshot", "store", "archive"))
    parser.add_argument("--store", type=Path)
    parser.add_argument("--block", type=int, default=50, help="snapshots decoded together")
    parser.add_argument("--recipe", type=recipe_from, default=Recipe())
    parser.add_argument("--tolerances", type=float, nargs="+", default=(1e-1, 1e-2, 1e-3))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=5)
    given = parser.parse_args(arguments)
    recipe, path = given.recipe, archive(given.recipe)
    step = int(np.random.default_rng(0).integers(recipe.snapshots // 2))
    if given.what == "snapshot":
        print(json.dumps(one_snapshot(given.store, path, step)))
    elif given.what == "store":
        print(json.dumps(everything(given.store, "romzarr", given.block, given.threads)))
    elif given.what == "archive":
        print(json.dumps(everything(path, "zarr", given.block, given.threads)))
    else:
        print(report(recipe, tuple(given.tolerances), given.threads, given.repetitions))


if __name__ == "__main__":
    main()

"""CPU time of reading parts of stores, and bytes of looking coarse first.

``make bench-reading``, or ``python -m tests.benchmarks.bench_reading``, prints two tables in
Markdown, for every archive of ``$ROMZARR_BENCH_DATA`` (by default ../shared/data beside the
repository), or those that are named. The first has bytes and objects of a store at 1e-2, and CPU
milliseconds of opening it, of one snapshot (of one level), of another one, of the history of one
point, of another one, and MB of everything in a CPU second. The second has what a layer at 1e-1
costs in bytes, and the bytes that looking at it takes beside those of a store at 1e-1.

Every archive and way has a process of its own, which has opened and read another store before.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

import romzarr
from tests.benchmarks.measure import ROOT, Record, in_child, machine, table

TOLERANCE, COARSE = 1e-2, 1e-1
MODULE = "tests.benchmarks.bench_reading"


def sizes(store: Path) -> dict[Path, int]:
    return {path: path.stat().st_size for path in store.rglob("*") if path.is_file()}


def _warm_up() -> None:
    """Import and compile all that any store needs."""
    with tempfile.TemporaryDirectory() as folder:
        waves = np.sin(np.arange(40.0)[:, None] * [0.1, 0.2] + [0.0, 1.0])
        archive = xr.Dataset({"u": (("time", "x"), waves)}, {"time": np.arange(40.0)})
        romzarr.compress(archive, f"{folder}/s", tolerance=TOLERANCE)
        opened = xr.open_dataset(f"{folder}/s", engine="romzarr")
        _ = opened.u[3].values, opened.load()


def child(store: str, way: str) -> Record:
    """Open a store in this process and read parts of it in one way; CPU milliseconds."""
    start = time.process_time()
    opened = xr.open_dataset(store, engine="romzarr", cache=False)
    found: Record = {"open": 1e3 * (time.process_time() - start)}
    name = next(iter(romzarr.info(store).variables))
    variable = opened[name].transpose("time", ...)
    _, *space = variable.dims
    # One level, where there are such.
    levels = {dim: variable.sizes[dim] // 2 for dim in space[:-2]}

    def read(number: int) -> None:
        if way == "snapshot":
            _ = variable.isel(time=number, **levels).values
        elif way == "point":
            _ = variable.isel({dim: variable.sizes[dim] * number // 9 for dim in space}).values
        else:
            opened[list(romzarr.info(store).variables)].load()

    for part, number in (("first", 3), ("another", 5)):
        start = time.process_time()
        read(number)
        found[f"{way}, {part}"] = 1e3 * (time.process_time() - start)
    return found


def reading_rows(paths: Sequence[Path], folder: Path) -> Iterator[tuple[object, ...]]:
    for path in paths:
        store = folder / f"{path.stem}.romzarr"
        report = romzarr.compress(path, store, tolerance=TOLERANCE)
        found: Record = {}
        for way in ("snapshot", "point", "everything"):
            found |= in_child(MODULE, ["--child", str(store), way])
        if "failed" in found:
            raise RuntimeError(f"{path}: {found['failed']}")
        files = sizes(store)
        yield (
            path.stem, sum(files.values()), len(files), found["open"],
            found["snapshot, first"], found["snapshot, another"],
            found["point, first"], found["point, another"],
            report.raw_bytes / 1e3 / found["everything, first"],
        )  # fmt: skip


def layer_rows(paths: Sequence[Path], folder: Path) -> Iterator[tuple[object, ...]]:
    for path in paths:
        stores = {"whole": ({}, TOLERANCE), "direct": ({}, COARSE)}
        stores["layered"] = ({"compression.layers": [COARSE]}, TOLERANCE)
        files = {}
        for kind, (config, tolerance) in stores.items():
            store = folder / f"{path.stem}-{kind}.romzarr"
            romzarr.compress(path, store, tolerance=tolerance, config=config)
            files[kind] = sizes(store)
        whole, direct, layered = (sum(each.values()) for each in files.values())
        fine = sum(n for p, n in files["layered"].items() if any(x.endswith("_2") for x in p.parts))
        fetched = layered - fine
        yield path.stem, whole, layered / whole, fetched, direct, fetched / direct


def archives() -> list[Path]:
    data = Path(os.environ.get("ROMZARR_BENCH_DATA", ROOT.parent / "shared" / "data"))
    return sorted(data.glob("*.zarr"))


READING = ("archive", "bytes", "objects", "open, ms", "snapshot, ms", "another, ms", "point, ms",
           "another, ms", "everything, MB a CPU s")  # fmt: skip
LAYERS = ("archive", "bytes at 1e-2", "with a layer", "fetched at 1e-1", "store at 1e-1",
          "fetched by store")  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("archives", type=Path, nargs="*", help="those to read")
    given = parser.parse_args(arguments)
    if given.child:
        _warm_up()
        print(json.dumps(child(*given.child)))
        return
    paths = given.archives or archives()
    print(f"{machine()}.\n")
    with tempfile.TemporaryDirectory() as folder:
        print(table(READING, reading_rows(paths, Path(folder))), "\n")
        print(table(LAYERS, layer_rows(paths, Path(folder))))


if __name__ == "__main__":
    main()

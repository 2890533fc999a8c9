"""CPU time of reading parts of stores, and bytes of looking coarse first.

``make bench-reading``, or ``python -m tests.benchmarks.bench_reading``, prints four tables in
Markdown, for every archive of ``$ROMZARR_BENCH_DATA`` (by default ../shared/data beside the
repository), or those that are named. The first has bytes and objects of a store at 1e-2, and CPU
milliseconds of opening it, of one snapshot (of one level), of another one, of the history of one
point, of another one, and MB of everything in a CPU second. The second has what a layer at 1e-1
costs in bytes, and the bytes that looking at it takes beside those of a store at 1e-1. The third
has CPU milliseconds of opening views of the store at 1e-2, coarser ones and one of few modes, and
of reading all that these have; the bytes of its arrays that this fetches; and the bound on the
error of the first variable, relative to the fluctuation. The fourth has what shorter tiles
(``layout.tile``) cost in bytes, and what a first look takes.

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
from typing import Any

import numpy as np
import xarray as xr

import romzarr
from romzarr.contracts import Coding
from romzarr.store.reading.checked import CheckedStore
from tests.benchmarks.measure import ROOT, Record, in_child, machine, table

TOLERANCE, COARSE, MODES = 1e-2, 1e-1, 8
# Snapshots of a tile, of what is coded as values.
SNAPSHOTS = (122, 61, 31)
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
        romzarr.compress(archive.isel(x=[0, 1] * 8), f"{folder}/t", tolerance=TOLERANCE)
        xr.open_dataset(f"{folder}/t", engine="romzarr", level=1, modes=1).load()


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


def view_child(store: str, view: str) -> Record:
    """Open a view of a store in this process and read all of it; CPU milliseconds, and bytes."""
    fetched = []
    check = CheckedStore._checked

    def counting(self: CheckedStore, key: str, chunk: Any) -> Any:
        fetched.append(0 if chunk is None else len(chunk))
        return check(self, key, chunk)

    CheckedStore._checked = counting  # type: ignore[method-assign]
    start = time.process_time()
    opened = xr.open_dataset(store, engine="romzarr", cache=False, **json.loads(view))
    between = time.process_time()
    names = list(romzarr.info(store).variables)
    opened[names].load()
    return {
        "open": 1e3 * (between - start),
        "everything": 1e3 * (time.process_time() - between),
        "bytes": sum(fetched),
        "bound": opened[names[0]].attrs["romzarr_relative_l2_error"],
    }


def view_rows(paths: Sequence[Path], folder: Path) -> Iterator[tuple[object, ...]]:
    for path in paths:
        store = folder / f"{path.stem}-views.romzarr"
        romzarr.compress(path, store, tolerance=TOLERANCE)
        most = len(xr.open_datatree(store, engine="romzarr").children)
        views: list[dict[str, int]] = [{"level": level} for level in range(min(4, most))]
        for view in (*views, {"modes": MODES}):
            found = in_child(MODULE, ["--view", str(store), json.dumps(view)])
            if "failed" in found:
                raise RuntimeError(f"{path}, {view}: {found['failed']}")
            words = " ".join(f"{name} {number}" for name, number in view.items())
            yield (
                path.stem, words, found["open"], found["everything"], found["bytes"],
                found["bound"],
            )  # fmt: skip


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


def tile_rows(paths: Sequence[Path], folder: Path) -> Iterator[tuple[object, ...]]:
    for path in paths:
        longest = folder / f"{path.stem}-auto.romzarr"
        romzarr.compress(path, longest, tolerance=TOLERANCE)
        whole = sum(sizes(longest).values())
        for lengths in shorter(longest):
            store, config = folder / f"{path.stem}-tiled.romzarr", {"layout.tile": lengths}
            romzarr.compress(path, store, tolerance=TOLERANCE, config=config, overwrite=True)
            found = in_child(MODULE, ["--child", str(store), "snapshot"])
            found |= in_child(MODULE, ["--child", str(store), "everything"])
            if "failed" in found:
                raise RuntimeError(f"{path}, {lengths}: {found['failed']}")
            words = ", ".join(f"{dim}: {n}" for dim, n in lengths.items())
            yield (
                path.stem, words, sum(sizes(store).values()) / whole, found["snapshot, first"],
                found["everything, first"],
            )  # fmt: skip


def shorter(store: Path) -> Iterator[dict[str, int]]:
    """Lengths that make tiles of a store shorter: single levels, or fewer snapshots of values."""
    described = romzarr.info(store)
    opened = xr.open_dataset(store, engine="romzarr")
    _, *space = opened[next(iter(described.variables))].transpose("time", ...).dims
    for count in (1, 2, 4):
        lengths = {dim: count for dim in space[:-2] if opened.sizes[dim] > count}
        if lengths:
            yield lengths
    if Coding.DIRECT in {each["coding"] for each in described.variables.values()}:
        yield from ({"time": n} for n in SNAPSHOTS if n < opened.sizes["time"])


def archives() -> list[Path]:
    data = Path(os.environ.get("ROMZARR_BENCH_DATA", ROOT.parent / "shared" / "data"))
    return sorted(data.glob("*.zarr"))


READING = ("archive", "bytes", "objects", "open, ms", "snapshot, ms", "another, ms", "point, ms",
           "another, ms", "everything, MB a CPU s")  # fmt: skip
VIEWS = ("archive", "view", "open, ms", "everything, ms", "bytes of arrays", "bound")
TILES = ("archive", "tile", "bytes by auto", "snapshot, ms", "everything, ms")
LAYERS = ("archive", "bytes at 1e-2", "with a layer", "fetched at 1e-1", "store at 1e-1",
          "fetched by store")  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--view", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("archives", type=Path, nargs="*", help="those to read")
    given = parser.parse_args(arguments)
    if given.child:
        _warm_up()
        print(json.dumps(child(*given.child)))
        return
    if given.view:
        _warm_up()
        print(json.dumps(view_child(*given.view)))
        return
    paths = given.archives or archives()
    print(f"{machine()}.\n")
    with tempfile.TemporaryDirectory() as folder:
        print(table(READING, reading_rows(paths, Path(folder))), "\n")
        print(table(LAYERS, layer_rows(paths, Path(folder))), "\n")
        print(table(VIEWS, view_rows(paths, Path(folder))), "\n")
        print(table(TILES, tile_rows(paths, Path(folder))))


if __name__ == "__main__":
    main()

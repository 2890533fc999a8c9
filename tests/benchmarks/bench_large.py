"""POD of archives ten times larger than a worker's memory, on two worker processes.

``python -m tests.benchmarks.bench_large`` makes each archive, measures, and deletes it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.benchmarks.archives import Recipe, archive, recipe_arguments, recipe_from
from tests.benchmarks.bench_pod import Case, read_only
from tests.benchmarks.measure import (
    MB,
    Record,
    in_child,
    machine,
    measured,
    memory,
    reset_peak,
    table,
)

# The case of bench_pod, then ten times as long, and ten times as wide by small and large chunks.
REFERENCE = Recipe()
LARGE = (
    Recipe(20_000, 256, 256),
    Recipe(2000, 810, 810, (50, 270, 270)),
    Recipe(2000, 810, 810, (50, 810, 810)),
)
SMALLEST = Recipe(200, 24, 24, (50, 24, 24))
LIMIT = 2**30


def spent() -> dict[str, float]:
    """Of the process this runs in: CPU seconds, bytes now and the highest since `reset_peak`."""
    return {"cpu": time.process_time(), **memory()}


def child(recipe: Recipe, tolerance: float, workers: int, limit: int) -> Record:
    """POD with coefficients and modes left on the workers, as `compress` does it."""
    import dask
    from distributed import Client, LocalCluster

    from romzarr.archive import open_archive
    from romzarr.compression.pod import factor_archive
    from romzarr.config import Config, with_values

    path = str(archive(recipe))
    # Also brings the file into the page cache, for what is measured next as for this.
    _, reading = measured(read_only(Case(Path(path), 0, tolerance, workers, 0, 0.0)))
    config = with_values(Config(), {"compression.tolerance": tolerance})
    with (
        LocalCluster(
            n_workers=workers, threads_per_worker=1, memory_limit=limit, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        # Imports and connections of the workers are not measured.
        client.run(_import_all)
        client.run(reset_peak)
        before = client.run(spent)
        wall, cpu = time.perf_counter(), time.process_time()
        pod = factor_archive(open_archive(path), config)
        modes = [dask.delayed(_mode_bytes, pure=False)(b, pod.turn) for b in pod.held.blocks]
        basis_bytes = sum(dask.compute(*modes))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        after = client.run(spent)
        spilled = client.run(_spilled)
        return {
            "seconds": wall,
            "read_seconds": reading.seconds,
            "read_cpu": reading.cpu_seconds,
            "scheduler_cpu": cpu,
            "worker_cpu": sum(after[w]["cpu"] - before[w]["cpu"] for w in after),
            "worker_peak": max(a["peak"] for a in after.values()),
            "worker_before": max(b["now"] for b in before.values()),
            "worker_after": max(a["now"] for a in after.values()),
            "spilled": sum(spilled.values()),
            "restarts": len(before) - len(before.keys() & after.keys()),
            "rank": pod.modes,
            "basis_bytes": basis_bytes,
            "raw_bytes": recipe.raw_bytes,
            "tasks_per_chunk": _tasks(path, tolerance) / recipe.chunk_count,
        }


def _import_all() -> None:
    import_module("romzarr.compression.pod")


def _mode_bytes(block: Any, turn: Any) -> int:
    return int((turn.T.astype(block.rows.dtype) @ block.rows).nbytes)


def _spilled(dask_worker: Any) -> int:
    """Bytes this worker has ever written to disk for want of memory."""
    data = dask_worker.data
    return int(getattr(data, "cumulative_metrics", {}).get(("disk-write", "bytes"), 0))


def _tasks(path: str, tolerance: float) -> int:
    from romzarr.archive import open_archive
    from romzarr.chunked.pod import decompose

    lazy = decompose(open_archive(path).variables, tolerance=tolerance)
    return len(lazy.factor.__dask_graph__())


def measure(recipe: Recipe, tolerance: float, workers: int, limit: int, keep: bool) -> Record:
    existed = archive_exists(recipe)
    path = archive(recipe)
    arguments = ["--child", "--tolerance", str(tolerance), "--workers", str(workers)]
    arguments += ["--limit", str(limit), *recipe_arguments(recipe)]
    try:
        return in_child(__spec__.name, arguments)
    finally:
        if not (keep or existed):
            shutil.rmtree(path)


def archive_exists(recipe: Recipe) -> bool:
    from tests.benchmarks.archives import cache_folder

    return (cache_folder() / f"{recipe.name}.zarr").exists()


def report(recipes: tuple[Recipe, ...], tolerance: float, workers: int, limit: int) -> str:
    """Costs of each, per byte relative to the first."""
    header = (
        "archive", "GB", "read wall s", "read CPU s", "wall s", "CPU s", "wall / byte",
        "CPU / byte", "worker peak MB", "of it before", "spilled MB", "restarts", "rank",
        "tasks / chunk",
    )  # fmt: skip
    first: Record | None = None
    rows: list[tuple[Any, ...]] = []
    for recipe in recipes:
        found = measure(recipe, tolerance, workers, limit, keep=recipe == REFERENCE)
        if "failed" in found:
            rows.append((recipe.name, recipe.raw_bytes / 1e9, found["failed"], *[None] * 11))
            continue
        first = first or found
        ratios = [
            _per_byte(found, key) / _per_byte(first, key) for key in ("seconds", "worker_cpu")
        ]
        sizes = [round(found[k] / MB) for k in ("worker_peak", "worker_before", "spilled")]
        last = (found["restarts"], found["rank"], found["tasks_per_chunk"])
        costs = [found[k] for k in ("read_seconds", "read_cpu", "seconds", "worker_cpu")]
        rows.append((recipe.name, recipe.raw_bytes / 1e9, *costs, *ratios, *sizes, *last))
    return "\n\n".join(
        [
            f"## Larger than memory: {workers} worker processes of {limit / MB:.0f} MB",
            f"{machine()}; tolerance {tolerance:g}; ratios to the first line.",
            table(header, rows),
        ]
    )


def _per_byte(found: Record, key: str) -> float:
    return float(found[key] / found["raw_bytes"])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", action="store_true", help="measure --recipe in this process")
    parser.add_argument("--recipe", type=recipe_from, action="append")
    parser.add_argument("--tolerance", type=float, default=1e-2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--limit", type=int, default=LIMIT, help="bytes a worker")
    given = parser.parse_args(arguments)
    recipes = tuple(given.recipe or (REFERENCE, *LARGE))
    if given.child:
        print(json.dumps(child(recipes[0], given.tolerance, given.workers, given.limit)))
    else:
        print(report(recipes, given.tolerance, given.workers, given.limit))


if __name__ == "__main__":
    main()

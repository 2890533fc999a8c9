"""POD with coefficients of a 500 MB archive, beside only reading it and beside the peers.

``python -m tests.benchmarks.bench_pod`` prints Markdown tables; with ``--method`` it is the
child that runs one method once and prints its cost, and its error against an oracle that
shares no code with any method.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from tests.benchmarks.archives import Recipe, archive, errors, oracle, recipe_arguments, recipe_from
from tests.benchmarks.measure import (
    MB,
    Record,
    in_child,
    interleaved,
    machine,
    measured,
    table,
)

SMALLEST = Recipe(200, 24, 24, (50, 24, 24))
Steps = slice


@dataclass(frozen=True)
class Case:
    """What is asked of a method: `rank` modes, or (rank 0) a relative error of `tolerance`."""

    path: Path
    rank: int
    tolerance: float
    threads: int
    # Known from the oracle: peers that take only an error, or only a rank, are given it.
    known_rank: int
    error: float


@dataclass(frozen=True)
class Found:
    """An approximation, as a function of the snapshots, and the modes it took."""

    rank: int
    centred: bool
    approximation: Callable[[Steps], Any]

    @classmethod
    def of(cls, a: Any, modes: Any, mean: Any = 0.0, *, centred: bool) -> Found:
        """From coefficients (m, r), modes (r, n) and a mean."""
        a, modes = np.asarray(a, np.float64), np.asarray(modes, np.float64)
        return cls(len(modes), centred, lambda steps: a[steps] @ modes + mean)


Work = Callable[[], Found | None]


def read_only(case: Case) -> Work:
    """Read and decompress every chunk on the same threads, and nothing else."""
    array = zarr.open_group(case.path, mode="r")["u"]
    height = array.chunks[0]

    def read(start: int) -> None:
        array[start : start + height]

    def work() -> None:
        with ThreadPoolExecutor(case.threads) as pool:
            list(pool.map(read, range(0, array.shape[0], height)))

    return work


def romzarr_pod(case: Case) -> Work:
    """Basis and coefficients in memory: tree, choice of rank, modes and a(t)."""
    import dask

    from romzarr.archive import open_archive
    from romzarr.compression.pod import factor_archive
    from romzarr.config import Config, with_values
    from romzarr.numerics.pod.truncation import tails

    if case.rank:
        return _of_rank(case, None)

    def work() -> Found:
        config = with_values(Config(), {"compression.tolerance": case.tolerance})
        pod = factor_archive(open_archive(str(case.path)), config)
        # What `compress` may use are some modes more: coding may spend less on them than they do.
        left = np.sqrt(tails(pod.energies[0]) + pod.dropped[0] ** 2) + pod.apart[0]
        rank = int(np.argmax(left <= case.tolerance * pod.norms[0].fluctuation))
        blocks, turn = dask.compute(*pod.held.blocks), pod.turn[:, :rank].T
        # Times the singular values, which the coefficients are without.
        modes = np.hstack([turn.astype(b.rows.dtype) @ b.rows for b in blocks])
        mean = np.concatenate([b.mean for b in blocks])
        return Found.of(pod.right.here()[:, :rank], modes, mean, centred=True)

    return work


def romzarr_single(case: Case) -> Work:
    """The same for a given rank in float32, as every peer computes on float32 input.

    Left to itself romzarr takes float64 here, because a rank says nothing of the accuracy.
    """
    from romzarr.numerics.pod.inner_products import Precision

    single = np.dtype(np.float32)
    return _of_rank(case, Precision(single, single))


def _of_rank(case: Case, precision: Any) -> Work:
    import dask

    from romzarr.archive import open_archive
    from romzarr.chunked.pod import decompose

    def work() -> Found:
        variables = open_archive(str(case.path)).variables
        lazy = decompose(variables, rank=case.rank, precision=precision)
        factor, blocks, parts = dask.compute(lazy.factor, lazy.blocks, lazy.right)
        right = np.concatenate(parts)
        sigma = np.sqrt(np.diagonal(factor.gram[0])[: case.rank])
        modes = np.hstack([b.rows[: case.rank] for b in blocks])
        modes /= sigma[:, None].astype(modes.dtype)
        mean = np.concatenate([b.mean for b in blocks])
        return Found.of(right[:, : case.rank] * sigma, modes, mean, centred=True)

    return work


def romzarr_compress(case: Case) -> Work:
    """The whole operation, model and store included, into a temporary folder."""
    # All that the measured part imports by itself.
    import xarray as xr

    from romzarr.operations.compress import compress

    def work() -> Found:
        folder = tempfile.mkdtemp(prefix="romzarr-bench-")
        store = Path(folder) / "store.romzarr"
        report = compress(case.path, store, tolerance=case.tolerance)
        decoded = xr.open_dataset(store, engine="romzarr")["u"]
        return Found(report.rank, True, lambda steps: decoded[steps].values)

    return work


def pymor_hapod(case: Case) -> Work:
    """pyMOR's distributed HAPOD; the coefficients take it a second pass."""
    from pymor.algorithms.hapod import dist_hapod
    from pymor.core.logger import set_log_levels
    from pymor.vectorarrays.numpy import NumpyVectorSpace

    set_log_levels({"pymor": "ERROR"})
    array = zarr.open_group(case.path, mode="r")["u"]
    height, m = array.chunks[0], array.shape[0]
    slices = -(-m // height)
    space = NumpyVectorSpace(int(np.prod(array.shape[1:])))

    def snapshots(node: Any) -> Any:
        first = getattr(node, "tag", node) * height
        block = array[first : first + height]
        return space.from_numpy(block.reshape(len(block), -1).T)

    def work() -> Found:
        with ThreadPoolExecutor(case.threads) as pool:
            modes, _, _ = dist_hapod(
                slices, snapshots, case.error, HAPOD_OMEGA, arity=HAPOD_ARITY,
                executor=pool, eval_snapshots_in_executor=True,
            )  # fmt: skip
            modes = modes[: case.known_rank]
            parts = pool.map(lambda i: snapshots(i).inner(modes), range(slices))
            a = np.concatenate(list(parts))
        return Found.of(a, modes.to_numpy().T, centred=False)

    return work


# Of omega in (.5, .75, .9, .95) and arity in (None, 2, 4, 8), each run twice for 30 modes at full
# size: among the cheapest (the next ones are alike within the noise), 4e-6 over the optimum.
HAPOD_OMEGA = 0.9
HAPOD_ARITY = 4


def dask_svd(case: Case) -> Work:
    """dask's randomised SVD with QR-stabilised power iterations."""
    import dask
    import dask.array as da

    def work() -> Found:
        lazy = da.from_zarr(str(case.path), component="u")
        lazy = lazy.reshape(lazy.shape[0], -1)
        u, s, v = da.linalg.svd_compressed(
            lazy, case.known_rank, iterator="QR", n_power_iter=2, seed=0
        )
        u, s, v = dask.compute(u, s, v, num_workers=case.threads)
        return Found.of(u * s, v, centred=False)

    return work


def xeofs_eof(case: Case) -> Work:
    """xeofs' EOF analysis of the lazy archive."""
    import xarray as xr
    from xeofs.single import EOF

    def work() -> Found:
        lazy = xr.open_zarr(case.path, consolidated=False)["u"]
        model = EOF(n_modes=case.known_rank, random_state=0)
        model.fit(lazy, dim="time")
        modes = model.components().transpose("mode", ...).values
        a = model.scores(normalized=False).transpose("time", "mode").values
        modes = modes.reshape(len(modes), -1)
        mean = lazy.mean("time").values.astype(np.float64).ravel()
        return Found.of(a, modes, mean, centred=True)

    return work


METHODS: dict[str, tuple[Callable[[Case], Work], str | None]] = {
    "read only": (read_only, None),
    "romzarr POD": (romzarr_pod, None),
    "romzarr POD in float32": (romzarr_single, None),
    "romzarr compress": (romzarr_compress, None),
    "pyMOR dist_hapod": (pymor_hapod, "pymor"),
    "dask svd_compressed": (dask_svd, None),
    "xeofs EOF": (xeofs_eof, "xeofs"),
}
SLOW = ("xeofs EOF",)
# Methods that know a tolerance only, or a rank only.
NOT_OF_A_RANK = ("romzarr compress",)
NOT_OF_A_TOLERANCE = ("romzarr POD in float32",)


# --- child --------------------------------------------------------------------------------


def child(method: str, recipe: Recipe, rank: int, tolerance: float, threads: int) -> Record:
    """Run one method once; error and optimum are found after the measured part."""
    import dask
    from dask.base import get_scheduler

    prepare, package = METHODS[method]
    if package is not None and find_spec(package) is None:
        return {"failed": f"skipped: {package} is not installed (pip install 'romzarr[bench]')"}
    path, best = archive(recipe), oracle(recipe)
    energy = best.raw
    tails = np.sqrt(np.append(energy[::-1].cumsum()[::-1], 0) / energy.sum())
    known = rank or int(np.argmax(tails <= tolerance))
    # pyMOR's error is a mean over snapshots, in the units of the data.
    error = float((tails[rank] if rank else tolerance) * np.sqrt(energy.sum() / recipe.snapshots))
    with dask.config.set(scheduler="threads", num_workers=threads):
        work = prepare(Case(path, rank, tolerance, threads, known, error))
        # Choosing a scheduler for the first time imports distributed where it is installed.
        get_scheduler()
        found, cost = measured(work)
    return cost.record() | ({} if found is None else accuracy(recipe, path, found))


def accuracy(recipe: Recipe, path: Path, found: Found) -> Record:
    """Error of the approximation, and how far it is above the best of its rank."""
    of_archive, of_anomalies = errors(path, found.approximation)
    error = of_anomalies if found.centred else of_archive
    optimum = oracle(recipe).optimum(found.rank, centred=found.centred)
    return {"rank": found.rank, "error": error, "over_optimum": error / optimum - 1}


# --- tables -------------------------------------------------------------------------------


def run(
    recipe: Recipe, rank: int, tolerance: float, threads: int, repetitions: int
) -> dict[str, Record]:
    """Every method on one archive, interleaved; medians."""
    archive(recipe)
    oracle(recipe)

    def method(name: str) -> Callable[[], Record]:
        arguments = [
            "--method", name, "--rank", str(rank), "--tolerance", str(tolerance),
            "--threads", str(threads), *recipe_arguments(recipe),
        ]  # fmt: skip
        return partial(in_child, __spec__.name, arguments)

    left_out = NOT_OF_A_RANK if rank else NOT_OF_A_TOLERANCE
    runs = {name: method(name) for name in METHODS if name not in left_out}
    fast = {name: run for name, run in runs.items() if name not in SLOW}
    slow = {name: run for name, run in runs.items() if name in SLOW}
    return interleaved(fast, repetitions) | interleaved(slow, 1)


def markdown(found: dict[str, Record]) -> str:
    """Costs and errors by method, with ratios to reading and to romzarr."""
    read, ours = found["read only"], found["romzarr POD"]
    header = (
        "method", "wall s", "CPU s", "CPU / read", "wall / romzarr", "CPU / romzarr",
        "peak MB", "rank", "error", "over the optimum of that rank",
    )  # fmt: skip
    rows: list[Sequence[Any]] = []
    for name, record in found.items():
        if "failed" in record:
            rows.append((name, record["failed"], *[None] * 8))
            continue
        wall, cpu = record["seconds"], record["cpu_seconds"]
        ratios = [
            _ratio(cpu, read, "cpu_seconds"),
            _ratio(wall, ours, "seconds"),
            _ratio(cpu, ours, "cpu_seconds"),
        ]
        quality = [None] * 3
        if "rank" in record:
            error, excess = record["error"], record["over_optimum"]
            quality = [record["rank"], f"{error:.4e}", f"{excess:+.1e}"]
        rows.append((name, wall, cpu, *ratios, round(record["peak_bytes"] / MB), *quality))
    return table(header, rows)


def _ratio(value: float, of: Record, key: str) -> float | None:
    return value / of[key] if key in of else None


def report(recipe: Recipe, threads: int, repetitions: int, rank: int, tolerance: float) -> str:
    parts = [
        f"## POD of {recipe.raw_bytes / MB:.0f} MB ({recipe.name}), {threads} threads",
        f"{machine()}; medians of {repetitions} interleaved runs ({', '.join(SLOW)}: one).",
    ]
    for title, r in ((f"{rank} modes", rank), (f"tolerance {tolerance:g}", 0)):
        parts += [f"### {title}", markdown(run(recipe, r, tolerance, threads, repetitions))]
    return "\n\n".join(parts)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", choices=METHODS, help="run only this, once, in this process")
    parser.add_argument("--recipe", type=recipe_from, default=Recipe())
    parser.add_argument("--rank", type=int, default=30)
    parser.add_argument("--tolerance", type=float, default=1e-2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=5)
    given = parser.parse_args(arguments)
    if given.method:
        print(
            json.dumps(
                child(given.method, given.recipe, given.rank, given.tolerance, given.threads)
            )
        )
    else:
        print(report(given.recipe, given.threads, given.repetitions, given.rank, given.tolerance))


if __name__ == "__main__":
    main()

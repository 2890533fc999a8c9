"""POD of a stream beside the peers: rank, error and time, at equal blocks and equal rank.

``python -m tests.benchmarks.bench_stream_peers`` prints Markdown; ``make bench-activations``
installs what it needs. Each method runs in a process of its own, on one core.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from romzarr.numerics.pod.incremental import IncrementalPOD
from romzarr.streams.reduction import GROWN, LEAST, RESIDUAL_SHARE, RUNNING_SHARE
from tests.benchmarks.measure import Record, in_child, interleaved, machine, measured, table

Matrix = NDArray[np.float64]

DATA = Path(__file__).parents[3] / "shared" / "data"
TOLERANCE, BLOCKS, REPETITIONS = 1e-2, (1, 50), 5
# Share of its tolerance that pyMOR leaves to the last POD: cheapest of (.5, .75, .9, .95) here.
OMEGA = 0.9


def wake() -> Matrix:
    """From the steady state to the limit cycle: one velocity, points in the fluid."""
    values = xr.open_zarr(DATA / "cylinder_nek_pod.zarr", consolidated=False)["u"].values
    rows = values.reshape(len(values), -1).astype(np.float64)
    return rows[:, ~np.isnan(rows[0])]


def chaos() -> Matrix:
    """Kuramoto-Sivashinsky: directions keep coming."""
    return np.asarray(xr.open_zarr(DATA / "ks_pysindy.zarr", consolidated=False)["u"].values)


def switch(snapshots: int = 600, points: int = 4000) -> Matrix:
    """Two limit cycles in subspaces at right angles, one after the other, with some noise."""
    rng = np.random.default_rng(0)
    shapes = np.linalg.qr(rng.standard_normal((points, 16)))[0].T
    t = np.arange(snapshots) * 0.1
    parts = []
    for regime, speed in enumerate((1.0, 1.7)):
        waves = [f(k * speed * t) / k for k in range(1, 5) for f in (np.sin, np.cos)]
        parts.append(np.column_stack(waves) @ shapes[8 * regime : 8 * regime + 8])
    rows = np.where((np.arange(snapshots) < snapshots // 2)[:, None], *parts)
    return rows + 1e-4 / points**0.5 * rng.standard_normal(rows.shape)


STREAMS = {"cylinder_nek_pod, u": wake, "ks_pysindy": chaos, "synthetic switch": switch}


@dataclass(frozen=True)
class Best:
    """What an SVD of all snapshots at once knows, about the mean."""

    sigma: Matrix
    norm: float

    @classmethod
    def of(cls, rows: Matrix) -> Best:
        values = np.linalg.eigvalsh(rows @ rows.T)[::-1]
        return cls(np.sqrt(np.maximum(values, 0.0)), float(np.linalg.norm(rows)))

    def error(self, rank: int) -> float:
        return float(np.linalg.norm(self.sigma[rank:])) / self.norm

    def rank(self, tolerance: float) -> int:
        return next(r for r in range(len(self.sigma) + 1) if self.error(r) <= tolerance)


@dataclass(frozen=True)
class Found:
    """Modes (r, n) by falling energy, the mean they are taken about, and what rebuilds snapshots
    from coefficients that were found as they came (None: the method has none)."""

    modes: Matrix
    mean: Matrix | float = 0.0
    rebuilt: Callable[[], Matrix] | None = None


def romzarr(blocks: Iterator[Matrix], tolerance: float, rank: int) -> Found:
    """With the shares of the error, and the cuts, of `romzarr.streams.reduction`."""
    pod, after_cut = IncrementalPOD(RESIDUAL_SHARE**0.5 * tolerance), LEAST
    parts: list[Matrix] = []

    def cut(tolerance: float) -> None:
        before = pod.rank
        move = pod.cut(tolerance)
        if move is not None:
            a = [move(np.pad(part, ((0, 0), (0, before - part.shape[1])))) for part in parts]
            parts[:] = [np.concatenate(a)]

    for block in blocks:
        parts.append(pod.update(block))
        if pod.rank >= GROWN * after_cut:
            cut(RUNNING_SHARE**0.5 * tolerance)
            after_cut = max(pod.rank, LEAST)
    cut(tolerance)
    return Found(pod.modes, pod.origin, lambda: pod.rebuilt(parts[0]))


def hapod(blocks: Iterator[Matrix], tolerance: float, rank: int) -> Found:
    """pyMOR's incremental HAPOD, which is told how long the stream is, and how large."""
    from pymor.algorithms.hapod import inc_hapod
    from pymor.core.logger import set_log_levels
    from pymor.vectorarrays.numpy import NumpyVectorSpace

    set_log_levels({"pymor": "ERROR"})
    parts = list(blocks)
    squares = sum(float(np.vdot(part, part)) for part in parts)
    space = NumpyVectorSpace(parts[0].shape[1])
    snapshots = (space.from_numpy(part.T) for part in parts)
    eps = tolerance * (squares / sum(map(len, parts))) ** 0.5
    return Found(inc_hapod(len(parts), snapshots, eps, OMEGA)[0].to_numpy().T)


def incremental_pca(blocks: Iterator[Matrix], tolerance: float, rank: int) -> Found:
    """scikit-learn's; its first block must not be shorter than the rank."""
    from sklearn.decomposition import IncrementalPCA

    pca, first = IncrementalPCA(n_components=rank), []
    for block in blocks:
        if first is not None:
            first.append(block)
            if sum(map(len, first)) < rank:
                continue
            block, first = np.concatenate(first), None
        pca.partial_fit(block)
    return Found(pca.components_, pca.mean_)


def brand(blocks: Iterator[Matrix], tolerance: float, rank: int) -> Found:
    """The update of a truncated SVD as in the paper, with the coefficients turned along.

    .. [1] M. Brand, "Fast low-rank modifications of the thin singular value decomposition",
       Linear Algebra Appl. 415 (2006) 20-30, doi:10.1016/j.laa.2005.07.021, section 2.
    """
    u = v = np.zeros((0, 0))
    s = np.zeros(0)
    for block in blocks:
        c = block.T
        if not len(u):
            u, v = np.zeros((len(c), 0)), np.zeros((0, 0))
        along = u.T @ c
        left_over = c - u @ along
        # Not in the paper: without it, U loses its right angles within a dozen snapshots.
        j, k = np.linalg.qr(left_over - u @ (u.T @ left_over))
        middle = np.block([[np.diag(s), along], [np.zeros((len(k), len(s))), k]])
        left, s, right = np.linalg.svd(middle, full_matrices=False)
        kept = slice(min(rank, len(s)))
        old = np.concatenate([v @ right[kept, : v.shape[1]].T, right[kept, v.shape[1] :].T])
        u, s, v = np.hstack([u, j]) @ left[:, kept], s[kept], old
    return Found(u.T, 0.0, lambda: (v * s) @ u.T)


METHODS: dict[str, tuple[Callable[..., Found], str | None]] = {
    "romzarr IncrementalPOD": (romzarr, None),
    "pyMOR inc_hapod": (hapod, "pymor.algorithms.hapod"),
    "scikit-learn IncrementalPCA": (incremental_pca, "sklearn.decomposition"),
    "Brand update": (brand, None),
}


def child(stream: str, method: str, block: int, smallest: bool) -> Record:
    """Run one method once; errors are found after the measured part."""
    run, module = METHODS[method]
    if module is not None:
        package = module.split(".")[0]
        if find_spec(package) is None:
            return {"failed": f"skipped: {package} is not installed"}
        import_module(module)  # beforehand: importing is none of its work
    rows = switch(120, 300) if smallest else STREAMS[stream]()
    # For the peers that do not follow a mean; to the others it makes no difference.
    rows = rows - rows.mean(axis=0)
    best = Best.of(rows)
    edges = [*range(0, len(rows), block), len(rows)]
    blocks = (rows[start:stop] for start, stop in pairwise(edges))
    found, cost = measured(lambda: run(blocks, TOLERANCE, best.rank(TOLERANCE)))
    return cost.record() | _accuracy(rows, best, found)


def _accuracy(rows: Matrix, best: Best, found: Found) -> Record:
    basis = np.linalg.qr(found.modes.T)[0]
    centred, rank = rows - found.mean, len(found.modes)
    unit = found.modes / np.linalg.norm(found.modes, axis=1)[:, None]
    rebuilt = None if found.rebuilt is None else found.rebuilt()
    return {
        "rank": rank,
        "best_rank": best.rank(TOLERANCE),
        "error": float(np.linalg.norm(centred - (centred @ basis) @ basis.T)) / best.norm,
        "best_error": best.error(rank),
        "streamed": None if rebuilt is None else np.linalg.norm(rows - rebuilt) / best.norm,
        "angles": float(np.abs(unit @ unit.T - np.eye(rank)).max()),
    }


def compared(stream: str, smallest: bool) -> str:
    """Table of one stream."""
    lines: list[Sequence[Any]] = []
    for block in BLOCKS:
        arguments = ["--stream", stream, "--block", str(block), *["--smallest"] * smallest]
        runs = {
            name: partial(in_child, __spec__.name, [*arguments, "--method", name])
            for name in METHODS
        }
        found = interleaved(runs, 1 if smallest else REPETITIONS)
        lines += [_line(block, name, record) for name, record in found.items()]
    header = ["block", "method", "rank", "best", "error", "best of that rank", "in one pass"]
    return table([*header, "modes off a right angle", "CPU s"], lines)


def _line(block: int, name: str, record: Record) -> Sequence[Any]:
    if "failed" in record:
        return [block, name, record["failed"], *[None] * 6]
    errors = [record["error"], record["best_error"], record["streamed"]]
    return [
        block,
        name,
        round(record["rank"]),
        round(record["best_rank"]),
        *("-" if error is None else f"{error:.3e}" for error in errors),
        f"{record['angles']:.0e}",
        f"{record['cpu_seconds']:.3g}",
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stream", choices=STREAMS)
    parser.add_argument("--method", choices=METHODS)
    parser.add_argument("--block", type=int)
    parser.add_argument("--smallest", action="store_true")
    given = parser.parse_args(arguments)
    if given.method:
        print(json.dumps(child(given.stream, given.method, given.block, given.smallest)))
        return
    print(f"{machine()}\n")
    names = ["synthetic switch"] if given.smallest or not DATA.is_dir() else list(STREAMS)
    for name in names:
        print(f"## {name}\n\n{compared(name, given.smallest)}\n", flush=True)


if __name__ == "__main__":
    main()

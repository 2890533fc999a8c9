"""How long one token takes: p50 and p99 of ``update`` for 768 features and 32 modes, one core.

``python -m tests.benchmarks.bench_latency`` prints Markdown. CPU time of the thread is what counts
where others use the machine; wall time is beside it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from romzarr import StreamCompressor
from romzarr.numerics.pod.incremental import IncrementalPOD
from romzarr.streams.reduction import StreamReduction
from tests.benchmarks.measure import machine, table

Floats = NDArray[np.floating]
# What takes a token and its number, and what tells the modes in use.
Method = tuple[Callable[[Floats, int], object], Callable[[], int]]

FEATURES, MODES, TOKENS, WARM_UP = 768, 32, 10_000, 1_500
# Beside features of size one; and after how many tokens one direction gives way to a new one.
NOISE, TURNOVER = 1e-4, 250
TOLERANCE = 0.05


def tokens(count: int, dtype: type, turnover: int | None) -> Floats:
    """Tokens (count, FEATURES) in MODES directions, which stay or give way to others."""
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.standard_normal((FEATURES, FEATURES)))[0]
    sizes = np.logspace(0, -1, MODES)
    used, following = list(range(MODES)), MODES
    rows = np.empty((count, FEATURES))
    for k in range(count):
        if turnover and k % turnover == turnover - 1:
            used[rng.integers(MODES)] = following % FEATURES
            following += 1
        rows[k] = sizes * rng.standard_normal(MODES) @ directions[used]
    return (3.0 + rows + NOISE * rng.standard_normal(rows.shape)).astype(dtype)


def measured(update: Callable[[Floats, int], object], rows: Floats) -> NDArray[np.float64]:
    """Seconds (tokens, 2) of CPU and on the wall for every token after the warm-up."""
    found = np.empty((len(rows), 2))
    for k in range(len(rows)):
        wall, cpu = time.perf_counter(), time.thread_time()
        update(rows[k : k + 1], k)
        found[k] = time.thread_time() - cpu, time.perf_counter() - wall
    return found[min(WARM_UP, len(rows) // 2) :]


def basis_alone(folder: str) -> Method:
    pod = IncrementalPOD(TOLERANCE)
    return lambda row, k: pod.update(row), lambda: pod.rank


def with_model(folder: str) -> Method:
    stream = StreamReduction(10 * TOLERANCE)
    return lambda row, k: stream.update(row, np.array([float(k)])), lambda: stream.pod.rank


def into_a_store(folder: str) -> Method:
    stream = StreamCompressor(f"{folder}/store", tolerance=10 * TOLERANCE, commit_steps=10**9)
    return lambda row, k: stream.update(row), lambda: stream.rank


METHODS = {
    "IncrementalPOD": basis_alone,
    "StreamReduction (basis, model)": with_model,
    "StreamCompressor, between commits": into_a_store,
}
CASES = {
    "float32, same directions": partial(tokens, dtype=np.float32, turnover=None),
    "float16, same directions": partial(tokens, dtype=np.float16, turnover=None),
    f"float32, a new direction every {TURNOVER} tokens": partial(
        tokens, dtype=np.float32, turnover=TURNOVER
    ),
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smallest", action="store_true")
    given = parser.parse_args(arguments)
    lines = []
    with threadpool_limits(1):
        for case, make in CASES.items():
            rows = make(300 if given.smallest else TOKENS)
            for name, method in METHODS.items():
                with tempfile.TemporaryDirectory() as folder:
                    update, rank = method(folder)
                    seconds = 1e3 * measured(update, rows)
                percentiles = np.percentile(seconds, [50, 99], axis=0)
                largest = seconds[:, 0].max()
                cells = (f"{ms:.3f}" for ms in (*percentiles.T.ravel(), largest))
                lines.append([case, name, rank(), *cells])
    header = ["tokens", "update of", "modes at the end", "p50 CPU ms", "p99 CPU ms"]
    print(f"{machine()}\n")
    print(table([*header, "p50 wall ms", "p99 wall ms", "largest CPU ms"], lines))


if __name__ == "__main__":
    main()

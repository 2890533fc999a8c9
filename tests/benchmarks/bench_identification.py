"""Cost and accuracy of identification, beside pysindy's weak form in the same run.

Run ``python -m tests.benchmarks.bench_identification`` with one BLAS thread. Every line is
JSON: CPU seconds of this one process, coefficient error, true-positive rate, ratios.
pysindy is measured where it can be imported, here or by ``--peer PYTHON`` (an interpreter
of another environment that has it).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from romzarr.contracts import BlockSpan, SparseModel
from romzarr.numerics.dynamics.library import PolynomialLibrary
from romzarr.numerics.dynamics.stlsq import stlsq
from romzarr.numerics.dynamics.weakform import merge_factors, plan_windows, triangular_factor
from tests.systems_of_odes import (
    LORENZ,
    LOTKA_VOLTERRA,
    VAN_DER_POL,
    KnownSystem,
    coefficient_error,
    true_positive_rate,
    with_noise,
)

NOISE = (0.0, 0.01, 0.05, 0.1)

# Runs in the peer's interpreter: reads times and states, prints CPU seconds and coefficients.
PEER = """
import json, sys, time, warnings
import numpy as np
import pysindy as ps
warnings.simplefilter("ignore")
times, a = np.load(sys.argv[1]), np.load(sys.argv[2])
degree, settings = int(sys.argv[3]), sys.argv[4]
more = {} if settings == "defaults" else {
    "K": 1000, "H_xt": np.array([100 * (times[1] - times[0])])}
np.random.seed(0)
start = time.process_time()
library = ps.WeakPDELibrary(
    ps.PolynomialLibrary(degree=degree, include_bias=True), spatiotemporal_grid=times, **more)
model = ps.SINDy(feature_library=library, optimizer=ps.STLSQ(threshold=0.1))
model.fit(a, t=times)
cpu = time.process_time() - start
print(json.dumps({"cpu": cpu, "coefficients": model.coefficients().T.tolist()}))
"""


def identify(times: Any, a: Any, degree: int, block: int = 200_000) -> tuple[SparseModel, float]:
    """Model of the record by the product's defaults, and the CPU seconds it took."""
    start = time.process_time()
    library = PolynomialLibrary(a.shape[1], degree)
    plan = plan_windows(times, a)
    factors = []
    for first in range(0, len(times), block):
        span = BlockSpan(first, min(first + block, len(times)))
        factors.append(triangular_factor(a, times, library, plan, span))
    model = stlsq(merge_factors(factors), names=library.names())
    return model, time.process_time() - start


def plain_numpy(times: Any, a: Any, degree: int) -> tuple[NDArray[np.float64], float]:
    """The plain baseline: windows of 201 samples every 10, least squares, raw threshold 0.1."""
    start = time.process_time()
    theta = PolynomialLibrary(a.shape[1], degree).evaluate(a)
    s, step = np.linspace(-1, 1, 201), times[1] - times[0]
    psi, slope = (1 - s**2) ** 6, -12 * s * (1 - s**2) ** 5 / (100 * step)
    first = range(0, len(a) - 200, 10)
    g = np.array([psi @ theta[k : k + 201] for k in first])
    b = -np.array([slope @ a[k : k + 201] for k in first])
    xi = np.linalg.lstsq(g, b, rcond=None)[0]
    for _ in range(20):
        large = np.abs(xi) >= 0.1
        xi[~large] = 0
        for j in range(b.shape[1]):
            if large[:, j].any():
                xi[large[:, j], j] = np.linalg.lstsq(g[:, large[:, j]], b[:, j], rcond=None)[0]
    return xi, time.process_time() - start


def pysindy(
    interpreter: str, times: Any, a: Any, degree: int, settings: str
) -> tuple[NDArray[np.float64], float] | None:
    """Coefficients and CPU seconds of pysindy's weak form, None where it is not installed."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder, name)) for name in ("t.npy", "a.npy")]
        np.save(paths[0], times)
        np.save(paths[1], a)
        done = subprocess.run(
            [interpreter, "-c", PEER, *paths, str(degree), settings],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        return None
    found = json.loads(done.stdout.splitlines()[-1])
    return np.array(found["coefficients"]), found["cpu"]


def accuracy(
    system: KnownSystem, samples: int, seeds: int, peer: str, step: float = 0.001
) -> list[dict[str, Any]]:
    """One record per noise level: every method, mean over seeds."""
    times, clean = system.record(samples, step=step)
    truth = system.coefficients(PolynomialLibrary(system.states, 3).names())
    records = []
    for noise in NOISE:
        rows: dict[str, list[tuple[float, float, float]]] = {}
        for seed in range(seeds if noise else 1):
            a = with_noise(clean, noise, seed) if noise else clean
            model, cpu = identify(times, a, 3)
            found: dict[str, tuple[NDArray[np.float64], float] | None] = {
                "romzarr": (model.coefficients, cpu),
                "plain numpy": plain_numpy(times, a, 3),
                "pysindy defaults": pysindy(peer, times, a, 3, "defaults"),
                "pysindy K=1000": pysindy(peer, times, a, 3, "tuned"),
            }
            for name, result in found.items():
                if result is not None and result[0].shape == truth.shape:
                    xi, cpu = result
                    row = (coefficient_error(xi, truth), true_positive_rate(xi, truth), cpu)
                    rows.setdefault(name, []).append(row)
        record: dict[str, Any] = {"system": system.name, "noise": noise, "samples": samples}
        for name, values in rows.items():
            error, rate, cpu = np.mean(values, axis=0)
            record[name] = {"error": float(error), "rate": float(rate), "cpu": float(cpu)}
        for name in ("pysindy defaults", "pysindy K=1000"):
            if name in rows:
                ratio = record[name]["cpu"] / record["romzarr"]["cpu"]
                record[f"times faster than {name}"] = ratio
        records.append(record)
    return records


def growth(sizes: tuple[int, ...], seeds: int) -> list[dict[str, Any]]:
    """Lorenz at 1 % noise, degree 2: the error must fall and the cost be linear."""
    times = np.arange(sizes[-1]) * LORENZ.step
    clean = LORENZ.at(times)
    truth = LORENZ.coefficients(PolynomialLibrary(3, 2).names())
    records = []
    for samples in sizes:
        runs = []
        for seed in range(seeds):
            a = with_noise(clean[:samples], 0.01, seed)
            model, cpu = identify(times[:samples], a, 2)
            runs.append((coefficient_error(model.coefficients, truth), cpu))
        error, cpu = np.mean(runs, axis=0)
        records.append({"samples": samples, "error": float(error), "cpu": float(cpu)})
    return records


def size(sizes: tuple[int, ...], modes: int = 10) -> list[dict[str, Any]]:
    """CPU and memory of a many-mode record at degree 2: modulated waves and noise."""
    rng = np.random.default_rng(0)
    times = np.arange(sizes[-1]) * 0.01
    phases = rng.uniform(0, 6, modes)
    waves = np.sin(times[:, None] * (0.7 + 0.4 * np.arange(modes)) + phases)
    a = waves * (1 + 0.3 * np.roll(waves, 1, axis=1)) + 0.01 * rng.standard_normal(waves.shape)
    records = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for samples in sizes:
        model, cpu = identify(times[:samples], a[:samples], 2)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        record = {"samples": samples, "modes": modes, "cpu": cpu, "peak_mb": peak / 1024}
        record["peak_mb_above_input"] = (peak - before) / 1024
        record["terms"] = model.nonzero_terms
        records.append(record)
    return records


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", default=sys.executable, help="interpreter that has pysindy")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--largest", type=int, default=1_000_000)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args(arguments)
    sizes = tuple(given.largest // k for k in (100, 10, 1))
    parts: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "size": lambda: size(sizes),
        "growth": lambda: growth(sizes, given.seeds),
    }
    for system in (LORENZ, VAN_DER_POL, LOTKA_VOLTERRA):
        parts[f"accuracy, {system.name}"] = lambda system=system: accuracy(
            system, given.samples, given.seeds, given.peer
        )
    for name, part in parts.items():
        for record in part():
            if name.startswith("accuracy") and "pysindy defaults" not in record:
                record["skipped"] = f"pysindy: not importable by {given.peer}"
            print(json.dumps({"part": name, **record}), flush=True)


if __name__ == "__main__":
    main()

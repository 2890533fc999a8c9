"""Systems of which the equations are known, seen as fields: how many terms are printed.

Run ``python -m tests.benchmarks.bench_field SYSTEMS.json`` with one BLAS thread, with systems as
for `tests.benchmarks.bench_equations`. Every line is JSON. States are lifted to 1000 points by
patterns, with 1 % of each point's rms as noise, and compressed; equations are those of the store.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import romzarr
from romzarr.operations.field_model import field_model
from tests.benchmarks.bench_equations import System

Floats = NDArray[np.float64]

POINTS, NOISE = 1000, 0.01
TOLERANCES = (0.01, 0.02, 0.05)
# Terms over true terms that are asked for in the median.
ASKED = 1.5


def random_patterns(rng: np.random.Generator, states: int) -> Floats:
    """White in space: nearly orthogonal."""
    return rng.standard_normal((states, POINTS))


def smooth_patterns(rng: np.random.Generator, states: int) -> Floats:
    """Hills at random places that overlap: far from orthogonal."""
    x, place = np.linspace(0, 1, POINTS), rng.uniform(size=(2, states, 1))
    hills: Floats = np.exp(-(((x - place[0]) / (0.1 + 0.2 * place[1])) ** 2))
    return hills


PATTERNS: dict[str, Callable[[np.random.Generator, int], Floats]] = {
    "random": random_patterns,
    "smooth": smooth_patterns,
}


def lifted(system: System, patterns: str, alike: bool, seed: int) -> xr.Dataset:
    """A field of a system; of states of variance one if they are to be `alike`."""
    rng, states = np.random.default_rng(seed), system.clean.states
    if alike:
        states = states / states.std(axis=0)
    field = states @ PATTERNS[patterns](rng, system.states)
    if alike:  # a background that is not that of the equations
        field = field + 3 * field.std() * rng.standard_normal(POINTS)
    rms = np.sqrt(np.mean(field**2, axis=0))
    field = field + NOISE * rms * rng.standard_normal(field.shape)
    return xr.Dataset({"u": (("time", "x"), field)}, {"time": system.clean.times})


def run(system: System, field: xr.Dataset, tolerance: float, store: Path) -> dict[str, Any]:
    """Terms over true terms: stored, in the modes, and in the best coordinates."""
    shutil.rmtree(store, ignore_errors=True)
    romzarr.compress(field, store, tolerance=tolerance)
    true = sum(map(len, system.equations))
    start = time.process_time()
    model = field_model(store)
    cpu = time.process_time() - start
    found = {"system": system.name, "cpu": cpu}
    if model is None:
        return found
    modes = model.attrs["terms_of_modes"] / true
    sparse = model.attrs["terms"] / true if model.attrs["sparse"] else modes
    return found | {"states": model.sizes["state"], "modes": modes, "sparse": sparse}


def lines(systems: Sequence[System], seeds: int) -> Iterator[dict[str, Any]]:
    """Medians over systems and seeds, by patterns and tolerance."""
    with tempfile.TemporaryDirectory() as folder:
        for patterns, alike, tolerance in CASES:
            runs = [
                run(system, lifted(system, patterns, alike, seed), tolerance, Path(folder, "store"))
                for system in systems
                for seed in range(seeds)
            ]
            fitted = [each for each in runs if "sparse" in each]
            sparse = np.array([each["sparse"] for each in fitted])
            yield {
                "patterns": patterns,
                "variance one, on a background": alike,
                "tolerance": tolerance,
                "runs": len(runs),
                "fitted": len(fitted),
                "modes": round(float(np.median([each["modes"] for each in fitted])), 2),
                "sparse": round(float(np.median(sparse)), 2),
                "mean": round(float(np.mean(sparse)), 2),
                "most": round(float(sparse.max()), 2),
                "within asked": round(float(np.mean(sparse <= ASKED)), 2),
                "cpu": round(float(np.median([each["cpu"] for each in runs])), 1),
                "not within": [each["system"] for each in fitted if each["sparse"] > ASKED],
            }


def forecast_lines(systems: Sequence[System]) -> Iterator[dict[str, Any]]:
    """Of each system a forecast for twice the record, bounded and not, and the scores of its end.

    Times are Lyapunov times where there are any, else those of the record.
    """
    with tempfile.TemporaryDirectory() as folder:
        for system in systems:
            store = Path(folder, "store")
            shutil.rmtree(store, ignore_errors=True)
            field = lifted(system, "random", True, 0)
            romzarr.compress(field, store, tolerance=0.02)
            end = 3 * float(field.time[-1])
            kept, free = (romzarr.forecast(store, end, bounded=each) for each in (True, False))
            trusted = kept.time <= kept.attrs["trusted_until"]
            apart = np.abs(kept.state_mean - free.state_mean).where(trusted).max()
            unit = kept.attrs.get("lyapunov_exponent", 1.0)
            scores = {
                name.removeprefix("score_"): round(value * unit, 2)
                for name, value in kept.attrs.items()
                if name in ("score_length", "score_error_passes", "score_spread_passes")
            }
            yield {
                "system": system.name,
                "exponent": kept.attrs.get("lyapunov_exponent"),
                "trusted": round(kept.attrs["trusted_for"] * unit, 2),
                **scores,
                "within two": round(kept.attrs.get("score_within_two", float("nan")), 2),
                "runs away if free": free.attrs.get("runs_away_at"),
                "apart while trusted": float(apart),
                "farthest if bounded": float(np.abs(kept.state_mean).max()),
            }


# Patterns; whether states have variance one and lie on a background; tolerance.
CASES = (
    *(("random", True, tolerance) for tolerance in TOLERANCES),
    ("random", False, 0.02),
    ("smooth", True, 0.02),
    ("smooth", False, 0.02),
)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("systems", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--forecasts", action="store_true", help="forecasts instead")
    options = parser.parse_args(arguments)
    facts = json.loads(options.systems.read_text(encoding="utf-8"))
    systems = [System.read(name, each) for name, each in facts.items()]
    found = forecast_lines(systems) if options.forecasts else lines(systems, options.seeds)
    for line in found:
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()

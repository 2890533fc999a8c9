"""Equations of systems of which they are known: are they found, how well, and how sure.

Run ``python -m tests.benchmarks.bench_equations SYSTEMS.json`` with one BLAS thread. Every line is
JSON. The file maps names to ``n`` states, ``degree``, ``dt`` (100 samples a period), ``start`` and
``equations``: for each state a list of [factors, coefficient], factors being numbers of states
with repetition. Records have 10 periods and white noise, a share of each state's rms.

A run is *exact* if all terms are right, no others are there, and the coefficients are within 10 %
in the Euclidean norm.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from romzarr.contracts import TriangularFactor
from romzarr.numerics.dynamics.library import PolynomialLibrary
from romzarr.numerics.dynamics.likelihood import Guess, LinearSystem, first_noise, most_likely
from romzarr.numerics.dynamics.shooting import Record
from romzarr.numerics.dynamics.stlsq import stlsq
from romzarr.numerics.dynamics.term_selection import select_terms, weak_triangle
from romzarr.numerics.triangles import square_r

Floats = NDArray[np.float64]

NOISE = (0.0, 0.01, 0.05, 0.1)
SAMPLES = 1000
EXACT = 0.1
LARGEST_DEGREE = 4
# 97.5 % of a normal distribution lie below.
TWO_SIDED_95 = 1.96
# Terms that are less probable than the first, than the second ..., for calibration.
SURENESS = (0.5, 0.9, 0.99, 1.0)


@dataclass(frozen=True)
class System:
    """A polynomial system with a start on its attractor."""

    name: str
    states: int
    degree: int
    step: float
    start: tuple[float, ...]
    equations: tuple[Mapping[tuple[int, ...], float], ...]

    @classmethod
    def read(cls, name: str, facts: Mapping[str, Any]) -> System:
        equations = tuple(
            {tuple(sorted(factors)): value for factors, value in equation}
            for equation in facts["equations"]
        )
        return cls(name, facts["n"], facts["degree"], facts["dt"], tuple(facts["start"]), equations)

    @cached_property
    def clean(self) -> Record:
        """A record of 10 periods, right to about 1e-12."""
        library = PolynomialLibrary(self.states, self.degree)
        xi = self.coefficients(library)
        times = np.arange(SAMPLES) * self.step
        solution = solve_ivp(
            lambda _, state: (library.evaluate(state[None]) @ xi)[0],
            (0.0, times[-1]),
            self.start,
            method="DOP853",
            t_eval=times,
            rtol=1e-12,
            atol=1e-12,
        )
        return Record(np.ascontiguousarray(solution.y.T), times)

    def coefficients(self, library: PolynomialLibrary) -> Floats:
        xi = np.zeros((library.size, self.states))
        for j, equation in enumerate(self.equations):
            for factors, value in equation.items():
                xi[library.factors.index(factors), j] = value
        return xi

    def noise(self, level: float) -> Floats:
        return np.asarray(level * np.sqrt(np.mean(self.clean.states**2, axis=0)))

    def noisy(self, level: float, seed: int) -> Record:
        errors = np.random.default_rng(seed).standard_normal(self.clean.states.shape)
        return Record(self.clean.states + self.noise(level) * errors, self.clean.times)


def found(system: System, record: Record, degree: int) -> dict[str, Any]:
    """One run of the search up to a degree."""
    libraries = [PolynomialLibrary(system.states, d) for d in range(1, degree + 1)]
    truth = system.coefficients(libraries[-1])
    start = time.process_time()
    selection = select_terms([record], libraries, weak_triangle([record], libraries[-1]))
    cpu = time.process_time() - start
    xi, sure = np.zeros_like(truth), np.zeros_like(truth)
    errors = np.zeros_like(truth)
    if selection is not None:
        terms = selection.library.size
        xi[:terms], sure[:terms] = selection.fit.coefficients, selection.probability
        errors[:terms] = selection.fit.standard_errors
    there, right = xi != 0, truth != 0
    error = float(np.linalg.norm(xi - truth) / np.linalg.norm(truth))
    within = np.abs(xi - truth) <= TWO_SIDED_95 * errors
    return {
        "exact": bool((there == right).all()) and error < EXACT,
        "close": error < EXACT,
        "false": int(np.count_nonzero(there & ~right)),
        "missed": int(np.count_nonzero(right & ~there)),
        "error": error,
        "covered": float(within[there & right].mean()) if (there & right).any() else 0.0,
        "sure": sure[there].tolist(),
        "right": right[there].tolist(),
        "cpu": cpu,
    }


def with_true_terms(system: System, record: Record, level: float) -> dict[str, float]:
    """Error over the Cramer-Rao bound, and coverage of 95 % intervals, if the terms are known."""
    library = PolynomialLibrary(system.states, system.degree)
    truth = system.coefficients(library)
    support = truth != 0
    bound = _bound(system, library, level)
    windows = _windowed(record, library, support)
    fit = most_likely([record], library, support, windows, first_noise([record]))
    if fit is None:
        return {"windows": float(np.linalg.norm(windows - truth)) / bound}
    within = np.abs(fit.coefficients - truth) <= TWO_SIDED_95 * fit.standard_errors
    return {
        "windows": float(np.linalg.norm(windows - truth)) / bound,
        "likelihood": float(np.linalg.norm(fit.coefficients - truth)) / bound,
        "covered": float(within[support].mean()),
    }


def _bound(system: System, library: PolynomialLibrary, level: float) -> float:
    """Root of the sum of the least variances of the coefficients, at the true trajectory."""
    truth, clean = system.coefficients(library), system.clean
    guess = Guess(truth, (clean.states,), system.noise(level), 0.0)
    columns = LinearSystem([clean], library, guess).columns(*np.nonzero(truth))
    return float(np.sqrt(np.trace(np.linalg.inv(columns.T @ columns))))


def _windowed(record: Record, library: PolynomialLibrary, support: NDArray[np.bool_]) -> Floats:
    """Least squares over windows with these terms, without the bias of noise."""
    factor = weak_triangle([record], library)
    xi = np.zeros(support.shape)
    for j, terms in enumerate(support.T):
        columns = [*np.flatnonzero(terms), library.size + j]
        noise = None if factor.noise is None else square_r(factor.noise[:, columns])
        alone = TriangularFactor(
            square_r(factor.r[:, columns]), len(columns) - 1, factor.windows, noise
        )
        xi[terms, j] = stlsq(alone, threshold=0.0).coefficients[:, 0]
    return xi


def search_lines(
    systems: Sequence[System], seeds: int, degree: Callable[[System], int]
) -> Iterator[dict[str, Any]]:
    """Shares and means over systems and seeds, by noise."""
    for level in NOISE:
        runs = [
            found(system, system.noisy(level, seed), degree(system))
            | {"system": system.name, "seed": seed}
            for system in systems
            for seed in range(seeds if level else 1)
        ]
        line: dict[str, Any] = {
            key: round(float(np.mean([run[key] for run in runs])), 4)
            for key in ("exact", "close", "false", "missed", "covered", "cpu")
        }
        sure = np.concatenate([run["sure"] for run in runs])
        right = np.concatenate([run["right"] for run in runs])
        below = 0.0
        for limit in SURENESS:
            some = (sure >= below) & (sure < limit if limit < 1 else sure <= 1)
            share = round(float(right[some].mean()), 3) if some.any() else None
            line[f"right of {below:g} to {limit:g} sure"] = [share, int(some.sum())]
            below = limit
        wrong = [f"{run['system']} {run['seed']}" for run in runs if not run["exact"]]
        yield {"noise": level, "runs": len(runs), **line, "not exact": wrong}


def bound_lines(systems: Sequence[System], seeds: int) -> Iterator[dict[str, Any]]:
    """Medians of errors over the bound, and mean coverage, by noise."""
    for level in NOISE[1:]:
        runs = [
            with_true_terms(system, system.noisy(level, seed), level)
            for system in systems
            for seed in range(seeds)
        ]
        fitted = [run for run in runs if "likelihood" in run]
        yield {
            "noise": level,
            "fitted": len(fitted) / len(runs),
            "windows": round(float(np.median([run["windows"] for run in runs])), 3),
            "likelihood": round(float(np.median([run["likelihood"] for run in fitted])), 3),
            "rms": round(float(np.sqrt(np.mean([run["likelihood"] ** 2 for run in fitted]))), 3),
            "covered": round(float(np.mean([run["covered"] for run in fitted])), 3),
        }


# Runs in the peer's interpreter: reads times and states, prints what each of its methods found and
# the CPU seconds that took. Its thresholds are those that foretell the last 300 samples best in the
# weak form, by the Bayesian criterion with an eighth of the windows as observations.
PEER = """
import json, sys, time, warnings
import numpy as np
import pysindy as ps
warnings.simplefilter("ignore")
times, states, degree = np.load(sys.argv[1]), np.load(sys.argv[2]), int(sys.argv[3])
step, half = times[1] - times[0], 20
def fitted(part, threshold, ensemble):
    np.random.seed(0)
    terms = ps.PolynomialLibrary(degree=degree, include_bias=True)
    library = ps.WeakPDELibrary(
        terms, spatiotemporal_grid=times[:len(part)], K=200, H_xt=np.array([half * step]))
    optimizer = ps.STLSQ(threshold=threshold, alpha=0.0)
    if ensemble:
        optimizer = ps.EnsembleOptimizer(optimizer, bagging=True, n_models=50)
    model = ps.SINDy(feature_library=library, optimizer=optimizer)
    model.fit(part, t=times[:len(part)])
    return model.coefficients().T
def system(part):
    s = np.linspace(-1, 1, 2 * half + 1)
    psi, slope = step * (1 - s**2) ** 8, 16 * s * (1 - s**2) ** 7 / half
    theta = np.asarray(ps.PolynomialLibrary(degree=degree, include_bias=True).fit_transform(part))
    starts = range(0, len(part) - 2 * half, 2)
    cut = lambda values, weights: np.array([weights @ values[k:k + 2 * half + 1] for k in starts])
    return cut(theta, psi), cut(part, slope)
g, b = system(states[-300:])
for name, ensemble in (("weak form", False), ("ensemble", True)):
    start, scores = time.process_time(), {}
    for threshold in np.geomspace(0.01, 3, 8):
        try:
            xi = fitted(states[:-300], threshold, ensemble)
        except Exception:
            continue
        left = np.sum((b - g @ xi) ** 2, axis=0) / np.sum(b**2, axis=0)
        count = len(b) / 8
        scores[threshold] = count * np.log(left).sum() + np.count_nonzero(xi) * np.log(count)
    xi = fitted(states, min(scores, key=scores.get), ensemble)
    print(json.dumps({"method": name, "cpu": time.process_time() - start, "xi": xi.tolist()}))
"""


def peer_runs(interpreter: str, system: System, record: Record) -> list[dict[str, Any]]:
    """One run of each method of pysindy, at the system's own degree."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder, name)) for name in ("times.npy", "states.npy")]
        np.save(paths[0], record.times)
        np.save(paths[1], record.states)
        command = [interpreter, "-c", PEER, *paths, str(system.degree)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    truth = system.coefficients(PolynomialLibrary(system.states, system.degree))
    runs = [json.loads(line) for line in done.stdout.splitlines()]
    return [
        {
            "method": run["method"],
            "cpu": run["cpu"],
            "exact": bool(((xi != 0) == (truth != 0)).all())
            and float(np.linalg.norm(xi - truth)) < EXACT * float(np.linalg.norm(truth)),
            "false": int(np.count_nonzero((xi != 0) & (truth == 0))),
        }
        for run in runs
        for xi in [np.array(run["xi"])]
    ]


def peer_lines(systems: Sequence[System], seeds: int, interpreter: str) -> Iterator[dict[str, Any]]:
    """Shares and means of each method of pysindy, by noise."""
    for level in NOISE:
        runs = [
            run
            for system in systems
            for seed in range(seeds if level else 1)
            for run in peer_runs(interpreter, system, system.noisy(level, seed))
        ]
        for method in dict.fromkeys(run["method"] for run in runs):
            its = [run for run in runs if run["method"] == method]
            means = {
                key: round(float(np.mean([run[key] for run in its])), 4)
                for key in ("exact", "false", "cpu")
            }
            yield {"noise": level, "method": f"pysindy, {method}", "runs": len(its), **means}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("systems", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", type=int, help="so many systems, evenly chosen")
    parser.add_argument("--peer", help="interpreter that has pysindy, to run it beside")
    given = parser.parse_args(arguments)
    facts = json.loads(given.systems.read_text())
    systems = [System.read(name, facts[name]) for name in sorted(facts)]
    if given.only:
        systems = systems[:: max(1, len(systems) // given.only)][: given.only]
    parts: dict[str, Iterator[dict[str, Any]]] = {
        "own degree": search_lines(systems, given.seeds, lambda system: system.degree),
        "automatic degree": search_lines(systems, given.seeds, lambda _: LARGEST_DEGREE),
        "true terms": bound_lines(systems, given.seeds),
    }
    if given.peer:
        parts["peer"] = peer_lines(systems, given.seeds, given.peer)
    for name, lines in parts.items():
        for line in lines:
            print(json.dumps({"part": name, **line}), flush=True)


if __name__ == "__main__":
    main()

"""Neural SINDy as measured: training, the five runs, their cures, the default, other systems.

``make bench-neural`` prints one Markdown page and leaves pictures in ``romzarr-neural``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

import romzarr
from romzarr.config import CompressionConfig, Config, LibraryConfig
from romzarr.neural.distill import distill
from romzarr.neural.operations import OPERATIONS
from romzarr.neural.runs import RUNS, Problem, RunResult, beyond, cures
from romzarr.neural.systems import (
    BEYOND,
    OSCILLATOR,
    System,
    driven_pendulum,
    duffing,
    oscillator,
    pendulum,
)
from romzarr.numerics.dynamics.networks import shipped_operators
from romzarr.reports import CompressionReport
from romzarr_flows.neural.pages import (
    cures_page,
    distilled_page,
    equation,
    rows,
    spread,
    training_page,
)
from romzarr_flows.neural.pictures import draw_cures, draw_curves, draw_run
from tests.benchmarks.measure import machine

# Parameters are drawn, not chosen: of each kind as many systems as `drawn` is asked for.
DRAWN = 20261130
DATA = Path(__file__).parents[3] / "shared" / "data"
REPORTED = {
    "1": "splits across collinear terms",
    "2": "soft mixture, damping lost",
    "3": "commits to sin for identity",
    "4": "slot 2: activation of damping 0.27, coefficient -0.028",
    "5": "slot 2: activation of damping 0.34",
}


def training(where: Path, epochs: int, seeds: int) -> str:
    from romzarr.neural.training import train

    # Finishing takes two minutes, however short the training was.
    finish = epochs > 1000
    trained = train(OPERATIONS, epochs=epochs, seeds=seeds, finish=finish)
    draw_curves(trained, where / "training.png")
    command = f"romzarr neural train --epochs {epochs} --seeds {seeds}"
    return training_page(trained, command, "training.png").split("![")[0]


def activations(epochs: int, seeds: int) -> str:
    """Validation error without the finishing steps, by activation."""
    from romzarr.neural.training import train

    some = [each for each in OPERATIONS if each.name in ("identity", "add", "mul")]
    table = []
    for activation in ("relu", "gelu"):
        changed = [replace(each, activation=activation) for each in some]
        trained = train(changed, epochs=epochs, seeds=seeds, finish=False)
        errors = [
            spread(np.array([100 * v.error for v in trained.verdicts[each.name]])) for each in some
        ]
        table.append([activation, *errors])
    head = ["activation", *(f"{each.name} %" for each in some)]
    return "# Activations, errors over the whole range without finishing\n\n" + rows(head, table)


def five_runs(where: Path, seeds: int, steps: int | None) -> str:
    problem = replace(Problem.reference(1e-3, seeds), steps=steps)
    table = []
    for name in ("1", "2", "3", "4", "5", "router", "best"):
        result = RUNS[name](problem)
        draw_run(result, where / f"run-{name}.png")
        table.append([name, REPORTED.get(name, "-"), *_facts(result)])
    head = ["run", "reported", "x' (mean coefficients)", "v' (mean coefficients)"]
    head += ["activation of damping, last slot", "right", "MSE x'", "MSE v'", "CPU s"]
    return "# The five runs, noise 0.001\n\n" + rows(head, table)


def _facts(result: RunResult) -> list[str]:
    mean = result.coefficients.mean(axis=0)
    damping = result.activations[:, 1, -1, list(result.names).index("identity(a2)")]
    return [
        *(equation(mean[:, j], result.names, 0.01) for j in range(2)),
        spread(damping),
        f"{int(result.exact.sum())}/{len(result.exact)}",
        *(spread(result.mse[:, j]) for j in range(2)),
        f"{result.cpu_seconds:.1f}",
    ]


def defaults(seeds: int, levels: Sequence[float], steps: int | None) -> str:
    """The default and the cured router at some levels of noise; and on seeds not seen before."""
    table = []
    for name, first, count in (
        ("best", 0, seeds),
        ("router", 0, seeds),
        ("best", 1000, 5 * seeds),
        ("router", 1000, seeds),
    ):
        for sigma in levels:
            problem = Problem.absolute(OSCILLATOR, sigma, range(first, first + count))
            problem = replace(problem, steps=steps)
            begin = time.perf_counter()
            result = RUNS[name](problem)
            wall = time.perf_counter() - begin
            table.append(
                [
                    name if not first else f"{name}, other seeds",
                    f"{sigma:g}",
                    f"{int(result.exact.sum())}/{count}",
                    *(f"{100 * e:.3g}" for e in result.coefficient_errors.max(axis=0)),
                    f"{result.least_activation().min():.4f}",
                    f"{result.mse.max():.2g}",
                    f"{wall:.1f}",
                ]
            )
    head = ["method", "noise", "both right", "error of v in x' %", "of x in v' %", "of v in v' %"]
    head += ["least activation", "largest MSE", "seconds for all seeds"]
    return "# The default, errors of coefficients the largest of all seeds\n\n" + rows(head, table)


def other_systems(where: Path, seeds: int, systems: Sequence[System]) -> str:
    table = []
    for system in systems:
        for noise in (1e-3, 1e-2):
            problem, result = beyond(system, noise, seeds)
            draw_run(result, where / f"{system.name.lower().replace(' ', '-')}.png")
            size = np.mean(problem.records[0].derivatives ** 2, axis=0)
            table.append(
                [
                    system.name,
                    f"{noise:g}",
                    f"{int(result.exact.sum())}/{seeds}",
                    f"{100 * result.coefficient_errors.max():.3g}",
                    f"{result.least_activation().min():.4f}",
                    f"{100 * np.sqrt((result.mse / size).max()):.3g}",
                    f"{problem.library.size}",
                    f"{result.cpu_seconds:.1f}",
                ]
            )
    head = ["system", "noise (of rms)", "all right", "largest coefficient error %"]
    head += ["least activation", "largest error of a derivative %", "terms", "CPU s"]
    return "# Beyond the oscillator\n\n" + rows(head, table)


def drawn(count: int) -> list[tuple[str, System]]:
    """`count` systems of each kind, their parameters uniform between limits."""
    rng = np.random.default_rng(DRAWN)

    def between(low: float, high: float) -> float:
        return round(float(rng.uniform(low, high)), 3)

    found: list[tuple[str, System]] = []
    for k in range(count):
        u = between
        free = oscillator(u(0.5, 4), 0.0, u(0.5, 3), u(0.02, 0.1))
        found.append(("undamped oscillator", free))
        weak = oscillator(u(0.5, 4), u(0.005, 0.05), u(0.5, 3), u(0.02, 0.1))
        found.append(("weakly damped oscillator", weak))
        c = (0.0, u(0.01, 0.2))[k % 2]
        hard = duffing(u(0.5, 3), c, u(0.7, 2.5), u(0.02, 0.08), cubic=u(0.2, 2))
        found.append(("Duffing, hardening", hard))
        c = (u(0.01, 0.2), 0.0)[k % 2]
        wells = duffing(-u(0.5, 2), c, u(0.3, 2.2), u(0.02, 0.08), cubic=u(0.4, 2))
        found.append(("Duffing, two wells", wells))
        swing = pendulum(u(0.5, 3), u(0.005, 0.1), u(1.2, 2.9), u(0.02, 0.08))
        found.append(("pendulum", swing))
        pushed = driven_pendulum(
            u(0.5, 2.5), u(0.03, 0.3), u(0.2, 2), u(0.03, 0.08),
            force=u(0.2, 1.2), frequency=u(0.3, 1.5),
        )  # fmt: skip
        found.append(("driven pendulum", pushed))
    return found


def lengths(count: int, seeds: int, samples: Sequence[int]) -> str:
    """Rates on drawn systems, by length of the record and noise."""
    right: dict[str, dict[tuple[int, float], list[bool]]] = {}
    cases = [(n, noise) for n in samples for noise in (1e-3, 1e-2)]
    for kind, system in drawn(count):
        for n, noise in cases:
            _, result = beyond(replace(system, samples=n), noise, seeds)
            right.setdefault(kind, {}).setdefault((n, noise), []).extend(result.exact.tolist())
    table = [
        [kind, *(f"{sum(found[case])}/{len(found[case])}" for case in cases)]
        for kind, found in right.items()
    ]
    head = ["system", *(f"{n} samples, {100 * noise:g} %" for n, noise in cases)]
    return "# Drawn systems, all equations exactly right\n\n" + rows(head, table)


def all_cures(where: Path, seeds: int, steps: int | None) -> str:
    found = cures(replace(Problem.reference(1e-3, seeds), steps=steps))
    draw_cures(found, where / "run-cures.png")
    return cures_page(found, "run-cures.png").split("![")[0]


def wakes(cases: tuple[tuple[str, float], ...], steps: int) -> str:
    """Neural beside polynomial: bytes at an equal bound, and the bound at equal bytes."""
    if not DATA.is_dir():
        return "# Cylinder wakes\n\nskipped: no ../shared/data beside the checkout"
    table = []
    for name, tolerance in cases:
        allowed = 0
        for kind in ("polynomial", "neural"):
            report, cpu, residual = compressed(name, kind, tolerance)
            allowed = allowed or report.stored_bytes
            equal = tolerance
            if kind == "neural":
                equal = bound_at(name, kind, tolerance, allowed, steps)
            table.append(
                [
                    name,
                    f"{tolerance:g}",
                    kind,
                    str(report.nonzero_terms),
                    str(report.stored_bytes),
                    f"{equal:.4g}",
                    f"{100 * residual:.3g}",
                    f"{cpu:.1f}",
                ]
            )
    head = ["archive", "tolerance", "library", "terms", "bytes"]
    head += ["tolerance at the polynomial's bytes", "mean residual of the equations %", "CPU s"]
    return "# Cylinder wakes\n\n" + rows(head, table)


def compressed(name: str, kind: str, tolerance: float) -> tuple[CompressionReport, float, float]:
    """Report, CPU seconds, and the mean residual of the equations."""
    config = Config(
        compression=CompressionConfig(tolerance=tolerance), library=LibraryConfig(kind=kind)
    )
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder, "store")
        begin = time.process_time()
        report = romzarr.compress(DATA / f"{name}.zarr", store, config=config)
        cpu = time.process_time() - begin
        residual = float(np.mean(romzarr.info(store).model["residuals"]))
    return report, cpu, residual


def bound_at(name: str, kind: str, tolerance: float, nbytes: int, steps: int) -> float:
    """The tolerance at which a store takes no more than `nbytes`, by bisection upwards."""
    low, high = tolerance, 1.5 * tolerance
    for _ in range(steps):
        middle = float(np.sqrt(low * high))
        fits = compressed(name, kind, middle)[0].stored_bytes <= nbytes
        low, high = (low, middle) if fits else (middle, high)
    return high


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path("romzarr-neural"))
    parser.add_argument("--smallest", action="store_true", help="everything, as short as can be")
    given = parser.parse_args(arguments)
    where, small = given.directory, given.smallest
    where.mkdir(parents=True, exist_ok=True)
    seeds, few = (2, 1) if small else (20, 5)
    steps, levels = (20, (1e-3,)) if small else (None, (1e-3, 1e-2, 5e-2))
    cases = (("cylinder_nek_pod", 1e-2), ("cylinder_xlb_lbm", 1e-1))
    parts: list[Callable[[], str]] = [
        lambda: training(where, *((200, 1) if small else (20_000, 4))),
        lambda: activations(*((200, 1) if small else (20_000, 4))),
        lambda: "# Distillation\n\n" + distilled_page([distill(o) for o in shipped_operators()]),
        lambda: five_runs(where, seeds, steps),
        lambda: all_cures(where, seeds, steps),
        lambda: defaults(seeds, levels, steps),
        lambda: other_systems(where, few, BEYOND[: 1 if small else None]),
        lambda: lengths(*((1, 1, (300,)) if small else (4, 5, (600, 3000)))),
        lambda: wakes(cases[: 0 if small else None], 5),
    ]
    print(f"{machine()}\n")
    for part in parts:
        begin = time.process_time()
        print(part().replace("# ", "## ", 1).rstrip(), flush=True)
        print(f"\n{time.process_time() - begin:.0f} s of CPU.\n", flush=True)


if __name__ == "__main__":
    main()

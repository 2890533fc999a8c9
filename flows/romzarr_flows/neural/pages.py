"""Results of neural SINDy as Markdown pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from romzarr.neural.distill import Distilled
from romzarr.neural.runs import RunResult
from romzarr.neural.verdicts import Trained

Matrix = NDArray[np.float64]


def rows(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Format a Markdown table.

    >>> print(rows(["a", "b"], [["1", "2"]]))
    | a | b |
    | --- | --- |
    | 1 | 2 |
    """
    every = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in every)


def spread(values: Matrix) -> str:
    """Format the mean with minimum and maximum in brackets, or one number if all are equal.

    >>> spread(np.array([1.0, 2.0, 6.0]))
    '3 (1 to 6)'
    """
    values = values[np.isfinite(values)]
    if not len(values):
        return "-"
    low, middle, high = (f"{v:.3g}" for v in (values.min(), values.mean(), values.max()))
    return middle if low == high else f"{middle} ({low} to {high})"


def equation(coefficients: Matrix, names: Sequence[str], least: float = 5e-4) -> str:
    """Format terms as a signed sum.

    >>> equation(np.array([1.0, 0.0, -0.5]), ["a", "b", "c"])
    '1 a - 0.5 c'
    """
    text = ""
    for value, name in zip(coefficients, names, strict=True):
        if abs(value) >= least:
            text += f" {'-' if value < 0 else '+'} {abs(value):.3g} {name}"
    text = text.strip().removeprefix("+ ")
    return text.replace("- ", "-", 1) if text.startswith("- ") else text or "0"


def run_page(result: RunResult, picture: str) -> str:
    """Describe a run over all seeds, beside what was reported."""
    seeds, p, q = result.coefficients.shape
    lines = [f"# Run {result.title}", ""]
    lines += [f"Reported or asked: {result.expected}", "", f"Here: {result.method}", ""]
    lines += [
        f"{seeds} seeds, noise {result.noise}, {result.cpu_seconds:.1f} s of CPU. "
        f"All equations exactly right in {int(result.exact.sum())} of {seeds} seeds. "
        "Numbers are means over seeds, with the least and the largest in brackets.",
        "",
    ]
    for j in range(q):
        lines += [f"## a{j + 1}'", ""]
        lines += [f"validation MSE {spread(result.mse[:, j])}", ""]
        lines += [f"seed 0: a{j + 1}' = {equation(result.coefficients[0, :, j], result.names)}", ""]
        table = []
        for k in range(p):
            activation = result.activations[:, j, :, k]
            chosen = int(result.chosen[:, k, j].sum())
            picked = result.chosen[:, k, j]
            effect = spread(result.effects[picked, k, j]) if chosen else "-"
            table.append(
                [
                    result.names[k],
                    f"{result.truth[k, j]:g}",
                    spread(result.coefficients[:, k, j]),
                    *(spread(activation[:, s]) for s in range(activation.shape[1])),
                    f"{chosen}/{seeds}",
                    effect,
                ]
            )
        slots = result.activations.shape[2]
        heads = (
            ["activation"] if slots == 1 else [f"activation, slot {s + 1}" for s in range(slots)]
        )
        lines += [
            rows(["term", "truth", "coefficient", *heads, "chosen", "residual it removes"], table),
            "",
        ]
    if result.notes:
        lines += ["## Named before fitting", "", *(f"* {note}" for note in result.notes), ""]
    lines += [f"![run]({picture})", ""]
    return "\n".join(lines)


def cures_page(results: Sequence[RunResult], picture: str) -> str:
    """Compare all cures in one table."""
    table = []
    for result in results:
        true = result.truth != 0
        damping = result.coefficients[:, true][:, -1]
        table.append(
            [
                result.title,
                "derivatives given" if "derivatives given" in result.method else "states only",
                f"{int(result.exact.sum())}/{len(result.exact)}",
                spread(damping),
                spread(result.least_activation()),
                spread(100 * result.coefficient_errors.max(axis=1)),
                spread(result.mse.max(axis=1)),
                f"{result.cpu_seconds:.1f}",
            ]
        )
    head = ["method", "data", "both equations right", "damping coefficient (truth -0.1)"]
    head += ["least activation of a true term", "largest coefficient error, %", "MSE", "CPU s"]
    return "\n".join(
        [
            f"# Cures, noise {results[0].noise}",
            "",
            "Means over seeds (least to largest); lines with + go on from the soft "
            "slots. Where the prior counts steps, coefficients of the chosen terms come from a "
            "weak-form fit.",
            "",
            rows(head, table),
            "",
            f"![cures]({picture})",
            "",
        ]
    )


def training_page(trained: Trained, command: str, picture: str) -> str:
    """List the verdict for every operation and seed."""
    table = []
    for name, verdicts in trained.verdicts.items():
        for v in verdicts:
            best = v is trained.best(name)
            table.append(
                [
                    f"**{name}**" if best else name,
                    str(v.seed),
                    str(v.overfitted or "never"),
                    str(v.grokked or "never"),
                    *(f"{100 * e:.3g}" for e in (v.training_error, v.validation_error)),
                    f"{100 * v.unfinished:.3g}",
                    f"{100 * v.error:.3g}" if v.error != v.unfinished else "-",
                    f"{100 * v.outside:.3g}",
                ]
            )
    head = ["operation", "seed", "training fell", "validation fell", "training %", "validation %"]
    head += ["whole range %", "finished %", "outside %"]
    return "\n".join(
        [
            "# Trained operators",
            "",
            f"`{command}`, {trained.cpu_seconds:.0f} s of CPU. Errors are RMS, in per cent of the "
            "output's standard deviation; a loss fell at the first epoch with an error below 2 %. "
            "Outside: between once and one and a half times the range. Bold: the one that is kept, "
            "finished by Gauss-Newton steps.",
            "",
            rows(head, table),
            "",
            f"![learning curves]({picture})",
            "",
        ]
    )


def distilled_page(found: Sequence[Distilled]) -> str:
    """List the formulas of networks."""
    table = [[each.name, each.formula, f"{1 - each.r_squared:.1e}"] for each in found]
    return rows(["network", "formula", "1 - R^2"], table)

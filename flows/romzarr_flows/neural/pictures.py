"""Pictures of neural SINDy; matplotlib is the extra ``romzarr[plot]``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from romzarr.neural.runs import RunResult
from romzarr.neural.verdicts import Trained
from romzarr_flows.drawing import BLUE, GREY, ORANGE, RED, canvas


def draw_curves(trained: Trained, path: Path) -> None:
    """Draw training and validation errors of all seeds against epochs, on logarithmic axes."""
    names = list(trained.training)
    figure = canvas(3.3 * len(names), 3.6)
    axes: Any = figure.subplots(1, len(names), sharey=True, squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        best = trained.best(name).seed
        for curves, colour, label in (
            (trained.training[name], BLUE, "training"),
            (trained.validation[name], RED, "validation"),
        ):
            for s, curve in enumerate(curves):
                strong = s == best
                ax.loglog(
                    trained.epochs,
                    curve,
                    color=colour,
                    lw=1.6 if strong else 0.7,
                    alpha=1.0 if strong else 0.35,
                    label=label if strong else None,
                )
        ax.axhline(0.02, color=GREY, lw=0.8, ls=":")
        verdict = trained.best(name)
        ax.set_title(f"{name}: {verdict.overfitted} / {verdict.grokked}", fontsize=10)
        ax.set_xlabel("epoch")
    axes[0, 0].set_ylabel("RMS error / standard deviation")
    axes[0, 0].legend(frameon=False, fontsize=8)
    figure.suptitle(
        "Epochs at which the error of training / validation first fell below 2 % (dotted)",
        fontsize=10,
    )
    figure.savefig(path)


def draw_run(result: RunResult, path: Path) -> None:
    """Draw coefficients and activations of every term and seed beside the truth."""
    _, p, q = result.coefficients.shape
    figure = canvas(max(7.0, 0.75 * p * 2), 3.1 * q)
    axes: Any = figure.subplots(q, 2, squeeze=False)
    places = np.arange(p)
    jitter = np.linspace(-0.22, 0.22, len(result.coefficients))
    for j in range(q):
        left, right = axes[j]
        for e, row in enumerate(result.coefficients[:, :, j]):
            left.plot(places + jitter[e], row, ".", color=BLUE, ms=3.5, alpha=0.7)
        left.plot(places, result.truth[:, j], "_", color=RED, ms=18, mew=1.6, label="truth")
        left.axhline(0, color=GREY, lw=0.6)
        left.set_ylabel(f"coefficients of a{j + 1}'")
        for s in range(result.activations.shape[2]):
            for e, row in enumerate(result.activations[:, j, s]):
                right.plot(
                    places + jitter[e],
                    row,
                    ".",
                    color=(BLUE, ORANGE)[s],
                    ms=3.5,
                    alpha=0.7,
                    label=f"slot {s + 1}" if e == 0 else None,
                )
        right.set_ylim(-0.05, 1.05)
        right.set_ylabel("activation")
        if np.isnan(result.activations).all():
            right.text(0.5, 0.5, "no activations", ha="center", transform=right.transAxes)
        for ax in (left, right):
            ax.set_xlim(-0.6, p - 0.4)
            ax.set_xticks(places, result.names, rotation=40, ha="right", fontsize=8)
    axes[0, 0].legend(frameon=False, fontsize=8)
    if result.activations.shape[2] > 1:
        axes[0, 1].legend(frameon=False, fontsize=8)
    figure.suptitle(
        f"run {result.title}; {len(result.exact)} seeds, noise {result.noise}", fontsize=10
    )
    figure.savefig(path)


def draw_cures(results: Sequence[RunResult], path: Path) -> None:
    """Draw the number of correct seeds and all damping coefficients, by method."""
    figure = canvas(11, 0.45 * len(results) + 1.6)
    axes: Any = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(results))[::-1]
    for place, result in zip(places, results, strict=True):
        axes[0].barh(place, result.exact.sum(), color=BLUE)
        damping = result.coefficients[:, result.truth != 0][:, -1]
        axes[1].plot(damping, np.full(len(damping), place), ".", color=BLUE, ms=5, alpha=0.6)
    axes[0].set_yticks(places, [result.title for result in results], fontsize=8)
    axes[0].set_xlim(0, len(results[0].exact))
    axes[0].xaxis.get_major_locator().set_params(integer=True)
    axes[0].set_xlabel("seeds with both equations right")
    axes[1].axvline(-0.1, color=RED, lw=1)
    axes[1].set_xlabel("damping coefficient (red: truth)")
    figure.suptitle(f"noise {results[0].noise}", fontsize=10)
    figure.savefig(path)

"""Figure of the recorded errors by block of time and tile of space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from romzarr.contracts import EXACT
from romzarr.store.reading.block_errors import StoredBlockErrors, errors_by_part
from romzarr.store.reading.reader import CoefficientStore
from romzarr.views.sections import Axis
from romzarr_flows.drawing import canvas
from romzarr_flows.report.figures import CURVES_SHOWN, plain_powers
from romzarr_flows.report.page import Picture
from romzarr_flows.report.svg import CURVES, RED, WIDTH, distinct, inline, tick

Matrix = NDArray[np.float64]


class _Steps(NamedTuple):
    """Errors of blocks of time, each from one of the snapshots ``edges`` to the next, relative to
    what as many snapshots fluctuate: over space, and of the best and the worst tile."""

    edges: NDArray[np.int64]
    errors: Matrix
    least: Matrix
    most: Matrix


def error_blocks(
    opened: CoefficientStore, names: Sequence[str], tolerance: float, time: Axis
) -> list[Picture]:
    """Draw the errors of some variables that are recorded by block of time."""
    found = {name: steps for name in names if (steps := _steps(opened, name)) is not None}
    shown = list(found.values())[:CURVES_SHOWN]
    if not shown:
        return []
    figure = canvas(WIDTH, 2.9)
    axes = figure.subplots()
    for steps, name, colour in zip(shown, distinct(list(found)), CURVES, strict=False):
        x = time.values[steps.edges]
        curve, low, high = (np.append(each, each[-1:]) for each in steps[1:])
        axes.step(x, curve, where="post", color=colour, label=name)
        axes.fill_between(x, low, high, step="post", color=colour, alpha=0.25, lw=0)
    if 0 < tolerance < 1:
        label = f"tolerance {tolerance:g}, in the mean square"
        axes.axhline(tolerance, color=RED, lw=1, label=label)
    errors = np.concatenate([steps.errors for steps in shown])
    positive = errors[errors > 0]
    if len(positive) and positive.max() > 30 * positive.min():
        axes.set_yscale("log")
        plain_powers(axes)
    axes.set(xlabel=time.label, ylabel="error / RMS fluctuation")
    tick(axes.xaxis, time, 8)
    axes.margins(x=0.01)
    figure.legend(loc="outside upper right", ncols=6, fontsize=8.5)
    return [Picture(inline(figure, "blocks", "recorded error of each block of time"))]


def _steps(opened: CoefficientStore, name: str) -> _Steps | None:
    """What is recorded of a variable; None where that is no more than its error as a whole."""
    square = opened.facts.get("fluctuation", {}).get(name, 0.0)
    known = errors_by_part(opened, name)
    single = all(part.errors.squares.size == 1 for part in known)
    if opened.variables[name].coding in EXACT or not 0 < square < np.inf or single:
        return None
    edges, found = [np.zeros(0, np.int64)], []
    for part, start in zip(known, opened.starts, strict=False):
        edges.append(start + part.grid.lengths[0] * np.arange(part.grid.counts[0]))
        found.append(_relative(part, (square / opened.snapshots) ** 0.5))
    errors, least, most = np.concatenate(found, axis=1)
    return _Steps(np.append(np.concatenate(edges), opened.snapshots - 1), errors, least, most)


def _relative(part: StoredBlockErrors, usual: float) -> Matrix:
    """Errors (3, blocks) by the `usual` fluctuation of one snapshot: over space, and the least and
    the most of any tile."""
    sizes = [
        np.minimum(length, n - length * np.arange(count))
        for n, length, count in zip(
            part.grid.shape, part.grid.lengths, part.grid.counts, strict=True
        )
    ]
    shares = np.ones(1)
    for size, n in zip(sizes[1:], part.grid.shape[1:], strict=True):
        shares = np.outer(shares, size / n).ravel()
    squares = part.errors.squares.reshape(len(sizes[0]), -1)
    whole = np.sqrt(squares.sum(axis=1)) + part.errors.anywhere
    tiles = (np.sqrt(squares) + part.errors.anywhere) / np.sqrt(shares)
    found = np.stack([whole, tiles.min(axis=1), tiles.max(axis=1)])
    return np.asarray(found / (usual * np.sqrt(sizes[0])))

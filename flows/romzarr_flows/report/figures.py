"""Curves of a report: spectrum, coefficients and model, error over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator
from numpy.typing import NDArray

from romzarr.views.error_maps import Deviation
from romzarr.views.excerpts import Coefficients, Spectrum
from romzarr.views.sections import Axis
from romzarr_flows.drawing import canvas
from romzarr_flows.report.svg import (
    CURVES,
    GREY,
    INK,
    RED,
    WIDTH,
    distinct,
    subscript,
    tick,
)

# Variables with a curve of their own: one per colour.
CURVES_SHOWN = len(CURVES)
# Curves of more points get no markers, which would overlap.
MARKED = 80


def spectrum_figure(spectrum: Spectrum) -> Figure:
    """Draw the energy of each mode, and the truncation error against the tolerance."""
    figure = canvas(WIDTH, 3.1)
    left, right = figure.subplots(1, 2)
    rank = len(spectrum.singular_values)
    numbers = np.arange(1, rank + 1)
    energy = spectrum.singular_values**2 / spectrum.energy
    marker = "o" if rank <= MARKED else ""
    left.semilogy(numbers, energy, marker=marker, ms=3.5, lw=1, color=CURVES[0])
    # Two decades at least: within one, the ticks would have equal labels.
    left.set_ylim(bottom=min(energy.min() / 2, energy.max() / 100))
    left.set(title="energy of each mode", xlabel="mode", ylabel="share of the variance")
    counts = np.arange(rank + 1)
    seen = spectrum.left_out > 0
    right.semilogy(
        counts[seen], spectrum.left_out[seen], marker=marker, ms=3.5, lw=1, color=CURVES[0]
    )
    right.set(
        title="truncation error",
        xlabel="number of modes",
        ylabel="relative L2 error",
    )
    if spectrum.parts == 1:
        right.axhline(spectrum.tolerance, color=RED, lw=1)
        _said(right, 0.02, spectrum.tolerance, f"tolerance {spectrum.tolerance:g}", RED)
    right.axvline(rank, color=GREY, lw=1, ls="--")
    right.annotate(
        f"kept: {rank}", (rank, 0.97), (-4, 0), xycoords=right.get_xaxis_transform(),
        textcoords="offset points", ha="right", va="top",
    )  # fmt: skip
    for axes, first in ((left, 1), (right, 0)):
        plain_powers(axes)
        axes.set_xlim(first - 0.03 * rank - 0.2, rank + 0.03 * rank + 0.2)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure


def plain_powers(axes: Axes) -> None:
    """Label a logarithmic axis with 1e-03 and so on: mathematical text would need fonts."""
    axes.yaxis.set_major_formatter(LogFormatter())
    axes.yaxis.set_minor_formatter(LogFormatter())


def _said(axes: Axes, at: float, value: float, text: str, colour: str) -> None:
    """Write text above a horizontal line, at a fraction of the width."""
    axes.annotate(
        text, (at, value), (0, 3), xycoords=axes.get_yaxis_transform(),
        textcoords="offset points", color=colour, fontsize=8,
    )  # fmt: skip


def coefficients_figure(found: Coefficients, time: Axis) -> Figure:
    """Draw each leading coefficient and the model; for a long record also its range."""
    count, long = found.coded.shape[1], len(found.parts) > 0
    figure = canvas(WIDTH, 1.0 + 1.25 * count)
    widths = (1, 1.6) if long else (1,)
    axes: Any = figure.subplots(
        count, len(widths), sharex="col", squeeze=False, width_ratios=widths
    )
    for k, panels in enumerate(axes):
        if long:
            _draw_range(panels[0], found, time, k)
        _draw_coefficient(panels[-1], found, time, k)
        panels[0].set_ylabel(subscript(k + 1), rotation=0, labelpad=12, va="center")
    if long:
        axes[0, 0].set_title("range over the whole record")
        first, last = found.numbers[[0, -1]]
        axes[0, 1].set_title(f"snapshots {first} to {last}")
    for panel in axes[-1]:
        panel.set_xlabel(time.label)
    handles, labels = axes[0, -1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=3, fontsize=8.5)
    return figure


def _draw_range(axes: Axes, found: Coefficients, time: Axis, k: int) -> None:
    x = time.values[found.parts[:, 0]]
    axes.fill_between(x, found.lowest[:, k], found.highest[:, k], color=CURVES[0], alpha=0.55, lw=0)
    axes.axvspan(*time.values[found.numbers[[0, -1]]], color=GREY, alpha=0.3, lw=0)
    tick(axes.xaxis, time, 6)


def _draw_coefficient(axes: Axes, found: Coefficients, time: Axis, k: int) -> None:
    x = time.values[found.numbers]
    axes.plot(x, found.coded[:, k], color=CURVES[0], lw=3, alpha=0.55, label="as decoded")
    if np.isfinite(found.modelled[:, k]).any():
        axes.plot(x, found.modelled[:, k], color=CURVES[1], lw=1.2, label="model, from each sample")
    if len(found.kept):
        kept = found.coded[found.kept, k]
        axes.plot(x[found.kept], kept, "o", ms=4, color=INK, label="sample kept")
    # A diverging model must not flatten the curve of the coefficient.
    low, high = found.coded[:, k].min(), found.coded[:, k].max()
    margin = 0.35 * (high - low) or 1.0
    axes.margins(x=0.01)
    axes.set_ylim(low - margin, high + margin)
    tick(axes.xaxis, time, 6)


def error_figure(deviations: Sequence[Deviation], tolerance: float, time: Axis) -> Figure:
    """Draw the relative error of each snapshot, by variable."""
    figure = canvas(WIDTH, 2.9)
    axes = figure.subplots()
    shown = deviations[:CURVES_SHOWN]
    names = distinct([found.variable for found in shown])
    for found, name, colour in zip(shown, names, CURVES, strict=False):
        # Sampled blocks with gaps between them are not joined by a line.
        numbers, values = _with_gaps(found)
        marker = "." if len(found.numbers) <= MARKED else ""
        axes.plot(time.values[numbers], values, color=colour, marker=marker, label=name)
    axes.axhline(tolerance, color=RED, lw=1, label=f"tolerance {tolerance:g}, in the mean square")
    positive = np.concatenate([each.relative[each.relative > 0] for each in shown])
    if len(positive) and positive.max() > 30 * positive.min():
        axes.set_yscale("log")
        plain_powers(axes)
    else:
        axes.set_ylim(0, 1.15 * max(tolerance, positive.max(initial=0)))
    axes.set(xlabel=time.label, ylabel="error / RMS fluctuation")
    tick(axes.xaxis, time, 8)
    axes.margins(x=0.01)
    figure.legend(loc="outside upper right", ncols=6, fontsize=8.5)
    return figure


def _with_gaps(found: Deviation) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    cuts = np.flatnonzero(np.diff(found.numbers) > 1) + 1
    return np.insert(found.numbers, cuts, found.numbers[cuts]), np.insert(
        found.relative, cuts, np.nan
    )

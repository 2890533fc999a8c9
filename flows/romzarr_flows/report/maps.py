"""Draws fields as maps, scattered points or lines, by the dims of their space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from romzarr.views.sections import Axis, Section
from romzarr_flows.drawing import canvas
from romzarr_flows.report.svg import (
    CURVES,
    GREY,
    INK,
    RED,
    WIDTH,
    distinct,
    short,
    subscript,
    tick,
)

Matrix = NDArray[np.float64]
Scale = Literal["diverging", "magnitude", "error"]

COLOURS = {"diverging": "RdBu_r", "magnitude": "viridis", "error": "magma"}
# Values beyond these percentiles get the last colour, as the pointed ends of the colour bar show:
# single outliers must not hide everything else.
OUTER = (0.5, 99.5)
# Maps with a larger aspect ratio are not drawn to scale: they would be mere stripes.
LONGEST = 4.0
# Panels per row at the width of a page.
ROW = 3
# Variables whose names fit along an axis.
NAMED = 30


@dataclass(frozen=True)
class Panel:
    """Values (*section) to be drawn under a title; the values in `range` set the colour scale."""

    title: str
    section: Section
    values: Matrix
    scale: Scale
    range: Matrix


def fitting(values: Matrix) -> Scale:
    """Choose diverging colours for values of both signs, such as velocities; else sequential."""
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 0.0)
    return "diverging" if min(-low, high) > 0.1 * max(-low, high) else "magnitude"


def field_figure(panels: Sequence[Panel], columns: int = ROW) -> Figure:
    """Draw panels with equal axes in a row of at least this many columns."""
    section = panels[0].section
    columns = max(len(panels), columns)
    height = _height(section, WIDTH / columns)
    figure = canvas(WIDTH, height)
    axes: Any = figure.subplots(
        1, columns, squeeze=False, sharey=section.kind != "line" or panels[0].scale != "error"
    )
    for ax in axes[0, len(panels) :]:
        ax.set_axis_off()
    for number, (ax, panel) in enumerate(zip(axes[0], panels, strict=False)):
        ax.set_title(short(panel.title, 96 // columns))
        _draw(ax, panel, wide=columns == 1)
        if number and section.kind in ("map", "scatter"):
            ax.set_ylabel("")
    return figure


def _height(section: Section, width: float) -> float:
    """Return the height in inches of a row of panels of this width."""
    if section.kind == "line":
        return 2.4
    ratio = _ratio(section)
    return float(np.clip(1.35 + (width - 0.45) * ratio, 1.9, 4.6))


def _ratio(section: Section) -> float:
    """Return the ratio of a map's height to its width."""
    if not _drawn_to_scale(section):
        return 0.8
    across, up = (np.ptp(axis.values) for axis in section.axes)
    return float(up / across)


def _drawn_to_scale(section: Section) -> bool:
    """Tell whether both axes have the same scale."""
    if not section.to_scale:
        return False
    across, up = (np.ptp(axis.values) for axis in section.axes)
    return bool(across and 1 / LONGEST <= up / across <= LONGEST)


def _draw(axes: Axes, panel: Panel, wide: bool) -> None:
    if panel.section.kind == "line":
        _draw_line(axes, panel)
    else:
        _draw_plane(axes, panel, wide)


def _draw_line(axes: Axes, panel: Panel) -> None:
    (axis,) = panel.section.axes
    axes.plot(axis.values, panel.values, color=RED if panel.scale == "error" else CURVES[0])
    axes.set_xlabel(short(axis.label))
    axes.margins(x=0.02)
    tick(axes.xaxis, axis, 5)
    if panel.scale == "error":
        axes.set_ylim(bottom=0)


def _draw_plane(axes: Axes, panel: Panel, wide: bool) -> None:
    across, up = panel.section.axes
    axes.grid(visible=False)
    low, high, extend = limits(panel.range, panel.scale)
    how: dict[str, Any] = {
        "cmap": COLOURS[panel.scale],
        "vmin": low,
        "vmax": high,
        "rasterized": True,
    }
    if panel.section.kind == "scatter":
        size = float(np.clip(30_000 / len(across.values), 1, 40))
        image: Any = axes.scatter(
            across.values, up.values, c=panel.values, s=size, marker="s", lw=0, **how
        )
    else:
        # Land and solid bodies are grey.
        axes.set_facecolor(f"{GREY}55")
        image = axes.pcolormesh(across.values, up.values, np.ma.masked_invalid(panel.values), **how)
    axes.figure.colorbar(
        image,
        ax=axes,
        location="bottom",
        extend=extend,
        pad=0.02,
        ticks=MaxNLocator(3),
        shrink=0.5 if wide else 0.9,
        aspect=40 if wide else 25,
    )
    _label(axes, across, up)
    if _drawn_to_scale(panel.section):
        axes.set_aspect("equal")


def _label(axes: Axes, across: Axis, up: Axis) -> None:
    axes.set_xlabel(short(across.label, 24))
    axes.set_ylabel(short(up.label, 24))
    tick(axes.xaxis, across, 4)
    tick(axes.yaxis, up, 4)
    if across.down:
        axes.invert_xaxis()
    if up.down and not axes.yaxis_inverted():
        axes.invert_yaxis()


def limits(values: Matrix, scale: Scale) -> tuple[float, float, Any]:
    """Return the limits of the colour scale, and which of them are exceeded."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 0.0, 1.0, "neither"
    low, high = (float(x) for x in np.percentile(finite, OUTER))
    if scale == "diverging":
        high = max(abs(low), abs(high)) or float(np.abs(finite).max()) or 1.0
        low = -high
    elif scale == "error":
        low = 0.0
    if not high > low:
        low, high = float(finite.min()), float(finite.max())
    if not high > low:
        high = low + (abs(low) or 1.0)
    below, above = finite.min() < low, finite.max() > high
    ends = {(True, True): "both", (True, False): "min", (False, True): "max"}
    return low, high, ends.get((bool(below), bool(above)), "neither")


def loadings_figure(names: Sequence[str], correlation: Matrix) -> Figure:
    """Draw the correlation (variables, k) of variables with the leading coefficients as bars."""
    count = correlation.shape[1]
    figure = canvas(WIDTH, 1.0 + 1.1 * count)
    axes: Any = figure.subplots(count, 1, sharex=True, squeeze=False)
    places = np.arange(len(names))
    for k, ax in enumerate(axes[:, 0]):
        ax.bar(places, correlation[:, k], color=CURVES[0], width=0.7)
        ax.axhline(0, color=INK, lw=0.8)
        ax.set(ylim=(-1.05, 1.05))
        ax.set_ylabel(subscript(k + 1), rotation=0, labelpad=12, va="center")
    if len(names) <= NAMED:
        axes[-1, 0].set_xticks(places, distinct(names, 18), rotation=40, ha="right")
    else:
        axes[-1, 0].set_xlabel("number of the variable")
    return figure

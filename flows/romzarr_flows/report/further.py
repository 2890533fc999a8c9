"""Figures of errors by index and of further measures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from romzarr.contracts import FurtherMeasure
from romzarr.reports import ErrorsByIndex, StoreInfo, VerifyReport
from romzarr.views.sections import Axis, axis_along
from romzarr_flows.drawing import canvas
from romzarr_flows.report.figures import plain_powers
from romzarr_flows.report.page import Picture
from romzarr_flows.report.svg import CURVES, GREY, INK, RED, WIDTH, inline, short, tick

Facts = Mapping[str, Any]

# Profiles beside each other, and altogether; variables whose measures are drawn: each costs a third
# of a screen.
COLUMNS, PROFILES, VARIABLES = 4, 8, 4
# What counts as exact in a logarithmic picture of errors.
LEAST = 1e-12


def profiles(
    by_index: Mapping[str, Mapping[str, ErrorsByIndex]], dataset: xr.Dataset, info: StoreInfo
) -> list[Picture]:
    """Draw the relative error along each dim whose indices are told apart."""
    found = [
        (name, dim, each)
        for name, dims in by_index.items()
        for dim, each in dims.items()
        if any(each.relative_l2_error)
    ][:PROFILES]
    pictures = []
    for first in range(0, len(found), COLUMNS):
        figure = canvas(WIDTH, 3.1)
        axes: Any = figure.subplots(1, COLUMNS, squeeze=False)
        for ax in axes[0, len(found[first : first + COLUMNS]) :]:
            ax.set_axis_off()
        for ax, (name, dim, each) in zip(axes[0], found[first:], strict=False):
            along = axis_along(dataset, dim, len(each.labels))
            _draw_profile(ax, short(f"{name} by {dim}"), each, along, info.tolerance)
        pictures.append(Picture(inline(figure, f"profiles{first}", "relative error by index")))
    return pictures


def _draw_profile(
    axes: Axes, title: str, found: ErrorsByIndex, along: Axis, tolerance: float
) -> None:
    errors = np.array([np.nan if e is None else e for e in found.relative_l2_error], np.float64)
    axes.plot(np.where(errors > 0, errors, np.nan), along.values, ".-", color=CURVES[0], ms=5)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(LogFormatter())
    axes.xaxis.set_minor_formatter(LogFormatter(labelOnlyBase=True))
    if 0 < tolerance < 1:
        axes.axvline(tolerance, color=RED, lw=1)
    low, high = axes.get_xlim()
    # A decade at least: within one, no tick would have a label.
    axes.set_xlim(min(low, high / 12), high)
    axes.set(title=title, xlabel="error / fluctuation there", ylabel=short(along.label, 24))
    tick(axes.yaxis, along, 6)
    if along.down:
        axes.invert_yaxis()


def further(report: VerifyReport) -> list[Picture]:
    """Draw the measures of a few variables: spectra, quantiles, and what is one number."""
    return [
        Picture(inline(_measures(facts), f"measures{number}", f"measures of {name}"), title=name)
        for number, (name, facts) in enumerate(list(report.measures.items())[:VARIABLES])
        if _numbers(facts) or any(_applies(facts, measure) for measure in _DRAWN)
    ]


def _applies(facts: Facts, measure: FurtherMeasure) -> bool:
    return measure in facts and "not_applicable" not in facts[measure]


def _measures(facts: Facts) -> Figure:
    figure = canvas(WIDTH, 2.9)
    left, middle, right = figure.subplots(1, 3)
    for ax, measure in zip((left, middle), _DRAWN, strict=True):
        if _applies(facts, measure):
            _DRAWN[measure](ax, facts[measure])
        else:
            ax.set_axis_off()
    if numbers := _numbers(facts):
        _draw_numbers(right, numbers)
    else:
        right.set_axis_off()
    return figure


def _draw_spectrum(axes: Axes, facts: Facts) -> None:
    numbers = facts["wavenumbers"]
    for what, colour in (("original", INK), ("decoded", CURVES[0]), ("error", RED)):
        power = np.array(facts[what])
        style = "--" if what == "decoded" else "-"
        axes.loglog(numbers, np.where(power > 0, power, np.nan), style, color=colour, label=what)
    if facts["resolved_wavelength"]:
        axes.axvline(1 / facts["resolved_wavelength"], color=GREY, lw=1, ls=":")
    axes.set(title="power by wavenumber", xlabel="cycles per grid step")
    axes.legend(fontsize=8)
    plain_powers(axes)
    axes.xaxis.set_major_formatter(LogFormatter())
    axes.xaxis.set_minor_formatter(LogFormatter(labelOnlyBase=True))


def _draw_extremes(axes: Axes, facts: Facts) -> None:
    original = [facts["minimum"][0], *facts["original"], facts["maximum"][0]]
    decoded = [facts["minimum"][1], *facts["decoded"], facts["maximum"][1]]
    names = ["least", *(f"{100 * level:g}" for level in facts["quantiles"]), "most"]
    places = np.arange(len(names))
    axes.bar(places, np.subtract(decoded, original), color=CURVES[0], width=0.7)
    axes.axhspan(-facts["resolution"], facts["resolution"], color=GREY, alpha=0.3, lw=0)
    axes.set_xticks(places, names, rotation=60, fontsize=8)
    axes.set(title="error of quantiles", xlabel="quantile (%), grey: resolution")


_DRAWN = {FurtherMeasure.SPECTRUM: _draw_spectrum, FurtherMeasure.EXTREMES: _draw_extremes}


def _numbers(facts: Facts) -> dict[str, float]:
    """What is one number, as a distance from exact."""
    found: dict[str, float | None] = {}
    if _applies(facts, FurtherMeasure.BIAS) and facts["bias"]["relative"] is not None:
        found["bias / fluctuation"] = abs(facts["bias"]["relative"])
    if _applies(facts, FurtherMeasure.CORRELATION):
        found["1 - correlation"] = 1 - facts["correlation"]["value"]
        if facts["correlation"]["anomalies"] is not None:
            found["1 - that of anomalies"] = 1 - facts["correlation"]["anomalies"]
    if _applies(facts, FurtherMeasure.GRADIENT):
        errors = facts["gradient"]["relative_l2_error"]
        found |= {f"gradient along {short(dim, 12)}": error for dim, error in errors.items()}
    if _applies(facts, FurtherMeasure.SSIM):
        found["1 - SSIM"] = 1 - facts["ssim"]["mean"]
    return {name: each for name, each in found.items() if each is not None}


def _draw_numbers(axes: Axes, numbers: Mapping[str, float]) -> None:
    places = np.arange(len(numbers))[::-1]
    sizes = np.maximum(list(numbers.values()), LEAST)
    axes.plot(sizes, places, "o", color=CURVES[0])
    axes.hlines(places, sizes.min() / 10, sizes, color=CURVES[0], lw=1)
    axes.set_xscale("log")
    axes.set_xlim(sizes.min() / 10, 3 * sizes.max())
    axes.set_yticks(places, list(numbers), fontsize=8)
    axes.set_ylim(-0.6, len(numbers) - 0.4)
    axes.xaxis.set_major_formatter(LogFormatter())
    axes.xaxis.set_minor_formatter(LogFormatter(labelOnlyBase=True))
    axes.set(title="distance from exact")

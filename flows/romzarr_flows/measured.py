"""Errors by index and further measures, in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from romzarr.contracts import FurtherMeasure

Facts = Mapping[str, Any]


def index_lines(by_index: Mapping[str, Facts]) -> list[str]:
    """Say of each variable and dim on which index its error is largest.

    >>> found = {"relative_l2_error": [0.01, 0.2], "labels": ["lev=0", "lev=1 (50 m)"], "worst": 1}
    >>> index_lines({"u": {"lev": found}})
    ['u: 1.000e-02 to 2.000e-01 of the fluctuation on each lev, most at lev=1 (50 m)']
    """
    lines = []
    for name, dims in by_index.items():
        for dim, found in dims.items():
            errors = [each for each in found["relative_l2_error"] if each is not None]
            if not errors:
                lines.append(f"{name}: nothing fluctuates on any {dim}")
                continue
            ends = f"{min(errors):.3e} to {max(errors):.3e} of the fluctuation on each {dim}"
            most = f", most at {found['labels'][found['worst']]}" if max(errors) else ""
            lines.append(f"{name}: {ends}{most}")
    return lines


def measure_lines(measures: Mapping[str, Facts]) -> dict[str, list[str]]:
    """Tell each measure of each variable, in a line; by the title of the measure."""
    return {
        TITLES[measure]: [
            f"{name}: {measured(measure, each[measure])}"
            for name, each in measures.items()
            if measure in each
        ]
        for measure in FurtherMeasure
    }


TITLES: Mapping[FurtherMeasure, str] = {
    FurtherMeasure.BIAS: "bias",
    FurtherMeasure.CORRELATION: "correlation",
    FurtherMeasure.EXTREMES: "extremes",
    FurtherMeasure.GRADIENT: "gradient error",
    FurtherMeasure.SPECTRUM: "spectrum",
    FurtherMeasure.SSIM: "SSIM",
}


def measured(measure: FurtherMeasure, facts: Facts) -> str:
    """Tell what a measure found in a variable.

    >>> measured(FurtherMeasure.BIAS, {"value": -0.0021, "relative": 1e-4})
    '-0.0021, 0.0001 of the RMS fluctuation'
    >>> measured(FurtherMeasure.SSIM, {"not_applicable": "there are no maps of two dims"})
    'does not apply: there are no maps of two dims'
    """
    if "not_applicable" in facts:
        return f"does not apply: {facts['not_applicable']}"
    said = _SAID[measure](facts)
    if "of" in facts and facts["maps"] < facts["of"]:
        said += f"; {facts['maps']} of {facts['of']} maps"
    if "part" in facts:
        said += f"; of each the middle {' x '.join(map(str, facts['part'].values()))} points"
    return said


def _bias(facts: Facts) -> str:
    relative = facts["relative"]
    share = "" if relative is None else f", {relative:.2g} of the RMS fluctuation"
    return f"{facts['value']:.4g}{share}"


def _correlation(facts: Facts) -> str:
    anomalies = facts["anomalies"]
    more = "" if anomalies is None else f", of anomalies {anomalies:.8g}"
    return f"{facts['value']:.8g}{more}"


def _extremes(facts: Facts) -> str:
    """Compare the ends, and the quantiles beside them."""
    low, high = facts["minimum"], facts["maximum"]
    pairs = [("smallest", *low)]
    for at in (0, -1):
        level = f"{100 * facts['quantiles'][at]:g} %"
        pairs.append((level, facts["original"][at], facts["decoded"][at]))
    pairs.append(("largest", *high))
    return ", ".join(f"{name} {x:.5g} ({y - x:+.2g})" for name, x, y in pairs)


def _gradient(facts: Facts) -> str:
    errors = facts["relative_l2_error"].items()
    words = (f"{'infinite' if e is None else f'{e:.3e}'} along {dim}" for dim, e in errors)
    return ", ".join(words)


def _spectrum(facts: Facts) -> str:
    length = facts["resolved_wavelength"]
    if length is None:
        said = "no wave is resolved: the error has more than half the power of the longest"
    else:
        said = f"waves of {length:.3g} grid steps and longer are resolved"
    if facts["without_gaps"] < facts["maps"]:
        said += f"; {facts['without_gaps']} maps without gaps"
    return said


def _ssim(facts: Facts) -> str:
    return f"{facts['mean']:.6f} on average, at least {facts['least']:.6f}"


_SAID: Mapping[FurtherMeasure, Callable[[Facts], str]] = {
    FurtherMeasure.BIAS: _bias,
    FurtherMeasure.CORRELATION: _correlation,
    FurtherMeasure.EXTREMES: _extremes,
    FurtherMeasure.GRADIENT: _gradient,
    FurtherMeasure.SPECTRUM: _spectrum,
    FurtherMeasure.SSIM: _ssim,
}

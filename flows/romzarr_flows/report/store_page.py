"""The page of one store: what it holds, how well, and how it looks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import xarray as xr

import romzarr
from romzarr.archive.location import redacted
from romzarr.config import Config
from romzarr.contracts import Coding
from romzarr.operations.describe import NOT_DECODED
from romzarr.reports import StoreInfo
from romzarr.store.reading.reader import CoefficientStore, open_store
from romzarr.views.error_maps import Deviation, deviation
from romzarr.views.excerpts import Coefficients, coefficients, spectrum
from romzarr.views.sections import Axis, Section, label, section_of
from romzarr_flows.report import page
from romzarr_flows.report.fields import error_maps, modes_part, snapshots_part
from romzarr_flows.report.figures import coefficients_figure, error_figure, spectrum_figure
from romzarr_flows.report.mathml import EQUATIONS, equation_rows
from romzarr_flows.report.page import Cell, Part, number, paragraph
from romzarr_flows.report.svg import inline, styled
from romzarr_flows.tables import CODINGS, bytes_of_terms, plain, shape, size

# Coefficients drawn in time, and variables drawn as fields.
COEFFICIENTS, VARIABLES = 4, 4
# Rows of a table; a store of thousands of variables has a page all the same.
ROWS = 24
# What the figure of the spectrum shows, for a store of one part and of several.
OF_ALL = """\
All variables together, each scaled to a fluctuation of one. What is left below the tolerance at the
rank kept goes into fewer bits for modes and coefficients: the rank is the one with which both
together take fewest bytes."""
OF_PARTS = """\
All variables together, scaled; of the newest of {} parts of the store, by the energy that its modes
keep."""
# Parts of a store in words.
PARTS = {
    "basis": "modes and values",
    "latent": "coefficients in time",
    "model": "model",
    "coordinates": "coordinates",
    "metadata": "metadata and provenance",
}


@dataclass(frozen=True)
class Shown:
    """An opened store and what of it is drawn."""

    url: str
    opened: CoefficientStore
    info: StoreInfo
    dataset: xr.Dataset
    time: Axis
    sections: tuple[Section, ...]
    deviations: tuple[Deviation, ...]


def store_page(store: str, source: str | None, config: Config) -> str:
    """HTML of the report of a store; with a source its error is measured. Runs Dask then.

    What is read and decoded has a bound, whatever the size of store and source.
    """
    shown = _opened(store, source, config)
    with styled():
        parts = [
            Part("Error", _errors(shown)),
            Part("Spectrum", _spectrum(shown)),
            Part("Modes", modes_part(shown.opened, shown.sections)),
            Part("Coefficients in time", _coefficients(shown)),
            Part("Equations", _equations(shown)),
            Part(
                "Snapshots", snapshots_part(shown.opened, shown.dataset, shown.sections, shown.time)
            ),
            Part("Bytes", _bytes(shown.info)),
            Part("Variables", _variables(shown.info)),
            Part("Provenance", _provenance(shown)),
        ]
    title = str(shown.dataset.attrs.get("title") or os.path.basename(redacted(store).rstrip("/")))
    return page.document(title[:200], _top(shown), parts)


def _opened(store: str, source: str | None, config: Config) -> Shown:
    opened = open_store(store)
    dataset = xr.open_dataset(store, engine="romzarr")
    time = opened.facts["time"]["dim"]
    moving = [name for name, v in opened.variables.items() if v.coding != Coding.CONSTANT]
    sections = tuple(section_of(dataset, name, time) for name in moving[:VARIABLES])
    measured: tuple[Deviation, ...] = ()
    if source is not None and sections:
        measured = deviation(store, source, sections, config=config)
    return Shown(
        redacted(store), opened, romzarr.info(store), dataset, _time_axis(opened, dataset, time),
        sections, measured,
    )  # fmt: skip


def _time_axis(opened: CoefficientStore, dataset: xr.Dataset, dim: str) -> Axis:
    """The coordinate of time where it is one to draw along, else times since the first."""
    coordinate = dataset.coords.get(dim)
    if coordinate is not None and coordinate.dtype.kind in "fiuM":
        return Axis(label(dim, coordinate.variable), coordinate.values)
    if len(opened.parts) > 1:
        return Axis(f"snapshot of {dim}", np.arange(opened.snapshots))
    units = str(opened.facts["time"]["units"])
    title = f"{dim} since the first" + (f" ({units})" if units != "1" else "")
    return Axis(title, opened.last.latent.times)


# --- parts --------------------------------------------------------------------------------


def _top(shown: Shown) -> str:
    info = shown.info
    worst = info.relative_l2_error["largest"]
    good = "good" if worst <= info.tolerance else "bad"
    facts = [
        ("compression ratio", page.ratio(info.compression_ratio), ""),
        ("archive", size(info.raw_bytes), ""),
        ("store", size(info.stored_bytes), ""),
        ("largest relative error", f"{worst:.3g}" if info.tolerance else "0, lossless", good),
        ("tolerance", f"{info.tolerance:g}", ""),
        ("snapshots", f"{info.snapshots}", ""),
        ("modes", f"{info.rank}", ""),
        ("samples kept", f"{info.kept_samples}", ""),
    ]
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        paragraph(f"{shown.url} · page made {made}", "quiet")
        + page.cards(facts)
        + (paragraph(info.advice, "warn") if info.advice else "")
    )


def _errors(shown: Shown) -> str:
    info = shown.info
    measured = {found.variable: found for found in shown.deviations}
    header: list[Cell | str] = ["variable", number("bound"), number("tolerance")]
    header += [number("measured")] if measured else []
    bounds = bool(info.max_error)
    header += [number("largest single error"), number("its bound")] if bounds else []
    rows: list[list[Cell | str]] = []
    names = sorted(
        info.variables, key=lambda name: (name not in measured, -info.relative_l2_error[name])
    )
    for name in names[:ROWS]:
        error = info.relative_l2_error[name]
        row: list[Cell | str] = [name, number(f"{error:.3e}"), number(f"{info.tolerance:g}")]
        if measured:
            row.append(_measured(measured.get(name), info.tolerance))
        if bounds:
            row += [
                number(_optional(each, name))
                for each in (info.largest_pointwise_error, info.max_error)
            ]
        rows.append(row)
    table = page.table(header, rows) + _beyond(len(names))
    return _how_measured(shown) + table + _error_curves(shown)


def _measured(found: Deviation | None, tolerance: float) -> Cell:
    if found is None:
        return number("not looked at")
    error = found.relative_l2_error
    # A part of the record may be off by more than the whole is.
    within = error <= tolerance or found.share < 1
    return number(f"{error:.3e}", "good" if within else "bad")


def _optional(values: Mapping[str, float], name: str) -> str:
    return f"{values[name]:.3g}" if name in values else ""


def _beyond(count: int) -> str:
    return paragraph(f"and {count - ROWS} more", "quiet") if count > ROWS else ""


def _how_measured(shown: Shown) -> str:
    info = shown.info
    text = f"Stored for each variable: {info.error_measured_by}."
    if not shown.deviations:
        text += " Nothing was measured: give --source to compare with the archive."
    else:
        share = min(found.share for found in shown.deviations)
        text += " Measured against the archive, " + (
            "all of its values." if share == 1 else f"{100 * share:.2g} % of its values."
        )
    left = spectrum(shown.opened)
    if left.energy and left.parts == 1 and info.tolerance:
        rest = max(info.relative_l2_error["largest"] ** 2 - left.left_out[-1] ** 2, 0.0) ** 0.5
        text += (
            f" Of the largest bound, {left.left_out[-1]:.1e} is what the modes leave out (root "
            f"mean square over the variables), and {rest:.1e} what quantising modes and "
            f"coefficients loses: these add in squares."
        )
    return paragraph(text)


def _error_curves(shown: Shown) -> str:
    if not shown.deviations:
        return ""
    if not any(found.relative.any() for found in shown.deviations):
        return paragraph("No value differs from the archive's.", "good")
    svg = inline(
        error_figure(shown.deviations, shown.info.tolerance, shown.time), "errors",
        "relative error of each snapshot against the tolerance",
    )  # fmt: skip
    says = "The error of each snapshot by the norm of a usual fluctuation."
    return page.figure(svg, says) + error_maps(shown.sections, shown.deviations)


def _spectrum(shown: Shown) -> str:
    found = spectrum(shown.opened)
    if not len(found.singular_values):
        return paragraph("No modes: " + _why_no_modes(shown.info))
    svg = inline(spectrum_figure(found), "spectrum", "singular values and what modes leave out")
    return page.figure(svg, OF_PARTS.format(found.parts) if found.parts > 1 else OF_ALL)


def _why_no_modes(info: StoreInfo) -> str:
    codings = sorted({CODINGS[v["coding"]] for v in info.variables.values()})
    return f"the variables are coded as {', '.join(codings)}."


def _coefficients(shown: Shown) -> str:
    if not len(shown.opened.last.singular_values):
        return ""
    found = coefficients(shown.opened, COEFFICIENTS)
    svg = inline(coefficients_figure(found, shown.time), "coefficients", "coefficients in time")
    words = ["Of the newest part."] if len(shown.opened.starts) > 2 else []
    return page.figure(svg, " ".join([*words, _how_coded(shown, found)]))


def _how_coded(shown: Shown, found: Coefficients) -> str:
    """How the coefficients come from the samples, if there are any."""
    if not shown.opened.last.latent.sampled:
        return "No model foretells them: they are coded as they are."
    how = "the model is integrated" if np.isfinite(found.modelled).any() else "lines lead"
    kept = f"{shown.info.kept_samples} of {shown.info.snapshots} samples are kept; {how} from one "
    beside = ", and what that misses is coded beside." if found.corrected else "."
    return f"{kept}to the next{beside}"


def _equations(shown: Shown) -> str:
    if not shown.info.rank:
        return ""
    equations = romzarr.equations(shown.opened.url)
    count = equations.coefficients.shape[1]
    if not any(regime.coefficients.any() for regime in equations.regimes):
        return paragraph("No model pays here: coefficients are coded as they are.")
    unused = "" if equations.decodes else paragraph(f"{NOT_DECODED.capitalize()}.", "warn")
    unit = f", time in {equations.time_units}" if equations.time_units not in ("", "1") else ""
    words = f"The leading {count} of {shown.info.rank} coefficients{unit}."
    if count > EQUATIONS:
        words += f" Of these equations the first {EQUATIONS}; romzarr equations STORE prints all."
    several = len(equations.regimes) > 1
    typeset = "".join(
        (paragraph(f"For {regime.where()}:") if several else "")
        + f'<div class="equations">{"".join(equation_rows(equations, regime))}</div>'
        for regime in equations.regimes
    )
    left_out = "".join(paragraph(f"left out: {each}", "quiet") for each in equations.dependent[:8])
    costs = paragraph("; ".join(bytes_of_terms(shown.info.model)), "quiet")
    return unused + paragraph(words) + typeset + left_out + costs


def _bytes(info: StoreInfo) -> str:
    most = max(info.bytes_by_part.values())
    rows: list[list[Cell | str]] = [
        [
            PARTS.get(part, part),
            number(size(count)),
            number(f"{100 * count / info.stored_bytes:.1f} %"),
            page.bar(count / most),
        ]
        for part, count in info.bytes_by_part.items()
    ]
    return page.table([], rows)


def _variables(info: StoreInfo) -> str:
    rows = [[name, shape(v)] for name, v in list(info.variables.items())[:ROWS]]
    return page.table([], rows) + _beyond(len(info.variables))


def _provenance(shown: Shown) -> str:
    return page.table([], _provenance_rows(shown))


def _provenance_rows(shown: Shown) -> Iterator[tuple[str, str]]:
    info, facts = shown.info, shown.opened.facts
    for name, value in info.source.items():
        yield f"source {name}", plain(value)
    yield "generation", shown.opened.last.name
    for name, value in list(shown.dataset.attrs.items())[:ROWS]:
        yield str(name), plain(_told(value))[:2000]
    changed: Mapping[str, Any] = facts["config"]
    for section, values in changed.items():
        yield f"setting {section}", plain(values)
    if not changed:
        yield "settings", "all at their defaults"
    yield "written with", plain(info.versions)
    yield "format", str(info.format)


def _told(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value

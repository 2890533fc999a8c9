"""The page of one store: what it holds, how well, and how it looks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

import romzarr
from romzarr.archive.location import redacted
from romzarr.config import Config
from romzarr.operations.describe import NOT_DECODED
from romzarr.reports import StoreInfo
from romzarr.store.reading.reader import CoefficientStore, open_store
from romzarr.views.error_maps import Deviation, deviation
from romzarr.views.excerpts import Coefficients, Spectrum, coefficients, spectrum
from romzarr.views.sections import Axis, Section, label, section_of
from romzarr_flows.report.fields import error_maps, modes_part, snapshots_part
from romzarr_flows.report.figures import coefficients_figure, error_figure, spectrum_figure
from romzarr_flows.report.mathml import EQUATIONS, typeset
from romzarr_flows.report.page import Picture, rendered
from romzarr_flows.report.svg import inline, styled, subscript
from romzarr_flows.tables import CODINGS, bytes_of_terms, plain, shape

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
    opened, info, sections = shown.opened, shown.info, shown.sections
    measured = {found.variable: found for found in shown.deviations}
    left_out, equations = spectrum(opened), romzarr.equations(store)
    title = str(shown.dataset.attrs.get("title") or os.path.basename(shown.url.rstrip("/")))
    with styled():
        return rendered(
            "store.html",
            title=title[:200],
            place=shown.url,
            info=info,
            rows=ROWS,
            measured=measured,
            names=sorted(info.variables, key=lambda n: (n not in measured, -_error(info, n))),
            errors=_errors(shown),
            spectrum=left_out,
            spectra=_spectra(left_out),
            codings=sorted({CODINGS[v["coding"]] for v in info.variables.values()}),
            modes=modes_part(opened, sections),
            coefficients=_coefficients(shown),
            equations=equations,
            has_terms=any(regime.coefficients.any() for regime in equations.regimes),
            unused=NOT_DECODED,
            most=EQUATIONS,
            typeset=typeset,
            subscript=subscript,
            terms=bytes_of_terms(info.model),
            snapshots=snapshots_part(opened, shown.dataset, sections, shown.time),
            parts=PARTS,
            variables=[(name, shape(v)) for name, v in info.variables.items()],
            provenance=_provenance(shown),
        )


def _opened(store: str, source: str | None, config: Config) -> Shown:
    opened = open_store(store)
    dataset = xr.open_dataset(store, engine="romzarr")
    time = opened.facts["time"]["dim"]
    moving = [name for name, v in opened.variables.items() if v.coding != "constant"]
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


def _error(info: StoreInfo, variable: str) -> float:
    return info.relative_l2_error[variable]


# --- pictures -----------------------------------------------------------------------------


def _errors(shown: Shown) -> list[Picture]:
    """The error over time and by place, if any was found."""
    if not any(found.relative.any() for found in shown.deviations):
        return []
    svg = inline(
        error_figure(shown.deviations, shown.info.tolerance, shown.time), "errors",
        "relative error of each snapshot against the tolerance",
    )  # fmt: skip
    over_time = Picture(svg, "The error of each snapshot by the norm of a usual fluctuation.")
    return [over_time, *error_maps(shown.sections, shown.deviations)]


def _spectra(found: Spectrum) -> list[Picture]:
    if not len(found.singular_values):
        return []
    svg = inline(spectrum_figure(found), "spectrum", "singular values and what modes leave out")
    return [Picture(svg, OF_PARTS.format(found.parts) if found.parts > 1 else OF_ALL)]


def _coefficients(shown: Shown) -> list[Picture]:
    if not len(shown.opened.last.singular_values):
        return []
    found = coefficients(shown.opened, COEFFICIENTS)
    svg = inline(coefficients_figure(found, shown.time), "coefficients", "coefficients in time")
    words = ["Of the newest part."] if len(shown.opened.starts) > 2 else []
    return [Picture(svg, " ".join([*words, _how_coded(shown, found)]))]


def _how_coded(shown: Shown, found: Coefficients) -> str:
    """How the coefficients come from the samples, if there are any."""
    if not shown.opened.last.latent.sampled:
        return "No model foretells them: they are coded as they are."
    how = "the model is integrated" if np.isfinite(found.modelled).any() else "lines lead"
    kept = f"{shown.info.kept_samples} of {shown.info.snapshots} samples are kept; {how} from one "
    beside = ", and what that misses is coded beside." if found.corrected else "."
    return f"{kept}to the next{beside}"


# --- facts --------------------------------------------------------------------------------


def _provenance(shown: Shown) -> Iterator[tuple[str, str]]:
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

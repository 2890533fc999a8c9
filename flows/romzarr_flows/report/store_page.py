"""The page about one store."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

import romzarr
from romzarr.archive import Source
from romzarr.archive.location import redacted
from romzarr.config import Config
from romzarr.contracts import Coding
from romzarr.operations.describe import NOT_DECODED
from romzarr.operations.field_model import field_model
from romzarr.operations.identified import equations_text, field_text
from romzarr.operations.series_model import series_model
from romzarr.reports import StoreInfo
from romzarr.store.reading.reader import CoefficientStore, open_store
from romzarr.views.error_maps import Deviation, deviation
from romzarr.views.excerpts import Coefficients, Spectrum, coefficients, spectrum, with_time
from romzarr.views.sections import Axis, label, section_of
from romzarr_flows.measured import measure_lines
from romzarr_flows.report.blocks import error_blocks
from romzarr_flows.report.fields import error_maps, loadings, modes, patterns, snapshots
from romzarr_flows.report.figures import coefficients_figure, error_figure, spectrum_figure
from romzarr_flows.report.further import further, profiles
from romzarr_flows.report.mathml import EQUATIONS, typeset
from romzarr_flows.report.page import Picture, rendered
from romzarr_flows.report.svg import inline, styled, subscript
from romzarr_flows.tables import CODINGS, bytes_of_terms, plain, shape

# Coefficients and variables drawn: each costs a screen and some hundred kB of the page.
COEFFICIENTS, VARIABLES = 4, 4
# Rows of a table, for stores of thousands of variables.
ROWS = 24
# Parts of a store in words.
PARTS = {
    "basis": "modes and values",
    "latent": "coefficients in time",
    "model": "model",
    "coordinates": "coordinates",
    "metadata": "metadata and provenance",
}


def store_page(
    store: str,
    source: Source | None,
    config: Config,
    measures: str | Sequence[str] = (),
    name: str = "",
) -> str:
    """Make the HTML report of a store. With a source it measures the error, which runs Dask.

    Its title is that of the dataset, or else `name`, or else that of the folder.

    The amount of data that is read and decoded is bounded, unless there are further `measures`:
    these verify all of it.
    """
    opened, info, equations = open_store(store), romzarr.info(store), romzarr.equations(store)
    series = series_model(store)
    field = field_model(store) if series is None else None
    dataset, dim = with_time(xr.open_dataset(store, engine="romzarr"), opened)
    time, place = _time_axis(opened, dataset, dim), redacted(store)
    moving = [name for name, v in opened.variables.items() if v.coding != Coding.CONSTANT]
    sections = [section_of(dataset, name, dim) for name in moving[:VARIABLES]]
    deviations = (
        deviation(store, source, sections, config=config) if source is not None and sections else ()
    )
    measured = {found.variable: found for found in deviations}
    by_index = {found.variable: found.by_index for found in deviations}
    verified = None
    if source is not None and measures:
        verified = romzarr.verify(store, source, config=config, measures=measures)
        by_index |= verified.by_index
    errors = info.relative_l2_error
    with styled():
        return rendered(
            "store.html",
            title=str(dataset.attrs.get("title") or name or os.path.basename(place.rstrip("/")))[
                :200
            ],
            place=place,
            info=info,
            rows=ROWS,
            names=sorted(info.variables, key=lambda name: (name not in measured, -errors[name])),
            measured=measured,
            errors=_errors(deviations, info.tolerance, time),
            error_blocks=error_blocks(opened, moving, info.tolerance, time),
            error_maps=error_maps(sections, deviations),
            by_index=profiles(by_index, dataset, info),
            warnings=[
                w for dims in by_index.values() for each in dims.values() for w in each.warnings
            ],
            further=further(verified) if verified else [],
            in_words=measure_lines(verified.measures) if verified else {},
            spectrum=spectrum(opened),
            spectra=_spectra(spectrum(opened)),
            codings=sorted({CODINGS[v["coding"]] for v in info.variables.values()}),
            loadings=loadings(opened, sections),
            modes=modes(opened, sections),
            coefficients=_coefficients(opened, info, time),
            equations=equations,
            series="" if series is None else equations_text(series),
            field="" if field is None else field_text(field),
            patterns=patterns(opened, sections, field) if field and field.attrs["sparse"] else [],
            has_terms=any(regime.coefficients.any() for regime in equations.regimes),
            unused=NOT_DECODED,
            most=EQUATIONS,
            typeset=typeset,
            subscript=subscript,
            terms=bytes_of_terms(info.model),
            snapshots=snapshots(opened, dataset, sections, time),
            parts=PARTS,
            variables=[(name, shape(v)) for name, v in info.variables.items()],
            provenance=list(_provenance(opened, info, dataset)),
        )


def _time_axis(opened: CoefficientStore, dataset: xr.Dataset, dim: str) -> Axis:
    """Return the time coordinate if it can be an axis, else the time since the first snapshot."""
    coordinate = dataset.coords.get(dim)
    if coordinate is not None and coordinate.dtype.kind in "fiuM":
        return Axis(label(dim, coordinate.variable), coordinate.values)
    if len(opened.parts) > 1:
        return Axis(f"snapshot of {dim}", np.arange(opened.snapshots))
    units = str(opened.facts["time"]["units"])
    title = f"{dim} since the first snapshot" + (f" ({units})" if units != "1" else "")
    return Axis(title, opened.last.latent.times)


# --- pictures -----------------------------------------------------------------------------


def _errors(deviations: Sequence[Deviation], tolerance: float, time: Axis) -> list[Picture]:
    """Draw the error over time, unless it is zero."""
    if not any(found.relative.any() for found in deviations):
        return []
    figure = error_figure(deviations, tolerance, time)
    says = "relative error of each snapshot against the tolerance"
    return [Picture(inline(figure, "errors", says))]


def _spectra(found: Spectrum) -> list[Picture]:
    if not len(found.singular_values):
        return []
    says = "singular values and truncation error"
    return [Picture(inline(spectrum_figure(found), "spectrum", says))]


def _coefficients(opened: CoefficientStore, info: StoreInfo, time: Axis) -> list[Picture]:
    if not info.rank:
        return []
    found = coefficients(opened, COEFFICIENTS)
    svg = inline(coefficients_figure(found, time), "coefficients", "coefficients in time")
    newest = "Newest part only. " if len(opened.starts) > 2 else ""
    return [Picture(svg, newest + _how_coded(opened, info, found))]


def _how_coded(opened: CoefficientStore, info: StoreInfo, found: Coefficients) -> str:
    """Describe how the coefficients are rebuilt from samples, if there are any."""
    if not opened.last.latent.sampled:
        return "No model is used: the coefficients themselves are coded."
    modelled = np.isfinite(found.modelled).any()
    how = "the model is integrated" if modelled else "values are interpolated linearly"
    kept = f"{info.kept_samples} of {info.snapshots} samples are kept; {how} between them"
    return f"{kept}{', and the remaining error is coded.' if found.corrected else '.'}"


# --- facts --------------------------------------------------------------------------------


def _provenance(
    opened: CoefficientStore, info: StoreInfo, dataset: xr.Dataset
) -> Iterator[tuple[str, str]]:
    for name, value in info.source.items():
        yield f"source {name}", plain(value)
    yield "generation", opened.last.name
    for name, value in list(dataset.attrs.items())[:ROWS]:
        yield str(name), plain(_as_python(value))[:2000]
    changed: Mapping[str, Any] = opened.facts["config"]
    for section, values in changed.items():
        yield f"setting {section}", plain(values)
    if not changed:
        yield "settings", "all defaults"
    yield "written with", plain(info.versions)
    yield "format", str(info.format)


def _as_python(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value

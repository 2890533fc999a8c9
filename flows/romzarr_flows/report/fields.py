"""Figures of fields: snapshots, modes and error maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray

from romzarr.archive.time_axis import shown_time
from romzarr.store.reading import decoding
from romzarr.store.reading.reader import CoefficientStore
from romzarr.views.error_maps import Deviation
from romzarr.views.excerpts import modes_at, rows_at, snapshot_at, time_dim
from romzarr.views.sections import Axis, Section
from romzarr_flows.report.maps import ROW, Panel, field_figure, fitting, loadings_figure
from romzarr_flows.report.page import Picture
from romzarr_flows.report.svg import distinct, inline, subscript

Matrix = NDArray[np.float64]

# Modes in a row, and variables without space that one bar chart shows: more are unreadable.
MODES, VALUES = 4, 200


def loadings(opened: CoefficientStore, sections: Sequence[Section]) -> list[Picture]:
    """Draw the correlation of variables without space dims with the leading coefficients."""
    if all(section.kind != "value" for section in _coded(opened, sections)):
        return []
    names = [n for n, v in opened.variables.items() if v.coding.has_modes and not v.space_shape]
    found = np.array(
        [decoding.modes(opened.last, n) * opened.last.singular_values for n in names[:VALUES]]
    )
    correlation = found / np.linalg.norm(found, axis=1, keepdims=True)
    figure = loadings_figure(names[:VALUES], correlation[:, :MODES])
    says = "Correlation of each variable with the leading coefficients."
    return [Picture(inline(figure, "loadings", says), says)]


def modes(opened: CoefficientStore, sections: Sequence[Section]) -> list[Picture]:
    """Draw the modes of a few variables."""
    spatial = (each for each in _coded(opened, sections) if each.kind != "value")
    return [_modes(opened, section, number) for number, section in enumerate(spatial)]


def _coded(opened: CoefficientStore, sections: Sequence[Section]) -> list[Section]:
    return [s for s in sections if opened.variables[s.variable].coding.has_modes]


def snapshots(
    opened: CoefficientStore, dataset: xr.Dataset, sections: Sequence[Section], time: Axis
) -> list[Picture]:
    """Draw a few snapshots of maps, and space-time diagrams of lines."""
    return [
        _along_time(opened, dataset, section, time, number)
        if section.kind == "line"
        else _snapshots(opened, dataset, section, number)
        for number, section in enumerate(sections)
        if section.kind != "value"
    ]


def error_maps(sections: Sequence[Section], deviations: Sequence[Deviation]) -> list[Picture]:
    """Draw the RMS error of each variable; those with equal axes share a row."""
    rows: list[list[Panel]] = []
    names = distinct([section.variable for section in sections])
    for section, name, found in zip(sections, names, deviations, strict=False):
        if section.kind == "value" or not found.relative.any():
            continue
        title = name + section.title.removeprefix(section.variable)
        panel = Panel(title, section, found.map, "error", found.map)
        if not rows or len(rows[-1]) == ROW or not _alike(rows[-1][0].section, section):
            rows.append([])
        rows[-1].append(panel)
    figures = (field_figure(row) for row in rows)
    return [Picture(inline(each, f"error{k}", "error by place")) for k, each in enumerate(figures)]


def _alike(one: Section, other: Section) -> bool:
    return one.kind == other.kind and all(
        a.label == b.label and np.array_equal(a.values, b.values)
        for a, b in zip(one.axes, other.axes, strict=True)
    )


def _picture(section: Section, figure: Figure, name: str, says: str) -> Picture:
    svg = inline(figure, name, f"{says} of {section.variable}")
    return Picture(svg, title=section.title, note=section.note)


def _modes(opened: CoefficientStore, section: Section, number: int) -> Picture:
    """Draw modes, each scaled by the RMS of its coefficient."""
    usual = opened.last.singular_values[:MODES] / np.sqrt(opened.last.snapshots)
    found = modes_at(opened, section, MODES)
    panels = [
        Panel(
            f"mode {k + 1} times RMS of {subscript(k + 1)}",
            section,
            mode * size,
            "diverging",
            mode * size,
        )
        for k, (mode, size) in enumerate(zip(found, usual, strict=True))
    ]
    return _picture(section, field_figure(panels), f"modes{number}", "modes")


def patterns(
    opened: CoefficientStore, sections: Sequence[Section], model: xr.Dataset
) -> list[Picture]:
    """Draw what each coordinate of a field's equations adds to a few variables."""
    spatial = (each for each in _coded(opened, sections) if each.kind != "value")
    return [
        picture
        for number, section in enumerate(spatial)
        for picture in _patterns(opened, section, model, number)
    ]


def _patterns(
    opened: CoefficientStore, section: Section, model: xr.Dataset, number: int
) -> Iterator[Picture]:
    """Draw the field of each coordinate, in rows; coordinates have variance one."""
    modes = modes_at(opened, section, model.sizes["mode"])
    fields = np.tensordot(model["pattern"].values.T, modes, 1)
    panels = [
        Panel(f"what {subscript(k + 1, 'z')} = 1 adds", section, field, "diverging", field)
        for k, field in enumerate(fields)
    ]
    for row in range(0, len(panels), MODES):
        figure = field_figure(panels[row : row + MODES])
        yield _picture(section, figure, f"patterns{number}-{row}", "patterns of coordinates")


def _snapshots(
    opened: CoefficientStore, dataset: xr.Dataset, section: Section, number: int
) -> Picture:
    """Draw the first, middle and last decoded snapshot on one colour scale."""
    time, last = time_dim(opened), opened.snapshots - 1
    numbers = sorted({0, last // 2, last})
    values = [snapshot_at(dataset, section, time, n) for n in numbers]
    together = np.stack(values)
    scale = fitting(together)
    panels = [
        Panel(f"{time} {_when(dataset, time, n)}", section, each, scale, together)
        for n, each in zip(numbers, values, strict=True)
    ]
    return _picture(section, field_figure(panels), f"snapshots{number}", "snapshots")


def _along_time(
    opened: CoefficientStore, dataset: xr.Dataset, section: Section, time: Axis, number: int
) -> Picture:
    """Draw decoded values over space and time."""
    numbers, values = rows_at(dataset, section, time_dim(opened))
    axes = (section.axes[0], Axis(time.label, time.values[numbers]))
    plane = replace(section, kind="map", axes=axes, to_scale=False)
    panel = Panel("as decoded", plane, values, fitting(values), values)
    return _picture(section, field_figure([panel], columns=1), f"snapshots{number}", "values")


def _when(dataset: xr.Dataset, time: str, number: int) -> str:
    if time not in dataset.coords:
        return f"number {number}"
    return shown_time(dataset[time].values, number)

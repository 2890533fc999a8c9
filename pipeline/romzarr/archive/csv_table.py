"""Reads CSV files: rows are series and columns time steps, or the other way round.

A header with times and a column with labels are optional::

    time,  0.0, 0.1, 0.2          0.31, 0.35, 0.36
    u,     1.5, 1.6, 1.7          1.20, 1.18, 1.15
    v,     0.3, 0.2, 0.1

The first row is the header if its cells are ISO dates, or if its first cell is empty or names time.
Without labels it is the header if it increases in equal steps, unless every row does.

A table is one variable ``x(row, time)``, whose rows are labelled by the names of the series.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from romzarr.archive.csv_cells import DATE, Cells, Kind, as_dates, is_number, read_cells
from romzarr.archive.location import redacted
from romzarr.contracts import Layout, Series
from romzarr.errors import ArchiveError

logger = logging.getLogger(__name__)

_CORNER = re.compile(r"\s*(#\s*)?((time|times|date|datetime|timestamp|t)\b.*)?\s*", re.IGNORECASE)
# Headings of a column of labels, if increasing numbers follow them.
_OVER_LABELS = re.compile(
    r"\s*(#\s*)?(variable|name|label|quantity|quantitie|field|signal|channel|sensor|feature|row|id)s?\b.*",
    re.IGNORECASE,
)
_UNITS = re.compile(r"[\[(]\s*([^\])]+?)\s*[\])]")
# Relative deviation of equal steps: files have times rounded to a few digits.
_EVEN = 1e-3


@dataclass(frozen=True)
class Line:
    """A row of a table, or a column of one whose columns are series: its ``number`` in messages,
    its first cell, and the numbers and kinds of all of its cells."""

    cells: Cells
    index: int
    is_column: bool
    head: str

    @property
    def number(self) -> int:
        return self.index + 1 if self.is_column else int(self.cells.lines[self.index])

    @property
    def values(self) -> NDArray[np.float64]:
        of = self.cells.values
        return of[:, self.index] if self.is_column else of[self.index]

    @property
    def kinds(self) -> NDArray[np.uint8]:
        of = self.cells.kinds
        return of[:, self.index] if self.is_column else of[self.index]

    def text(self, place: int) -> str:
        at = (place, self.index) if self.is_column else (self.index, place)
        return self.cells.text(*at)

    def are_dates(self, first: int) -> bool:
        kinds = self.kinds[first:]
        return bool(len(kinds)) and bool((kinds == Kind.DATE).all())

    def dates(self, first: int) -> NDArray[np.datetime64]:
        if self.is_column:
            return self.cells.dates(self.index, first)
        return as_dates([self.text(place) for place in range(first, len(self.kinds))])

    def increases(self) -> bool:
        """Whether all cells but the first are increasing numbers."""
        return not self.kinds[1:].any() and bool((np.diff(self.values[1:]) > 0).all())

    def is_even(self, first: int = 0) -> bool:
        """Whether it increases in equal steps."""
        with np.errstate(invalid="ignore", over="ignore"):
            steps = np.diff(self.values[first:])
        return bool(
            steps.size and steps.min() > 0 and np.ptp(steps) <= _EVEN * abs(float(steps.mean()))
        )


def read_table(
    location: str, layout: Layout = Layout.AUTO, series: Series = Series.ONE
) -> xr.Dataset:
    """Read a CSV file whose columns are series, or whose rows are, and say which.

    They are one variable ``x(row, time)``, with their names as labels of ``row``. A single series
    with a name is a variable of this name, and so is each of several if `series` says so.

    Raises
    ------
    ArchiveError
        As `read_csv`.
    """
    name = redacted(location)
    cells, asked = read_cells(location, name), layout is Layout.SERIES
    columns = _are_variables(cells) if layout is Layout.AUTO else asked
    dataset = _dataset(_columns(cells, name) if columns else _rows(cells), series, name)
    logger.info("%s: its %s are series (archive.columns)", name, "columns" if columns else "rows")
    return dataset


def read_csv(location: str) -> xr.Dataset:
    """Read the CSV file at `location`, whose rows are series, as `read_table` does.

    Raises
    ------
    ArchiveError
        If the lengths of rows differ, or a cell is not a number; names line and column.
    """
    return read_table(location, Layout.TIMES)


def _are_variables(cells: Cells) -> bool:
    """Tell whether the columns of a table are variables: if the first row names them, and no column
    does its rows; where nothing is named, if there are more rows than columns."""
    rows, columns = cells.values.shape
    if not any(map(is_number, cells.top)):
        return rows > 1 and not all(DATE.fullmatch(cell) for cell in cells.top[1:])
    labelled = bool((cells.kinds[:, 0] != Kind.NUMBER).any())
    return not labelled and rows > columns


def _rows(cells: Cells) -> list[Line]:
    return [Line(cells, k, False, cells.text(k, 0)) for k in range(len(cells.values))]


def _columns(cells: Cells, name: str) -> list[Line]:
    """Columns as series, that of times first.

    Times are the column whose name is that of time, or the first one if it has no name, or if it
    alone increases in equal steps; then its name is the unit.
    """
    named = not any(map(is_number, cells.top))
    _refuse_words(cells, 1 if named else 0, name)
    columns = [Line(cells, k, True, head) for k, head in enumerate(cells.top)]
    if not named:
        return columns
    if not any(map(_are_times, columns)) and _only_even(columns):
        columns[0] = replace(columns[0], head=f"time ({columns[0].head.strip()})")
    # Stable: the others keep their order.
    return sorted(columns, key=lambda column: not _are_times(column))


def _only_even(columns: list[Line]) -> bool:
    """Tell whether the first of several named columns, and no other, increases in equal steps."""
    even = [len(c.kinds) > 2 and c.increases() and c.is_even(1) for c in columns]
    return even[0] and not any(even[1:]) and len(even) > 1


def _are_times(column: Line) -> bool:
    """Tell whether a named column holds times."""
    if not _CORNER.fullmatch(column.head):
        return False
    return len(column.kinds) < 2 or column.are_dates(1) or column.increases()


def _refuse_words(cells: Cells, first: int, name: str) -> None:
    """Refuse what is neither a number nor a date, while its line and column are known."""
    words = np.argwhere(cells.kinds[first:] == Kind.WORD)
    if len(words):
        row, column = words[0].tolist()
        row += first
        raise _no_number(int(cells.lines[row]), column + 1, cells.text(row, column), name)


def _dataset(lines: list[Line], series: Series, name: str) -> xr.Dataset:
    header = lines[0] if _is_header(lines) else None
    body = lines[1:] if header else lines
    if not body:
        raise ArchiveError(f"archive {name!r} has a row of times but no rows of values")
    labelled = _is_labelled(header, body)
    first = 1 if labelled else 0
    logger.info("%s: header %s, labels %s", name, bool(header), labelled)
    coords = {"time": _times(header, first, name)} if header else {}
    for line in body:
        _refuse_no_numbers(line, first, name)
    labels = _labels(body, name) if labelled else []
    if labels and (len(labels) == 1 or series is Series.EACH):
        pairs = zip(labels, body, strict=True)
        return xr.Dataset({n: ("time", line.values[first:]) for n, line in pairs}, coords)
    rows = {"row": np.array(labels, dtype=object)} if labels else {}
    return xr.Dataset({"x": (("row", "time"), _together(body, first))}, coords | rows)


def _together(body: Sequence[Line], first: int) -> NDArray[np.float64]:
    """The values of lines from a place on; as a view of adjacent ones, since a copy would take as
    much memory again."""
    numbers, cells = [line.index for line in body], body[0].cells
    values = cells.values.T if body[0].is_column else cells.values
    start, stop = numbers[0], numbers[-1] + 1
    adjacent = numbers == list(range(start, stop))
    return values[start:stop, first:] if adjacent else values[numbers, first:]


def _is_header(lines: list[Line]) -> bool:
    first = lines[0]
    if first.are_dates(1):
        return True
    if not is_number(first.head):
        if _CORNER.fullmatch(first.head):
            return True
        return _OVER_LABELS.fullmatch(first.head) is not None and first.increases()
    if len(lines) < 2 or first.cells.kinds.any():
        return False
    # All numbers, no labels: a row that looks like times, unless all rows do.
    return first.is_even() and not all(line.is_even() for line in lines[1:])


def _is_labelled(header: Line | None, body: list[Line]) -> bool:
    """Tell whether the first cells are labels."""
    if header and not is_number(header.head) and not DATE.fullmatch(header.head):
        return True
    return any(not is_number(line.head) and line.head.strip() for line in body)


def _labels(body: list[Line], name: str) -> list[str]:
    labels: dict[str, int] = {}
    for line in body:
        label = line.head.strip()
        if label in labels or label == "time":
            other = f"also on line {labels[label]}" if label in labels else "reserved for the axis"
            raise ArchiveError(
                f"archive {name!r}, line {line.number}, column 1: label {label!r} is {other}; "
                "give each row a unique label"
            )
        labels[label] = line.number
    return list(labels)


def _times(header: Line, first: int, name: str) -> xr.Variable:
    if header.are_dates(first):
        try:
            return xr.Variable("time", header.dates(first))
        except ValueError as error:
            where = f"archive {name!r}, line {header.number}"
            raise ArchiveError(f"{where}: invalid date: {error}") from error
    _refuse_no_numbers(header, first, name)
    units = _UNITS.search(header.head) if first else None
    attrs = {"units": units[1]} if units else {}
    return xr.Variable("time", header.values[first:], attrs)


def _refuse_no_numbers(line: Line, first: int, name: str) -> None:
    wrong = np.flatnonzero(line.kinds[first:] >= Kind.DATE)
    if len(wrong):
        place = first + int(wrong[0])
        raise _no_number(line.number, place + 1, line.text(place), name)


def _no_number(number: int, column: int, cell: str, name: str) -> ArchiveError:
    return ArchiveError(
        f"archive {name!r}, line {number}, column {column}: {cell!r} is not a number; "
        "use a decimal point, and nan or nothing for missing values"
    )

"""Reads CSV files: rows are variables and columns time steps, or the other way round.

A header with times and a column with labels are optional::

    time,  0.0, 0.1, 0.2          0.31, 0.35, 0.36
    u,     1.5, 1.6, 1.7          1.20, 1.18, 1.15
    v,     0.3, 0.2, 0.1

The first row is the header if its cells are ISO dates, or if its first cell is empty or names time.
Without labels it is the header if it increases in equal steps, unless every row does.
"""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Sequence
from typing import TextIO

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from romzarr.archive.location import redacted
from romzarr.contracts import Layout
from romzarr.errors import ArchiveError, StorageError
from romzarr.objects import file_system_of, storage_errors

logger = logging.getLogger(__name__)

_DELIMITERS = (",", ";", "\t", "|")
_CORNER = re.compile(r"\s*(#\s*)?((time|times|date|datetime|timestamp|t)\b.*)?\s*", re.IGNORECASE)
# Headings of a column of labels, if increasing numbers follow them.
_OVER_LABELS = re.compile(
    r"\s*(#\s*)?(variable|name|label|quantity|quantitie|field|signal|channel|sensor|feature|row|id)s?\b.*",
    re.IGNORECASE,
)
_DATE = re.compile(r"\s*\d{4}-\d\d(-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?Z?)?)?\s*")
# What stands for a missing value.
_MISSING = re.compile(r"\s*(|na|n/a|null|none|-+|\.)\s*", re.IGNORECASE)
# Numbers with a decimal comma, and with a point.
_COMMA, _POINT = re.compile(r"\s*[+-]?\d*,\d+([eE][+-]?\d+)?\s*"), re.compile(r".*\d\.\d.*")
_UNITS = re.compile(r"[\[(]\s*([^\])]+?)\s*[\])]")
# Relative deviation of equal steps: files have times rounded to a few digits.
_EVEN = 1e-3

Row = tuple[int, list[str]]


def read_table(location: str, layout: Layout = Layout.AUTO) -> xr.Dataset:
    """Read a CSV file whose columns are series, or whose rows are, and say which.

    Raises
    ------
    ArchiveError
        As `read_csv`.
    """
    asked = None if layout is Layout.AUTO else layout is Layout.SERIES
    dataset, where = read_columns(location, asked), "columns"
    if dataset is None:
        dataset, where = read_csv(location), "rows"
    logger.info("%s: its %s are series (archive.columns)", redacted(location), where)
    return dataset


def read_csv(location: str) -> xr.Dataset:
    """Read the CSV file at `location`, whose rows are variables.

    Each labelled row becomes a variable over ``time``. Rows without labels become one variable
    ``x(row, time)``.

    Raises
    ------
    ArchiveError
        If the lengths of rows differ, or a cell is not a number; names line and column.
    """
    name = redacted(location)
    return _dataset(_read(location, name), name)


def read_columns(location: str, columns: bool | None = None) -> xr.Dataset | None:
    """Read a CSV file whose columns are variables and whose rows are time steps.

    The first row may name them. Times are the column whose name is that of time, or the first one
    if it has no name, or if it alone increases in equal steps; then its name is the unit.

    Parameters
    ----------
    location : str
    columns : bool, optional
        Whether columns are variables. Default: if the first row names them, and no column does
        its rows; where nothing is named, if there are more rows than columns.

    Returns
    -------
    xarray.Dataset or None
        None if columns are times: `read_csv` is for these.

    Raises
    ------
    ArchiveError
        As for `read_csv`.
    """
    name = redacted(location)
    rows = _read(location, name)
    if not (_are_variables(rows) if columns is None else columns):
        return None
    return _dataset(_transposed(rows, name), name)


def _are_variables(rows: list[Row]) -> bool:
    """Tell whether the columns of a table are variables."""
    first = rows[0][1]
    if not any(map(_is_number, first)):
        return len(rows) > 1 and not all(_DATE.fullmatch(cell) for cell in first[1:])
    labelled = any(not _is_number(row[0]) for _, row in rows)
    return not labelled and len(rows) > len(first)


def _transposed(rows: list[Row], name: str) -> list[Row]:
    """Columns as rows, that of times first."""
    named = not any(map(_is_number, rows[0][1]))
    for row in rows[1:] if named else rows:
        _refuse_words(row, name)
    cells = zip(*(row for _, row in rows), strict=True)
    columns = [(number, list(column)) for number, column in enumerate(cells, 1)]
    if not named:
        return columns
    first = columns[0][1]
    if not any(_are_times(column) for _, column in columns) and _only_even(columns):
        first[0] = f"time ({first[0].strip()})"
    # Stable: the others keep their order.
    return sorted(columns, key=lambda column: not _are_times(column[1]))


def _only_even(columns: list[Row]) -> bool:
    """Tell whether the first of several named columns, and no other, increases in equal steps."""
    even = [len(cells) > 2 and _increase(cells[1:]) and _is_even(cells[1:]) for _, cells in columns]
    return even[0] and not any(even[1:]) and len(even) > 1


def _are_times(cells: list[str]) -> bool:
    """Tell whether a named column holds times."""
    if not _CORNER.fullmatch(cells[0]):
        return False
    return all(_DATE.fullmatch(cell) for cell in cells[1:]) or _increase(cells[1:])


def _refuse_words(row: Row, name: str) -> None:
    """Refuse what is neither a number nor a date, while its line and column are known."""
    number, cells = row
    for column, cell in enumerate(cells, 1):
        if not (_is_number(cell) or _is_missing(cell) or _DATE.fullmatch(cell)):
            raise _no_number(number, column, cell, name)


def _read(location: str, name: str) -> list[Row]:
    try:
        with storage_errors(name):
            files, path = file_system_of(location)
            with files.open(
                path, "rt", encoding="utf-8-sig", newline="", compression="infer"
            ) as file:
                rows = _rows(file)
    except StorageError:
        raise
    except (UnicodeDecodeError, csv.Error) as error:
        raise ArchiveError(f"archive {name!r} is not CSV text in UTF-8: {error}") from error
    except OSError as error:
        raise ArchiveError(f"archive {name!r} cannot be read: {error}; check the path") from error
    if not rows:
        raise ArchiveError(f"archive {name!r} has no rows; each row has to be a variable")
    _refuse_ragged(rows, name)
    return rows


def _dataset(rows: list[Row], name: str) -> xr.Dataset:
    header = rows[0] if _is_header(rows) else None
    body = rows[1:] if header else rows
    if not body:
        raise ArchiveError(f"archive {name!r} has a row of times but no rows of values")
    labelled = _is_labelled(header, body)
    first = 1 if labelled else 0
    logger.info("%s: header %s, labels %s", name, bool(header), labelled)
    coords = {"time": _times(header, first, name)} if header else {}
    values = np.stack([_numbers(row, first, name) for row in body])
    if not labelled:
        return xr.Dataset({"x": (("row", "time"), values)}, coords)
    labels = _labels(body, name)
    return xr.Dataset({n: ("time", v) for n, v in zip(labels, values, strict=True)}, coords)


def _rows(file: TextIO) -> list[Row]:
    lines = [(i, line) for i, line in enumerate(file.read().splitlines(), 1) if line.strip()]
    delimiter = _delimiter([line for _, line in lines[:10]])
    if delimiter is None:
        return _with_points([(number, line.split()) for number, line in lines])
    reader = csv.reader(
        (f"{line}\n" for _, line in lines), delimiter=delimiter, skipinitialspace=True
    )
    # A quoted cell may span lines: the last line numbers the row.
    rows = [(lines[reader.line_num - 1][0], row) for row in reader]
    return rows if delimiter == "," else _with_points(rows)


def _with_points(rows: list[Row]) -> list[Row]:
    """Rows with decimal points for commas, where there are such commas and no points."""
    cells = [cell for _, row in rows for cell in row]
    if any(map(_POINT.fullmatch, cells)) or not any(map(_COMMA.fullmatch, cells)):
        return rows

    def pointed(cell: str) -> str:
        return cell.replace(",", ".") if _COMMA.fullmatch(cell) else cell

    return [(number, [pointed(cell) for cell in row]) for number, row in rows]


def _delimiter(lines: list[str]) -> str | None:
    """Find the most frequent delimiter that occurs in all `lines`; None for white space."""
    # Lines where a quoted cell begins or ends have only some cells of their row.
    whole = [line for line in lines if line.count('"') % 2 == 0]
    counts = {mark: min((line.count(mark) for line in whole), default=0) for mark in _DELIMITERS}
    best = max(_DELIMITERS, key=counts.__getitem__)
    return best if counts[best] else None


def _refuse_ragged(rows: list[Row], name: str) -> None:
    line, first = rows[0]
    for number, row in rows[1:]:
        if len(row) != len(first):
            raise ArchiveError(
                f"archive {name!r}, line {number}, column {min(len(row), len(first)) + 1}: the row "
                f"has {len(row)} cells, but line {line} has {len(first)}; every variable needs a "
                "value at every time"
            )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    # Only Python groups digits by underscores.
    return "_" not in cell


def _is_missing(cell: str) -> bool:
    return _MISSING.fullmatch(cell) is not None


def _floats(cells: Sequence[str]) -> NDArray[np.float64]:
    return np.array([np.nan if _is_missing(c) else float(c) for c in cells], np.float64)


def _is_header(rows: list[Row]) -> bool:
    cells = rows[0][1]
    if len(cells) > 1 and all(_DATE.fullmatch(cell) for cell in cells[1:]):
        return True
    if not _is_number(cells[0]):
        if _CORNER.fullmatch(cells[0]):
            return True
        return _OVER_LABELS.fullmatch(cells[0]) is not None and _increase(cells[1:])
    if len(rows) < 2 or not all(_is_number(c) for _, row in rows for c in row):
        return False
    # All numbers, no labels: a row that looks like times, unless all rows do.
    return _is_even(cells) and not all(_is_even(row) for _, row in rows[1:])


def _increase(cells: list[str]) -> bool:
    return all(map(_is_number, cells)) and bool((np.diff(_floats(cells)) > 0).all())


def _is_even(cells: list[str]) -> bool:
    with np.errstate(invalid="ignore", over="ignore"):
        steps = np.diff(_floats(cells))
    return bool(
        steps.size and steps.min() > 0 and np.ptp(steps) <= _EVEN * abs(float(steps.mean()))
    )


def _is_labelled(header: Row | None, body: list[Row]) -> bool:
    """Tell whether the first column holds labels."""
    if header and not _is_number(header[1][0]) and not _DATE.fullmatch(header[1][0]):
        return True
    return any(not _is_number(row[0]) and row[0].strip() for _, row in body)


def _labels(body: list[Row], name: str) -> list[str]:
    labels: dict[str, int] = {}
    for number, row in body:
        label = row[0].strip()
        if label in labels or label == "time":
            other = f"also on line {labels[label]}" if label in labels else "reserved for the axis"
            raise ArchiveError(
                f"archive {name!r}, line {number}, column 1: label {label!r} is {other}; "
                "give each row a unique label"
            )
        labels[label] = number
    return list(labels)


def _times(header: Row, first: int, name: str) -> xr.Variable:
    number, cells = header
    if cells[first:] and all(_DATE.fullmatch(cell) for cell in cells[first:]):
        dates = [cell.strip().removesuffix("Z") for cell in cells[first:]]
        try:
            return xr.Variable("time", np.array(dates, dtype="datetime64[ns]"))
        except ValueError as error:
            raise ArchiveError(f"archive {name!r}, line {number}: invalid date: {error}") from error
    units = _UNITS.search(cells[0]) if first else None
    attrs = {"units": units[1]} if units else {}
    return xr.Variable("time", _numbers(header, first, name), attrs)


def _numbers(row: Row, first: int, name: str) -> NDArray[np.float64]:
    number, cells = row
    for column, cell in enumerate(cells[first:], first + 1):
        if not (_is_number(cell) or _is_missing(cell)):
            raise _no_number(number, column, cell, name)
    return _floats(cells[first:])


def _no_number(number: int, column: int, cell: str, name: str) -> ArchiveError:
    return ArchiveError(
        f"archive {name!r}, line {number}, column {column}: {cell!r} is not a number; "
        "use a decimal point, and nan or nothing for missing values"
    )

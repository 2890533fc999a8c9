"""Reads the cells of a CSV file into numbers, in blocks: no Python objects are kept of them.

Kept as text are the first row, the first column, and parts of columns with dates or words in them.
"""

from __future__ import annotations

import csv
import re
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from romzarr.errors import ArchiveError, StorageError
from romzarr.objects import file_system_of, storage_errors

_DELIMITERS = (",", ";", "\t", "|")
DATE = re.compile(r"\s*\d{4}-\d\d(-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?Z?)?)?\s*")
# What stands for a missing value.
_MISSING = re.compile(r"\s*(|na|n/a|null|none|-+|\.)\s*", re.IGNORECASE)
# Numbers with a decimal comma, and with a point.
_COMMA, _POINT = re.compile(r"\s*[+-]?\d*,\d+([eE][+-]?\d+)?\s*"), re.compile(r"\d\.\d")
# Lines that tell the delimiter.
_FIRST_LINES = 10
# Cells of a block, which are Python objects of some 60 bytes each until it is full.
_BLOCK_CELLS = 1 << 15


class Kind(IntEnum):
    """What a cell is."""

    NUMBER = 0
    MISSING = 1
    DATE = 2
    WORD = 3


@dataclass(frozen=True)
class Cells:
    """The cells of a table (rows, columns): ``values`` (NaN where there is no number), their
    ``kinds``, the ``lines`` of the file in which rows end, the first row, and texts by block of
    rows and column."""

    values: NDArray[np.float64]
    kinds: NDArray[np.uint8]
    lines: NDArray[np.int64]
    top: list[str]
    starts: list[int]
    texts: dict[tuple[int, int], NDArray[np.bytes_]]

    def text(self, row: int, column: int) -> str:
        """A cell as it is in the file, where it is kept; else its number."""
        if row == 0:
            return self.top[column]
        block = int(np.searchsorted(self.starts, row, side="right")) - 1
        kept = self.texts.get((block, column))
        if kept is None:
            return repr(float(self.values[row, column]))
        return bytes(kept[row - self.starts[block]]).decode()

    def dates(self, column: int, first: int) -> NDArray[np.datetime64]:
        """The dates of a column from a row on, which has nothing else there.

        Raises
        ------
        ValueError
            If one is no date of the calendar.
        """
        parts = list[NDArray[Any]]()
        for block, start in enumerate(self.starts):
            kept = self.texts[block, column][max(0, first - start) :]
            parts.append(as_dates([bytes(each).decode() for each in kept]))
        return np.concatenate(parts)


def as_dates(cells: list[str]) -> NDArray[np.datetime64]:
    return np.array([cell.strip().removesuffix("Z") for cell in cells], dtype="datetime64[ns]")


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    # Only Python groups digits by underscores.
    return "_" not in cell


def kind_of(cell: str) -> Kind:
    if is_number(cell):
        return Kind.NUMBER
    if _MISSING.fullmatch(cell):
        return Kind.MISSING
    return Kind.DATE if DATE.fullmatch(cell) else Kind.WORD


def read_cells(location: str, name: str) -> Cells:
    """Read a table; takes about twice the memory of its numbers.

    Raises
    ------
    ArchiveError
        If it is no text, has no rows, or rows of different lengths; names line and column.
    """
    with _readable(name):
        with _opened(location) as file:
            delimiter = _delimiter(file)
        pointed = False
        if delimiter != ",":
            with _opened(location) as file:
                pointed = _has_decimal_commas(file, delimiter)
        with _opened(location) as file:
            found = _gathered(_rows(file, delimiter), pointed, name)
    return found


@contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        with storage_errors(name):
            yield
    except (StorageError, ArchiveError):
        raise
    except (UnicodeDecodeError, csv.Error) as error:
        raise ArchiveError(f"archive {name!r} is not CSV text in UTF-8: {error}") from error
    except OSError as error:
        raise ArchiveError(f"archive {name!r} cannot be read: {error}; check the path") from error


def _opened(location: str) -> Any:
    files, path = file_system_of(location)
    return files.open(path, "rt", encoding="utf-8-sig", newline="", compression="infer")


def _lines(file: TextIO) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1."""
    for number, line in enumerate(file, 1):
        if line.strip():
            yield number, line.rstrip("\r\n")


def _delimiter(file: TextIO) -> str | None:
    """Find the most frequent delimiter that occurs in all first lines; None for white space."""
    first = [line for _, (_, line) in zip(range(_FIRST_LINES), _lines(file), strict=False)]
    # Lines where a quoted cell begins or ends have only some cells of their row.
    whole = [line for line in first if line.count('"') % 2 == 0]
    counts = {mark: min((line.count(mark) for line in whole), default=0) for mark in _DELIMITERS}
    best = max(_DELIMITERS, key=counts.__getitem__)
    return best if counts[best] else None


def _rows(file: TextIO, delimiter: str | None) -> Iterator[tuple[int, list[str]]]:
    if delimiter is None:
        yield from ((number, line.split()) for number, line in _lines(file))
        return
    last = 0

    def lines() -> Iterator[str]:
        nonlocal last
        for number, line in _lines(file):
            last = number
            yield f"{line}\n"

    for row in csv.reader(lines(), delimiter=delimiter, skipinitialspace=True):
        # A quoted cell may span lines: the last line numbers the row.
        yield last, row


def _has_decimal_commas(file: TextIO, delimiter: str | None) -> bool:
    """Whether commas stand for decimal points: there are such commas, and no points."""
    found = False
    for _, row in _rows(file, delimiter):
        line = "\t".join(row)
        if "." in line and _POINT.search(line):
            return False
        found = found or ("," in line and any(map(_COMMA.fullmatch, row)))
    return found


def _with_points(row: list[str]) -> list[str]:
    return [cell.replace(",", ".") if _COMMA.fullmatch(cell) else cell for cell in row]


@dataclass
class _Gathering:
    """Rows of one block, and the blocks before it."""

    rows: list[list[str]] = field(default_factory=list)
    values: list[NDArray[np.float64]] = field(default_factory=list)
    kinds: list[NDArray[np.uint8]] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    texts: dict[tuple[int, int], NDArray[np.bytes_]] = field(default_factory=dict)
    count: int = 0

    def finish_block(self) -> None:
        if not self.rows:
            return
        parsed = [_numbers_of(row) for row in self.rows]
        values, kinds = (np.stack(each) for each in zip(*parsed, strict=True))
        for column in {0, *np.flatnonzero((kinds >= Kind.DATE).any(axis=0)).tolist()}:
            cells = [row[column].encode() for row in self.rows]
            self.texts[len(self.values), column] = np.array(cells, dtype=np.bytes_)
        self.starts.append(self.count)
        self.count += len(self.rows)
        self.values.append(values)
        self.kinds.append(kinds)
        self.rows = []


def _gathered(rows: Iterator[tuple[int, list[str]]], pointed: bool, name: str) -> Cells:
    found, lines, top = _Gathering(), array("q"), list[str]()
    for number, cells in rows:
        row = _with_points(cells) if pointed else cells
        if not lines:
            top = row
        elif len(row) != len(top):
            raise ArchiveError(
                f"archive {name!r}, line {number}, column {min(len(row), len(top)) + 1}: the row "
                f"has {len(row)} cells, but line {lines[0]} has {len(top)}; every variable needs a "
                "value at every time"
            )
        lines.append(number)
        found.rows.append(row)
        # The first row is a block of its own: its texts are kept as they are.
        if len(lines) == 1 or len(found.rows) * len(top) >= _BLOCK_CELLS:
            found.finish_block()
    found.finish_block()
    if not lines:
        raise ArchiveError(f"archive {name!r} has no rows; each row has to be a variable")
    values, kinds = _joined(found.values, len(lines)), _joined(found.kinds, len(lines))
    return Cells(values, kinds, np.frombuffer(lines, np.int64), top, found.starts, found.texts)


def _numbers_of(row: list[str]) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """The numbers of a row, and the kinds of its cells."""
    try:
        values = np.array(array("d", map(float, row)))
        if "_" not in "".join(row):
            return values, np.zeros(len(row), np.uint8)
    except ValueError:
        pass
    numbers, kinds = array("d"), bytearray()
    for cell in row:
        kind = Kind.NUMBER
        try:
            number = float(cell)
        except ValueError:
            number, kind = np.nan, kind_of(cell)
        if kind is Kind.NUMBER and "_" in cell:
            number, kind = np.nan, kind_of(cell)
        numbers.append(number)
        kinds.append(kind)
    return np.array(numbers), np.frombuffer(kinds, np.uint8)


def _joined(blocks: list[NDArray[Any]], rows: int) -> NDArray[Any]:
    """The rows of all blocks; each is freed once it is copied, so that there is no second copy."""
    whole, stop = np.empty((rows, blocks[0].shape[1]), blocks[0].dtype), rows
    while blocks:
        block = blocks.pop()
        whole[stop - len(block) : stop] = block
        stop -= len(block)
    return whole

"""Gaps of a stored variable: where no number is, and what stands there instead."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from romzarr.coding.tiles import region_of
from romzarr.errors import StoreError
from romzarr.numerics.gaps import Codes, Runs, codes_from
from romzarr.store import limits
from romzarr.store.layout import MISSING, JsonObject, special_from_json
from romzarr.store.reading.arrays import StoredArrays
from romzarr.store.reading.indexing import Positions, pieces, points


@dataclass(frozen=True)
class StoredGaps:
    """What stands in the gaps, by code, and where they are.

    Either ``runs`` (k, 3) list them one by one, and points without any number hold the code
    ``masked`` (0: NaN); or the group ``home`` has an array of codes.
    """

    special: Mapping[int, float]
    runs: Runs | None
    masked: int
    home: str

    @property
    def path(self) -> str:
        """Array of codes, where there is one."""
        return f"basis/{self.home}/gaps"


def gaps_of(fields: JsonObject, shape: tuple[int, ...]) -> StoredGaps | None:
    """Parse the gaps of a variable of this shape; None if it has none.

    Raises
    ------
    StoreError
    """
    if "gaps" not in fields.document:
        return None
    gaps = fields.object("gaps")
    values = gaps.object("special").document if "special" in gaps.document else MISSING
    try:
        special = {int(code): special_from_json(v, gaps.where) for code, v in values.items()}
    except ValueError as error:
        raise StoreError(f"{gaps.where}: codes of special values must be integers") from error
    if not special or not all(0 < code < 256 for code in special):
        raise StoreError(f"{gaps.where}: codes of special values must be from 1 to 255")
    if "home" in gaps.document:
        return StoredGaps(special, None, 0, gaps.text("home"))
    masked = gaps.integer("masked", 1, 255) if "masked" in gaps.document else 0
    runs = _runs(gaps, math.prod(shape))
    if not {*runs[:, 2].tolist(), *([masked] if masked else [])} <= set(special):
        raise StoreError(f"{gaps.where}: 'runs' have codes that 'special' does not name")
    return StoredGaps(special, runs, masked, "")


def _runs(gaps: JsonObject, values: int) -> Runs:
    """Check that runs are sorted, apart, and within all values."""
    runs: Any = gaps.document.get("runs")
    valid = isinstance(runs, list) and len(runs) <= limits.MAX_RUNS
    last = 0
    for run in runs if valid else ():
        valid &= isinstance(run, list) and len(run) in (2, 3) and all(type(i) is int for i in run)
        valid = valid and last <= run[0] < run[0] + run[1] <= values
        valid = valid and (len(run) == 2 or 0 < run[2] < 256)
        last = run[0] + run[1] if valid else values
    if not valid:
        raise StoreError(
            f"{gaps.where}: 'runs' must be up to {limits.MAX_RUNS} increasing starts, lengths and "
            f"codes within {values} values"
        )
    whole = [run if len(run) == 3 else [*run, 1] for run in runs]
    return np.array(whole, np.int64).reshape(-1, 3)


def put_gaps(
    values: NDArray[Any],
    gaps: StoredGaps,
    arrays: StoredArrays,
    shape: tuple[int, ...],
    time_axis: int,
    rows: Positions,
    wanted: Sequence[Positions],
) -> None:
    """Put what stands in the gaps of a variable of this shape into decoded values.

    They are those of increasing `rows` in time and `wanted` points in space, in the order of dims.
    """
    if gaps.runs is None:
        places = [*wanted[:time_axis], rows, *wanted[time_axis:]]
        _put(values, _codes(arrays, gaps.path, shape, places), gaps)
        return
    if gaps.masked:
        values[np.isnan(values)] = gaps.special[gaps.masked]
    space = (*shape[:time_axis], *shape[time_axis + 1 :])
    size, by_time = math.prod(space), np.moveaxis(values, time_axis, 0)
    starts, stops = gaps.runs[:, 0], gaps.runs[:, 0] + gaps.runs[:, 1]
    for number, row in enumerate(rows.tolist()):
        first = int(np.searchsorted(stops, row * size, "right"))
        last = int(np.searchsorted(starts, (row + 1) * size, "left"))
        if first < last:
            codes = codes_from(gaps.runs[first:last], row, size).reshape(space)
            _put(by_time[number, ...], codes[np.ix_(*wanted)], gaps)


def _put(values: NDArray[Any], codes: Codes, gaps: StoredGaps) -> None:
    if not codes.any():
        return
    for code, value in gaps.special.items():
        values[codes == code] = value


def _codes(
    arrays: StoredArrays, path: str, shape: tuple[int, ...], places: list[Positions]
) -> Codes:
    """Codes at the places along each axis."""
    codes, tile_shape = np.empty([len(each) for each in places], np.uint8), arrays.chunk(path)
    for tile, inside, region in pieces(places, tile_shape):
        read = partial(arrays.selected, path, region_of(tile, shape, tile_shape))
        codes[region] = points(arrays.cached((path, tile), read)[None], inside)[0]
    return codes

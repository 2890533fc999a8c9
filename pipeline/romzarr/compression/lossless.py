"""Compression to the bit: no modes and no model, each variable in the way that is smallest."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from romzarr.archive import Archive
from romzarr.chunked.blocks import lazy_tiles, some_tiles, stored_tile
from romzarr.chunked.exact import Trial, WriteExact
from romzarr.chunked.slices import added, gathered
from romzarr.coding.exact import PACKABLE, ExactCoding, Packing
from romzarr.contracts import ArchivedVariable, ReadCost
from romzarr.encoding import encoding_from_json
from romzarr.store.writing.writer import StoreWriter

log = logging.getLogger(__name__)

# Values of a tile. Small ones compress badly; whoever reads one point decodes a whole one.
LEAST, MOST = 1 << 18, 1 << 22
# Tiles that the ways of coding are tried on, and values of each.
TRIED, TRIED_VALUES = 2, 1 << 18


def write_lossless(writer: StoreWriter, archive: Archive) -> ReadCost:
    """Put every variable into the store to the bit; returns what reading cost. Runs Dask.

    A few chunks are read beforehand, to find the way of coding that is smallest.
    """
    costs = [
        _written(writer, variable, packing_of(archive.variable_encoding[variable.name]))
        for variable in archive.variables
    ]
    return sum(costs, ReadCost())


def packing_of(encoding: Mapping[str, Any]) -> Packing | None:
    """How the archive packs the values of a variable in integers, if it does."""
    found = encoding_from_json(encoding)
    if "scale_factor" not in found and "add_offset" not in found:
        return None
    integer = np.dtype(found.get("dtype", np.float64)).name
    missing: Any = found.get("_FillValue", found.get("missing_value"))
    if integer not in PACKABLE or np.size(missing) != 1:
        return None
    try:
        return Packing(
            integer,
            float(found.get("scale_factor", 1.0)),
            float(found.get("add_offset", 0.0)),
            None if missing is None else int(missing),
        )
    # What is no number packs nothing.
    except (TypeError, ValueError, OverflowError):
        return None


def _written(writer: StoreWriter, variable: ArchivedVariable, packing: Packing | None) -> ReadCost:
    tile = stored_tile(variable, LEAST, MOST)
    coding = _smallest(variable, tile, packing)
    log.info("variable %r: kept to the bit by %s", variable.name, coding)
    writer.create_exact(variable.name, variable.dims, variable.shape, tile, variable.dtype, coding)
    task = WriteExact(writer.exact, variable.name, coding)
    found = gathered(lazy_tiles(variable, tile, task, added), added)
    bytes_read, chunks_read, refused = found.tolist()
    cost = ReadCost(bytes_read, chunks_read)
    # Where values are not what the archive says they are packed in, they are coded as they are.
    return cost + _written(writer, variable, None) if refused else cost


def _smallest(
    variable: ArchivedVariable, tile: tuple[int, ...], packing: Packing | None
) -> ExactCoding:
    """The way of coding that takes fewest bytes on parts of a few tiles."""
    ways = [*ways_of(variable, packing), *(ways_of(variable, None) if packing else [])]
    places = some_tiles(variable, tile, TRIED)
    trial = Trial(ways, TRIED_VALUES)
    sizes = gathered(lazy_tiles(variable, tile, trial, added, places), added)
    return ways[int(np.argmin(sizes))]


def ways_of(variable: ArchivedVariable, packing: Packing | None) -> list[ExactCoding]:
    """Ways to keep values to the bit that are worth trying.

    Without differences and with those along time, along space, along all axes. Plain zstd at
    its highest level is among them, which the codecs of archives hardly ever beat.
    """
    time, all_axes = (variable.time_axis,), tuple(range(len(variable.dims)))
    space = tuple(axis for axis in all_axes if axis not in time)
    return [
        ExactCoding(axes, shuffle, packing)
        for axes in dict.fromkeys(((), time, space, all_axes))
        for shuffle in ("shuffle", "bitshuffle", "noshuffle")
    ]

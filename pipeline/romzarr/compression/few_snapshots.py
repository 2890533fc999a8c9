"""Archives of so few snapshots that there are no dynamics: values, in wavelets alone.

A single snapshot fluctuates about its average in space; several about their temporal mean, as
everywhere.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import dask
import numpy as np

from romzarr.archive import Archive
from romzarr.chunked.blocks import Lengths, Tile, aligned_tile, lazy_tiles
from romzarr.chunked.values import ValuesCoding, values_tile
from romzarr.coding.tiles import region_of
from romzarr.compression.block_errors import with_block_errors
from romzarr.compression.gaps import Known
from romzarr.compression.lossless import write_lossless
from romzarr.compression.pointwise import AIM
from romzarr.compression.values import ValuesPlan, values_bytes, write_values
from romzarr.compression.write_pod import Result, check_bound
from romzarr.compression.write_store import Codings, facts, write_latent
from romzarr.config import Config
from romzarr.contracts import MIN_SNAPSHOTS, ArchivedVariable, Coding, Floats, ReadBlock
from romzarr.errors import AccuracyError
from romzarr.numerics.budget import ROUNDING_SHARE
from romzarr.numerics.error_blocks import BlockErrors
from romzarr.store.writing.writer import StoreWriter

log = logging.getLogger(__name__)

# Snapshots of parts of space, and their places in the grid of tiles.
Parts = Sequence[tuple[Lengths, Floats]]

# Values of a tile that is read at once.
LEAST, MOST = 1 << 18, 1 << 22
# Quantisation steps by the root of the mean squared error that they make, to begin with; and how
# that error grows with them.
STEP, POWER = 4.0, 2.0
# Squared norms below lose digits.
SMALLEST = 1e-280


def are_few(archive: Archive) -> bool:
    """Whether an archive has too few snapshots for dynamics."""
    return len(archive.time.values) < MIN_SNAPSHOTS


def write_few(writer: StoreWriter, known: Known, config: Config) -> Result:
    """Put an archive of few snapshots into the store, within the tolerance. Runs Dask.

    Variables whose rounding alone is above the tolerance, or whose fluctuation cannot be squared,
    are kept to the bit. Memory of workers for a variable at a time.
    """
    archive, tolerance = known.archive, config.compression.tolerance
    codings, errors = dict[str, Coding](), dict[str, float]()
    cost, totals, blocks = known.cost, dict[str, float](), dict[str, BlockErrors]()
    for number, variable in enumerate(archive.variables):
        name = variable.name
        totals[name] = variable.fluctuation or 0.0
        coding, errors[name] = Coding.LOSSLESS, 0.0
        if variable.fluctuation == 0 and (steady := _steady(variable)) is not None:
            writer.write_constant(name, variable.space_dims, steady)
            coding = Coding.CONSTANT
        elif _can_be_squared(variable):
            average = known.averages[number] if variable.average is None else variable.average
            plan = _planned(variable, number, average, tolerance)
            if name in config.compression.absolute_bounds:
                aim = AIM * config.compression.absolute_bounds[name] / plan.variance**0.5
                plan = replace(plan, tolerance=min(tolerance, aim))
            try:
                (found,) = write_values(writer, archive, [plan]).values()
                coding, errors[name], cost = Coding.DIRECT, found.error, cost + found.cost
                blocks[name] = found.blocks
            except AccuracyError as refused:
                log.info("variable %r: kept to the bit, since %s", name, refused)
                writer.drop_values(name)
        if coding is Coding.LOSSLESS:
            cost += write_lossless(writer, _with_all_bits(archive, variable))
            if variable.scaling is not None and variable.scaling.steady is not None:
                writer.drop_steady(name)
        codings[name] = coding
    write_latent(writer, archive, None)
    check_bound(errors, tolerance)
    listed = Codings(tuple(codings[v.name] for v in archive.variables), 0, "float64")
    said = facts(archive, listed, None, errors, config)
    # Of one snapshot it is another one than that of a record, and JSON has no infinity: nothing can
    # be appended.
    appendable = len(archive.time.values) > 1 and np.isfinite(list(totals.values())).all()
    more = {"fluctuation": totals} if appendable else {}
    return Result(with_block_errors({**said, **more}, blocks), listed, None, cost)


def _can_be_squared(variable: ArchivedVariable) -> bool:
    """Whether the fluctuation of a variable that is not constant is a number."""
    return SMALLEST < (variable.fluctuation or 0.0) < np.inf


def few_bytes(known: Known, tolerance: float) -> dict[str, int]:
    """Bytes that each variable would take, 0 if it is constant. Runs Dask."""
    both = zip(known.archive.variables, known.averages, strict=True)
    return {
        variable.name: values_bytes(known.archive, _planned(variable, number, average, tolerance))
        if _can_be_squared(variable)
        else 0
        for number, (variable, average) in enumerate(both)
    }


def _with_all_bits(archive: Archive, variable: ArchivedVariable) -> Archive:
    """An archive of one variable as it is, gaps and all."""
    return replace(archive, variables=(variable.as_archived,))


def _planned(
    variable: ArchivedVariable, number: int, average: float, tolerance: float
) -> ValuesPlan:
    snapshots, values = variable.shape[variable.time_axis], float(np.prod(variable.shape))
    counted = snapshots * variable.inner_product.total(int(values) // snapshots)
    variance = (variable.fluctuation or 0.0) / counted
    allowed, single = tolerance * variance**0.5, np.dtype(np.float32)
    rounding = float(np.finfo(single).eps) * (abs(average) + variance**0.5)
    narrow = variable.dtype.itemsize <= 4 and rounding <= ROUNDING_SHARE * allowed
    return ValuesPlan(
        number=number,
        tile=values_tile(variable),
        coding=ValuesCoding(STEP * allowed, average, single if narrow else np.dtype(np.float64)),
        tolerance=tolerance,
        power=POWER,
        surveyed=snapshots,
        variance=variance,
        known=snapshots,
    )


def _steady(variable: ArchivedVariable) -> Floats | None:
    """The only snapshot there is, again and again, with NaN where nothing is; None if any two
    differ, by what is too little to be squared."""
    tile, axis = aligned_tile(variable, LEAST, MOST), variable.time_axis
    lengths = (*tile[:axis], *tile[axis + 1 :])
    found = np.full(variable.space_shape, np.nan, variable.dtype.newbyteorder("="))
    seen = set[Lengths]()

    def whole(block: ReadBlock, tile: Tile) -> Parts:
        place = (*tile.index[:axis], *tile.index[axis + 1 :])
        return [(place, np.moveaxis(block.values, axis, 0))]

    for parts in dask.compute(*lazy_tiles(variable, tile, whole, _all)):
        for place, values in parts:
            region = region_of(place, variable.space_shape, lengths)
            if place not in seen:
                found[region] = values[0]
            seen.add(place)
            if not np.array_equal(values, np.broadcast_to(found[region], values.shape), True):
                return None
    return found


def _all(several: Sequence[Parts]) -> Parts:
    return [part for parts in several for part in parts]

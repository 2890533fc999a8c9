"""Gaps of an archive: found in a pass of their own, kept exactly, and filled for all that follows.

Most archives have none, and are read without this. Where a variable turns out to have values that
are missing at some times, infinite, or undeclared fill values, everything begins anew with it.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from romzarr.archive import Archive
from romzarr.chunked.blocks import Lengths, aligned_tile, lazy_tiles
from romzarr.chunked.gaps import FilledSource, FindGaps, FoundGaps, joined_gaps
from romzarr.chunked.slices import gathered
from romzarr.coding.exact import ExactCoding
from romzarr.coding.tiles import region_of
from romzarr.contracts import MIN_SNAPSHOTS, ArchivedVariable, Gaps, Mask, ReadCost
from romzarr.numerics.gaps import Runs, runs_of, special_values
from romzarr.store.inline import chunk_bytes, text_bytes
from romzarr.store.writing.writer import StoreWriter

log = logging.getLogger(__name__)

# Values of a tile of codes: as those of lossless variables.
LEAST, MOST = 1 << 18, 1 << 22
# Results that are put together at a time: each has the mean of a part of space.
SUMMANDS = 4
# Bits of codes as they are: of moving edges, clouds, swaths and noise only clouds would take fewer
# bytes in another way, by a fifth.
CODES = ExactCoding((), "bitshuffle")
# Bytes of the metadata of an array, about.
ARRAY_BYTES = 700


class Known(NamedTuple):
    """An archive all of whose values were looked at: their ``averages`` (V,), and what it cost."""

    archive: Archive
    averages: tuple[float, ...]
    cost: ReadCost


def with_gaps(archive: Archive, writer: StoreWriter | None = None) -> Known:
    """The archive with its gaps known and filled. Runs Dask.

    Reads everything once. Gaps that take fewer bytes one by one are listed, others have their codes
    in the store, if there is a writer. The temporal mean of each variable with gaps is held here.
    Where there are too few snapshots for a model, fluctuations of all variables are known too.
    """
    variables, averages = list[ArchivedVariable](), list[float]()
    cost, homes = ReadCost(), dict[Any, str]()
    for variable in archive.variables:
        found, tile = _found(variable, writer)
        cost += found.cost
        filled = _with_gaps(variable, found, tile)
        filled = _at_home(filled, found, homes)
        unused = filled.gaps is None or filled.gaps.home != variable.name
        if writer is not None and unused:
            writer.drop_gaps(variable.name)
        variables.append(filled)
        averages.append(_average(found))
        if filled.gaps is not None:
            log.info("variable %r: %s", variable.name, shown(filled.gaps))
    return Known(
        replace(archive, variables=tuple(variables), gaps_known=True), tuple(averages), cost
    )


def shown(gaps: Gaps) -> str:
    """What stands in the gaps, and how often."""
    return ", ".join(
        f"{count} of {gaps.values} values are {value:.6g}"
        for value, count in zip(gaps.special.values(), gaps.counts, strict=True)
    )


def _found(variable: ArchivedVariable, writer: StoreWriter | None) -> tuple[FoundGaps, Lengths]:
    """What is known of the gaps of a variable, and the tiles that their codes are in."""
    tile = aligned_tile(variable, LEAST, MOST)
    tiles = None
    if writer is not None:
        writer.create_gaps(variable.name, variable.dims, variable.shape, tile, CODES)
        tiles = writer.gaps
    special = special_values(variable.dtype)
    task = FindGaps(
        variable.name, variable.shape, variable.time_axis, variable.inner_product, special, CODES,
        tiles,
    )  # fmt: skip
    found: FoundGaps = gathered(
        lazy_tiles(variable, tile, task, joined_gaps), joined_gaps, SUMMANDS
    )
    return found, tile


def _with_gaps(variable: ArchivedVariable, found: FoundGaps, tile: Lengths) -> ArchivedVariable:
    """The variable with its gaps filled; as it is, if points have numbers always or never."""
    space = variable.space_shape
    counts, mean = np.empty(space), np.empty(space)
    lengths = (*tile[: variable.time_axis], *tile[variable.time_axis + 1 :])
    for index, moments in found.moments.items():
        region = region_of(index, space, lengths)
        shape = tuple(part.stop - part.start for part in region)
        counts[region] = moments.counts.reshape(shape)
        mean[region] = moments.mean.reshape(shape)
    masked = counts == 0
    snapshots = variable.shape[variable.time_axis]
    only_missing = not found.counts[2:].any()
    if snapshots < MIN_SNAPSHOTS:
        variable = replace(variable, fluctuation=_fluctuation(found, snapshots))
    if only_missing and found.counts[1] == snapshots * np.count_nonzero(masked):
        return variable
    origin = np.where(masked, np.nan, mean).astype(variable.dtype.newbyteorder("="))
    special, kinds = special_values(variable.dtype), np.flatnonzero(found.counts[1:])
    gaps = Gaps(
        special={int(k) + 1: float(special[k]) for k in kinds},
        counts=tuple(found.counts[1:][kinds].tolist()),
        values=math.prod(variable.shape),
        source=variable.source,
        runs=_runs(found, masked, snapshots),
        masked=int(np.argmax(found.empty)) if masked.any() else 0,
        nbytes=found.nbytes,
    )
    key = f"mean-{variable.name}-{found.digest:x}"
    source = FilledSource(variable.source, variable.time_axis, special[kinds], key, origin)
    fluctuation = _fluctuation(found, snapshots)
    return replace(variable, source=source, gaps=gaps, fluctuation=fluctuation)


def _fluctuation(found: FoundGaps, snapshots: int) -> float:
    """Squared norm of the numbers about their temporal mean; of one snapshot about its average."""
    if snapshots > 1:
        return sum(each.square for each in found.moments.values())
    average = _average(found)
    about = ((each, (each.mean - average) * (each.counts > 0)) for each in found.moments.values())
    with np.errstate(over="ignore", invalid="ignore"):
        return sum(float(each.inner.sum(values**2)) for each, values in about)


def _average(found: FoundGaps) -> float:
    """Mean of the temporal means of all points, by weight; 0 if there are none."""
    parts = found.moments.values()
    weight = sum(float(each.inner.sum((each.counts > 0).astype(float))) for each in parts)
    # About one of them, so that what is constant has exactly this mean.
    first = next((float(each.mean[each.counts > 0][0]) for each in parts if each.counts.any()), 0.0)
    about = sum(float(each.inner.sum((each.mean - first) * (each.counts > 0))) for each in parts)
    return first + about / weight if weight else first


def _runs(found: FoundGaps, masked: Mask, snapshots: int) -> Runs | None:
    """Gaps one by one, unless an array of codes is smaller."""
    at_masked = snapshots * np.count_nonzero(masked)
    # At points without numbers always the same, which is said once.
    alike = np.count_nonzero(found.empty) <= 1 and found.empty.sum() == at_masked
    if found.listed is None or not alike:
        return None
    code = int(np.argmax(found.empty)) if masked.any() else 0
    runs = runs_of(found.listed.positions, found.listed.codes, masked.ravel(), code)
    array = min(chunk_bytes(found.nbytes), found.nbytes + ARRAY_BYTES)
    return runs if text_bytes(runs.tolist()) <= array else None


def _at_home(
    variable: ArchivedVariable, found: FoundGaps, homes: dict[Any, str]
) -> ArchivedVariable:
    """The variable with the one that has the codes of its gaps, if they are in an array."""
    gaps = variable.gaps
    if gaps is None or gaps.runs is not None:
        return variable
    # Codes of fill values differ from dtype to dtype.
    has_fills = any(np.isfinite(value) for value in gaps.special.values())
    key = (variable.dims, variable.shape, found.digest, has_fills and variable.dtype.name)
    return replace(variable, gaps=replace(gaps, home=homes.setdefault(key, variable.name)))

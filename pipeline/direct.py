"""Variables that are coded without POD: what it would cost, and carrying it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dask
import numpy as np
from dask.delayed import Delayed

from pipeline.archive import Archive
from pipeline.chunked.direct import (
    ValueTile,
    ValueWriter,
    lazy_tiles,
    value_error,
    value_rates,
    value_tile,
    value_tiles,
    write_values,
)
from pipeline.chunked.fields import summed
from pipeline.coding.rates import Rates, position_within, step_of
from pipeline.contracts import Region
from pipeline.errors import AccuracyError
from pipeline.factor import ArchivePOD

# Tiles that are looked at to estimate bits and step; few enough to cost little beside POD.
SAMPLED = 4
# Steps tried at most, and the share of the error allowed that they aim at: closer where
# all tiles were seen.
MOST_STEPS, AIM, AIM_UNSEEN = 6, 0.999, 0.985


@dataclass(frozen=True)
class DirectVariable:
    """How variable `number` is coded without POD.

    ``tile`` (time first) and ``offset`` as in `pipeline.chunked.direct`; ``step`` is the
    quantisation step that should meet ``allowed``, the norm of its error; ``bits`` what the
    whole would cost, to compare with other ways.
    """

    number: int
    name: str
    tile: tuple[int, ...]
    offset: float
    step: float
    allowed: float
    bits: float


def plan_direct(archive: Archive, pod: ArchivePOD, number: int) -> DirectVariable:
    """Step and bits of coding a variable without POD, from a few of its tiles. Runs Dask."""
    variable, norm = archive.variables[number], pod.norms[number]
    allowed, offset = float(pod.budget.allowed[number]), pod.averages[number]
    found = _tiles(archive, number, offset)
    chosen = np.unique(np.linspace(0, len(found) - 1, min(SAMPLED, len(found))).round().astype(int))
    some = [found[i] for i in chosen]
    sample: Rates
    (sample,) = dask.compute(
        summed(lazy_tiles(variable, [s[:2] for s in some], value_rates, norm.fluctuation))
    )
    share = sum(values for *_, values in some) / sum(values for *_, values in found)
    place = position_within(sample, allowed**2 * share)
    if len(some) == len(found):
        step = _exact_step(archive, pod, number, step_of(place, norm.fluctuation))
    else:
        step = AIM_UNSEEN * step_of(place, norm.fluctuation)
    bits = sample.bits_at(place) / share
    tile = value_tile(variable)
    return DirectVariable(number, variable.name, tile, offset, step, allowed, bits)


def _tiles(
    archive: Archive, number: int, offset: float
) -> list[tuple[ValueTile, Region, int]]:
    """Tiles of a variable, what to read for each, and their numbers of values."""
    return [
        (tile, read, int(np.prod([s.stop - s.start for s in region], dtype=np.int64)))
        for tile, region, read in value_tiles(archive.variables[number], offset)
    ]


def _exact_step(archive: Archive, pod: ArchivePOD, number: int, step: float) -> float:
    """Largest step that all tiles together can bear, near `step`."""
    allowed, best = float(pod.budget.allowed[number]), 0.0
    for _ in range(MOST_STEPS):
        error = _error(archive, pod, number, value_error, step, pod.budget.basis)
        if error <= allowed:
            best = max(best, step)
            if error >= 0.995 * allowed:
                break
        step *= AIM * allowed / max(error, 1e-3 * allowed)
    return best or step / 2


def _error(
    archive: Archive, pod: ArchivePOD, number: int, function: Any, *args: Any
) -> float:
    """Norm of the error of all tiles together, as tasks measure it."""
    variable = archive.variables[number]
    found = [tile[:2] for tile in _tiles(archive, number, pod.averages[number])]
    squares: list[Delayed] = lazy_tiles(variable, found, function, *args)
    (total,) = dask.compute(summed(squares))
    return float(total**0.5)


def write_direct(
    writer: Any, archive: Archive, pod: ArchivePOD, plan: DirectVariable
) -> float:
    """Code a variable into the store; returns the norm of its error. Runs Dask.

    Raises
    ------
    AccuracyError
        If no step meets the bound.
    """
    variable, masked = archive.variables[plan.number], pod.masked[plan.number]
    step = plan.step
    for _ in range(MOST_STEPS):
        writer.create_values(variable, plan.tile, step, pod.budget.basis, masked)
        values: ValueWriter = writer.values
        error = _error(
            archive, pod, plan.number, write_values, step, pod.budget.basis, values, plan.name
        )
        if error <= plan.allowed:
            return error
        step *= AIM_UNSEEN * plan.allowed / error
    raise AccuracyError(f"variable {plan.name!r}: no quantisation step meets the tolerance")

"""Variables that are coded without POD: what that would cost, and carrying it out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dask
import numpy as np

from romzarr.archive import Archive
from romzarr.chunked.direct import (
    LazyValues,
    even_tile,
    lazy_values,
    value_bits,
    value_loss,
    value_rates,
    write_values,
)
from romzarr.chunked.fields import Sample
from romzarr.chunked.slices import added, gathered
from romzarr.coding.rates import Rates, position_within, power_at, step_of
from romzarr.coding.residuals import residual_bits
from romzarr.coding.tiles import VALUES, grid
from romzarr.compression.block_errors import error_grid
from romzarr.compression.pod import ArchivePOD
from romzarr.contracts import Matrix
from romzarr.errors import AccuracyError
from romzarr.numerics.error_blocks import BlockErrors, ErrorGrid
from romzarr.store.writing.writer import StoreWriter

# What is looked at to foretell bits, little enough to cost next to nothing beside the POD; and what
# the step is found with that just meets the error allowed.
LOOK, WHOLE = Sample(4, 1 << 17), Sample(4, VALUES)
# Bits of a tile besides its values: head, end of the stream, checksum.
TILE_BITS = 80.0
# Errors tried, as shares of a bound on single values.
RATIOS = 0.8 ** np.arange(1, 10)
# Where nothing is lost.
SMALLEST = 1e-30
# The steps tried are around this many times the root of the mean square error allowed.
UNIT = 2.0**12
# Steps tried at most, the share of the error allowed that they aim at (less where not all
# tiles are seen), and how close to it is close enough.
MOST_STEPS, AIM, AIM_UNSEEN, CLOSE = 8, 0.9995, 0.99, 0.005


@dataclass(frozen=True)
class DirectVariable:
    """How variable `number` is coded without POD.

    ``allowed`` is the norm of the error that coding may make, beside what the POD dropped;
    ``step`` the quantisation step that should meet it, ``bits`` what the whole should cost,
    which has so many ``tiles``, and ``residual_bits`` the part of them that residuals should
    cost where single values have a bound. The squared error grows with this ``power`` of the step.
    """

    number: int
    allowed: float
    step: float
    bits: float
    tiles: int
    power: float
    residual_bits: float = 0.0


def plan_direct(
    archive: Archive, pod: ArchivePOD, look: Sample = LOOK
) -> dict[int, DirectVariable]:
    """Steps and bits of each variable without POD, from parts of a few tiles.

    Without those that are constant, and those for which no step is known to be enough.
    """
    room = pod.room
    units = UNIT * np.sqrt(np.maximum(room, 0.0) ** 2 / np.maximum(pod.counted, 1e-300))
    live = [v for v, norm in enumerate(pod.norms) if norm.fluctuation > 0 and units[v] > 0]
    samples = [_lazy(archive, pod, v, look) for v in live]
    found = dask.compute(
        *(sample.map(value_rates, units[v]) for v, sample in zip(live, samples, strict=True))
    )
    plans = (
        _planned(archive, pod, v, float(room[v]), float(units[v]), sample, parts)
        for v, sample, parts in zip(live, samples, found, strict=True)
    )
    return {plan.number: plan for plan in plans if plan is not None}


def _planned(
    archive: Archive,
    pod: ArchivePOD,
    number: int,
    room: float,
    unit: float,
    sample: LazyValues,
    parts: Sequence[tuple[Rates, float]],
) -> DirectVariable | None:
    """Plan of a variable from the rates of a sample and from how much of it counts."""
    variable = archive.variables[number]
    rates = sum((part for part, _ in parts[1:]), parts[0][0])
    share = sum(counted for _, counted in parts) / pod.counted[number]
    shape = (pod.snapshots, *variable.space_shape)
    tiles = math.prod(grid(shape, even_tile(variable, pod.snapshots)))
    plans = []
    for aim, rate in _aims(room, float(pod.budget.bounds[number]), float(pod.counted[number])):
        allowed = aim**2 * share
        if rates.errors[:, 0].sum() <= allowed and allowed > 0:
            place, residuals = position_within(rates, allowed), rate * math.prod(shape)
            bits = rates.bits_at(place) / sample.share + TILE_BITS * tiles + residuals
            step, power = step_of(place, unit), power_at(rates, place)
            plans.append(DirectVariable(number, aim, step, bits, tiles, power, residuals))
    return min(plans, key=lambda plan: plan.bits, default=None)


def _aims(room: float, bound: float, counted: float) -> list[tuple[float, float]]:
    """Errors to try, and bits of a residual with each.

    Where single values have a bound, smooth data make it cheaper to have fewer off by more.
    """
    most = bound * counted**0.5
    if not 0 < most < np.inf:
        return [(room, 0.0)]
    aims = [min(room, ratio * most) for ratio in RATIOS]
    return [(aim, residual_bits(aim / most)) for aim in aims if aim > 0]


def coded_on_trial(
    archive: Archive, pod: ArchivePOD, plans: Mapping[int, DirectVariable], part: Sample
) -> dict[int, DirectVariable]:
    """The plans, with the bits that a `part` as coded takes, at a better step. Runs Dask."""
    tried = {}
    for number, plan in plans.items():
        sample = _lazy(archive, pod, number, part)
        excess = _excess(pod, plan, _lost(sample, value_loss, plan.step, pod.budget.basis))
        factor = max(excess, SMALLEST) ** (-2 / plan.power)
        step = plan.step * float(np.clip(factor, 0.25, 4.0))
        bits = gathered(sample.map(value_bits, step), added)
        total = bits / sample.share + TILE_BITS * plan.tiles + plan.residual_bits
        tried[number] = replace(plan, step=step, bits=total)
    return tried


def write_direct(
    writer: StoreWriter,
    archive: Archive,
    pod: ArchivePOD,
    plans: Mapping[int, DirectVariable],
    *,
    episodes: bool = False,
) -> dict[int, BlockErrors]:
    """Code variables into the store; returns the errors of each, without rounding. Runs Dask.

    With `episodes` they are variables that have fields, and the snapshots of the `pod` are
    those at which these do not count; errors are those of single snapshots.

    Raises
    ------
    AccuracyError
        If no step meets the bound.
    """
    return {
        number: _written(writer, archive, pod, plan, episodes) for number, plan in plans.items()
    }


def _written(
    writer: StoreWriter, archive: Archive, pod: ArchivePOD, plan: DirectVariable, episodes: bool
) -> BlockErrors:
    variable, mask = archive.variables[plan.number], pod.masks[plan.number]
    own = mask == plan.number and not episodes
    offset, dtype = float(pod.averages[plan.number]), pod.budget.basis
    shape = (pod.snapshots, *variable.space_shape)
    values = _lazy(archive, pod, plan.number)
    step = _settled(archive, pod, plan)
    dims, tile = (archive.time.dim, *variable.space_dims), even_tile(variable, pod.snapshots)
    # Snapshots of episodes do not follow one another: whoever knows where they are adds them up.
    single = ErrorGrid(shape, (1, *shape[1:]))
    grid = single if episodes else error_grid(archive, variable)
    for _ in range(MOST_STEPS):
        if episodes:
            writer.create_episodes(variable.name, dims, shape, tile, step, offset, dtype)
            tiles = writer.episodes
        else:
            home = None if mask is None else archive.variables[mask].name
            writer.create_values(variable.name, dims, shape, tile, step, offset, dtype, home)
            tiles = writer.values
        lost = _lost(values, write_values, step, dtype, tiles, variable.name, own, grid)
        error = float(lost.sum() ** 0.5)
        if error <= plan.allowed:
            return BlockErrors(lost, float(pod.apart[plan.number] + pod.dropped[plan.number]))
        step *= AIM_UNSEEN * plan.allowed / error
    raise AccuracyError(f"variable {variable.name!r}: no quantisation step keeps the tolerance")


def _settled(archive: Archive, pod: ArchivePOD, plan: DirectVariable) -> float:
    """Largest step that should be enough, from whole tiles: all of them, if there are few."""
    sample = _lazy(archive, pod, plan.number, WHOLE)
    aim = AIM if len(sample.tiles) == plan.tiles else AIM_UNSEEN
    step, best = plan.step, 0.0
    for _ in range(MOST_STEPS):
        excess = _excess(pod, plan, _lost(sample, value_loss, step, pod.budget.basis))
        if excess <= aim:
            best = max(best, step)
            if excess >= aim - CLOSE:
                break
        step *= float(np.clip((aim - CLOSE / 4) / max(excess, 1e-9), 0.25, 4.0))
    return best or step


def _excess(pod: ArchivePOD, plan: DirectVariable, loss: Matrix) -> float:
    """Error of the whole, as far as some tiles show it, by the error allowed."""
    lost, counted = loss
    share = counted / pod.counted[plan.number]
    return float((lost / share) ** 0.5) / plan.allowed if share > 0 else 1.0


def _lazy(
    archive: Archive, pod: ArchivePOD, number: int, sample: Sample | None = None
) -> LazyValues:
    variable, offset = archive.variables[number], float(pod.averages[number])
    return lazy_values(pod.held, pod.series, number, variable, offset, sample)


def _lost(values: LazyValues, function: Any, *args: Any) -> Matrix:
    """What the function finds of all tiles, added up: as squared errors, and how much counts."""
    found: Matrix = gathered(values.map(function, *args), added)
    return found

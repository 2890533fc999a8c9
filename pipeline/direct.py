"""Which variables are coded without POD: what that would cost, and carrying it out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dask
import numpy as np
from numpy.typing import NDArray

from pipeline.allocate import FieldsPlan, plan_fields
from pipeline.archive import Archive
from pipeline.chunked.direct import (
    LazyValues,
    lazy_values,
    value_loss,
    value_rates,
    write_values,
)
from pipeline.chunked.fields import summed
from pipeline.coding.rates import Rates, position_within, step_of
from pipeline.coding.tiles import grid, value_tile
from pipeline.errors import AccuracyError
from pipeline.factor import ArchivePOD
from pipeline.identify import FACTOR_BYTES, FACTOR_SHARE
from pipeline.store.writer import StoreWriter

Matrix = NDArray[np.float64]

log = logging.getLogger(__name__)

# Tiles that are looked at, and values of each that estimate bits: few enough to cost little
# beside the POD.
SAMPLED, CROP = 4, 1 << 18
# Bits of a tile besides its values: head, end of the stream, checksum.
TILE_BITS = 80.0
# The steps tried are around this many times the root of the mean square error allowed.
UNIT = 2.0**12
# Steps tried at most, the share of the error allowed that they aim at (less where not all
# tiles are seen), and how close to it is close enough.
MOST_STEPS, AIM, AIM_UNSEEN, CLOSE = 8, 0.9995, 0.99, 0.005
# Gram matrices cannot resolve what the modes of some variables lack of the tightest tolerances.
TIGHTEST = 1e-5


@dataclass(frozen=True)
class DirectVariable:
    """How variable `number` is coded without POD.

    ``allowed`` is the norm of the error that coding may make, beside what the POD dropped;
    ``step`` the quantisation step that should meet it, ``bits`` what the whole should cost.
    """

    number: int
    allowed: float
    step: float
    bits: float


def choose_coding(
    archive: Archive, pod: ArchivePOD, tolerance: float
) -> tuple[FieldsPlan, dict[int, DirectVariable]]:
    """Fields of the variables that POD makes small, and the plans of all others. Runs Dask.

    Compared are the bits of all variables with POD, of all without, and of those alone
    without that cost less than their fields do.
    """
    whole, direct = plan_fields(archive, pod), _plan_direct(archive, pod)
    choices = [(whole, frozenset[int]())]
    cheaper = frozenset(v for v, plan in direct.items() if plan.bits < whole.field_bits[v])
    if cheaper and len(cheaper) < len(whole.live) and tolerance >= TIGHTEST:
        choices.append((plan_fields(archive, pod, cheaper), cheaper))
    if direct and len(direct) == len(whole.live):
        everything = frozenset(direct)
        choices.append((plan_fields(archive, pod, everything), everything))

    def bits(choice: tuple[FieldsPlan, frozenset[int]]) -> float:
        plan, without = choice
        return plan.bits + _model_bits(plan) + sum(direct[v].bits for v in without)

    fields, without = min(choices, key=bits)
    log.info("bits expected: %s", [(sorted(c[1]), round(bits(c))) for c in choices])
    return fields, {v: direct[v] for v in sorted(without)}


def _model_bits(plan: FieldsPlan) -> float:
    """Bits of what is kept for the model of the coefficients, where there are any."""
    if not plan.live or not np.isfinite(plan.bits):
        return 0.0
    return 8 * float(np.clip(FACTOR_SHARE * plan.bits / 8, *FACTOR_BYTES))


def _plan_direct(archive: Archive, pod: ArchivePOD) -> dict[int, DirectVariable]:
    """Steps and bits of each variable without POD, from parts of a few tiles.

    Without those that are constant, and those for which no step is known to be enough.
    """
    room = pod.budget.allowed - pod.apart - pod.dropped
    units = UNIT * np.sqrt(np.maximum(room, 0.0) ** 2 / np.maximum(pod.counted, 1e-300))
    live = [v for v, norm in enumerate(pod.norms) if norm.fluctuation > 0 and units[v] > 0]
    samples = [_lazy(archive, pod, v, most=SAMPLED, crop=CROP) for v in live]
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
    allowed = room**2 * sum(counted for _, counted in parts) / pod.counted[number]
    if not rates.errors[:, 0].sum() <= allowed or allowed == 0:
        return None
    place = position_within(rates, allowed)
    shape = (variable.shape[variable.time_axis], *variable.space_shape)
    seen = sum(int(np.prod(tile.extent, dtype=np.int64)) for tile in sample.tiles)
    share = seen / int(np.prod(shape, dtype=np.int64))
    number_of_tiles = int(np.prod(grid(shape, value_tile(shape)), dtype=np.int64))
    bits = rates.bits_at(place) / share + TILE_BITS * number_of_tiles
    return DirectVariable(number, room, step_of(place, unit), bits)


def write_direct(
    writer: StoreWriter,
    archive: Archive,
    pod: ArchivePOD,
    plans: Mapping[int, DirectVariable],
) -> dict[int, float]:
    """Code variables into the store; returns the norm of the error of each. Runs Dask.

    Raises
    ------
    AccuracyError
        If no step meets the bound.
    """
    return {number: _written(writer, archive, pod, plan) for number, plan in plans.items()}


def _written(writer: StoreWriter, archive: Archive, pod: ArchivePOD, plan: DirectVariable) -> float:
    variable, masked = archive.variables[plan.number], pod.masked[plan.number]
    offset, dtype = float(pod.averages[plan.number]), pod.budget.basis
    shape = (variable.shape[variable.time_axis], *variable.space_shape)
    values = _lazy(archive, pod, plan.number)
    step = _settled(archive, pod, plan)
    for _ in range(MOST_STEPS):
        writer.create_values(
            variable.name,
            (archive.time.dim, *variable.space_dims),
            shape,
            value_tile(shape),
            step,
            offset,
            dtype,
            masked,
        )
        lost = _lost(values, write_values, step, dtype, writer.values, variable.name, masked)[0]
        error = float(lost**0.5)
        if error <= plan.allowed:
            return error + float(pod.apart[plan.number] + pod.dropped[plan.number])
        step *= AIM_UNSEEN * plan.allowed / error
    raise AccuracyError(f"variable {variable.name!r}: no quantisation step keeps the tolerance")


def _settled(archive: Archive, pod: ArchivePOD, plan: DirectVariable) -> float:
    """Largest step that should be enough, from whole tiles: all of them, if there are few."""
    sample = _lazy(archive, pod, plan.number, most=SAMPLED)
    variable = archive.variables[plan.number]
    shape = (variable.shape[variable.time_axis], *variable.space_shape)
    seen_all = len(sample.tiles) == np.prod(grid(shape, value_tile(shape)), dtype=np.int64)
    aim = AIM if seen_all else AIM_UNSEEN
    step, best = plan.step, 0.0
    for _ in range(MOST_STEPS):
        lost, counted = _lost(sample, value_loss, step, pod.budget.basis)
        share = float((lost / counted * pod.counted[plan.number]) ** 0.5) / plan.allowed
        if share <= aim:
            best = max(best, step)
            if share >= aim - CLOSE:
                break
        step *= float(np.clip((aim - CLOSE / 4) / max(share, 1e-9), 0.25, 4.0))
    return best or step


def _lazy(archive: Archive, pod: ArchivePOD, number: int, **limits: int) -> LazyValues:
    return lazy_values(
        pod.plan,
        pod.blocks,
        pod.series,
        number,
        archive.variables[number],
        float(pod.averages[number]),
        **limits,
    )


def _lost(values: LazyValues, function: Any, *args: Any) -> Matrix:
    """Squared error of all tiles together, and how much of them counts."""
    total: Matrix
    (total,) = dask.compute(summed(values.map(function, *args)))
    return total

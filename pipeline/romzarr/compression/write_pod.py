"""What a POD holds, put into a store: modes, values where these are smaller, or both."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from romzarr.archive import Archive
from romzarr.chunked.latent import LatentRecord
from romzarr.chunked.values import ValuesCoding, values_tile
from romzarr.coding.tiles import usual_snapshots
from romzarr.compression.allocate_bits import CodedFields, allocate_fields
from romzarr.compression.choose_coding import Choice, choose_coding
from romzarr.compression.direct import DirectVariable, write_direct
from romzarr.compression.model import LatentModel, identify
from romzarr.compression.pod import ArchivePOD
from romzarr.compression.values import ValuesPlan, WrittenValues, write_values
from romzarr.compression.write_store import Codings, codings_of, facts, write_fields, write_record
from romzarr.config import Config
from romzarr.contracts import ReadCost
from romzarr.errors import AccuracyError
from romzarr.progress import step
from romzarr.store.reading.draft import Draft
from romzarr.store.writing.writer import StoreWriter

# Significant digits of squared fluctuations: errors, which are relative to them, have fewer.
TOTAL_DIGITS = 10


@dataclass(frozen=True)
class Result:
    """What was put into a store, and what reading the archive for it cost; in ``gaps`` words on
    those of variables that have any."""

    facts: Mapping[str, Any]
    codings: Codings
    model: LatentModel | None
    cost: ReadCost
    gaps: Mapping[str, str] = field(default_factory=dict)


def write_factored(
    writer: StoreWriter, archive: Archive, pod: ArchivePOD, config: Config, tolerance: float
) -> Result:
    """Put what a POD holds into the store, within the bound. Runs Dask.

    What is coded as values is read once more where the archive is readable: a POD has cut a
    little of it, which would count as error. Nothing else is read.
    """
    with step("allocate"):
        chosen = choose_coding(archive, pod, tolerance)
        coded = allocate_fields(archive, chosen.plan)
    with step("model"):
        model = _model(archive, coded, config)
    codings, names = codings_of(coded), [variable.name for variable in archive.variables]
    rough = chosen.episodes.rough if chosen.episodes else None
    with step("write"):
        write_fields(writer, archive, coded)
        write_record(writer, archive, model.stored if model else None)
        if pod.readable:
            asked = dict.fromkeys(names, tolerance)
            said = facts(archive, codings, model, asked, config, rough)
            found = _from_chunks(writer, archive, pod, chosen, config, said)
        else:
            found = _Values(write_direct(writer, archive, pod, chosen.direct), {}, ReadCost())
        errors = _relative_errors(coded, model, found.lost, _in_episodes(writer, archive, chosen))
        errors |= found.exact
        check_bound(errors, pod.earlier.bound(config.compression.tolerance))
    squares = zip(pod.norms, pod.fluctuations**2, strict=True)
    totals = {norm.name: float(f"{square:.{TOTAL_DIGITS}g}") for norm, square in squares}
    said = facts(archive, codings, model, errors, config, rough)
    return Result({**said, "fluctuation": totals}, codings, model, pod.cost + found.cost)


def _model(archive: Archive, coded: CodedFields, config: Config) -> LatentModel | None:
    """Model and coefficients (None where no variable is coded by POD)."""
    if coded.rank == 0:
        return None
    times = archive.time.compact
    return identify(
        LatentRecord.of(coded.a, times, coded.plan.pod.right),
        times,
        coded.tolerances,
        config,
        step=coded.step,
        coded_bytes=coded.plan.bits / 8,
        left_out=coded.plan.pod.rough,
    )


# --- values -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Values:
    """Errors of variables coded as values: the norms of what is ``lost``, by number, to which
    rounding is added; ``exact`` relative ones, by name; and what reading cost."""

    lost: Mapping[int, float]
    exact: Mapping[str, float]
    cost: ReadCost


def _from_chunks(
    writer: StoreWriter,
    archive: Archive,
    pod: ArchivePOD,
    chosen: Choice,
    config: Config,
    said: Mapping[str, Any],
) -> _Values:
    """Code values from the chunks of the archive: all there is, or what the modes in the store
    leave, of which the facts are `said`."""
    tolerance, rests = config.compression.tolerance, dict[str, WrittenValues]()
    plans = [_planned(archive, pod, chosen, each, tolerance) for each in chosen.direct.values()]
    direct = write_values(writer, archive, plans)
    if chosen.hybrid:
        # What rounding of decoded modes may do on other machines is not measured here.
        bounds = pod.budget.tolerated / [norm.fluctuation or 1.0 for norm in pod.norms]
        draft, above = Draft(*writer.draft(said)), chosen.hybrid.above
        plans = [
            replace(_planned(archive, above, chosen, each, float(bounds[v])), draft=draft)
            for v, each in chosen.hybrid.rests.items()
        ]
        rests = write_values(writer, archive, plans)
    numbers = {variable.name: number for number, variable in enumerate(archive.variables)}
    return _Values(
        {numbers[name]: each.error * each.fluctuation**0.5 for name, each in rests.items()},
        {name: each.error for name, each in direct.items()},
        sum((each.cost for each in (*direct.values(), *rests.values())), ReadCost()),
    )


def _planned(
    archive: Archive, pod: ArchivePOD, chosen: Choice, plan: DirectVariable, tolerance: float
) -> ValuesPlan:
    """How to code a variable from its chunks, of which the `pod` has what is to be coded."""
    number = plan.number
    variable, home = archive.variables[number], pod.masks[number]
    snapshots, points = pod.snapshots, math.prod(variable.space_shape)
    fluctuation, counted = pod.norms[number].fluctuation, float(pod.counted[number])
    # Less than is allowed is made where single values have a bound.
    share = min(plan.allowed / float(pod.room[number]), 1.0)
    return ValuesPlan(
        number=number,
        tile=values_tile(variable, usual_snapshots(points)),
        coding=ValuesCoding(plan.step, float(pod.averages[number]), pod.budget.basis),
        tolerance=share * tolerance,
        power=plan.power,
        surveyed=snapshots,
        variance=fluctuation**2 / counted,
        known=snapshots,
        masked_as=archive.variables[home].name if home in chosen.plan.live else None,
    )


def _in_episodes(writer: StoreWriter, archive: Archive, chosen: Choice) -> dict[int, float]:
    """Code the episodes, if there are any; the norm of the error of each variable there."""
    if chosen.episodes is None:
        return {}
    pod, plans = chosen.episodes.pod, chosen.episodes.variables
    return write_direct(writer, archive, pod, plans, episodes=True)


# --- errors -------------------------------------------------------------------------------


def _relative_errors(
    coded: CodedFields,
    model: LatentModel | None,
    lost: Mapping[int, float],
    in_episodes: Mapping[int, float],
) -> dict[str, float]:
    """Bound on the error of every variable.

    Made of what the cuts dropped and of what the decoded fields and coefficients miss, all
    known (`Tolerances`), or of what is `lost` of variables coded without POD, always or in
    episodes; and of bounds on rounding.
    """
    pod, live, missed = coded.plan.pod, coded.plan.live, np.zeros(len(coded.steps))
    if model is not None:
        missed[live] = pod.apart[live] + model.stored.errors
    missed[list(lost)] = list(lost.values())
    for number, error in in_episodes.items():
        missed[number] = np.hypot(missed[number], error)
    return {
        norm.name: float(
            np.hypot(pod.budget.with_rounding(norm, float(error)), before**0.5) / (total or 1)
        )
        for norm, error, before, total in zip(
            pod.norms, missed, pod.earlier.lost, pod.fluctuations, strict=True
        )
    }


def check_bound(errors: Mapping[str, float], tolerance: float) -> None:
    """Refuse what is not within the bound.

    Raises
    ------
    AccuracyError
    """
    for name, error in errors.items():
        if not error <= tolerance:
            raise AccuracyError(
                f"variable {name!r}: error {error:.3e} is above the tolerance {tolerance:g}; "
                f"nothing was stored. Please report this: it should not happen"
            )

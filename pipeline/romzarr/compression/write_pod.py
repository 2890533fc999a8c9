"""What a POD holds, put into a store: modes, values where these are smaller, or both."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from romzarr.archive import Archive
from romzarr.chunked.blocks import Lengths
from romzarr.chunked.error_blocks import squares_in_time
from romzarr.chunked.latent import LatentRecord
from romzarr.chunked.tables import LeftOut, Table
from romzarr.chunked.values import ValuesCoding, values_tile
from romzarr.coding.tiles import even_length, usual_snapshots
from romzarr.compression.allocate_bits import CodedFields, allocate_fields
from romzarr.compression.block_errors import time_grid, with_block_errors
from romzarr.compression.choose_coding import Choice, choose_coding
from romzarr.compression.direct import DirectVariable, write_direct
from romzarr.compression.model import LatentModel, identify
from romzarr.compression.pod import ArchivePOD
from romzarr.compression.values import HELD_BYTES, ValuesPlan, WrittenValues, write_values
from romzarr.compression.write_store import (
    Codings,
    codings_of,
    facts,
    rounded_down,
    write_fields,
    write_record,
)
from romzarr.config import Config
from romzarr.contracts import ArchivedVariable, Matrix, ReadCost
from romzarr.errors import AccuracyError
from romzarr.numerics.error_blocks import BlockErrors, ErrorGrid
from romzarr.progress import step
from romzarr.store.reading.draft import Draft
from romzarr.store.writing.writer import StoreWriter


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
            found = _from_pod(writer, archive, pod, chosen)
        missed = _missed(coded, model, found.lost)
        in_episodes = _in_episodes(writer, archive, chosen)
        errors = _relative_errors(coded.plan.pod, missed, in_episodes)
        errors |= found.exact
        check_bound(errors, pod.earlier.bound(config.compression.tolerance))
        blocks = dict(found.blocks)
        if model is not None and not coded.plan.hybrid:
            blocks |= _pod_blocks(archive, coded, model.stored.missed, missed, in_episodes)
    tolerance = config.compression.tolerance
    squares = {n.name: s for n, s in zip(pod.norms, (pod.fluctuations**2).tolist(), strict=True)}
    totals = {n: rounded_down(s, errors.get(n, 0.0), tolerance) for n, s in squares.items()}
    # Relative to what is recorded.
    errors |= {n: e * (squares[n] / totals[n]) ** 0.5 for n, e in errors.items() if totals.get(n)}
    said = {**facts(archive, codings, model, errors, config, rough), "fluctuation": totals}
    return Result(with_block_errors(said, blocks), codings, model, pod.cost + found.cost)


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
    rounding is added; ``exact`` relative ones, and those of ``blocks``, by name; and what reading
    cost."""

    lost: Mapping[int, float]
    exact: Mapping[str, float]
    blocks: Mapping[str, BlockErrors]
    cost: ReadCost


def _from_pod(writer: StoreWriter, archive: Archive, pod: ArchivePOD, chosen: Choice) -> _Values:
    """Code values as the POD has them."""
    found = write_direct(writer, archive, pod, chosen.direct)
    lost = {number: each.whole for number, each in found.items()}
    blocks = {
        archive.variables[number].name: _rounded(pod, number, lost[number], each)
        for number, each in found.items()
    }
    return _Values(lost, {}, blocks, ReadCost())


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
    lost = {numbers[name]: each.error * each.fluctuation**0.5 for name, each in rests.items()}
    of_rests = {
        name: _rounded(pod, numbers[name], lost[numbers[name]], each.blocks)
        for name, each in rests.items()
    }
    return _Values(
        lost,
        {name: each.error for name, each in direct.items()},
        of_rests | {name: each.blocks for name, each in direct.items()},
        sum((each.cost for each in (*direct.values(), *rests.values())), ReadCost()),
    )


def _planned(
    archive: Archive, pod: ArchivePOD, chosen: Choice, plan: DirectVariable, tolerance: float
) -> ValuesPlan:
    """How to code a variable from its chunks, of which the `pod` has what is to be coded."""
    number = plan.number
    variable, home = archive.variables[number], pod.masks[number]
    snapshots = pod.snapshots
    fluctuation, counted = pod.norms[number].fluctuation, float(pod.counted[number])
    # Less than is allowed is made where single values have a bound.
    share = min(plan.allowed / float(pod.room[number]), 1.0)
    return ValuesPlan(
        number=number,
        tile=_tile(variable, snapshots),
        coding=ValuesCoding(plan.step, float(pod.averages[number]), pod.budget.basis),
        tolerance=share * tolerance,
        power=plan.power,
        surveyed=snapshots,
        variance=fluctuation**2 / counted,
        known=snapshots,
        masked_as=archive.variables[home].name if home in chosen.plan.live else None,
    )


def _tile(variable: ArchivedVariable, snapshots: int) -> Lengths:
    """Shape of the tiles of a variable, in its order of dims."""
    usual, axis = usual_snapshots(math.prod(variable.longest_space)), variable.time_axis
    tile = list(values_tile(variable, usual))
    if variable.nbytes <= HELD_BYTES:
        # All of it is held at once: chunks in time need not fit, and what sticks out takes bytes.
        tile[axis] = min(variable.longest[axis], even_length(snapshots, usual))
    return tuple(tile)


def _in_episodes(writer: StoreWriter, archive: Archive, chosen: Choice) -> dict[int, BlockErrors]:
    """Code the episodes, if there are any; the errors of each variable at their snapshots."""
    if chosen.episodes is None:
        return {}
    pod, plans = chosen.episodes.pod, chosen.episodes.variables
    return write_direct(writer, archive, pod, plans, episodes=True)


# --- errors -------------------------------------------------------------------------------


def _missed(coded: CodedFields, model: LatentModel | None, lost: Mapping[int, float]) -> Matrix:
    """The norm of the error (V,) of every variable, without rounding and without episodes.

    Made of what the cuts dropped and of what the decoded fields and coefficients miss, all
    known (`Tolerances`), or of what is `lost` of variables that are coded as values.
    """
    live, missed = coded.plan.live, np.zeros(len(coded.steps))
    if model is not None:
        missed[live] = coded.plan.pod.apart[live] + model.stored.errors
    missed[list(lost)] = list(lost.values())
    return missed


def _relative_errors(
    pod: ArchivePOD, missed: Matrix, in_episodes: Mapping[int, BlockErrors]
) -> dict[str, float]:
    """Bound on the error of every variable, of what is `missed` (V,), always or `in_episodes`, and
    of bounds on rounding."""
    missed = missed.copy()
    for number, error in in_episodes.items():
        missed[number] = np.hypot(missed[number], error.whole)
    return {
        norm.name: float(
            np.hypot(pod.budget.with_rounding(norm, float(error)), before**0.5) / (total or 1)
        )
        for norm, error, before, total in zip(
            pod.norms, missed, pod.earlier.lost, pod.fluctuations, strict=True
        )
    }


def _pod_blocks(
    archive: Archive,
    coded: CodedFields,
    latent: Table,
    missed: Matrix,
    in_episodes: Mapping[int, BlockErrors],
) -> dict[str, BlockErrors]:
    """Errors by block of time of the variables that have nothing but modes. Runs Dask.

    Decoding misses `latent` (m, r) of the coefficients, and `missed` (V,) in all of the variables.
    Nobody knows where in time lies what the tree has cut, nor, here, the error of episodes.
    """
    pod, live = coded.plan.pod, coded.plan.live
    grids = [time_grid(archive.variables[v]) for v in live]
    products = [coded.products[v] for v in live]
    sigma = pod.sigma[: coded.rank]
    found = squares_in_time(pod.right, latent, sigma, products, grids, pod.rough)
    blocks = dict[str, BlockErrors]()
    for v, squares, grid in zip(live, found, grids, strict=True):
        error, anywhere = float(missed[v]), float(pod.apart[v] + pod.dropped[v])
        if v in in_episodes and pod.rough is not None:
            episodes = in_episodes[v]
            squares = squares + _by_time(episodes.squares, pod.rough, grid)
            error, anywhere = np.hypot(error, episodes.whole), np.hypot(anywhere, episodes.anywhere)
        each = BlockErrors(squares, float(anywhere))
        blocks[archive.variables[v].name] = _rounded(pod, v, float(error), each)
    return blocks


def _by_time(squares: Matrix, rough: LeftOut, grid: ErrorGrid) -> Matrix:
    """Squared errors of single snapshots of episodes, by block of time of the record."""
    numbers = np.concatenate([np.arange(span.start, span.stop) for span in rough.spans])
    found = np.zeros(grid.counts)
    np.add.at(found.reshape(-1), numbers // grid.lengths[0], squares.ravel())
    return found


def _rounded(pod: ArchivePOD, number: int, missed: float, blocks: BlockErrors) -> BlockErrors:
    """The errors of all blocks with those of rounding, which may be anywhere."""
    factor, rounded = pod.budget.rounding(pod.norms[number], missed)
    return BlockErrors(factor**2 * blocks.squares, factor * blocks.anywhere + rounded)


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

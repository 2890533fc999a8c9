"""Which variables are coded by POD, and which as they are, always or at some times: the fewer
bytes decide.

Bits that rates foretell are compared first, which costs next to nothing. Only where they do
not differ widely are parts of the fields and of the values coded on trial: a range coder makes
more of what is smooth in space and time than of modes, and more than rates know. The few
kilobytes that the model takes up are not counted: equations are worth them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import dask
import numpy as np
from dask.delayed import delayed
from numpy.typing import NDArray

from pipeline.allocate import FieldsPlan, plan_fields
from pipeline.archive import Archive
from pipeline.chunked.fields import Sample, lazy_fields, summed, tile_bits
from pipeline.direct import DirectVariable, coded_on_trial, plan_direct
from pipeline.factor import ArchivePOD
from pipeline.numerics.factors import Mask
from pipeline.numerics.roughness import rough_snapshots

Matrix = NDArray[np.float64]

log = logging.getLogger(__name__)

# Rates that differ by more than this are not looked into further.
CLEAR = 3.0
# Tiles of fields coded on trial, and values of them together.
TILES, VALUES = 2, 1 << 20
# Gram matrices cannot tell what some of the variables alone need at the tightest tolerances.
TIGHTEST = 1e-5


# Share of the squared error that either part of a record gets at least, where some snapshots
# are coded in another way than the others.
LEAST_PART = 0.02


@dataclass(frozen=True)
class Episodes:
    """Snapshots at which the variables of POD are coded without it.

    ``rough`` (m,) marks them, ``pod`` has the modes of all snapshots at these alone, and
    ``variables`` says how they are coded there.
    """

    rough: Mask
    pod: ArchivePOD
    variables: dict[int, DirectVariable]


@dataclass(frozen=True)
class Choice:
    """How the variables of an archive are coded.

    ``plan`` is of the variables coded by POD, but for ``episodes``; ``direct`` of those that
    are not.
    """

    plan: FieldsPlan
    direct: dict[int, DirectVariable]
    episodes: Episodes | None = None


def choose_coding(archive: Archive, pod: ArchivePOD, tolerance: float) -> Choice:
    """Fields of the variables that POD makes small, and the plans of all others. Runs Dask.

    Compared are the bits of all variables with POD, of all without, and of ways in between:
    what saves most without POD is left out of it first, and the modes of the others, which
    have to hold less then, are looked at anew. Where some snapshots have little in common with
    all others, it is looked into whether POD should do without these.
    """
    plan, direct = plan_fields(archive, pod), plan_direct(archive, pod)
    if not _is_open(plan, direct):
        return Choice(plan, {})
    direct, ratios = coded_on_trial(archive, pod, direct), _coded_ratios(archive, plan)
    choices = {frozenset[int](): plan}
    while tolerance >= TIGHTEST and (more := _dearer(plan, direct, ratios)):
        without = frozenset(direct) - frozenset(plan.live) | more
        choices[without] = plan = plan_fields(archive, pod, without)
    if set(direct) == set(choices[frozenset()].live):
        choices[frozenset(direct)] = plan_fields(archive, pod, frozenset(direct))
    costs = {
        without: _pod_bits(fields, ratios) + sum(direct[v].bits for v in without)
        for without, fields in choices.items()
    }
    log.info("bits expected, by the variables without POD: %s", costs)
    best = min(costs, key=lambda without: costs[without])
    chosen = Choice(choices[best], {v: direct[v] for v in sorted(best)})
    # Gram matrices cannot tell what some of the snapshots alone need at the tightest tolerances.
    if tolerance < TIGHTEST:
        return chosen
    without = frozenset[int]() if best >= frozenset(direct) else best
    found = _with_episodes(archive, pod, without)
    if found is None or found[2] + sum(direct[v].bits for v in without) >= costs[best]:
        return chosen
    plan, episodes, _ = found
    log.info("%d snapshots are coded without POD", len(episodes.pod.right))
    return Choice(plan, {v: direct[v] for v in sorted(without)}, episodes)


def _with_episodes(
    archive: Archive, pod: ArchivePOD, without: frozenset[int]
) -> tuple[FieldsPlan, Episodes, float] | None:
    """All variables but some with rough snapshots coded without POD, and the bits of all that.

    None if there are no such snapshots, or no way to code them. The error is shared out by the
    bits that either part takes with half of it, which makes both together about fewest.
    """
    alone = pod.without(without) if without else pod
    values, vectors = np.linalg.eigh(alone.joint)
    a = alone.right[:, : alone.modes] @ (vectors * np.sqrt(np.maximum(values, 0.0)))
    rough = rough_snapshots(a, float(alone.scales @ alone.budget.allowed**2))
    if rough is None:
        return None
    share = 0.5
    for _ in range(2):
        quiet, during = pod.apart_from(rough, 1 - share), pod.during(rough, share)
        if not quiet.modes:
            return None
        plan = plan_fields(archive, quiet, without)
        planned = plan_direct(archive, during)
        planned = {v: each for v, each in planned.items() if v not in without}
        if plan.chosen is None or set(planned) != set(plan.live):
            return None
        variables = coded_on_trial(archive, during, planned)
        bits = sum(each.bits for each in variables.values())
        share = float(np.clip(bits / (bits + plan.bits), LEAST_PART, 1 - LEAST_PART))
    bits += _pod_bits(plan, _coded_ratios(archive, plan))
    return plan, Episodes(rough, during, variables), bits


def _dearer(
    plan: FieldsPlan, direct: Mapping[int, DirectVariable], ratios: Matrix
) -> frozenset[int]:
    """Variables that cost more than they would without POD: those that save most."""
    bits = ratios * plan.field_bits + plan.shared_bits
    saved = {v: bits[v] - direct[v].bits for v in plan.live if v in direct}
    most = max(saved.values(), default=0.0)
    return frozenset(v for v, saving in saved.items() if saving > 0 and saving >= most / 2)


def _is_open(plan: FieldsPlan, direct: Mapping[int, DirectVariable]) -> bool:
    """Whether some way without POD may be smaller."""
    bits = plan.field_bits + plan.shared_bits
    singly = any(each.bits < CLEAR * bits[v] for v, each in direct.items())
    together = sum(each.bits for each in direct.values())
    return bool(direct) and (singly or together < CLEAR * plan.bits)


def _pod_bits(plan: FieldsPlan, ratios: Matrix) -> float:
    """Bits of fields, which cost so many times what rates say, and of coefficients."""
    return plan.bits + float((ratios - 1) @ plan.field_bits)


def _coded_ratios(archive: Archive, plan: FieldsPlan) -> Matrix:
    """Bits of the fields of each variable (V,) as coded, by those that rates foretell."""
    ratios = np.ones(len(plan.fields))
    if plan.chosen is None:
        return ratios
    pod, rank = plan.pod, plan.chosen.rank
    turn, sample = delayed(pod.turn[:, :rank]), Sample(TILES, VALUES // TILES // (rank + 1))
    found = dask.compute(
        *(
            summed(
                lazy_fields(
                    pod.plan, pod.blocks, v, archive.variables[v], plan.tiles[v], sample
                ).map(tile_bits, turn, pod.norms[v].fluctuation, place)
            )
            for v, place in zip(plan.live, plan.chosen.fields, strict=True)
        )
    )
    for v, (foretold, coded) in zip(plan.live, found, strict=True):
        ratios[v] = coded / foretold if foretold > 0 else 1.0
    return ratios

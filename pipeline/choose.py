"""Which variables are coded by POD, and which as they are: the fewer bytes decide.

Bits that rates foretell are compared first, which costs next to nothing. Only where they do
not differ widely are parts of the fields and of the values coded on trial: a range coder makes
more of what is smooth in space and time than of modes, and more than rates know. The few
kilobytes that the model takes up are not counted: equations are worth them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import dask
import numpy as np
from dask.delayed import delayed
from numpy.typing import NDArray

from pipeline.allocate import FieldsPlan, plan_fields
from pipeline.archive import Archive
from pipeline.chunked.fields import Sample, lazy_fields, summed, tile_bits
from pipeline.direct import DirectVariable, coded_on_trial, plan_direct
from pipeline.factor import ArchivePOD

Matrix = NDArray[np.float64]

log = logging.getLogger(__name__)

# Rates that differ by more than this are not looked into further.
CLEAR = 3.0
# Tiles of fields coded on trial, and values of them together.
TILES, VALUES = 2, 1 << 20
# Gram matrices cannot tell what some of the variables alone need at the tightest tolerances.
TIGHTEST = 1e-5


def choose_coding(
    archive: Archive, pod: ArchivePOD, tolerance: float
) -> tuple[FieldsPlan, dict[int, DirectVariable]]:
    """Fields of the variables that POD makes small, and the plans of all others. Runs Dask.

    Compared are the bits of all variables with POD, of all without, and of ways in between:
    what saves most without POD is left out of it first, and the modes of the others, which
    have to hold less then, are looked at anew.
    """
    plan, direct = plan_fields(archive, pod), plan_direct(archive, pod)
    if not _is_open(plan, direct):
        return plan, {}
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
    return choices[best], {v: direct[v] for v in sorted(best)}


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

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

    Compared are the bits of all variables with POD, of all without, and of those alone
    without that cost less than their fields do.
    """
    plan, direct = plan_fields(archive, pod), plan_direct(archive, pod)
    if not _is_open(plan, direct):
        return plan, {}
    direct = coded_on_trial(archive, pod, direct)
    ratios = _coded_ratios(archive, plan)
    choices = [(plan, frozenset[int]())]
    cheaper = frozenset(v for v in direct if direct[v].bits < ratios[v] * plan.field_bits[v])
    if cheaper and len(cheaper) < len(plan.live) and tolerance >= TIGHTEST:
        choices.append((plan_fields(archive, pod, cheaper), cheaper))
    if len(direct) == len(plan.live):
        choices.append((plan_fields(archive, pod, frozenset(direct)), frozenset(direct)))
    costs = [
        _pod_bits(fields, ratios) + sum(direct[v].bits for v in without)
        for fields, without in choices
    ]
    fields, without = choices[int(np.argmin(costs))]
    log.info(
        "bits expected, by variables without POD: %s",
        {tuple(c[1]): cost for c, cost in zip(choices, costs, strict=True)},
    )
    return fields, {v: direct[v] for v in sorted(without)}


def _is_open(plan: FieldsPlan, direct: Mapping[int, DirectVariable]) -> bool:
    """Whether some way without POD may be smaller."""
    singly = any(each.bits < CLEAR * plan.field_bits[v] for v, each in direct.items())
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

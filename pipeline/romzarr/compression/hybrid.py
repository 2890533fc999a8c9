"""Few leading modes, and values of what they leave.

Seasons, days and tides are few modes of much energy that ride on weather, which no basis makes
shorter. Modes of the whole record see the former, wavelets of what is left the latter. What modes
lose by their coding is left too, so nothing more than values need be within the bound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from romzarr.archive import Archive
from romzarr.chunked.fields import Sample
from romzarr.compression.allocate_bits import FEW_POINTS, FieldsPlan, plan_hybrid
from romzarr.compression.direct import LOOK, DirectVariable, plan_direct
from romzarr.compression.pod import ArchivePOD

# Modes are looked for where these numbers of them, no more than such a part of those of POD alone,
# save bits at a glance, and bring them near to those of POD: rates make values dearer than they
# are, and modes not.
PROBED, FEWER, SAVING, NEAR = (2, 8), 4, 0.98, 1.2
GLANCE = Sample(4, 1 << 15)
# Then they are tried by doubling their number, until that has cost bits so many times in a row.
MOST_FAILURES = 2


@dataclass(frozen=True)
class Hybrid:
    """Leading modes as planned, and how the rest of each of their variables is coded.

    ``direct`` are plans of the variables that have no modes, ``above`` the modes of the rest.
    """

    plan: FieldsPlan
    above: ArchivePOD
    rests: Mapping[int, DirectVariable]
    direct: Mapping[int, DirectVariable]

    @property
    def bits(self) -> float:
        """Bits that rates foretell."""
        plans = (*self.rests.values(), *self.direct.values())
        return self.plan.bits + sum(each.bits for each in plans)


def plan_leading(
    archive: Archive,
    pod: ArchivePOD,
    direct: Mapping[int, DirectVariable],
    pod_bits: float,
    rank: int,
) -> Hybrid | None:
    """The best number of leading modes, if values of what they leave take fewer bits than values
    of everything, and perhaps than POD. Runs Dask.

    Parameters
    ----------
    archive : Archive
    pod : ArchivePOD
    direct : mapping of int to DirectVariable
        The plans of all variables as values, from rates alone.
    pod_bits : float
        What POD alone should take, with modes of this ``rank``.
    rank : int
    """
    points = [math.prod(variable.space_shape) for variable in archive.variables]
    best, least = None, sum(each.bits for each in direct.values())
    known = {v: each for v, each in direct.items() if points[v] > FEW_POINTS}
    # Of what no step of values is enough for, the modes of POD alone know enough.
    varying = {number for number, norm in enumerate(pod.norms) if norm.fluctuation > 0}
    if varying - set(direct) or not _seems_near(archive, pod, known, pod_bits, rank):
        return None
    failures, rank = 0, 1
    while failures < MOST_FAILURES and rank < pod.modes:
        found = _with_leading(archive, pod, direct, known, rank)
        if found is not None and found.bits < least:
            best, least, failures = found, found.bits, 0
            # Variables that gain nothing from few modes would gain less from more.
            known = dict(found.rests)
        else:
            failures += 1
        rank *= 2
    return best


def _seems_near(
    archive: Archive, pod: ArchivePOD, known: Mapping[int, DirectVariable], bits: float, rank: int
) -> bool:
    """Whether few modes of the `known` variables save `bits` of a POD, at a glance."""
    numbers = [number for number in PROBED if FEWER * number <= rank]
    if not numbers or not known:
        return False
    seen = {v: each for v, each in plan_direct(archive, pod, GLANCE).items() if v in known}
    limit = min(SAVING * sum(each.bits for each in seen.values()), NEAR * bits)
    for number in numbers:
        found = _tried(archive, pod, seen, number, GLANCE)
        if found and sum(min(found.costs[v], each.bits) for v, each in seen.items()) < limit:
            return True
    return False


@dataclass(frozen=True)
class _Tried:
    """Leading modes of some variables, with what they cost of each, values of the rest included."""

    plan: FieldsPlan
    above: ArchivePOD
    rests: dict[int, DirectVariable]
    costs: dict[int, float]


def _tried(
    archive: Archive,
    pod: ArchivePOD,
    known: Mapping[int, DirectVariable],
    rank: int,
    look: Sample,
) -> _Tried | None:
    """So many modes of some variables, with steps as they are known; None if there are fewer."""
    others = frozenset(range(len(archive.variables))) - frozenset(known)
    own = pod.without(others) if others else pod
    if rank >= own.modes:
        return None
    below, above = own.split(rank)
    plan = plan_hybrid(archive, below, {v: each.step for v, each in known.items()})
    above = _left(above, plan)
    rests = {v: each for v, each in plan_direct(archive, above, look).items() if v in known}
    of_modes = plan.field_bits + plan.shared_bits
    costs = dict.fromkeys(known, math.inf) | {
        v: float(of_modes[v]) + each.bits for v, each in rests.items()
    }
    return _Tried(plan, above, rests, costs)


def _with_leading(
    archive: Archive,
    pod: ArchivePOD,
    direct: Mapping[int, DirectVariable],
    known: Mapping[int, DirectVariable],
    rank: int,
) -> Hybrid | None:
    """So many modes of those variables that they save bits; None if they save none.

    Those are among the `known` ones, whose steps should be about right.
    """
    while known and (found := _tried(archive, pod, known, rank, LOOK)):
        saving = {v: p for v, p in found.rests.items() if found.costs[v] < direct[v].bits}
        if len(saving) == len(known):
            rest = {v: each for v, each in direct.items() if v not in known}
            return Hybrid(found.plan, found.above, found.rests, rest)
        known = saving
    return None


def _left(above: ArchivePOD, plan: FieldsPlan) -> ArchivePOD:
    """The modes above with what those below leave of the error."""
    left = np.maximum(above.budget.tolerated**2 - plan.lost, 0.0) ** 0.5
    return replace(above, budget=replace(above.budget, tolerated=left))

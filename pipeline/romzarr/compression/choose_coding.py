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
from dataclasses import dataclass, replace

import dask
import numpy as np
from dask.delayed import delayed

from romzarr.archive import Archive
from romzarr.chunked.fields import Sample, lazy_fields, tile_bits
from romzarr.chunked.roughness import rough_stretches
from romzarr.chunked.shared_fields import shared_content
from romzarr.chunked.slices import sums
from romzarr.chunked.tables import LeftOut
from romzarr.coding.latent import CONTEXT_GAIN
from romzarr.coding.rates import step_of
from romzarr.compression.allocate_bits import FieldsPlan, plan_fields
from romzarr.compression.direct import DirectVariable, coded_on_trial, plan_direct
from romzarr.compression.hybrid import Hybrid, plan_leading
from romzarr.compression.pod import ArchivePOD
from romzarr.contracts import Matrix, Vector

log = logging.getLogger(__name__)

# Rates that differ by more than this are not looked into further.
CLEAR = 3.0
# Bytes of an array besides its content, and of coefficients and model where there are modes.
ARRAY_BYTES, MODEL_BYTES = 500, 2500
# Tiles coded on trial, and values of them together: few at first, and more of them only where the
# best two choices are within such a factor.
TILES, FEW, MANY = 2, 1 << 18, 1 << 20
NEAR = 1.3
# Gram matrices cannot tell what some of the variables alone need at the tightest tolerances.
TIGHTEST = 1e-5


# Share of the squared error that either part of a record gets at least, where some snapshots
# are coded in another way than the others.
LEAST_PART = 0.02


@dataclass(frozen=True)
class Episodes:
    """Snapshots at which the variables of POD are coded without it.

    ``rough`` are these, ``pod`` has the modes of all snapshots at these alone, and
    ``variables`` says how they are coded there.
    """

    rough: LeftOut
    pod: ArchivePOD
    variables: dict[int, DirectVariable]


@dataclass(frozen=True)
class Choice:
    """How the variables of an archive are coded.

    ``plan`` is of the variables coded by POD, but for ``episodes``; ``direct`` of those that
    are not. Of a ``hybrid`` few modes are planned, and values of what they leave.
    """

    plan: FieldsPlan
    direct: Mapping[int, DirectVariable]
    episodes: Episodes | None = None
    hybrid: Hybrid | None = None

    @property
    def summary(self) -> str:
        rank = self.plan.chosen.rank if self.plan.chosen else 0
        return f"{rank} modes and {len(self.values)} arrays of values"

    @property
    def values(self) -> list[tuple[int, DirectVariable]]:
        """All plans of values, with the numbers of their variables."""
        episodes = self.episodes.variables if self.episodes else {}
        rests = self.hybrid.rests if self.hybrid else {}
        return [*self.direct.items(), *rests.items(), *episodes.items()]


def choose_coding(archive: Archive, pod: ArchivePOD, tolerance: float) -> Choice:
    """Fields of the variables that POD makes small, and the plans of all others. Runs Dask.

    Those of a readable archive may have few modes and values of the rest.

    Compared are the bits of all variables with POD, of all without, and of ways in between:
    what saves most without POD is left out of it first, and the modes of the others, which
    have to hold less then, are looked at anew. Where some snapshots have little in common with
    all others, it is looked into whether POD should do without these.
    """
    plan, direct = plan_fields(archive, pod), plan_direct(archive, pod)
    chosen, planned = Choice(plan, {}), dict[int, DirectVariable]()
    if _is_open(plan, direct):
        chosen, planned = _by_variables(archive, pod, plan, direct, tolerance)
    # Gram matrices cannot tell what some of the snapshots alone need at the tightest tolerances.
    if tolerance < TIGHTEST:
        return chosen
    if pod.readable:
        chosen = _smaller(archive, chosen, _with_few_modes(archive, pod, plan, direct))
        if chosen.hybrid:
            return chosen
    without = frozenset(chosen.direct) if chosen.plan.live else frozenset[int]()
    rough = _rough(pod.without(without) if without else pod)
    if rough is None:
        return chosen
    others = {v: planned[v] for v in sorted(without)}
    return _smaller(archive, chosen, _with_episodes(archive, pod, rough, others))


def coded_bytes(archive: Archive, choice: Choice) -> Vector:
    """Bytes (V,) that the variables should take, without a model of the coefficients. Runs Dask."""
    plan, nbytes = choice.plan, np.zeros(len(archive.variables))
    if plan.chosen is not None and plan.live:
        fields = _coded_ratios(archive, plan) * plan.field_bits
        nbytes += (fields + CONTEXT_GAIN * plan.shared_bits) / 8
    for number, each in choice.values:
        nbytes[number] += each.bits / 8
    return nbytes


def _by_variables(
    archive: Archive,
    pod: ArchivePOD,
    plan: FieldsPlan,
    direct: Mapping[int, DirectVariable],
    tolerance: float,
) -> tuple[Choice, dict[int, DirectVariable]]:
    """The choice with fewest bits where variables are coded in one way at all times.

    And the plans of all variables without POD, with the bits that these take as coded.
    """
    plans = {frozenset[int](): plan}
    for values in (FEW, MANY):
        found, tried, costs = _compared(archive, pod, plans, direct, tolerance, values)
        if len(costs) == 1 or costs[1] > NEAR * costs[0]:
            break
    return found, tried


def _compared(
    archive: Archive,
    pod: ArchivePOD,
    plans: dict[frozenset[int], FieldsPlan],
    direct: Mapping[int, DirectVariable],
    tolerance: float,
    values: int,
) -> tuple[Choice, dict[int, DirectVariable], list[float]]:
    """The best choice, the plans of all variables without POD, and the bits of all choices, fewest
    first; so many `values` are coded on trial.

    Fields as they are `plans`, by the variables without POD, are looked up there, and added.
    """
    plan, choices = plans[frozenset()], dict[frozenset[int], FieldsPlan]()
    tried = coded_on_trial(archive, pod, direct, Sample(TILES, values))
    ratios = _coded_ratios(archive, plan, values)

    def planned(without: frozenset[int]) -> FieldsPlan:
        if without not in plans:
            plans[without] = plan_fields(archive, pod, without)
        choices[without] = plans[without]
        return plans[without]

    planned(frozenset())
    while tolerance >= TIGHTEST and (more := _dearer(plan, tried, ratios)):
        plan = planned(frozenset(tried) - frozenset(plan.live) | more)
    if set(tried) == set(choices[frozenset()].live):
        planned(frozenset(tried))
    costs = {
        without: _pod_bits(fields, ratios) + sum(tried[v].bits for v in without)
        for without, fields in choices.items()
    }
    log.debug("bits expected, by the variables without POD: %s", costs)
    best = min(costs, key=lambda without: costs[without])
    chosen = Choice(choices[best], {v: tried[v] for v in sorted(best)})
    return chosen, tried, sorted(costs.values())


def _rough(pod: ArchivePOD) -> LeftOut | None:
    """Snapshots that need modes of their own."""
    values, vectors = np.linalg.eigh(pod.joint)
    a = pod.in_axes(vectors * np.sqrt(np.maximum(values, 0.0)))
    return rough_stretches(a, float(pod.scales @ pod.budget.allowed**2))


def _with_episodes(
    archive: Archive, pod: ArchivePOD, rough: LeftOut, direct: dict[int, DirectVariable]
) -> Choice | None:
    """All variables but those `direct` with rough snapshots coded without POD.

    None if there is no way to do that. The error is shared out by the bits that either part
    takes with half of it, which makes both together about fewest.
    """
    share, without = 0.5, frozenset(direct)
    for _ in range(2):
        quiet, during = pod.apart_from(rough, 1 - share), pod.during(rough, share)
        if not quiet.modes:
            return None
        plan, planned = plan_fields(archive, quiet, without), plan_direct(archive, during)
        if plan.chosen is None or not set(plan.live) <= set(planned):
            return None
        of_live = {v: planned[v] for v in plan.live}
        tried = coded_on_trial(archive, during, of_live, Sample(TILES, MANY))
        bits = sum(each.bits for each in tried.values())
        share = float(np.clip(bits / (bits + plan.bits), LEAST_PART, 1 - LEAST_PART))
    return Choice(plan, direct, Episodes(rough, during, tried))


def _with_few_modes(
    archive: Archive, pod: ArchivePOD, plan: FieldsPlan, direct: Mapping[int, DirectVariable]
) -> Choice | None:
    """Few modes, and values of what they leave; None where that does not seem to pay."""
    rank = plan.chosen.rank if plan.chosen else pod.modes
    found = plan_leading(archive, pod, direct, plan.bits, rank)
    if found is None:
        return None
    sample = Sample(TILES, MANY)
    rests = coded_on_trial(archive, found.above, found.rests, sample)
    others = coded_on_trial(archive, pod, found.direct, sample)
    return Choice(found.plan, others, hybrid=replace(found, rests=rests, direct=others))


def _smaller(archive: Archive, one: Choice, other: Choice | None) -> Choice:
    """Whichever of two choices takes fewer bits."""
    if other is None:
        return one
    bits = [
        _pod_bits(each.plan, _coded_ratios(archive, each.plan))
        + sum(plan.bits for _, plan in each.values)
        + 8 * _metadata_bytes(each)
        for each in (one, other)
    ]
    log.debug("bits expected of %s, and %s: %s", one.summary, other.summary, bits)
    return other if bits[1] < bits[0] else one


def _metadata_bytes(choice: Choice) -> int:
    arrays = len(choice.plan.live) + len(choice.values)
    return ARRAY_BYTES * arrays + MODEL_BYTES * bool(choice.plan.live)


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


def _coded_ratios(archive: Archive, plan: FieldsPlan, values: int = MANY) -> Matrix:
    """Bits of the fields of each variable (V,) as coded, by those that rates foretell.

    So many `values` of each are coded.
    """
    ratios = np.ones(len(plan.fields))
    if plan.chosen is None:
        return ratios
    pod, rank = plan.pod, plan.chosen.rank
    turn, sample = delayed(pod.turn[:, :rank]), Sample(TILES, values // TILES // (rank + 1))
    places = dict(zip(plan.live, plan.chosen.fields, strict=True))
    found = sums(
        [
            lazy_fields(pod.held, v, archive.variables[v], plan.tiles[v], sample).map(
                tile_bits, turn, pod.norms[v].fluctuation, place
            )
            for v, place in places.items()
            if v not in plan.together
        ]
    )
    alone = (v for v in places if v not in plan.together)
    for v, (foretold, coded) in zip(alone, found, strict=True):
        ratios[v] = coded / foretold if foretold > 0 else 1.0
    if plan.in_one:
        together = list(plan.together)
        steps = [step_of(places[v], pod.norms[v].fluctuation) for v in together]
        (content,) = dask.compute(plan.in_one.task(shared_content, turn, steps))
        foretold = float(plan.field_bits[together].sum())
        ratios[together] = 8 * len(content) / foretold if foretold > 0 else 1.0
    return ratios

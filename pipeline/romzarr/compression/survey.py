"""What a small sample says before an archive is read: whether POD can pay, and what values cost.

Runs of snapshots from a few parts of the record say both. Coded as values, they say what values
cost. Their POD says what modes cost: from one, two and four of the runs, so that what more
snapshots add is seen. Where every run brings about as many new modes as the one before, the modes
of the whole record are as many as its snapshots, and cost more than they save.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from romzarr.archive import Archive
from romzarr.chunked.blocks import lazy_tiles, time_groups
from romzarr.chunked.slices import gathered
from romzarr.chunked.spots import spread
from romzarr.chunked.values import (
    Sampled,
    Sums,
    TakeSample,
    ValuesCoding,
    joined_samples,
    values_tile,
)
from romzarr.coding.bands import depth
from romzarr.coding.field import encode_field
from romzarr.coding.rates import FINENESS, Rates, allocate, position_within, rates, step_of
from romzarr.coding.tiles import field_levels, grid, value_levels
from romzarr.compression.values import AIM, SUMMANDS, ValuesPlan
from romzarr.contracts import ArchivedVariable, Matrix
from romzarr.errors import AccuracyError
from romzarr.numerics.budget import VariableNorms, split_budget

log = logging.getLogger(__name__)

# Archives below are factored as a whole, which is quick, and shows what a sample cannot.
LEAST_BYTES = 64 << 20
# Runs of snapshots, the length of one, and values of all together.
RUNS, RUN, VALUES = 4, 64, 1 << 22
# Blocks in time and parts of space looked at for the fluctuation: most of it is of the largest
# scales, of which few blocks say little. All of a small archive, a fiftieth of 20 GB.
BLOCKS, PARTS = 32, 4
# Steps tried are around this many times the root of the mean square error allowed.
UNIT = 2.0**12
# Modes are given up where they should take more than this many times the bits of values. A little
# less than 1: modes of which there are as many as snapshots take longer than they can save.
DEAR = 0.95
# Fluctuations with squares that float64 holds with room to spare.
SMALLEST, LARGEST = 1e-130, 1e130
# A sample knows norms within such a factor, at worst.
UNSURE = 4.0
# Squared errors grow with this power of the step at least: what is all zeros tells nothing.
LEAST_POWER = 0.5
# Rounding to the dtype of a variable beside the error allowed with which nothing else matters.
ROUNDING_SHARE = 0.05


@dataclass(frozen=True)
class Surveyed:
    """What a sample says of a variable.

    ``values_bits`` and ``pod_bits`` are what the whole record should take as values, and as modes
    with coefficients, of which it should have ``rank``. ``plan`` is how to code its values, None
    where only a POD can say more.
    """

    values_bits: float
    pod_bits: float
    rank: float
    plan: ValuesPlan | None

    @property
    def is_rough(self) -> bool:
        """Whether values are to be coded without a POD."""
        return self.plan is not None and self.pod_bits > DEAR * self.values_bits


def survey(archive: Archive, tolerance: float, numbers: Sequence[int]) -> dict[int, Surveyed]:
    """Look at samples of some variables. Runs Dask, reads a few chunks of each."""
    found = {}
    for number in numbers:
        sampled = _sample(archive.variables[number])
        if sampled is not None:
            found[number] = surveyed(archive, number, *sampled, tolerance)
            log.info("variable %r: %s", archive.variables[number].name, found[number])
    return found


def _sample(variable: ArchivedVariable) -> tuple[list[Matrix], Sums] | None:
    """Runs of snapshots, and moments; None if there is something that POD has to refuse."""
    tile, axis = values_tile(variable), variable.time_axis
    groups, _ = time_groups(variable, tile)
    counts = [n for a, n in enumerate(grid(variable.shape, tile)) if a != axis]
    cells = spread(math.prod(counts), PARTS)
    corners = [np.unravel_index(i, counts) if counts else () for i in cells]
    space = [tuple(map(int, corner)) for corner in corners]
    times = [groups[i][0] for i in spread(len(groups), BLOCKS)]
    places = [(*part[:axis], time, *part[axis:]) for time in times for part in space]
    looked_at = [times[i] for i in spread(len(times), RUNS)]
    middle = space[len(space) // 2]
    kept = frozenset((*middle[:axis], time, *middle[axis:]) for time in looked_at)
    count = -(-RUNS // len(kept))
    task = TakeSample(axis, variable.inner_product, kept, count, RUN, VALUES // len(kept))
    lazy = lazy_tiles(variable, tile, task, joined_samples, places)
    found: Sampled = gathered(lazy, joined_samples, SUMMANDS)
    runs = [run for index in sorted(found.runs) for run in found.runs[index]]
    total = found.sums.foretold(variable.shape[axis])
    if found.sums.defect or not SMALLEST < total < LARGEST or len(runs) < RUNS:
        return None
    return runs, found.sums


def surveyed(
    archive: Archive, number: int, runs: Sequence[Matrix], sums: Sums, tolerance: float
) -> Surveyed:
    """What runs of snapshots (m, *space) say, with the moments of more of them."""
    variable = archive.variables[number]
    snapshots = variable.shape[variable.time_axis]
    seen = sums.snapshots
    # Mean square of a value about its mean in time.
    variance = sums.foretold(snapshots) * seen / snapshots / sums.counted
    allowed = AIM * tolerance**2 * variance
    offset = float(np.float32(np.mean([run.mean() for run in runs])))
    unit = UNIT * allowed**0.5
    abouts = [run - offset for run in runs]
    found = [rates(run[None], (0, *value_levels(run.shape)), unit) for run in abouts]
    size = sum(run.size for run in runs)
    total = _added(found)
    place = position_within(total, allowed * size)
    step = step_of(place, unit)
    coded = sum(8 * len(encode_field(run, step, value_levels(run.shape))) for run in abouts)
    values_bits = coded * math.prod(variable.shape) / size
    pod_bits, rank = _pod_bits(abouts, allowed, variable)
    means = sum(float(part.moments.mean @ part.moments.mean) for part in sums.parts.values())
    basis = _basis(variable, (means * seen / sums.counted) ** 0.5, variance**0.5, tolerance)
    plan = None
    if basis is not None:
        coding = ValuesCoding(step, offset, basis)
        length = sum(len(run) for run in runs)
        power = _power(total, place)
        plan = ValuesPlan(number, values_tile(variable), coding, power, length, sums)
    return Surveyed(values_bits, pod_bits, rank, plan)


def _power(found: Rates, place: float) -> float:
    """The power of the step with which squared errors grow about this place."""
    about = [float(found.errors_at(max(place + by, 0)).sum()) for by in (-FINENESS, FINENESS)]
    return max(math.log2(about[1] / about[0]) / 2, LEAST_POWER) if about[0] > 0 else LEAST_POWER


def _added(several: Sequence[Rates]) -> Rates:
    return sum(several[1:], several[0])


def _pod_bits(
    runs: Sequence[Matrix], allowed: float, variable: ArchivedVariable
) -> tuple[float, float]:
    """Bits of the whole record as modes and coefficients, and its rank, by what runs add."""
    share = math.prod(variable.space_shape) / math.prod(runs[0].shape[1:])
    some, every = np.concatenate(runs[::2]), np.concatenate(runs)
    (few, fewer), (bits, rank) = (_modes(each, allowed, share) for each in (some, every))
    doublings = math.log2(len(every) / len(some))
    beyond = math.log2(max(1.0, variable.shape[variable.time_axis] / len(every))) / doublings

    def grown(before: float, now: float) -> float:
        # No faster than in proportion: beyond it is chance.
        return now * float(np.clip(now / max(before, 1e-300), 1.0, 2.0**doublings)) ** beyond

    return grown(few, bits), grown(fewer, rank)


def _modes(runs: Matrix, allowed: float, share: float) -> tuple[float, float]:
    """Bits of the POD of snapshots (m, *space), of which whole ones have so many times the
    points, and its rank; infinite where no rank is enough."""
    flat = runs.reshape(len(runs), -1)
    mean = flat.mean(axis=0)
    about = flat - mean
    energies, right = np.linalg.eigh(about @ about.T)
    energies, right = energies[::-1], right[:, ::-1]
    kept = int(np.count_nonzero(energies > np.finfo(float).eps * len(runs) * energies[0]))
    fields = np.concatenate([len(runs) ** 0.5 * mean[None], right[:, :kept].T @ about])
    space, unit = runs.shape[1:], energies[:kept].sum() ** 0.5
    if not kept or not allowed:
        return np.inf, np.inf
    of_fields = rates(fields.reshape(-1, *space), field_levels(space), unit)
    a = np.ascontiguousarray((right[:, :kept] * np.sqrt(energies[:kept])).T)
    of_coefficients = rates(a, (0, depth(len(runs))), 1.0)
    chosen = allocate(
        [of_fields],
        of_coefficients,
        np.ones((1, kept)),
        energies[None, :kept],
        np.array([allowed * flat.size]),
        np.zeros(1),
        0.0,
    )
    if chosen is None:
        return np.inf, np.inf
    leading = slice(0, chosen.rank + 1)
    bits = Rates(of_fields.errors[leading], of_fields.bits[leading]).bits_at(chosen.fields[0])
    return chosen.bits + (share - 1) * bits, float(chosen.rank)


def _basis(
    variable: ArchivedVariable, mean: float, deviation: float, tolerance: float
) -> np.dtype[Any] | None:
    """Arithmetic for values of this root mean square, which deviate so much from their means in
    time; None where rounding matters, of which POD knows more."""
    rounding = float(np.finfo(variable.dtype).eps) * float(np.hypot(mean, deviation))
    if rounding > ROUNDING_SHARE * tolerance * deviation:
        return None
    root = math.prod(variable.shape) ** 0.5
    norms = VariableNorms(
        variable.name, root * deviation / UNSURE, root * mean * UNSURE, variable.dtype, root**2
    )
    try:
        return split_budget([norms], tolerance).basis
    except AccuracyError:
        return None

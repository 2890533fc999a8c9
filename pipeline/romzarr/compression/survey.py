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

import dask
import numpy as np
from dask.delayed import Delayed, delayed

from romzarr.archive import Archive
from romzarr.chunked.blocks import Lengths, lazy_tiles, time_groups
from romzarr.chunked.fields import middle
from romzarr.chunked.slices import joined
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
from romzarr.coding.rates import Rates, allocate, position_within, power_at, rates, step_of
from romzarr.coding.tiles import field_levels, grid, value_levels
from romzarr.compression.values import AIM, SUMMANDS, ValuesPlan
from romzarr.contracts import ArchivedVariable, Matrix, Region
from romzarr.errors import AccuracyError, GapsError
from romzarr.numerics.budget import VariableNorms, split_budget

log = logging.getLogger(__name__)

# Archives below are factored as a whole, which is quick, and shows what a sample cannot.
LEAST_BYTES = 64 << 20
# Runs of snapshots, the length of one, and values of all together.
RUNS, RUN, VALUES = 4, 64, 1 << 21
# Blocks in time and parts of space looked at for the fluctuation: most of it is of the largest
# scales, of which few blocks say little. All of a small archive, a fiftieth of 20 GB.
BLOCKS, PARTS = 32, 4
# Steps tried are around this many times the root of the mean square error allowed.
UNIT = 2.0**12
# Modes are given up where they should take more than this many times the bits of values. A little
# less than 1: modes of which there are as many as snapshots take longer than they can save.
DEAR = 0.95
# Of variables up to here a POD may look for few modes below values, where so many of them save
# at least such a part of the bits.
MOST_FACTORED, FEW_MODES, RIDING = 256 << 20, (2, 8), 0.95
# Fluctuations with squares that float64 holds with room to spare.
SMALLEST, LARGEST = 1e-130, 1e130
# Runs that fluctuate by less than such a share of what all does, such as those of a part of space
# that is nearly all land, say nothing of the rest.
LEAST_SHARE = 0.01
# A sample knows norms within such a factor, at worst.
UNSURE = 4.0
# Rounding to the dtype of a variable beside the error allowed with which nothing else matters.
ROUNDING_SHARE = 0.05


@dataclass(frozen=True)
class Surveyed:
    """What a sample says of a variable.

    ``values_bits`` and ``pod_bits`` are what the whole record should take as values, and as modes
    with coefficients, of which it should have ``rank``; ``hybrid_bits`` as few modes and values of
    what they leave, infinite where it is too large to go through a POD for them. ``error`` is the
    root of the mean square error allowed. ``plan`` is how to code its values, None where only a POD
    can say more.
    """

    values_bits: float
    pod_bits: float
    hybrid_bits: float
    rank: float
    error: float
    plan: ValuesPlan | None

    @property
    def rides(self) -> bool:
        """Whether few modes are worth a POD of all of it."""
        return self.hybrid_bits < RIDING * self.values_bits

    @property
    def is_dear(self) -> bool:
        """Whether modes of all of it would save nothing."""
        return self.pod_bits > DEAR * self.values_bits

    @property
    def is_rough(self) -> bool:
        """Whether values are to be coded without a POD."""
        return self.plan is not None and self.is_dear and not self.rides

    def __str__(self) -> str:
        return (
            f"{self.values_bits / 8e6:.3g} MB as values, {self.pod_bits / 8e6:.3g} MB as about "
            f"{self.rank:.0f} modes"
        )


def survey(
    archive: Archive, tolerances: Sequence[float], numbers: Sequence[int]
) -> dict[int, tuple[Surveyed, ...]]:
    """Look at samples of some variables, for several tolerances. Runs Dask, reads a few chunks.

    Without variables of which a sample says nothing: POD says what is wrong with them, or that
    they are constant.

    Raises
    ------
    GapsError
        If a sample has values that are no numbers, and nobody has looked for these.
    """
    found = {}
    for number in numbers:
        variable = archive.variables[number]
        facts = _Facts(
            number,
            variable.dtype,
            (variable.shape[variable.time_axis], *variable.space_shape),
            values_tile(variable),
            variable.fluctuation,
        )
        result = delayed(_surveyed, pure=False)(_sample(variable), facts, tuple(tolerances))
        (said,) = dask.compute(result)
        if said is None and not archive.gaps_known:
            raise GapsError(f"{archive.name}: variable {variable.name!r} may have gaps")
        if said:
            found[number] = said
            for tolerance, each in zip(tolerances, said, strict=True):
                log.info("variable %r at %g: %s", variable.name, tolerance, each)
    return found


def _sample(variable: ArchivedVariable) -> Delayed:
    """Runs of snapshots, and moments of more of them."""
    tile, axis = values_tile(variable), variable.time_axis
    groups, _ = time_groups(variable, tile)
    counts = [n for a, n in enumerate(grid(variable.shape, tile)) if a != axis]
    cells = spread(math.prod(counts), PARTS)
    corners = [np.unravel_index(i, counts) if counts else () for i in cells]
    space = [tuple(map(int, corner)) for corner in corners]
    times = [groups[i][0] for i in spread(len(groups), BLOCKS)]
    places = [(*part[:axis], time, *part[axis:]) for time in times for part in space]
    looked_at = [times[i] for i in spread(len(times), RUNS)]
    part = space[len(space) // 2]
    kept = frozenset((*part[:axis], time, *part[axis:]) for time in looked_at)
    count = -(-RUNS // len(kept))
    length = min(RUN, tile[axis])
    task = TakeSample(axis, variable.inner_product, kept, count, length, VALUES // len(kept))
    lazy = lazy_tiles(variable, tile, task, joined_samples, places)
    return joined(list(lazy), joined_samples, SUMMANDS)


@dataclass(frozen=True)
class _Facts:
    """What a task has to know of a variable: its ``shape`` (m, *space), its tiles, and its squared
    ``fluctuation``, where that of its samples is another."""

    number: int
    dtype: np.dtype[Any]
    shape: Lengths
    tile: Lengths
    fluctuation: float | None

    def total(self, sums: Sums) -> float:
        """Squared fluctuation of the record, as far as is known."""
        return sums.foretold(self.shape[0]) if self.fluctuation is None else self.fluctuation


def _surveyed(
    sampled: Sampled, facts: _Facts, tolerances: Sequence[float]
) -> tuple[Surveyed, ...] | None:
    """What runs of snapshots say, with the moments of more of them; None if they are defective."""
    if sampled.sums.defect:
        return None
    runs = [run for index in sorted(sampled.runs) for run in sampled.runs[index]]
    total = facts.total(sampled.sums)
    if not SMALLEST < total < LARGEST or len(runs) < RUNS:
        return ()
    # In place: they are as large as a task may hold.
    offset = float(np.float32(np.mean([run.mean() for run in runs])))
    for run in runs:
        run -= offset
    halves = [run[(slice(None), *_half(run.shape[1:]))] for run in runs]
    spectra = [_Spectrum.of(each) for each in (runs[::2], halves, runs)]
    whole, sums = spectra[2], sampled.sums
    variance = total * sums.snapshots / facts.shape[0] / sums.counted
    if whole.energies.sum() < LEAST_SHARE * variance * whole.snapshots * whole.points:
        return ()
    return tuple(
        _at_tolerance(runs, spectra, sampled.sums, facts, offset, tolerance)
        for tolerance in tolerances
    )


def _at_tolerance(
    runs: Sequence[Matrix],
    spectra: Sequence[_Spectrum],
    sums: Sums,
    facts: _Facts,
    offset: float,
    tolerance: float,
) -> Surveyed:
    """What runs (m, *space), from which the offset is taken, say at one tolerance."""
    # Mean square of a value about its mean in time.
    variance = facts.total(sums) * sums.snapshots / facts.shape[0] / sums.counted
    allowed = AIM * tolerance**2 * variance
    unit = UNIT * allowed**0.5
    found = [rates(run[None], (0, *value_levels(run.shape)), unit) for run in runs]
    size = sum(run.size for run in runs)
    total = sum(found[1:], found[0])
    place = position_within(total, allowed * size)
    step = step_of(place, unit)
    coded = sum(8 * len(encode_field(run, step, value_levels(run.shape))) for run in runs)
    values_bits = coded * math.prod(facts.shape) / size
    pod_bits, rank = _pod_bits(spectra, allowed, facts.shape)
    means = sum(float(part.moments.mean @ part.moments.mean) for part in sums.parts.values())
    mean = (means * sums.snapshots / sums.counted) ** 0.5
    basis = _basis(facts, mean, variance**0.5, tolerance)
    plan = None
    if basis is not None:
        plan = ValuesPlan(
            number=facts.number,
            tile=facts.tile,
            coding=ValuesCoding(step, offset, basis),
            tolerance=tolerance,
            power=power_at(total, place),
            surveyed=sum(len(run) for run in runs),
            variance=variance,
            known=sums.snapshots,
            cost=sums.cost,
        )
    small = math.prod(facts.shape) * facts.dtype.itemsize <= MOST_FACTORED
    share = _share_with_modes(runs, allowed, facts.shape) if small else math.inf
    error = tolerance * variance**0.5
    return Surveyed(values_bits, pod_bits, share * values_bits, rank, error, plan)


def _share_with_modes(runs: Sequence[Matrix], allowed: float, shape: Lengths) -> float:
    """Bits of some runs of a record (m, *space) with leading modes of the others, and of these, by
    those without."""
    unit, space = UNIT * allowed**0.5, runs[0].shape[1:]
    seen = np.concatenate([run.reshape(len(run), -1) for run in runs[::2]])
    others = [run.reshape(len(run), -1) for run in runs[1::2]]
    size = sum(run.size for run in others)
    mean = seen.mean(axis=0)
    energies, modes = _modes(seen - mean)

    def bits(values: Sequence[Matrix]) -> tuple[float, float]:
        shaped = [each.reshape(-1, *space) for each in values]
        found = [rates(each[None], (0, *value_levels(each.shape)), unit) for each in shaped]
        total = sum(found[1:], found[0])
        place = position_within(total, allowed * size)
        return total.bits_at(place) * math.prod(shape) / size, place

    (whole, _), least = bits(others), math.inf
    if not whole > 0 or not len(modes):
        return math.inf
    for count in FEW_MODES:
        some = modes[:count]
        a = [(run - mean) @ some.T for run in others]
        left, place = bits([run - mean - b @ some for run, b in zip(others, a, strict=True)])
        # In the units of the record: errors of fields add to those of all snapshots.
        root = (energies[:count] / len(seen) * shape[0]) ** 0.5
        fields = np.concatenate([shape[0] ** 0.5 * mean[None], root[:, None] * some])
        wider = math.prod(shape[1:]) / fields.shape[1]
        more = rates(fields.reshape(-1, *space), field_levels(space), unit).bits_at(place) * wider
        rows = rates(np.concatenate(a).T.copy(), (0, 0), unit).bits_at(place)
        more += rows * shape[0] / sum(len(each) for each in a)
        least = min(least, (left + more) / whole)
    return least


def _modes(rows: Matrix) -> tuple[Matrix, Matrix]:
    """Energies (k,) and orthonormal modes (k, n) of rows (m, n), by their inner products."""
    energies, right = np.linalg.eigh(rows @ rows.T)
    energies, right = energies[::-1], right[:, ::-1]
    kept = int(np.count_nonzero(energies > np.finfo(float).eps * len(rows) * energies[0]))
    return energies[:kept], right[:, :kept].T @ rows / np.sqrt(energies[:kept])[:, None]


def _half(shape: Lengths) -> Region:
    """The middle half of a region, along its longest axis."""
    return middle(tuple(slice(0, n) for n in shape), max(1, math.prod(shape) // 2))


def _pod_bits(spectra: Sequence[_Spectrum], allowed: float, shape: Lengths) -> tuple[float, float]:
    """Bits of the whole record (m, *space) as modes and coefficients, and its rank.

    By what the second half of the runs adds to the first, and the second half of their points:
    that of the ``spectra`` of half of the runs, of half of the points, and of all.
    """
    whole = spectra[2]
    fewer, smaller, found = (spectrum.cut(allowed) for spectrum in spectra)
    # Doublings from what was seen to the whole, in time and in space.
    longer = math.log2(max(1.0, shape[0] / whole.snapshots))
    wider = math.log2(max(1.0, math.prod(shape[1:]) / whole.points))
    times = math.log2(whole.snapshots / spectra[0].snapshots)
    points = math.log2(max(whole.points / spectra[1].points, 1 + 1e-9))

    def slope(before: float, now: float, doublings: float) -> float:
        # By each doubling no more than twice as much: beyond it is chance.
        ratio = now / max(before, 1e-300)
        return float(np.clip(math.log2(max(ratio, 1e-300)) / doublings, 0.0, 1.0))

    in_time = slope(fewer.rank, found.rank, times)
    in_space = slope(smaller.rank, found.rank, points)
    rank = found.rank * 2 ** (longer * in_time + wider * in_space)
    grown = longer * slope(fewer.field_bits, found.field_bits, times) + wider * (1 + in_space)
    of_coefficients = found.coefficient_bits * 2 ** (longer * (1 + in_time) + wider * in_space)
    return found.field_bits * 2**grown + of_coefficients, rank


@dataclass(frozen=True)
class _Cut:
    """A POD that meets a bound: its rank, and bits of fields and coefficients."""

    rank: float
    field_bits: float
    coefficient_bits: float


@dataclass(frozen=True)
class _Spectrum:
    """POD of runs of snapshots: rates of the mean and all modes (1 + K), and of coefficients."""

    snapshots: int
    points: int
    energies: Matrix
    fields: Rates
    coefficients: Rates

    @classmethod
    def of(cls, runs: Sequence[Matrix]) -> _Spectrum:
        """POD of runs (m, *space), by the inner products of snapshots."""
        space = runs[0].shape[1:]
        flat = np.concatenate([run.reshape(len(run), -1) for run in runs])
        mean = flat.mean(axis=0)
        flat -= mean
        energies, right = np.linalg.eigh(flat @ flat.T)
        energies, right = energies[::-1], right[:, ::-1]
        kept = int(np.count_nonzero(energies > np.finfo(float).eps * len(flat) * energies[0]))
        energies, right = energies[:kept], right[:, :kept]
        fields = np.concatenate([len(flat) ** 0.5 * mean[None], right.T @ flat])
        a = np.ascontiguousarray((right * np.sqrt(energies)).T)
        levels = field_levels(space)
        return cls(
            len(flat),
            flat.shape[1],
            energies,
            rates(fields.reshape(-1, *space), levels, energies.sum() ** 0.5 or 1.0),
            rates(a, (0, depth(len(flat))), 1.0),
        )

    def cut(self, allowed: float) -> _Cut:
        """With so much squared error a value; infinite bits where no rank is enough."""
        count = len(self.energies)
        chosen = allocate(
            [self.fields],
            self.coefficients,
            np.ones((1, count)),
            self.energies[None],
            np.array([allowed * self.snapshots * self.points]),
            np.zeros(1),
            0.0,
        )
        if chosen is None:
            return _Cut(float(count), np.inf, np.inf)
        leading = slice(0, chosen.rank + 1)
        fields = Rates(self.fields.errors[leading], self.fields.bits[leading])
        bits = fields.bits_at(chosen.fields[0])
        return _Cut(float(chosen.rank), bits, chosen.bits - bits)


def _basis(facts: _Facts, mean: float, deviation: float, tolerance: float) -> np.dtype[Any] | None:
    """Arithmetic for values of this root mean square, which deviate so much from their means in
    time; None where rounding matters, of which POD knows more."""
    rounding = float(np.finfo(facts.dtype).eps) * float(np.hypot(mean, deviation))
    if rounding > ROUNDING_SHARE * tolerance * deviation:
        return None
    root = math.prod(facts.shape) ** 0.5
    fluctuation, mean = root * deviation / UNSURE, root * mean * UNSURE
    norms = VariableNorms("", fluctuation, mean, facts.dtype, root**2)
    try:
        return split_budget([norms], tolerance).basis
    except AccuracyError:
        return None

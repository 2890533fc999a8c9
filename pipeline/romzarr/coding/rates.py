"""What coding would cost and how far it would be off, for many steps at once.

From histograms of the sizes of wavelet coefficients: one look at the coefficients serves
all steps, and histograms of tiles add. Bits are those of the best geometric distribution
of each band, which is what a range coder without contexts would need; they weigh one choice
against another and promise nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from romzarr.coding.bands import bands
from romzarr.coding.quantise import dead_zone
from romzarr.coding.wavelet import forward
from romzarr.contracts import Floats

Matrix = NDArray[np.float64]

# Steps per factor of two.
FINENESS = 4
STEPS = np.arange(-52 * FINENESS, 8 * FINENESS)
# Squared errors grow with this power of the step at least: what is all zeros tells nothing.
LEAST_POWER = 0.5
# Errors of coefficients come back from the transform of an axis with so much of their square.
NOISE_GAIN = 1.025
# Bins of sizes are float32 numbers that agree in all but their last 21 bits: four per
# factor of two. All below the first bin, and all above the last, count as in it.
LAST_BITS = 21
SMALLEST, LARGEST = 2.0**-56, 2.0**24
# Rows of bands that are worked on together: fewer calls where there are few, and small tables.
TOGETHER = 32
BINS = np.arange(*(np.array([SMALLEST, LARGEST], np.float32).view(np.int32) >> LAST_BITS))


@dataclass(frozen=True)
class Rates:
    """Squared errors and bits (rows, steps) of coding each row of an array.

    Column g is for the step ``unit * 2**(STEPS[g] / FINENESS)``; squared errors are in the
    units of the values, squared.
    """

    errors: Matrix
    bits: Matrix

    def errors_at(self, position: float) -> Matrix:
        """Squared error of each row at a (fractional) column."""
        low = min(int(position), len(STEPS) - 2)
        share = position - low
        errors: Matrix = (1 - share) * self.errors[:, low] + share * self.errors[:, low + 1]
        return errors

    def bits_at(self, position: float) -> float:
        """Bits of all rows at a (fractional) column."""
        return float(np.interp(position, np.arange(len(STEPS)), self.bits.sum(axis=0)))

    def __add__(self, other: Rates) -> Rates:
        return Rates(self.errors + other.errors, self.bits + other.bits)


def step_of(position: float, unit: float) -> float:
    """Step at a (fractional) column of `Rates`."""
    return float(unit * 2 ** ((position + STEPS[0]) / FINENESS))


def position_of(step: float, unit: float) -> int:
    """Nearest column of `Rates` for a step."""
    place = round(FINENESS * np.log2(step / unit)) - STEPS[0]
    return int(np.clip(place, 0, len(STEPS) - 1))


def rates(values: Floats, levels: Sequence[int], unit: float) -> Rates:
    """Rates of each row of an array.

    Parameters
    ----------
    values : (rows, ...) float
    levels : sequence of int
        Of the transform per axis; 0 for the first.
    unit : float
        Scale of the steps, positive.
    """
    errors, bits = _at_columns(values, levels, unit, slice(None))
    return Rates(errors * (unit * 2 ** (STEPS / FINENESS)) ** 2, bits)


def bits_of(values: Floats, levels: Sequence[int], step: float) -> Matrix:
    """Bits (rows,) of coding each row with one step, as `rates` has them at its nearest column."""
    column = position_of(step, 1.0)
    bits: Matrix = _at_columns(values, levels, 1.0, slice(column, column + 1))[1, :, 0]
    return bits


def _at_columns(values: Floats, levels: Sequence[int], unit: float, columns: slice) -> Matrix:
    """Squared errors, in squares of the step, and bits: (2, rows, columns)."""
    tables = _TABLES[..., columns]
    errors, bits = found = np.zeros((2, len(values), tables.shape[-1]))
    if not len(values):
        return found
    coefficients = forward(values, levels)
    gain = NOISE_GAIN ** np.count_nonzero(levels)
    parts = [
        coefficients[(slice(None), *band.region)].reshape(len(values), -1)
        for band in bands(values.shape[1:], levels[1:])
    ]
    group = max(1, TOGETHER // len(values))
    for first in range(0, len(parts), group):
        some = [part for part in parts[first : first + group] if part.size]
        if not some:
            continue
        sizes = np.array([part.shape[1] for part in some], np.float64)[:, None, None]
        error, size, nonzero = _means(*_histograms(some, unit), tables, sizes)
        errors += gain * error.sum(axis=0)
        bits += (sizes * _geometric_entropy(size / sizes) + nonzero).sum(axis=0)
    return found


def _means(
    counts: Matrix, found_in: slice, tables: Matrix, sizes: Matrix
) -> tuple[Matrix, Matrix, Matrix]:
    """Squared error, sum of sizes and number of nonzeros (bands, rows, columns) of coefficients."""
    flat = counts.reshape(-1, counts.shape[-1])
    narrow, wide = (
        (flat @ np.concatenate(table[:, found_in], axis=1)).reshape(*counts.shape[:2], 3, -1)
        for table in tables
    )
    share = (dead_zone(wide[:, :, 1] / sizes) - _NARROW) / (_WIDE - _NARROW)
    mixed = narrow + share[:, :, None] * (wide - narrow)
    return mixed[:, :, 0], mixed[:, :, 1], mixed[:, :, 2]


def _histograms(parts: Sequence[Floats], unit: float) -> tuple[Matrix, slice]:
    """Numbers of coefficients (bands, rows, bins) by size, and which of `BINS` these are.

    Bins that are empty before the first or after the last coefficient are left out.
    """
    places = [_bins(part, unit) for part in parts]
    first = min(int(place.min()) for place in places)
    width = max(int(place.max()) for place in places) + 1 - first
    counts = np.empty((len(parts), len(parts[0]), width))
    for place, out in zip(places, counts, strict=True):
        place += width * np.arange(len(place), dtype=np.int32)[:, None] - first
        out[...] = np.bincount(place.ravel(), minlength=out.size).reshape(out.shape)
    return counts, slice(first, first + width)


def _bins(part: Floats, unit: float) -> NDArray[np.int32]:
    # What a useless model misses may be beyond float32.
    sizes = np.minimum(np.abs(part * (1 / unit)), LARGEST).astype(np.float32)
    place = (sizes.view(np.int32) >> LAST_BITS) - BINS[0]
    return np.clip(place, 0, len(BINS) - 1, out=place)


def _tables(dead_zone: float) -> Matrix:
    """Mean squared error, size and share of nonzeros (3, BINS, STEPS), in steps.

    Sizes up to `dead_zone` steps become 0, all others the nearest multiple. They are taken
    to lie evenly within their bin; the means are integrals, not sums over some sizes, all of
    which could be multiples of the step.
    """
    ends = (np.append(BINS, BINS[-1] + 1).astype(np.int32) << LAST_BITS).view(np.float32)
    y = ends[:, None] / 2.0 ** (STEPS / FINENESS)
    q = np.floor(y + 0.5)
    # Integrals up to each end of a bin, and what the dead zone changes in them.
    zeroed = np.clip(y, 0.5, dead_zone)
    error = q / 12 + (y - q) ** 3 / 3 + (zeroed**2 - zeroed + 0.25)
    size = q * (q - 1) / 2 + q * (y - q + 0.5) - (zeroed - 0.5)
    nonzero = np.maximum(y - dead_zone, 0.0)
    tables: Matrix = np.diff([error, size, nonzero], axis=1) / np.diff(y, axis=0)
    return tables


_NARROW, _WIDE = 0.5, float(dead_zone(np.zeros(())))
_TABLES = np.array([_tables(_NARROW), _tables(_WIDE)])


def _geometric_entropy(mean: Matrix) -> Matrix:
    """Bits of a geometric distribution of the non-negative integers."""
    # Of the form (1 + m) log(1 + m) - m log(m) nothing would be left where m is large.
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = np.log2(1 + mean) + mean * np.log1p(1 / mean) / np.log(2)
    return np.asarray(np.where(mean > 0, bits, 0.0))


def power_at(found: Rates, place: float) -> float:
    """The power of the step with which squared errors grow about a (fractional) column."""
    about = [float(found.errors_at(max(place + by, 0)).sum()) for by in (-FINENESS, FINENESS)]
    return max(np.log2(about[1] / about[0]) / 2, LEAST_POWER) if about[0] > 0 else LEAST_POWER


def position_within(found: Rates, allowed: float) -> float:
    """Last (fractional) column at which the squared errors of all rows are within `allowed`."""
    errors = np.maximum.accumulate(found.errors.sum(axis=0))
    return max(float(_last_within(errors, np.array(allowed))), 0.0)


@dataclass(frozen=True)
class Allocation:
    """Rank, positions of the steps on the grid of `Rates`, and the bits expected.

    ``latent`` is the position for the coefficients, ``fields`` (V,) those for the fields.
    """

    rank: int
    latent: float
    fields: tuple[float, ...]
    bits: float


def allocate(
    fields: Sequence[Rates],
    latent: Rates,
    shares: Matrix,
    energies: Matrix,
    allowed: Matrix,
    dropped: Matrix,
    mode_bits: float,
) -> Allocation | None:
    """Rank and steps that meet the error of every variable with fewest bits.

    With orthonormal modes and coefficients one step for all coefficients that serve a bound
    is best: the slope of error over bits is then alike everywhere (reverse water-filling;
    T. Berger, "Rate Distortion Theory", 1971, Section 4.5). Each variable has a bound of
    its own, and so a step of its own for its fields; what is left are the rank and the step
    of the coefficients, which all are tried.

    Parameters
    ----------
    fields : sequence of Rates, one per variable
        Row 0 the mean, row k mode k.
    latent : Rates
        Row k the coefficient of mode k + 1.
    shares : (V, K)
        Squared error of each variable per squared error of each coefficient.
    energies : (V, K)
        Squared error of each variable if the mode is left out.
    allowed : (V,)
        Squared error, of all but what was dropped before.
    dropped : (V,)
        Norm of what was dropped before, which the errors of coefficients may meet.
    mode_bits : float
        What a mode costs besides.

    Returns
    -------
    Allocation, or None if not even the finest step and the largest rank are enough.
    """
    tails = np.cumsum(energies[:, ::-1], axis=1)[:, ::-1]
    tails = np.concatenate([tails, np.zeros((len(tails), 1))], axis=1)
    errors = [np.maximum.accumulate(np.cumsum(f.errors, axis=0), axis=1) for f in fields]
    bits = [np.cumsum(f.bits, axis=0) for f in fields]
    best: Allocation | None = None
    for rank in range(1, len(latent.errors) + 1):
        cost = latent.bits[:rank].sum(axis=0) + rank * mode_bits
        places = []
        for v, limit in enumerate(allowed):
            coding = shares[v, :rank] @ latent.errors[:rank]
            room = limit - tails[v, rank] - coding - 2 * dropped[v] * np.sqrt(coding)
            places.append(_last_within(errors[v][rank], room))
            cost = cost + np.interp(places[v], np.arange(len(STEPS)), bits[v][rank])
        cost = np.where(np.min(places, axis=0) < 0, np.inf, cost)
        column = int(np.argmin(cost))
        if cost[column] < (best.bits if best else np.inf):
            positions = tuple(float(place[column]) for place in places)
            best = Allocation(rank, float(column), positions, float(cost[column]))
    return best


def _last_within(errors: Matrix, limits: Matrix) -> Matrix:
    """Last (fractional) position at which growing errors are within each limit; -1: none."""
    tiny = np.finfo(np.float64).tiny
    logarithms = np.log(np.maximum(errors, tiny)) + 1e-9 * np.arange(len(errors))
    place = np.interp(np.log(np.maximum(limits, tiny)), logarithms, np.arange(len(errors)))
    return np.where(limits < errors[0], -1.0, place)

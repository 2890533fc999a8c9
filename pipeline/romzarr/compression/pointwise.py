"""Pointwise bounds: residuals of the values where these are decoded too far off.

A bound on single values is kept by adding what is missing to the decoded ones. How much that
costs hangs on how good these are, so the error allowed to them in the L2 norm is lowered to
where both together should be smallest. Residuals never make a value worse: they are added
only where the error exceeds half their step, and then leave less than half a step. So the L2
bound holds with them as without.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from romzarr.archive import Archive
from romzarr.chunked.blocks import aligned_tile, lazy_tiles, some_tiles, stored_tile
from romzarr.chunked.gaps import NumbersSource
from romzarr.chunked.ranges import logarithm_source
from romzarr.chunked.residuals import Found, Spread, WriteResiduals, joined
from romzarr.chunked.slices import added, gathered
from romzarr.compression.pod import Sharpened
from romzarr.contracts import EXACT, ArchivedVariable, ReadCost
from romzarr.errors import AccuracyError, ConfigError, TooFineError
from romzarr.numerics.scaling import factors_of
from romzarr.store.reading.draft import Draft
from romzarr.store.writing.writer import StoreWriter

log = logging.getLogger(__name__)

# Roots of the mean squared error that a POD may aim at, as a share of the bound on single values,
# in steps of half a bit: which takes fewest bytes depends on how few values need residuals, and how
# cheap modes are. With the usual one hardly any value needs one. And the sharpest relative
# tolerance that a POD is worth.
AIMS, AIM, SHARPEST = (0.09, 0.13, 0.18, 0.25, 0.35), 0.18, 1e-5
# Values of a tile of residuals.
LEAST, MOST = 1 << 18, 1 << 21
# Share of the bound that is left for rounding at first; where it is not enough, as much as is.
SLACK = 0.01
# Rounding of a decoder as a share of the largest value: each result of its arithmetic may be
# off by 1e-12, and a value is made of some two hundred of them, one after the other.
DECODING = 2.0**-32
# Drift of coefficients is tried with one perturbation; others may do worse.
DRIFT = 8.0
# At most this share of the bound may be left for rounding.
MOST_SLACK = 0.5


def check_bounds(archive: Archive, bounds: Collection[str]) -> None:
    """Refuse bounds of variables that are not compressed.

    Raises
    ------
    ConfigError
    """
    known = [variable.name for variable in archive.variables]
    for name in bounds:
        if name not in known:
            raise ConfigError(
                f"compression.max_error: found variable {name!r}, allowed are those of "
                f"{archive.name} that are compressed: {', '.join(map(repr, known))}"
            )


def sharpened_by(
    archive: Archive, bounds: Mapping[str, float], tolerance: float, aim: float
) -> Sharpened:
    """The POD whose error is such a share, the `aim`, of bounds on single values. Runs Dask.

    Reads a few chunks of each variable that has a bound, for the size of its fluctuation; a
    rough one will do.
    """
    given = np.array([_scaled(bounds, variable) for variable in archive.variables])
    ratios = [
        aim * bound / size
        for variable, bound in zip(archive.variables, given, strict=True)
        if np.isfinite(bound) and (size := _fluctuation(variable)) > 0
    ]
    sharpest = min(tolerance, max(SHARPEST, min(ratios, default=1.0)))
    return Sharpened(given, aim * given, sharpest)


def _scaled(bounds: Mapping[str, float], variable: ArchivedVariable) -> float:
    """The bound on single values, as far as what is coded has one scale; infinite: none."""
    bound, scaling = bounds.get(variable.name, np.inf), variable.scaling
    return bound if scaling is None else float(bound / np.median(factors_of(scaling.exponents)))


def _fluctuation(variable: ArchivedVariable) -> float:
    """Root of the mean square about the mean in time, from three tiles."""
    tile = aligned_tile(variable, LEAST, MOST)
    places = some_tiles(variable, tile, 3)
    squares, counted = gathered(
        lazy_tiles(variable, tile, Spread(variable.time_axis), added, places), added
    )
    return float(np.sqrt(squares / counted)) if counted else 0.0


@dataclass(frozen=True)
class Corrected:
    """Largest error of single values by variable, and what reading the archive for it cost."""

    errors: Mapping[str, float]
    cost: ReadCost


def write_residuals(
    writer: StoreWriter, archive: Archive, facts: Mapping[str, Any], bounds: Mapping[str, float]
) -> Corrected:
    """Put residuals into a store that is complete but for them. Runs Dask.

    Reads the variables that have a bound once more, and again where the bound is close to
    rounding.

    Raises
    ------
    AccuracyError
        If a bound is too small for the variable's dtype or for the rounding of readers.
    """
    draft = Draft(*writer.draft(facts))
    lossy = {name for name, each in facts["variables"].items() if each["coding"] not in EXACT}
    found = {}
    for variable in archive.variables:
        if variable.name in bounds and variable.name in lossy:
            found[variable.name] = _written(writer, draft, variable, bounds[variable.name])
    exact = {name: 0.0 for name in bounds if name not in lossy}
    return Corrected(
        exact | {name: each.error for name, each in found.items()},
        sum((each.cost for each in found.values()), ReadCost()),
    )


def _written(writer: StoreWriter, draft: Draft, variable: ArchivedVariable, bound: float) -> Found:
    slack, cost = SLACK * bound, ReadCost()
    while True:
        found = _coded(writer, draft, variable, 2 * (bound - slack))
        cost += found.cost
        needed = _rounding(variable, found, bound)
        if needed <= slack:
            break
        if not needed <= MOST_SLACK * bound:
            raise _too_small(variable, bound, needed)
        slack = needed
    if not found.error <= bound:
        raise _too_small(variable, bound, found.error)
    log.info("variable %r: %d values corrected", variable.name, found.coded)
    if not found.coded:
        writer.drop_residuals(variable.name)
    return replace(found, cost=cost)


def _coded(writer: StoreWriter, draft: Draft, variable: ArchivedVariable, step: float) -> Found:
    """Residuals with one step, in the store."""
    archived = variable.as_archived
    source = archived.source
    if variable.gaps is not None:
        # There is nothing to be corrected in gaps.
        special = np.array(list(variable.gaps.special.values()), variable.dtype)
        source = NumbersSource(source, special)
    if variable.logarithm is not None:
        source = logarithm_source(source, variable.logarithm.unit)
    variable = replace(archived, source=source)
    name, tile = variable.name, stored_tile(variable, LEAST, MOST)
    writer.create_residuals(name, variable.dims, variable.shape, tile, step)
    task = WriteResiduals(draft, writer.residuals, name, variable.time_axis, step)
    try:
        result: Found = gathered(lazy_tiles(variable, tile, task, joined), joined)
    except TooFineError as error:
        raise AccuracyError(
            f"variable {name!r}: compression.max_error of about {step / 2:.2g} is too small beside "
            f"the largest of its values; raise it, or take tolerance 0, which is lossless: {error}"
        ) from error
    return result


def _rounding(variable: ArchivedVariable, found: Found, bound: float) -> float:
    """How far a value may be off, here or on another machine, besides half a step."""
    # Logarithms are rounded when they are numbers again, of which their bounds know.
    dtype = variable.dtype if variable.logarithm is None else np.dtype(np.float64)
    last = float(np.finfo(dtype).eps) / 2 * (found.largest + bound)
    # Values below the normal ones of their dtype lie this far apart.
    smallest = float(np.finfo(dtype).smallest_subnormal)
    return last + smallest + DECODING * (found.largest + bound) + DRIFT * found.drift


def _too_small(variable: ArchivedVariable, bound: float, needed: float) -> AccuracyError:
    least = 1.01 * needed / MOST_SLACK
    return AccuracyError(
        f"variable {variable.name!r}: compression.max_error is {bound:g}, too small beside the "
        f"rounding of {variable.dtype.name} and of decoders; allowed is {least:.2g} or more, or "
        f"tolerance 0, which is lossless"
    )

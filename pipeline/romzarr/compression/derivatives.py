"""Bounds on derivatives in space, such as a gradient or a vorticity, by their own fluctuation.

A derivative amplifies what is short, and so are most errors. Variables are coded to the tolerance
first. Where a derivative misses its bound, they are coded anew to a share of it that should just
keep the bound, from how errors have followed such shares so far, until it does.

All bands of wavelets have one step all the same. Steps by the gain of a gradient in each band would
take 1 to 5 % fewer bytes where a bound of 1e-2 decides, on five fields of turbulence, currents, a
wake and an atmosphere, and would have to be a part of the format.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from romzarr.archive import Archive
from romzarr.archive.climatology import groups_asked
from romzarr.chunked.derivatives import DerivativeError, derivative_errors
from romzarr.compression.by_index import IndexBounds, index_bounds
from romzarr.compression.write_store import rounded_up
from romzarr.config import CompressionConfig
from romzarr.contracts import Derivative, ReadCost
from romzarr.derivatives import SETTING
from romzarr.errors import AccuracyError
from romzarr.numerics.budget import RESERVE
from romzarr.numerics.gaps import special_values
from romzarr.store.reading.draft import Draft
from romzarr.store.reading.facts import DERIVATIVE_ERRORS, DERIVATIVES

log = logging.getLogger(__name__)

# What errors should be of their bounds, and from where on a closer one would save few bytes: errors
# of a tenth less take a seventh of a bit more for each value. Other machines may round decoded
# values in another way, so a reserve is left.
AIM, CLOSE, MOST = 0.97, 0.9, 1 - RESERVE
# Attempts after which a bound that is kept is not gone closer to, and all of them.
CLOSER, ATTEMPTS = 4, 8
# By how many decades errors of a derivative change with those of the variable, at the least and
# most; and by what factor shares change at a time.
SLOPES, MOST_CHANGE = (0.3, 3.0), 1e4
# Least share of the error allowed that coding is believed to use.
LEAST_USED = 0.5


@dataclass(frozen=True)
class Try:
    """A share of the tolerance, and the largest error of a derivative by its bound."""

    share: float
    error: float


@dataclass(frozen=True)
class DerivativeBounds:
    """The derivatives that are bounded; ``shares`` of the tolerance that variables are coded to, 1
    where none is named; and what was ``tried`` before, by variable."""

    derivatives: tuple[Derivative, ...]
    shares: Mapping[str, float] = field(default_factory=dict)
    tried: Mapping[str, tuple[Try, ...]] = field(default_factory=dict)

    @property
    def variables(self) -> list[str]:
        return sorted({name for each in self.derivatives for name in each.variables})

    def tried_now(self, name: str, errors: Mapping[str, float], reached: float) -> Try:
        """What was tried with a variable, which `reached` such a share of the tolerance, and the
        errors of derivatives by their bounds."""
        mine = (errors[each.name] for each in self.derivatives if name in each.variables)
        return Try(_used(self.shares.get(name, 1.0), reached), max(mine))


def errors_of_draft(
    draft: Draft, archive: Archive, bounds: DerivativeBounds, facts: Mapping[str, Any], cycle: bool
) -> tuple[dict[str, DerivativeError], ReadCost]:
    """Measure all derivatives of a store before its commit, by name, and the cost. Runs Dask.

    Fluctuations are about a mean `cycle`, or the temporal mean.
    """
    by_name = {variable.name: variable for variable in archive.variables}
    special = {
        name: known if "gaps" in facts["variables"][name] else known[:3]
        for name, variable in by_name.items()
        for known in [special_values(variable.dtype)]
    }
    groups = groups_asked(archive, cycle)
    return derivative_errors(bounds.derivatives, by_name, draft, special, groups)


def derivative_facts(
    facts: Mapping[str, Any], bounds: DerivativeBounds, found: Mapping[str, DerivativeError]
) -> dict[str, Any]:
    """The facts of a store with the errors of derivatives, and their bounds."""
    if not found:
        return dict(facts)
    tolerances = {each.name: each.tolerance for each in bounds.derivatives}
    errors = {name: rounded_up(each.relative, tolerances[name]) for name, each in found.items()}
    return {**facts, DERIVATIVES: tolerances, DERIVATIVE_ERRORS: errors}


def next_shares(
    bounds: DerivativeBounds,
    found: Mapping[str, DerivativeError],
    reached: Mapping[str, float],
    tolerance: float,
) -> DerivativeBounds | None:
    """What to code variables to after these errors; None if bounds are kept, and closely.

    Parameters
    ----------
    bounds : DerivativeBounds
    found : mapping
        Errors of derivatives, by their name.
    reached : mapping
        Errors of variables, relative to their fluctuation, by name.
    tolerance : float
        That of variables.

    Raises
    ------
    AccuracyError
        If a derivative does not fluctuate, or its bound is never kept.
    """
    errors = {each.name: found[each.name].relative / each.tolerance for each in bounds.derivatives}
    if not errors:
        return None
    _refuse_steady(errors)
    tried = {
        name: (
            *bounds.tried.get(name, ()),
            bounds.tried_now(name, errors, reached[name] / tolerance),
        )
        for name in bounds.variables
    }
    attempt, missed = len(next(iter(tried.values()))), max(errors.values()) > MOST
    shared = {name for name in tried if bounds.shares.get(name, 1.0) < 1}
    # What rounding makes exact comes no closer.
    loose = any(0 < tried[name][-1].error < CLOSE for name in shared)
    if not missed and (not loose or attempt >= CLOSER):
        return None
    if attempt == ATTEMPTS:
        raise _missed_error(bounds, errors)
    changed = shared | {name for name, each in tried.items() if each[-1].error > MOST}
    shares = {name: _next(tried[name]) for name in sorted(changed)}
    log.info("coded anew for bounds on derivatives, to shares of the tolerance: %s", shares)
    return replace(bounds, shares=shares, tried=tried)


def _used(share: float, reached: float) -> float:
    """The share that coding was asked for; what it used, where other bounds, such as those on
    single values, leave most of that unused."""
    return reached if 0 < reached < LEAST_USED * share else share


def _next(tried: Sequence[Try]) -> float:
    """A share at which the error should be just within its bound."""
    last = tried[-1]
    if last.error == 0 or CLOSE <= last.error <= MOST:
        return last.share
    # Errors are about in proportion to shares, until two tell better.
    slope = 1.0
    if len(tried) > 1 and tried[-2].error > 0 and tried[-2].share != last.share:
        rise = math.log(last.error / tried[-2].error)
        slope = float(np.clip(rise / math.log(last.share / tried[-2].share), *SLOPES))
    change = (AIM / last.error) ** (1 / slope)
    share = last.share * float(np.clip(change, 1 / MOST_CHANGE, MOST_CHANGE))
    kept = max((each.share for each in tried if each.error <= MOST), default=0.0)
    missed = min((each.share for each in tried if each.error > MOST), default=math.inf)
    if kept < missed < math.inf and not kept < share < missed:
        share = math.sqrt(kept * missed) if kept else AIM * missed
    return min(share, 1.0)


def with_shares(
    asked: IndexBounds,
    shares: Mapping[str, float],
    archive: Archive,
    config: CompressionConfig,
    gaps: bool,
) -> IndexBounds:
    """The bounds on single indices, and those on whole variables that get a share of the tolerance.

    Runs Dask, and reads those once whose fluctuation is not known yet.
    """
    tighter = {name: each for name, each in shares.items() if each < 1}
    unknown = {name: () for name in tighter if name not in asked.norms}
    if unknown:
        groups = groups_asked(archive, config.climatology)
        more = index_bounds(archive, unknown, groups, asked.tolerance, gaps)
        aims = {name: replace(aim, share=1.0) for name, aim in more.aims.items()}
        asked = replace(
            asked,
            norms={**asked.norms, **more.norms},
            aims={**asked.aims, **aims},
            cost=asked.cost + more.cost,
        )
    return replace(asked, shares=tighter)


def _refuse_steady(errors: Mapping[str, float]) -> None:
    steady = [name for name, error in errors.items() if error == math.inf]
    if steady:
        raise AccuracyError(
            f"{SETTING}: {steady[0]} does not fluctuate, so that no error is within a share of its "
            "fluctuation; leave it out, or take tolerance 0, which is lossless"
        )


def _missed_error(bounds: DerivativeBounds, errors: Mapping[str, float]) -> AccuracyError:
    worst = max(bounds.derivatives, key=lambda each: errors[each.name])
    return AccuracyError(
        f"{SETTING}: {worst.name} has an error of {errors[worst.name] * worst.tolerance:.3e} of "
        f"its own fluctuation after {ATTEMPTS} attempts, above its bound {worst.tolerance:g}; "
        "raise that, or take tolerance 0, which is lossless"
    )


def unreachable(bounds: DerivativeBounds, error: AccuracyError) -> AccuracyError:
    """That variables cannot be coded to the shares that derivatives need."""
    shares = ", ".join(f"{name} {share:.1e}" for name, share in bounds.shares.items() if share < 1)
    return AccuracyError(
        f"{SETTING}: variables cannot be coded to the shares of the tolerance that their "
        f"derivatives need ({shares}); raise bounds on derivatives, or take tolerance 0, which is "
        f"lossless: {error}"
    )

"""Bounds on single values that are relative: to the range of a variable, or to each value.

The former are absolute ones as soon as the range is known. The latter are absolute ones of signed
logarithms, which are coded instead of the values.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from romzarr.archive import Archive
from romzarr.archive.climatology import groups_asked
from romzarr.chunked.blocks import aligned_tile, lazy_tiles
from romzarr.chunked.ranges import FoundRange, MeasureRange, joined_ranges, logarithm_source
from romzarr.chunked.slices import gathered
from romzarr.compression.by_index import IndexErrors
from romzarr.compression.index_norms import LEAST, MOST, IndexNorms, index_norms
from romzarr.config import NONE, BoundKind, Config
from romzarr.contracts import ArchivedVariable, Logarithm, ReadCost
from romzarr.errors import AccuracyError
from romzarr.numerics.budget import RESERVE
from romzarr.numerics.gaps import special_values
from romzarr.numerics.logarithm import allowed_error

# What is aimed at where a tolerance was missed.
CLOSE = 0.95
# Rounding of logarithms and powers on any machine, as a share of what is allowed.
ROUNDED = 1e-6


@dataclass(frozen=True)
class Logarithms:
    """Variables that are coded as logarithms, by name.

    ``units`` are theirs, ``most`` the largest sizes of values, ``norms`` those of the values.
    """

    units: Mapping[str, float]
    most: Mapping[str, float]
    norms: Mapping[str, IndexNorms]

    def taken(self, archive: Archive) -> Archive:
        """The archive with logarithms of these variables."""
        variables = [
            _taken(each, self.units[each.name], self.most[each.name])
            if each.name in self.units
            else each
            for each in archive.variables
        ]
        return replace(archive, variables=tuple(variables))


@dataclass(frozen=True)
class ResolvedBounds:
    """Settings with absolute bounds of what is coded, which logarithms are, and the cost."""

    config: Config
    logarithms: Logarithms
    cost: ReadCost

    @property
    def is_bounding(self) -> bool:
        """Whether single values have any bounds."""
        return bool(self.config.compression.absolute_bounds)

    def within(self, norms: Mapping[str, IndexNorms]) -> ResolvedBounds:
        """The same with other norms, by which the tolerance is meant."""
        logarithms = self.logarithms
        others = {name: norms.get(name, each) for name, each in logarithms.norms.items()}
        return replace(self, logarithms=replace(logarithms, norms=others))


def resolve_bounds(archive: Archive, config: Config) -> ResolvedBounds:
    """Make all bounds on single values absolute. Runs Dask, and reads variables with others.

    Raises
    ------
    AccuracyError
        If a bound relative to each value is below the rounding of its dtype.
    """
    asked, cost = config.compression.bounds, ReadCost()
    absolute = dict(config.compression.absolute_bounds)
    units, most, norms = dict[str, float](), dict[str, float](), dict[str, IndexNorms]()
    for variable in archive.variables:
        name = variable.name
        if name not in asked or name in absolute:
            continue
        found = _range(variable)
        cost += found.cost
        if asked[name].kind == BoundKind.RANGE:
            # Of what has one value none may be lost, or any bound will do.
            absolute[name] = asked[name].size * (found.largest - found.smallest) or math.inf
            continue
        groups = groups_asked(archive, config.compression.climatology)
        norms[name], read = index_norms(variable, (), groups, gaps=True, sampled=False)
        cost += read
        if not norms[name].bounded.any() or not np.isfinite(found.least):
            absolute[name] = math.inf
            continue
        units[name], most[name] = 2.0 ** math.floor(math.log2(found.least)), found.most
        absolute[name] = _of_logarithms(variable, asked[name].size, found.least)
    changed = {name: bound for name, bound in absolute.items() if np.isfinite(bound)}
    compression = replace(config.compression, max_error=changed or NONE)
    return ResolvedBounds(
        replace(config, compression=compression), Logarithms(units, most, norms), cost
    )


def tightened(
    resolved: ResolvedBounds, found: Mapping[str, IndexErrors], tolerance: float
) -> ResolvedBounds | None:
    """Bounds of logarithms with which their numbers should be within the tolerance as well; None if
    they are."""
    missed = {
        name: CLOSE * tolerance / found[name].whole
        for name in resolved.logarithms.units
        if found[name].whole > (1 - RESERVE) * tolerance
    }
    if not missed:
        return None
    compression = resolved.config.compression
    bounds = dict(compression.absolute_bounds)
    changed = {name: factor * bounds[name] for name, factor in missed.items()}
    compression = replace(compression, max_error=bounds | changed)
    return replace(resolved, config=replace(resolved.config, compression=compression))


def _range(variable: ArchivedVariable) -> FoundRange:
    """Known fill values do not count: where they are numbers after all, bounds are tighter."""
    tile, task = aligned_tile(variable, LEAST, MOST), MeasureRange(special_values(variable.dtype))
    found: FoundRange = gathered(lazy_tiles(variable, tile, task, joined_ranges), joined_ranges)
    return found


def _of_logarithms(variable: ArchivedVariable, relative: float, least: float) -> float:
    try:
        allowed = allowed_error(relative, least, variable.dtype)
    except ValueError as error:
        raise AccuracyError(
            f"variable {variable.name!r}: compression.max_error is {100 * relative:g}% of value, "
            f"but {error}; raise it, or take tolerance 0, which is lossless"
        ) from error
    return (1 - ROUNDED) * allowed


def _taken(variable: ArchivedVariable, unit: float, most: float) -> ArchivedVariable:
    # About as large as their differences from their mean are, which only sets where to begin.
    size = 1 + math.log2(most / unit)
    known = variable.fluctuation is not None
    return replace(
        variable,
        source=logarithm_source(variable.source, unit),
        logarithm=Logarithm(unit, variable.source),
        average=size / 2,
        fluctuation=_counted(variable) * (size / 4) ** 2 if known else None,
    )


def _counted(variable: ArchivedVariable) -> float:
    snapshots = variable.shape[variable.time_axis]
    return snapshots * variable.inner_product.total(math.prod(variable.space_shape))


def relative_facts(
    facts: Mapping[str, Any], config: Config, logarithms: Logarithms
) -> dict[str, Any]:
    """The facts of a store with bounds that are relative to each value, as they were asked for."""
    if not logarithms.units:
        return dict(facts)
    names = set(logarithms.units)
    largest = facts["largest_pointwise_error"]
    asked = {name: config.compression.bounds[name].size for name in names}
    reached = {name: 2 ** largest[name] - 1 for name in names if name in largest}
    return {
        **facts,
        "max_error": _without(facts["max_error"], names),
        "largest_pointwise_error": _without(largest, names),
        "max_relative_error": asked,
        "largest_relative_error": reached,
    }


def _without(found: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: each for name, each in found.items() if name not in names}

"""Bounds on each index of some dims, such as each level, relative to its own fluctuation.

One bound over all levels lets those that fluctuate little be ruined. So values are divided by a
factor for each index before they are coded, which evens out what all lose; then what is lost is
measured, and where it is too much at some index everything is coded anew with better factors. In
which way variables are coded does not matter.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from romzarr.archive import Archive
from romzarr.archive.separate import separate_dims
from romzarr.chunked.blocks import aligned_tile, lazy_tiles
from romzarr.chunked.by_index import FoundErrors, MeasureErrors, joined_errors, scaled_source
from romzarr.chunked.slices import gathered
from romzarr.compression.block_errors import (
    error_grid,
    with_block_errors,
    without_block_errors,
)
from romzarr.compression.index_norms import LEAST, MOST, Groups, IndexNorms, axes_of, index_norms
from romzarr.compression.sums import sums_asked
from romzarr.compression.write_store import rounded_down, rounded_up
from romzarr.config import AUTO, NO_TOLERANCE, NONE, BoundKind, CompressionConfig
from romzarr.contracts import ArchivedVariable, Matrix, ReadCost, Scaling
from romzarr.errors import AccuracyError, ConfigError
from romzarr.numerics.budget import RESERVE, ROUNDING_SHARE
from romzarr.numerics.error_blocks import BlockErrors
from romzarr.numerics.scaling import PARTS, exponents_of, factors_of
from romzarr.store.limits import MAX_INDICES
from romzarr.store.reading.draft import Draft
from romzarr.store.reading.facts import ERRORS_BY_INDEX

log = logging.getLogger(__name__)

# What is aimed at, attempt by attempt, as a share of the tolerance: at first nothing is known of
# how evenly indices lose, and few modes come in steps that are too large for a close aim.
AIMS = (0.93, 0.97, 0.94, 0.88, 0.8, 0.6, 0.3)
# Factors change by no more than two to this power at a time.
MOST_CHANGE = 4
# Indices up to which all errors are recorded.
MOST_RECORDED = 256
# Least share of the error allowed that coding is believed to use.
LEAST_USED = 0.5


@dataclass(frozen=True)
class Aim:
    """How a variable is coded: ``exponents`` of its factors, and the ``share`` of the tolerance
    that all scaled values together may use."""

    exponents: NDArray[np.int64]
    share: float


@dataclass(frozen=True)
class Outcome:
    """An aim, and the largest error of an index by the share that was aimed at."""

    aim: Aim
    largest: float


@dataclass(frozen=True)
class IndexBounds:
    """What is asked of the indices of an archive's variables, by name, and how it is aimed at.

    Variables get ``shares`` of the tolerance, 1 where none is named. ``best`` are the outcomes of
    the attempts so far whose indices lost most evenly.
    """

    norms: Mapping[str, IndexNorms]
    aims: Mapping[str, Aim]
    tolerance: float
    cost: ReadCost
    attempt: int = 0
    shares: Mapping[str, float] = field(default_factory=dict)
    best: Mapping[str, Outcome] = field(default_factory=dict)

    def scaled(self, archive: Archive) -> Archive:
        """The archive with values scaled."""
        variables = [
            _scaled(each, self.norms[each.name], self._aim(each.name), self.tolerance)
            if each.name in self.aims
            else each
            for each in archive.variables
        ]
        return replace(archive, variables=tuple(variables))

    def tolerance_of(self, name: str) -> float:
        """The tolerance of a variable."""
        return self.tolerance * self.shares.get(name, 1.0)

    def _aim(self, name: str) -> Aim:
        aim = self.aims[name]
        return replace(aim, share=aim.share * self.shares.get(name, 1.0))

    def without(self, names: Collection[str]) -> IndexBounds:
        """The same without those of some variables."""
        norms = {name: each for name, each in self.norms.items() if name not in names}
        aims = {name: each for name, each in self.aims.items() if name not in names}
        return replace(self, norms=norms, aims=aims)


@dataclass(frozen=True)
class IndexErrors:
    """The errors of each index of the ``dims`` of a variable, relative to its own fluctuation, and
    that of all together; ``squares`` are their squared norms, ``fluctuations`` those that errors
    are relative to, and ``blocks`` the errors by block."""

    dims: tuple[str, ...]
    errors: Matrix
    whole: float
    squares: Matrix
    fluctuations: Matrix
    blocks: BlockErrors

    @property
    def largest(self) -> float:
        return float(self.errors.max(initial=0.0))

    @property
    def fluctuation(self) -> float:
        """Squared fluctuation of all together."""
        return float(self.fluctuations.sum())


# --- what is asked ------------------------------------------------------------------------


def bounded_dims(archive: Archive, config: CompressionConfig) -> dict[str, tuple[str, ...]]:
    """Dims whose indices have bounds of their own, by variable, in its order.

    None of a variable that has a bound as a whole alone, but not about its mean.

    Raises
    ------
    ConfigError
        If a dim is that of time, or one that no variable has, or indices are too many.
    """
    wanted: tuple[str, ...] = ()
    if not 0 < config.tolerance < NO_TOLERANCE:
        return {}
    if config.per == AUTO:
        wanted = separate_dims(archive, MAX_INDICES)
    elif config.per != NONE:
        wanted = tuple(config.per)
        _check_dims(archive, wanted)
    found, summed = {}, sums_asked(archive, config)
    for variable in archive.variables:
        dims = tuple(dim for dim in variable.space_dims if dim in wanted)
        count = math.prod(variable.shape[a] for a in axes_of(variable, dims))
        if count > MAX_INDICES:
            raise ConfigError(
                f"compression.per: variable {variable.name!r} has {count} indices of "
                f"{', '.join(dims)}, allowed are up to {MAX_INDICES} with bounds of their own"
            )
        bound = config.bounds.get(variable.name)
        if bound is not None and bound.kind == BoundKind.VALUE:
            continue
        # What sums add to the error is measured too.
        if count > 1 or config.climatology or variable.name in summed:
            found[variable.name] = dims if count > 1 else ()
    return found


def _check_dims(archive: Archive, wanted: Sequence[str]) -> None:
    known = sorted({dim for variable in archive.variables for dim in variable.space_dims})
    for dim in wanted:
        if dim not in known:
            time = ", which is that of time" if dim == archive.time.dim else ""
            raise ConfigError(
                f"compression.per: found dim {dim!r}{time}; allowed are dims of the variables that "
                f"are compressed, without time: {', '.join(map(repr, known)) or 'there are none'}"
            )


def index_bounds(
    archive: Archive,
    dims: Mapping[str, tuple[str, ...]],
    groups: Groups,
    tolerance: float,
    gaps: bool,
    sampled: bool = False,
) -> IndexBounds:
    """Bounds on each index of some dims of some variables. Runs Dask, and reads these once.

    Fluctuations are about the means of `groups` (m,) of snapshots. Those of one variable are held
    here. Where there are `gaps`, known fill values are
    no numbers. If it is `sampled`, a few tiles of each index are read, which are enough for an
    estimate.
    """
    norms, cost = dict[str, IndexNorms](), ReadCost()
    for variable in archive.variables:
        if variable.name in dims:
            each, read = index_norms(variable, dims[variable.name], groups, gaps, sampled)
            cost += read
            least = 1 if dims[variable.name] else 0
            if np.count_nonzero(each.bounded | each.constant) > least:
                norms[variable.name] = each
    aims = {name: Aim(exponents_of(each.sizes), AIMS[0]) for name, each in norms.items()}
    return IndexBounds(norms, aims, tolerance, cost)


# --- how it is aimed at -------------------------------------------------------------------


def _scaled(
    variable: ArchivedVariable, norms: IndexNorms, aim: Aim, tolerance: float
) -> ArchivedVariable:
    """The variable with scaled values, whose tolerance is the share of it that is aimed at."""
    if not norms.bounded.any():
        return variable
    factors = factors_of(aim.exponents) if norms.dims else np.ones_like(norms.squares)
    square = float(np.sum(norms.squares / factors**2, where=norms.bounded))
    about_mean = float(np.sum(norms.about_mean / factors**2, where=norms.bounded))
    variable = replace(
        variable,
        fluctuation=aim.share**2 * square,
        share=min(aim.share * (square / about_mean) ** 0.5, 1.0),
    )
    if not norms.dims:
        return variable
    dtype = _dtype(variable, norms, tolerance)
    counted = np.where(norms.constant, 0.0, norms.counted)
    return replace(
        variable,
        source=scaled_source(variable.source, variable.time_axis, factors, norms.constant, dtype),
        scaling=Scaling(
            norms.dims,
            aim.exponents.reshape([variable.shape[a] for a in axes_of(variable, norms.dims)]),
            variable.source,
            norms.steady,
        ),
        average=float(np.sum(counted * norms.averages / factors) / counted.sum()),
    )


def _dtype(variable: ArchivedVariable, norms: IndexNorms, tolerance: float) -> np.dtype[Any]:
    """Float32 where its rounding is negligible at each index."""
    single = np.dtype(np.float32)
    size = norms.sizes
    rounding = float(np.finfo(single).eps) * np.sqrt(norms.means + size**2)
    fits = (rounding <= ROUNDING_SHARE * tolerance * size) | ~norms.bounded
    return single if variable.dtype.itemsize <= 4 and fits.all() else np.dtype(np.float64)


def index_errors(
    draft: Draft, archive: Archive, known: Mapping[str, IndexNorms]
) -> tuple[dict[str, IndexErrors], ReadCost]:
    """Errors of each index, by variable, of a store before its commit; and the cost. Runs Dask.

    Reads these variables once.
    """
    found, cost = dict[str, IndexErrors](), ReadCost()
    for variable in archive.variables:
        if variable.name not in known:
            continue
        norms, tile = known[variable.name], aligned_tile(variable, LEAST, MOST)
        task = MeasureErrors(
            draft,
            variable.name,
            variable.time_axis,
            variable.inner_product,
            norms.squares.shape,
            error_grid(archive, variable, norms.dims),
        )
        measured: FoundErrors = gathered(
            lazy_tiles(variable, tile, task, joined_errors), joined_errors
        )
        cost += measured.cost
        squares = np.where(norms.bounded, norms.squares, 1.0)
        errors = np.sqrt(np.where(norms.bounded, measured.squares / squares, 0.0))
        fluctuations = np.where(norms.bounded, norms.squares, 0.0)
        lost = float(np.sum(measured.squares))
        whole = (lost / float(fluctuations.sum())) ** 0.5 if lost else 0.0
        blocks = BlockErrors(measured.blocks)
        found[variable.name] = IndexErrors(
            norms.dims, errors, whole, measured.squares, fluctuations, blocks
        )
    return found, cost


def error_facts(
    facts: Mapping[str, Any], found: Mapping[str, IndexErrors], bounded: Collection[str]
) -> dict[str, Any]:
    """The facts of a store with errors that were measured, of which some are `bounded` by index."""
    tolerance = facts["tolerance"]
    whole = {name: rounded_up(each.whole, tolerance) for name, each in found.items()}
    more: dict[str, Any] = {"relative_l2_error": facts["relative_l2_error"] | whole}
    if "fluctuation" in facts:
        totals = {name: each.fluctuation for name, each in found.items()}
        more["fluctuation"] = facts["fluctuation"] | totals
    if bounded:
        more[ERRORS_BY_INDEX] = {
            name: _recorded(each, tolerance)
            for name, each in found.items()
            if name in bounded and each.errors.size <= MOST_RECORDED
        }
    # Those of what was coded are of other values.
    facts = without_block_errors(facts, found)
    return with_block_errors({**facts, **more}, {name: each.blocks for name, each in found.items()})


def _recorded(found: IndexErrors, tolerance: float) -> dict[str, Any]:
    """Errors of indices and what they are relative to, in few digits: products are no smaller."""
    errors, squares = found.errors.ravel().tolist(), found.fluctuations.ravel().tolist()
    short = [rounded_down(*each, tolerance) for each in zip(squares, errors, strict=True)]
    more = [
        (each / less) ** 0.5 if less else 1.0 for each, less in zip(squares, short, strict=True)
    ]
    errors = [rounded_up(error * by, tolerance) for error, by in zip(errors, more, strict=True)]
    return {"dims": list(found.dims), "errors": errors, "fluctuation": short}


def next_bounds(asked: IndexBounds, found: Mapping[str, IndexErrors]) -> IndexBounds | None:
    """What to aim at after these errors; None if all are within their bounds.

    Raises
    ------
    AccuracyError
        If they never are.
    """
    # Other machines may round decoded values in another way.
    limit = (1 - RESERVE) * asked.tolerance
    missed = {name for name in asked.norms if found[name].largest > limit}
    if not missed:
        return None
    attempt = asked.attempt + 1
    if attempt == len(AIMS):
        raise _missed_error(asked, found)
    aims, best = dict(asked.aims), dict(asked.best)
    for name, aim in asked.aims.items():
        if name not in found:
            continue
        tolerance, outcome = asked.tolerance_of(name), Outcome(aim, found[name].largest / aim.share)
        best[name] = _better(best.get(name), outcome)
        if best[name] is outcome:
            aims[name] = _next(asked.norms[name], aim, found[name], tolerance, AIMS[attempt])
        else:
            aims[name] = _again(best[name], tolerance, AIMS[attempt])
    log.info("coded anew for bounds on single indices of %s", ", ".join(sorted(missed)))
    return replace(asked, aims=aims, best=best, attempt=attempt)


def _better(best: Outcome | None, outcome: Outcome) -> Outcome:
    """The outcome whose indices lose more evenly; of the same factors, what was worse."""
    if best is None:
        return outcome
    if np.array_equal(best.aim.exponents, outcome.aim.exponents):
        return replace(best, largest=max(best.largest, outcome.largest))
    return min(best, outcome, key=lambda each: each.largest)


def _again(best: Outcome, tolerance: float, share: float) -> Aim:
    """The best factors so far, and the share that should leave all indices within the tolerance.

    Where indices have few coded numbers, what they lose is chance: better factors are not found.
    """
    return Aim(best.aim.exponents, share * tolerance / best.largest)


def _next(norms: IndexNorms, aim: Aim, found: IndexErrors, tolerance: float, share: float) -> Aim:
    """Factors with which all indices should lose as much, and the share that this leaves.

    What an index loses is about in proportion to its factor.
    """
    bounded, target = norms.bounded & (found.errors > 0), share * tolerance
    if not bounded.any():
        return aim
    errors = np.where(bounded, found.errors, target)
    change = np.rint(np.clip(np.log2(target / errors), -MOST_CHANGE, MOST_CHANGE) * PARTS)
    exponents = aim.exponents + change.astype(np.int64)
    used = _share(norms, factors_of(aim.exponents), found.errors, tolerance) / aim.share
    foretold = errors * np.exp2(change / PARTS)
    foretold *= target / foretold.max()
    wanted = _share(norms, factors_of(exponents), foretold, tolerance)
    return Aim(exponents, wanted / float(np.clip(used, LEAST_USED, 1.0)))


def _share(norms: IndexNorms, factors: Matrix, errors: Matrix, tolerance: float) -> float:
    """Error of all scaled values together, with these at each index, by the tolerance."""
    squares = norms.squares / factors**2
    whole = np.sum(squares, where=norms.bounded)
    return float(np.sqrt(np.sum(errors**2 * squares, where=norms.bounded) / whole)) / tolerance


def _missed_error(asked: IndexBounds, found: Mapping[str, IndexErrors]) -> AccuracyError:
    """That no attempt was within the bounds."""
    name = max(found, key=lambda each: found[each].largest)
    return AccuracyError(
        f"variable {name!r}: an index of {', '.join(found[name].dims)} has an error of "
        f"{found[name].largest:.3e} of its own fluctuation after {len(AIMS)} attempts, above "
        f"the tolerance {asked.tolerance:g}; raise compression.tolerance, or take compression.per "
        f"none"
    )

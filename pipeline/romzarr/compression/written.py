"""An archive put into a store within all bounds, attempt by attempt."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from romzarr.archive import Archive
from romzarr.archive.climatology import groups_asked
from romzarr.chunked.derivatives import DerivativeError
from romzarr.compression.block_errors import without_block_errors
from romzarr.compression.by_index import (
    IndexBounds,
    IndexErrors,
    bounded_dims,
    error_facts,
    index_bounds,
    index_errors,
    next_bounds,
)
from romzarr.compression.derivatives import (
    DerivativeBounds,
    derivative_facts,
    errors_of_draft,
    next_shares,
    unreachable,
    with_shares,
)
from romzarr.compression.few_snapshots import are_few
from romzarr.compression.layers import write_layers
from romzarr.compression.pointwise import AIM, AIMS
from romzarr.compression.sums import sum_facts, sums_asked, write_sums
from romzarr.compression.tiled import tiled
from romzarr.compression.value_bounds import (
    Logarithms,
    ResolvedBounds,
    relative_facts,
    resolve_bounds,
    tightened,
)
from romzarr.compression.write_archive import write_archive
from romzarr.compression.write_pod import Result
from romzarr.compression.write_store import changed_settings
from romzarr.config import NO_TOLERANCE, Config
from romzarr.contracts import EXACT, ReadCost
from romzarr.derivatives import bounded_derivatives
from romzarr.errors import AccuracyError, ConfigError, GapsError
from romzarr.progress import step
from romzarr.store.reading.draft import Draft
from romzarr.store.writing.writer import StoreWriter

log = logging.getLogger(__name__)

# Archives up to here are coded several times, if single values are bounded, to find what is best.
SEARCHED_BYTES = 16 << 20


class Written(NamedTuple):
    """What a store holds, its bytes, and those of single variables; errors by index, where these
    have bounds."""

    result: Result
    nbytes: int
    by_variable: Mapping[str, int]
    by_index: Mapping[str, IndexErrors]


def write_within_bounds(
    open_writer: Callable[[], StoreWriter],
    archive: Archive,
    config: Config,
    facts_of: Callable[[Result], Mapping[str, Any]],
    gaps: bool = False,
    bounds: IndexBounds | None = None,
    known: Callable[[Mapping[str, Any]], dict[str, Any]] = dict,
) -> Written:
    """Write and commit a store, or a part of one. Runs Dask.

    Everything is written anew where gaps are found that were not looked for, and where the error at
    a single index is above its bound.

    Parameters
    ----------
    open_writer : callable
        Opens a new writer of the same store.
    archive : Archive
    config : Config
    facts_of : callable
        Facts of the store, from what was written.
    gaps : bool
        Whether to look for gaps from the beginning.
    bounds : IndexBounds, optional
        Those of single indices and of variables as a whole, in place of those of the settings.
    known : callable
        Gives facts with errors against the original, where the archive is not that.

    Raises
    ------
    ArchiveError, AccuracyError, StoreError
    """
    _refuse_finer_layers(config)
    archive = tiled(archive, config.layout)
    resolved = _resolved(archive, config)
    if bounds is not None:
        resolved, bounds = resolved.within(bounds.norms), bounds.without(resolved.logarithms.units)
    task = _Task(open_writer, archive, config, facts_of, resolved, bounds, known)
    # Fill values that nobody declared cannot be told among logarithms.
    gaps = gaps or bool(task.resolved.logarithms.units)
    try:
        return task.written(gaps)
    except GapsError as found:
        log.info("everything is read once more for its gaps: %s", found)
        return task.written(gaps=True)


def _refuse_finer_layers(config: Config) -> None:
    asked, tolerance = config.compression.layer_tolerances, config.compression.tolerance
    finer = [each for each in asked if each <= tolerance < NO_TOLERANCE]
    if finer:
        raise ConfigError(
            f"compression.layers: found {finer[0]:g}, allowed are numbers above the tolerance of "
            f"{tolerance:g}, within which the whole store is read anyway"
        )


def _resolved(archive: Archive, config: Config) -> ResolvedBounds:
    compression = config.compression
    if compression.tolerance == 0:
        # Nothing is lost that a bound could be about.
        return ResolvedBounds(config, Logarithms({}, {}, {}), ReadCost())
    if compression.bounds.keys() <= compression.absolute_bounds.keys():
        return resolve_bounds(archive, config)
    with step("ranges") as looking:
        found = resolve_bounds(archive, config)
        looking.bytes = found.cost.bytes_read
    return found


@dataclass(frozen=True)
class _Task:
    """What is to be written, with bounds on single values ``resolved``."""

    open_writer: Callable[[], StoreWriter]
    archive: Archive
    config: Config
    facts_of: Callable[[Result], Mapping[str, Any]]
    resolved: ResolvedBounds
    bounds: IndexBounds | None
    known: Callable[[Mapping[str, Any]], dict[str, Any]]

    def written(self, gaps: bool) -> Written:
        """Write attempts until one is within all bounds, and commit it."""
        asked, resolved = self._asked(gaps), self.resolved
        aim = self._best_aim(asked, gaps)
        cost, compression = ReadCost(), self.config.compression
        derived = DerivativeBounds(bounded_derivatives(self.archive, compression))
        while True:
            with self.open_writer() as writer:
                with self.archive.unchanging():
                    result, found = self._reached(writer, asked, resolved, gaps, aim, derived)
                    result, errors = self._with_derivatives(writer, result, derived)
                cost += result.cost
                following = next_bounds(asked, found)
                tighter = tightened(resolved, found, compression.tolerance)
                reached = result.facts["relative_l2_error"]
                closer = next_shares(derived, errors, reached, compression.tolerance)
                if following is None and tighter is None and closer is None:
                    result = replace(result, facts=self.known(result.facts))
                    result = self._with_layers(writer, result)
                    with step("commit"):
                        nbytes = writer.commit(self.facts_of(result))
                    by_index = {name: found[name] for name in asked.norms}
                    result = replace(result, cost=cost + asked.cost + resolved.cost)
                    return Written(result, nbytes, writer.bytes_by_variable, by_index)
            asked, resolved = following or asked, tighter or resolved
            if closer is not None:
                derived = closer
                asked = with_shares(asked, closer.shares, self.archive, compression, gaps)

    def _with_sums(self, writer: StoreWriter, result: Result, bounds: IndexBounds) -> Result:
        """The same with weighted sums exact, where they are asked for."""
        variables = result.facts["variables"]
        asked = {
            name: sums
            for name, sums in sums_asked(self.archive, self.config.compression).items()
            if variables[name]["coding"] not in EXACT
        }
        if not asked:
            return result
        with step("sums") as summing:
            constant = {name: each.constant for name, each in bounds.norms.items()}
            cost = write_sums(writer, self.archive, result.facts, asked, constant)
            summing.bytes = cost.bytes_read
        # They are measured where what sums add is known.
        said = sum_facts(without_block_errors(result.facts, asked), asked)
        return replace(result, facts=said, cost=result.cost + cost)

    def _reached(
        self,
        writer: StoreWriter,
        asked: IndexBounds,
        resolved: ResolvedBounds,
        gaps: bool,
        aim: float,
        derived: DerivativeBounds,
    ) -> tuple[Result, Mapping[str, IndexErrors]]:
        """An attempt that says so where derivatives ask for more than there is."""
        try:
            return self._attempt(writer, asked, resolved, gaps, aim)
        except AccuracyError as error:
            if not asked.shares:
                raise
            raise unreachable(derived, error) from error

    def _with_derivatives(
        self, writer: StoreWriter, result: Result, derived: DerivativeBounds
    ) -> tuple[Result, Mapping[str, DerivativeError]]:
        """The same with the errors of derivatives, where these are bounded."""
        if not derived.derivatives:
            return result, {}
        draft, facts = Draft(*writer.draft(result.facts)), result.facts
        with step("derivatives") as measuring:
            found, cost = errors_of_draft(
                draft, self.archive, derived, facts, self.config.compression.climatology
            )
            measuring.bytes = cost.bytes_read
        said = derivative_facts(facts, derived, found)
        return replace(result, facts=said, cost=result.cost + cost), found

    def _with_layers(self, writer: StoreWriter, result: Result) -> Result:
        """The same in layers, where these are asked for."""
        tolerances = self.config.compression.layer_tolerances
        if not tolerances:
            return result
        with step("layers"):
            facts = write_layers(writer, self.archive, result.facts, tolerances)
        return replace(result, facts=facts)

    def _asked(self, gaps: bool) -> IndexBounds:
        """Bounds on single indices, after a look at these if they are not known."""
        if self.bounds is not None:
            return self.bounds
        compression = self.config.compression
        dims = bounded_dims(self.archive, compression)
        if not dims:
            return IndexBounds({}, {}, compression.tolerance, ReadCost())
        groups = groups_asked(self.archive, compression.climatology)
        with step("indices") as looking:
            found = index_bounds(self.archive, dims, groups, compression.tolerance, gaps)
            looking.bytes = found.cost.bytes_read
        return found

    def _best_aim(self, asked: IndexBounds, gaps: bool) -> float:
        """The share of bounds on single values at which modes aim for the smallest store.

        It is looked for from the usual one on, where that takes seconds.
        """
        lossless = self.config.compression.tolerance == 0
        searched = (
            not lossless and self.archive.raw_bytes <= SEARCHED_BYTES and not are_few(self.archive)
        )
        if not (self.resolved.is_bounding and searched):
            return AIM
        sizes = dict[float, int]()

        def size(place: int) -> int:
            if place not in range(len(AIMS)):
                return sys.maxsize
            if (aim := AIMS[place]) not in sizes:
                with self.open_writer() as writer:
                    sizes[aim] = self._size(writer, asked, gaps, aim)
            return sizes[aim]

        best = AIMS.index(AIM)
        for direction in (1, -1):
            while size(best + direction) < size(best):
                best += direction
        return AIMS[best]

    def _size(self, writer: StoreWriter, asked: IndexBounds, gaps: bool, aim: float) -> int:
        """Bytes of a store with modes that aim at this share; no number where they cannot."""
        try:
            self._attempt(writer, asked, self.resolved, gaps, aim)
        except AccuracyError as error:
            log.info("modes cannot aim at %g of bounds on single values: %s", aim, error)
            return sys.maxsize
        return writer.drafted_bytes

    def _attempt(
        self,
        writer: StoreWriter,
        asked: IndexBounds,
        resolved: ResolvedBounds,
        gaps: bool,
        aim: float,
    ) -> tuple[Result, Mapping[str, IndexErrors]]:
        """What was written, and the errors of single indices."""
        logarithms = resolved.logarithms

        def prepared(archive: Archive) -> Archive:
            return asked.scaled(logarithms.taken(archive))

        result = write_archive(writer, self.archive, resolved.config, gaps, prepared, aim)
        # Bounds as they were asked for.
        said = {**result.facts, "config": changed_settings(self.config)}
        result = replace(result, facts=said)
        result = self._with_sums(writer, result, asked)
        norms = {**asked.norms, **logarithms.norms}
        draft = Draft(*writer.draft(result.facts)) if norms or resolved.is_bounding else None
        if draft is None or not norms:
            return result, {}
        with step("measure") as measuring:
            found, cost = index_errors(draft, self.archive, norms)
            measuring.bytes = cost.bytes_read
        facts = error_facts(result.facts, found, asked.norms)
        facts = relative_facts(facts, self.config, logarithms)
        result = replace(result, facts=facts, cost=result.cost + cost)
        return result, found

"""An archive put into a store within all bounds, attempt by attempt."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from romzarr.archive import Archive
from romzarr.archive.climatology import groups_asked
from romzarr.compression.by_index import (
    IndexBounds,
    IndexErrors,
    bounded_dims,
    error_facts,
    index_bounds,
    index_errors,
    next_bounds,
)
from romzarr.compression.write_archive import write_archive
from romzarr.compression.write_pod import Result
from romzarr.config import Config
from romzarr.errors import GapsError
from romzarr.progress import step
from romzarr.store.reading.draft import Draft
from romzarr.store.writing.writer import StoreWriter

log = logging.getLogger(__name__)


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

    Raises
    ------
    ArchiveError, AccuracyError, StoreError
    """
    try:
        return _written(open_writer, archive, config, facts_of, gaps)
    except GapsError as found:
        log.info("everything is read once more for its gaps: %s", found)
        return _written(open_writer, archive, config, facts_of, gaps=True)


def _written(
    open_writer: Callable[[], StoreWriter],
    archive: Archive,
    config: Config,
    facts_of: Callable[[Result], Mapping[str, Any]],
    gaps: bool,
) -> Written:
    asked = _asked(archive, config, gaps)
    while True:
        with open_writer() as writer:
            with archive.unchanging():
                result = write_archive(writer, archive, config, gaps, asked)
                result, found = _with_errors(writer, archive, result, asked)
            following = next_bounds(asked, found) if asked and found else None
            if following is None:
                with step("commit"):
                    nbytes = writer.commit(facts_of(result))
                return Written(result, nbytes, writer.bytes_by_variable, found)
            asked = replace(following, cost=result.cost)


def _asked(archive: Archive, config: Config, gaps: bool) -> IndexBounds | None:
    """Bounds on single indices, after a look at these; None if there are none."""
    dims = bounded_dims(archive, config.compression)
    if not dims:
        return None
    with step("indices") as looking:
        groups = groups_asked(archive, config.compression.climatology)
        found = index_bounds(archive, dims, groups, config.compression.tolerance, gaps)
        looking.bytes = found.cost.bytes_read
    return found if found.norms else None


def _with_errors(
    writer: StoreWriter, archive: Archive, result: Result, asked: IndexBounds | None
) -> tuple[Result, Mapping[str, IndexErrors]]:
    """The same with the errors of single indices, which are measured."""
    if asked is None:
        return result, {}
    with step("measure") as measuring:
        found, cost = index_errors(Draft(*writer.draft(result.facts)), archive, asked)
        measuring.bytes = cost.bytes_read
    facts = error_facts(result.facts, found)
    return replace(result, facts=facts, cost=result.cost + asked.cost + cost), found

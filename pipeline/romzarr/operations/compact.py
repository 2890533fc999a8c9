"""Put the parts of a store together, from the store alone."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from romzarr.archive import Archive
from romzarr.archive.climatology import are_alone, groups_asked, groups_of
from romzarr.compression.by_index import bounded_dims
from romzarr.compression.index_norms import Groups
from romzarr.compression.joined_errors import joined_errors, larger_errors
from romzarr.compression.remaining import Remaining, remaining_bounds
from romzarr.compression.write_pod import check_bound
from romzarr.compression.write_store import compact_chunks, rounded_up
from romzarr.compression.written import write_within_bounds
from romzarr.config import Config, with_values
from romzarr.contracts import MIN_SNAPSHOTS
from romzarr.errors import AccuracyError, LargerStoreError
from romzarr.operations.decoded import decoded_archive
from romzarr.operations.when_to_compact import (
    APPENDS,
    Merge,
    due_merge,
    never_merged,
    whole_merge,
)
from romzarr.progress import working_on
from romzarr.recorded_config import config_of
from romzarr.reports import CompactReport
from romzarr.store.commit import sweep
from romzarr.store.reading.facts import BLOCK_ERRORS, ERRORS_BY_INDEX, errors_of
from romzarr.store.reading.reader import CoefficientStore, open_store
from romzarr.store.writing.writer import StoreWriter

log = logging.getLogger(__name__)


def compact(store: str | os.PathLike[str]) -> CompactReport:
    """Put the parts of a store together, as if all snapshots had been compressed at once.

    Every append adds a part, or goes on with one: each has metadata of its own, and modes chosen
    before later snapshots were known. This decodes the store, and compresses what it decodes to
    within what the parts have left of the bounds; nothing of the archive is read. Errors against it
    are at most those of the parts and those of this together (triangle inequality), and recorded as
    such; all kinds of bounds are kept, and sums but for rounding. Modes, coefficients, regimes and
    the model are found anew. Oldest parts stay as they are if they have used up too much of a bound
    for that, as a long record has that grew by little. The whole store stays as it is,
    and the report says why, where nothing would make it smaller.

    Runs on the current Dask scheduler or cluster. The store is decoded three times, block by block,
    and held in no place; a POD grows with its rank. The commit is one step: whoever is killed
    leaves the parts as they were. Who has opened these reads on (`romzarr.store.commit.RETENTION`).

    Parameters
    ----------
    store : path or URL
        Written by `romzarr.append`, `romzarr.compress` or a closed stream. It can be appended to
        afterwards as before.

    Returns
    -------
    CompactReport

    Raises
    ------
    StoreError
        If the store cannot be read or written, or was changed by another writer meanwhile.
    """
    began, cpu = time.perf_counter(), time.process_time()
    sweep(store)
    opened = open_store(store)
    before = opened.stored_bytes()
    why = _obstacle(opened) or _merged(store, opened, whole_merge(opened))
    now = open_store(store)
    return CompactReport(
        compacted=not why,
        why=why,
        parts_before=len(opened.parts),
        parts=len(now.parts),
        bytes_before=before,
        stored_bytes=now.stored_bytes(),
        snapshots=now.snapshots,
        relative_l2_error=errors_of(now.facts, now.variables),
        tolerance=now.facts["tolerance"],
        rank=now.last.rank,
        seconds=time.perf_counter() - began,
        cpu_seconds=time.process_time() - cpu,
    )


def compact_if_it_pays(store: str | os.PathLike[str], before: CoefficientStore) -> None:
    """Put the parts of a store together after an append, if it is time and saves enough.

    See `romzarr.operations.when_to_compact` for when that is.

    Parameters
    ----------
    store : path or URL
    before : CoefficientStore
        As it was before the append.

    Raises
    ------
    StoreError
        If the store cannot be read or written, or was changed by another writer meanwhile.
    """
    opened = open_store(store)
    merge = due_merge(before, opened)
    if merge is not None and not _obstacle(opened):
        why = _merged(store, opened, merge)
        log.info("%s: %s", opened.url, why or "its parts were put together")


def _obstacle(opened: CoefficientStore) -> str:
    """What stands against putting the parts together, as far as facts tell; empty: nothing."""
    if len(opened.parts) == 1:
        return "there is one part alone"
    if "stream" in opened.facts:
        return "a stream is open here; close it, or append to the store, first"
    if opened.snapshots < MIN_SNAPSHOTS:
        return f"there are {opened.snapshots} snapshots, and it takes {MIN_SNAPSHOTS} at least"
    return never_merged(opened)


def _merged(store: str | os.PathLike[str], opened: CoefficientStore, merge: Merge) -> str:
    """Put parts together; return why not, or nothing."""
    with working_on(opened.url), threadpool_limits(1, user_api="blas"):
        try:
            _write_merged(store, opened, merge)
        except (AccuracyError, LargerStoreError) as error:
            return str(error)
    return ""


def _write_merged(store: str | os.PathLike[str], opened: CoefficientStore, merge: Merge) -> None:
    keep, config = merge.keep, config_of(opened)
    parts = replace(opened, parts=opened.parts[keep:])
    archive, recorded = decoded_archive(opened, int(opened.starts[keep])), merge.recorded(opened)
    _check_recorded(archive, config, recorded)
    values = merge.values(opened)
    left = {"compression.max_error": values.settings(merge.share)}
    groups = _groups(archive, config)
    bounds, remaining = remaining_bounds(archive, recorded, groups, merge.share)
    write_within_bounds(
        partial(
            StoreWriter,
            store,
            onto=opened.root,
            keep=keep,
            most_bytes=int(merge.worth * sum(parts.sizes().values())),
        ),
        archive,
        with_values(config, left),
        lambda result: _facts(parts, merge, opened, result.facts),
        gaps=True,
        bounds=bounds,
        known=lambda found: {**_known(found, recorded, remaining), **values.facts(found)},
    )


def _check_recorded(archive: Archive, config: Config, recorded: Mapping[str, Any]) -> None:
    for name, dims in bounded_dims(archive, config.compression).items():
        if name not in recorded.get(ERRORS_BY_INDEX, {}):
            of = f" for each of {', '.join(dims)}" if dims else ""
            raise AccuracyError(f"variable {name!r}: no errors are recorded{of}")


def _groups(archive: Archive, config: Config) -> Groups:
    """Of snapshots, about whose means fluctuations are."""
    if config.compression.climatology and are_alone(groups_of(archive)):
        raise AccuracyError(
            f"{len(archive.time.values)} snapshots are too few for a climatology of their own; try "
            "again when there are more"
        )
    return groups_asked(archive, config.compression.climatology)


def _facts(
    merged: CoefficientStore, merge: Merge, opened: CoefficientStore, found: Mapping[str, Any]
) -> dict[str, Any]:
    """Facts of the part in place of those `merged`, with errors of all against the archive."""
    facts, tolerance = opened.facts, float(opened.facts["tolerance"])
    whole = dict(found)
    if merge.keep:
        kept = opened.parts[merge.keep - 1].facts
        whole |= {**joined_errors(kept, found), **larger_errors(kept, found)}
    errors = {
        name: rounded_up(each, tolerance) for name, each in whole["relative_l2_error"].items()
    }
    check_bound(errors, tolerance)
    for name, each in whole.get(ERRORS_BY_INDEX, {}).items():
        check_bound({name: max(each["errors"])}, tolerance)
    variables = {
        name: {**each, **_chunk_facts(merged.variables[name].chunks)}
        for name, each in found["variables"].items()
    }
    return {
        **whole,
        "variables": variables,
        "relative_l2_error": errors,
        "source": _source(facts.get("source", {}), merge.is_early),
        **{key: facts[key] for key in ("raw_bytes", "config")},
    }


def _source(source: Mapping[str, Any], is_early: bool) -> dict[str, Any]:
    """Facts on the source, in which appends are counted from the last merge for good on."""
    return {key: each for key, each in source.items() if is_early or key != APPENDS}


def _known(
    found: Mapping[str, Any], recorded: Mapping[str, Any], remaining: Mapping[str, Remaining]
) -> dict[str, Any]:
    """Facts of merged parts with errors against the archive: what they had lost, and what was lost
    now. Errors by block are not known."""
    errors, fluctuation, by_index = dict[str, float](), dict[str, float](), dict[str, Any]()
    for name, left in remaining.items():
        added = found["relative_l2_error"][name] * found["fluctuation"][name] ** 0.5
        lost = recorded["relative_l2_error"][name] * recorded["fluctuation"][name] ** 0.5
        fluctuation[name] = max(float(np.sum(left.fluctuation**2)), recorded["fluctuation"][name])
        errors[name] = (lost + added) / fluctuation[name] ** 0.5 if lost + added else 0.0
        if name in recorded.get(ERRORS_BY_INDEX, {}):
            by_index[name] = _by_index(found[ERRORS_BY_INDEX][name], left)
    return {
        **{key: found[key] for key in found if key not in (ERRORS_BY_INDEX, BLOCK_ERRORS)},
        "relative_l2_error": errors,
        "fluctuation": fluctuation,
        **({ERRORS_BY_INDEX: by_index} if ERRORS_BY_INDEX in recorded else {}),
    }


def _chunk_facts(chunks: Sequence[int | Sequence[int]] | None) -> dict[str, Any]:
    """The chunks of the archive, and not of what was decoded."""
    return {} if chunks is None else {"chunks": compact_chunks(chunks)}


def _by_index(found: Mapping[str, Any], left: Remaining) -> dict[str, Any]:
    added = np.array(found["errors"]) * np.sqrt(found["fluctuation"])
    errors = left.errors(added.reshape(left.lost.shape))
    return {
        "dims": list(left.dims),
        "errors": errors.ravel().tolist(),
        "fluctuation": (left.fluctuation.ravel() ** 2).tolist(),
    }

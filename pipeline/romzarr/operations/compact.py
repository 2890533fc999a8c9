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

from romzarr.archive.time_axis import MIN_SNAPSHOTS
from romzarr.compression.by_index import bounded_dims
from romzarr.compression.joined_errors import errors_after, joined_errors
from romzarr.compression.remaining import Remaining, remaining_bounds
from romzarr.compression.write_pod import check_bound
from romzarr.compression.write_store import compact_chunks, rounded_up
from romzarr.compression.written import write_within_bounds
from romzarr.config import NONE, Compaction
from romzarr.errors import AccuracyError, LargerStoreError
from romzarr.operations.decoded import decoded_archive
from romzarr.progress import working_on
from romzarr.recorded_config import config_of
from romzarr.reports import CompactReport
from romzarr.store.commit import sweep
from romzarr.store.reading.facts import BLOCK_ERRORS, ERRORS_BY_INDEX, errors_of
from romzarr.store.reading.generation import Generation
from romzarr.store.reading.reader import CoefficientStore, open_store
from romzarr.store.writing.writer import StoreWriter

log = logging.getLogger(__name__)

# Where the facts on the source count the appends.
APPENDS = "appends"
# Share of the bound that snapshots use which are appended. The rest is left for putting parts
# together. Of an open wake (tests/benchmarks/STREAMING.md) in 30 nights a half would take a quarter
# more bytes once they are; an eighth saves 4 %, for parts a third larger until then.
PART_SHARE = 0.2
# Appends put parts together after so many of them: what the oldest part lost is then so little of
# all that numbers take half a bit more than at once, which a later time would not better much. Or
# once there are so many parts: opening them takes requests.
NIGHTS, MOST_PARTS = 30, 32
# Share of the bound that has to be left for putting parts together: numbers take two bits more.
ENOUGH_LEFT = 0.25
# What appends keep has to take at most such a share of the bytes of the parts.
WORTHWHILE = 0.75


def compact(store: str | os.PathLike[str]) -> CompactReport:
    """Put the parts of a store together, as if all snapshots had been compressed at once.

    Every append adds a part, or goes on with one: each has metadata of its own, and modes chosen
    before later snapshots were known. This decodes the store, and compresses what it decodes to
    within what the parts have left of the bounds; nothing of the archive is read. Errors against it
    are at most those of the parts and those of this together (triangle inequality), and recorded as
    such. Modes, coefficients, regimes and the model are found anew. Oldest parts stay as they are
    if they have used up too much of the bound for that, as a long record has that grew by little.
    The whole store stays as it is, and the report says why, where nothing would make it smaller.

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
    why = _obstacle(opened) or _merge(store, opened, 1.0)
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


def part_share(opened: CoefficientStore) -> float:
    """Share of the bound that snapshots may use which are appended to a store.

    All of it, where parts are never put together.
    """
    return PART_SHARE if _is_automatic(opened) and not _never(opened) else 1.0


def appends_of(opened: CoefficientStore) -> int:
    """How often a store was appended to since it was compressed, or its parts put together."""
    return _appends(opened.parts)


def _appends(parts: Sequence[Generation]) -> int:
    """The same, when the last of these parts was written."""
    return int(parts[-1].facts.get("source", {}).get(APPENDS, 0)) if parts else 0


def compact_if_it_pays(store: str | os.PathLike[str], before: CoefficientStore) -> None:
    """Put the parts of a store together after an append, if that saves enough.

    It is tried after 30 appends (`NIGHTS`, the first compression among them) or with 32 parts
    (`MOST_PARTS`), and again each time that these numbers have doubled; and kept if it takes at
    most three quarters (`WORTHWHILE`) of the bytes, or fewer at all where there are many parts.

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
    # What was reached while a part was open, as after few snapshots, could not be acted upon.
    closed = [part for part in before.parts if "stream" not in part.facts]
    many = _reached(MOST_PARTS, len(closed), len(opened.parts))
    due = many or _reached(NIGHTS, 1 + _appends(closed), 1 + appends_of(opened))
    if due and _is_automatic(opened) and not _obstacle(opened):
        why = _merge(store, opened, 1.0 if many else WORTHWHILE)
        log.info("%s: %s", opened.url, why or "its parts were put together")


def _reached(mark: int, before: int, now: int) -> bool:
    """Whether a number has reached a mark, or that times a power of two."""
    return (now // mark).bit_length() > (before // mark).bit_length()


def _is_automatic(opened: CoefficientStore) -> bool:
    return config_of(opened).compression.compact == Compaction.AUTO


def _obstacle(opened: CoefficientStore) -> str:
    """What stands against putting the parts together, as far as facts tell; empty: nothing."""
    if len(opened.parts) == 1:
        return "there is one part alone"
    if "stream" in opened.facts:
        return "a stream is open here; close it, or append to the store, first"
    if opened.snapshots < MIN_SNAPSHOTS:
        return f"there are {opened.snapshots} snapshots, and it takes {MIN_SNAPSHOTS} at least"
    return _never(opened)


def _never(opened: CoefficientStore) -> str:
    """What always stands against it; empty: nothing."""
    compression = config_of(opened).compression
    if compression.tolerance == 0:
        return "it is lossless, so there is no bound to share"
    if compression.max_error != NONE:
        return "bounds on single values (compression.max_error) are not kept by this yet"
    if compression.sum_weights:
        return "sums (compression.sums) are not kept by this yet"
    if compression.climatology:
        return "bounds about a climatology (compression.fluctuation) are not kept by this yet"
    if compression.layer_tolerances:
        return "layers (compression.layers) are not made by this yet"
    return ""


def _merge(store: str | os.PathLike[str], opened: CoefficientStore, share: float) -> str:
    """Put parts together, in such a share of their bytes at most; return why not, or nothing."""
    keep = _parts_to_keep(opened)
    merged = replace(opened, parts=opened.parts[keep:])
    recorded = _recorded(opened, keep)
    most_bytes = int(share * sum(merged.sizes().values()))
    with working_on(opened.url), threadpool_limits(1, user_api="blas"):
        archive, config = decoded_archive(opened, int(opened.starts[keep])), config_of(opened)
        for name, dims in bounded_dims(archive, config.compression).items():
            if name not in recorded.get(ERRORS_BY_INDEX, {}):
                return f"variable {name!r}: no errors are recorded for each of {', '.join(dims)}"
        try:
            bounds, remaining = remaining_bounds(archive, {**opened.facts, **recorded})
            write_within_bounds(
                partial(StoreWriter, store, onto=opened.root, keep=keep, most_bytes=most_bytes),
                archive,
                config,
                lambda result: _facts(merged, keep, opened, result.facts, recorded, remaining),
                gaps=True,
                bounds=bounds,
            )
        except (AccuracyError, LargerStoreError) as error:
            return str(error)
    return ""


def _parts_to_keep(opened: CoefficientStore) -> int:
    """How many of the oldest parts are to stay: the fewest for which the others have left a share.

    None, where that is so whatever stays. What is spent is so joined again only when several times
    as much has come, as the levels of a log-structured merge tree are.
    """
    for keep in range(len(opened.parts) - 1):
        enough = opened.snapshots - opened.starts[keep] >= MIN_SNAPSHOTS
        left = _left(_recorded(opened, keep), float(opened.facts["tolerance"]))
        if enough and left >= ENOUGH_LEFT:
            return keep
    return 0


def _recorded(opened: CoefficientStore, keep: int) -> Mapping[str, Any]:
    """Facts on the errors of all parts but so many of the oldest."""
    return errors_after(opened.parts[keep - 1].facts, opened.facts) if keep else opened.facts


def _left(facts: Mapping[str, Any], tolerance: float) -> float:
    """Least share of the bound that is left of any variable or index, as far as facts tell."""
    errors = [*facts["relative_l2_error"].values()]
    for each in facts.get(ERRORS_BY_INDEX, {}).values():
        errors += each["errors"]
    return 1 - max(errors, default=0.0) / tolerance


def _facts(
    merged: CoefficientStore,
    keep: int,
    opened: CoefficientStore,
    found: Mapping[str, Any],
    recorded: Mapping[str, Any],
    remaining: Mapping[str, Remaining],
) -> dict[str, Any]:
    """Facts of the part in place of those `merged`, with errors of all against the archive."""
    facts, tolerance = opened.facts, float(opened.facts["tolerance"])
    own = _errors(found, recorded, remaining)
    whole = joined_errors(opened.parts[keep - 1].facts, own) if keep else own
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
        # Errors by block are against what was decoded.
        **{key: found[key] for key in found if key not in (ERRORS_BY_INDEX, BLOCK_ERRORS)},
        **whole,
        "variables": variables,
        "relative_l2_error": errors,
        "source": {key: each for key, each in facts.get("source", {}).items() if key != APPENDS},
        **{key: facts[key] for key in ("raw_bytes", "config")},
    }


def _errors(
    found: Mapping[str, Any], recorded: Mapping[str, Any], remaining: Mapping[str, Remaining]
) -> dict[str, Any]:
    """Facts on the errors of merged parts: what they had lost, and what was lost now."""
    errors, fluctuation, by_index = dict[str, float](), dict[str, float](), dict[str, Any]()
    for name, left in remaining.items():
        added = found["relative_l2_error"][name] * found["fluctuation"][name] ** 0.5
        lost = recorded["relative_l2_error"][name] * recorded["fluctuation"][name] ** 0.5
        fluctuation[name] = max(float(np.sum(left.fluctuation**2)), recorded["fluctuation"][name])
        errors[name] = (lost + added) / fluctuation[name] ** 0.5 if lost + added else 0.0
        if name in recorded.get(ERRORS_BY_INDEX, {}):
            by_index[name] = _by_index(found[ERRORS_BY_INDEX][name], left)
    said: dict[str, Any] = {"relative_l2_error": errors, "fluctuation": fluctuation}
    return said | ({ERRORS_BY_INDEX: by_index} if ERRORS_BY_INDEX in recorded else {})


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

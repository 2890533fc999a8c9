"""Append snapshots as a part of its own: coded as by `romzarr.compress`, gaps and all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from romzarr.archive import Archive
from romzarr.archive.climatology import are_alone, groups_of
from romzarr.archive.later import later_part
from romzarr.compression.order_points import in_order_of
from romzarr.compression.write_store import source_facts
from romzarr.config import NONE, TOLERANCE, Config, with_values
from romzarr.operations.compact import APPENDS, part_share
from romzarr.operations.written import write_within_bounds
from romzarr.recorded_config import config_of
from romzarr.store.reading.facts import ERRORS_BY_INDEX, errors_of
from romzarr.store.reading.reader import CoefficientStore, open_store
from romzarr.store.writing.writer import StoreWriter
from romzarr.streams.compressor import StreamCompressor

# The fact with the squared fluctuation of variables, and of indices.
FLUCTUATION = "fluctuation"
# Bounds on single values, and the largest errors: the larger ones are those of all parts.
LARGER = (
    "max_error",
    "largest_pointwise_error",
    "max_relative_error",
    "largest_relative_error",
)


def source_after(archive: Archive, config: Config, appends: int, snapshots: int) -> dict[str, Any]:
    """Facts on where the first `snapshots` are from, and how many `appends` there were."""
    return source_facts(archive, config, snapshots) | {APPENDS: appends}


def append_own_part(store: str | os.PathLike[str], archive: Archive, appends: int) -> None:
    """Append all snapshots of an archive that its store does not have. Runs Dask.

    Reads them twice or three times. Their error is within the bound relative to their own
    fluctuation, so that of all snapshots is, too; a share of it is left to put parts together
    (`romzarr.operations.compact.part_share`). A single one is kept to the bit, since it has no
    fluctuation of its own, and so are those of which most are the only ones of their month, if
    fluctuations are about a climatology.

    Raises
    ------
    ArchiveError, AccuracyError, StoreError
    """
    if "stream" in open_store(store).facts:
        share = part_share(open_store(store), len(archive.time.values))
        StreamCompressor(store, share=share).close()
    opened = open_store(store)
    part, config, last = later_part(archive, opened.snapshots), config_of(opened), opened.last
    share = part_share(opened, len(archive.time.values))
    changes: dict[str, object] = {TOLERANCE: share * config.compression.tolerance}
    climatology = config.compression.climatology
    if len(part.time.values) == 1 or (climatology and are_alone(groups_of(part))):
        changes[TOLERANCE] = 0.0
    if ERRORS_BY_INDEX not in opened.facts:
        changes["compression.per"] = NONE
    asked = with_values(config, changes)
    orders, root = [each.complete(last.arrays) for each in last.orders.values()], opened.root
    with threadpool_limits(1, user_api="blas"):
        write_within_bounds(
            partial(StoreWriter, store, onto=root, keep=len(root.parts)),
            in_order_of(part, orders),
            asked,
            lambda result: {
                **_of_all(opened, archive, result.facts, config),
                "source": source_after(archive, config, appends, len(archive.time.values)),
            },
            gaps=True,
        )


def _by_index(earlier: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Errors by index of all parts."""
    before, found = earlier.get(ERRORS_BY_INDEX), own.get(ERRORS_BY_INDEX, {})
    if before is None:
        return {}
    both = {
        name: _of_both(each, found[name]) if name in found else each
        for name, each in before.items()
    }
    return {ERRORS_BY_INDEX: found | both}


def _of_both(earlier: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Errors by index of two parts: squares add up, and all fluctuates by no less than both.

    Where the fluctuation of earlier ones is not recorded, as in older stores, errors are no larger
    than the larger ones.
    """
    if FLUCTUATION not in earlier:
        errors = list(map(max, earlier["errors"], own["errors"]))
        return {"dims": earlier["dims"], "errors": errors}
    both = (earlier, own)
    errors_of_both = np.array([each["errors"] for each in both])
    squares = np.array([each[FLUCTUATION] for each in both])
    lost, totals = np.sum(errors_of_both**2 * squares, axis=0), np.sum(squares, axis=0)
    together = np.sqrt(lost / np.where(totals > 0, totals, 1.0))
    return {"dims": earlier["dims"], "errors": together.tolist(), FLUCTUATION: totals.tolist()}


def _larger(earlier: Mapping[str, float], own: Mapping[str, float]) -> dict[str, float]:
    """The larger of two numbers for each name."""
    names = {*earlier, *own}
    return {name: max(earlier.get(name, 0.0), own.get(name, 0.0)) for name in sorted(names)}


def _of_all(
    opened: CoefficientStore, archive: Archive, facts: Mapping[str, Any], config: Config
) -> dict[str, Any]:
    """Facts of the part, and of the whole store with it."""
    earlier, own = opened.facts["fluctuation"], facts.get("fluctuation", {})
    errors, found = errors_of(opened.facts, opened.variables), errors_of(facts, opened.variables)
    fluctuation = {name: earlier.get(name, 0.0) + own.get(name, 0.0) for name in errors}
    lost = {
        name: errors[name] ** 2 * earlier.get(name, 0.0) + found[name] ** 2 * own.get(name, 0.0)
        for name in errors
    }
    return {
        **facts,
        "tolerance": config.compression.tolerance,
        "relative_l2_error": {
            name: (lost[name] / fluctuation[name]) ** 0.5 if lost[name] else 0.0 for name in errors
        },
        "fluctuation": fluctuation,
        **_by_index(opened.facts, facts),
        **{key: _larger(opened.facts.get(key, {}), facts.get(key, {})) for key in LARGER},
        "raw_bytes": archive.total_bytes,
        "config": opened.facts["config"],
    }

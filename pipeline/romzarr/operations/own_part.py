"""Append snapshots as a part of its own: coded as by `romzarr.compress`, gaps and all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

from threadpoolctl import threadpool_limits

from romzarr.archive import Archive
from romzarr.archive.climatology import are_alone, groups_of
from romzarr.archive.later import later_part
from romzarr.compression.joined_errors import joined_errors, larger_errors
from romzarr.compression.order_points import in_order_of
from romzarr.compression.write_store import source_facts
from romzarr.compression.written import write_within_bounds
from romzarr.config import NONE, TOLERANCE, Config, with_values
from romzarr.operations.compact import APPENDS, part_share
from romzarr.recorded_config import config_of
from romzarr.store.reading.facts import ERRORS_BY_INDEX
from romzarr.store.reading.reader import CoefficientStore, open_store
from romzarr.store.writing.writer import StoreWriter
from romzarr.streams.compressor import StreamCompressor


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
        share = part_share(open_store(store))
        StreamCompressor(store, share=share).close()
    opened = open_store(store)
    part, config, last = later_part(archive, opened.snapshots), config_of(opened), opened.last
    share = part_share(opened)
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


def _of_all(
    opened: CoefficientStore, archive: Archive, facts: Mapping[str, Any], config: Config
) -> dict[str, Any]:
    """Facts of the part, and of the whole store with it."""
    return {
        **facts,
        "tolerance": config.compression.tolerance,
        **joined_errors(opened.facts, facts),
        **larger_errors(opened.facts, facts),
        "raw_bytes": archive.total_bytes,
        "config": opened.facts["config"],
    }

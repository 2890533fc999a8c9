"""Append snapshots as a part of its own: coded as by `romzarr.compress`, gaps and all."""

from __future__ import annotations

import logging
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
from romzarr.compression.remaining_values import PART_VALUE_BOUNDS, shared_bounds, value_bounds
from romzarr.compression.write_store import source_facts
from romzarr.compression.written import write_within_bounds
from romzarr.config import NO_TOLERANCE, NONE, TOLERANCE, Config, with_values
from romzarr.errors import AccuracyError
from romzarr.operations.when_to_compact import APPENDS, part_share
from romzarr.recorded_config import config_of
from romzarr.store.reading.facts import ERRORS_BY_INDEX
from romzarr.store.reading.reader import CoefficientStore, open_store
from romzarr.store.writing.writer import StoreWriter
from romzarr.streams.compressor import StreamCompressor

log = logging.getLogger(__name__)


def source_after(archive: Archive, config: Config, appends: int, snapshots: int) -> dict[str, Any]:
    """Facts on where the first `snapshots` are from, and how many `appends` there were."""
    return source_facts(archive, config, snapshots) | {APPENDS: appends}


def append_own_part(store: str | os.PathLike[str], archive: Archive, appends: int) -> None:
    """Append all snapshots of an archive that its store does not have. Runs Dask.

    Reads them twice or more. Their error, and that of derivatives with bounds, is within the bound
    relative to their own fluctuation, so that of all snapshots is, too; a share of all bounds is
    left to put parts together (`romzarr.operations.when_to_compact.part_share`), unless it is finer
    than rounding. A single one is kept to the bit, since it has no fluctuation of its own, and so
    are those of which most are the only ones of their month, if fluctuations are about a
    climatology.

    Raises
    ------
    ArchiveError, AccuracyError, StoreError
    """
    share = part_share(open_store(store))
    if "stream" in open_store(store).facts:
        StreamCompressor(store, share=share).close()
    try:
        _append_within(store, archive, appends, share)
    except AccuracyError as error:
        if share == 1:
            raise
        log.info("appended within the whole bound: %s", error)
        _append_within(store, archive, appends, 1.0)


def _append_within(
    store: str | os.PathLike[str], archive: Archive, appends: int, share: float
) -> None:
    """Append them within such a share of the bounds."""
    opened = open_store(store)
    part, config, last = later_part(archive, opened.snapshots), config_of(opened), opened.last
    orders, root = [each.complete(last.arrays) for each in last.orders.values()], opened.root
    with threadpool_limits(1, user_api="blas"):
        write_within_bounds(
            partial(StoreWriter, store, onto=root, keep=len(root.parts)),
            in_order_of(part, orders),
            _settings(opened, part, config, share),
            lambda result: {
                **_of_all(opened, archive, result.facts, config),
                "source": source_after(archive, config, appends, len(archive.time.values)),
            },
            gaps=True,
        )


def _settings(opened: CoefficientStore, part: Archive, config: Config, share: float) -> Config:
    """Settings by which the part is coded."""
    tolerance = config.compression.tolerance
    changes: dict[str, object] = {
        TOLERANCE: share * tolerance if tolerance < NO_TOLERANCE else tolerance,
        "compression.max_error": shared_bounds(config.compression, share),
    }
    climatology = config.compression.climatology
    if len(part.time.values) == 1 or (climatology and are_alone(groups_of(part))):
        changes[TOLERANCE] = 0.0
    if ERRORS_BY_INDEX not in opened.facts:
        changes["compression.per"] = NONE
    return with_values(config, changes)


def _of_all(
    opened: CoefficientStore, archive: Archive, facts: Mapping[str, Any], config: Config
) -> dict[str, Any]:
    """Facts of the part, and of the whole store with it."""
    return {
        **facts,
        **({PART_VALUE_BOUNDS: value_bounds(facts)} if config.compression.bounds else {}),
        "tolerance": config.compression.tolerance,
        **joined_errors(opened.facts, facts),
        **larger_errors(opened.facts, facts),
        "raw_bytes": archive.total_bytes,
        "config": opened.facts["config"],
    }

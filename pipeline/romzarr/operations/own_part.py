"""Append snapshots as a part of its own: coded as by `romzarr.compress`, gaps and all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from threadpoolctl import threadpool_limits

from romzarr.archive import Archive
from romzarr.archive.later import later_part
from romzarr.compression.write_archive import write_archive
from romzarr.compression.write_store import source_facts
from romzarr.config import Config, with_values
from romzarr.recorded_config import config_of
from romzarr.store.reading.facts import errors_of
from romzarr.store.reading.reader import CoefficientStore, open_store
from romzarr.store.writing.writer import StoreWriter
from romzarr.streams.compressor import StreamCompressor


def append_own_part(store: str | os.PathLike[str], archive: Archive) -> None:
    """Append all snapshots of an archive that its store does not have. Runs Dask.

    Reads them twice or three times. Their error is within the bound relative to their own
    fluctuation, so that of all snapshots is, too. A single one is kept to the bit, since it has no
    fluctuation of its own.

    Raises
    ------
    ArchiveError, AccuracyError, StoreError
    """
    if "stream" in open_store(store).facts:
        StreamCompressor(store).close()
    opened = open_store(store)
    part, config = later_part(archive, opened.snapshots), config_of(opened)
    alone = len(part.time.values) == 1
    asked = with_values(config, {"compression.tolerance": 0.0}) if alone else config
    root = opened.root
    with (
        StoreWriter(store, onto=root, keep=len(root.parts)) as writer,
        threadpool_limits(1, user_api="blas"),
    ):
        with archive.unchanging():
            result = write_archive(writer, part, asked, gaps=True)
        writer.commit(_of_all(opened, archive, result.facts, config))


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
        "raw_bytes": archive.total_bytes,
        "config": opened.facts["config"],
        "source": source_facts(archive, config, len(archive.time.values)),
    }

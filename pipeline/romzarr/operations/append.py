"""Append what is new in an archive to its store: only that is read."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, cast

import xarray as xr

from romzarr.archive import Archive, Source, lazy_dataset
from romzarr.archive.time_axis import NONE
from romzarr.arguments import as_whole
from romzarr.chunked.plan import LEAF_BYTES
from romzarr.comparison.blocks import as_stored, engine_of
from romzarr.comparison.source_changes import (
    refuse_other_labels,
    refuse_other_times,
    refuse_other_values,
    refuse_other_variables,
)
from romzarr.config import Config, Settings, given_config, with_engine
from romzarr.contracts import BlockSpan
from romzarr.encoding import encoding_from_json
from romzarr.errors import AccuracyError, GapsError
from romzarr.loss import Loss
from romzarr.operations.compact import compact_if_it_pays
from romzarr.operations.compress import compress_one, tree_of
from romzarr.operations.groups import append_tree, made_time
from romzarr.operations.own_part import append_own_part, source_after
from romzarr.operations.when_to_compact import appends_of, part_share
from romzarr.recorded_config import config_of
from romzarr.reports import AppendReport
from romzarr.store import layout
from romzarr.store.commit import sweep
from romzarr.store.reading.facts import DERIVATIVES, errors_of
from romzarr.store.reading.reader import CoefficientStore, open_store
from romzarr.store.trees import read_tree
from romzarr.streams.compressor import StreamCompressor
from romzarr.streams.held import needs_holding

log = logging.getLogger(__name__)

# Snapshots after which the store is brought up to date.
COMMIT_STEPS = 512


def append(
    store: str | os.PathLike[str],
    source: Source | xr.DataTree,
    *,
    engine: str | None = None,
    config: Settings | None = None,
    commit_steps: int = COMMIT_STEPS,
) -> AppendReport:
    """Bring a store up to date with an archive that has grown in time.

    Of snapshots that the store has nothing is read, but for parts of a Zarr archive whose files
    were written since, and samples of NetCDF files and Dask arrays: these have to be what the
    store was made from, as far as it resolves them (`romzarr.comparison.source_changes`). The
    others are compressed as by `romzarr.StreamCompressor`, a commit every few blocks: whoever is
    killed leaves the last of them, and is gone on with by calling this again. At the end they
    are closed, as a segment of their own or in the modes of the parts before, whichever takes
    fewer bytes; of fewer than five the part stays open. Nothing is written where nothing is new.
    New snapshots with gaps become a part of their own, coded as by `romzarr.compress`; so do all
    where single indices, such as levels, values, sums or derivatives have bounds
    (``compression.per``, ``max_error``, ``sums``, ``derivatives``), about a climatology, with
    layers (``compression.layers``), or where the archive has lost more than before to compression
    of its own (`romzarr.loss`). They use a fifth of the bounds. What they leave is for putting
    parts together, which happens at last where it pays (`romzarr.compact`), but with
    ``compression.compact: none``.

    Of a tree every group is brought up to date, one after the other.

    Parameters
    ----------
    store : path or URL
        Written by `romzarr.compress`, a stream, or this; its settings are used.
    source : path, URL, Dataset, DataArray or DataTree
        What the store was made from, and more.
    engine : str, optional
        Name of the xarray engine that opens `source`. Default: that of the store.
    config : Config, optional
        Only ``archive.missing_chunks`` and ``archive.engine`` of it are used.
    commit_steps : int
        Snapshots between commits.

    Returns
    -------
    AppendReport

    Raises
    ------
    ArchiveError
        If the archive does not begin as the store does; the first time that differs is named.
    ConfigError
        If the store is lossless, or of a single snapshot: these cannot be appended to.
    StoreError
        If the store cannot be written, or somebody else appends to it.
    """
    commit_steps = as_whole(commit_steps, "commit_steps", least=1)
    asked, url = with_engine(given_config(config), engine), layout.normalised(store)

    def one(at: str | os.PathLike[str], group: Source) -> AppendReport:
        return _to_one(at, group, asked, commit_steps)

    tree = read_tree(url)
    if tree is None:
        return one(store, cast(Source, source))
    groups = tree_of(source, made_time(asked, tree), remote=True)
    return append_tree(groups, url, tree, one, compress_one)


def _to_one(
    store: str | os.PathLike[str], source: Source, config: Config, commit_steps: int
) -> AppendReport:
    """Bring a single store up to date."""
    began, opened = time.perf_counter(), open_store(store)
    archive, before = as_stored(opened, source, config), opened.snapshots
    refuse_other_variables(opened, archive)
    refuse_other_labels(opened, archive)
    refuse_other_times(opened, archive)
    stream = None
    # A run that was killed may have left open what it had committed, and files besides.
    sweep(store)
    alone = _are_apart(opened, archive)
    appends = appends_of(opened) + 1
    if not alone and (len(archive.time.values) > before or "stream" in opened.facts):
        # What cannot be appended to says so before anything is read.
        told = partial(source_after, archive, config_of(opened), appends)
        share = part_share(opened)
        stream = StreamCompressor(
            store, commit_steps=commit_steps, source=told, share=share, gaps=False
        )
    refuse_other_values(opened, archive)
    if alone and len(archive.time.values) > before:
        append_own_part(store, archive, appends)
    if stream is not None:
        try:
            _stream(store, stream, archive, source, config, before, commit_steps)
        except (GapsError, AccuracyError) as error:
            log.info("appended as a part of their own: %s", error)
            append_own_part(store, archive, appends)
    compact_if_it_pays(store, opened)
    return _report(open_store(store), before, began)


def _are_apart(opened: CoefficientStore, archive: Archive) -> bool:
    """Whether new snapshots become a part of their own, since a stream cannot keep what is asked
    of them."""
    facts = opened.facts
    if "fluctuation" not in facts:
        # Lossless stores are not appended to.
        return False
    layered = any(variable.layers for variable in opened.last.variables.values())
    bounded = needs_holding(config_of(opened), facts) or DERIVATIVES in facts
    return bounded or layered or _lost_otherwise(opened, archive)


def _lost_otherwise(opened: CoefficientStore, archive: Archive) -> bool:
    """Whether the archive's attributes say of loss before what they did not when it was stored."""

    def before(attrs: Mapping[str, Any]) -> Loss | None:
        return Loss.of(encoding_from_json(attrs))

    return any(
        before(archive.variable_attrs[name]) != before(stored.attrs)
        for name, stored in opened.variables.items()
    )


def _stream(
    store: str | os.PathLike[str],
    stream: StreamCompressor,
    archive: Archive,
    source: Source,
    config: Config,
    before: int,
    commit_steps: int,
) -> None:
    made = config_of(open_store(store)).archive
    time_dim, missing = archive.time.dim or NONE, config.archive.missing_chunks
    engine = engine_of(made, config)
    dataset = lazy_dataset(source, missing, time_dim, made.columns, made.series, engine)
    with archive.unchanging():
        for span in _new_spans(archive, before, commit_steps):
            stream.update(dataset.isel({archive.time.dim: slice(span.start, span.stop)}))
    stream.close()


def _new_spans(archive: Archive, before: int, most: int) -> Iterator[BlockSpan]:
    """Blocks that end where chunks do, from snapshot `before` on, of about `most` snapshots at
    most and as many bytes as a task may hold."""
    count = len(archive.time.values)
    ends = [set(accumulate(v.chunks[v.time_axis])) for v in archive.variables]
    # Without floats nothing says where chunks end.
    stops = sorted(stop for stop in set.intersection(*ends or [{count}]) if stop > before)
    longest = min(most, LEAF_BYTES * count // max(1, archive.raw_bytes))
    start = before
    for stop, following in pairwise([*stops, math.inf]):
        if following - start > longest:
            yield BlockSpan(start, int(stop))
            start = int(stop)


def _report(store: CoefficientStore, before: int, began: float) -> AppendReport:
    stored, facts = store.stored_bytes(), store.facts
    return AppendReport(
        appended=store.snapshots - before,
        snapshots=store.snapshots,
        relative_l2_error=errors_of(facts, store.variables),
        tolerance=facts["tolerance"],
        rank=store.last.rank,
        parts=len(store.parts),
        raw_bytes=facts["raw_bytes"],
        stored_bytes=stored,
        compression_ratio=facts["raw_bytes"] / stored,
        seconds=time.perf_counter() - began,
    )

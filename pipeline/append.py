"""Append what is new in an archive to its store: only that is read."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from pipeline.archive import Archive, lazy_dataset, open_archive
from pipeline.archive.history import first_change
from pipeline.chunked.plan import LEAF_BYTES
from pipeline.config import Config
from pipeline.contracts import BlockSpan
from pipeline.errors import ArchiveError
from pipeline.reports import AppendReport
from pipeline.store.reader import CoefficientStore, open_store
from pipeline.stream_compressor import StreamCompressor

Source = str | os.PathLike[str] | xr.Dataset | xr.DataArray

# Snapshots after which the store is brought up to date.
COMMIT_STEPS = 512


def append(
    store: str | os.PathLike[str],
    source: Source,
    *,
    config: Config | None = None,
    commit_steps: int = COMMIT_STEPS,
) -> AppendReport:
    """Bring a store up to date with an archive that has grown in time.

    Snapshots whose times the store has are not read again; that they are the same is told from
    their times, and from the names and sizes of chunks where the archive is a Zarr store. The
    others are compressed as by `pipeline.StreamCompressor`, a commit every few blocks: whoever
    is killed leaves the last of them, and is gone on with by calling this again. At the end they
    are closed, as a segment of their own or in the modes of the parts before, whichever takes
    fewer bytes; of fewer than five new snapshots the part stays open. Nothing is written where
    nothing is new.

    Parameters
    ----------
    store : path or URL
        Written by `pipeline.compress`, a stream, or this; its settings are used.
    source : path, URL, Dataset or DataArray
        What the store was made from, and more.
    config : Config, optional
        Only ``archive.missing_chunks`` of it is used.
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
        If the store is lossless, or bounds single values: these cannot be appended to.
    StoreError
        If the store cannot be written, or somebody else appends to it.
    """
    began = time.perf_counter()
    opened, missing = open_store(store), (config or Config()).archive.missing_chunks
    made = opened.facts["config"].get("archive", {})
    archive = open_archive(
        source,
        time=made.get("time", "auto"),
        variables=made.get("variables", "all"),
        weights=made.get("weights", "none"),
        missing_chunks=missing,
    )
    before = opened.snapshots
    _check_variables(opened, archive)
    _check_times(opened, archive)
    _check_history(opened, archive)
    if len(archive.time.values) > before:
        stream = StreamCompressor(store, commit_steps=commit_steps, source=archive.source_facts)
        dataset = lazy_dataset(source, missing)
        with archive.unchanging():
            for span in _new_spans(archive, before, commit_steps):
                stream.update(dataset.isel({archive.time.dim: slice(span.start, span.stop)}))
        stream.close()
    return _report(open_store(store), before, began)


def _new_spans(archive: Archive, before: int, most: int) -> Iterator[BlockSpan]:
    """Blocks that end where chunks do, from snapshot `before` on, of about `most` snapshots at
    most and as many bytes as a task may hold."""
    ends = [set(accumulate(v.chunks[v.time_axis])) for v in archive.variables]
    stops = sorted(stop for stop in set.intersection(*ends) if stop > before)
    longest = min(most, LEAF_BYTES * len(archive.time.values) // archive.raw_bytes)
    start = before
    for stop, following in pairwise([*stops, math.inf]):
        if following - start > longest:
            yield BlockSpan(start, int(stop))
            start = int(stop)


def _check_variables(opened: CoefficientStore, archive: Archive) -> None:
    """Refuse an archive of other variables."""
    for variable in archive.variables:
        stored = opened.variables.get(variable.name)
        if stored is None or (stored.dims, stored.space_shape, stored.dtype) != (
            variable.dims, variable.space_shape, variable.dtype,
        ):  # fmt: skip
            raise ArchiveError(
                f"{archive.name}: variable {variable.name!r} is not in {opened.url}, or has other "
                f"dims, sizes or dtype there; append only what the store was made from"
            )
    if lost := opened.variables.keys() - {variable.name for variable in archive.variables}:
        raise ArchiveError(f"{archive.name}: variable {min(lost)!r} of {opened.url} is missing")


def _check_times(opened: CoefficientStore, archive: Archive) -> None:
    """Refuse an archive whose times do not begin as those of the store."""
    dim, count = archive.time.dim, len(archive.time.values)
    known: NDArray[Any] = np.arange(opened.snapshots)
    found: NDArray[Any] = np.arange(count)
    decoded = xr.open_dataset(opened.url, engine="romzarr")
    if (dim in decoded.coords) != (dim in archive.carried.coords):
        raise ArchiveError(f"{archive.name}: the coordinate {dim!r} is not as it was")
    if dim in decoded.coords:
        known, found = decoded[dim].values, archive.carried[dim].values
    both = min(len(known), count)
    same = np.asarray(known[:both] == found[:both], dtype=bool)
    if not same.all():
        first = int(np.argmin(same))
        raise ArchiveError(
            f"{archive.name}: history has changed: {dim}[{first}] is {found[first]}, and "
            f"{known[first]} in {opened.url}; compress the archive anew"
        )
    if count < len(known):
        raise ArchiveError(
            f"{archive.name}: history is missing: it ends before {dim}[{count}], which is "
            f"{known[count]} in {opened.url}; restore it, or compress the archive anew"
        )


def _check_history(opened: CoefficientStore, archive: Archive) -> None:
    """Refuse an archive whose chunks are not what the store was made from."""
    history = opened.facts["source"].get("history", [])
    changed = first_change(archive.marks, history) if archive.marks else None
    if changed is not None:
        start, stop = changed
        dim = archive.time.dim
        where = f"{dim}[{start}]"
        if dim in archive.carried.coords:
            where += f" ({archive.carried[dim].values[start]})"
        raise ArchiveError(
            f"{archive.name}: history has changed at {where} or up to {dim}[{stop - 1}]: chunks "
            f"there have other sizes than when they were compressed; compress the archive anew"
        )


def _report(store: CoefficientStore, before: int, began: float) -> AppendReport:
    stored, facts = store.stored_bytes(), store.facts
    return AppendReport(
        appended=store.snapshots - before,
        snapshots=store.snapshots,
        relative_l2_error=facts["relative_l2_error"],
        tolerance=facts["tolerance"],
        rank=store.last.rank,
        parts=len(store.parts),
        raw_bytes=facts["raw_bytes"],
        stored_bytes=stored,
        compression_ratio=facts["raw_bytes"] / stored,
        seconds=time.perf_counter() - began,
    )

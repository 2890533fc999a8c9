"""Compress an archive into a coefficient store: the main operation of romzarr."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import cast

import xarray as xr
from threadpoolctl import threadpool_limits

from romzarr.archive import Archive, Source, name_of, open_archive, places_of
from romzarr.archive.climatology import groups_asked
from romzarr.archive.groups import Groups, groups_by_time, groups_of
from romzarr.archive.time_axis import EACH
from romzarr.arguments import as_flag
from romzarr.compression.by_index import bounded_dims
from romzarr.compression.model import check_expressions
from romzarr.compression.order_points import in_best_order
from romzarr.compression.pointwise import check_bounds
from romzarr.compression.tiled import check_tiles
from romzarr.compression.written import Written, write_within_bounds
from romzarr.config import ArchiveConfig, Config, MaxError, Settings, given_config, settled
from romzarr.contracts import NO_TIME
from romzarr.derivatives import bounded_derivatives
from romzarr.encoding import encoding_from_json
from romzarr.errors import ArchiveError
from romzarr.loss import loss_in_words
from romzarr.operations.trees import check_tree, compress_tree
from romzarr.progress import step, working_on
from romzarr.reports import CARRIED, CompressionReport, StoredVariableReport, advice
from romzarr.store.reading.facts import DERIVATIVE_ERRORS, DERIVATIVES, errors_of
from romzarr.store.writing.writer import StoreWriter

log = logging.getLogger(__name__)


def compress(
    source: Source | xr.DataTree,
    store: str | os.PathLike[str],
    *,
    tolerance: float | None = None,
    max_error: MaxError | None = None,
    variables: Sequence[str] | None = None,
    weights: str | None = None,
    engine: str | None = None,
    config: Settings | None = None,
    overwrite: bool = False,
) -> CompressionReport:
    """Compress an archive into a coefficient store within bounds on the error.

    Every floating-point variable with the time dim comes back from the store with a
    fluctuation-relative L2 error of at most the tolerance; everything else comes back as it
    was. Variables for which POD does not pay are coded as they are, or what few modes leave of
    them. Of variables that were compressed with loss before, the report says so, and what the store
    opens as has bounds against the original in its attributes (`romzarr.loss`). Runs on the
    current Dask scheduler or cluster and reads each chunk once. Chunks of values
    that are coded after a POD, and of variables with a bound on single values, are read once more,
    those of derivatives with bounds (``compression.derivatives``) several times, and up to 32
    blocks in time of an archive above 64 MB beforehand, to see whether POD can pay
    (`romzarr.estimate`); and one block for each dim whose points have coordinates, to see whether
    they are better stored along a Hilbert curve. What is coded without POD takes no more memory
    than a block of chunks and some tiles for each thread; a POD grows with its rank.

    Parameters
    ----------
    source : path, URL, Dataset, DataArray or DataTree
        Zarr, NetCDF, GRIB, CSV, or what xarray holds, in memory or lazily; with `engine` whatever
        xarray opens. Groups of a DataTree, of Zarr, and of a local NetCDF file become a tree of
        stores, one for each; all appear together.
    store : path or URL
        Where the coefficient store appears, complete or not at all.
    tolerance : float in [0, 1), optional
        Bound on ``||x - xhat|| / ||x - mean||`` of every variable, 1e-2 if nothing is asked. 0 is
        lossless: every bit of the decoded archive comes back, whatever it stands for.
    max_error : mapping of str to float or str, or str, optional
        Bounds on ``|x - xhat|`` of every single value of these variables, in their units; or a
        share: ``"1%"`` of the range of the variable, ``"1% of value"`` of each value, in which
        zeros and signs are exact. One share alone is that of all variables. They hold with the
        rounding of what is read, on any machine. Without a tolerance they are all that is asked,
        if all variables have one. Variables with others than absolute ones are read once more.
    variables : sequence of str, optional
        Compress these only.
    weights : str, optional
        "none", "cos(latitude)" or a variable's name: weights of the squared errors.
    engine : str, optional
        Name of the xarray engine that opens `source`, such as "cfgrib"; the store remembers it.
    config : Config, mapping or path, optional
        All settings; the keywords above win over it. A mapping has sections, or dotted keys such as
        ``{"compression.tolerance": 1e-3}``.
    overwrite : bool
        Replace an existing coefficient store.

    Returns
    -------
    CompressionReport

    Raises
    ------
    ArchiveError
        If the archive cannot be compressed as it is, or was written to while it was read.
    ConfigError
        If ``max_error`` names a variable that is not compressed.
    AccuracyError
        If ``max_rank`` or the precision of float64 does not allow the tolerance, or that of
        a variable its ``max_error``.
    StoreExistsError, StoreError
        If the store exists, or cannot be written. Nothing half-written stays behind.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> t, x = np.arange(200) * 0.1, np.linspace(0, 1, 500)
    >>> u = np.outer(np.sin(t), np.sin(3 * x)) + np.outer(np.cos(t), np.cos(3 * x))
    >>> ds = xr.Dataset({"u": (("time", "x"), u)}, {"time": t, "x": x})
    >>> report = compress(ds, tmp / "wave.romzarr", tolerance=1e-3)
    >>> report.rank, report.relative_l2_error["u"] <= 1e-3
    (2, True)
    >>> xr.open_dataset(tmp / "wave.romzarr", engine="romzarr").u.isel(time=3).shape
    (500,)
    """
    config = settled(given_config(config), tolerance, max_error, variables, weights, engine)
    overwrite = as_flag(overwrite, "overwrite")
    check_expressions(config)
    groups = tree_of(source, config)
    if groups is not None:
        return compress_tree(groups, store, config, overwrite, compress_one)
    try:
        return compress_one(cast(Source, source), store, config, overwrite)
    except ArchiveError:
        # At a URL what has no arrays may have groups, which to look for takes requests.
        if (groups := tree_of(source, config, remote=True)) is None:
            raise
        return compress_tree(groups, store, config, overwrite, compress_one)


def tree_of(source: Source | xr.DataTree, config: Config, remote: bool = False) -> Groups | None:
    """The groups of a source; None for a single dataset, which is all that an engine opens.

    Where each of several times is asked for, these make groups of a dataset.
    """
    settings = config.archive
    found = None
    if settings.engine == ArchiveConfig().engine or isinstance(source, xr.DataTree):
        found = groups_of(source, settings.missing_chunks, remote)
    if found is None and settings.time == EACH:
        return groups_by_time(
            cast(Source, source), settings.missing_chunks, settings.columns, settings.engine
        )
    return found


def check_early(source: Source | xr.DataTree, config: Config) -> None:
    """Check what can be checked before anything is read, and before any worker starts.

    Raises
    ------
    ArchiveError, ConfigError, LibraryError
    """
    groups = tree_of(source, config)
    if groups is None:
        open_checked(cast(Source, source), config)
    else:
        check_tree(groups, config)


def compress_one(
    source: Source, store: str | os.PathLike[str], config: Config, overwrite: bool = False
) -> CompressionReport:
    """Compress a single dataset, as `compress` does."""
    began, cpu = time.perf_counter(), time.process_time()
    with working_on(name_of(source)):
        with step("open") as opening:
            archive, config = open_checked(source, config)
            opening.bytes = archive.raw_bytes
        forbidden = places_of(source)
        # Tasks run side by side already; BLAS threads on top would fight for the cores.
        with threadpool_limits(1, user_api="blas"):
            archive = in_best_order(archive, config.compression)
            open_writer = partial(StoreWriter, store, overwrite, forbid=forbidden)
            stored = write_within_bounds(open_writer, archive, config, attrgetter("facts"))
    return _report(archive, stored, config, began, cpu)


def open_checked(source: Source, config: Config) -> tuple[Archive, Config]:
    """The archive, and the settings for its variables, once all are checked that can be without
    reading values.

    Raises
    ------
    ArchiveError, ConfigError, LibraryError
    """
    check_expressions(config)
    archive = open_archive(
        source,
        time=config.archive.time,
        variables=config.archive.variables,
        exclude=config.archive.exclude,
        columns=config.archive.columns,
        series=config.archive.series,
        engine=config.archive.engine,
        weights=config.archive.weights,
        missing_chunks=config.archive.missing_chunks,
    )
    asked = config.compression.for_variables([variable.name for variable in archive.variables])
    check_bounds(archive, asked.bounds)
    bounded_dims(archive, asked)
    groups_asked(archive, asked.climatology)
    bounded_derivatives(archive, asked)
    check_tiles(archive, config.layout)
    return archive, replace(config, compression=asked)


def _report(
    archive: Archive, stored: Written, config: Config, began: float, cpu: float
) -> CompressionReport:
    result, codings, model = stored.result, stored.result.codings, stored.result.model
    ratio = archive.total_bytes / stored.nbytes
    return CompressionReport(
        relative_l2_error=errors_of(result.facts, [each.name for each in archive.variables]),
        tolerance=config.compression.tolerance,
        largest_pointwise_error=result.facts.get("largest_pointwise_error", {}),
        max_error=result.facts["max_error"],
        largest_relative_error=result.facts.get("largest_relative_error", {}),
        max_relative_error=result.facts.get("max_relative_error", {}),
        derivative_errors=result.facts.get(DERIVATIVE_ERRORS, {}),
        derivatives=result.facts.get(DERIVATIVES, {}),
        rank=codings.rank,
        nonzero_terms=result.facts["nonzero_terms"],
        kept_samples=model.latent.format.kept if model and model.pays else 0,
        snapshots=len(archive.time.values),
        raw_bytes=archive.total_bytes,
        stored_bytes=stored.nbytes,
        compression_ratio=ratio,
        seconds=time.perf_counter() - began,
        cpu_seconds=time.process_time() - cpu,
        bytes_read=result.cost.bytes_read,
        chunks_read=result.cost.chunks_read,
        advice=advice(ratio, codings.rank, len(archive.time.values), codings.of),
        variables=_variables(archive, stored),
        orders={order.dim: order.coordinates for order in archive.orders},
    )


def _variables(archive: Archive, stored: Written) -> dict[str, StoredVariableReport]:
    """A line for each data variable, in the order of the archive."""
    coded = {v.name: v for v in archive.variables}
    codings = dict(zip(coded, stored.result.codings.of, strict=True))
    errors = errors_of(stored.result.facts, coded)
    found, by_index = {}, stored.by_index
    for name in archive.order:
        variable, nbytes = coded.get(name), stored.by_variable.get(name, 0)
        found[name] = StoredVariableReport(
            coding=codings.get(name, CARRIED),
            raw_bytes=archive.carried[name].nbytes if variable is None else variable.nbytes,
            stored_bytes=nbytes,
            share=nbytes / stored.nbytes,
            relative_l2_error=errors.get(name, 0.0),
            gaps=stored.result.gaps.get(name, ""),
            bounded_by=by_index[name].dims if name in by_index else (),
            largest_by_index=by_index[name].largest if name in by_index else 0.0,
            why="" if variable else _why_carried(archive, name),
            before=_lost_before(archive, name) if variable else "",
        )
    return found


def _lost_before(archive: Archive, name: str) -> str:
    """What the attributes of a variable say of loss before."""
    before = loss_in_words(encoding_from_json(archive.variable_attrs[name]))
    if before:
        log.warning("%s: variable %r was %s", archive.name, name, before)
    return before


def _why_carried(archive: Archive, name: str) -> str:
    """Why a variable of numbers, which is carried, is not coded."""
    variable, dim = archive.carried[name], archive.time.dim
    if variable.dtype.kind != "f" or not variable.ndim or dim in (NO_TIME, *variable.dims):
        return ""
    return f"it has no dim {dim!r}"

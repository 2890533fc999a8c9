"""Compress an archive into a coefficient store: the main operation of romzarr."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence

from threadpoolctl import threadpool_limits

from romzarr.archive import Archive, Source, name_of, open_archive
from romzarr.arguments import as_flag
from romzarr.compression.model import check_expressions
from romzarr.compression.pointwise import check_bounds
from romzarr.compression.write_archive import write_archive
from romzarr.compression.write_pod import Result
from romzarr.config import Config, given_config, settled
from romzarr.progress import step, working_on
from romzarr.reports import CompressionReport, advice
from romzarr.store.reading.facts import errors_of
from romzarr.store.writing.writer import StoreWriter


def compress(
    source: Source,
    store: str | os.PathLike[str],
    *,
    tolerance: float | None = None,
    max_error: Mapping[str, float] | None = None,
    variables: Sequence[str] | None = None,
    weights: str | None = None,
    config: Config | None = None,
    overwrite: bool = False,
) -> CompressionReport:
    """Compress an archive into a coefficient store within bounds on the error.

    Every floating-point variable with the time dim comes back from the store with a
    fluctuation-relative L2 error of at most the tolerance; everything else comes back as it
    was. Variables for which POD does not pay are coded as they are, or what few modes leave of
    them. Runs on the current Dask scheduler or cluster and reads each chunk once. Chunks of values
    that are coded after a POD, and of variables with a bound on single values, are read once more,
    and up to 32 blocks in time of an archive above 64 MB beforehand, to see whether POD can pay
    (`romzarr.estimate`). What is coded without POD takes no more memory than a
    block of chunks and some tiles for each thread; a POD grows with its rank.

    Parameters
    ----------
    source : path, URL, Dataset or DataArray
        Zarr, NetCDF, CSV, or what xarray holds, in memory or lazily.
    store : path or URL
        Where the coefficient store appears, complete or not at all.
    tolerance : float in [0, 1), optional
        Bound on ``||x - xhat|| / ||x - mean||`` of every variable. 0 is lossless: every bit of
        the decoded archive comes back, whatever it stands for.
    max_error : mapping of str to float, optional
        Besides, bounds on ``|x - xhat|`` of every single value of these variables, in their
        units. They hold with the rounding of what is read, on any machine.
    variables : sequence of str, optional
        Compress these only.
    weights : str, optional
        "none", "cos(latitude)" or a variable's name: weights of the squared errors.
    config : Config, optional
        All settings; the keywords above win over it.
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
    began, cpu = time.perf_counter(), time.process_time()
    config = settled(given_config(config), tolerance, max_error, variables, weights)
    overwrite = as_flag(overwrite, "overwrite")
    forbidden = [source] if isinstance(source, str | os.PathLike) else []
    with working_on(name_of(source)):
        with step("open") as opening:
            archive = open_checked(source, config)
            opening.bytes = archive.raw_bytes
        with (
            StoreWriter(store, overwrite, forbid=forbidden) as writer,
            # Tasks run side by side already; BLAS threads on top would fight for the cores.
            threadpool_limits(1, user_api="blas"),
        ):
            with archive.unchanging():
                result = write_archive(writer, archive, config)
            with step("commit"):
                stored = writer.commit(result.facts)
    return _report(archive, result, stored, config, began, cpu)


def open_checked(source: Source, config: Config) -> Archive:
    """The archive, once all settings are checked that can be without reading its values.

    Raises
    ------
    ArchiveError, ConfigError, LibraryError
    """
    check_expressions(config)
    archive = open_archive(
        source,
        time=config.archive.time,
        variables=config.archive.variables,
        weights=config.archive.weights,
        missing_chunks=config.archive.missing_chunks,
    )
    check_bounds(archive, config.compression.bounds)
    return archive


def _report(
    archive: Archive,
    result: Result,
    stored: int,
    config: Config,
    began: float,
    cpu: float,
) -> CompressionReport:
    codings, model = result.codings, result.model
    return CompressionReport(
        relative_l2_error=errors_of(result.facts, [each.name for each in archive.variables]),
        tolerance=config.compression.tolerance,
        largest_pointwise_error=result.facts.get("largest_pointwise_error", {}),
        max_error=result.facts["max_error"],
        rank=codings.rank,
        nonzero_terms=result.facts["nonzero_terms"],
        kept_samples=model.latent.format.kept if model and model.pays else 0,
        snapshots=len(archive.time.values),
        raw_bytes=archive.raw_bytes,
        stored_bytes=stored,
        compression_ratio=archive.raw_bytes / stored,
        seconds=time.perf_counter() - began,
        cpu_seconds=time.process_time() - cpu,
        bytes_read=result.cost.bytes_read,
        chunks_read=result.cost.chunks_read,
        advice=advice(
            archive.raw_bytes / stored, codings.rank, len(archive.time.values), codings.of
        ),
    )

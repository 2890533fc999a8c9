"""Compress an archive into a coefficient store: the main operation of romzarr."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from threadpoolctl import threadpool_limits

from pipeline.allocate import CodedFields, allocate_fields
from pipeline.archive import Archive, name_of, open_archive
from pipeline.choose import choose_coding
from pipeline.config import Config, with_values
from pipeline.direct import write_direct
from pipeline.errors import AccuracyError
from pipeline.factor import ArchivePOD, factor_archive
from pipeline.identify import LatentModel, check_expressions, identify
from pipeline.lossless import write_lossless
from pipeline.reports import CompressionReport
from pipeline.residuals import check_bounds, sharpened_by, write_residuals
from pipeline.steps import step, working_on
from pipeline.store.writer import StoreWriter
from pipeline.write import Coding, coding_of, facts, write_fields, write_model

Source = str | os.PathLike[str] | xr.Dataset | xr.DataArray


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
    was. Variables for which POD does not pay are coded as they are. Runs on the current Dask
    scheduler or cluster and reads each chunk once; those of variables with a bound on single
    values are read twice.

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
    config = settled(config or Config(), tolerance, max_error, variables, weights)
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
            write = _write_lossless if config.compression.tolerance == 0 else _write_lossy
            with archive.unchanging():
                result = write(writer, archive, config)
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


@dataclass(frozen=True)
class Result:
    """What was put into a store, and what reading the archive for it cost."""

    facts: Mapping[str, Any]
    coding: Coding
    model: LatentModel | None
    bytes_read: int
    chunks_read: int


def _write_lossy(writer: StoreWriter, archive: Archive, config: Config) -> Result:
    """Put everything into the store, within the tolerance and bounds on single values."""
    tolerance, bounds = config.compression.tolerance, config.compression.bounds
    sharpened = sharpened_by(archive, bounds, tolerance) if bounds else None
    with step("read") as reading:
        pod = factor_archive(archive, config, sharpened)
        reading.bytes = pod.bytes_read
    result = write_factored(
        writer, archive, pod, config, sharpened.tolerance if sharpened else tolerance
    )
    return _corrected(writer, archive, result, bounds) if bounds else result


def write_factored(
    writer: StoreWriter, archive: Archive, pod: ArchivePOD, config: Config, tolerance: float
) -> Result:
    """Put what a POD holds into the store, within the bound. Runs Dask, reads nothing."""
    with step("allocate"):
        chosen = choose_coding(archive, pod, tolerance)
        coded = allocate_fields(archive, chosen.plan)
    with step("model"):
        model = _model(archive, coded, config)
    episodes = chosen.episodes
    with step("write"):
        lost = write_direct(writer, archive, pod, chosen.direct)
        write_fields(writer, archive, coded)
        in_episodes = (
            write_direct(writer, archive, episodes.pod, episodes.variables, episodes=True)
            if episodes
            else {}
        )
        errors = _relative_errors(coded, model, lost, in_episodes)
        _check_bound(errors, config.compression.tolerance)
        write_model(writer, archive, model)
    coding = coding_of(coded)
    totals = {n.name: float(f**2) for n, f in zip(pod.norms, pod.fluctuations, strict=True)}
    said = facts(archive, coding, model, errors, config, episodes.rough if episodes else None)
    return Result(
        {**said, "fluctuation": totals},
        coding,
        model,
        pod.bytes_read,
        pod.chunks_read,
    )


def _corrected(
    writer: StoreWriter, archive: Archive, result: Result, bounds: Mapping[str, float]
) -> Result:
    """Put residuals into the store, so that single values are within their bounds."""
    with step("correct") as correcting:
        found = write_residuals(writer, archive, result.facts, bounds)
        correcting.bytes = found.bytes_read
    return replace(
        result,
        facts={**result.facts, "largest_pointwise_error": dict(found.errors)},
        bytes_read=result.bytes_read + found.bytes_read,
        chunks_read=result.chunks_read + found.chunks_read,
    )


def _write_lossless(writer: StoreWriter, archive: Archive, config: Config) -> Result:
    """Put everything into the store to the bit."""
    with step("write") as writing:
        cost = write_lossless(writer, archive)
        write_model(writer, archive, None)
        writing.bytes = cost.bytes_read
    names = [variable.name for variable in archive.variables]
    codings = ("lossless",) * len(names)
    coding = Coding(codings, 0, "float64")
    errors = dict.fromkeys([*names, "largest"], 0.0)
    return Result(
        facts(archive, coding, None, errors, config),
        coding,
        None,
        cost.bytes_read,
        cost.chunks_read,
    )


def settled(
    config: Config,
    tolerance: float | None,
    max_error: Mapping[str, float] | None,
    variables: Sequence[str] | None,
    weights: str | None,
) -> Config:
    """The configuration with the keywords of a call laid over it."""
    given = {
        "compression.tolerance": tolerance,
        "compression.max_error": max_error,
        "archive.variables": None if variables is None else tuple(variables),
        "archive.weights": weights,
    }
    return with_values(config, {key: value for key, value in given.items() if value is not None})


# --- model and errors ---------------------------------------------------------------------


def _model(archive: Archive, coded: CodedFields, config: Config) -> LatentModel | None:
    """Model and coefficients (None where no variable is coded by POD)."""
    if coded.rank == 0:
        return None
    return identify(
        coded.a,
        archive.time.values,
        coded.tolerances,
        config,
        step=coded.step,
        coded_bytes=coded.bits / 8,
        rough=coded.pod.rough,
    )


def _relative_errors(
    coded: CodedFields,
    model: LatentModel | None,
    lost: Mapping[int, float],
    in_episodes: Mapping[int, float],
) -> dict[str, float]:
    """Bound on the error of every variable, and the largest.

    Made of what the cuts dropped and of what the decoded fields and coefficients miss, all
    known (`Tolerances`), or of what is `lost` of variables coded without POD, always or in
    episodes; and of bounds on rounding.
    """
    pod, missed = coded.pod, np.zeros(len(coded.fields))
    if model is not None:
        difference = model.stored.a - coded.a
        missed[coded.live] = pod.apart[coded.live] + coded.tolerances.errors(difference)
    missed[list(lost)] = list(lost.values())
    for number, error in in_episodes.items():
        missed[number] = np.hypot(missed[number], error)
    errors = {
        norm.name: float(
            np.hypot(pod.budget.with_rounding(norm, float(error)), before**0.5) / (total or 1)
        )
        for norm, error, before, total in zip(
            pod.norms, missed, pod.earlier.lost, pod.fluctuations, strict=True
        )
    }
    return errors | {"largest": max(errors.values())}


def _check_bound(errors: Mapping[str, float], tolerance: float) -> None:
    for name, error in errors.items():
        if not error <= tolerance:
            raise AccuracyError(
                f"variable {name!r}: error {error:.3e} is above the tolerance {tolerance:g}; "
                f"nothing was stored. Please report this: it should not happen"
            )


def _report(
    archive: Archive,
    result: Result,
    stored: int,
    config: Config,
    began: float,
    cpu: float,
) -> CompressionReport:
    coding, model = result.coding, result.model
    return CompressionReport(
        relative_l2_error=result.facts["relative_l2_error"],
        tolerance=config.compression.tolerance,
        largest_pointwise_error=result.facts.get("largest_pointwise_error", {}),
        max_error=result.facts["max_error"],
        rank=coding.rank,
        nonzero_terms=result.facts["nonzero_terms"],
        kept_samples=model.latent.coded.code.kept if model and model.pays else 0,
        snapshots=len(archive.time.values),
        raw_bytes=archive.raw_bytes,
        stored_bytes=stored,
        compression_ratio=archive.raw_bytes / stored,
        seconds=time.perf_counter() - began,
        cpu_seconds=time.process_time() - cpu,
        bytes_read=result.bytes_read,
        chunks_read=result.chunks_read,
        advice=advice(archive.raw_bytes / stored, coding.rank, len(archive.time.values), coding.of),
    )


def advice(ratio: float, rank: int, snapshots: int, codings: Sequence[str]) -> str:
    """What to tell somebody about this result; empty where there is nothing to warn of."""
    if ratio >= 3 or ("lossless" in codings and ratio >= 1):
        return ""
    if "lossless" in codings:
        why = "values are kept to the bit, and these are rough"
    elif "direct" in codings:
        why = (
            "the data has no low-dimensional dynamics at this accuracy, so values were coded as "
            "they are, and these are rough"
        )
    elif rank > snapshots / 4:
        why = (
            f"the tolerance needs {rank} of at most {snapshots - 1} modes, so the data has no "
            f"low-dimensional dynamics at this accuracy"
        )
    else:
        why = f"{snapshots} snapshots are few beside the {rank} modes and what is always stored"
    if ratio < 1:
        return (
            f"The store is LARGER than the uncompressed data (ratio {ratio:.2f}): {why}. Do not "
            f"use it; keep the archive, use a general compressor, or allow a larger tolerance."
        )
    return f"A ratio of {ratio:.2f} is hardly worth it: {why}. Allow a larger tolerance."

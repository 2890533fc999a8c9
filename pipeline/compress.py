"""Compress an archive into a coefficient store: the main operation of romzarr."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from threadpoolctl import threadpool_limits

from pipeline.allocate import CodedFields, allocate_fields
from pipeline.archive import Archive, open_archive
from pipeline.choose import choose_coding
from pipeline.config import Config, with_values
from pipeline.direct import write_direct
from pipeline.errors import AccuracyError
from pipeline.factor import factor_archive
from pipeline.identify import LatentModel, check_expressions, identify
from pipeline.reports import CompressionReport
from pipeline.store.reader import open_store
from pipeline.store.writer import StoreWriter
from pipeline.write import facts, write_fields, write_model

Source = str | os.PathLike[str] | xr.Dataset | xr.DataArray


def compress(
    source: Source,
    store: str | os.PathLike[str],
    *,
    tolerance: float | None = None,
    variables: Sequence[str] | None = None,
    weights: str | None = None,
    config: Config | None = None,
    overwrite: bool = False,
) -> CompressionReport:
    """Compress an archive into a coefficient store within a relative error.

    Every floating-point variable with the time dim comes back from the store with a
    fluctuation-relative L2 error of at most the tolerance; everything else comes back as it
    was. Variables for which POD does not pay are coded as they are. Runs on the current Dask
    scheduler or cluster and reads each chunk once.

    Parameters
    ----------
    source : path, URL, Dataset or DataArray
        Zarr, NetCDF, CSV, or what xarray holds, in memory or lazily.
    store : path or URL
        Where the coefficient store appears, complete or not at all.
    tolerance : float in (0, 1), optional
        Bound on ``||x - xhat|| / ||x - mean||`` of every variable.
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
        If the archive cannot be compressed as it is.
    AccuracyError
        If ``max_rank`` or the precision of float64 does not allow the tolerance.
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
    config = _settled(config or Config(), tolerance, variables, weights)
    check_expressions(config)
    archive = open_archive(
        source,
        time=config.archive.time,
        variables=config.archive.variables,
        weights=config.archive.weights,
        missing_chunks=config.archive.missing_chunks,
    )
    forbidden = [source] if isinstance(source, str | os.PathLike) else []
    with (
        StoreWriter(store, overwrite, forbid=forbidden) as writer,
        # Tasks run side by side already; BLAS threads on top would fight for the cores.
        threadpool_limits(1, user_api="blas"),
    ):
        pod = factor_archive(archive, config)
        plan, direct = choose_coding(archive, pod, config.compression.tolerance)
        coded = allocate_fields(archive, plan)
        model = _model(archive, coded, config)
        lost = write_direct(writer, archive, pod, direct)
        errors = _relative_errors(coded, model, lost)
        _check_bound(errors, config.compression.tolerance)
        write_fields(writer, archive, coded)
        write_model(writer, archive, coded, model)
        writer.commit(facts(archive, coded, model, errors, config))
    return _report(archive, coded, model, errors, store, config, began, cpu)


def _settled(
    config: Config,
    tolerance: float | None,
    variables: Sequence[str] | None,
    weights: str | None,
) -> Config:
    """The configuration with the keywords of a call laid over it."""
    given = {
        "compression.tolerance": tolerance,
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
    )


def _relative_errors(
    coded: CodedFields, model: LatentModel | None, lost: Mapping[int, float]
) -> dict[str, float]:
    """Bound on the error of every variable, and the largest.

    Made of what the cuts dropped and of what the decoded fields and coefficients miss, all
    known (`Tolerances`), or of what is `lost` of variables coded without POD; and of bounds
    on rounding.
    """
    pod, missed = coded.pod, np.zeros(len(coded.fields))
    if model is not None:
        missed[coded.live] = pod.apart[coded.live] + model.errors
    missed[list(lost)] = list(lost.values())
    errors = {
        norm.name: pod.budget.with_rounding(norm, float(error)) / (norm.fluctuation or 1)
        for norm, error in zip(pod.norms, missed, strict=True)
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
    coded: CodedFields,
    model: LatentModel | None,
    errors: Mapping[str, float],
    store: str | os.PathLike[str],
    config: Config,
    began: float,
    cpu: float,
) -> CompressionReport:
    stored = open_store(store).stored_bytes()
    return CompressionReport(
        relative_l2_error=dict(errors),
        tolerance=config.compression.tolerance,
        rank=coded.rank,
        nonzero_terms=model.models[0].nonzero_terms if model else 0,
        kept_samples=model.latent.coded.code.kept if model else 0,
        snapshots=len(archive.time.values),
        raw_bytes=archive.raw_bytes,
        stored_bytes=stored,
        compression_ratio=archive.raw_bytes / stored,
        seconds=time.perf_counter() - began,
        cpu_seconds=time.process_time() - cpu,
        bytes_read=coded.pod.bytes_read,
        chunks_read=coded.pod.chunks_read,
        advice=advice(
            archive.raw_bytes / stored, coded.rank, len(archive.time.values), coded.codings
        ),
    )


def advice(ratio: float, rank: int, snapshots: int, codings: Sequence[str]) -> str:
    """What to tell somebody about this result; empty where there is nothing to warn of."""
    if ratio >= 3:
        return ""
    if "direct" in codings:
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

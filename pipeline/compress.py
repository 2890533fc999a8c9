"""Compress an archive into a coefficient store: the main operation of romzarr."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import dask
import numpy as np
import xarray as xr
from dask.delayed import Delayed, delayed
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pipeline.archive import Archive, open_archive
from pipeline.chunked.plan import PODPlan, SpaceBlock
from pipeline.chunked.pod import decompose
from pipeline.config import Config, with_values
from pipeline.contracts import ArchivedVariable, Floats
from pipeline.errors import AccuracyError, ArchiveError
from pipeline.identify import LatentModel, identify
from pipeline.numerics.budget import ErrorBudget, VariableNorms, split_budget
from pipeline.numerics.factors import Defect, RowBlock, TimeFactor
from pipeline.numerics.sampling import Tolerances, keep_nothing
from pipeline.numerics.truncation import rank_within
from pipeline.reports import CompressionReport
from pipeline.store.reader import open_store
from pipeline.store.writer import ModesWriter, StoreWriter

Matrix = NDArray[np.float64]
Source = str | os.PathLike[str] | xr.Dataset | xr.DataArray

log = logging.getLogger(__name__)

PACKAGES = ("romzarr", "dask", "distributed", "xarray", "zarr", "numpy", "scipy")


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
    was. Runs on the current Dask scheduler or cluster and reads each chunk once.

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
        model = _model(archive, pod, config)
        errors = _relative_errors(pod, model)
        _check_bound(errors, config.compression.tolerance)
        _write_basis(writer, archive, pod)
        _write_model(writer, archive, pod, model)
        writer.commit(_facts(archive, pod, model, errors, config))
    return _report(archive, pod, model, errors, store, config, began, cpu)


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


# --- POD ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ArchivePOD:
    """The POD of an archive, cut to its rank; the modes are still where they were computed.

    ``turn`` (K, r) makes the modes from the rows of ``blocks``; ``a`` (m, r) the
    coefficients; ``gram`` (V, r, r) inner products of the modes in every variable's own
    units; ``lost`` (V,) squared error of all cuts; ``norms`` of the variables.
    """

    plan: PODPlan
    blocks: tuple[Delayed, ...]
    turn: Matrix
    sigma: Matrix
    a: Matrix
    gram: Matrix
    lost: Matrix
    norms: tuple[VariableNorms, ...]
    budget: ErrorBudget
    bytes_read: int
    chunks_read: int

    @property
    def rank(self) -> int:
        return len(self.sigma)


def factor_archive(archive: Archive, config: Config) -> ArchivePOD:
    """POD of the archive at the smallest rank that meets the tolerance. Runs Dask.

    Scales of the variables are estimated on the way. Should the estimate prove too far off
    for the bound, the archive is read again with the exact ones.
    """
    factor, blocks, plan = _run_tree(archive, config, None)
    try:
        return _cut(archive, config, factor, blocks, plan)
    except AccuracyError:
        if len(archive.variables) == 1 or _rank_needed(config):
            raise
    totals = _totals(archive, factor)
    scales = {v: len(factor.right) / e if e > 0 else 1.0 for v, e in enumerate(totals)}
    log.warning("scales of the variables were estimated badly: reading the archive once more")
    again, blocks, plan = _run_tree(archive, config, scales)
    again = replace(
        again,
        bytes_read=again.bytes_read + factor.bytes_read,
        chunks_read=again.chunks_read + factor.chunks_read,
    )
    return _cut(archive, config, again, blocks, plan)


def _rank_needed(config: Config) -> bool:
    return config.compression.max_rank != "auto"


def _run_tree(
    archive: Archive, config: Config, scales: Mapping[int, float] | None
) -> tuple[TimeFactor, tuple[Delayed, ...], PODPlan]:
    lazy = decompose(archive.variables, tolerance=config.compression.tolerance, scales=scales)
    # Persisted together, the modes stay where they are, and the factor comes here.
    factor, *blocks = dask.persist(lazy.factor, *lazy.blocks)
    (result,) = dask.compute(factor)
    if result.defect is not None:
        raise _defect_error(archive, lazy.plan, result.defect)
    return result, tuple(blocks), lazy.plan


def _totals(archive: Archive, factor: TimeFactor) -> Matrix:
    """Squared fluctuation (V,) of every variable."""
    return np.array(
        [np.trace(factor.gram[v]) + factor.discarded[v] for v in range(len(archive.variables))]
    )


def _cut(
    archive: Archive,
    config: Config,
    factor: TimeFactor,
    blocks: tuple[Delayed, ...],
    plan: PODPlan,
) -> ArchivePOD:
    """Choose rank and arithmetic from the small factors."""
    norms = _norms(archive, plan, blocks, _totals(archive, factor))
    budget = split_budget(norms, config.compression.tolerance)
    numbers = range(len(archive.variables))
    gram = np.array([factor.gram[v] for v in numbers])
    totals = _totals(archive, factor)
    turn = _principal_axes(gram, totals, config.compression.tolerance)
    gram = turn.T @ gram @ turn
    discarded = np.array([factor.discarded[v] for v in numbers])
    shares = np.maximum(np.diagonal(gram, axis1=1, axis2=2), 0.0)
    limit = config.compression.max_rank
    names = [variable.name for variable in archive.variables]
    rank = rank_within(shares, discarded, budget.allowed, None if limit == "auto" else limit, names)
    sigma = np.sqrt(_scales(totals) @ shares[:, :rank])
    turn = turn[:, :rank] / sigma
    return ArchivePOD(
        plan=plan,
        blocks=blocks,
        turn=turn,
        sigma=sigma,
        a=factor.right @ turn * sigma**2,
        gram=gram[:, :rank, :rank] / (sigma[:, None] * sigma),
        lost=discarded + shares[:, rank:].sum(axis=1),
        norms=norms,
        budget=budget,
        bytes_read=factor.bytes_read,
        chunks_read=factor.chunks_read,
    )


def _scales(totals: Matrix) -> Matrix:
    """Factor on each variable's energy in the inner product of the record: alike, if several."""
    if len(totals) == 1:
        return np.ones(1)
    return np.array([1 / total if total > 0 else 0.0 for total in totals])


def _principal_axes(gram: Matrix, totals: Matrix, tolerance: float) -> Matrix:
    """Rotation (K, K) from the tree's columns, found with estimated scales, to the exact modes.

    Gram matrices cannot resolve what the tightest tolerances keep; there the tree's own
    columns, which are as good a basis, stay.
    """
    if len(totals) == 1 or tolerance < 1e-5:
        return np.eye(gram.shape[1])
    joint = np.einsum("v,vij->ij", _scales(totals), gram)
    return np.ascontiguousarray(np.linalg.eigh(joint)[1][:, ::-1])


def _norms(
    archive: Archive, plan: PODPlan, blocks: Sequence[Delayed], totals: Matrix
) -> tuple[VariableNorms, ...]:
    squares = np.zeros(len(archive.variables))
    parts = dask.compute(
        *(
            delayed(_mean_square, pure=False)(block, _row_weights(archive.variables, row))
            for block, row in zip(blocks, plan.rows, strict=True)
        )
    )
    for part, row in zip(parts, plan.rows, strict=True):
        squares[row.variable] += part
    m = len(archive.time.values)
    return tuple(
        VariableNorms(v.name, float(total**0.5), float((m * square) ** 0.5), v.dtype)
        for v, total, square in zip(archive.variables, totals, squares, strict=True)
    )


def _mean_square(block: RowBlock, weights: Floats | None) -> float:
    return float(np.sum(block.mean**2 if weights is None else weights * block.mean**2))


def _row_weights(variables: Sequence[ArchivedVariable], row: SpaceBlock) -> Floats | None:
    weights = variables[row.variable].weights
    return None if weights is None else np.ascontiguousarray(weights[row.region]).ravel()


def _defect_error(archive: Archive, plan: PODPlan, defect: Defect) -> ArchiveError:
    """Say where the data cannot be compressed, and what to do about it."""
    row = plan.rows[defect.row]
    variable = archive.variables[row.variable]
    within = np.unravel_index(defect.point, row.shape) if row.shape else ()
    place = ", ".join(
        f"{dim}={int(i) + part.start}"
        for dim, i, part in zip(variable.space_dims, within, row.region, strict=True)
    )
    where = f"{archive.name}: variable {variable.name!r} at {_when(archive, defect.time)}"
    where += f", {place}" if place else ""
    if defect.kind == "inf":
        return ArchiveError(
            f"{where}: found an infinite value, allowed are finite values, and NaN where it is "
            f"NaN at all times; repair the value or leave the variable out"
        )
    found, before = ("NaN", "a number") if defect.kind == "appears" else ("a number", "NaN")
    return ArchiveError(
        f"{where}: found {found} where the snapshots before have {before}; NaN must not come and "
        f"go: fill the gaps, or leave the variable out"
    )


def _when(archive: Archive, index: int) -> str:
    dim = archive.time.dim
    label = f"{dim} index {index}"
    if dim in archive.carried.coords:
        label += f" ({archive.carried[dim].values[index]})"
    return label


# --- model and errors ---------------------------------------------------------------------


def _tolerances(pod: ArchivePOD) -> Tolerances:
    """What coding of a(t) may still lose, after the cuts, as seen by each variable."""
    roots = []
    for gram in pod.gram:
        values, vectors = np.linalg.eigh(gram)
        roots.append(np.sqrt(np.maximum(values, 0))[:, None] * vectors.T)
    return Tolerances(np.array(roots), np.maximum(pod.budget.allowed - pod.lost, 0.0))


def _model(archive: Archive, pod: ArchivePOD, config: Config) -> LatentModel | None:
    """Model and samples (None where all variables are constant)."""
    if pod.rank == 0:
        return None
    points = sum(int(np.prod(v.space_shape)) for v in archive.variables)
    return identify(
        pod.a,
        archive.time.values,
        _tolerances(pod),
        config,
        basis_bytes=pod.rank * points * pod.budget.basis.itemsize,
        dtype=pod.budget.samples,
    )


def _relative_errors(pod: ArchivePOD, model: LatentModel | None) -> dict[str, float]:
    """Achieved error of every variable, and the largest.

    Sums of squares of what each cut dropped and of what the decoded coefficients miss;
    rounding of the output is bounded by the budget and not in it.
    """
    coding = np.zeros(len(pod.norms)) if model is None else model.squared_error
    errors = {
        norm.name: float(np.sqrt(lost + coded)) / norm.fluctuation if norm.fluctuation else 0.0
        for norm, lost, coded in zip(pod.norms, pod.lost, coding, strict=True)
    }
    return errors | {"largest": max(errors.values())}


def _check_bound(errors: Mapping[str, float], tolerance: float) -> None:
    for name, error in errors.items():
        if not error <= tolerance:
            raise AccuracyError(
                f"variable {name!r}: error {error:.3e} is above the tolerance {tolerance:g}; "
                f"nothing was stored. Please report this: it should not happen"
            )


# --- store --------------------------------------------------------------------------------


def _write_basis(writer: StoreWriter, archive: Archive, pod: ArchivePOD) -> None:
    """Modes and means, written by the workers that hold them."""
    side_by_side, in_turn = [], []
    aligned = [
        writer.create_basis(
            variable.name,
            variable.space_dims,
            _block_lengths(pod.plan, number, variable),
            pod.budget.basis,
            pod.rank,
        )
        for number, variable in enumerate(archive.variables)
    ]
    for block, row in zip(pod.blocks, pod.plan.rows, strict=True):
        name = archive.variables[row.variable].name
        task = delayed(_write_block, pure=False)(block, pod.turn, row, name, writer.modes)
        (side_by_side if aligned[row.variable] else in_turn).append(task)
    dask.compute(*side_by_side)
    for task in in_turn:
        task.compute()
    writer.write_singular_values(pod.sigma)


def _block_lengths(plan: PODPlan, number: int, variable: ArchivedVariable) -> list[tuple[int, ...]]:
    """Lengths of the space blocks of a variable, per dim."""
    regions = [row.region for row in plan.rows if row.variable == number]
    return [
        tuple(b - a for a, b in sorted({(r[d].start, r[d].stop) for r in regions}))
        for d in range(len(variable.space_dims))
    ]


def _write_block(
    block: RowBlock, turn: Matrix, row: SpaceBlock, variable: str, writer: ModesWriter
) -> None:
    """Task: turn the rows of one space block into modes and write them."""
    mean, modes = block.mean.copy(), turn.T @ block.rows
    if block.valid is not None:
        mean[~block.valid] = np.nan
    shape = row.shape
    writer.write(variable, row.region, mean.reshape(shape), modes.reshape(-1, *shape))


def _write_model(
    writer: StoreWriter, archive: Archive, pod: ArchivePOD, model: LatentModel | None
) -> None:
    code = keep_nothing(len(pod.a), pod.budget.samples) if model is None else model.code
    writer.write_latent(code, archive.time)
    if model is not None:
        # Single precision: regression forgives it, and the factors weigh half.
        factors = np.array([factor.r for factor in model.factors], np.float32)
        writer.write_model(np.array([m.coefficients for m in model.models]), factors)
    else:
        writer.write_model(np.zeros((0, 0, 0)))
    writer.write_coordinates(archive.carried)


def _facts(
    archive: Archive,
    pod: ArchivePOD,
    model: LatentModel | None,
    errors: Mapping[str, float],
    config: Config,
) -> dict[str, Any]:
    """All that the store says in JSON."""
    return {
        "tolerance": config.compression.tolerance,
        "relative_l2_error": dict(errors),
        "error_measured_by": "exact sums of squares of all cuts and of the decoded coefficients",
        "rank": pod.rank,
        "nonzero_terms": model.models[0].nonzero_terms if model else 0,
        "raw_bytes": archive.raw_bytes,
        "arithmetic": pod.budget.basis.name,
        "variables": {
            variable.name: {
                "dims": list(variable.dims),
                "shape": list(variable.shape),
                "dtype": variable.dtype.name,
                "time_axis": variable.time_axis,
                "chunks": _compact_chunks(variable.chunks),
                "attrs": archive.variable_attrs[variable.name],
                "encoding": archive.variable_encoding[variable.name],
            }
            for variable in archive.variables
        },
        "order": list(archive.order),
        "attrs": archive.attrs,
        "encoding": archive.encoding,
        "library": model.library.spec() if model else {},
        "model": _model_facts(model) if model else {},
        "config": _changed(config),
        "source": {"name": archive.name, "fingerprint": archive.fingerprint},
        "versions": {name: version(name) for name in PACKAGES},
    }


def _model_facts(model: LatentModel) -> dict[str, Any]:
    pooled = model.models[0]
    return {
        "test_function": model.plan.test_function.spec(),
        "support": model.plan.support,
        "stride": model.plan.stride,
        "block_steps": model.block_steps,
        "windows": [factor.windows for factor in model.factors],
        "threshold": pooled.threshold,
        "residual": [round(float(r), 6) for r in pooled.residual],
        "stop_reason": pooled.stop_reason,
        "dependent": list(pooled.dependent[:8]),
    }


def _compact_chunks(chunks: Sequence[Sequence[int]]) -> list[Any]:
    """Chunk lengths per dim; one number where all but the last are alike."""
    return [
        lengths[0] if len(set(lengths[:-1])) <= 1 and lengths[-1] <= lengths[0] else list(lengths)
        for lengths in chunks
    ]


def _changed(config: Config) -> dict[str, Any]:
    """Settings that differ from the defaults."""
    defaults = Config().to_dict()
    return {
        section: changed
        for section, values in config.to_dict().items()
        if (changed := {k: v for k, v in values.items() if v != defaults[section][k]})
    }


def _report(
    archive: Archive,
    pod: ArchivePOD,
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
        rank=pod.rank,
        nonzero_terms=model.models[0].nonzero_terms if model else 0,
        kept_samples=model.code.kept if model else 0,
        snapshots=len(archive.time.values),
        raw_bytes=archive.raw_bytes,
        stored_bytes=stored,
        compression_ratio=archive.raw_bytes / stored,
        seconds=time.perf_counter() - began,
        cpu_seconds=time.process_time() - cpu,
        bytes_read=pod.bytes_read,
        chunks_read=pod.chunks_read,
        advice=advice(archive.raw_bytes / stored, pod.rank, len(archive.time.values)),
    )


def advice(ratio: float, rank: int, snapshots: int) -> str:
    """What to tell somebody about this result; empty where there is nothing to warn of."""
    why = (
        f"the POD needs {rank} of at most {snapshots - 1} modes for this tolerance: the data has "
        f"no low-dimensional dynamics at this accuracy"
    )
    if ratio < 1:
        return (
            f"The store is LARGER than the uncompressed data (ratio {ratio:.2f}): {why}. Do not "
            f"use it; keep the archive, use a general compressor, or allow a larger tolerance."
        )
    if ratio < 3:
        return (
            f"A ratio of {ratio:.2f} is hardly worth it: {why}. A general error-bounded "
            f"compressor is likely to do better here, or allow a larger tolerance."
        )
    return ""

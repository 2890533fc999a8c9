"""What goes into a store: basis, samples, model, coordinates, and facts in JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import dask
import numpy as np
from dask.delayed import Delayed, delayed
from numpy.typing import NDArray

from pipeline.archive import Archive
from pipeline.chunked.plan import PODPlan, SpaceBlock
from pipeline.config import Config
from pipeline.contracts import ArchivedVariable, Floats
from pipeline.factor import ArchivePOD
from pipeline.identify import LatentModel
from pipeline.numerics.factors import RowBlock
from pipeline.numerics.sampling import keep_nothing
from pipeline.store.writer import ModesWriter, StoreWriter

Matrix = NDArray[np.float64]

PACKAGES = ("romzarr", "dask", "distributed", "xarray", "zarr", "numpy", "scipy")


def write_basis(writer: StoreWriter, archive: Archive, pod: ArchivePOD) -> None:
    """Modes and means, written by the workers that hold them."""
    side_by_side: list[Delayed] = []
    in_turn: list[Delayed] = []
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


def write_model(
    writer: StoreWriter, archive: Archive, pod: ArchivePOD, model: LatentModel | None
) -> None:
    code = keep_nothing(len(pod.a), pod.budget.samples) if model is None else model.code
    writer.write_latent(code, archive.time)
    if model is not None:
        factors = _narrowed(np.array([factor.r for factor in model.factors]))
        writer.write_model(np.array([m.coefficients for m in model.models]), factors)
    else:
        writer.write_model(np.zeros((0, 0, 0)))
    writer.write_coordinates(archive.carried)


def _narrowed(factors: Matrix) -> Floats:
    """Single precision where its range allows it: regression forgives it, and it weighs half."""
    sizes = np.abs(factors[factors != 0])
    inside = sizes.max(initial=1.0) < 1e30 and sizes.min(initial=1.0) > 1e-30
    return factors.astype(np.float32) if inside else factors


def facts(
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
        "error_measured_by": "bound from the norms of all cuts and of what the coefficients miss",
        "rank": pod.rank,
        "nonzero_terms": model.models[0].nonzero_terms if model else 0,
        "raw_bytes": archive.raw_bytes,
        "arithmetic": pod.budget.basis.name,
        "variables": {
            variable.name: {
                "dims": list(variable.dims),
                "shape": list(variable.shape),
                "dtype": variable.dtype.str,
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

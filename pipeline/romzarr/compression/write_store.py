"""What goes into a store: basis, samples, model, coordinates, and facts in JSON."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any, NamedTuple

import dask
import numpy as np
from dask.delayed import delayed

from romzarr.archive import Archive
from romzarr.chunked.fields import write_tile
from romzarr.chunked.latent import CodedRecord
from romzarr.chunked.shared_fields import SharedTiles, shared_content
from romzarr.chunked.slices import slices
from romzarr.chunked.tables import LeftOut
from romzarr.compression.allocate_bits import CodedFields
from romzarr.compression.model import LatentModel
from romzarr.compression.model_facts import model_facts
from romzarr.compression.pod import ArchivePOD
from romzarr.config import Config
from romzarr.contracts import EXACT, ArchivedVariable, CodedLatent, Coding, Floats, Gaps, PointOrder
from romzarr.store import layout
from romzarr.store.writing.writer import StoreWriter

# Where it ran says nothing of what is stored.
NOT_RECORDED = frozenset({"cluster", "nightly"})
# Significant digits of errors, and of squared fluctuations, at least, those that float64 has, and
# how much of what an error leaves of the tolerance fewer digits may take.
ERROR_DIGITS, SQUARE_DIGITS, FULL_DIGITS, ROUNDED_SHARE = 4, 5, 17, 0.1
PACKAGES = ("romzarr", "dask", "distributed", "xarray", "zarr", "numpy", "scipy")


class Codings(NamedTuple):
    """How the variables of a store are coded: each `of` them, with what rank and arithmetic."""

    of: tuple[Coding, ...]
    rank: int
    arithmetic: str


def codings_of(coded: CodedFields) -> Codings:
    """Of variables coded by POD, or about as accurately."""
    return Codings(coded.codings, coded.rank, coded.plan.pod.budget.basis.name)


def write_fields(writer: StoreWriter, archive: Archive, coded: CodedFields) -> None:
    """Means and modes, coded and written by the workers that hold them; constants."""
    plan, pod, tasks = coded.plan, coded.plan.pod, []
    for number, (variable, fields) in enumerate(zip(archive.variables, plan.fields, strict=True)):
        if number in plan.together:
            continue
        if fields is None:
            if coded.codings[number] == Coding.CONSTANT:
                mean = _gathered_mean(pod, number, variable)
                writer.write_constant(variable.name, variable.space_dims, mean)
            continue
        mask, step = pod.masks[number], coded.steps[number]
        writer.create_fields(
            variable.name,
            variable.space_dims,
            variable.space_shape,
            plan.tiles[number],
            coded.rank,
            step,
            pod.budget.basis,
            None if mask is None else archive.variables[mask].name,
        )
        put = delayed(write_tile, pure=False)
        tasks += [
            put(content, tile, writer.fields, variable.name, mask == number)
            for content, tile in zip(coded.contents[number], fields.tiles, strict=True)
        ]
    for some in slices(tasks):
        dask.compute(*some)
    if plan.in_one:
        _write_shared_fields(writer, archive, coded, plan.in_one)
    if coded.rank:
        writer.write_singular_values(pod.sigma[: coded.rank])


def _write_shared_fields(
    writer: StoreWriter, archive: Archive, coded: CodedFields, shared: SharedTiles
) -> None:
    """Fields of all variables that have them in one array."""
    pod, steps = coded.plan.pod, [coded.steps[v] for v in shared.numbers]
    turn, columns = delayed(pod.turn[:, : coded.rank]), dict[str, tuple[int, float]]()
    (content,) = dask.compute(shared.task(shared_content, turn, steps))
    points = 0
    for v, step in zip(shared.numbers, steps, strict=True):
        columns[archive.variables[v].name] = points, step
        points += math.prod(archive.variables[v].space_shape)
    writer.write_shared_fields(columns, (coded.rank + 1, points), pod.budget.basis, content)


def _gathered_mean(pod: ArchivePOD, number: int, variable: ArchivedVariable) -> Floats:
    """Mean of a constant variable, exactly, NaN where it is masked."""
    mean = np.empty(variable.space_shape, variable.dtype)
    rows = pod.held.plan.rows_of(number)
    blocks = dask.compute(*(pod.held.blocks[row.number] for row in rows))
    for row, block in zip(rows, blocks, strict=True):
        part = block.mean if block.valid is None else np.where(block.valid, block.mean, np.nan)
        mean[row.region] = part.reshape(row.shape)
    return mean


def write_latent(writer: StoreWriter, archive: Archive, coded: CodedLatent | None) -> None:
    """Coordinates and times; coefficients and models where there are any."""
    writer.write_coordinates(archive.carried)
    writer.write_time(archive.time)
    if coded is not None:
        writer.write_latent(coded, archive.time.dim)


def write_record(writer: StoreWriter, archive: Archive, coded: CodedRecord | None) -> None:
    """As `write_latent`, where the workers have the bytes. Runs Dask."""
    write_latent(writer, archive, None)
    if coded is not None:
        sampled = bool(coded.samples)
        coded.write(*writer.create_latent(coded.format, archive.time.dim, sampled, True))


def facts(
    archive: Archive,
    codings: Codings,
    model: LatentModel | None,
    errors: Mapping[str, float],
    config: Config,
    rough: LeftOut | None = None,
) -> dict[str, Any]:
    """All that the store says in JSON."""
    return {
        "tolerance": config.compression.tolerance,
        "relative_l2_error": {
            name: rounded_up(error, config.compression.tolerance) for name, error in errors.items()
        },
        "max_error": dict(config.compression.absolute_bounds),
        "rank": codings.rank,
        "nonzero_terms": 0,
        "raw_bytes": archive.total_bytes,
        "arithmetic": codings.arithmetic,
        "variables": {
            variable.name: {
                "dims": list(variable.dims),
                "shape": list(variable.shape),
                "dtype": variable.dtype.str,
                "time_axis": variable.time_axis,
                "coding": codings.of[number],
                "chunks": compact_chunks(variable.chunks),
                "attrs": archive.variable_attrs[variable.name],
                "encoding": archive.variable_encoding[variable.name],
                **({"gaps": _gap_facts(variable.gaps)} if variable.gaps else {}),
                **_unit_facts(variable, codings.of[number]),
            }
            for number, variable in enumerate(archive.variables)
        },
        "order": list(archive.order),
        "attrs": archive.attrs,
        "encoding": archive.encoding,
        "model": {},
        **({"orders": _order_facts(archive.orders)} if archive.orders else {}),
        **({} if rough is None else {"episodes": [[s.start, s.stop] for s in rough.spans]}),
        "config": changed_settings(config),
        "source": source_facts(archive, config, len(archive.time.values)),
        "versions": {name: version(name) for name in PACKAGES},
        **(model_facts(model) if model else {}),
    }


def _unit_facts(variable: ArchivedVariable, coding: Coding) -> dict[str, Any]:
    if coding in EXACT:
        return {}
    if variable.logarithm is not None:
        return {"logarithm": variable.logarithm.unit}
    if variable.scaling is None:
        return {}
    dims, exponents = variable.scaling.dims, variable.scaling.exponents
    return {"scaling": {"dims": list(dims), "exponents": exponents.ravel().tolist()}}


def _order_facts(orders: Sequence[PointOrder]) -> dict[str, Any]:
    return {
        order.dim: {
            "curve": order.curve,
            "coordinates": list(order.coordinates),
            "pieces": compact_chunks([order.pieces])[0],
            "checksum": layout.order_checksum(order.positions),
        }
        for order in orders
    }


def _gap_facts(gaps: Gaps) -> dict[str, Any]:
    special = {str(code): layout.special_to_json(v) for code, v in gaps.special.items()}
    found: dict[str, Any] = {} if special == layout.MISSING else {"special": special}
    if gaps.runs is None:
        return found | {"home": gaps.home}
    # A code that is not said is that of NaN.
    runs = [run[:2] if run[2] == 1 else run for run in gaps.runs.tolist()]
    masked = {"masked": gaps.masked} if gaps.masked > 1 else {}
    return found | {"runs": runs} | masked


def rounded_up(error: float, tolerance: float) -> float:
    """The error with a few digits, no smaller, that leave nearly all of what is left of the
    tolerance to later snapshots."""
    most = error + ROUNDED_SHARE * (tolerance - error)
    for digits in range(ERROR_DIGITS, FULL_DIGITS):
        short = float(f"{error:.{digits}g}")
        if short < error:
            # Half a digit more than rounding takes away.
            short = float(f"{error * (1 + 10.0 ** (1 - digits)):.{digits}g}")
        if error <= short <= most:
            return short
    return error


def rounded_down(square: float, error: float, tolerance: float) -> float:
    """The squared fluctuation with a few digits, no larger.

    Errors relative to it are larger than before; they stay within the tolerance, with nearly all of
    what is left of it.
    """
    most = error + ROUNDED_SHARE * (tolerance - error)
    for digits in range(SQUARE_DIGITS, FULL_DIGITS):
        short = float(f"{square:.{digits}g}")
        if short > square:
            # Half a digit less than rounding adds.
            short = float(f"{square * (1 - 10.0 ** (1 - digits)):.{digits}g}")
        if 0 < short <= square and error * (square / short) ** 0.5 <= most:
            return short
    return square


def compact_chunks(chunks: Sequence[int | Sequence[int]]) -> list[Any]:
    """Chunk lengths per dim; one number where all but the last are alike."""
    return [
        lengths
        if isinstance(lengths, int)
        else lengths[0]
        if len(set(lengths[:-1])) <= 1 and lengths[-1] <= lengths[0]
        else list(lengths)
        for lengths in chunks
    ]


def source_facts(archive: Archive, config: Config, snapshots: int) -> dict[str, Any]:
    """Where the first `snapshots` are from: the whole path only where the settings ask for it."""
    path = {"path": archive.name} if config.archive.record_path else {}
    return archive.source_facts(snapshots) | path


def changed_settings(config: Config) -> dict[str, Any]:
    """Settings that differ from the defaults, of the sections that say how values are coded."""
    if not config.archive.record_path:
        weights = os.path.basename(config.library.weights)
        config = replace(config, library=replace(config.library, weights=weights))
    defaults = Config().to_dict()
    return {
        section: changed
        for section, values in config.to_dict().items()
        if section not in NOT_RECORDED
        and (changed := {k: v for k, v in values.items() if v != defaults[section][k]})
    }

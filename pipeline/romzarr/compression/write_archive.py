"""Everything that an archive holds, put into its store: by a POD, as values, or to the bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from romzarr.archive import Archive
from romzarr.compression.allocate_bits import CodedFields, allocate_fields
from romzarr.compression.choose_coding import choose_coding
from romzarr.compression.direct import write_direct
from romzarr.compression.lossless import write_lossless
from romzarr.compression.model import LatentModel, identify
from romzarr.compression.pod import ArchivePOD, factor_archive
from romzarr.compression.pointwise import sharpened_by, write_residuals
from romzarr.compression.survey import LEAST_BYTES, survey
from romzarr.compression.values import ValuesPlan, WrittenValues, write_values
from romzarr.compression.write_store import Codings, codings_of, facts, write_fields, write_latent
from romzarr.config import Config
from romzarr.contracts import Coding, ReadCost
from romzarr.errors import AccuracyError
from romzarr.progress import step
from romzarr.store.writing.writer import StoreWriter

NO_CODINGS = Codings((), 0, "float64")
ERRORS = "relative_l2_error"
# Significant digits of squared fluctuations: errors, which are relative to them, have fewer.
TOTAL_DIGITS = 10


@dataclass(frozen=True)
class Result:
    """What was put into a store, and what reading the archive for it cost."""

    facts: Mapping[str, Any]
    codings: Codings
    model: LatentModel | None
    cost: ReadCost


def write_archive(writer: StoreWriter, archive: Archive, config: Config) -> Result:
    """Put an archive into a store, within the tolerance and bounds on single values.

    Reads every chunk once, or twice where single values are bounded. Runs Dask.
    """
    write = _write_lossless if config.compression.tolerance == 0 else _write_lossy
    return write(writer, archive, config)


def _write_lossy(writer: StoreWriter, archive: Archive, config: Config) -> Result:
    """Put everything into the store with errors."""
    plans = _without_pod(archive, config)
    if not plans:
        return _write_by_pod(writer, archive, config)
    with step("write") as writing:
        written = write_values(writer, archive, plans, config.compression.tolerance)
        cost = sum((each.cost for each in written.values()), ReadCost())
        writing.bytes = cost.bytes_read
    rest = archive.of({variable.name for variable in archive.variables} - set(written))
    if rest.variables:
        result = _write_by_pod(writer, rest, config)
    else:
        write_latent(writer, archive, None)
        result = Result(facts(rest, NO_CODINGS, None, {}, config), NO_CODINGS, None, ReadCost())
    return _with_values(archive, result, written, config)


def _without_pod(archive: Archive, config: Config) -> list[ValuesPlan]:
    """How to code the variables for which a sample shows that POD cannot pay.

    None of a small archive, which POD reads as quickly, or of variables with bounds on single
    values, for which there is more to weigh.
    """
    if archive.raw_bytes < LEAST_BYTES or config.compression.max_rank != "auto":
        return []
    bounds = config.compression.bounds
    numbers = [n for n, v in enumerate(archive.variables) if v.name not in bounds]
    with step("survey"):
        found = survey(archive, [config.compression.tolerance], numbers)
    return [each.plan for (each,) in found.values() if each.plan and each.is_rough]


def _with_values(
    archive: Archive, result: Result, written: Mapping[str, WrittenValues], config: Config
) -> Result:
    """The same with variables that were coded without POD."""
    known = dict(zip(result.facts["variables"], result.codings.of, strict=True))
    codings = Codings(
        tuple(known.get(v.name, Coding.DIRECT) for v in archive.variables),
        result.codings.rank,
        result.codings.arithmetic,
    )
    errors = {
        v.name: written[v.name].error if v.name in written else result.facts[ERRORS][v.name]
        for v in archive.variables
    }
    _check_bound(errors, config.compression.tolerance)
    said = facts(archive, codings, result.model, errors, config)
    totals = {name: each.fluctuation for name, each in written.items()}
    return Result(
        {**result.facts, **said, "fluctuation": {**result.facts.get("fluctuation", {}), **totals}},
        codings,
        result.model,
        sum((each.cost for each in written.values()), result.cost),
    )


def _write_by_pod(writer: StoreWriter, archive: Archive, config: Config) -> Result:
    """Put variables into the store by their POD, or as values where it does not pay."""
    tolerance, bounds = config.compression.tolerance, config.compression.bounds
    sharpened = sharpened_by(archive, bounds, tolerance) if bounds else None
    with step("read") as reading:
        pod = factor_archive(archive, config, sharpened)
        reading.bytes = pod.cost.bytes_read
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
        write_latent(writer, archive, model.stored.coded if model else None)
    codings = codings_of(coded)
    squares = zip(pod.norms, pod.fluctuations**2, strict=True)
    totals = {norm.name: float(f"{square:.{TOTAL_DIGITS}g}") for norm, square in squares}
    said = facts(archive, codings, model, errors, config, episodes.rough if episodes else None)
    return Result({**said, "fluctuation": totals}, codings, model, pod.cost)


def _corrected(
    writer: StoreWriter, archive: Archive, result: Result, bounds: Mapping[str, float]
) -> Result:
    """Put residuals into the store, so that single values are within their bounds."""
    with step("correct") as correcting:
        found = write_residuals(writer, archive, result.facts, bounds)
        correcting.bytes = found.cost.bytes_read
    return replace(
        result,
        facts={**result.facts, "largest_pointwise_error": dict(found.errors)},
        cost=result.cost + found.cost,
    )


def _write_lossless(writer: StoreWriter, archive: Archive, config: Config) -> Result:
    """Put everything into the store to the bit."""
    with step("write") as writing:
        cost = write_lossless(writer, archive)
        write_latent(writer, archive, None)
        writing.bytes = cost.bytes_read
    names = [variable.name for variable in archive.variables]
    codings = Codings((Coding.LOSSLESS,) * len(names), 0, "float64")
    errors = dict.fromkeys(names, 0.0)
    return Result(facts(archive, codings, None, errors, config), codings, None, cost)


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
        coded_bytes=coded.plan.bits / 8,
        rough=coded.plan.pod.rough,
    )


# --- errors -------------------------------------------------------------------------------


def _relative_errors(
    coded: CodedFields,
    model: LatentModel | None,
    lost: Mapping[int, float],
    in_episodes: Mapping[int, float],
) -> dict[str, float]:
    """Bound on the error of every variable.

    Made of what the cuts dropped and of what the decoded fields and coefficients miss, all
    known (`Tolerances`), or of what is `lost` of variables coded without POD, always or in
    episodes; and of bounds on rounding.
    """
    pod, live, missed = coded.plan.pod, coded.plan.live, np.zeros(len(coded.steps))
    if model is not None:
        difference = model.stored.a - coded.a
        missed[live] = pod.apart[live] + coded.tolerances.errors(difference)
    missed[list(lost)] = list(lost.values())
    for number, error in in_episodes.items():
        missed[number] = np.hypot(missed[number], error)
    return {
        norm.name: float(
            np.hypot(pod.budget.with_rounding(norm, float(error)), before**0.5) / (total or 1)
        )
        for norm, error, before, total in zip(
            pod.norms, missed, pod.earlier.lost, pod.fluctuations, strict=True
        )
    }


def _check_bound(errors: Mapping[str, float], tolerance: float) -> None:
    for name, error in errors.items():
        if not error <= tolerance:
            raise AccuracyError(
                f"variable {name!r}: error {error:.3e} is above the tolerance {tolerance:g}; "
                f"nothing was stored. Please report this: it should not happen"
            )

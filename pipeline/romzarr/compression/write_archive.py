"""Everything that an archive holds, put into its store: by a POD, as values, or to the bit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from romzarr.archive import Archive
from romzarr.compression.block_errors import with_block_errors
from romzarr.compression.few_snapshots import are_few, write_few
from romzarr.compression.gaps import shown, with_gaps
from romzarr.compression.lossless import write_lossless
from romzarr.compression.pod import factor_archive
from romzarr.compression.pointwise import AIM, sharpened_by, write_residuals
from romzarr.compression.survey import LEAST_BYTES, Surveyed, survey
from romzarr.compression.values import WrittenValues, write_values
from romzarr.compression.write_pod import Result, check_bound, write_factored
from romzarr.compression.write_store import Codings, facts, write_latent
from romzarr.config import Config
from romzarr.contracts import Coding, ReadCost
from romzarr.errors import WorkerMemoryError
from romzarr.progress import step
from romzarr.store.writing.writer import StoreWriter

log = logging.getLogger(__name__)

NO_CODINGS = Codings((), 0, "float64")
ERRORS = "relative_l2_error"


def _as_it_is(archive: Archive) -> Archive:
    return archive


def write_archive(
    writer: StoreWriter,
    archive: Archive,
    config: Config,
    gaps: bool = False,
    prepared: Callable[[Archive], Archive] = _as_it_is,
    aim: float = AIM,
) -> Result:
    """Put an archive into a store, within the tolerance and bounds on single values.

    Reads every chunk once, again where values are coded after a POD, and again where single values
    are bounded. With `gaps`, or of few snapshots, everything is read once more before. Runs Dask.
    Values are coded as they are `prepared`: scaled, or as logarithms. Modes `aim` at such a share
    of bounds on single values.

    Raises
    ------
    GapsError
        If values are missing at some times, infinite, or fill values, without `gaps`.
    """
    if config.compression.tolerance == 0:
        return _write_lossless(writer, archive, config)
    if not archive.variables:
        return _nothing_but_carried(writer, archive, config)
    if not gaps and not are_few(archive):
        return _write_lossy(writer, _prepared(writer, archive, prepared), config, aim)
    with step("gaps") as looking:
        known = with_gaps(archive, writer)
        looking.bytes = known.cost.bytes_read
    known = known._replace(archive=_prepared(writer, known.archive, prepared))
    if are_few(archive):
        result, bounds = write_few(writer, known, config), config.compression.absolute_bounds
        result = _corrected(writer, known.archive, result, bounds) if bounds else result
    else:
        result = _write_lossy(writer, known.archive, config, aim)
        result = replace(result, cost=result.cost + known.cost)
    words = {v.name: shown(v.gaps) for v in known.archive.variables if v.gaps is not None}
    return replace(result, gaps=words)


def _prepared(
    writer: StoreWriter, archive: Archive, prepared: Callable[[Archive], Archive]
) -> Archive:
    """The archive with values as they are coded, and what is constant at some indices stored."""
    archive = prepared(archive)
    for variable in archive.variables:
        if variable.scaling is not None and variable.scaling.steady is not None:
            writer.write_steady(variable.name, variable.space_dims, variable.scaling.steady)
    return archive


def _nothing_but_carried(writer: StoreWriter, archive: Archive, config: Config) -> Result:
    """Put an archive that has no floats into the store."""
    write_latent(writer, archive, None)
    said = {**facts(archive, NO_CODINGS, None, {}, config), "fluctuation": {}}
    return Result(said, NO_CODINGS, None, ReadCost())


def _write_lossy(writer: StoreWriter, archive: Archive, config: Config, aim: float) -> Result:
    """Put everything into the store with errors."""
    found = _surveyed(archive, config)
    plans = [each.plan for each in found.values() if each.plan and each.is_rough]
    if not plans:
        try:
            return _write_by_pod(writer, archive, config, aim)
        except WorkerMemoryError as error:
            plans = [each.plan for each in found.values() if each.plan]
            if len(plans) < len(archive.variables):
                raise
            log.warning("values are coded without modes: %s", error)
    with step("write") as writing:
        written = write_values(writer, archive, plans)
        cost = sum((each.cost for each in written.values()), ReadCost())
        writing.bytes = cost.bytes_read
    rest = archive.of({variable.name for variable in archive.variables} - set(written))
    if rest.variables:
        result = _write_by_pod(writer, rest, config, aim)
    else:
        write_latent(writer, archive, None)
        result = Result(facts(rest, NO_CODINGS, None, {}, config), NO_CODINGS, None, ReadCost())
    return _with_values(archive, result, written, config)


def _surveyed(archive: Archive, config: Config) -> dict[int, Surveyed]:
    """What a sample says of variables that need not go through a POD.

    None of a small archive, which POD reads as quickly, or of variables with bounds on single
    values, for which there is more to weigh.
    """
    if archive.raw_bytes < LEAST_BYTES or config.compression.max_rank != "auto":
        return {}
    bounds = config.compression.absolute_bounds
    numbers = [n for n, v in enumerate(archive.variables) if v.name not in bounds]
    with step("survey"):
        found = survey(archive, [config.compression.tolerance], numbers)
    return {number: each for number, (each,) in found.items()}


def _with_values(
    archive: Archive, result: Result, written: Mapping[str, WrittenValues], config: Config
) -> Result:
    """The same with variables that were coded without POD."""
    others = dict(zip(result.facts["variables"], result.codings.of, strict=True))
    codings = Codings(
        tuple(others.get(v.name, Coding.DIRECT) for v in archive.variables),
        result.codings.rank,
        result.codings.arithmetic,
    )
    errors = {
        v.name: written[v.name].error if v.name in written else result.facts[ERRORS][v.name]
        for v in archive.variables
    }
    check_bound(errors, config.compression.tolerance)
    said = facts(archive, codings, result.model, errors, config)
    totals = {name: each.fluctuation for name, each in written.items()}
    known = {**result.facts.get("fluctuation", {}), **totals}
    found = {**result.facts, **said, "fluctuation": known}
    return Result(
        with_block_errors(found, {name: each.blocks for name, each in written.items()}),
        codings,
        result.model,
        sum((each.cost for each in written.values()), result.cost),
    )


def _write_by_pod(writer: StoreWriter, archive: Archive, config: Config, aim: float) -> Result:
    """Put variables into the store by their POD, or as values where it does not pay."""
    tolerance, bounds = config.compression.tolerance, config.compression.absolute_bounds
    sharpened = sharpened_by(archive, bounds, tolerance, aim) if bounds else None
    with step("read") as reading:
        pod = factor_archive(archive, config, sharpened)
        reading.bytes = pod.cost.bytes_read
    least = sharpened.tolerance if sharpened else tolerance
    result = write_factored(writer, archive, pod, config, least)
    return _corrected(writer, archive, result, bounds) if bounds else result


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

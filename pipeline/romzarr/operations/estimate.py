"""Estimate what compression would give, for several tolerances, without writing anything."""

from __future__ import annotations

import json
import logging
import math
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import xarray as xr
from threadpoolctl import threadpool_limits

from romzarr.archive import Archive, Source, name_of
from romzarr.archive.climatology import groups_asked
from romzarr.coding.residuals import residual_bits
from romzarr.compression.by_index import bounded_dims, index_bounds
from romzarr.compression.choose_coding import choose_coding, coded_bytes
from romzarr.compression.few_snapshots import are_few, few_bytes
from romzarr.compression.gaps import Known, with_gaps
from romzarr.compression.order_points import in_best_order
from romzarr.compression.pod import factor_for
from romzarr.compression.survey import LEAST_BYTES, Surveyed, survey
from romzarr.compression.tiled import tiled
from romzarr.compression.write_store import Codings, facts
from romzarr.config import Config, Settings, given_config, settled
from romzarr.contracts import ArchivedVariable, Coding
from romzarr.errors import AccuracyError, ConfigError, GapsError
from romzarr.numerics.scaling import factors_of
from romzarr.operations.compress import open_checked, tree_of
from romzarr.operations.groups import estimate_tree
from romzarr.progress import step, working_on
from romzarr.reports import Estimate, EstimateReport, VariableEstimate
from romzarr.store.inline import inline_bytes

log = logging.getLogger(__name__)

TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4)
# What a bound on single values is priced at: so many times the root of the mean square error.
BOUND = 5.0
# Facts are JSON, which is stored compressed, beside the metadata of arrays: of the store, of each
# variable and its array, and of a carried one, as a fact or as an array; what samples, models and
# masks take at least.
JSON_SHARE, FIXED_BYTES, VARIABLE_BYTES, INLINE_BYTES, CARRIED_BYTES = 0.25, 600, 450, 60, 400
MODEL_BYTES, MASK_BYTES = 800, 500
# Carried variables up to here are compressed to see what they take; longer ones about so much.
MOST_COMPRESSED, CARRIED_SHARE = 1 << 20, 0.3


def estimate(
    source: Source | xr.DataTree,
    *,
    tolerances: Sequence[float] = TOLERANCES,
    variables: Sequence[str] | None = None,
    weights: str | None = None,
    engine: str | None = None,
    config: Settings | None = None,
) -> EstimateReport:
    """Say what `romzarr.compress` would give for each of several tolerances, in seconds.

    Of an archive below 64 MB all is read, and its POD is computed once; of larger ones a few
    chunks, at most 32 blocks in time, each of at most 64 MB. Nothing is written. Runs on the
    current Dask scheduler.

    Parameters
    ----------
    source : path, URL, Dataset, DataArray or DataTree
        As for `romzarr.compress`. Of a tree all groups are estimated, and their bytes added.
    tolerances : sequence of float
        Above 0 and below 1.
    variables, weights, engine, config
        As for `romzarr.compress`.

    Returns
    -------
    EstimateReport
        For each tolerance the ratio, and for each variable how it would be coded, and why.
        Variables of which a sample says nothing are said to be constant, and so counted.
        Ratios are within 15 % of those of `compress`, except where equations replace most of the
        coefficients, or where there are gaps, what stands in which counts here alone: both make
        stores smaller; and where the rank of a large archive grows in
        another way than in its sample.

    Raises
    ------
    ArchiveError, ConfigError, AccuracyError

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> noise = np.random.default_rng(0).standard_normal((200, 500))
    >>> found = estimate(xr.Dataset({"u": (("time", "x"), noise)}), tolerances=[1e-2])
    >>> print(found.estimates[0].variables["u"].coding)
    direct
    >>> 4 < found.estimates[0].compression_ratio < 10
    True
    """
    config = settled(given_config(config), None, None, variables, weights, engine)
    for tolerance in tolerances:
        if not 0 < tolerance < 1:
            raise ConfigError(f"tolerances: found {tolerance!r}, allowed are 0 < tolerance < 1")
    if config.compression.derivative_bounds:
        raise ConfigError(
            "compression.derivatives: an estimate does not know what bounds on derivatives take, "
            "which is found by coding; leave them out, or use romzarr.compress"
        )
    groups = tree_of(source, config)
    if groups is None:
        return _of_one(cast(Source, source), tolerances, config)
    return estimate_tree(groups, config, lambda each, own: _of_one(each, tolerances, own))


def _of_one(source: Source, tolerances: Sequence[float], config: Config) -> EstimateReport:
    began = time.perf_counter()
    with working_on(name_of(source)), threadpool_limits(1, user_api="blas"):
        archive, config = open_checked(source, config)
        least = _at(config, min(tolerances, default=config.compression.tolerance))
        archive = tiled(in_best_order(archive, least.compression), config.layout)
        with step("estimate"):
            try:
                found = _estimates(_scaled(archive, tolerances, config), tolerances, config)
            except GapsError as gaps:
                log.info("everything is read once more for its gaps: %s", gaps)
                known = with_gaps(archive).archive
                found = _estimates(_scaled(known, tolerances, config), tolerances, config)
    return EstimateReport(
        estimates=tuple(found),
        raw_bytes=archive.total_bytes,
        snapshots=len(archive.time.values),
        seconds=time.perf_counter() - began,
    )


def _scaled(archive: Archive, tolerances: Sequence[float], config: Config) -> Archive:
    """The archive with values scaled, where single indices have bounds, as far as a sample says."""
    if are_few(archive):
        return archive
    least = min(tolerances)
    dims = bounded_dims(archive, _at(config, least).compression)
    sampled = archive.raw_bytes >= LEAST_BYTES
    groups = groups_asked(archive, config.compression.climatology)
    asked = index_bounds(archive, dims, groups, least, gaps=True, sampled=sampled)
    return asked.scaled(archive) if dims else archive


def _from_few(known: Known, tolerances: Sequence[float], config: Config) -> list[Estimate]:
    """Estimates of an archive of few snapshots: all but the writing."""
    found = []
    for tolerance in tolerances:
        variables, sizes = {}, few_bytes(known, tolerance)
        for variable in known.archive.variables:
            nbytes, counted = sizes[variable.name], math.prod(variable.shape)
            error = tolerance * ((variable.fluctuation or 0.0) / counted) ** 0.5
            why = "there are too few snapshots for dynamics" if nbytes else "it never changes"
            coding = Coding.DIRECT if nbytes else Coding.CONSTANT
            variables[variable.name] = _variable(coding, why, nbytes, error, variable.shape)
        found.append(_estimate(known.archive, config, tolerance, variables))
    return found


def _estimates(archive: Archive, tolerances: Sequence[float], config: Config) -> list[Estimate]:
    if are_few(archive):
        return _from_few(with_gaps(archive), tolerances, config)
    estimates = _from_all if archive.raw_bytes < LEAST_BYTES else _from_sample
    return estimates(archive, tolerances, config)


def _from_all(archive: Archive, tolerances: Sequence[float], config: Config) -> list[Estimate]:
    """Estimates of a small archive: all decisions of compression, but for those of a model."""
    settings = [_at(config, tolerance) for tolerance in tolerances]
    pods = factor_for(archive, settings)
    found = []
    for tolerance, pod in zip(tolerances, pods, strict=True):
        if isinstance(pod, AccuracyError):
            found.append(Estimate(tolerance, 0, 0.0, {}, str(pod)))
            continue
        chosen = choose_coding(archive, pod, tolerance)
        by_variable = coded_bytes(archive, chosen)
        variables = {}
        for number, variable in enumerate(archive.variables):
            norm, nbytes = pod.norms[number], by_variable[number]
            if norm.fluctuation == 0:
                coding, why = Coding.CONSTANT, "it never changes"
            elif number in chosen.direct:
                coding, why = Coding.DIRECT, "modes would take more bytes"
            elif chosen.hybrid:
                rank, coding = chosen.hybrid.plan.pod.modes, Coding.HYBRID
                why = f"{rank} modes, and values of what they leave, take fewest bytes"
            else:
                rank = chosen.plan.chosen.rank if chosen.plan.chosen else pod.modes
                coding, why = Coding.POD, f"{rank} modes hold it"
            error = tolerance * norm.fluctuation / max(norm.counted, 1e-300) ** 0.5
            error *= _unit(variable)
            if pod.masks[number] == number:
                nbytes += MASK_BYTES + math.prod(variable.space_shape) / 64
            variables[variable.name] = _variable(coding, why, nbytes, error, variable.shape)
        found.append(_estimate(archive, config, tolerance, variables))
    return found


def _from_sample(archive: Archive, tolerances: Sequence[float], config: Config) -> list[Estimate]:
    """Estimates of a large archive, from the chunks of a survey."""
    numbers = range(len(archive.variables))
    surveyed = survey(archive, tolerances, numbers)
    found = []
    for place, tolerance in enumerate(tolerances):
        variables = {
            variable.name: _from_survey(
                surveyed[number][place] if number in surveyed else None, variable
            )
            for number, variable in enumerate(archive.variables)
        }
        found.append(_estimate(archive, config, tolerance, variables))
    return found


def _unit(variable: ArchivedVariable) -> float:
    """What values as they are coded are multiplied by, on average."""
    if variable.scaling is None:
        return 1.0
    return float(np.sqrt(np.mean(factors_of(variable.scaling.exponents) ** 2)))


def _from_survey(found: Surveyed | None, variable: ArchivedVariable) -> VariableEstimate:
    shape = variable.shape
    if found is None:
        why = "counted as nothing, since its sample hardly changes or cannot be compressed as it is"
        return _variable(Coding.CONSTANT, why, 0.0, 0.0, shape)
    error = _unit(variable) * found.error
    if found.is_rough:
        why = f"its modes would be about as many as its snapshots ({found.rank:.0f})"
        return _variable(Coding.DIRECT, why, found.values_bits / 8, error, shape)
    if found.rides and found.is_dear:
        why = "few modes, and values of what they leave, take fewest bytes"
        return _variable(Coding.HYBRID, why, found.hybrid_bits / 8, error, shape)
    bits = min(found.pod_bits, found.values_bits)
    why = f"about {found.rank:.0f} modes hold it"
    return _variable(Coding.POD, why, bits / 8, error, shape)


def _variable(
    coding: Coding, why: str, nbytes: float, error: float, shape: Sequence[int]
) -> VariableEstimate:
    bounded = math.prod(shape) * residual_bits(1 / BOUND) / 8 if error else 0.0
    return VariableEstimate(coding, why, round(nbytes), BOUND * error, round(bounded))


def _estimate(
    archive: Archive, config: Config, tolerance: float, variables: Mapping[str, VariableEstimate]
) -> Estimate:
    """The sum of all variables, coordinates and metadata."""
    codings = Codings(tuple(each.coding for each in variables.values()), 0, "float32")
    errors = dict.fromkeys(variables, tolerance)
    described = len(json.dumps(facts(archive, codings, None, errors, _at(config, tolerance))))
    fixed = FIXED_BYTES + VARIABLE_BYTES * len(variables) + JSON_SHARE * described
    if any(coding.has_modes for coding in codings.of):
        fixed += MODEL_BYTES
    gaps = [v.gaps.nbytes for v in archive.variables if v.gaps and v.gaps.home == v.name]
    total = sum(each.stored_bytes for each in variables.values()) + fixed + _carried(archive)
    total += sum(gaps) + VARIABLE_BYTES * len(gaps)
    return Estimate(tolerance, round(total), archive.total_bytes / total, variables)


def _carried(archive: Archive) -> float:
    """Bytes of coordinates and of all else that is stored as it is."""
    total = 0.0
    for variable in archive.carried.variables.values():
        if variable.nbytes > MOST_COMPRESSED or variable.dtype.kind in "OT":
            total += CARRIED_BYTES + CARRIED_SHARE * variable.nbytes
        elif variable.size:
            # Byte by byte, as Blosc does.
            values = np.ascontiguousarray(variable.values).reshape(-1)
            shuffled = values.view(np.uint8).reshape(values.size, -1).T
            as_array = CARRIED_BYTES + len(zlib.compress(shuffled.tobytes(), 9))
            total += min(as_array, INLINE_BYTES + inline_bytes(variable.values))
    return total


def _at(config: Config, tolerance: float) -> Config:
    return replace(config, compression=replace(config.compression, tolerance=tolerance))

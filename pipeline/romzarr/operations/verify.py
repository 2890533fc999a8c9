"""Measure the error of a store against its source, by a path that shares nothing with POD."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import xarray as xr

from romzarr.archive import Archive, Source, name_of
from romzarr.archive.time_axis import shown_time
from romzarr.arguments import as_flag
from romzarr.chunked.plan import plan_pod
from romzarr.chunked.spots import all_leaves, share_of, some_leaves
from romzarr.comparison.blocks import as_stored, refuse_other_archive
from romzarr.comparison.by_index import broken_bound, dims_by_index, errors_by_index
from romzarr.comparison.derivatives import DerivativeErrors, derivative_errors_of
from romzarr.comparison.fold import Block, fold
from romzarr.comparison.joint import WHOLE, GroupMoments, Joint, moments_along
from romzarr.comparison.measures import MEASURES, Finding, VerifyMeasure, measures_of
from romzarr.config import Config, Settings, given_config, with_engine
from romzarr.contracts import ArchivedVariable, BlockSpan, FurtherMeasure
from romzarr.loss import CONTAINER
from romzarr.operations.compress import tree_of
from romzarr.operations.further import as_measures, further_measures
from romzarr.operations.groups import made_time
from romzarr.operations.trees import verify_tree
from romzarr.progress import step, working_on
from romzarr.recorded_config import config_of
from romzarr.reports import ErrorsByIndex, VerifyReport
from romzarr.store import layout
from romzarr.store.reading.facts import ERRORS_BY_INDEX
from romzarr.store.reading.reader import CoefficientStore, open_store
from romzarr.store.trees import read_tree

# Leaves of each variable in a sample, and how many times as many where these do not suffice.
FIRST_LEAVES, GROWTH = 4, 4


def verify(
    store: str | os.PathLike[str],
    source: Source | xr.DataTree,
    *,
    engine: str | None = None,
    config: Settings | None = None,
    sample: bool = False,
    per: str | Iterable[str] = (),
    measures: str | Iterable[str] = (),
) -> VerifyReport:
    """Check every file of a store, decode it and measure its error against the source.

    Reads the whole archive once, and the variables of each derivative with a bound once more, on
    the current Dask scheduler or cluster; memory for a few blocks per worker. Measured are the
    bound in the L2 norm, those on single values, and, where a variable is lossless, whether every
    bit is as it was. The settings ``archive`` of the store are used, so weights and variables are
    those it was made with.

    Parameters
    ----------
    store : path or URL
    source : path, URL, Dataset, DataArray or DataTree
        What the store was made from.
    engine : str, optional
        Name of the xarray engine that opens `source`. Default: that of the store.
    config : Config, optional
        Only ``archive.missing_chunks`` and ``archive.engine`` of it are used.
    sample : bool
        Compare a few blocks of each variable, which other ones for each store; more of them
        while these do not keep the bound, since relative to the fluctuation of a few blocks an
        error is an estimate. Only the whole decides that a bound is broken. Derivatives are not
        looked at.
    per : str or iterable of str
        Dims whose indices are told apart, besides the vertical ones and those whose indices have
        bounds of their own. The error on each is relative to the fluctuation there, and one of ten
        times that of the whole variable is warned of.
    measures : str or iterable of str
        Further measures (`romzarr.contracts.FurtherMeasure`), "all" for all. Bias, correlation and
        extremes are of all values that are compared, extremes in a second pass; gradient, spectrum
        and SSIM of whole maps, at even distances where all would be more than some 10^8 values.

    Returns
    -------
    VerifyReport
        ``ok`` is False when a bound is broken, or something was lost or changed.

    Raises
    ------
    ArchiveError, StoreError
        If either side cannot be read. A file of the store that is damaged is named.
    ArchiveError
        If the archive is not as in the store, and was written to while it was read.
    ConfigError
        If a measure or a dim is not known.
    """
    sample, config = as_flag(sample, "sample"), with_engine(given_config(config), engine)
    asked = as_measures(measures)
    per = (per,) if isinstance(per, str) else tuple(per)
    tree = read_tree(layout.normalised(store))
    if tree is None:
        return _of_one(store, cast(Source, source), config, sample, per, asked)
    groups = tree_of(source, made_time(config, tree), remote=True)
    return verify_tree(
        groups,
        store,
        tree,
        lambda at, group: _of_one(at, group, config, sample, per, asked),
    )


def _of_one(
    store: str | os.PathLike[str],
    source: Source,
    config: Config,
    sample: bool,
    per: Sequence[str],
    asked: Sequence[FurtherMeasure],
) -> VerifyReport:
    """Verify a store of one group."""
    began = time.perf_counter()
    with working_on(name_of(source)), step("verify") as verifying:
        opened = open_store(store)
        opened.check_files()
        archive = as_stored(opened, source, config)
        refuse_other_archive(opened, archive)
        lost = _missing(archive, os.fspath(store))
        dims = dims_by_index(archive, per, config_of(opened).compression.per)
        compared = _decided(archive, opened, sample, dims, bool(asked))
        found = compared.found
        further = compared.further(archive, opened, asked) if asked else {}
        derived = DerivativeErrors({}, {}) if sample else derivative_errors_of(archive, opened)
        broken = (words for each in found.values() for words in each.problems)
        problems = (*lost, *broken, *derived.problems)
        if problems:
            with archive.unchanging():
                pass
        verifying.bytes = round(compared.share * archive.raw_bytes)
    values = {
        measure: {name: each.findings[measure].value for name, each in found.items()}
        for measure in MEASURES
        if measure != "unlike"  # which is a problem, or nothing to report
    }
    relative = opened.facts.get("max_relative_error", {})
    found_relative = values.pop("largest_relative_error")
    errors, largest = values["relative_l2_error"], values["largest_pointwise_error"]
    worst = max(errors, key=lambda name: errors[name], default="")
    return VerifyReport(
        ok=not problems,
        **values,
        tolerance=float(opened.facts["tolerance"]),
        max_error=dict(opened.facts.get("max_error", {})),
        largest_relative_error={name: found_relative[name] for name in relative},
        max_relative_error=dict(relative),
        worst=f"{worst}: {largest[worst]:.4g} at {found[worst].place}" if worst else "",
        problems=problems,
        seconds=time.perf_counter() - began,
        compared=compared.share,
        by_index={name: each.by_index for name, each in found.items() if each.by_index},
        warnings=tuple(
            words
            for each in found.values()
            for errors in each.by_index.values()
            for words in errors.warnings
        ),
        measures=further,
        derivative_errors=derived.errors,
        derivatives=derived.tolerances,
    )


class _Verdict(NamedTuple):
    """What each measure finds in a variable, where its largest error is, and what is wrong; not
    ``conclusive`` if more blocks may show something else. Errors are also by dim and index, and
    ``moments`` those of all values, if they are known."""

    findings: Mapping[str, Finding]
    place: str
    problems: tuple[str, ...]
    conclusive: bool
    by_index: Mapping[str, ErrorsByIndex]
    moments: GroupMoments | None


@dataclass(frozen=True)
class _Compared:
    """Verdicts by variable, the blocks that they rest on, and their share of all values."""

    found: Mapping[str, _Verdict]
    blocks: Sequence[Block]
    share: float

    def further(
        self, archive: Archive, opened: CoefficientStore, asked: Sequence[FurtherMeasure]
    ) -> dict[str, dict[str, Any]]:
        """Take further measures. Runs Dask."""
        known = {name: each.moments for name, each in self.found.items()}
        moments = {name: each for name, each in known.items() if each is not None}
        return further_measures(archive, opened, moments, self.blocks, asked)


def _decided(
    archive: Archive,
    opened: CoefficientStore,
    sample: bool,
    dims: Mapping[str, Sequence[str]],
    whole: bool,
) -> _Compared:
    """Judge each variable, also by index of `dims`, with moments of the `whole`. Runs Dask.

    A few leaves of a store that just keeps its bound look somewhat worse or better than the
    whole. So a sample grows until it keeps the bound, or is the whole.
    """
    if not archive.variables:
        return _Compared({}, (), 1.0)
    plan, most = plan_pod(archive.variables), FIRST_LEAVES
    every = all_leaves(plan)
    used: list[tuple[BlockSpan, ...]] = [()] * len(every)
    found: dict[int, _Verdict] = {}
    judging = measures_of(archive, opened)
    joint = [_joint(variable, dims[variable.name], whole) for variable in archive.variables]
    measures = [(*judging.values(), *each) for each in joint]
    while left := [n for n in range(len(archive.variables)) if n not in found]:
        leaves = some_leaves(plan, opened.last.name, most) if sample else every
        rows = [row for row in plan.rows if row.variable in left]
        blocks = [(row, span) for row in rows for span in leaves[row.number]]
        sums = fold(archive, opened, blocks, measures, "time", "verify")
        for row in rows:
            used[row.number] = leaves[row.number] or used[row.number]
        for number in left:
            verdict = _judged(archive, number, judging, sums[number], opened, joint[number])
            mine = [row.number for row in rows if row.variable == number]
            if verdict.conclusive or all(used[row] == every[row] for row in mine):
                found[number] = verdict
        most *= GROWTH
    named = {archive.variables[number].name: found[number] for number in sorted(found)}
    compared = [(row, span) for row in plan.rows for span in used[row.number]]
    return _Compared(named, compared, share_of(plan, tuple(used)))


def _joint(variable: ArchivedVariable, dims: Sequence[str], whole: bool) -> tuple[Joint, ...]:
    """Moments of a variable by index of `dims`, and of the `whole`, where these are asked for."""
    axes = tuple(variable.space_dims.index(dim) for dim in dims) + ((WHOLE,) if whole else ())
    return (Joint(axes),) if axes else ()


def _judged(
    archive: Archive,
    number: int,
    measures: Mapping[str, VerifyMeasure[Any]],
    sums: Sequence[Sequence[Any]],
    opened: CoefficientStore,
    joint: Sequence[Joint],
) -> _Verdict:
    """Judge a variable, as far as the sums of its space blocks show it."""
    variable = archive.variables[number]
    findings = {
        name: measure.finding(parts)
        for (name, measure), parts in zip(measures.items(), sums, strict=False)
    }
    worst, problems = findings["largest_pointwise_error"].at, []
    for name, measure in measures.items():
        if words := measure.problem(findings[name].value, variable.name, opened):
            place = _place(archive, variable, findings[name].at or worst)
            problems.append(f"variable {variable.name!r}: {words} {place}")
    sizes = {WHOLE: 1} | dict(enumerate(variable.space_shape))
    along = {
        axis: moments_along(sums[-1], axis, sizes[axis]) for each in joint for axis in each.axes
    }
    by_index = {
        (dim := variable.space_dims[axis]): errors_by_index(each, dim, archive, variable)
        for axis, each in along.items()
        if axis != WHOLE
    }
    bounded = opened.facts.get(ERRORS_BY_INDEX, {}).get(variable.name, {}).get("dims", ())
    # Of several dims each combination is bounded, and so is each index of any of them.
    for dim in bounded:
        errors, tolerance = by_index.get(dim), float(opened.facts["tolerance"])
        if errors is not None and (words := broken_bound(errors, tolerance)):
            problems.append(f"variable {variable.name!r}: {words}")
    conclusive = not problems and all(each.conclusive for each in findings.values())
    place = _place(archive, variable, worst)
    return _Verdict(findings, place, tuple(problems), conclusive, by_index, along.get(WHOLE))


def _missing(archive: Archive, store: str) -> list[str]:
    """What the store lacks or holds differently, from metadata and coordinates."""
    decoded = xr.open_dataset(store, engine="romzarr")
    problems = [
        f"variable {v.name!r}: dtype {decoded[v.name].dtype}, was {v.dtype}"
        for v in archive.variables
        if decoded[v.name].dtype != v.dtype
    ]
    for name, carried in archive.carried.variables.items():
        if name not in decoded.variables:
            # What a file says of its own loss is nothing that was compressed.
            if name != CONTAINER:
                problems.append(f"{name!r} was lost")
        elif not carried.equals(decoded.variables[name]):
            problems.append(f"{name!r} differs from the source")
    return problems


def _place(archive: Archive, variable: ArchivedVariable, at: Sequence[int]) -> str:
    """Name a snapshot and a place in space."""
    dim, (snapshot, *within) = archive.time.dim, at
    words = [f"{dim}={snapshot}"]
    if dim in archive.carried.coords:
        words[0] += f" ({shown_time(archive.carried[dim].values, snapshot)})"
    words += [f"{d}={i}" for d, i in zip(variable.space_dims, within, strict=True)]
    return ", ".join(words)

"""Measure the error of a store against its source, by a path that shares nothing with POD."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import dask
import numpy as np
import xarray as xr
from dask.delayed import Delayed, delayed
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from romzarr.archive import Archive, Source, name_of
from romzarr.archive.time_axis import shown_time
from romzarr.chunked.plan import PODPlan, SpaceBlock, plan_pod
from romzarr.chunked.spots import Leaves, all_leaves, share_of, some_leaves
from romzarr.comparison.blocks import as_stored, block_of, opened_once, side_by_side
from romzarr.config import Config
from romzarr.contracts import ArchivedVariable, BlockSpan, Floats, ReadBlock, Region
from romzarr.errors import StoreError
from romzarr.progress import step, working_on
from romzarr.reports import VerifyReport
from romzarr.store.layout import Root
from romzarr.store.reading.reader import CoefficientStore, open_store

# Leaves of each variable in a sample, and how many times as many where these do not suffice.
FIRST_LEAVES, GROWTH = 4, 4

Matrix = NDArray[np.float64]


def verify(
    store: str | os.PathLike[str],
    source: Source,
    *,
    config: Config | None = None,
    sample: bool = False,
) -> VerifyReport:
    """Check every file of a store, decode it and measure its error against the source.

    Reads the whole archive once, on the current Dask scheduler or cluster; memory for a
    few blocks per worker. Measured are the bound in the L2 norm, those on single values, and,
    where a variable is lossless, whether every bit is as it was. The settings ``archive`` of
    the store are used, so weights and variables are those it was made with.

    Parameters
    ----------
    store : path or URL
    source : path, URL, Dataset or DataArray
        What the store was made from.
    config : Config, optional
        Only ``archive.missing_chunks`` of it is used.
    sample : bool
        Compare a few blocks of each variable, which other ones for each store; more of them
        while these do not keep the bound, since relative to the fluctuation of a few blocks an
        error is an estimate. Only the whole decides that a bound is broken.

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
    """
    began = time.perf_counter()
    with working_on(name_of(source)), step("verify") as verifying:
        opened = open_store(store)
        opened.check_files()
        archive = as_stored(opened, source, config or Config())
        lost = _missing(opened, archive, os.fspath(store))
        plan = plan_pod(archive.variables)
        with threadpool_limits(1, user_api="blas"):
            found, share = _decided(archive, plan, opened, sample)
        problems = (*lost, *(words for each in found.values() for words in each.problems))
        if problems:
            with archive.unchanging():
                pass
        verifying.bytes = round(share * archive.raw_bytes)
    errors = {name: each.error for name, each in found.items()}
    worst = max(errors, key=lambda name: errors[name])
    return VerifyReport(
        ok=not problems,
        relative_l2_error=errors,
        largest_pointwise_error={name: each.largest for name, each in found.items()},
        tolerance=float(opened.facts["tolerance"]),
        max_error=dict(opened.facts.get("max_error", {})),
        worst=f"{worst}: {found[worst].largest:.4g} at {found[worst].place}",
        problems=problems,
        seconds=time.perf_counter() - began,
        compared=share,
    )


class _Verdict(NamedTuple):
    """Errors of a variable, the place of the largest in words, and the bounds it does not keep.

    ``still`` where nothing fluctuates that an error could be measured by.
    """

    error: float
    largest: float
    place: str
    problems: tuple[str, ...]
    still: bool


def _decided(
    archive: Archive, plan: PODPlan, opened: CoefficientStore, sample: bool
) -> tuple[dict[str, _Verdict], float]:
    """Verdict on each variable, and the share of all values that was compared. Runs Dask.

    A few leaves of a store that just keeps its bound look somewhat worse or better than the
    whole. So a sample grows until it keeps the bound, or is the whole.
    """
    every, most = all_leaves(plan), FIRST_LEAVES
    used: list[tuple[BlockSpan, ...]] = [()] * len(every)
    found: dict[int, _Verdict] = {}
    while left := [n for n in range(len(archive.variables)) if n not in found]:
        leaves = some_leaves(plan, opened.last.name, most) if sample else every
        mine = tuple(leaves[row.number] if row.variable in left else () for row in plan.rows)
        used = [new or old for new, old in zip(mine, used, strict=True)]
        sums = _compare(archive, plan, mine, opened)
        for number in left:
            verdict = _judged(archive, number, [s for s in sums if s[0].variable == number], opened)
            rows = [row.number for row in plan.rows if row.variable == number]
            whole = all(used[row] == every[row] for row in rows)
            if whole or not (verdict.problems or verdict.still):
                found[number] = verdict
        most *= GROWTH
    named = {archive.variables[number].name: found[number] for number in sorted(found)}
    return named, share_of(plan, tuple(used))


def _judged(
    archive: Archive,
    number: int,
    rows: Sequence[tuple[SpaceBlock, Sums]],
    opened: CoefficientStore,
) -> _Verdict:
    """Verdict on variable `number`, as far as these space blocks show it."""
    variable, sums = archive.variables[number], [each for _, each in rows]
    row, worst = max(rows, key=lambda pair: pair[1].largest)
    error, place = _relative(sums), _place(archive, variable, row, worst.largest_at)
    what = "the value" if opened.variables[variable.name].coding == "lossless" else "NaN"
    unlike = [_place(archive, variable, r, s.unlike_at) for r, s in rows if s.unlike_at]
    return _Verdict(
        error=error,
        largest=worst.largest,
        place=place,
        problems=(
            *(f"variable {variable.name!r}: {what} differs at {at}" for at in unlike[:1]),
            *_broken(opened.facts, variable.name, error, worst.largest, place),
        ),
        still=error > 0 and not any(each.fluctuation for each in sums),
    )


def _broken(
    facts: Mapping[str, Any], name: str, error: float, largest: float, place: str
) -> list[str]:
    """What is to be said of bounds that a variable does not keep."""
    bound = float(facts.get("max_error", {}).get(name, np.inf))
    tolerance, found = float(facts["tolerance"]), []
    if not largest <= bound:
        found.append(
            f"variable {name!r}: error {largest:.6g} of a single value is above "
            f"max_error {bound:g}, at {place}"
        )
    if not error <= tolerance:
        found.append(
            f"variable {name!r}: error {error:.4e} is above the tolerance {tolerance:g}; "
            f"largest at {place}"
        )
    return found


def _missing(opened: CoefficientStore, archive: Archive, store: str) -> list[str]:
    """What the store lacks or holds differently, from metadata and coordinates."""
    for variable in archive.variables:
        stored = opened.variables.get(variable.name)
        if stored is None or (stored.dims, stored.shape) != (variable.dims, variable.shape):
            there = "missing" if stored is None else _sizes(stored.dims, stored.shape)
            raise StoreError(
                f"{store} was not made from {archive.name}: variable {variable.name!r} is "
                f"{_sizes(variable.dims, variable.shape)} there and {there} in the store; verify "
                f"against the archive the store was made from"
            )
    decoded = xr.open_dataset(store, engine="romzarr")
    problems = [
        f"variable {v.name!r}: dtype {decoded[v.name].dtype}, was {v.dtype}"
        for v in archive.variables
        if decoded[v.name].dtype != v.dtype
    ]
    for name, carried in archive.carried.variables.items():
        if name not in decoded.variables:
            problems.append(f"{name!r} was lost")
        elif not carried.equals(decoded.variables[name]):
            problems.append(f"{name!r} differs from the source")
    return problems


def _sizes(dims: Sequence[str], shape: Sequence[int]) -> str:
    return " x ".join(f"{dim} {size}" for dim, size in zip(dims, shape, strict=True))


# --- comparison by blocks -----------------------------------------------------------------


@dataclass(frozen=True)
class Sums:
    """Sums over the snapshots of one space block.

    ``mean`` (n,) in time, and ``fluctuation`` the weighted squared fluctuation about it;
    ``error`` weighted squared error; ``weights`` (n,) or None; ``largest`` pointwise error, at
    snapshot and flat point ``largest_at``; ``unlike_at`` where NaN differs, or any bit of what
    is lossless. Values that are not finite do not count elsewhere.
    """

    snapshots: int
    mean: Matrix
    fluctuation: float
    error: float
    weights: Floats | None
    largest: float
    largest_at: tuple[int, int]
    unlike_at: tuple[int, int] | None


def _compare(
    archive: Archive, plan: PODPlan, leaves: Leaves, opened: CoefficientStore
) -> list[tuple[SpaceBlock, Sums]]:
    """Sums of every space block that has leaves; one task a leaf, one a space block."""
    tasks: list[tuple[SpaceBlock, Delayed]] = []
    for row, spans in zip(plan.rows, leaves, strict=True):
        variable = archive.variables[row.variable]
        parts = [_leaf(archive, variable, row, span, opened) for span in spans]
        if parts:
            tasks.append((row, delayed(_added, pure=False)(parts)))
    sums = dask.compute(*(task for _, task in tasks))
    return [(row, found) for (row, _), found in zip(tasks, sums, strict=True)]


def _leaf(
    archive: Archive,
    variable: ArchivedVariable,
    row: SpaceBlock,
    span: BlockSpan,
    opened: CoefficientStore,
) -> Delayed:
    block = block_of(archive, variable, row, span, "verify")
    weights = None if variable.weights is None else variable.weights[row.region].ravel()
    return delayed(_compared, pure=False)(
        block, variable.name, variable.time_axis, row.region, span, weights,
        opened.url, opened.root,
    )  # fmt: skip


def _compared(
    block: ReadBlock,
    name: str,
    time_axis: int,
    region: Region,
    span: BlockSpan,
    weights: Floats | None,
    url: str,
    root: Root,
) -> Sums:
    """Task: compare one block of the archive with what the store decodes there."""
    opened = opened_once(url, root)
    given, found, unlike = side_by_side(block, name, time_axis, region, span, opened)
    lossless = opened.variables[name].coding == "lossless"
    at = np.unravel_index(int(np.argmax(unlike)), unlike.shape) if unlike.any() else None
    # NaN of some payloads are warned of when they are cast.
    with np.errstate(invalid="ignore"):
        x, y = (values.astype(np.float64) for values in (given, found))
    counted = np.isfinite(x) & np.isfinite(y) if lossless else ~np.isnan(x)
    # What is lossless may hold any numbers, also those whose squares are none.
    with np.errstate(over="ignore", invalid="ignore"):
        difference, values = x - y, x
        if not counted.all():
            difference, values = (np.where(counted, v, 0.0) for v in (difference, values))
        return _sums(difference, values, weights, span, at)


def _sums(
    difference: Matrix,
    values: Matrix,
    weights: Floats | None,
    span: BlockSpan,
    unlike: tuple[Any, ...] | None,
) -> Sums:
    scale = 1.0 if weights is None else weights
    sizes = np.abs(difference)
    # Where every value was lost none is larger than another.
    sizes = np.where(np.isnan(sizes), np.inf if np.isnan(sizes).all() else -1.0, sizes)
    where = np.unravel_index(int(np.argmax(sizes)), difference.shape)
    # About the first snapshot first: means that dwarf the fluctuation would cost its digits.
    mean = values[0] + (values - values[0]).mean(axis=0)
    return Sums(
        snapshots=len(span),
        mean=mean,
        fluctuation=float(np.sum(scale * (values - mean) ** 2)),
        error=float(np.sum(scale * difference**2)),
        weights=weights,
        largest=_finite(float(sizes[where])),
        largest_at=(span.start + int(where[0]), int(where[1])),
        unlike_at=None if unlike is None else (span.start + int(unlike[0]), int(unlike[1])),
    )


def _added(parts: Sequence[Sums]) -> Sums:
    """Task: sums of one space block over all its snapshots.

    Fluctuations about means of parts are joined as in T. F. Chan, G. H. Golub, R. J. LeVeque,
    "Algorithms for computing the sample variance", Am. Stat. 37 (1983) 242-247.
    """
    worst = max(parts, key=lambda part: part.largest)
    lengths = np.array([part.snapshots for part in parts])
    means, scale = np.array([part.mean for part in parts]), parts[0].weights
    unlike = [part.unlike_at for part in parts if part.unlike_at is not None]
    with np.errstate(over="ignore", invalid="ignore"):
        mean = means[0] + lengths @ (means - means[0]) / lengths.sum()
        apart = np.sum((1.0 if scale is None else scale) * (means - mean) ** 2, axis=1)
        fluctuation = sum(part.fluctuation for part in parts) + float(lengths @ apart)
    return Sums(
        snapshots=int(lengths.sum()),
        mean=mean,
        fluctuation=fluctuation,
        error=sum(part.error for part in parts),
        weights=scale,
        largest=worst.largest,
        largest_at=worst.largest_at,
        unlike_at=min(unlike) if unlike else None,
    )


def _relative(sums: Sequence[Sums]) -> float:
    """Fluctuation-relative error; where nothing fluctuates, the error itself."""
    error = float(np.sqrt(sum(part.error for part in sums)))
    fluctuation = float(np.sqrt(sum(part.fluctuation for part in sums)))
    return _finite(error / fluctuation) if error and fluctuation else _finite(error)


def _finite(error: float) -> float:
    """An error that JSON has a word for."""
    return error if np.isfinite(error) else float(np.finfo(np.float64).max)


def _place(
    archive: Archive, variable: ArchivedVariable, row: SpaceBlock, at: tuple[int, int]
) -> str:
    """A snapshot and a flat point of a space block in words."""
    snapshot, point = at
    dim = archive.time.dim
    words = [f"{dim}={snapshot}"]
    if dim in archive.carried.coords:
        words[0] += f" ({shown_time(archive.carried[dim].values, snapshot)})"
    within: tuple[Any, ...] = np.unravel_index(point, row.shape) if row.shape else ()
    words += [
        f"{d}={int(i) + part.start}"
        for d, i, part in zip(variable.space_dims, within, row.region, strict=True)
    ]
    return ", ".join(words)

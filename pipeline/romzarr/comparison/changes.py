"""Errors of single snapshots of a store, and the first that cannot be the store's own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from romzarr.archive import Archive
from romzarr.comparison.blocks import ComparedBlock
from romzarr.comparison.fold import Block, Measure, added_fields, fold
from romzarr.contracts import ArchivedVariable, Vector
from romzarr.store.reading.reader import CoefficientStore

# By how many times an error is far larger than usual: that of a snapshot, of a single value; and
# than in the snapshot beside it, or, where that is of another part of the store, than those two
# once more. In stores of six real records, of 1e-1 to 1e-4, the largest were 2.8, 31 and 2.9 times
# as large, and none in both ways.
MEAN_MARGIN, SINGLE_MARGIN, JUMP, ALONE = 6.0, 20.0, 4.0, 3.0


@dataclass(frozen=True)
class SnapshotErrors:
    """What a store is off by at the snapshots ``numbers`` (n,) of one variable; all are (n,).

    ``squares`` is the squared error, by weights of mean 1, and ``peaks`` the largest root of what
    a single value adds to it; ``largest`` is the largest error in the variable's units. ``unlike``
    says where NaN differs, or any bit of what is lossless. Of so many ``values`` that were read,
    ``points`` are numbers on both sides.
    """

    numbers: NDArray[np.int64]
    squares: Vector
    peaks: Vector
    largest: Vector
    unlike: NDArray[np.bool_]
    points: NDArray[np.int64]
    values: NDArray[np.int64]


def snapshot_errors(
    archive: Archive, opened: CoefficientStore, blocks: Sequence[Block]
) -> list[SnapshotErrors]:
    """Measure the errors of each variable of an archive in `blocks`, in time. Runs Dask.

    Blocks end where chunks do; what lies beyond the end of the store is left out.
    """
    measures = [(_BySnapshot(v.inner_product.mean_weight),) for v in archive.variables]
    found = fold(archive, opened, blocks, measures, "space", "history")
    fields = SnapshotErrors.__dataclass_fields__
    return [added_fields(parts, **dict.fromkeys(fields, np.concatenate)) for (parts,) in found]


@dataclass(frozen=True)
class _BySnapshot(Measure[SnapshotErrors]):
    """Errors of each snapshot, which add up over space."""

    mean_weight: float

    def of_block(self, block: ComparedBlock) -> SnapshotErrors:
        errors = np.abs(np.subtract(*block.floats))
        counted = ~np.isnan(errors)
        errors = np.where(counted, errors, 0.0)
        weighted = block.inner.divided(self.mean_weight).rooted(errors)
        return SnapshotErrors(
            numbers=np.arange(block.span.start, block.span.stop),
            squares=np.sum(weighted**2, axis=1),
            peaks=weighted.max(axis=1, initial=0.0),
            largest=errors.max(axis=1, initial=0.0),
            unlike=np.asarray(block.unlike.any(axis=1)),
            points=counted.sum(axis=1),
            values=np.full(len(block.span), errors.shape[1]),
        )

    def add(self, parts: Sequence[SnapshotErrors]) -> SnapshotErrors:
        total, most = partial(np.sum, axis=0), partial(np.max, axis=0)
        return added_fields(
            parts, squares=total, peaks=most, largest=most, unlike=most, points=total, values=total
        )


# --- what cannot be the store's -----------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """The first snapshot that differs, in ``words``; or one of those up to ``last`` does."""

    first: int
    last: int
    words: str


@dataclass(frozen=True)
class Resolution:
    """What a store is off by in one variable, all its snapshots together.

    ``squares`` bounds the squared error (by weights of mean 1), ``largest`` any single error;
    ``usual`` is the root of the mean squared error of a value. Parts begin at the snapshots
    ``starts``.
    """

    squares: float
    largest: float
    usual: float
    starts: NDArray[np.int64]


def resolution(
    opened: CoefficientStore, variable: ArchivedVariable, errors: SnapshotErrors
) -> Resolution:
    """The resolution of a store, by its facts; `errors` tell what share of the points is masked."""
    facts, name, starts = opened.facts, variable.name, opened.starts
    largest = float(facts.get("max_error", {}).get(name, np.inf))
    totals = facts.get("fluctuation")
    if totals is None:
        return Resolution(np.inf, largest, np.inf, starts)
    # Of what is constant the error itself is the relative one, as everywhere.
    squares = facts["relative_l2_error"][name] ** 2 * (totals[name] or 1.0)
    squares /= variable.inner_product.mean_weight
    valid = errors.points.sum() / errors.values.sum()
    count = opened.snapshots * math.prod(variable.space_shape) * valid
    return Resolution(squares, largest, math.sqrt(squares / count) if count else 0.0, starts)


def first_difference(
    errors: SnapshotErrors, store: Resolution, doubt: float = 1.0
) -> Difference | None:
    """The first snapshot whose error cannot be that of the store, if there is any.

    It cannot be if NaN differs, or bits of what is lossless; if its squared error is larger than
    that of all snapshots of the store together, or that of a single value than its bound. And it
    is taken as changed if its error, or that of one of its values, is far larger than usual and
    far larger than in the snapshot before, or after if that before was not looked at: where a
    record is hard to follow, a store is off for as long as that takes, and hardly ever at one
    snapshot alone. Where nothing else speaks for a change, `doubt` makes "far larger" so many
    times as large.
    """
    total = np.cumsum(errors.squares)
    proven = total[-1] > store.squares
    different = errors.unlike | (errors.squares > store.squares) | (errors.largest > store.largest)
    different |= _far_larger(errors, store, 1.0 if proven else doubt)
    if different.any():
        return _named(errors, int(np.argmax(different)), store)
    if proven:
        last = int(errors.numbers[np.argmax(total > store.squares)])
        words = "values differ by more than the store does altogether"
        return Difference(int(errors.numbers[0]), last, words)
    return None


def _far_larger(errors: SnapshotErrors, store: Resolution, doubt: float) -> NDArray[np.bool_]:
    """Where the error of a snapshot, or of one of its values, is far larger than usual."""
    means = np.sqrt(errors.squares / np.maximum(errors.points, 1))
    begins = np.isin(errors.numbers, store.starts)
    usual = doubt * store.usual
    return _stands_out(means, errors.numbers, begins, MEAN_MARGIN * usual) | _stands_out(
        errors.peaks, errors.numbers, begins, SINGLE_MARGIN * usual
    )


def _stands_out(
    sizes: Vector, numbers: NDArray[np.int64], begins: NDArray[np.bool_], most: float
) -> NDArray[np.bool_]:
    """Where an error is larger than `most`, and far larger than in the snapshot beside it.

    What `begins` a part of the store has none before it that it could be held against, and what
    comes after does not count: many a simulation starts with a jolt.
    """
    follows = (np.diff(numbers, prepend=numbers[0]) == 1) & ~begins
    followed = np.roll(follows, -1) & ~begins
    beside = np.where(follows, np.roll(sizes, 1), np.where(followed, np.roll(sizes, -1), np.inf))
    least = np.where(follows, JUMP * beside, np.minimum(JUMP * beside, ALONE * most))
    stands_out: NDArray[np.bool_] = sizes > np.maximum(most, least)
    return stands_out


def _named(errors: SnapshotErrors, at: int, store: Resolution) -> Difference:
    number = int(errors.numbers[at])
    words = "NaN is elsewhere, or bits differ"
    if not errors.unlike[at]:
        words = f"differs by up to {errors.largest[at]:.3g}, where the store is off by"
        words += f" {store.usual:.2g} as a rule"
    return Difference(number, number, words)

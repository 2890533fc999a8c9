"""What `romzarr.verify` measures.

A new measure is a class here, a line in `MEASURES`, and a field of `romzarr.reports.VerifyReport`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from romzarr.archive import Archive
from romzarr.archive.climatology import groups_asked
from romzarr.comparison.blocks import ComparedBlock
from romzarr.comparison.fold import Measure, Sums
from romzarr.contracts import Coding, Matrix
from romzarr.numerics.moments import MomentsWithGaps
from romzarr.recorded_config import config_of
from romzarr.store.reading.reader import CoefficientStore


class Finding(NamedTuple):
    """What is found in a variable: ``value``, and the snapshot and place ``at`` that has it; not
    ``conclusive`` if other blocks may show something else."""

    value: float
    at: tuple[int, ...] = ()
    conclusive: bool = True


class VerifyMeasure(Measure[Sums], Protocol[Sums]):
    """A measure of errors, and what is made of its sums."""

    def finding(self, parts: Sequence[Sums]) -> Finding:
        """Return what is found in a variable, from the sums of its space blocks."""
        ...

    def problem(self, value: float, variable: str, opened: CoefficientStore) -> str:
        """Say what is wrong with a value, in words that a place follows; nothing if it is right."""
        ...


class _Largest(Measure[Finding]):
    """The largest of what every value of a block has."""

    def sizes(self, block: ComparedBlock) -> NDArray[Any]:
        raise NotImplementedError

    def of_block(self, block: ComparedBlock) -> Finding:
        sizes = self.sizes(block)
        at = int(np.argmax(sizes))
        return Finding(_finite(float(sizes.flat[at])), block.index(at))

    def add(self, parts: Sequence[Finding]) -> Finding:
        return max(parts, key=lambda part: part.value)

    finding = add


class Unlike(_Largest):
    """1 where a value that is kept exactly differs, else 0."""

    def sizes(self, block: ComparedBlock) -> NDArray[np.bool_]:
        return block.unlike

    def problem(self, value: float, variable: str, opened: CoefficientStore) -> str:
        stored = opened.variables[variable]
        exact = stored.coding == Coding.LOSSLESS or stored.gaps is not None
        what = "the value" if exact else "NaN"
        return f"{what} differs at" if value else ""


class LargestError(_Largest):
    """The largest error of a single value, in the variable's units."""

    def sizes(self, block: ComparedBlock) -> Matrix:
        sizes = np.abs(block.counted[1])
        lost = np.isnan(sizes)
        # Where every value was lost none is larger than another.
        return np.where(lost, np.inf if lost.all() else -1.0, sizes)

    def problem(self, value: float, variable: str, opened: CoefficientStore) -> str:
        bound = float(opened.facts.get("max_error", {}).get(variable, np.inf))
        words = f"error {value:.6g} of a single value is above max_error {bound:g}, at"
        return "" if value <= bound else words


class LargestRelativeError(_Largest):
    """The largest error of a single value relative to itself; infinite where a zero differs."""

    def sizes(self, block: ComparedBlock) -> Matrix:
        values, errors = block.counted
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            sizes: Matrix = np.abs(errors) / np.abs(values)
        return np.where(errors == 0, 0.0, sizes)

    def problem(self, value: float, variable: str, opened: CoefficientStore) -> str:
        bound = float(opened.facts.get("max_relative_error", {}).get(variable, np.inf))
        words = f"error {value:.6g} of a single value, relative to it, is above {bound:g}, at"
        return "" if value <= bound else words


@dataclass(frozen=True)
class ErrorSums:
    """Moments of the values of one space block, by group of snapshots, and the sum of their squared
    errors in the same inner product."""

    moments: Mapping[int, MomentsWithGaps]
    squared_error: float


@dataclass(frozen=True)
class RelativeError(Measure[ErrorSums]):
    """The L2 norm of the error by that of the fluctuation, or alone where there is none that can be
    squared.

    Fluctuations are about the mean of each of the ``groups`` (m,) that snapshots belong to (None:
    all belong to one).
    """

    groups: NDArray[np.int64] | None = None

    def of_block(self, block: ComparedBlock) -> ErrorSums:
        values, errors = block.counted
        if self.groups is None:
            moments = {0: MomentsWithGaps.of(values, block.present, block.inner)}
        else:
            numbers = self.groups[block.span.start : block.span.stop]
            moments = {
                group: MomentsWithGaps.of(values[some], block.present[some], block.inner)
                for group in np.unique(numbers).tolist()
                for some in [numbers == group]
            }
        with np.errstate(over="ignore", under="ignore"):
            return ErrorSums(moments, float(block.inner.sum(errors**2)))

    def add(self, parts: Sequence[ErrorSums]) -> ErrorSums:
        moments: dict[int, MomentsWithGaps] = {}
        for part in parts:
            for group, each in part.moments.items():
                moments[group] = moments[group].joined(each) if group in moments else each
        return ErrorSums(moments, sum(part.squared_error for part in parts))

    def finding(self, parts: Sequence[ErrorSums]) -> Finding:
        error = float(np.sqrt(sum(part.squared_error for part in parts)))
        moments = [each for part in parts for each in part.moments.values()]
        if not (square := sum(each.square for each in moments)) > 0:
            # What repeats exactly in every group is bounded about its mean.
            whole = [reduce(MomentsWithGaps.joined, part.moments.values()) for part in parts]
            square = _squared_fluctuation(whole)
        fluctuation = float(np.sqrt(square))
        relative = _finite(error / fluctuation if error and 0 < fluctuation < np.inf else error)
        # Where nothing fluctuates there is nothing that an error could be measured by.
        return Finding(relative, conclusive=fluctuation > 0 or not relative > 0)

    def problem(self, value: float, variable: str, opened: CoefficientStore) -> str:
        tolerance = float(opened.facts["tolerance"])
        words = f"error {value:.4e} is above the tolerance {tolerance:g}; largest at"
        return "" if value <= tolerance else words


def _squared_fluctuation(parts: Sequence[MomentsWithGaps]) -> float:
    """Of values about their temporal mean, or of a single snapshot about its average in space."""
    if max(float(part.counts.max(initial=0.0)) for part in parts) > 1:
        return sum(part.square for part in parts)
    weighted = np.concatenate([part.inner.weighted(part.counts) for part in parts])
    values = np.concatenate([part.mean for part in parts])
    if not weighted.any():
        return 0.0
    about = values - values[np.argmax(weighted > 0)]
    with np.errstate(over="ignore", under="ignore"):
        return float(weighted @ (about - weighted @ about / weighted.sum()) ** 2)


def measures_of(archive: Archive, opened: CoefficientStore) -> dict[str, VerifyMeasure[Any]]:
    """What is measured of a store: its errors are relative to what its tolerance is."""
    groups = groups_asked(archive, config_of(opened).compression.climatology)
    return {**MEASURES, RELATIVE: RelativeError(groups if groups.any() else None)}


RELATIVE = "relative_l2_error"
# By name, in the order in which problems are told.
MEASURES: Mapping[str, VerifyMeasure[Any]] = {
    "unlike": Unlike(),
    "largest_pointwise_error": LargestError(),
    "largest_relative_error": LargestRelativeError(),
    RELATIVE: RelativeError(),
}


def _finite(error: float) -> float:
    """Return an error that JSON has a word for."""
    return error if np.isfinite(error) else float(np.finfo(np.float64).max)

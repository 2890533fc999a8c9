"""What `romzarr.verify` measures. A new measure is a class here, a line in `MEASURES`, and a field
of `romzarr.reports.VerifyReport` if it is reported."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from romzarr.comparison.blocks import ComparedBlock, Matrix
from romzarr.comparison.fold import Measure
from romzarr.contracts import Floats
from romzarr.store.reading.reader import CoefficientStore

Sums = TypeVar("Sums")


class Finding(NamedTuple):
    """What is found in a variable: ``value``, and the snapshot and place ``at`` that has it.

    Not ``conclusive`` if other blocks may show something else.
    """

    value: float
    at: tuple[int, ...] | None = None
    conclusive: bool = True


class VerifyMeasure(Measure[Sums], Protocol[Sums]):
    """A measure of errors; `name` is the field of the report that has its values, or empty."""

    name: str

    def finding(self, parts: Sequence[Sums]) -> Finding:
        """Return what is found in a variable, from the sums of its space blocks."""
        ...

    def problem(self, value: float, variable: str, opened: CoefficientStore) -> str:
        """Say what is wrong with a value, in words that a place follows; nothing if it is right."""
        ...


class _Largest:
    """The largest of what every value has."""

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
    """1 where NaN differs, or any bit of what is lossless, else 0."""

    name = ""

    def sizes(self, block: ComparedBlock) -> NDArray[np.bool_]:
        return block.unlike

    def problem(self, value: float, variable: str, opened: CoefficientStore) -> str:
        what = "the value" if opened.variables[variable].coding == "lossless" else "NaN"
        return f"{what} differs at" if value else ""


class LargestError(_Largest):
    """The largest error of a single value, in the variable's units."""

    name = "largest_pointwise_error"

    def sizes(self, block: ComparedBlock) -> Matrix:
        sizes = np.abs(block.counted[1])
        lost = np.isnan(sizes)
        # Where every value was lost none is larger than another.
        return np.where(lost, np.inf if lost.all() else -1.0, sizes)

    def problem(self, value: float, variable: str, opened: CoefficientStore) -> str:
        bound = float(opened.facts.get("max_error", {}).get(variable, np.inf))
        if value <= bound:
            return ""
        return f"error {value:.6g} of a single value is above max_error {bound:g}, at"


@dataclass(frozen=True)
class ErrorSums:
    """Sums over the ``snapshots`` of one space block, by ``weights`` (n,) or None.

    ``mean`` is (n,), and the fluctuation that about it.
    """

    snapshots: int
    mean: Matrix
    squared_fluctuation: float
    squared_error: float
    weights: Floats | None


class RelativeError:
    """The L2 norm of the error by that of the fluctuation, or alone where nothing fluctuates."""

    name = "relative_l2_error"

    def of_block(self, block: ComparedBlock) -> ErrorSums:
        values, errors = block.counted
        weights = 1.0 if block.weights is None else block.weights
        # About the first snapshot first: means that dwarf the fluctuation would cost its digits.
        mean = values[0] + (values - values[0]).mean(axis=0)
        return ErrorSums(
            snapshots=len(block.span),
            mean=mean,
            squared_fluctuation=float(np.sum(weights * (values - mean) ** 2)),
            squared_error=float(np.sum(weights * errors**2)),
            weights=block.weights,
        )

    def add(self, parts: Sequence[ErrorSums]) -> ErrorSums:
        """Join fluctuations about the means of parts.

        As in T. F. Chan, G. H. Golub, R. J. LeVeque, "Algorithms for computing the sample
        variance", Am. Stat. 37 (1983) 242-247.
        """
        lengths = np.array([part.snapshots for part in parts])
        means, weights = np.array([part.mean for part in parts]), parts[0].weights
        mean = means[0] + lengths @ (means - means[0]) / lengths.sum()
        between = np.sum((1.0 if weights is None else weights) * (means - mean) ** 2, axis=1)
        within = sum(part.squared_fluctuation for part in parts)
        return ErrorSums(
            snapshots=int(lengths.sum()),
            mean=mean,
            squared_fluctuation=within + float(lengths @ between),
            squared_error=sum(part.squared_error for part in parts),
            weights=weights,
        )

    def finding(self, parts: Sequence[ErrorSums]) -> Finding:
        error = float(np.sqrt(sum(part.squared_error for part in parts)))
        fluctuation = float(np.sqrt(sum(part.squared_fluctuation for part in parts)))
        relative = _finite(error / fluctuation if error and fluctuation else error)
        # Where nothing fluctuates there is nothing that an error could be measured by.
        fluctuates = any(part.squared_fluctuation for part in parts)
        return Finding(relative, conclusive=fluctuates or not relative > 0)

    def problem(self, value: float, variable: str, opened: CoefficientStore) -> str:
        tolerance = float(opened.facts["tolerance"])
        if value <= tolerance:
            return ""
        return f"error {value:.4e} is above the tolerance {tolerance:g}; largest at"


# In the order in which problems are told.
MEASURES: tuple[VerifyMeasure[Any], ...] = (Unlike(), LargestError(), RelativeError())


class AllMeasures:
    """The measures of the table as one, whose sums are a tuple."""

    def of_block(self, block: ComparedBlock) -> tuple[Any, ...]:
        return tuple(measure.of_block(block) for measure in MEASURES)

    def add(self, parts: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
        return tuple(measure.add(sums) for measure, sums in _by_measure(parts))

    def findings(self, parts: Sequence[tuple[Any, ...]]) -> dict[str, Finding]:
        """Return what each measure finds in a variable, by its name."""
        return {measure.name: measure.finding(sums) for measure, sums in _by_measure(parts)}


def _by_measure(
    parts: Sequence[tuple[Any, ...]],
) -> Iterator[tuple[VerifyMeasure[Any], tuple[Any, ...]]]:
    return zip(MEASURES, zip(*parts, strict=True), strict=True)


def _finite(error: float) -> float:
    """Return an error that JSON has a word for."""
    return error if np.isfinite(error) else float(np.finfo(np.float64).max)

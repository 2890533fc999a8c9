"""Further measures of a store, by name: bias, correlation, extremes, and those of whole maps.

What each means, and where it comes from, is on the page docs/measures.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from romzarr.comparison.blocks import ComparedBlock
from romzarr.comparison.fold import Measure
from romzarr.comparison.joint import GroupMoments
from romzarr.comparison.maps import MapMeasure, Maps
from romzarr.contracts import FurtherMeasure, Matrix, Vector
from romzarr.numerics import similarity
from romzarr.numerics.similarity import Bins

# Quantiles that are compared. The smallest and the largest value are found exactly besides.
QUANTILES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
# Bins between the extremes, which resolve a quantile: half a megabyte in each direction.
BINS = 1 << 16
Facts = dict[str, Any]


def nothing(why: str) -> Facts:
    """What is said of a measure that does not apply."""
    return {"not_applicable": why}


# --- of moments ---------------------------------------------------------------------------


def bias(moments: GroupMoments) -> Facts:
    """Mean of decoded less original values, weighted, and by the RMS fluctuation."""
    if not moments.weights[0]:
        return nothing("there are no numbers to compare")
    usual = float(np.sqrt(moments.squared_fluctuations[0] / moments.weights[0]))
    value = float(moments.means[1, 0])
    relative = value / usual if 0 < usual < np.inf else None
    return _finite({"value": value, "relative": relative})


def correlation(moments: GroupMoments) -> Facts:
    """Pearson's correlation of all values, and of what each point has besides its temporal mean."""
    whole = moments.between[:, 0] + moments.within[:, 0]
    values, anomalies = _pearson(whole), _pearson(moments.within[:, 0])
    if values is None:
        return nothing("the values do not vary, or cannot be squared")
    return {"value": values, "anomalies": anomalies}


def _pearson(products: Vector) -> float | None:
    """Correlation of x and y = x + e, from the sums of xx, xe and ee."""
    xx, xe, ee = (float(each) for each in products)
    size = xx * (xx + 2 * xe + ee)
    if not 0 < size < np.inf:
        return None
    return float(np.clip((xx + xe) / np.sqrt(size), -1.0, 1.0))


# --- of the distribution ------------------------------------------------------------------


@dataclass(frozen=True)
class Distribution(Measure[NDArray[np.int64]]):
    """Numbers (2, k) of original and decoded values in each of the ``bins``."""

    bins: Bins

    def of_block(self, block: ComparedBlock) -> NDArray[np.int64]:
        there = block.present
        return np.stack([self.bins.counted(each[there]) for each in block.floats])

    def add(self, parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
        return np.asarray(np.sum(parts, axis=0))


def bins_of(moments: GroupMoments) -> Bins | None:
    """Bins that hold all values, if there are any that are finite."""
    low, high = float(moments.lowest.min()), float(moments.highest.max())
    return Bins(low, high, BINS) if np.isfinite(high - low) else None


def extremes(moments: GroupMoments, bins: Bins, counts: NDArray[np.int64]) -> Facts:
    """Quantiles of original and decoded values, each right to the ``resolution``."""
    levels = np.array(QUANTILES)
    original, decoded = (bins.quantiles(each, levels).tolist() for each in counts)
    return {
        "minimum": moments.lowest.tolist(),
        "maximum": moments.highest.tolist(),
        "quantiles": list(QUANTILES),
        "original": original,
        "decoded": decoded,
        "resolution": bins.width,
    }


# --- of maps ------------------------------------------------------------------------------


class FurtherMapMeasure(MapMeasure, Protocol):
    """A measure of maps, when it applies, and what is made of its sums."""

    def problem(self, maps: Maps) -> str:
        """Say why it does not apply; nothing if it does."""
        ...

    def finding(self, sums: NDArray[np.float64], maps: Maps) -> Facts: ...


class _Summed:
    """Whose maps add up."""

    def add(self, parts: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        return np.asarray(np.sum(parts, axis=0))


class Gradient(_Summed):
    """Squares (dims, 2) of the differences between neighbours, of the error and the original."""

    def problem(self, maps: Maps) -> str:
        return _no_neighbours(maps)

    def of_map(self, original: Matrix, decoded: Matrix) -> NDArray[np.float64]:
        axes = range(original.ndim)
        return np.array([similarity.gradient_squares(original, decoded, axis) for axis in axes])

    def finding(self, sums: NDArray[np.float64], maps: Maps) -> Facts:
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.where(sums[:, 0] > 0, np.sqrt(sums[:, 0] / sums[:, 1]), 0.0)
        if not sums[:, 1].any():
            return nothing("no two neighbours differ")
        found = dict(zip(maps.dims, ratios.tolist(), strict=True))
        return _finite({"relative_l2_error": _finite(found)})


class Spectrum(_Summed):
    """Power (3, bands) of the original, the decoded and the error, and how many maps had no gap."""

    def problem(self, maps: Maps) -> str:
        return _no_neighbours(maps) or _too_small(maps, similarity.FEWEST)

    def of_map(self, original: Matrix, decoded: Matrix) -> NDArray[np.float64]:
        bands = len(similarity.wavenumbers(original.shape))
        if not np.isfinite(original).all():
            return np.zeros((3, bands + 1))
        powers = [similarity.spectrum(e) for e in (original, decoded, decoded - original)]
        return np.column_stack([np.ones(3), powers])

    def finding(self, sums: NDArray[np.float64], maps: Maps) -> Facts:
        count = int(sums[0, 0])
        if not count:
            return nothing("every map has gaps, such as land")
        original, decoded, error = sums[:, 1:] / count
        numbers = similarity.wavenumbers(maps.shape)
        return {
            "wavenumbers": numbers.tolist(),
            "original": original.tolist(),
            "decoded": decoded.tolist(),
            "error": error.tolist(),
            "resolved_wavelength": similarity.resolved_wavelength(numbers, original, error),
            "without_gaps": count,
        }


class Similarity:
    """Sum of the structural similarity of maps, the least of them, and how many have one."""

    def problem(self, maps: Maps) -> str:
        if len(maps.axes) < 2:
            return "there are no maps of two dims"
        return _no_neighbours(maps) or _too_small(maps, similarity.WINDOW)

    def of_map(self, original: Matrix, decoded: Matrix) -> NDArray[np.float64]:
        found = similarity.structural_similarity(original, decoded)
        return np.array([found, found, 1.0] if np.isfinite(found) else [0.0, np.inf, 0.0])

    def add(self, parts: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        total, least = np.sum(parts, axis=0), np.min(parts, axis=0)
        return np.array([total[0], least[1], total[2]])

    def finding(self, sums: NDArray[np.float64], maps: Maps) -> Facts:
        if not sums[2]:
            return nothing("no map varies, or has a window without gaps")
        total, least, count = sums.tolist()
        return {"mean": total / count, "least": least, "with_windows": int(count)}


def _no_neighbours(maps: Maps) -> str:
    if not maps.axes:
        return "the variable has no dims of space longer than one"
    if maps.scattered:
        return f"neighbours along {maps.dims[-1]!r} by number need not be any in space"
    return ""


def _too_small(maps: Maps, least: int) -> str:
    sizes = " x ".join(map(str, maps.shape))
    return f"maps of {sizes} points are below {least}" if min(maps.shape) < least else ""


# By name, in the order in which they are told.
OF_MOMENTS: Mapping[FurtherMeasure, Callable[[GroupMoments], Facts]] = {
    FurtherMeasure.BIAS: bias,
    FurtherMeasure.CORRELATION: correlation,
}
OF_MAPS: Mapping[FurtherMeasure, FurtherMapMeasure] = {
    FurtherMeasure.GRADIENT: Gradient(),
    FurtherMeasure.SPECTRUM: Spectrum(),
    FurtherMeasure.SSIM: Similarity(),
}


def _finite(facts: Facts) -> Facts:
    """Return facts that JSON has words for: None for what is not finite."""
    return {
        name: None if isinstance(each, float) and not np.isfinite(each) else each
        for name, each in facts.items()
    }

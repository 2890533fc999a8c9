"""Joint moments of an archive and its store, on each index of a dim or over all of space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from romzarr.comparison.blocks import ComparedBlock
from romzarr.comparison.fold import Measure
from romzarr.contracts import Matrix, Vector
from romzarr.inner_product import InnerProduct

# The axis of what is not told apart by index.
WHOLE = -1
# Which of x and e are multiplied: xx, xe and ee.
_PAIRS = ((0, 0), (0, 1), (1, 1))


@dataclass(frozen=True)
class PointMoments:
    """Moments over time of original values x and errors e (decoded less original) at n points.

    ``counts`` (n,) are the numbers of each point, ``means`` (2, n) those of x and e, and
    ``products`` (3, n) the sums of xx, xe and ee about these means. ``lowest`` and ``highest``
    (2,) are the extremes of original and decoded values, infinite where there are none.
    ``shape`` and ``corner`` say where the points lie, and ``inner`` how much they count.
    """

    counts: Vector
    means: Matrix
    products: Matrix
    lowest: Vector
    highest: Vector
    shape: tuple[int, ...]
    corner: tuple[int, ...]
    inner: InnerProduct

    @classmethod
    def of(cls, block: ComparedBlock) -> PointMoments:
        """Those of one block of snapshots."""
        (x, e), present = block.counted, block.present
        counts = present.sum(axis=0, dtype=np.float64)
        # About a number of each point first: means that dwarf the fluctuation cost its digits.
        reference = x[np.argmax(present, axis=0), np.arange(x.shape[1])]
        # In place from here on: a block as float64 is large enough as it is.
        about = np.stack([x - reference, -e])
        about *= present
        means = about.sum(axis=1) / np.maximum(counts, 1)
        about -= means[:, None]
        about *= present
        ends = [
            (each.min(where=present, initial=np.inf), each.max(where=present, initial=-np.inf))
            for each in (x, x - e)
        ]
        return cls(
            counts=counts,
            means=means + np.stack([reference, np.zeros_like(reference)]),
            products=np.stack([np.einsum("tp,tp->p", about[i], about[j]) for i, j in _PAIRS]),
            lowest=np.array([low for low, _ in ends]),
            highest=np.array([high for _, high in ends]),
            shape=tuple(part.stop - part.start for part in block.region),
            corner=tuple(part.start for part in block.region),
            inner=block.inner,
        )

    def joined(self, other: PointMoments) -> PointMoments:
        """Those of both, at the same points (Chan, Golub, LeVeque 1983, Equation 2.1)."""
        counts, means, products = _chan(
            (self.counts, self.means, self.products), (other.counts, other.means, other.products)
        )
        return PointMoments(
            counts, means, products,
            np.minimum(self.lowest, other.lowest), np.maximum(self.highest, other.highest),
            self.shape, self.corner, self.inner,
        )  # fmt: skip


@dataclass(frozen=True)
class GroupMoments:
    """Moments of points in k groups: those on each index of a dim, or all together.

    ``weights`` (k,) are the sums of weights, once for each number; ``means`` (2, k) those of x and
    e, ``between`` (3, k) the sums of xx, xe and ee of the temporal means of points about these
    and ``within`` (3, k) those about the temporal mean of each point. ``counts`` (k,) has the most
    numbers that any point has, ``lowest`` and ``highest`` are as in `PointMoments`.
    """

    weights: Vector
    means: Matrix
    between: Matrix
    within: Matrix
    counts: Vector
    lowest: Vector
    highest: Vector

    @classmethod
    def nothing(cls, groups: int) -> GroupMoments:
        two, three = (np.zeros((rows, groups)) for rows in (2, 3))
        ends = np.full(2, np.inf)
        return cls(np.zeros(groups), two, three, three, np.zeros(groups), ends, -ends)

    @classmethod
    def of(cls, points: PointMoments, axis: int) -> GroupMoments:
        """Those of the points on each index along an axis, or of all points."""
        counted = points.inner.weighted(np.vstack([points.counts, points.products]))
        rows = (counted, points.means, points.counts)
        shaped = (each.reshape((*each.shape[:-1], *points.shape)) for each in rows)
        weighted, means, counts = (_grouped(each, axis, len(points.shape)) for each in shaped)
        total = weighted[0].sum(axis=1)
        center = (weighted[0] * means).sum(axis=-1) / np.where(total > 0, total, 1.0)
        about = np.where(weighted[0] > 0, means - center[..., None], 0.0)
        between = [(weighted[0] * about[i] * about[j]).sum(axis=-1) for i, j in _PAIRS]
        return cls(
            total, center, np.stack(between), weighted[1:].sum(axis=-1),
            counts.max(axis=-1, initial=0.0), points.lowest, points.highest,
        )  # fmt: skip

    def joined(self, other: GroupMoments) -> GroupMoments:
        """Those of the points of both, which differ."""
        weights, means, between = _chan(
            (self.weights, self.means, self.between), (other.weights, other.means, other.between)
        )
        return GroupMoments(
            weights, means, between, self.within + other.within,
            np.maximum(self.counts, other.counts),
            np.minimum(self.lowest, other.lowest), np.maximum(self.highest, other.highest),
        )  # fmt: skip

    def placed(self, start: int, groups: int) -> GroupMoments:
        """The same among more groups, from `start` on."""
        more = [(0, 0), (start, groups - start - len(self.weights))]
        return GroupMoments(
            np.pad(self.weights, more[1:]), np.pad(self.means, more), np.pad(self.between, more),
            np.pad(self.within, more), np.pad(self.counts, more[1:]),
            self.lowest, self.highest,
        )  # fmt: skip

    @property
    def squared_errors(self) -> Vector:
        """Sums (k,) of squared errors."""
        return np.asarray(self.within[2] + self.between[2] + self.weights * self.means[1] ** 2)

    @property
    def squared_fluctuations(self) -> Vector:
        """Sums (k,) of squares about the temporal mean, or of a single snapshot about its mean."""
        return np.asarray(self.within[0] if self.counts.max(initial=0.0) > 1 else self.between[0])


@dataclass(frozen=True)
class Joint(Measure[PointMoments]):
    """Joint moments, kept for some axes of space, or `WHOLE`."""

    axes: tuple[int, ...]

    def of_block(self, block: ComparedBlock) -> PointMoments:
        return PointMoments.of(block)

    def add(self, parts: Sequence[PointMoments]) -> PointMoments:
        return reduce(PointMoments.joined, parts)

    def kept(self, sums: PointMoments) -> Mapping[int, tuple[int, GroupMoments]]:
        """Return the moments by axis, and the index on which they begin."""
        return {
            axis: (0 if axis == WHOLE else sums.corner[axis], GroupMoments.of(sums, axis))
            for axis in self.axes
        }


def moments_along(
    parts: Sequence[Mapping[int, tuple[int, GroupMoments]]], axis: int, groups: int
) -> GroupMoments:
    """Join what `Joint` keeps of all space blocks of a variable, for one axis of that length."""
    placed = (moments.placed(start, groups) for start, moments in (each[axis] for each in parts))
    with np.errstate(over="ignore", invalid="ignore"):
        return reduce(GroupMoments.joined, placed, GroupMoments.nothing(groups))


_Sums = tuple[Vector, Matrix, Matrix]


def _chan(one: _Sums, other: _Sums) -> _Sums:
    """Counts, means and products about them, of two disjoint sets."""
    total = one[0] + other[0]
    share = other[0] / np.where(total > 0, total, 1.0)
    difference = np.where(other[0] > 0, other[1] - one[1], 0.0)
    means = np.where(one[0] > 0, one[1] + difference * share, other[1])
    between = np.stack([one[0] * share * difference[i] * difference[j] for i, j in _PAIRS])
    return total, means, one[2] + other[2] + np.where(one[0] > 0, between, 0.0)


def _grouped(values: Any, axis: int, dims: int) -> Any:
    """Values (..., *space) as (..., groups, points)."""
    first = values.ndim - dims
    lead = values.shape[:first]
    if axis == WHOLE:
        return values.reshape(*lead, 1, -1)
    moved = np.moveaxis(values, first + axis, first)
    return moved.reshape(*lead, moved.shape[first], -1)

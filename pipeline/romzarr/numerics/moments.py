"""Means and fluctuations of snapshots that are seen a few at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from romzarr.contracts import Floats, Mask, Matrix, Vector
from romzarr.inner_product import InnerProduct


@dataclass(frozen=True)
class Moments:
    """Of so many ``snapshots`` of n points.

    ``mean`` (n,) is the temporal mean times the root of the weight of each point, ``square`` the
    weighted sum of squares about it, and ``within`` the part of it about the means of single
    ``blocks``.
    """

    snapshots: int
    mean: Vector
    square: float
    within: float
    blocks: int = 1

    @classmethod
    def of(cls, values: Matrix, inner: InnerProduct) -> Moments:
        """Those of one block of snapshots (m, n), which are overwritten by what is left of them
        about their mean."""
        mean = values.mean(axis=0)
        values -= mean
        square = float(inner.sum(np.einsum("tp,tp->p", values, values)))
        return cls(len(values), inner.rooted(mean), square, square)

    @classmethod
    def beside(cls, parts: Sequence[Moments]) -> Moments:
        """Those of one block of snapshots at the points of all parts."""
        square = sum(part.square for part in parts)
        mean = np.concatenate([part.mean for part in parts])
        return cls(parts[0].snapshots, mean, square, square)

    def joined(self, other: Moments) -> Moments:
        """Those of both, at the same points.

        References
        ----------
        .. [1] T. F. Chan, G. H. Golub, R. J. LeVeque, "Algorithms for computing the sample
           variance", Amer. Statist. 37 (1983) 242-247, Equation 2.1.
        """
        total = self.snapshots + other.snapshots
        difference = other.mean - self.mean
        between = self.snapshots * (other.snapshots / total) * float(difference @ difference)
        return Moments(
            total,
            self.mean + difference * (other.snapshots / total),
            self.square + other.square + between,
            self.within + other.within,
            self.blocks + other.blocks,
        )

    def foretold(self, snapshots: int) -> float:
        """The square of so many snapshots, of which these are blocks at even distances.

        The means of a few blocks differ less from their own mean than from that of all.
        """
        between = self.square - self.within
        if self.blocks > 1 and snapshots > self.snapshots:
            between *= self.blocks / (self.blocks - 1)
        return (self.within + between) * snapshots / self.snapshots


@dataclass(frozen=True)
class MomentsWithGaps:
    """Moments of n points that have numbers at some of the snapshots only.

    ``counts`` (n,) are the numbers of each point, ``mean`` (n,) their average (0 where there are
    none), ``square`` their weighted sum of squares about it, in the ``inner`` product.
    """

    counts: Vector
    mean: Vector
    square: float
    inner: InnerProduct

    @classmethod
    def of(cls, values: Floats, present: Mask, inner: InnerProduct) -> MomentsWithGaps:
        """Those of one block of snapshots (m, n), with numbers where they are ``present``."""
        counts = present.sum(axis=0, dtype=np.float64)
        # About a number of each point first: means that dwarf the fluctuation would cost its
        # digits, and what is constant is constant exactly.
        reference = values[np.argmax(present, axis=0), np.arange(values.shape[1])]
        reference = np.where(counts > 0, reference, 0.0).astype(np.float64)
        about = np.zeros(values.shape)
        np.subtract(values, reference, out=about, where=present)
        shift = about.sum(axis=0) / np.maximum(counts, 1)
        np.subtract(about, shift, out=about, where=present)
        # What cannot be squared is found by its sum.
        with np.errstate(over="ignore", invalid="ignore"):
            square = float(inner.sum(np.einsum("tp,tp->p", about, about)))
        return cls(counts, reference + shift, square, inner)

    def joined(self, other: MomentsWithGaps) -> MomentsWithGaps:
        """Those of both, at the same points (Chan, Golub, LeVeque 1983, Equation 2.1)."""
        total = self.counts + other.counts
        share = other.counts / np.maximum(total, 1)
        difference = np.where(other.counts > 0, other.mean - self.mean, 0.0)
        # Where there was nothing before, there is nothing between.
        with np.errstate(over="ignore", invalid="ignore"):
            between = self.counts * share * difference**2
        mean = np.where(self.counts > 0, self.mean + difference * share, other.mean)
        square = self.square + other.square + float(self.inner.sum(between))
        return MomentsWithGaps(total, mean, square, self.inner)

"""A factored block of snapshots: the values that pass through a POD tree.

A block X (m snapshots of n points, snapshots by rows) is kept as
``X ~ 1 mean^T + right rows``:

* ``right`` (m, k): orthonormal columns, each orthogonal to the constant;
* ``rows`` (k, n): ``right^T X``, the POD modes times their singular values;
* ``mean`` (n,): the temporal mean.

The rows live in the units of the variable. Weights and the scale of the variable enter in
the inner product alone, so points of zero weight are reconstructed like all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from romzarr.contracts import Floats, Mask, Matrix, ReadCost
from romzarr.numerics.pod.gram import Gram


@dataclass(frozen=True)
class Defect:
    """First place at which the data cannot be compressed as it is.

    ``kind`` is "inf", "fill" for a value that looks like a fill value, "scale" for fluctuations
    whose squares leave float64, or "appears" / "vanishes" for NaN that comes and goes; ``time`` the
    snapshot of the record, ``row`` the row block, ``point`` the flat index in it.
    """

    time: int
    kind: str
    row: int
    point: int


@dataclass(frozen=True)
class RowBlock:
    """Space part of a factorisation: mean (n,) float64 and rows (k, n).

    ``valid`` marks points that hold numbers (None: all do); the others are 0 here. ``mix``
    (k, k_joint), where it is given, turns the rows into those of the joint columns of
    several space blocks: ``mix^T rows``.
    """

    mean: Matrix
    rows: Floats
    valid: Mask | None = None
    mix: Matrix | None = None

    def on(self, points: slice) -> RowBlock:
        """That of some of the points. A copy: it does not keep the others in memory."""
        valid = None if self.valid is None else self.valid[points].copy()
        return replace(
            self, mean=self.mean[points].copy(), rows=self.rows[:, points].copy(), valid=valid
        )


@dataclass(frozen=True)
class LongTime:
    """How the ``right`` of a long block follows from those of the blocks that it is made of.

    ``turns`` has a matrix (k_i + 1, k) for each, which multiplies its columns and the constant 1.
    """

    snapshots: int
    turns: tuple[Matrix, ...]

    def turned(self, right: Matrix, part: int) -> Matrix:
        """Rows (m_i, k) of ``right`` from those (m_i, k_i) of some snapshots of a part."""
        turn = self.turns[part]
        return np.asarray(right @ turn[:-1] + turn[-1])


@dataclass(frozen=True)
class TimeFactor:
    """Time part of a factorisation, and what it cost.

    ``start`` is the first snapshot, ``right`` (m, k). Of a ``long`` block it is (0, k), as its rows
    stay in blocks of time, and are made anew there when columns change. By variable, in its own
    units squared: ``gram`` the inner products of the rows; ``discarded`` what the cuts dropped;
    ``apart`` what they dropped in single space blocks, before these were joined. All cuts
    since then are orthogonal in time, and their energies add. What was dropped apart need
    not be orthogonal to them: there the norms add.
    """

    start: int
    right: Matrix
    gram: Mapping[int, Gram]
    discarded: Mapping[int, float]
    apart: Mapping[int, float] = field(default_factory=dict)
    defect: Defect | None = None
    cost: ReadCost = field(default_factory=ReadCost)
    long: LongTime | None = None

    @property
    def snapshots(self) -> int:
        return self.long.snapshots if self.long else len(self.right)

    @property
    def columns(self) -> int:
        return self.right.shape[1]

    @property
    def summary(self) -> TimeFactor:
        """All but what is as long as the block."""
        long = LongTime(self.snapshots, ())
        return replace(self, right=np.zeros((0, self.columns)), long=long)


Factored = tuple[RowBlock, TimeFactor]


@dataclass(frozen=True)
class Place:
    """Where a block lies: variable number, row block number, first snapshot."""

    variable: int
    row: int
    start: int

"""Linear combinations of selections: what statistics are computed of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from romzarr.answers.bounds import recorded_error, rounding_of
from romzarr.answers.levels import error_of_indices
from romzarr.answers.selection import PIECE_BYTES, Selection, regions
from romzarr.contracts import Coding, Matrix
from romzarr.numerics.triangles import centred_triangle
from romzarr.store.reading.decoding import MEAN_SNAPSHOTS

Where = slice | NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Block:
    """Some values (rows, points) of a quantity, at which points and snapshots, and the square of
    the norm of all numbers that were added up for these."""

    where: Where
    span: slice
    values: Matrix
    square: float


@dataclass(frozen=True, eq=False)
class Quantity:
    """The sum of ``factor * selection`` over `terms`, plus an `offset`.

    All selections have the same dims, lengths and weights of points. Where there are `groups`, a
    number (m,) for each snapshot, the mean over the snapshots of its group is subtracted: that is
    an orthogonal projection, which makes no error larger. Points are flat: (points,).
    """

    terms: tuple[tuple[float, Selection], ...]
    offset: float = 0.0
    groups: NDArray[np.int64] | None = None

    # --- what it is of --------------------------------------------------------------------

    @property
    def first(self) -> Selection:
        return self.terms[0][1]

    @property
    def snapshots(self) -> int:
        return len(self.first.rows)

    @property
    def points(self) -> int:
        return math.prod(self.first.space_shape)

    @property
    def weights(self) -> Matrix:
        """What each point (points,) counts in errors."""
        return self.first.weights

    @cached_property
    def has_gaps(self) -> bool:
        """Whether values are missing at some times only: those of lossless variables tell."""
        if any(each.stored.gaps is not None for _, each in self.terms):
            return True
        if all(each.stored.coding != Coding.LOSSLESS for _, each in self.terms):
            return False
        changes = (np.isnan(b.values) != self.masked[b.where] for b in self._blocks())
        return any(bool(each.any()) for each in changes)

    @property
    def factor(self) -> float:
        """The factor of its first term."""
        return self.terms[0][0]

    @property
    def is_decoded(self) -> bool:
        """Whether its values are decoded ones, with nothing done to them."""
        (factor, _), *others = self.terms
        plain = factor == 1 and not others and not self.offset and self.groups is None
        return plain and not self.factored

    def error(self, norm: float) -> float:
        """The L2 norm of the error over the selected snapshots and points at most.

        `norm` is that of the values which are added up.
        """
        return self._error_at(np.ones(self.snapshots, bool)) + self.rounding * norm

    def errors_of_sums(self, weights: Matrix, norm: float) -> Matrix:
        """The same (q,) for the snapshots that count in each of q sums with `weights` (q, m).

        Others add nothing to the error of a sum, if no means over all of them are subtracted.
        """
        if self.groups is not None:
            return np.full(len(weights), self.error(norm))
        errors = [self._error_at(row != 0) for row in weights]
        return np.array(errors) + self.rounding * norm

    def _error_at(self, counted: NDArray[np.bool_]) -> float:
        """The L2 norm of the error at some snapshots, without rounding."""
        total = 0.0
        for factor, each in self.terms:
            if factor:
                some = replace(each, rows=each.rows[counted])
                error = min(recorded_error(some), error_of_indices(each))
                total += abs(factor) * error * each.repeats**0.5
        return total

    @cached_property
    def rounding(self) -> float:
        """By how much of the norm of what is added up the values may be off by rounding."""
        return max(rounding_of(each) for _, each in self.terms)

    # --- factors --------------------------------------------------------------------------

    @cached_property
    def factored(self) -> bool:
        """Whether it is a product of coefficients and fields, and nothing has to be decoded."""
        return all(each.factored for _, each in self.terms)

    @cached_property
    def coefficients(self) -> Matrix:
        """Those of the fields (m, 1 + r), first that of the constant field."""
        first, *others = (record[0][1].coefficients for record in self._records)
        found = np.hstack([first, *(each[:, 1:] for each in others)]) if others else first
        return found if self.groups is None else _centred(found, self.groups)

    @property
    def fields(self) -> Matrix:
        """The constant field and all modes, (1 + r, points) float64; NaN at masked points."""
        (factor, selected), *others = self.terms
        alone = factor == 1 and not others and not self.offset
        return selected.fields if alone else self._combined

    @cached_property
    def _combined(self) -> Matrix:
        constant = self.offset + sum(factor * each.fields[:1] for factor, each in self.terms)
        modes = [sum(factor * e.fields[1:] for factor, e in record) for record in self._records]
        return np.concatenate([constant, *modes])

    @cached_property
    def triangle(self) -> Matrix:
        """The triangle of a QR of the coefficients about their mean, (r, r).

        Its products have the squares of those of all snapshots, and lose no digits.
        """
        return centred_triangle(self.coefficients[:, 1:])

    @cached_property
    def norm(self) -> float:
        """At least the norm of all that factors add up to: that of each mode by itself."""
        if self.groups is not None:
            return replace(self, groups=None).norm
        sizes = np.linalg.norm(self.coefficients, axis=0)
        squares = np.zeros(len(sizes))
        for where, piece in self.pieces(len(sizes)):
            constant, modes = np.nan_to_num(piece.fields[0]), piece.fields[1:]
            squares[0] += constant**2 @ self.weights[where]
            squares[1:] += np.einsum("kp,kp,p->k", modes, modes, self.weights[where])
        return float(sizes @ np.sqrt(squares))

    @property
    def _records(self) -> list[list[tuple[float, Selection]]]:
        """Terms by what they have in common: the same coefficients."""
        found: list[list[tuple[float, Selection]]] = []
        for factor, each in self.terms:
            for record in found:
                other = record[0][1]
                if other.store == each.store and np.array_equal(other.rows, each.rows):
                    record.append((factor, each))
                    break
            else:
                found.append([(factor, each)])
        return found

    @cached_property
    def masked(self) -> NDArray[np.bool_]:
        """Points (points,) without a value in the first snapshot."""
        if not self.factored:
            found = (next(each.at_first().blocks())[1][0] for _, each in self.terms)
            return np.isnan(sum(found))
        masked = np.empty(self.points, bool)
        for where, piece in self.pieces(self.coefficients.shape[1]):
            masked[where] = np.isnan(piece.fields[0])
        return masked

    # --- values ---------------------------------------------------------------------------

    def values(self) -> tuple[Matrix, float]:
        """All values (m, points), decoded or not, and the norm of what is added up for them."""
        found = np.empty((self.snapshots, self.points))
        if self.factored:
            for where, piece in self.pieces(sum(self.coefficients.shape)):
                found[:, where] = self.coefficients @ piece.fields
            return found, self.norm
        square = 0.0
        for block in self.blocks():
            found[block.span, block.where] = block.values
            square += block.square
        return found, square**0.5

    def blocks(self) -> Iterator[Block]:
        """Yield decoded values: some points, and of these some snapshots at a time."""
        means = None if self.groups is None else self._group_means
        for block in self._blocks():
            if means is not None and self.groups is not None:
                block.values[:] -= means[:, block.where][self.groups[block.span]]
            yield block

    def pieces(self, numbers: int) -> Iterator[tuple[Where, Quantity]]:
        """Yield which points of it each piece has, and the piece, so that `numbers` of float64
        for each point of one fit into `PIECE_BYTES`."""
        most = max(1, PIECE_BYTES // (8 * max(1, numbers)))
        if self.points <= most:
            yield slice(None), self
            return
        every = np.arange(self.points).reshape(self.first.space_shape)
        for region in regions(self.first.space_shape, most):
            terms = tuple((factor, each.part(region)) for factor, each in self.terms)
            yield every[region].reshape(-1), replace(self, terms=terms)

    def _blocks(self) -> Iterator[Block]:
        """Yield values from which no means are subtracted."""
        for where, piece in self.pieces(MEAN_SNAPSHOTS):
            for parts in zip(*(each.blocks() for _, each in piece.terms), strict=True):
                span, _ = parts[0]
                pairs = [(f, part) for (f, _), (_, part) in zip(self.terms, parts, strict=True)]
                values, sizes = _added(pairs, self.offset)
                yield Block(where, span, values, _square(sizes, piece.weights))

    @cached_property
    def _group_means(self) -> Matrix:
        """Means (groups, points) of what is not missing."""
        groups = np.zeros(0, np.int64) if self.groups is None else self.groups
        numbers = np.arange(groups.max() + 1)
        total, count = (np.zeros((len(numbers), self.points)) for _ in range(2))
        for block in self._blocks():
            members = (groups[block.span] == numbers[:, None]).astype(np.float64)
            present = ~np.isnan(block.values)
            total[:, block.where] += members @ np.where(present, block.values, 0.0)
            count[:, block.where] += members @ present
        with np.errstate(invalid="ignore"):
            return total / count


def _added(pairs: Sequence[tuple[float, Matrix]], offset: float) -> tuple[Matrix, Matrix]:
    """The sum of factors times values and the offset, and that of their sizes."""
    (factor, values), *others = pairs
    if factor == 1 and not others and not offset:
        return values, values
    # An infinite value that is kept exactly makes its own sum infinite or NaN.
    with np.errstate(invalid="ignore"):
        total = offset + sum(factor * part for factor, part in pairs)
        sizes = abs(offset) + sum(abs(factor * part) for factor, part in pairs)
    return np.asarray(total), np.asarray(sizes)


def _square(values: Matrix, weights: Matrix) -> float:
    """Squared norm of what is finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        square = float(np.einsum("mp,mp,p->", values, values, weights))
    if np.isfinite(square):
        return square
    known = np.where(np.isfinite(values), values, 0.0)
    return float(np.einsum("mp,mp,p->", known, known, weights))


def _centred(values: Matrix, groups: NDArray[np.int64]) -> Matrix:
    """Values less their mean over the rows of the same group."""
    found = np.empty_like(values)
    for group in np.unique(groups):
        rows = groups == group
        found[rows] = values[rows] - values[rows].mean(axis=0)
    # Those of the constant field are known to be zero.
    found[:, 0] = 0.0
    return found

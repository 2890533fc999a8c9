"""How polynomial equations change with coordinates ``z = turn a + shift``.

A polynomial of a is one of z of the same degree, so coefficients move exactly: by the symmetric
powers of the map (`romzarr.numerics.dynamics.moving`) and by `turn` itself, as derivatives turn
with their coordinates. The change of coefficients with the map is linear in its generators, which
gives every gradient of `descent` and `elimination`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from romzarr.contracts import Matrix
from romzarr.numerics.change_of_basis import Move
from romzarr.numerics.dynamics.library import PolynomialLibrary
from romzarr.numerics.dynamics.moving import monomial_maps
from romzarr.numerics.dynamics.shooting import Columns


@dataclass(frozen=True)
class Frames:
    """Several maps to coordinates at once: turns (b, q, q) and shifts (b, q).

    Rows of a turn have length one: of coefficients a of variance one, so have coordinates.
    """

    turns: Matrix
    shifts: Matrix

    @classmethod
    def scaled(cls, turns: Matrix, shifts: Matrix) -> Frames:
        """With rows of length one."""
        length = np.linalg.norm(turns, axis=2)
        return cls(turns / length[:, :, None], shifts / length)

    def __len__(self) -> int:
        return len(self.turns)

    def __getitem__(self, number: int) -> Move:
        return Move(self.turns[number], self.shifts[number])

    def moved(self, turns: Matrix, shifts: Matrix) -> Frames:
        """Each followed by another map, and scaled again."""
        return Frames.scaled(turns @ self.turns, _applied(turns, self.shifts) + shifts)

    def features(self, library: PolynomialLibrary) -> Matrix:
        """(b, p, p): what the features of a are multiplied by to give those of z."""
        return monomial_maps(library, self.turns, self.shifts)

    def coefficients(self, library: PolynomialLibrary, xi: Matrix) -> Matrix:
        """Coefficients (b, p, q) in each of the coordinates, of those of a (p, q)."""
        back: Matrix = np.asarray(np.linalg.inv(self.turns), np.float64)
        features = monomial_maps(library, back, -_applied(back, self.shifts))
        return features @ xi @ self.turns.swapaxes(1, 2)


def _applied(turns: Matrix, shifts: Matrix) -> Matrix:
    moved: Matrix = np.einsum("bij,bj->bi", turns, shifts)
    return moved


@dataclass(frozen=True)
class Generators:
    """Small moves ``z' = z + e z_j`` of coordinate i, and ``z' = z + e``: g of them.

    A coordinate that is scaled has the same terms, so i and j differ; j = q is the shift.
    """

    library: PolynomialLibrary

    @cached_property
    def pairs(self) -> tuple[Columns, Columns]:
        """The coordinates that move (g,), and those that they move by."""
        q = self.library.states
        moving, by = np.nonzero(~np.eye(q, q + 1, dtype=bool))
        return moving, by

    @cached_property
    def features(self) -> Matrix:
        """(g, p, p): the derivatives of features, as combinations of features."""
        number = {term: k for k, term in enumerate(self.library.factors)}
        found = np.zeros((len(self.pairs[0]), self.library.size, self.library.size))
        for g, (i, j) in enumerate(zip(*map(np.ndarray.tolist, self.pairs), strict=True)):
            by = () if j == self.library.states else (j,)
            for term, k in number.items():
                if i in term:
                    rest = list(term)
                    rest.remove(i)
                    found[g, number[tuple(sorted((*rest, *by)))], k] = term.count(i)
        return found

    def changes(self, xi: Matrix) -> Matrix:
        """What coefficients (..., p, q) in moved coordinates are more in those before them:
        (..., g, p, q) for each generator."""
        found: Matrix = np.matmul(self.features, xi[..., None, :, :])
        moving, by = self.pairs
        turning = np.flatnonzero(by < self.library.states)
        for g in turning:
            found[..., g, :, moving[g]] -= xi[..., :, by[g]]
        return found

    def maps(self, sizes: Matrix) -> tuple[Matrix, Matrix]:
        """Turns (b, q, q) and shifts (b, q) of moves by so much of each generator (b, g)."""
        q = self.library.states
        moves = np.zeros((len(sizes), q, q + 1))
        moves[:, self.pairs[0], self.pairs[1]] = sizes
        return np.eye(q) + moves[:, :, :q], moves[:, :, q]

    @cached_property
    def rotations(self) -> Matrix:
        """(g, k): rotations and shifts alone, as combinations of generators."""
        q = self.library.states
        moving, by = self.pairs
        columns = [
            (((moving == i) & (by == j)).astype(float) - ((moving == j) & (by == i)))
            for i in range(q)
            for j in range(i)
        ]
        columns += [((moving == i) & (by == q)).astype(float) for i in range(q)]
        return np.column_stack(columns)


@lru_cache(maxsize=8)
def generators(library: PolynomialLibrary) -> Generators:
    """The generators of a library; equal ones share their tables."""
    return Generators(library)


def nearest_rotations(turns: Matrix) -> Matrix:
    """The orthogonal matrices (b, q, q) next to `turns`."""
    left, _, right = np.linalg.svd(turns)
    rotated: Matrix = left @ right
    return rotated


def inverse(move: Move) -> Move:
    """The map back."""
    back: Matrix = np.asarray(np.linalg.inv(move.turn), np.float64)
    return Move(back, -back @ move.shift)

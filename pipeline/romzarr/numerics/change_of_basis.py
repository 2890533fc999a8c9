"""How coefficients change where a basis moves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from romzarr.contracts import Matrix, Vector


@dataclass(frozen=True)
class Move:
    """Change of coordinates ``a' = turn a + shift`` of a basis: turn (q', q), shift (q',)."""

    turn: Matrix
    shift: Vector

    @classmethod
    def growth(cls, states: int, more: int) -> Move:
        """`more` coefficients, zero so far, after the first `states`."""
        return cls(np.eye(states + more, states), np.zeros(states + more))

    def __call__(self, a: Matrix) -> Matrix:
        """Moved coefficients (m, q') of coefficients (m, q)."""
        moved: Matrix = a @ self.turn.T + self.shift
        return moved

    def after(self, earlier: Move) -> Move:
        """This move and an earlier one in one."""
        return Move(self.turn @ earlier.turn, self.turn @ earlier.shift + self.shift)

    @property
    def augmented(self) -> Matrix:
        """What ``[1 a]`` is multiplied by to give ``[1 a']``: the features of degree one."""
        new, old = self.turn.shape
        both = np.zeros((old + 1, new + 1))
        both[0, 0], both[0, 1:], both[1:, 1:] = 1.0, self.shift, self.turn.T
        return both

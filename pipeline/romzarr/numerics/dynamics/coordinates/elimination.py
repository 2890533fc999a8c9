"""Which terms a model needs if its coordinates may move with it.

In coordinates that are nearly right a term that is not there still has a small coefficient, of
which a long record is sure. So terms and coordinates are fitted together: to first order a small
move changes coefficients by those of its generators, which are columns of the least squares like
those of terms (Gauss and Newton's method, damped as by Levenberg and Marquardt). Then the term
that matters least goes, and so on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from romzarr.contracts import Mask, Matrix, Vector
from romzarr.numerics.change_of_basis import Move
from romzarr.numerics.dynamics.coordinates.affine import Frames, generators
from romzarr.numerics.dynamics.coordinates.evidence import Evidence, columns_of, solved
from romzarr.numerics.dynamics.moving import monomial_map
from romzarr.numerics.dynamics.paths import ONE_BY_ONE
from romzarr.numerics.dynamics.shooting import Columns
from romzarr.numerics.dynamics.subsets import IN_SPAN

MOST_STEPS = 20  # of Gauss and Newton, which take two to eight
TRIALS = 6  # of more and more damping
FIRST_DAMPING, LEAST_DAMPING, DAMPING_RATIO = 1e-3, 1e-9, 10.0
# Coordinates move by less in a step: a linear model of quadratics is not good for more.
LONGEST = 0.7
# Condition number of the turn: beyond, coordinates are the same one twice.
MOST_CONDITION = 100.0
# A step that gains less has arrived, in units of the squared residual's expected value per term,
# and relative to what is left.
SETTLED, SETTLED_SHARE = 1e-2, 1e-5
# Directions in which the misfit is flat to this, relative to the steepest, are moved for nothing.
FLAT = 1e-9
CANDIDATES = 4  # terms added in turn, each of those that lower the misfit most
MOST_ROUNDS = 30  # of adding a term and dropping others, which take up to ten


@dataclass(frozen=True)
class Model:
    """Terms `support` (p, q) and their `coefficients` (p, q) in the coordinates `frame`.

    ``squares`` is what they leave of the evidence, ``rows`` (k, p, q) the evidence in the frame,
    ``basis`` (k, terms) orthonormal and spans those of the terms.
    """

    evidence: Evidence
    frame: Move
    support: Mask
    coefficients: Matrix
    squares: float
    rows: Matrix
    basis: Matrix

    @classmethod
    def of(cls, evidence: Evidence, frame: Move, support: Mask) -> Model:
        """The most likely coefficients of the terms `support`."""
        return cls._in(evidence, frame, support, evidence.rows_in(frame))

    @classmethod
    def _in(cls, evidence: Evidence, frame: Move, support: Mask, rows: Matrix) -> Model:
        """The same, with the evidence in the frame."""
        columns = columns_of(rows, support)
        values, basis = solved(columns, evidence.y)
        coefficients = np.zeros(support.shape)
        coefficients[support] = values
        left = evidence.y - columns @ values
        return cls(evidence, frame, support, coefficients, float(left @ left), rows, basis)

    @property
    def residual(self) -> Vector:
        """What is left of y (k,)."""
        taken = columns_of(self.rows, self.support) @ self.coefficients[self.support]
        left: Vector = self.evidence.y - taken
        return left

    @cached_property
    def moves(self) -> Matrix:
        """Columns (k, g) of the generators."""
        changes = generators(self.evidence.library).changes(self.coefficients)
        k = len(self.evidence.y)
        moved: Matrix = self.rows.reshape(k, -1) @ changes.reshape(len(changes), -1).T
        return moved

    @cached_property
    def _decomposed(self) -> tuple[Matrix, Vector, Matrix, Vector]:
        """Singular vectors and values of the columns of terms and moves, and their lengths."""
        columns = np.concatenate([columns_of(self.rows, self.support), self.moves], axis=1)
        length = np.linalg.norm(columns, axis=0)
        length[length == 0] = 1.0
        return (*np.linalg.svd(columns / length, full_matrices=False), length)

    @property
    def covariance(self) -> Matrix:
        """Of the coefficients (terms, terms), in units of the variance of the residuals, where
        coordinates are known only as well as the terms say."""
        _, values, right, length = self._decomposed
        inverse = right.T / np.maximum(values, FLAT * values[0])
        terms = inverse[: int(self.support.sum())]
        own = length[: len(terms)]
        return np.asarray(terms @ terms.T / np.outer(own, own))

    @property
    def losses(self) -> Matrix:
        """By how much the squared residual rises without each term (p, q); infinite elsewhere."""
        found = np.full(self.support.shape, np.inf)
        found[self.support] = self.coefficients[self.support] ** 2 / np.diag(self.covariance)
        return found

    @property
    def gains(self) -> Matrix:
        """By how much the squared residual falls with each term (p, q) more."""
        left, values, _, _ = self._decomposed
        basis = left[:, values > FLAT * values[0]]
        columns = self.rows.reshape(len(self.evidence.y), -1)
        outside = columns - basis @ (basis.T @ columns)
        squares = np.sum(outside**2, axis=0)
        new = squares > IN_SPAN * np.sum(columns**2, axis=0)
        found = np.zeros(len(squares))
        found[new] = (self.residual @ outside[:, new]) ** 2 / squares[new]
        return np.where(self.support, 0.0, found.reshape(self.support.shape))

    def score(self, price: float) -> float:
        """The criterion where a term costs `price`; less is better."""
        return self.evidence.deviance(self.squares) + price * int(self.support.sum())

    def settled(self) -> Model:
        """The most likely model with these terms, in coordinates near these."""
        model, damping = self, FIRST_DAMPING
        for _ in range(MOST_STEPS):
            better = None
            for _ in range(TRIALS):
                better = model._moved(damping)
                if better is not None:
                    break
                damping *= DAMPING_RATIO
            if better is None:
                break
            gain, model = model.squares - better.squares, better
            damping = max(damping / DAMPING_RATIO, LEAST_DAMPING)
            if gain < SETTLED + SETTLED_SHARE * model.squares:
                break
        return model

    def _moved(self, damping: float) -> Model | None:
        """After one damped step; None if that leads too far or to no better model."""
        columns = self.moves - self.basis @ (self.basis.T @ self.moves)
        gram = columns.T @ columns
        least = max(damping * float(np.trace(gram)) / len(gram), np.finfo(float).tiny)
        sizes: Matrix = np.asarray(
            np.linalg.solve(gram + least * np.eye(len(gram)), columns.T @ self.residual), np.float64
        )
        if not np.abs(sizes).max() < LONGEST:
            return None
        turns, shifts = generators(self.evidence.library).maps(sizes[None])
        frames = Frames(self.frame.turn[None], self.frame.shift[None]).moved(turns, shifts)
        if np.linalg.cond(frames.turns[0]) > MOST_CONDITION:
            return None
        model = Model.of(self.evidence, frames[0], self.support)
        return model if model.squares <= self.squares else None

    @property
    def original(self) -> Matrix:
        """The coefficients (p, q) in the coordinates of the record."""
        features = monomial_map(self.evidence.library, self.frame)
        found: Matrix = features @ self.coefficients @ np.linalg.inv(self.frame.turn).T
        return found

    def changed(self, terms: int | Columns, there: bool) -> Model:
        """With or without terms (numbers in the flat support), settled."""
        support = self.support.copy()
        support.flat[terms] = there
        return Model._in(self.evidence, self.frame, support, self.rows).settled()


def eliminated(model: Model, price: float) -> Model:
    """The best of the models with ever fewer terms, until five more would not pay."""
    best, least = model, model.score(price)
    for fewer in _fewer(model, share=0.1):
        score = fewer.score(price)
        if score < least:
            best, least = fewer, score
        elif score > least + 5 * price:
            break
    return best


def _fewer(model: Model, share: float = 0.0) -> Iterator[Model]:
    """Without the term that matters least, and so on; of many terms a share at once."""
    while model.support.sum() > 1:
        count = int(model.support.sum())
        drop = 1 if count <= ONE_BY_ONE else max(1, int(share * count))
        order = np.argsort(model.losses, axis=None, kind="stable")
        model = model.changed(order[:drop], there=False)
        yield model


def improved(model: Model, price: float) -> Model:
    """With terms added, and what can then go, as long as that pays."""
    for _ in range(MOST_ROUNDS):
        gains = model.gains.ravel()
        for term in np.argsort(-gains, kind="stable")[:CANDIDATES]:
            if not gains[term]:
                return model
            better = _reduced(model.changed(int(term), there=True), price)
            if better.score(price) < model.score(price) - SETTLED:
                break
        else:
            return model
        model = better
    return model


def _reduced(model: Model, price: float) -> Model:
    """Without the term that matters least, and so on, as long as that pays."""
    for smaller in _fewer(model):
        if smaller.score(price) >= model.score(price):
            break
        model = smaller
    return model

"""What networks err by on a record, as noise of their columns.

A network's error is a function of its arguments: it comes back each time the record comes by,
so it does not average out as noise does, and a long record sees the more of it. It is taken
for a random smooth function, a Gaussian process over the arguments (C. E. Rasmussen,
C. K. I. Williams, "Gaussian processes for machine learning", MIT Press 2006, section 2.2) with
the covariance ``size^2 exp(-d^2 / (2 length^2))``.
"""

from __future__ import annotations

import math

import numpy as np

from romzarr.contracts import Matrix, Vector
from romzarr.numerics.dynamics.neural_library import CONSTANT, NeuralLibrary, Term
from romzarr.numerics.dynamics.symbolic import parse

# Share of the variance that columns need not explain, and how many there are at most: a record
# that fills a volume of many lengths would ask for more than there are samples.
LEFT_OUT, MOST_COLUMNS = 1e-3, 32
# Length of the error in units of the reach where no formula shows it: those of shipped networks
# are 1/90 to 1/6.
UNKNOWN_LENGTH = 1 / 16
SHORTEST, LONGEST = 1 / 128, 1.0  # lengths believed, in units of the reach


def network_error(library: NeuralLibrary, term: int, a: Matrix) -> tuple[Matrix, Vector]:
    """Columns (m, r) whose sum with independent standard normal weights is a term's error, and
    the variance (m,) of what they leave of it, which is taken for independent in each sample.

    `a` (m, q) are states, in order of time. Size and length of the error are those it has on
    them where the term's formula is known, and otherwise what the operator's validation says
    of the whole range. The constant has no error: r is 0.

    References
    ----------
    .. [1] E. Snelson, Z. Ghahramani, "Sparse Gaussian processes using pseudo-inputs", NIPS 18
       (2006), section 2: few columns, and the rest of the variance on the diagonal.
    """
    found = library.terms[term]
    if found.operator == CONSTANT:
        return np.zeros((len(a), 0)), np.zeros(len(a))
    arguments = _arguments(library, found, a)
    reach = library.operators[found.operator].reach
    size, length = float(library.errors[term]), UNKNOWN_LENGTH * reach
    if library.operators[found.operator].formula:
        error = _error(library, term, a)
        # Samples far apart from one another: a record may stay long in one place.
        _, _, spread = _factor(arguments / length)
        size = float(np.sqrt(np.mean(error[spread] ** 2)))
        length = _length(size, error, arguments, reach)
    columns, left, _ = _factor(arguments / length)
    return size * columns, size**2 * left


def _arguments(library: NeuralLibrary, term: Term, a: Matrix) -> Matrix:
    """What tells one value of the term from another, (m, d): its states, scaled."""
    columns = []
    for state in term.states:
        value = a[:, state] / library.scale(term.operator, state)
        if state in library.angles and library.operators[term.operator].periodic:
            columns += [np.cos(value), np.sin(value)]
        else:
            columns.append(value)
    return np.stack(columns, axis=1)


def _error(library: NeuralLibrary, term: int, a: Matrix) -> Vector:
    names = tuple(f"a{j + 1}" for j in range(library.states))
    by_name = {name: a[:, j] for j, name in enumerate(names)}
    truth = parse(library.formulas()[term], names).evaluate(by_name)
    return np.asarray(library.evaluate(a, np.array([term]))[:, 0] - truth)


def _length(size: float, error: Vector, arguments: Matrix, reach: float) -> float:
    """Length of a Gaussian covariance from the error's size over that of its slope."""
    steps = float(np.sqrt(np.mean(np.sum(np.diff(arguments, axis=0) ** 2, axis=1))))
    changes = float(np.sqrt(np.mean(np.diff(error) ** 2)))
    length = size * steps / changes if changes > 0 else math.inf
    return min(max(length, SHORTEST * reach), LONGEST * reach)


def _factor(points: Matrix) -> tuple[Matrix, Vector, list[int]]:
    """Columns F (m, r) with F F.T near exp(-d^2 / 2) of the points (m, d), what is left of the
    diagonal (m,), and the r pivots.

    By Cholesky factorisation with diagonal pivots, stopped early (S. Fine, K. Scheinberg,
    "Efficient SVM training using low-rank kernel representations", J. Mach. Learn. Res. 2
    (2001) 243, section 4).
    """
    left = np.ones(len(points))
    columns = np.zeros((0, len(points)))
    pivots: list[int] = []
    while len(columns) < MOST_COLUMNS and left.sum() > LEFT_OUT * len(points):
        pivot = int(np.argmax(left))
        column = np.exp(-0.5 * np.sum((points - points[pivot]) ** 2, axis=1))
        column = (column - columns[:, pivot] @ columns) / math.sqrt(left[pivot])
        columns = np.vstack([columns, column])
        left = np.maximum(left - column**2, 0.0)
        pivots.append(pivot)
    return np.asarray(columns.T), left, pivots

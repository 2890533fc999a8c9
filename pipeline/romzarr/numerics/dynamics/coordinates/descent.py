"""Coordinates in which the contributions of terms are concentrated on few, from many starts.

The contribution of a term is the rms of its feature times its coefficient, over the rms of the
derivative, so it does not depend on scales. What is minimised is the sum of the logarithms of
contributions, by least squares with weights from the last step: the reweighted l1 norm of [1]_,
which small contributions lead to zero and large ones do not disturb. What counts as zero is
lowered in steps, so that first steps are those of nearly the l2 norm, which has few minima.

References
----------
.. [1] E. J. Candes, M. B. Wakin, S. P. Boyd, "Enhancing sparsity by reweighted l1 minimization",
   J. Fourier Anal. Appl. 14 (2008) 877.
"""

from __future__ import annotations

import numpy as np

from romzarr.contracts import Matrix
from romzarr.numerics.dynamics.coordinates.affine import (
    Frames,
    Generators,
    generators,
    nearest_rotations,
)
from romzarr.numerics.dynamics.library import PolynomialLibrary

# Steps of rotations and shifts alone, and of all steps; those that lower what counts as zero.
ROTATIONS, STEPS, LOWERED = 10, 40, 32
# Contributions below these are zero, at first and at last.
COARSE, FINE = 0.3, 3e-3
# Coordinates differ by at most about this much from those of the step before, in their rms.
LONGEST = 0.5
# Weight of what keeps coordinates apart, minus log |det turn|, to that of one contribution: less
# than one, as coordinates of true systems may be correlated.
APART = 0.3
# Part of the mean of the diagonal by which steps are damped.
DAMPING = 1e-3
# Distance of the origins of starts from the mean, in rms: equations of states that are all
# positive, as many are, have theirs there.
FARTHEST = 2.0


def starts(states: int, count: int, rng: np.random.Generator) -> Frames:
    """Random rotations and shifts."""
    turns = np.linalg.qr(rng.standard_normal((count, states, states)))[0]
    return Frames(turns, FARTHEST * rng.standard_normal((count, states)))


def descend(library: PolynomialLibrary, xi: Matrix, moments: Matrix, frames: Frames) -> Frames:
    """The coordinates that starts lead to.

    Parameters
    ----------
    library : PolynomialLibrary
    xi : (p, q) float64
        Coefficients in coordinates a of variance one.
    moments : (p, p) float64
        Means over the record of products of two features of a.
    frames : Frames
        The starts.
    """
    group = generators(library)
    for step in range(STEPS):
        zero = COARSE * (FINE / COARSE) ** min(1.0, step / LOWERED)
        coefficients, scale = _scaled(library, xi, moments, frames)
        weights = scale / np.sqrt((coefficients * scale) ** 2 + zero**2)
        rigid = step < ROTATIONS
        sizes = _step(group, coefficients, weights, frames, rigid)
        turns, shifts = group.maps(sizes)
        frames = frames.moved(nearest_rotations(turns) if rigid else turns, shifts)
    return frames


def contributions(
    library: PolynomialLibrary, xi: Matrix, moments: Matrix, frames: Frames
) -> Matrix:
    """Contributions (b, p, q) of the terms in other coordinates, to the derivatives' rms."""
    coefficients, scale = _scaled(library, xi, moments, frames)
    return np.abs(coefficients) * scale


def _scaled(
    library: PolynomialLibrary, xi: Matrix, moments: Matrix, frames: Frames
) -> tuple[Matrix, Matrix]:
    """Coefficients (b, p, q), and what makes contributions of them."""
    features = frames.features(library)
    coefficients = frames.coefficients(library, xi)
    moved = features.swapaxes(1, 2) @ moments @ features
    squares = np.einsum("bpp->bp", moved)
    derivative = np.einsum("bpq,bpq->bq", coefficients, moved @ coefficients)
    tiny = np.finfo(float).tiny
    scale = np.sqrt(np.maximum(squares, 0.0)[:, :, None] / np.maximum(derivative, tiny)[:, None, :])
    return coefficients, scale


def _step(
    group: Generators, coefficients: Matrix, weights: Matrix, frames: Frames, rigid: bool
) -> Matrix:
    """By how much of each generator (b, g) the coordinates move."""
    count, q = len(frames), group.library.states
    columns = (group.changes(coefficients) * weights[:, None]).reshape(count, -1, weights[0].size)
    hessian = columns @ columns.swapaxes(1, 2)
    slope = np.einsum("bgk,bk->bg", columns, (coefficients * weights).reshape(count, -1))
    moving, by = group.pairs
    turning = by < q
    # Of -log |det turn| with rows of length one: how much coordinates have in common.
    common = (frames.turns @ frames.turns.swapaxes(1, 2))[:, moving, np.minimum(by, q - 1)]
    slope -= APART * np.where(turning, common, 0.0)
    least = DAMPING * np.trace(hessian, axis1=1, axis2=2) / len(moving)
    hessian += np.eye(len(moving)) * (APART * turning + least[:, None])[:, :, None]
    if rigid:
        basis = group.rotations
        reduced = np.linalg.solve(basis.T @ hessian @ basis, (slope @ basis)[:, :, None])
        sizes = (basis @ reduced)[:, :, 0]
    else:
        sizes = np.linalg.solve(hessian, slope[:, :, None])[:, :, 0]
    length = np.linalg.norm(sizes, axis=1, keepdims=True)
    return np.asarray(sizes * np.minimum(1.0, LONGEST / np.maximum(length, LONGEST)))

"""Least squares in weak form on terms that are given: what routers are trained and judged with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from romzarr.contracts import BlockSpan, Matrix, TriangularFactor
from romzarr.numerics.dynamics.library import Library
from romzarr.numerics.dynamics.weakform import plan_windows, triangular_factor


def weak_system(a: Matrix, times: Matrix, library: Library) -> TriangularFactor:
    """Triangle of the weak system of a whole record."""
    plan = plan_windows(times, a)
    return triangular_factor(a, times, library, plan, BlockSpan(0, len(a)))


def refit(factor: TriangularFactor, support: NDArray[np.bool_]) -> Matrix:
    """Least-squares coefficients (p, q) of given terms (p, q), without the bias of noise.

    By normal equations: the terms are few, and what noise makes of their products is taken out.
    """
    p = factor.terms
    sizes = np.linalg.norm(factor.r, axis=0)
    sizes = np.where(sizes > 0, sizes, 1.0)
    r = factor.r / sizes
    gram = r.T @ r
    if factor.noise is not None:
        noise = factor.noise / sizes
        gram -= noise.T @ noise
    coefficients = np.zeros(support.shape)
    for j in range(support.shape[1]):
        own = np.flatnonzero(support[:, j])
        # A direction that holds nothing but noise must not blow up.
        inner = gram[np.ix_(own, own)] + 1e-12 * np.eye(len(own))
        values = np.linalg.solve(inner, gram[own, p + j])
        coefficients[own, j] = values * sizes[p + j] / sizes[own]
    return coefficients

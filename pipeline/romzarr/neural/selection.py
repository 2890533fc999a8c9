"""Exact selection of terms: every support is tried, and the shortest description stays.

A library of networks is small (8 terms for two states), so the search that routers and
thresholds approximate can be made in full. A support S of one equation costs in bits::

    n/2 log2(misfit(S)^2) + sum over its terms of (price + complexity)

where n counts independent observations and `price` is what a coefficient and its place in the
library take up (J. Rissanen, "Modeling by shortest data description", Automatica 14 (1978)
465). The misfit includes the known error of the networks: below it there is nothing to be
explained, and no term may be paid for explaining it.

``2^-bits`` over all supports, normalised, is a softmax router over supports at temperature
one; the probability that a term is in the support is its *activation* (J. A. Hoeting et al.,
"Bayesian model averaging: a tutorial", Statist. Sci. 14 (1999) 382, section 2.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from romzarr.contracts import BlockSpan, Matrix, TriangularFactor
from romzarr.neural.collinearity import Diagnosis, diagnose
from romzarr.numerics.dynamics.library import Library
from romzarr.numerics.dynamics.neural_library import NeuralLibrary
from romzarr.numerics.dynamics.weakform import WindowPlan, plan_windows, triangular_factor

Columns = NDArray[np.intp]

# Windows that count as one observation: they start every half a standard deviation of the
# bell, see `romzarr.numerics.dynamics.stlsq`.
OVERLAP = 8
MAX_SUPPORTS = 200_000
# Bits of a step of complexity (`NeuralLibrary.complexity`): a byte. Less lets two terms that
# noise makes alike share the activation; a term that is right earns hundreds.
STEP_BITS = 8.0
BATCH = 4096
ROUNDING = 1e-6  # relative misfit below which Gram matrices say nothing


@dataclass(frozen=True)
class Selection:
    """Equations chosen by `select`.

    Attributes
    ----------
    names : tuple of str
    coefficients, activations : (p, q) float64
        Of each term in each equation; a term is chosen if its coefficient is not zero.
    effects : (p, q) float64
        What each chosen term adds to the misfit when it is left out and the others are fitted
        again, over the size of the equation: the residual per term.
    misfit : (q,) float64
        Residual of each equation, relative to its size.
    bits : (q,) float64
        Advantage of the chosen support over the best of the others.
    supports : int
        How many were compared for each equation.
    diagnosis : Diagnosis
    """

    names: tuple[str, ...]
    coefficients: Matrix
    activations: Matrix
    effects: Matrix
    misfit: Matrix
    bits: Matrix
    supports: int
    diagnosis: Diagnosis


def weak_system(a: Matrix, times: Matrix, library: Library) -> tuple[TriangularFactor, WindowPlan]:
    """Triangle of the weak system of a whole record, with the windows of its spectrum."""
    plan = plan_windows(times, a)
    factor = triangular_factor(a, times, library, plan, BlockSpan(0, len(a)))
    return factor, plan


def select(
    a: Matrix,
    times: Matrix,
    library: NeuralLibrary,
    *,
    drop_dependent: bool = True,
    most: int | None = None,
) -> Selection:
    """Equations of the record `a` (m, q) at `times`, from its (noisy) states alone.

    Parameters
    ----------
    a, times : (m, q) and (m,) float64
    library : NeuralLibrary
    drop_dependent : bool
        Leave out terms that `diagnose` finds to be combinations of simpler ones.
    most : int, optional
        Largest support; by default all of them where that is feasible.
    """
    factor, plan = weak_system(a, times, library)
    diagnosis = diagnose(library, a)
    left_out = set(diagnosis.dropped) if drop_dependent else set()
    candidates = [k for k in range(library.size) if k not in left_out]
    return choose(
        factor, diagnosis, candidates, library.complexity, _window_errors(library, plan), most
    )


def _window_errors(library: NeuralLibrary, plan: WindowPlan) -> Matrix:
    """What the networks' errors can amount to in one window, (p,): they hold for all of it."""
    s = np.linspace(-1, 1, plan.width + 1)
    area = float(np.mean(plan.test_function(s)) * plan.support)
    return library.errors * area


def choose(
    factor: TriangularFactor,
    diagnosis: Diagnosis,
    candidates: Sequence[int],
    complexity: Sequence[float],
    errors: Matrix,
    most: int | None = None,
) -> Selection:
    """The shortest description of every equation of a weak system.

    Parameters
    ----------
    factor : TriangularFactor
        If it holds noise, its share is taken out of every fit.
    diagnosis : Diagnosis
    candidates : sequence of int
        Terms that may be chosen.
    complexity, errors : (p,)
        Steps by which each term is less simple than the identity; known error of its values
        in one window.
    most : int, optional
        Largest support.
    """
    p, q = factor.terms, factor.r.shape[1] - factor.terms
    system = _Scaled.of(factor, candidates, errors)
    supports = _supports(len(candidates), most)
    coefficients, activations = np.zeros((p, q)), np.zeros((p, q))
    effects, misfit, bits = np.zeros((p, q)), np.ones(q), np.zeros(q)
    for j in range(q):
        described = system.descriptions(supports, j, np.asarray(complexity)[list(candidates)])
        best = int(np.argmin(described.bits))
        weight = np.exp2(described.bits[best] - described.bits)
        weight /= weight.sum()
        for k, support in enumerate(described.supports):
            for c in support:
                activations[candidates[c], j] += weight[k]
        chosen = described.supports[best]
        values, misfit[j] = system.solution(chosen, j)
        others = np.delete(described.bits, best)
        bits[j] = float(np.min(others)) - described.bits[best] if len(others) else math.inf
        for c, value in zip(chosen, values, strict=True):
            coefficients[candidates[c], j] = value
            rest = tuple(each for each in chosen if each != c)
            effects[candidates[c], j] = system.solution(rest, j)[1] - misfit[j]
    return Selection(
        diagnosis.names, coefficients, activations, effects, misfit, bits,
        sum(map(len, supports)), diagnosis,
    )  # fmt: skip


def refit(factor: TriangularFactor, support: NDArray[np.bool_]) -> Matrix:
    """Least-squares coefficients (p, q) of given terms (p, q), without the bias of noise."""
    p = factor.terms
    system = _Scaled.of(factor, range(p), np.zeros(p))
    coefficients = np.zeros(support.shape)
    for j in range(support.shape[1]):
        own = tuple(int(k) for k in np.flatnonzero(support[:, j]))
        coefficients[list(own), j] = system.solution(own, j)[0]
    return coefficients


def _supports(candidates: int, most: int | None) -> list[NDArray[np.intp]]:
    """All supports, the empty one first, as arrays (s, k) of equal size k."""
    found, count = [np.zeros((1, 0), np.intp)], 1
    for k in range(1, (candidates if most is None else most) + 1):
        count += math.comb(candidates, k)
        if count > MAX_SUPPORTS:
            break
        found.append(np.array(list(combinations(range(candidates), k)), np.intp))
    return found


@dataclass(frozen=True)
class _Descriptions:
    supports: list[tuple[int, ...]]
    bits: Matrix


@dataclass(frozen=True)
class _Scaled:
    """Gram matrices of scaled columns: of all there is, of what noise makes, of network errors.

    Dependent columns have been left out and what remains is limited by noise and by the
    networks' errors, far above what squaring the condition number costs.
    """

    whole: Matrix
    noise: Matrix
    errors: Matrix
    sizes: Matrix
    terms: int
    windows: int

    @classmethod
    def of(cls, factor: TriangularFactor, candidates: Sequence[int], errors: Matrix) -> _Scaled:
        p = factor.terms
        columns = [*candidates, *range(p, factor.r.shape[1])]
        sizes = np.linalg.norm(factor.r[:, columns], axis=0)
        sizes = np.where(sizes > 0, sizes, 1.0)
        r = factor.r[:, columns] / sizes
        n = np.zeros_like(r) if factor.noise is None else factor.noise[:, columns] / sizes
        known = errors[list(candidates)] * math.sqrt(factor.windows) / sizes[: len(candidates)]
        return cls(r.T @ r, n.T @ n, known**2, sizes, len(candidates), factor.windows)

    def descriptions(
        self, supports: Sequence[NDArray[np.intp]], equation: int, complexity: Matrix
    ) -> _Descriptions:
        observations = max(self.windows / OVERLAP, 2.0)
        price = 0.5 * math.log2(observations) + math.log2(max(self.terms, 2))
        tuples: list[tuple[int, ...]] = []
        bits = []
        for alike in supports:
            for first in range(0, len(alike), BATCH):
                some = alike[first : first + BATCH]
                values, misfit = self._fits(some, equation)
                floor = np.sum(values**2 * self.errors[some], axis=1) + ROUNDING**2
                data = 0.5 * observations * np.log2(np.maximum(misfit, floor))
                bits.append(data + price * some.shape[1] + STEP_BITS * complexity[some].sum(axis=1))
                tuples += [tuple(row) for row in some.tolist()]
        return _Descriptions(tuples, np.concatenate(bits))

    def _fits(self, supports: NDArray[np.intp], equation: int) -> tuple[Matrix, Matrix]:
        """Contributions (s, k) without the bias of noise, and squared misfits (s,) with noise."""
        y = self.terms + equation
        if not supports.shape[1]:
            return np.zeros((len(supports), 0)), np.full(len(supports), self.whole[y, y])
        rows, columns = supports[:, :, None], supports[:, None, :]
        clean = self.whole - self.noise
        # A direction that holds nothing but noise must not blow up.
        matrix = clean[rows, columns] + 1e-12 * np.eye(supports.shape[1])
        values = np.linalg.solve(matrix, clean[supports, y][:, :, None])[:, :, 0]
        products = np.einsum("sk,skl,sl->s", values, self.whole[rows, columns], values)
        cross = np.sum(values * self.whole[supports, y], axis=1)
        return values, self.whole[y, y] - 2 * cross + products

    def solution(self, support: tuple[int, ...], equation: int) -> tuple[Matrix, float]:
        """Coefficients of a support, and its relative misfit."""
        values, misfit = self._fits(np.array(support, np.intp).reshape(1, -1), equation)
        scale = self.sizes[self.terms + equation] / self.sizes[list(support)]
        return values[0] * scale, float(np.sqrt(max(misfit[0], 0.0)))

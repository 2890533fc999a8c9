"""Exact selection of terms: supports are compared by the probability of the whole record.

A library of networks is small (8 terms for two states), so the search that routers and
thresholds approximate can be made in full. The evidence of a support S of one equation, the
others given, is in bits::

    misfit(S) / (2 ln 2) + 1/2 log2 det(1 + widths F(S) widths) + bits to name S

The misfit is that of generalised least squares over all n intervals of the record, with the
exact covariance of the noise in them (`romzarr.neural.likelihood`): no windows overlap, so
nothing has to be divided by how much they do. Where it exceeds n there is more noise than was
reckoned with, and it costs ``n/2 log2(misfit(S) / n)`` instead. F is the information on the
coefficients: a coefficient costs as many bits as the record fixes of it, if before it could be
of any size up to that of the equation itself (D. J. C. MacKay, "Bayesian interpolation", Neural
Computation 4 (1992) 415, section 2.3: the Occam factor). To name S takes log2 of the number of
supports of its size (J. G. Scott, J. O. Berger, Ann. Statist. 38 (2010) 2587, section 3: the
price of having looked at many), and `STEP_BITS` for each of its terms that is not linear. No
price depends on the system.

``2^-bits`` over all supports, normalised, is a softmax router over supports at temperature
one; the probability that a term is in the support is its *activation* (J. A. Hoeting et al.,
"Bayesian model averaging: a tutorial", Statist. Sci. 14 (1999) 382, section 2.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from romzarr.contracts import Matrix, Vector
from romzarr.errors import LibraryError
from romzarr.neural.collinearity import Diagnosis, diagnose
from romzarr.neural.likelihood import (
    Chosen,
    Estimate,
    Linearised,
    Record,
    eliminated,
    unfitted,
)
from romzarr.numerics.dynamics.neural_library import NeuralLibrary

# Bits by which a term that is not linear is less likely than one that is: a byte. Every system is
# linear near its equilibria; where the record does not tell v from sin(v), v is meant.
STEP_BITS = 8.0
# Terms of which all supports are compared (8192); of more, those that go first when terms are
# eliminated one by one are left out before.
ALL_SUPPORTS = 13
# Most rounds of linearisation, which end when the noise of the full model changes by less than
# `STEADY` of itself, and the coefficients of the chosen terms by `SETTLED` of their errors.
ROUNDS, STEADY, SETTLED = 12, 0.01, 0.1
TINY = 1e-150  # of sizes that are divided by: its square is no underflow
IDENTITIES = 2000  # states at which terms are compared over the whole reach


@dataclass(frozen=True)
class Selection:
    """Equations chosen by `select`.

    Attributes
    ----------
    names : tuple of str
    coefficients, standard_errors, activations : (p, q) float64
        Of each term in each equation; a term is chosen if its coefficient is not zero.
    effects : (p, q) float64
        What is missing of an equation's right-hand side, relative to its size, when a chosen
        term is left out and the others are fitted again.
    noise : (q,) float64
        Standard deviation of the noise of each state.
    bits : (q,) float64
        Advantage of the chosen support over the best of the others.
    supports : int
        How many were compared for each equation.
    diagnosis : Diagnosis
    """

    names: tuple[str, ...]
    coefficients: Matrix
    standard_errors: Matrix
    activations: Matrix
    effects: Matrix
    noise: Vector
    bits: Vector
    supports: int
    diagnosis: Diagnosis


def select(
    a: Matrix, times: Vector, library: NeuralLibrary, *, drop_dependent: bool = True
) -> Selection:
    """Equations of the record `a` (m, q) at `times`, from its (noisy) states alone.

    Parameters
    ----------
    a, times : (m, q) and (m,) float64
    library : NeuralLibrary
    drop_dependent : bool
        Leave out terms that are combinations of simpler ones wherever the networks reach.

    Raises
    ------
    LibraryError
        If states lie beyond the reach of the networks, which know nothing there, or are not
        finite.
    """
    _check_reach(a, library)
    states = np.asarray(a, np.float64)
    left_out = {*np.flatnonzero(~library.evaluate(states).any(axis=0))}
    if drop_dependent:
        left_out |= {*identities(library)}
    candidates = tuple(k for k in range(library.size) if k not in left_out)
    record = Record(states, np.asarray(times, np.float64), library, candidates)
    start, widths = _full_model(record)
    # A cube is as plausible as a sine, though it takes more networks.
    complexity = STEP_BITS * np.minimum(np.array(library.complexity)[list(candidates)], 1.0)
    # Where terms are alike on the record, all of them together may have slopes across it that
    # are far off, so that noise is reckoned wrong; a start without slopes has other weaknesses.
    found = min(
        (_selected(record, start, widths, complexity, slopes) for slopes in (False, True)),
        key=lambda found: found.total,
    )
    return _in_library(record, found, diagnose(library, a))


def _check_reach(a: Matrix, library: NeuralLibrary) -> None:
    outside = library.outside(a)
    # Noise takes single samples a little beyond; networks go on smoothly so far.
    if outside > 1.1:
        largest = np.max(np.abs(a), axis=0)
        raise LibraryError(
            f"states reach {np.array2string(largest, precision=3)}, which is {outside:.3g} times "
            f"the range that the networks were trained on; use library_for(), which scales such "
            f"states and takes whole turns off those that are angles"
        )


def identities(library: NeuralLibrary) -> tuple[int, ...]:
    """Terms that are combinations of simpler ones wherever the networks reach.

    Where terms are alike on the record only, the evidence decides between them.
    """
    reach = min(operator.reach for operator in library.operators)
    inside = np.random.default_rng(0).uniform(-reach, reach, (IDENTITIES, library.states))
    return diagnose(library, inside * np.array(library.scales)).dropped


def _full_model(record: Record) -> tuple[Estimate, Matrix]:
    """The record without its noise, by all terms together; and how large coefficients may be.

    A coefficient of that size would make its term alone vary as much as the equation is large.
    """
    at = unfitted(record)
    everything = np.ones(at.coefficients.shape, bool)
    rates = np.diff(record.observed, axis=0) / np.diff(record.times)[:, None]
    size = np.abs(rates).max(axis=0)
    for _ in range(ROUNDS):
        linear = Linearised(record, at)
        widths = np.maximum(size, TINY) / np.maximum(linear.size, TINY)[:, None]
        new, _ = linear.fitted(everything, widths)
        size = np.abs(linear.theta @ new.coefficients).max(axis=0)
        settled = np.abs(new.noise / at.noise - 1).max() < STEADY
        at = new
        if settled:
            break
    return at, widths


@dataclass(frozen=True)
class _Found:
    """Chosen terms (p, q) of the candidates, and what is known of them."""

    chosen: Chosen
    estimate: Estimate
    standard_errors: Matrix
    activations: Matrix
    bits: Vector
    supports: int
    total: float  # bits of all equations together


def _selected(
    record: Record, at: Estimate, widths: Matrix, complexity: Vector, slopes: bool
) -> _Found:
    """The best supports given the best estimate of noise, and so on until they stay.

    If it begins without ``slopes`` it goes on with them when they stay.
    """
    chosen = np.ones(widths.shape, bool)
    if not slopes:
        at = replace(at, coefficients=np.zeros(widths.shape))
    for across in (False, True)[slopes:]:
        for _ in range(ROUNDS):
            linear = Linearised(record, at, slopes=across)
            better, activations, bits, supports = _best(linear, chosen, widths, complexity)
            new, errors = linear.fitted(better, widths)
            moved = np.abs(new.coefficients - at.coefficients) > SETTLED * errors
            stays = (better == chosen).all() and not moved[better].any()
            chosen = better
            # Without slopes the states of the full model are the better ones.
            at = new if across else replace(at, coefficients=new.coefficients)
            if stays:
                break
    total = _total(Linearised(record, at), chosen, widths, complexity)
    return _Found(chosen, at, errors, activations, bits, supports, total)


def _total(linear: Linearised, chosen: Chosen, widths: Matrix, complexity: Vector) -> float:
    """Bits of all equations together, at their own estimate of the noise."""
    own = np.flatnonzero(chosen.ravel())
    scale = widths.ravel()[own]
    triangle = eliminated(linear.root[:, [*own, -1]], scale, 0)
    diagonal = np.abs(np.diag(triangle))
    fixed = np.log(diagonal[: len(own)] * scale).sum()
    natural = diagonal[len(own)] ** 2 + linear.determinant + 2 * fixed
    supports = sum(math.log2(math.comb(len(chosen), int(k))) for k in chosen.sum(axis=0))
    return float(0.5 * natural / math.log(2) + supports + complexity @ chosen.sum(axis=1))


def _best(
    linear: Linearised, chosen: Chosen, widths: Matrix, complexity: Vector
) -> tuple[Chosen, Matrix, Vector, int]:
    """Best support of each equation given those of the others, until none changes."""
    chosen = chosen.copy()
    activations, bits, supports = np.zeros(chosen.shape), np.zeros(chosen.shape[1]), 0
    for _ in range(ROUNDS):
        before = chosen.copy()
        for j in range(chosen.shape[1]):
            equation = _Equation.of(linear, chosen, widths, complexity, j)
            table = equation.compared()
            chosen[:, j] = table.chosen
            activations[:, j], bits[j] = table.activations, table.advantage
            supports = max(supports, len(table.bits))
        if (before == chosen).all():
            break
    return chosen, activations, bits, supports


@dataclass(frozen=True)
class _Table:
    """Supports (s, p) of one equation and their bits (s,)."""

    supports: Chosen
    bits: Vector

    @property
    def chosen(self) -> NDArray[np.bool_]:
        return np.asarray(self.supports[np.argmin(self.bits)])

    @property
    def activations(self) -> Vector:
        weight = np.exp2(self.bits.min() - self.bits)
        return np.asarray(weight @ self.supports / weight.sum())

    @property
    def advantage(self) -> float:
        first = np.partition(self.bits, 1)[:2] if len(self.bits) > 1 else np.array([0.0, math.inf])
        return float(first[1] - first[0])


@dataclass(frozen=True)
class _Equation:
    """One equation, the others given: ``gram`` (p + 1, p + 1) of coefficients in units of their
    widths and (last) of the target, with n rows."""

    gram: Matrix
    rows: int
    complexity: Vector

    @classmethod
    def of(
        cls, linear: Linearised, chosen: Chosen, widths: Matrix, complexity: Vector, j: int
    ) -> _Equation:
        p, q = chosen.shape
        others = chosen.copy()
        others[:, j] = False
        other = np.flatnonzero(others.ravel())
        own = np.arange(p) * q + j
        columns = linear.root[:, [*other, *own, p * q]]
        triangle = eliminated(columns, widths.ravel()[other], len(other))
        triangle = triangle * np.append(widths[:, j], 1.0)
        return cls(triangle.T @ triangle, linear.record.rows, complexity)

    def compared(self) -> _Table:
        """All supports of the terms that may matter."""
        p = len(self.complexity)
        terms = self._survivors()
        masks = np.zeros((2 ** len(terms), p), bool)
        bits = np.zeros(len(masks))
        done = 0
        for k in range(len(terms) + 1):
            columns = terms[_subsets(len(terms), k)]
            here = slice(done, done + len(columns))
            np.put_along_axis(masks[here], columns, True, axis=1)
            bits[here] = self.bits(columns)
            done += len(columns)
        return _Table(masks, bits)

    def _survivors(self) -> NDArray[np.intp]:
        """The terms left when the one that is missed least goes, again and again."""
        terms = np.arange(len(self.complexity))
        while len(terms) > ALL_SUPPORTS:
            fewer = np.array([np.delete(terms, place) for place in range(len(terms))])
            terms = fewer[np.argmin(self.bits(fewer))]
        return terms

    def bits(self, supports: NDArray[np.intp]) -> Vector:
        """Of supports (s, k) of equal size."""
        p, k = len(self.complexity), supports.shape[1]
        inner = self.gram[supports[:, :, None], supports[:, None, :]] + np.eye(k)
        target = self.gram[supports, p]
        values = np.linalg.solve(inner, target[:, :, None])[:, :, 0]
        misfit = self.gram[p, p] - np.sum(values * target, axis=1)
        fixed = np.linalg.slogdet(inner)[1] / math.log(2)
        named = math.log2(math.comb(p, k)) + self.complexity[supports].sum(axis=1)
        # As much more noise than was reckoned with as is most likely, but never less.
        share = np.maximum(misfit / self.rows, 1.0)
        data = self.rows * np.log2(share) + misfit / share / math.log(2)
        return np.asarray(0.5 * data + 0.5 * fixed + named)


@cache
def _subsets(terms: int, size: int) -> NDArray[np.intp]:
    """Subsets (s, size) of so many terms."""
    found = list(combinations(range(terms), size))
    return np.array(found, np.intp).reshape(len(found), size)


def _in_library(record: Record, found: _Found, diagnosis: Diagnosis) -> Selection:
    """What was found of the candidates, as terms of the whole library."""
    columns = list(record.candidates)
    shape = (record.library.size, record.observed.shape[1])

    def whole(values: Matrix) -> Matrix:
        spread = np.zeros(shape)
        spread[columns] = values
        return spread

    return Selection(
        diagnosis.names,
        whole(found.estimate.coefficients),
        whole(found.standard_errors),
        whole(found.activations),
        whole(_effects(record, found)),
        found.estimate.noise,
        found.bits,
        found.supports,
        diagnosis,
    )


def _effects(record: Record, found: _Found) -> Matrix:
    """What each chosen term adds to its equation that the other chosen ones cannot."""
    theta = record.features(found.estimate.states)
    effects = np.zeros(found.chosen.shape)
    for k, j in zip(*np.nonzero(found.chosen), strict=True):
        own = np.flatnonzero(found.chosen[:, j])
        others = theta[:, own[own != k]]
        whole = theta @ found.estimate.coefficients[:, j]
        left = whole - others @ np.linalg.lstsq(others, whole, rcond=None)[0]
        effects[k, j] = np.linalg.norm(left) / np.linalg.norm(whole)
    return effects

"""What becomes of a weak system when the basis of a(t) moves: ``a' = turn a + shift``.

A monomial of a' is a combination of monomials of a up to the same degree. So the features of
the moved coefficients are ``Theta(a') = Theta(a) S``, where S is made of the symmetric powers
of ``[shift turn]`` [1]_, and with ``b' = b turn^T`` the triangle of the moved system is that of
``R diag(S, turn^T)``: exactly, and without any snapshot. The correction of features for white
noise commutes with affine maps, so this holds for corrected features as well.

Directions that a basis gains were not there before: their coefficients were zero, and so were
all features that they enter. Directions it loses take their features with them.

References
----------
.. [1] P. Comon, G. Golub, L.-H. Lim, B. Mourrain, "Symmetric tensors and symmetric tensor
   rank", SIAM J. Matrix Anal. Appl. 30 (2008) 1254-1279, section 3 (the action of linear maps
   on symmetric tensors, which are homogeneous polynomials).
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from romzarr.contracts import Matrix
from romzarr.errors import LibraryError
from romzarr.numerics.change_of_basis import Move
from romzarr.numerics.dynamics.library import Library, PolynomialLibrary
from romzarr.numerics.dynamics.testfunctions import trapezoid_weights
from romzarr.numerics.dynamics.weakform import WindowPlan


def is_closed(library: Library) -> TypeGuard[PolynomialLibrary]:
    """Whether features of moved coefficients are combinations of the features of `library`."""
    return isinstance(library, PolynomialLibrary) and (library.interactions or library.degree < 2)


def moved_library(library: Library, move: Move) -> PolynomialLibrary:
    """The library of the moved coefficients.

    Raises
    ------
    LibraryError
        If `library` is not closed under moves: its weak system has to be built anew.
    """
    if not is_closed(library):
        raise LibraryError(
            "only polynomials with interactions move with the basis; build the weak system of "
            "other libraries anew from the coefficients"
        )
    states, own = len(move.turn), move.turn.shape[1]
    if own != library.states:
        raise LibraryError(f"a move of {own} coefficients cannot act on {library.states}")
    return replace(library, states=states)


def monomial_map(library: Library, move: Move) -> Matrix:
    """S (p, p') with ``Theta'(move(a)) = Theta(a) S``, Theta' the `moved_library`."""
    moved_library(library, move)
    return monomial_maps(library, move.turn[None], move.shift[None])[0]


def monomial_maps(library: Library, turns: Matrix, shifts: Matrix) -> Matrix:
    """S (b, p, p') of b moves at once, of `turns` (b, q', q) and `shifts` (b, q').

    Degree by degree: a monomial is its prefix times one coefficient of a', which is an affine
    form in a.
    """
    count, _, own = turns.shape
    target = moved_library(library, Move(turns[0], shifts[0]))
    table = _products(target.degree, own)
    found = np.zeros((count, library.size, target.size))
    found[:, 0, 0] = 1.0
    for degree in range(1, target.degree + 1):
        low = _terms_below(degree, own)
        here, before, last = _terms_of(degree, target.states)
        prefixes = found[:, :low, before]
        block = found[:, :, here]
        block[:, :low] = prefixes * shifts[:, None, last]
        for state in range(own):
            # A product by one state leads from every monomial to another one.
            block[:, table[:low, state]] += prefixes * turns[:, None, last, state]
    return found


@lru_cache(maxsize=32)
def _terms_below(degree: int, states: int) -> int:
    return PolynomialLibrary(states, degree - 1).size


@lru_cache(maxsize=32)
def _terms_of(degree: int, states: int) -> tuple[slice, NDArray[np.intp], NDArray[np.intp]]:
    """Where the monomials of a degree are, the number of the prefix of each, and its last state."""
    number = {term: k for k, term in enumerate(PolynomialLibrary(states, degree).factors)}
    terms = [term for term in number if len(term) == degree]
    before, last = [number[term[:-1]] for term in terms], [term[-1] for term in terms]
    here = slice(len(number) - len(terms), len(number))
    return here, np.array(before, np.intp), np.array(last, np.intp)


@lru_cache(maxsize=8)
def _products(degree: int, states: int) -> NDArray[np.intp]:
    """Number (p_low, states) of each monomial below `degree` times each state."""
    number = {term: k for k, term in enumerate(PolynomialLibrary(states, degree).factors)}
    return np.array(
        [
            [number[tuple(sorted((*term, state)))] for state in range(states)]
            for term in number
            if len(term) < degree
        ],
        dtype=np.intp,
    ).reshape(-1, states)


def weak_maps(library: Library, move: Move, plan: WindowPlan) -> tuple[Matrix, Matrix]:
    """What columns [G b] are multiplied by to give those of the moved system; that of noise.

    A constant has no derivative: the shift leaves b alone, but for what the trapezoid rule
    makes of the derivative of test functions without symmetry.
    """
    features = monomial_map(library, move)
    (p, new_p), (new_q, q) = features.shape, move.turn.shape
    both = np.zeros((p + q, new_p + new_q))
    both[:p, :new_p], both[p:, new_p:] = features, move.turn.T
    noise = both.copy()
    both[0, new_p:], noise[0, new_p:] = np.outer(_slopes_of_constant(plan), move.shift)
    return both, noise


def _slopes_of_constant(plan: WindowPlan) -> tuple[float, float]:
    """Integral of -psi' by that of psi, as computed; the same with alternating signs."""
    if plan.step is None:  # the rule for uneven times is exact
        return 0.0, 0.0
    integral, slope = trapezoid_weights(plan.test_function, plan.width, plan.step)
    signs = 1.0 - 2.0 * (np.arange(len(slope)) % 2)
    least = np.finfo(float).eps * float(np.abs(integral).sum())
    apart = float(signs @ integral)
    noise = float(signs @ slope) / apart if abs(apart) > least else 0.0
    return float(slope.sum() / integral.sum()), noise


def moved_plan(plan: WindowPlan, move: Move) -> WindowPlan:
    """The same windows, with the noise that moved coefficients have.

    Its standard deviations only: noise that was alike in all coefficients, as white noise of
    the data is in an orthonormal basis, stays independent.
    """
    if plan.noise is None:
        return plan
    spread = np.sqrt(move.turn**2 @ np.square(plan.noise))
    return replace(plan, noise=tuple(float(v) for v in spread))

"""Candidate features that are trained networks instead of formulas."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from romzarr.contracts import Matrix
from romzarr.errors import LibraryError
from romzarr.numerics.dynamics.networks import (
    ARGUMENTS,
    MAX_OPERATORS,
    Operator,
    operator_from_spec,
    shipped_operators,
)

Columns = NDArray[np.intp]

MAX_STATES = 1000
MAX_TERMS = 20_000
# States are used as they are if their largest size is a share of the operators' reach between
# these two; others are brought to the second of them, inside the reach but near to its edge.
LEAST_SHARE, USED_SHARE = 0.1, 0.8
CONSTANT = -1  # the operator of the constant term, which is no network


@dataclass(frozen=True)
class Term:
    """Operator number `operator` on `arguments`: numbers of states, or one of them a term.

    The constant term has the operator `CONSTANT` and no arguments.
    """

    operator: int
    arguments: tuple[int | Term, ...]

    @property
    def states(self) -> tuple[int, ...]:
        """Numbers of the states it depends on, each once."""
        found: set[int] = set()
        for each in self.arguments:
            found.update(each.states if isinstance(each, Term) else (each,))
        return tuple(sorted(found))


@dataclass(frozen=True)
class NeuralLibrary:
    """Unary operators on each coefficient, binary ones on each pair of them.

    Attributes
    ----------
    states : int
    operators : tuple of Operator
        Terms come in their order, those of one argument first, so that of dependent terms
        the simpler one comes first.
    scales : tuple of float
        Every coefficient is divided by its scale (empty: by 1) before a network sees it:
        networks know nothing beyond their reach. See `suitable_scales`.
    nested : tuple of str
        Binary operators that are also applied to a coefficient and itself, and to a
        coefficient and what they make of two, divided by their reach lest it leave it: with
        ``mul`` all monomials up to degree 3.
    angles : tuple of int
        Numbers of the states that may be angles: operators of period 2 pi get them unscaled
        and less whole turns, so that no angle is beyond their reach.
    constant : bool
        Whether 1 is the last term: the mean rate of an angle that turns is a constant.

    Notes
    -----
    `variance` is corrected to second order in it: with K the mean over three Gauss-Hermite
    nodes of one coefficient's noise, ``2 f - K f`` is the start of the Neumann series of the
    inverse of K. Networks have no closed form of that inverse.
    """

    states: int
    operators: tuple[Operator, ...]
    scales: tuple[float, ...] = ()
    nested: tuple[str, ...] = ()
    angles: tuple[int, ...] = ()
    constant: bool = False

    def __post_init__(self) -> None:
        states = self.states
        if isinstance(states, bool) or not isinstance(states, int) or not 1 <= states <= MAX_STATES:
            raise LibraryError(f"states must be a whole number 1 to {MAX_STATES}, got {states!r}")
        names = [operator.name for operator in self.operators]
        if not 1 <= len(names) <= MAX_OPERATORS or len(set(names)) < len(names):
            raise LibraryError(f"1 to {MAX_OPERATORS} different operators needed, got {names}")
        object.__setattr__(self, "scales", _checked_scales(self.scales, states))
        binary = {each.name for each in self.operators if each.arguments == 2}
        if not set(self.nested) <= binary or len(set(self.nested)) < len(self.nested):
            raise LibraryError(
                f"nested operators must be among {sorted(binary)}, got {list(self.nested)!r:.200}"
            )
        _check_angles(self.angles, states)
        if not isinstance(self.constant, bool):
            raise LibraryError(f"constant must be true or false, got {self.constant!r:.100}")
        pairs = states * (states - 1) // 2
        size = len(names) * max(states, pairs) + len(self.nested) * states**3
        if size > MAX_TERMS:
            raise LibraryError(f"{states} states make up to {size} terms, at most {MAX_TERMS}")
        if not self.terms:
            raise LibraryError("operators of two arguments need two states or to be nested")

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """All terms in the order of the columns."""
        q = range(self.states)
        found: list[Term] = []
        for wanted in (1, 2):
            for k, operator in enumerate(self.operators):
                if operator.arguments == wanted == 1:
                    found += [Term(k, (j,)) for j in q]
                elif operator.arguments == wanted:
                    found += [Term(k, pair) for pair in combinations(q, 2)]
        for k, operator in enumerate(self.operators):
            if operator.name in self.nested:
                inner = [Term(k, (i, j)) for i in q for j in q if i <= j]
                found += [Term(k, (j, j)) for j in q]
                # In order, so that no monomial comes twice.
                found += [Term(k, (i, each)) for each in inner for i in q if i <= each.states[0]]
        return tuple(found) + ((Term(CONSTANT, ()),) if self.constant else ())

    @property
    def size(self) -> int:
        return len(self.terms)

    @cached_property
    def complexity(self) -> tuple[float, ...]:
        """How many operators other than the identity make a term; they decide between equals."""
        return tuple(self._complexity(term) for term in self.terms)

    def _complexity(self, term: Term) -> float:
        if term.operator == CONSTANT:
            return 0.0
        inner = sum(self._complexity(each) for each in term.arguments if isinstance(each, Term))
        plain = self.operators[term.operator].formula == "x"
        return inner + (0.0 if plain else 1.0)

    @cached_property
    def errors(self) -> Matrix:
        """RMS error (p,) of each term as its operators' validation says."""
        return np.array([self._error(term) for term in self.terms])

    def _error(self, term: Term) -> float:
        if term.operator == CONSTANT:
            return 0.0
        operator = self.operators[term.operator]
        inner = sum(self._error(each) for each in term.arguments if isinstance(each, Term))
        # An inner error is divided by the reach and passed on times the slope, of its order.
        return float(np.hypot(operator.error, inner))

    @property
    def operations(self) -> int:
        """Of a term that no other shares a network's value with; nested ones take two."""
        networks = [
            sum(inputs * outputs for inputs, outputs in pairwise(each.network.widths))
            for each in self.operators
        ]
        return 2 * max(networks) * (2 if self.nested else 1)

    def names(self) -> tuple[str, ...]:
        return tuple(self._name(term) for term in self.terms)

    def scale(self, operator: int, state: int) -> float:
        """What `operator` gets `state` divided by."""
        whole = state in self.angles and self.operators[operator].periodic
        return 1.0 if whole else self.scales[state]

    def _name(self, term: Term) -> str:
        if term.operator == CONSTANT:
            return "1"
        inside = self._arguments(term, self._name, "a{}")
        return f"{self.operators[term.operator].name}({', '.join(inside)})"

    def _arguments(self, term: Term, text: Callable[[Term], str], state: str) -> list[str]:
        """Arguments of a term in words, those that are terms by `text`."""
        reach = self.operators[term.operator].reach
        words = []
        for each in term.arguments:
            if isinstance(each, Term):
                words.append(f"{text(each)}/{reach:g}")
            else:
                scale = self.scale(term.operator, each)
                words.append(state.format(each + 1) + ("" if scale == 1 else f"/{scale:.6g}"))
        return words

    def latex(self) -> tuple[str, ...]:
        return tuple(self._latex(term) for term in self.terms)

    def _latex(self, term: Term) -> str:
        if term.operator == CONSTANT:
            return "1"
        inside = self._arguments(term, self._latex, "a_{{{}}}")
        name = self.operators[term.operator].name.replace("_", r"\_")
        return rf"\mathrm{{{name}}}\left({', '.join(inside)}\right)"

    def formulas(self) -> tuple[str, ...]:
        """What each term is a network of, in a1, a2, ...; its name if no formula is known."""
        found = (self._formula(term) for term in self.terms)
        return tuple(f"({text})" if " + " in text or " - " in text else text for text in found)

    def _formula(self, term: Term) -> str:
        if term.operator == CONSTANT:
            return "1"
        formula = self.operators[term.operator].formula
        if not formula:
            return self._name(term)
        return substituted(formula, self._arguments(term, self._formula, "a{}"))

    def evaluate(
        self, a: Matrix, columns: Columns | None = None, *, variance: Matrix | None = None
    ) -> Matrix:
        a = np.asarray(a, dtype=np.float64)
        if a.ndim != 2 or a.shape[1] != self.states:
            raise LibraryError(f"features of {self.states} states got coefficients {a.shape}")
        scaled = a / np.asarray(self.scales)
        terms = self.terms if columns is None else [self.terms[int(c)] for c in columns]
        values = self._values(scaled, terms)
        if variance is None or not np.any(variance):
            return values
        corrected = values.copy()
        for j in range(self.states):
            here = [k for k, term in enumerate(terms) if j in term.states]
            if variance[j] > 0 and here:
                some = [terms[k] for k in here]
                shift = np.zeros(self.states)
                shift[j] = np.sqrt(3 * variance[j]) / self.scales[j]
                around = self._values(scaled + shift, some) + self._values(scaled - shift, some)
                corrected[:, here] -= (around - 2 * values[:, here]) / 6
        return corrected

    def _values(self, scaled: Matrix, terms: Sequence[Term]) -> Matrix:
        """Values (m, len(terms)) at scaled coefficients; each network is called once a depth."""
        known: dict[Term, Matrix] = {}
        inner = {each for term in terms for each in term.arguments if isinstance(each, Term)}
        self._fill(known, scaled, sorted(inner, key=lambda term: (term.operator, term.states)))
        self._fill(known, scaled, terms)
        known[Term(CONSTANT, ())] = np.ones(len(scaled))
        values = np.empty((len(scaled), len(terms)))
        for k, term in enumerate(terms):
            values[:, k] = known[term]
        return values

    def _fill(self, known: dict[Term, Matrix], scaled: Matrix, terms: Sequence[Term]) -> None:
        for number, operator in enumerate(self.operators):
            missing = [term for term in terms if term.operator == number and term not in known]
            missing = list(dict.fromkeys(missing))
            if not missing:
                continue
            inputs = np.stack(
                [
                    [
                        known[each] / operator.reach
                        if isinstance(each, Term)
                        else self._argument(scaled, number, each)
                        for each in term.arguments
                    ]
                    for term in missing
                ]
            )  # (terms, arguments, m)
            flat = inputs.transpose(0, 2, 1).reshape(-1, operator.arguments)
            values = operator.network(flat).reshape(len(missing), -1)
            known.update(zip(missing, values, strict=True))

    def _argument(self, scaled: Matrix, operator: int, state: int) -> Matrix:
        """What `operator` gets of a state (m,): that of an angle without its whole turns."""
        values = scaled[:, state]
        if state in self.angles and self.operators[operator].periodic:
            angle = values * self.scales[state]
            return np.asarray(angle - 2 * np.pi * np.round(angle / (2 * np.pi)))
        return values

    def outside(self, a: Matrix) -> float:
        """Largest size of a scaled coefficient in units of the least reach; above 1 is unknown."""
        reach = min(operator.reach for operator in self.operators)
        return float(np.max(np.abs(a / np.asarray(self.scales)), initial=0.0) / reach)

    def spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = {
            "kind": "neural",
            "states": self.states,
            "operators": [operator.spec() for operator in self.operators],
        }
        if any(scale != 1 for scale in self.scales):
            spec["scales"] = list(self.scales)
        if self.nested:
            spec["nested"] = list(self.nested)
        if self.angles:
            spec["angles"] = list(self.angles)
        if self.constant:
            spec["constant"] = True
        return spec


def neural_library_from_spec(
    states: int,
    operators: object,
    scales: object = (),
    nested: object = (),
    angles: object = (),
    constant: object = False,
) -> NeuralLibrary:
    """The library that `NeuralLibrary.spec` describes, nothing of it trusted."""
    lists = {"operators": operators, "scales": scales, "nested": nested, "angles": angles}
    for what, value in lists.items():
        if not isinstance(value, list | tuple) or len(value) > MAX_STATES:
            raise LibraryError(f"{what} of a neural library must be a list, got {value!r:.100}")
    if not all(isinstance(name, str) for name in nested):  # type: ignore[attr-defined]
        raise LibraryError("nested operators must be names")
    if len(operators) > MAX_OPERATORS:  # type: ignore[arg-type]
        raise LibraryError(f"at most {MAX_OPERATORS} operators are allowed")
    return NeuralLibrary(
        states,
        tuple(operator_from_spec(each) for each in operators),  # type: ignore[attr-defined]
        tuple(scales),  # type: ignore[arg-type]
        tuple(nested),  # type: ignore[arg-type]
        tuple(angles),  # type: ignore[arg-type]
        constant,  # type: ignore[arg-type]
    )


def chosen_operators(names: Sequence[str], known: Sequence[Operator]) -> tuple[Operator, ...]:
    """The operators called `names`, out of `known`."""
    by_name = {operator.name: operator for operator in known}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise LibraryError(
            f"no operator is called {', '.join(unknown)}; there are {', '.join(by_name)}"
        )
    return tuple(by_name[name] for name in names)


def default_library(states: int) -> NeuralLibrary:
    """All shipped operators on unscaled states."""
    return NeuralLibrary(states, shipped_operators())


def suitable_scales(a: Matrix, operators: Sequence[Operator]) -> tuple[float, ...]:
    """Scales that bring each coefficient of the record `a` (m, q) into the operators' reach.

    1 where the coefficient fits as it is; otherwise its largest size goes to `USED_SHARE` of
    the least reach (networks are accurate in proportion to their reach, so far below it the
    error would be all there is). Three digits are kept, as they are part of every name.
    """
    reach = min(operator.reach for operator in operators)
    largest = np.max(np.abs(a), axis=0, initial=0.0)
    scales = []
    for size in largest:
        fits = LEAST_SHARE * reach <= size <= reach or size == 0
        scales.append(1.0 if fits else float(f"{size / (USED_SHARE * reach):.3g}"))
    return tuple(scales)


def library_for(
    a: Matrix, operators: Sequence[Operator], nested: tuple[str, ...] = ()
) -> NeuralLibrary:
    """The library whose features reach all of the record `a` (m, q).

    States are scaled as `suitable_scales` says; those that are may be angles, which have a unit
    of their own. If one goes beyond the reach, as an angle that turns does, there is a constant.
    """
    scales = suitable_scales(a, operators)
    angles = tuple(j for j, scale in enumerate(scales) if scale != 1)
    reach = min(operator.reach for operator in operators)
    turns = bool(np.max(np.abs(a), initial=0.0) > reach)
    return NeuralLibrary(a.shape[1], tuple(operators), scales, nested, angles, turns)


def substituted(formula: str, arguments: Sequence[str]) -> str:
    """`formula` with x and y replaced, in brackets where they are no plain names."""
    by_name = dict(zip(ARGUMENTS, arguments, strict=False))

    def insert(found: re.Match[str]) -> str:
        text = by_name[found[0]]
        plain = re.fullmatch(r"\w+", text) or formula == found[0] or f"({found[0]})" in formula
        return text if plain else f"({text})"

    pattern = rf"\b({'|'.join(by_name)})\b"
    return re.sub(pattern, insert, formula)


def _check_angles(angles: tuple[int, ...], states: int) -> None:
    numbers = isinstance(angles, tuple) and all(type(j) is int for j in angles)
    if not numbers or list(angles) != sorted(set(angles) & set(range(states))):
        raise LibraryError(
            f"angles must hold numbers of states, 0 to {states - 1}, in order, got {angles!r:.100}"
        )


def _checked_scales(scales: object, states: int) -> tuple[float, ...]:
    if not isinstance(scales, Sequence) or isinstance(scales, str):
        raise LibraryError(f"scales must be a list of numbers, got {scales!r:.100}")
    if not scales:
        return (1.0,) * states
    for scale in scales:
        number = isinstance(scale, int | float) and not isinstance(scale, bool)
        if not number or not 1e-100 <= scale <= 1e100:
            raise LibraryError(f"a scale must be a number in [1e-100, 1e100], got {scale!r:.100}")
    if len(scales) != states:
        raise LibraryError(f"{states} states need as many scales, got {len(scales)}")
    return tuple(float(scale) for scale in scales)

"""Candidate features Theta(a): their names, their values, and what is written of them.

A library is anything with the protocol `Library`. A new kind is one class and one line in
``_KINDS``; `library_from_spec` then reads it from a config file or a store.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations_with_replacement
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from romzarr.contracts import Matrix
from romzarr.errors import LibraryError
from romzarr.numerics.dynamics.neural_library import neural_library_from_spec
from romzarr.numerics.dynamics.symbolic import Expression, parse

Columns = NDArray[np.intp]

MAX_STATES = 10_000
MAX_TERMS = 100_000
MAX_DEGREE = 16
MAX_FREQUENCIES = 64
MAX_EXPRESSIONS = 256
MAX_PARTS = 16
# Up to so many states a call costs more than its arithmetic.
FEW_STATES = 2048


# Operations that sine and the like take.
_FUNCTION = 20


class Library(Protocol):
    """Features of ``states`` coefficients a1 ... aq."""

    @property
    def states(self) -> int: ...

    @property
    def size(self) -> int: ...

    @property
    def operations(self) -> int:
        """About how many operations a value of its dearest term takes."""
        ...

    def names(self) -> tuple[str, ...]:
        """Plain-text names of the terms, in the order of the columns."""
        ...

    def latex(self) -> tuple[str, ...]:
        """The same names in LaTeX."""
        ...

    def evaluate(
        self, a: Matrix, columns: Columns | None = None, *, variance: Matrix | None = None
    ) -> Matrix:
        """Values (m, p) of all terms at `a` (m, q), or of the terms `columns` alone.

        With `variance` (q,) the values are corrected where that is exact, so that white
        Gaussian noise of this variance in `a` does not shift their mean.
        """
        ...

    def spec(self) -> dict[str, Any]:
        """JSON from which `library_from_spec` makes this library again."""
        ...


def term_count(states: int, degree: int) -> int:
    """Number of monomials of `states` variables up to `degree`, the constant included."""
    return math.comb(states + degree, degree)


@dataclass(frozen=True)
class PolynomialLibrary:
    """Monomials up to `degree`, the constant first, then by degree.

    Without `interactions` only powers of single coefficients. `variance` replaces powers
    x^k by the Hermite polynomials whose mean over Gaussian noise is x^k (Stefanski,
    "Unbiased estimation of a nonlinear function of a normal mean", Commun. Stat. 18 (1989)
    4335): exact for every monomial, since the noise of the coefficients is independent.
    """

    states: int
    degree: int
    interactions: bool = True

    def __post_init__(self) -> None:
        _check_whole("states", self.states, 1, MAX_STATES)
        _check_whole("degree", self.degree, 0, MAX_DEGREE)
        if not isinstance(self.interactions, bool):
            raise LibraryError(f"interactions must be true or false, got {self.interactions!r}")
        _check_terms(self.size)

    @property
    def size(self) -> int:
        if self.interactions:
            return term_count(self.states, self.degree)
        return 1 + self.states * self.degree

    @property
    def operations(self) -> int:
        return self.degree

    @cached_property
    def factors(self) -> tuple[tuple[int, ...], ...]:
        """The coefficients multiplied in each term: (), (0,), (0, 1), (0, 0) ..."""
        terms: list[tuple[int, ...]] = []
        for degree in range(self.degree + 1):
            if self.interactions or degree == 0:
                terms += combinations_with_replacement(range(self.states), degree)
            else:
                terms += [(state,) * degree for state in range(self.states)]
        return tuple(terms)

    def names(self) -> tuple[str, ...]:
        return tuple(
            " ".join(f"a{j + 1}" + (f"^{k}" if k > 1 else "") for j, k in _powers(term)) or "1"
            for term in self.factors
        )

    def latex(self) -> tuple[str, ...]:
        return tuple(
            " ".join(f"a_{{{j + 1}}}" + (f"^{{{k}}}" if k > 1 else "") for j, k in _powers(term))
            or "1"
            for term in self.factors
        )

    @cached_property
    def _steps(self) -> tuple[tuple[int, int, int], ...]:
        """For each term: an earlier term, the state to multiply it by, and the power so reached."""
        column = {term: k for k, term in enumerate(self.factors)}
        return tuple(
            (column[term[:-1]], term[-1], term.count(term[-1])) if term else (0, 0, 0)
            for term in self.factors
        )

    def evaluate(
        self, a: Matrix, columns: Columns | None = None, *, variance: Matrix | None = None
    ) -> Matrix:
        a = _checked_states(a, self.states)
        if variance is None and len(a) <= FEW_STATES:
            return self._at_few(a, columns)
        wanted = range(self.size) if columns is None else [int(c) for c in columns]
        noisy = variance is not None and np.any(variance)
        table = self._columns(a, variance if noisy else None, wanted)
        values = np.empty((len(a), len(wanted)))
        for k, c in enumerate(wanted):
            values[:, k] = table[c]
        return values

    @cached_property
    def _padded(self) -> NDArray[np.intp]:
        """The coefficients of each term (p, degree), filled up with that of the constant."""
        width = max(self.degree, 1)
        filled = [(*term, *[self.states] * (width - len(term))) for term in self.factors]
        return np.array(filled, dtype=np.intp)

    def _at_few(self, a: Matrix, columns: Columns | None) -> Matrix:
        """Terms at a few states, in as few calls as can be: an integrator asks often."""
        index = self._padded if columns is None else self._padded[columns]
        extended = np.concatenate([a, np.ones((len(a), 1))], axis=1)
        values = extended.take(index[:, 0], axis=1)
        for factor in index.T[1:]:
            values *= extended.take(factor, axis=1)
        return values

    def _columns(
        self, a: Matrix, variance: Matrix | None, wanted: Sequence[int]
    ) -> dict[int, Matrix]:
        by_state = np.ascontiguousarray(a.T)
        table: dict[int, Matrix] = {0: np.ones(len(a))}
        for c in self._with_ancestors(wanted):
            earlier, state, power = self._steps[c]
            table[c] = by_state[state] if earlier == 0 else table[earlier] * by_state[state]
            if variance is not None and power > 1:  # H_k = x H_{k-1} - (k - 1) variance H_{k-2}
                table[c] -= (power - 1) * variance[state] * table[self._steps[earlier][0]]
        return table

    def _with_ancestors(self, wanted: Sequence[int]) -> list[int]:
        if len(wanted) == self.size:
            return list(range(1, self.size))
        needed: set[int] = set()
        for c in wanted:
            while c and c not in needed:
                needed.add(c)
                c = self._steps[c][0]
        return sorted(needed)

    def spec(self) -> dict[str, Any]:
        return {
            "kind": "polynomial",
            "states": self.states,
            "degree": self.degree,
            "interactions": self.interactions,
        }


@dataclass(frozen=True)
class FourierLibrary:
    """sin(w a_j) and cos(w a_j) for each frequency w and coefficient j."""

    states: int
    frequencies: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_whole("states", self.states, 1, MAX_STATES)
        frequencies = self.frequencies
        if not isinstance(frequencies, Sequence) or isinstance(frequencies, str):
            raise LibraryError(f"frequencies must be a list of numbers, got {frequencies!r}")
        if not 1 <= len(frequencies) <= MAX_FREQUENCIES:
            raise LibraryError(f"1 to {MAX_FREQUENCIES} frequencies needed, got {len(frequencies)}")
        for w in frequencies:
            if isinstance(w, bool) or not isinstance(w, int | float) or not 0 < w <= 1e12:
                raise LibraryError(f"a frequency must be a number in (0, 1e12], got {w!r}")
        object.__setattr__(self, "frequencies", tuple(float(w) for w in frequencies))
        _check_terms(self.size)

    @property
    def size(self) -> int:
        return 2 * self.states * len(self.frequencies)

    @cached_property
    def _terms(self) -> tuple[tuple[str, float, int], ...]:
        return tuple(
            (function, w, state)
            for w in self.frequencies
            for state in range(self.states)
            for function in ("sin", "cos")
        )

    def names(self) -> tuple[str, ...]:
        return tuple(
            f"{function}({'' if w == 1 else f'{w:.12g} '}a{state + 1})"
            for function, w, state in self._terms
        )

    def latex(self) -> tuple[str, ...]:
        return tuple(
            rf"\{function}\left({'' if w == 1 else f'{w:.12g}'} a_{{{state + 1}}}\right)"
            for function, w, state in self._terms
        )

    def evaluate(
        self, a: Matrix, columns: Columns | None = None, *, variance: Matrix | None = None
    ) -> Matrix:
        a = _checked_states(a, self.states)
        terms = self._terms if columns is None else [self._terms[int(c)] for c in columns]
        values = np.empty((len(a), len(terms)))
        for k, (function, w, state) in enumerate(terms):
            np.multiply(a[:, state], w, out=values[:, k])
            (np.sin if function == "sin" else np.cos)(values[:, k], out=values[:, k])
            if variance is not None:
                # The mean over the noise is exp(-w^2 variance / 2) times the clean value;
                # beyond a factor of e the wave is lost in the noise and is left alone.
                damping = 0.5 * w * w * float(variance[state])
                if damping < 1:
                    values[:, k] *= math.exp(damping)
        return values

    @property
    def operations(self) -> int:
        return _FUNCTION

    def spec(self) -> dict[str, Any]:
        return {
            "kind": "fourier",
            "states": self.states,
            "frequencies": list(self.frequencies),
        }


@dataclass(frozen=True)
class SymbolicLibrary:
    """Expressions in a1 ... aq that the user wrote (`variance` does not change them)."""

    states: int
    expressions: tuple[str, ...]
    _parsed: tuple[Expression, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_whole("states", self.states, 1, MAX_STATES)
        texts = self.expressions
        if not isinstance(texts, Sequence) or isinstance(texts, str):
            raise LibraryError(f"expressions must be a list of texts, got {texts!r}")
        if not 1 <= len(texts) <= MAX_EXPRESSIONS:
            raise LibraryError(f"1 to {MAX_EXPRESSIONS} expressions needed, got {len(texts)}")
        names = tuple(f"a{j + 1}" for j in range(self.states))
        object.__setattr__(self, "_parsed", tuple(parse(text, names) for text in texts))
        object.__setattr__(self, "expressions", tuple(texts))

    @property
    def size(self) -> int:
        return len(self.expressions)

    def names(self) -> tuple[str, ...]:
        return tuple(expression.text for expression in self._parsed)

    def latex(self) -> tuple[str, ...]:
        names = {f"a{j + 1}": f"a_{{{j + 1}}}" for j in range(self.states)}
        return tuple(expression.latex(names) for expression in self._parsed)

    def evaluate(
        self, a: Matrix, columns: Columns | None = None, *, variance: Matrix | None = None
    ) -> Matrix:
        a = _checked_states(a, self.states)
        by_name = {f"a{j + 1}": a[:, j] for j in range(self.states)}
        chosen = self._parsed if columns is None else [self._parsed[int(c)] for c in columns]
        values = np.empty((len(a), len(chosen)))
        for k, expression in enumerate(chosen):
            values[:, k] = expression.evaluate(by_name)
        return values

    @property
    def operations(self) -> int:
        return _FUNCTION * max(len(text) for text in self.expressions)

    def spec(self) -> dict[str, Any]:
        return {"kind": "symbolic", "states": self.states, "expressions": list(self.expressions)}


@dataclass(frozen=True)
class ConcatenatedLibrary:
    """The terms of several libraries of the same coefficients, side by side."""

    parts: tuple[Library, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        if not 1 <= len(self.parts) <= MAX_PARTS:
            raise LibraryError(f"1 to {MAX_PARTS} libraries needed, got {len(self.parts)}")
        if len({part.states for part in self.parts}) > 1:
            raise LibraryError(
                f"libraries of {[part.states for part in self.parts]} states cannot be joined"
            )
        _check_terms(self.size)

    @property
    def states(self) -> int:
        return self.parts[0].states

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    def names(self) -> tuple[str, ...]:
        return tuple(name for part in self.parts for name in part.names())

    def latex(self) -> tuple[str, ...]:
        return tuple(name for part in self.parts for name in part.latex())

    def evaluate(
        self, a: Matrix, columns: Columns | None = None, *, variance: Matrix | None = None
    ) -> Matrix:
        wanted = np.arange(self.size) if columns is None else np.asarray(columns, dtype=np.intp)
        values = np.empty((len(a), len(wanted)))
        first = 0
        for part in self.parts:
            here = np.flatnonzero((wanted >= first) & (wanted < first + part.size))
            if len(here) or not len(wanted):
                values[:, here] = part.evaluate(a, wanted[here] - first, variance=variance)
            first += part.size
        return values

    @property
    def operations(self) -> int:
        return max(part.operations for part in self.parts)

    def spec(self) -> dict[str, Any]:
        return {"kind": "concatenated", "parts": [part.spec() for part in self.parts]}


def library_from_spec(spec: Mapping[str, Any]) -> Library:
    """Library of a config file or a store; everything in `spec` is checked, none of it trusted.

    Raises
    ------
    LibraryError
        On an unknown kind, an unknown or missing key, a wrong type, or a size out of bounds.
    """
    return _from_spec(spec, depth=0)


def _from_spec(spec: Mapping[str, Any], depth: int) -> Library:
    if not isinstance(spec, Mapping):
        raise LibraryError(f"a library must be a mapping with a kind, got {spec!r:.200}")
    kind = spec.get("kind")
    if kind == "concatenated":
        return _concatenated_from_spec(spec, depth)
    if not isinstance(kind, str) or kind not in _KINDS:
        raise LibraryError(
            f"unknown library kind {kind!r:.100}; known: {', '.join([*_KINDS, 'concatenated'])}"
        )
    build, required, optional = _KINDS[kind]
    given = {key: value for key, value in spec.items() if key != "kind"}
    unknown = set(given) - {*required, *optional}
    missing = set(required) - set(given)
    if unknown or missing:
        raise LibraryError(
            f"library {kind!r} has keys {', '.join(map(str, given))}; it needs "
            f"{', '.join(required)} and may have {', '.join(optional) or 'no others'}"
        )
    return build(**given)


def _concatenated_from_spec(spec: Mapping[str, Any], depth: int) -> Library:
    parts = spec.get("parts")
    if set(spec) != {"kind", "parts"} or not isinstance(parts, Sequence) or isinstance(parts, str):
        raise LibraryError("a concatenated library has a kind and a list of parts")
    if depth >= 2 or len(parts) > MAX_PARTS:
        raise LibraryError(f"a concatenated library has at most {MAX_PARTS} parts, 2 levels deep")
    return ConcatenatedLibrary(tuple(_from_spec(part, depth + 1) for part in parts))


_KINDS: dict[str, tuple[Callable[..., Library], tuple[str, ...], tuple[str, ...]]] = {
    "polynomial": (PolynomialLibrary, ("states", "degree"), ("interactions",)),
    "fourier": (FourierLibrary, ("states", "frequencies"), ()),
    "symbolic": (SymbolicLibrary, ("states", "expressions"), ()),
    "neural": (
        neural_library_from_spec,
        ("states", "operators"),
        ("scales", "nested", "angles", "constant"),
    ),
}


def _powers(term: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(state, term.count(state)) for state in sorted(set(term))]


def _check_whole(name: str, value: object, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise LibraryError(f"{name} must be a whole number {least} to {most}, got {value!r:.100}")


def _check_terms(terms: int) -> None:
    if terms > MAX_TERMS:
        raise LibraryError(
            f"the library has {terms} terms, at most {MAX_TERMS} allowed; lower the degree or "
            f"the number of states"
        )


def _checked_states(a: Matrix, states: int) -> Matrix:
    a = np.asarray(a, dtype=np.float64)
    if a.ndim != 2 or a.shape[1] != states:
        raise LibraryError(f"features of {states} states got coefficients of shape {a.shape}")
    return a

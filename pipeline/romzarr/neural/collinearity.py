"""Which candidate terms the data cannot tell apart: found before anything is fitted.

Exact dependences come from the singular vectors of the scaled features, approximate ones from
variance inflation (D. A. Belsley, E. Kuh, R. E. Welsch, "Regression diagnostics", Wiley 1980,
chapter 3; a factor of 10 is its customary limit).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from romzarr.contracts import Matrix
from romzarr.numerics.dynamics.library import Library
from romzarr.numerics.dynamics.neural_library import NeuralLibrary
from romzarr.numerics.dynamics.symbolic import parse

EXACT = 5e-3  # of a term's size: what networks err by at small arguments, with room
INVOLVED = 0.05  # share of a term in a singular vector below which it has no part in it
INFLATED = 10.0  # variance inflation above which a term is hard to tell from the others
SEPARATE = 0.1  # of a term's size: two terms that differ by it are easily told apart
LARGEST_STRETCH = 1e3


@dataclass(frozen=True)
class Dependence:
    """A term that is a combination of simpler ones, within ``misfit`` of its size."""

    term: int
    parts: tuple[tuple[int, float], ...]
    misfit: float


@dataclass(frozen=True)
class Likeness:
    """Two terms that are nearly multiples of each other on the data.

    ``difference`` is the sine of the angle between them. ``stretch`` is how many times larger
    the states would have to be for it to reach `SEPARATE` (inf: no size is enough).
    """

    first: int
    second: int
    difference: float
    stretch: float


@dataclass(frozen=True)
class Diagnosis:
    """What is dependent in a library on given data.

    ``inflation`` (p,) is 1 / (1 - R^2) of each term on all others, once the exactly dependent
    are left out (inf for these); ``singular_values`` are those of the features scaled to
    length one, whose squares are shares of all they say.
    """

    names: tuple[str, ...]
    exact: tuple[Dependence, ...]
    alike: tuple[Likeness, ...]
    inflation: Matrix
    singular_values: Matrix
    amplitude: float

    @property
    def dropped(self) -> tuple[int, ...]:
        """Of each exact dependence the least simple term, which may be left out."""
        return tuple(sorted(each.term for each in self.exact))

    def words(self) -> str:
        """The diagnosis as people read it."""
        lines = []
        for each in self.exact:
            parts = " + ".join(_times(value, self.names[k]) for k, value in each.parts)
            parts = parts.replace("+ -", "- ") or "0"
            lines.append(
                f"{self.names[each.term]} = {parts} to {each.misfit:.1e} of its size: on these "
                "states the others say the same more simply"
            )
        for pair in self.alike:
            first, second = self.names[pair.first], self.names[pair.second]
            text = f"{second} ~ {first}: they differ by {100 * pair.difference:.3g} % of their size"
            if math.isinf(pair.stretch):
                text += "; no larger amplitude tells them apart"
            elif pair.stretch > 1:
                text += (
                    f"; an amplitude of {pair.stretch * self.amplitude:.3g} (here "
                    f"{self.amplitude:.3g}) would bring that to {100 * SEPARATE:g} %"
                )
            lines.append(text)
        for k in np.flatnonzero(np.isfinite(self.inflation) & (self.inflation > INFLATED)):
            lines.append(
                f"{self.names[k]}: variance inflated {self.inflation[k]:.3g} times by the others"
            )
        return "\n".join(lines) or "no term depends on others"


def diagnose(
    library: Library, a: Matrix, *, complexity: Sequence[float] | None = None
) -> Diagnosis:
    """Dependences among the terms of `library` on the states `a` (m, q).

    Parameters
    ----------
    library : Library
        Of any kind.
    a : (m, q) float64
        The visited states.
    complexity : sequence of float, optional
        Which of dependent terms is to go: the one with the largest value, the last of equals.
        By default a neural library's own, otherwise the order of the terms.
    """
    theta = library.evaluate(a)
    names = library.names()
    if complexity is None:
        complexity = (
            library.complexity if isinstance(library, NeuralLibrary) else range(library.size)
        )
    sizes = np.linalg.norm(theta, axis=0)
    unit = theta / np.where(sizes > 0, sizes, 1.0)
    exact, kept = _exact(unit, sizes, complexity)
    inflation = np.full(library.size, np.inf)
    inflation[kept] = _inflation(unit[:, kept])
    return Diagnosis(
        names,
        tuple(exact),
        tuple(_alike(library, a, unit, kept)),
        inflation,
        np.asarray(np.linalg.svd(unit, compute_uv=False), np.float64),
        float(np.max(np.abs(a), initial=0.0)),
    )


def _exact(
    unit: Matrix, sizes: Matrix, complexity: Sequence[float]
) -> tuple[list[Dependence], list[int]]:
    """Dependences, and the terms that remain, by the least singular vector again and again.

    A singular value near zero says that the terms in its right singular vector are
    dependent. Of those that the others explain, the least simple goes.
    """
    kept = [k for k in range(unit.shape[1]) if sizes[k] > 0]
    found = [Dependence(int(k), (), 0.0) for k in np.flatnonzero(sizes == 0)]
    while len(kept) > 1:
        _, s, vt = np.linalg.svd(unit[:, kept], full_matrices=False)
        misfits = 1 / np.sqrt(_inflation(unit[:, kept]))
        involved = [
            k
            for k, v, misfit in zip(kept, vt[-1], misfits, strict=True)
            if abs(v) > INVOLVED and misfit <= EXACT
        ]
        if s[-1] > EXACT or not involved:
            break
        gone = max(involved, key=lambda k: (complexity[k], k))
        kept.remove(gone)
        found.append(_in_words(unit, sizes, gone, kept, complexity))
    return found, kept


def _in_words(
    unit: Matrix, sizes: Matrix, gone: int, kept: Sequence[int], complexity: Sequence[float]
) -> Dependence:
    """Term `gone` as a combination of as few and as simple terms as explain it."""
    parts = sorted(kept, key=lambda k: (complexity[k], k))
    values, misfit = _combined(unit, gone, parts)
    for k in reversed(list(parts)):
        fewer = [each for each in parts if each != k]
        trial, left = _combined(unit, gone, fewer)
        if left <= EXACT:
            parts, values, misfit = fewer, trial, left
    scaled = zip(parts, values, strict=True)
    return Dependence(
        gone, tuple((k, float(c * sizes[gone] / sizes[k])) for k, c in scaled), misfit
    )


def _combined(unit: Matrix, gone: int, parts: Sequence[int]) -> tuple[Matrix, float]:
    columns = unit[:, list(parts)]
    values = np.asarray(np.linalg.lstsq(columns, unit[:, gone], rcond=None)[0], np.float64)
    return values, float(np.linalg.norm(unit[:, gone] - columns @ values))


def _inflation(unit: Matrix) -> Matrix:
    """1 / (1 - R^2) of each column on the others: squared rows of the pseudoinverse.

    Directions that are lost to rounding count with what rounding leaves of them.
    """
    _, s, vt = np.linalg.svd(unit, full_matrices=False)
    s = np.maximum(s, 1e-14 * s[0])
    return np.asarray(np.sum((vt / s[:, None]) ** 2, axis=0), np.float64)


def _alike(library: Library, a: Matrix, unit: Matrix, kept: Sequence[int]) -> list[Likeness]:
    found = []
    for place, i in enumerate(kept):
        for j in kept[place + 1 :]:
            difference = _sine(unit[:, i], unit[:, j])
            if difference < SEPARATE:
                found.append(Likeness(i, j, difference, _stretch(library, a, i, j)))
    return found


def _sine(u: Matrix, v: Matrix) -> float:
    return float(np.linalg.norm(u - (u @ v) * v))


def _stretch(library: Library, a: Matrix, i: int, j: int) -> float:
    """Factor of all states at which terms i and j differ by `SEPARATE`, by bisection.

    A network is taken at its formula, where it has one: it knows nothing beyond its reach.
    """
    terms = _formulas(library)

    def difference(factor: float) -> float:
        values = np.stack([terms(factor * a, k) for k in (i, j)], axis=1)
        sizes = np.linalg.norm(values, axis=0)
        if not np.isfinite(values).all() or not sizes.all():
            return math.nan
        return _sine(values[:, 0] / sizes[0], values[:, 1] / sizes[1])

    low, high = 1.0, 1.0
    while not difference(high) >= SEPARATE:
        low, high = high, 1.25 * high
        if high > LARGEST_STRETCH:
            return math.inf
    for _ in range(30):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if difference(middle) >= SEPARATE else (middle, high)
    return high


def _formulas(library: Library) -> Callable[[Matrix, int], Matrix]:
    names = tuple(f"a{k + 1}" for k in range(library.states))

    def value(a: Matrix, term: int) -> Matrix:
        if isinstance(library, NeuralLibrary):
            text = library.formulas()[term]
            if text != library.names()[term]:
                by_name = {name: a[:, k] for k, name in enumerate(names)}
                return np.broadcast_to(parse(text, names).evaluate(by_name), len(a))
        return library.evaluate(a, np.array([term]))[:, 0]

    return value


def _times(value: float, name: str) -> str:
    return name if abs(value - 1) < 5e-3 else f"{value:.3g} {name}"

"""Ordinary differential equations with known terms, and noisy records of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from romzarr.numerics.dynamics.integrate import Dynamics
from romzarr.numerics.dynamics.library import Library, PolynomialLibrary
from romzarr.numerics.dynamics.sampling import Deviation, Tolerances

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class KnownSystem:
    """Right-hand side, a start on (or near) the attractor and the terms by name.

    ``terms[j]`` maps a term of a monomial library (``"1"``, ``"a1 a2"``, ``"a1^2"``) to its
    coefficient in equation j.
    """

    name: str
    right_hand_side: Callable[[float, Vector], Vector]
    start: tuple[float, ...]
    step: float
    terms: tuple[Mapping[str, float], ...]

    @property
    def states(self) -> int:
        return len(self.start)

    def record(self, samples: int, *, step: float | None = None) -> tuple[Vector, Vector]:
        """``(times, states)`` of a uniform record, right to about 1e-12."""
        times = np.arange(samples) * (self.step if step is None else step)
        return times, self.at(times)

    def at(self, times: Vector) -> Vector:
        """The states at the increasing `times`; a record of any length in linear time."""
        pieces, start = [], np.asarray(self.start, dtype=float)
        for first in range(0, len(times), 20_000):
            part = times[first : first + 20_001]
            found = solve_ivp(
                self.right_hand_side,
                (part[0], part[-1]),
                start,
                method="DOP853",
                t_eval=part,
                rtol=1e-12,
                atol=1e-12,
            ).y.T
            pieces.append(found[:20_000])
            start = found[-1]
        return np.ascontiguousarray(np.concatenate(pieces)[: len(times)])

    def coefficients(self, names: tuple[str, ...]) -> Vector:
        """The true (terms, equations) matrix in the order of `names`."""
        xi = np.zeros((len(names), self.states))
        for equation, terms in enumerate(self.terms):
            for name, value in terms.items():
                xi[names.index(name), equation] = value
        return xi


LORENZ = KnownSystem(
    "Lorenz",
    lambda t, a: np.array(
        [10 * (a[1] - a[0]), a[0] * (28 - a[2]) - a[1], a[0] * a[1] - 8 / 3 * a[2]]
    ),
    (-8.0, 7.0, 27.0),
    0.01,
    (
        {"a1": -10.0, "a2": 10.0},
        {"a1": 28.0, "a1 a3": -1.0, "a2": -1.0},
        {"a1 a2": 1.0, "a3": -8 / 3},
    ),
)
VAN_DER_POL = KnownSystem(
    "Van der Pol",
    lambda t, a: np.array([a[1], 2 * (1 - a[0] ** 2) * a[1] - a[0]]),
    (2.0, 0.0),
    0.01,
    ({"a2": 1.0}, {"a1": -1.0, "a2": 2.0, "a1^2 a2": -2.0}),
)
LOTKA_VOLTERRA = KnownSystem(
    "Lotka-Volterra",
    lambda t, a: np.array([a[0] - a[0] * a[1] / 2, -a[1] + a[0] * a[1] / 2]),
    (4.0, 2.0),
    0.01,
    ({"a1": 1.0, "a1 a2": -0.5}, {"a2": -1.0, "a1 a2": 0.5}),
)
LINEAR_OSCILLATOR = KnownSystem(
    "linear oscillator",
    lambda t, a: np.array([a[1], -a[0] - 0.1 * a[1]]),
    (1.0, 0.0),
    0.05,
    ({"a2": 1.0}, {"a1": -1.0, "a2": -0.1}),
)
SYSTEMS = (LORENZ, VAN_DER_POL, LOTKA_VOLTERRA, LINEAR_OSCILLATOR)


def true_model(system: KnownSystem, degree: int = 3) -> Dynamics:
    """The system itself as a model."""
    library = PolynomialLibrary(system.states, degree)
    return Dynamics(library, system.coefficients(library.names()))


def dynamics_of(library: Library, *terms: tuple[str, int, float]) -> Dynamics:
    """Model with the terms ``(name, equation, coefficient)``."""
    xi = np.zeros((library.size, library.states))
    for name, equation, value in terms:
        xi[library.names().index(name), equation] = value
    return Dynamics(library, xi)


def coding_only(roots: Vector, allowed: Vector) -> Tolerances:
    """Tolerances where POD has cut nothing; `allowed` (V,) norms."""
    v, r, _ = roots.shape
    nothing = np.zeros(v)
    mixed = [(np.eye(r), np.zeros((r, 0)))] * v
    return Tolerances(roots, allowed, nothing, nothing, mixed)


def deviation(difference: Vector) -> Deviation:
    """Of differences (m, r), where POD has cut nothing."""
    return Deviation.of(difference, np.zeros((len(difference), 0)))


def whole_within(a: Vector, tolerance: float) -> Tolerances:
    """One variable that is the coefficients themselves."""
    allowed = np.array([tolerance * np.linalg.norm(a - a.mean(axis=0))])
    return coding_only(np.eye(a.shape[1])[None], allowed)


def with_noise(states: Vector, level: float, seed: int) -> Vector:
    """`states` plus white Gaussian noise of `level` times each state's rms."""
    rng = np.random.default_rng(seed)
    rms = np.sqrt(np.mean(states**2, axis=0))
    return states + level * rms * rng.standard_normal(states.shape)


def true_positive_rate(found: Vector, truth: Vector) -> float:
    """Right terms over right, missed and false ones together: 1 for the right structure."""
    hit = np.count_nonzero((found != 0) & (truth != 0))
    return hit / np.count_nonzero((found != 0) | (truth != 0))


def coefficient_error(found: Vector, truth: Vector) -> float:
    """``||found - truth||_F / ||truth||_F``."""
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))

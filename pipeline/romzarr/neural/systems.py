"""Ordinary differential equations whose terms are known, and noisy records of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.integrate import solve_ivp

from romzarr.contracts import Matrix, Vector


@dataclass(frozen=True)
class Record:
    """Noisy `states` (m, q) at `times`; the clean ones and their derivatives, for judging only."""

    times: Vector
    states: Matrix
    clean: Matrix
    derivatives: Matrix


@dataclass(frozen=True)
class System:
    """``terms[j]`` maps terms of equation j, by formula in a1, a2, ..., to coefficients."""

    name: str
    right_hand_side: Callable[[float, Vector], Vector]
    start: tuple[float, ...]
    step: float
    samples: int
    terms: tuple[Mapping[str, float], ...]
    nested: tuple[str, ...] = ()

    def record(self, sigma: float, seed: int) -> Record:
        """The record with Gaussian noise of standard deviation `sigma` on every state."""
        times = np.arange(self.samples, dtype=np.float64) * self.step
        clean = self._clean(times)
        derivatives = np.array([self.right_hand_side(0.0, row) for row in clean])
        noise = np.random.default_rng(seed).standard_normal(clean.shape)
        return Record(times, clean + sigma * noise, clean, derivatives)

    def _clean(self, times: Vector) -> Matrix:
        solution = solve_ivp(
            self.right_hand_side,
            (times[0], times[-1]),
            self.start,
            method="DOP853",
            t_eval=times,
            rtol=1e-11,
            atol=1e-11,
        )
        return np.ascontiguousarray(solution.y.T)


def _array(*values: float) -> Vector:
    return np.array(values)


OSCILLATOR = System(
    "damped oscillator",
    lambda t, a: _array(a[1], -a[0] - 0.1 * a[1]),
    (1.0, 0.0),
    0.05,
    600,
    ({"a2": 1.0}, {"a1": -1.0, "a2": -0.1}),
)
# Amplitude 2.6 of a pendulum that falls over at pi: x in place of sin(x) is far off.
PENDULUM = System(
    "pendulum",
    lambda t, a: _array(a[1], -math.sin(a[0]) - 0.1 * a[1]),
    (2.6, 0.0),
    0.05,
    600,
    ({"a2": 1.0}, {"sin(a1)": -1.0, "a2": -0.1}),
)
VAN_DER_POL = System(
    "Van der Pol",
    lambda t, a: _array(a[1], (1 - a[0] ** 2) * a[1] - a[0]),
    (2.0, 0.0),
    0.025,
    1600,
    ({"a2": 1.0}, {"a1": -1.0, "a2": 1.0, "a1*(a1*a2/5)": -5.0}),
    ("mul",),
)
LOTKA_VOLTERRA = System(
    "Lotka-Volterra",
    lambda t, a: _array(a[0] - a[0] * a[1] / 2, -a[1] + a[0] * a[1] / 2),
    (4.0, 2.0),
    0.025,
    1200,
    ({"a1": 1.0, "a1*a2": -0.5}, {"a2": -1.0, "a1*a2": 0.5}),
)
LORENZ = System(
    "Lorenz",
    lambda t, a: _array(10 * (a[1] - a[0]), a[0] * (28 - a[2]) - a[1], a[0] * a[1] - 8 / 3 * a[2]),
    (-8.0, 7.0, 27.0),
    0.005,
    4000,
    (
        {"a1": -10.0, "a2": 10.0},
        {"a1": 28.0, "a1*a3": -1.0, "a2": -1.0},
        {"a1*a2": 1.0, "a3": -8 / 3},
    ),
)
BEYOND = (PENDULUM, VAN_DER_POL, LOTKA_VOLTERRA, LORENZ)

"""Ordinary differential equations whose terms are known, and noisy records of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np

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
    """``terms[j]`` maps terms of equation j, by formula in a1, a2, ..., to coefficients.

    ``nested`` are operators that the terms need applied to their own results; ``angles`` the
    numbers of states that turn.
    """

    name: str
    right_hand_side: Callable[[float, Vector], Vector]
    start: tuple[float, ...]
    step: float
    samples: int
    terms: tuple[Mapping[str, float], ...]
    nested: tuple[str, ...] = ()
    angles: tuple[int, ...] = ()

    def record(self, sigma: float | Vector, seed: int) -> Record:
        """The record with Gaussian noise of standard deviation `sigma` on every state."""
        times = np.arange(self.samples, dtype=np.float64) * self.step
        clean = self._clean(times)
        derivatives = np.array([self.right_hand_side(0.0, row) for row in clean])
        noise = np.random.default_rng(seed).standard_normal(clean.shape)
        return Record(times, clean + sigma * noise, clean, derivatives)

    def sizes(self) -> Vector:
        """Root mean square of each state (q,); of an angle without its whole turns."""
        clean = self._clean(np.arange(self.samples, dtype=np.float64) * self.step)
        for j in self.angles:
            clean[:, j] -= 2 * math.pi * np.round(clean[:, j] / (2 * math.pi))
        return np.asarray(np.sqrt(np.mean(clean**2, axis=0)))

    def _clean(self, times: Vector) -> Matrix:
        # Half a second, which commands that integrate nothing need not wait for.
        from scipy.integrate import solve_ivp

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


def _damping(c: float) -> dict[str, float]:
    return {"a2": -c} if c else {}


def oscillator(
    k: float = 1.0, c: float = 0.1, x0: float = 1.0, step: float = 0.05, samples: int = 600
) -> System:
    """``x'' = -k x - c x'``."""
    return System(
        "damped oscillator" if c else "undamped oscillator",
        lambda t, a: _array(a[1], -k * a[0] - c * a[1]),
        (x0, 0.0),
        step,
        samples,
        ({"a2": 1.0}, {"a1": -k, **_damping(c)}),
    )


def duffing(
    k: float = 1.0,
    c: float = 0.1,
    x0: float = 1.0,
    step: float = 0.05,
    samples: int = 600,
    cubic: float = 1.0,
) -> System:
    """``x'' = -k x - cubic x^3 - c x'``: a hardening spring, or of two wells if k is negative."""
    return System(
        "Duffing oscillator" if k > 0 else "Duffing oscillator of two wells",
        lambda t, a: _array(a[1], -k * a[0] - cubic * a[0] ** 3 - c * a[1]),
        (x0, 0.0),
        step,
        samples,
        ({"a2": 1.0}, {"a1": -k, **_damping(c), "a1*(a1*a1/5)": -5 * cubic}),
        ("mul",),
    )


def two_wells(
    k: float = -1.0, c: float = 0.1, x0: float = 1.6, step: float = 0.05, samples: int = 600
) -> System:
    """The Duffing oscillator with k below 0; it ends in one of two wells."""
    return duffing(k, c, x0, step, samples)


def pendulum(
    k: float = 1.0, c: float = 0.1, x0: float = 2.6, step: float = 0.05, samples: int = 600
) -> System:
    """``x'' = -k sin(x) - c x'``. Of amplitude 2.6, x in place of sin(x) is far off."""
    return System(
        "pendulum",
        lambda t, a: _array(a[1], -k * math.sin(a[0]) - c * a[1]),
        (x0, 0.0),
        step,
        samples,
        ({"a2": 1.0}, {"sin(a1)": -k, **_damping(c)}),
    )


def driven_pendulum(
    k: float = 1.0,
    c: float = 0.1,
    x0: float = 0.5,
    step: float = 0.05,
    samples: int = 600,
    force: float = 0.6,
    frequency: float = 0.7,
) -> System:
    """``x'' = -k sin(x) - c x' + force cos(phase)``, the phase a state that turns."""
    return System(
        "driven pendulum",
        lambda t, a: _array(
            a[1], -k * math.sin(a[0]) - c * a[1] + force * math.cos(a[2]), frequency
        ),
        (x0, 0.0, 0.0),
        step,
        samples,
        ({"a2": 1.0}, {"sin(a1)": -k, **_damping(c), "cos(a3)": force}, {"1": frequency}),
        angles=(0, 2),
    )


OSCILLATOR = oscillator()
PENDULUM = pendulum()
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


class SystemName(Enum):
    """Systems that `made` makes."""

    OSCILLATOR = "oscillator"
    DUFFING = "duffing"
    TWO_WELLS = "two-wells"
    PENDULUM = "pendulum"
    DRIVEN_PENDULUM = "driven-pendulum"


_MAKERS: dict[SystemName, Callable[..., System]] = {
    SystemName.OSCILLATOR: oscillator,
    SystemName.DUFFING: duffing,
    SystemName.TWO_WELLS: two_wells,
    SystemName.PENDULUM: pendulum,
    SystemName.DRIVEN_PENDULUM: driven_pendulum,
}


def made(name: SystemName, **parameters: float | None) -> System:
    """A system with the `parameters` k, c, x0, step and samples, its own where they are None."""
    given = {key: value for key, value in parameters.items() if value is not None}
    return _MAKERS[name](**given)


BEYOND = (PENDULUM, VAN_DER_POL, LOTKA_VOLTERRA, LORENZ)

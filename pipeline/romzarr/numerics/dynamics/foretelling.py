"""What a model foretells beyond its record, and how far that can be trusted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from romzarr.contracts import Matrix, Vector
from romzarr.numerics.dynamics.integrate import Dynamics, RightHandSide
from romzarr.numerics.dynamics.library import Library
from romzarr.numerics.dynamics.likelihood import Fit
from romzarr.numerics.dynamics.shooting import Record, advance, linearised

# Samples at the end of a record from which its last state is found: fewer know less, and over
# more of them a chaotic model forgets.
ENDING = 32
# Steps of Gauss and Newton, of which three are needed, and the change, in units of the noise, that
# ends them.
GAUSS_NEWTON, SETTLED = 8, 0.01
MEMBERS = 64  # of an ensemble: its spread is known to a tenth
# Trajectories that tell an exponent and how sure it is, and steps of each; standard errors by which
# it has to be positive for chaos.
TRAJECTORIES, GROWTH_STEPS, CHAOS = 24, 300, 4.0


@dataclass(frozen=True)
class Ensemble:
    """Trajectories (times, members, q) of models that the record allows."""

    states: Matrix

    @property
    def mean(self) -> Matrix:
        """(times, q)."""
        return np.asarray(np.mean(self.states, axis=1))

    @property
    def covariance(self) -> Matrix:
        """(times, q, q)."""
        away = self.states - self.mean[:, None]
        return np.asarray(away.swapaxes(1, 2) @ away / (away.shape[1] - 1))


def last_state(
    model: Dynamics, record: Record, noise: Vector, substeps: int
) -> tuple[Vector, Matrix]:
    """The most likely state at the end of a record, and its covariance.

    Least squares of a trajectory of the model through the last samples.
    """
    ending = Record(record.states[-ENDING:], record.times[-ENDING:])
    steps, state = np.diff(ending.times), ending.states[0]
    for _ in range(GAUSS_NEWTON):
        path, slopes = _sensitive(model, state, steps, substeps)
        rows = (slopes / noise[:, None]).reshape(-1, len(state))
        right = ((ending.states - path) / noise).ravel()
        change, _, _, _ = np.linalg.lstsq(rows, right, rcond=None)
        if not np.isfinite(change).all():
            break
        state = state + change
        if (np.abs(change) < SETTLED * noise).all():
            break
    path, slopes = _sensitive(model, state, steps, substeps)
    rows = (slopes / noise[:, None]).reshape(-1, len(state))
    last = slopes[-1] @ np.linalg.pinv(rows)
    return path[-1], np.asarray(last @ last.T)


def _sensitive(
    model: Dynamics, start: Vector, steps: Vector, substeps: int
) -> tuple[Matrix, Matrix]:
    """A trajectory (m, q) at the ends of steps, and its derivatives (m, q, q) by its start."""
    path, slopes = [start], [np.eye(len(start))]
    for step in steps:
        here = linearised(model, path[-1][None], np.array([step]), substeps)
        path.append(here.end[0])
        slopes.append(here.start[0] @ slopes[-1])
    return np.array(path), np.array(slopes)


def members(library: Library, fit: Fit, rng: np.random.Generator) -> RightHandSide:
    """The right-hand side of as many models as an ensemble has, each for its own state: the first
    is the most likely one, the others have coefficients that are as likely as their errors say."""
    terms, equations = np.nonzero(fit.support)
    values = fit.coefficients[terms, equations]
    root = _root(fit.covariance)
    drawn = values + rng.standard_normal((MEMBERS, len(root))) @ root.T
    drawn[0] = values
    active, place = np.unique(terms, return_inverse=True)
    xi = np.zeros((MEMBERS, len(active), fit.support.shape[1]))
    xi[:, place, equations] = drawn

    def derivative(states: Matrix) -> Matrix:
        features = library.evaluate(states, active)
        return np.asarray(np.matmul(features[:, None], xi)[:, 0])

    return derivative


def starts_of(state: Vector, covariance: Matrix, rng: np.random.Generator) -> Matrix:
    """States (members, q) that are as likely as a covariance says; the first is `state`."""
    drawn = state + rng.standard_normal((MEMBERS, len(state))) @ _root(covariance).T
    drawn[0] = state
    return np.asarray(drawn)


def _root(covariance: Matrix) -> Matrix:
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))


def integrated(function: RightHandSide, states: Matrix, steps: Vector, substeps: int) -> Ensemble:
    """The trajectories at the ends of `steps`; states that leave the finite numbers are NaN."""
    found = np.empty((len(steps), *states.shape))
    for number, step in enumerate(steps):
        states = advance(function, states, np.full(len(states), step), substeps)
        found[number] = states
    return Ensemble(np.where(np.isfinite(found), found, np.nan))


def lyapunov_exponent(model: Dynamics, records: tuple[Record, ...], fit: Fit) -> float | None:
    """Largest Lyapunov exponent of a model, None if it is not surely positive.

    Mean growth of small differences, made small again at each step (G. Benettin, L. Galgani,
    A. Giorgilli, J.-M. Strelcyn, Meccanica 15 (1980) 9), along trajectories of the model from
    states spread over its record; those that leave the finite numbers do not count. How much
    they differ says how sure it is.
    """
    every = np.concatenate([record.states for record in records])
    states = every[np.linspace(0, len(every) - 1, TRAJECTORIES).astype(int)]
    step = float(np.median(np.diff(records[0].times)))
    times, q = np.full(TRAJECTORIES, step), states.shape[1]
    direction = np.full((TRAJECTORIES, q), q**-0.5)
    growth = np.zeros((GROWTH_STEPS, TRAJECTORIES))
    with np.errstate(all="ignore"):
        for number in range(GROWTH_STEPS):
            found = linearised(model, states, times, fit.guess.substeps)
            direction = np.einsum("bij,bj->bi", found.start, direction)
            length = np.linalg.norm(direction, axis=1)
            direction = direction / length[:, None]
            growth[number], states = np.log(length), found.end
    # The differences turn into the direction of growth first.
    rates = growth[GROWTH_STEPS // 10 :].mean(axis=0) / step
    rates = rates[np.isfinite(rates)]
    if len(rates) < TRAJECTORIES // 2:
        return None
    exponent, error = float(rates.mean()), float(np.std(rates, ddof=1) / np.sqrt(len(rates)))
    return exponent if exponent > CHAOS * error and exponent * step * GROWTH_STEPS > 1 else None


def first_beyond(values: Vector, limit: float, times: Vector) -> float | None:
    """The first time at which values exceed a limit or are not finite; None if never."""
    beyond = ~(values <= limit)
    return float(times[np.argmax(beyond)]) if beyond.any() else None

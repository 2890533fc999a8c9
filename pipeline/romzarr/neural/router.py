"""Differentiable choice of terms: routers that assign each slot of an equation to one term.

A slot holds logits over the p terms. While training, its weights are a softmax of logits plus
Gumbel noise at a falling temperature (E. Jang, S. Gu, B. Poole, "Categorical
reparameterization with Gumbel-softmax", ICLR 2017), and the equation is the sum over slots of
weights times coefficients times terms. Two slots choose without replacement as in S. M. Xie,
S. Ermon, "Reparameterizable subset sampling via continuous relaxations", IJCAI 2019.

A slot's *activation* of a term is the softmax of its logits without noise at temperature one:
how often the slot would sample the term.

All seeds are trained in one compiled run. Routers that do not look at the state need of the
data only the triangular factor of [Theta, derivatives] or [G, b]: the squared error is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from romzarr.contracts import Matrix
from romzarr.neural import mlp

NEVER = 2.0  # a share of the steps that is not reached
TINY = 1e-6


@dataclass(frozen=True)
class RouterSettings:
    """How routers are trained; what differs between slots is given for each.

    Attributes
    ----------
    slots : int
        One, or two without replacement.
    steps : int
    start_temperature, end_temperature : tuple of float
        Annealed exponentially.
    rate : tuple of float
        Learning rate of logits and coefficients (Adam).
    entropy : float
        Final weight of the entropy of the slots, in units of the squared size of the
        equations; it grows linearly from 0 at the start.
    conditional : bool
        Whether the second slot's entropy is that given what the first one takes.
    prior : float
        Weight of the expected number of binary terms.
    hidden : int
        Units of the hidden layer of a router that looks at the state; 0: it does not.
    dropped : tuple of int
        Terms that cannot be chosen.
    residual : bool
        Slot 1 fits alone; slot 2 fits what slot 1 leaves, which it cannot change.
    freeze : float
        Share of the steps after which slot 1 is fixed at its likeliest term, with the
        least-squares coefficient, and slot 2 trained alone (before, slot 2 is off).
    """

    slots: int = 1
    steps: int = 4000
    start_temperature: tuple[float, ...] = (5.0, 5.0)
    end_temperature: tuple[float, ...] = (0.1, 0.1)
    rate: tuple[float, ...] = (0.02, 0.02)
    entropy: float = 0.0
    conditional: bool = False
    prior: float = 0.0
    hidden: int = 0
    dropped: tuple[int, ...] = ()
    shared: bool = True
    straight: bool = False
    residual: bool = False
    logarithm: bool = False
    freeze: float = NEVER


@dataclass(frozen=True)
class Routed:
    """Outcome for every seed.

    ``activations`` (seeds, q, slots, p); ``coefficients`` of the same shape are those of a
    term if its slot took it alone; ``equations`` (seeds, p, q) are the coefficients that each
    term has in the mixture as it is.
    """

    activations: Matrix
    coefficients: Matrix
    equations: Matrix

    def committed(self, least: float = 0.5) -> Matrix:
        """Coefficients (seeds, p, q) where each slot takes its likeliest term, or none.

        A slot takes a term if its activation is at least `least`.
        """
        seeds, q, slots, p = self.activations.shape
        found = np.zeros((seeds, p, q))
        for e in range(seeds):
            for j in range(q):
                for s in range(slots):
                    k = int(np.argmax(self.activations[e, j, s]))
                    if self.activations[e, j, s, k] >= least:
                        found[e, k, j] += self.coefficients[e, j, s, k]
        return found


def route(
    factors: Matrix,
    rows: int,
    complexity: Matrix,
    settings: RouterSettings,
    *,
    seed: int = 0,
    states: Matrix | None = None,
    features: Matrix | None = None,
    targets: Matrix | None = None,
) -> Routed:
    """Train one router a seed.

    Parameters
    ----------
    factors : (seeds, p + q, p + q) float64
        Triangular factor of features and targets of each seed's record.
    rows : int
        How many rows it stands for.
    complexity : (p,) float64
        1 for binary terms, 0 for others.
    settings : RouterSettings
    seed : int
    states, features, targets : (seeds, m, q), (seeds, m, p), (seeds, m, q), optional
        Needed by a router that looks at the state.
    """
    seeds, width = factors.shape[:2]
    p = len(complexity)
    keys = jax.random.split(jax.random.PRNGKey(seed), seeds)
    mask = np.zeros(p)
    mask[list(settings.dropped)] = -1e9
    common = (jnp.asarray(complexity), jnp.asarray(mask))
    if settings.hidden:
        data = tuple(jnp.asarray(x, jnp.float32) for x in (states, features, targets))
        train = jax.jit(jax.vmap(lambda k, *x: _train_looking(k, x, common, settings)))
        activations, coefficients, equations = train(keys, *data)
    else:
        scaled = jnp.asarray(factors / np.sqrt(rows), jnp.float32)
        train = jax.jit(
            jax.vmap(lambda k, r: _train_blind(k, r[:, :p], r[:, p:], common, settings))
        )
        activations, coefficients, equations = train(keys, scaled)
    if width - p != activations.shape[1]:
        raise ValueError(f"{p} terms do not fit factors of width {width}")
    return Routed(*(np.asarray(x, np.float64) for x in (activations, coefficients, equations)))


def _temperature(settings: RouterSettings, slot: int, share: Any) -> Any:
    first, last = settings.start_temperature[slot], settings.end_temperature[slot]
    return first * (last / first) ** share


def _weights(logits: Any, noise: Any, settings: RouterSettings, share: Any) -> Any:
    """Weights (q, slots, p); the second slot avoids what the first has taken."""
    first = jax.nn.softmax((logits[:, 0] + noise[:, 0]) / _temperature(settings, 0, share), axis=-1)
    if settings.straight:
        first = _one_hot(first)
    if settings.slots == 1:
        return first[:, None]
    free = jnp.log(jnp.maximum(1 - first, TINY))
    second = jax.nn.softmax(
        (logits[:, 1] + free + noise[:, 1]) / _temperature(settings, 1, share), axis=-1
    )
    if settings.straight:
        second = _one_hot(second)
    return jnp.stack([first, second], axis=1)


def _one_hot(weights: Any) -> Any:
    """The likeliest term alone, with the gradient of the weights."""
    taken = jax.nn.one_hot(jnp.argmax(weights, axis=-1), weights.shape[-1])
    return weights + jax.lax.stop_gradient(taken - weights)


def _entropy(logits: Any, settings: RouterSettings) -> Any:
    """Sum over slots of the mean entropy over equations; conditional for the second slot."""

    def of(log_weights: Any) -> Any:
        return -jnp.sum(jnp.exp(log_weights) * log_weights, axis=-1)

    first = jax.nn.log_softmax(logits[:, 0])
    total = of(first).mean()
    if settings.slots == 2:
        if settings.conditional:
            p = logits.shape[-1]
            taken = logits[:, 1, None, :] - 1e9 * jnp.eye(p)  # slot 1 has taken term k
            given = of(jnp.maximum(jax.nn.log_softmax(taken), -60.0))
            total += jnp.sum(jnp.exp(first) * given, axis=-1).mean()
        else:
            total += of(jax.nn.log_softmax(logits[:, 1])).mean()
    return total


def _optimise(loss: Any, parameters: Any, rates: Any, settings: RouterSettings, key: Any) -> Any:
    """Adam with a rate for every leaf; returns the parameters of the last step."""
    adam = optax.scale_by_adam()

    def step(state: Any, number: Any) -> Any:
        p, moments = state
        share = number / settings.steps
        gradient = jax.grad(loss)(p, jax.random.fold_in(key, number), share)
        update, moments = adam.update(gradient, moments, p)
        # Rates fall at the end, where noise would keep coefficients moving.
        fall = jnp.minimum(1.0, 5 * (1 - share))
        p = jax.tree.map(lambda a, r, u: a - fall * r * u, p, rates, update)
        return (p, moments), None

    state, _ = jax.lax.scan(step, (parameters, adam.init(parameters)), jnp.arange(settings.steps))
    return state[0]


def _start(keys: Any, q: int, p: int, settings: RouterSettings) -> tuple[Any, Any]:
    """Parameters of a router that does not look at the state, and their learning rates."""
    slots = settings.slots
    parameters = {
        "logits": 0.1 * jax.random.normal(keys[0], (q, slots, p)),
        "coefficients": 0.1 * jax.random.normal(keys[1], (q, 1 if settings.shared else slots, p)),
    }
    per_slot = jnp.asarray(settings.rate[:slots])[None, :, None]
    rates = {
        "logits": per_slot,
        "coefficients": jnp.max(per_slot) if settings.shared else per_slot,
    }
    return parameters, rates


def _train_blind(key: Any, g: Any, b: Any, common: Any, settings: RouterSettings) -> Any:
    """One router that does not look at the state, on the triangle [g, b]."""
    complexity, mask = common
    p, q, slots = g.shape[1], b.shape[1], settings.slots
    size = jnp.mean(jnp.sum(b**2, axis=0))
    k1, k2, k3 = jax.random.split(key, 3)
    parameters, rates = _start((k1, k2), q, p, settings)
    energy = jnp.sum(g**2, axis=0) + 1e-12
    alone = (g.T @ b).T / energy  # least squares of each term on its own, (q, p)

    def mixture(weights: Any, coefficients: Any) -> Any:
        return jnp.sum(weights * coefficients, axis=1)  # (q, p)

    def misfit(xi: Any, target: Any) -> Any:
        """Mean over equations of the error relative to the target's size."""
        errors = jnp.sum((target - g @ xi.T) ** 2, axis=0)
        sizes = jax.lax.stop_gradient(jnp.sum(target**2, axis=0)) + TINY * size
        if settings.logarithm:
            return jnp.mean(jnp.log(errors / sizes + TINY))
        return jnp.mean(errors / sizes)

    def loss(v: Any, noise_key: Any, share: Any) -> Any:
        logits = v["logits"] + mask
        noise = jax.random.gumbel(noise_key, logits.shape)
        weights = _weights(logits, noise, settings, share)
        coefficients = jnp.broadcast_to(v["coefficients"], (q, slots, p))
        if settings.freeze < 1:
            frozen = share >= settings.freeze
            taken = jax.nn.one_hot(jnp.argmax(logits[:, 0], axis=-1), p)
            away = jax.nn.softmax(
                (logits[:, 1] - 1e9 * taken + noise[:, 1])
                / _temperature(settings, 1, share / settings.freeze - 1)
            )
            left = jax.lax.stop_gradient(b - g @ (taken * alone).T)
            early = misfit(weights[:, 0] * coefficients[:, 0], b)
            fit = jnp.where(frozen, misfit(away * coefficients[:, 1], left), early)
        elif settings.residual:
            first = weights[:, 0] * coefficients[:, 0]
            left = jax.lax.stop_gradient(b - g @ first.T)
            fit = misfit(first, b) + misfit(weights[:, 1] * coefficients[:, 1], left)
        else:
            fit = misfit(mixture(weights, coefficients), b)
        penalty = settings.entropy * share * _entropy(logits, settings)
        plain = jax.nn.softmax(logits)
        prior = settings.prior * jnp.sum(plain * complexity) / q
        return fit + penalty + prior

    v = _optimise(loss, parameters, rates, settings, k3)
    logits = v["logits"] + mask
    activations = jax.nn.softmax(logits)
    coefficients = jnp.broadcast_to(v["coefficients"], (q, slots, p))
    if settings.freeze < 1:
        taken = jax.nn.one_hot(jnp.argmax(logits[:, 0], axis=-1), p)
        second = jax.nn.softmax(logits[:, 1] - 1e9 * taken)
        activations = jnp.stack([taken, second], axis=1)
        coefficients = jnp.stack([alone, coefficients[:, 1]], axis=1)
    return activations, coefficients, mixture(activations, coefficients).T


def _train_looking(key: Any, data: Any, common: Any, settings: RouterSettings) -> Any:
    """One router of one slot whose logits are a network of the state."""
    _, mask = common
    states, features, targets = data
    p, q = features.shape[1], targets.shape[1]
    size = jnp.mean(targets**2)
    k1, k2, k3 = jax.random.split(key, 3)
    parameters = {
        "router": mlp.initial(k1, (states.shape[1], settings.hidden, q * p), 1.0),
        "coefficients": 0.1 * jax.random.normal(k2, (q, p)),
    }
    rates = jax.tree.map(lambda leaf: settings.rate[0], parameters)

    def logits_of(v: Any) -> Any:
        values = mlp.apply(v["router"], states, "tanh")
        return values.reshape(-1, q, p) + mask

    def loss(v: Any, noise_key: Any, share: Any) -> Any:
        logits = logits_of(v)
        noise = jax.random.gumbel(noise_key, logits.shape)
        weights = jax.nn.softmax((logits + noise) / _temperature(settings, 0, share))
        prediction = jnp.einsum("mqp,qp,mp->mq", weights, v["coefficients"], features)
        return jnp.mean((targets - prediction) ** 2) / size

    v = _optimise(loss, parameters, rates, settings, k3)
    activations = jax.nn.softmax(logits_of(v)).mean(axis=0)  # over the states
    equations = activations * v["coefficients"]
    return activations[:, None], v["coefficients"][:, None], equations.T

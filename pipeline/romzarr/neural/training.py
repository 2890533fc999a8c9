"""Train networks past overfitting, all operations and seeds in one compiled run.

Grokking is a drop of the validation loss long after that of the training loss (A. Power et al.,
"Grokking: generalization beyond overfitting on small algorithmic datasets", arXiv:2201.02177).
Three phases, each a share of the epochs:

1. AdamW (I. Loshchilov, F. Hutter, "Decoupled weight decay regularization", ICLR 2019) at a
   constant rate and heavy weight decay, full batch: here the network overfits, then generalises;
2. weight decay goes to zero and the rate falls along a cosine. Decay holds weights below what
   the data asks for, which is an error of about a per cent;
3. (`finish`, of the best seed alone) Gauss-Newton steps on a dense set. AdamW of any length
   leaves 1e-3 of the output, which is more than the noise that identification can see through.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray

from romzarr.contracts import Matrix
from romzarr.neural import mlp
from romzarr.neural.operations import Operation
from romzarr.neural.verdicts import FALLEN, Trained, Verdict
from romzarr.numerics.dynamics.networks import Network, Operator

HIDDEN = (128, 128)
RATE = 1e-3
WARM_UP, CONSTANT, UNDECAYED = 0.01, 0.6, 0.8  # shares of the epochs
VALIDATION_POINTS = 400
TEST_POINTS = 2500
DENSE_POINTS = {1: 256, 2: 784}
FINISH_STEPS = 120
ADAM = optax.scale_by_adam()


@dataclass(frozen=True)
class _Group:
    """Operations of the same shapes: their networks are one batch of operations x seeds."""

    operations: tuple[Operation, ...]
    seeds: int
    samples: tuple[Matrix, Matrix]  # inputs (g, s, n, d), targets (g, s, n), both scaled
    validation: tuple[Matrix, Matrix]  # (g, v, d), (g, v)
    scales: tuple[float, ...]  # of each operation's output

    @property
    def first(self) -> Operation:
        return self.operations[0]


def train(
    operations: Sequence[Operation],
    *,
    epochs: int = 20_000,
    seeds: int = 4,
    seed: int = 0,
    finish: bool = True,
    hidden: tuple[int, ...] = HIDDEN,
    curve_points: int = 400,
) -> Trained:
    """Train `seeds` networks of each operation; runs on the default device of JAX.

    Parameters
    ----------
    operations : sequence of Operation
    epochs : int
        Steps on the full batch.
    seeds : int
        Networks of each operation, of different samples and initial weights.
    seed : int
        From which all others follow.
    finish : bool
        Whether the best network of each operation is finished by Gauss-Newton steps.
    hidden : tuple of int
        Units of the hidden layers.
    curve_points : int
        Points of the learning curves, evenly spread over the epochs.
    """
    started = time.process_time()
    rng = np.random.default_rng(seed)
    groups = _groups(operations, seeds, rng)
    every = max(1, epochs // curve_points)
    keys = jax.random.split(jax.random.PRNGKey(seed), len(groups))
    run = jax.jit(lambda keys: _run(groups, keys, hidden, epochs, every))
    trained, curves = jax.block_until_ready(run(keys))
    networks, training, validation = {}, {}, {}
    for group, parameters, (fit, held) in zip(groups, trained, curves, strict=True):
        for k, operation in enumerate(group.operations):
            own = [
                jax.tree.map(lambda leaf, k=k, s=s: leaf[k, s], parameters) for s in range(seeds)
            ]
            networks[operation.name] = [(each, group.scales[k]) for each in own]
            training[operation.name] = np.sqrt(np.asarray(fit[:, k], np.float64)).T
            validation[operation.name] = np.sqrt(np.asarray(held[:, k], np.float64)).T
    at = every * (1 + np.arange(next(iter(training.values())).shape[1]))
    operators, verdicts = [], {}
    for operation in operations:
        curves_of = (at, training[operation.name], validation[operation.name])
        operator, found = _judged(operation, networks[operation.name], curves_of, finish, rng)
        operators.append(operator)
        verdicts[operation.name] = found
    return Trained(
        tuple(operators), verdicts, at, training, validation, time.process_time() - started
    )


def _groups(
    operations: Sequence[Operation], seeds: int, rng: np.random.Generator
) -> tuple[_Group, ...]:
    by_shape: dict[tuple[Any, ...], list[Operation]] = {}
    for each in operations:
        shape = (each.arguments, each.activation, each.samples)
        settings = (each.initial_scale, each.weight_decay)
        by_shape.setdefault((*shape, *settings), []).append(each)
    return tuple(_group(tuple(alike), seeds, rng) for alike in by_shape.values())


def _group(operations: tuple[Operation, ...], seeds: int, rng: np.random.Generator) -> _Group:
    scales = tuple(float(np.std(each(each.grid(TEST_POINTS)))) for each in operations)
    inputs = [[each.stratified(each.samples, rng) for _ in range(seeds)] for each in operations]
    targets = [
        [each(x) / scale for x in own]
        for each, own, scale in zip(operations, inputs, scales, strict=True)
    ]
    held = [each.stratified(VALIDATION_POINTS, rng) for each in operations]
    held_targets = [
        each(x) / scale for each, x, scale in zip(operations, held, scales, strict=True)
    ]
    widths = np.array([input_scale(each) for each in operations])
    return _Group(
        operations,
        seeds,
        (np.array(inputs) * widths[:, None, None, None], np.array(targets)),
        (np.array(held) * widths[:, None, None], np.array(held_targets)),
        scales,
    )


def input_scale(operation: Operation) -> float:
    """What arguments are multiplied by: waves get pi at the end of their range, others 1."""
    return (math.pi if operation.activation == "tanh" else 1.0) / operation.reach


def _run(
    groups: Sequence[_Group], keys: Any, hidden: tuple[int, ...], epochs: int, every: int
) -> Any:
    """Parameters of each group (leaves: operations, seeds, ...), and curves (c, g, s)."""

    def epoch_of_all(states: Any, epoch: Any) -> Any:
        share = epoch / epochs
        results = [_step(group, s, share) for group, s in zip(groups, states, strict=True)]
        return tuple(r[0] for r in results), tuple(r[1] for r in results)

    def piece(states: Any, number: Any) -> Any:
        states, values = jax.lax.scan(epoch_of_all, states, number * every + jnp.arange(every))
        last = tuple(v[-1] for v in values)
        kept = tuple(_held(g, s[0]) for g, s in zip(groups, states, strict=True))
        return states, tuple(zip(last, kept, strict=True))

    states = tuple(_start(group, key, hidden) for group, key in zip(groups, keys, strict=True))
    states, curves = jax.lax.scan(piece, states, jnp.arange(epochs // every))
    return tuple(s[0] for s in states), curves


def _start(group: _Group, key: Any, hidden: tuple[int, ...]) -> Any:
    """Initial parameters and moments of all operations and seeds of a group."""
    widths = (group.first.arguments, *hidden, 1)
    keys = jax.random.split(key, (len(group.operations), group.seeds))
    make = jax.vmap(jax.vmap(lambda k: mlp.initial(k, widths, group.first.initial_scale)))
    parameters = make(keys)
    return parameters, jax.vmap(jax.vmap(ADAM.init))(parameters)


def _loss(parameters: Any, x: Any, y: Any, activation: str) -> Any:
    return jnp.mean((mlp.apply(parameters, x, activation)[:, 0] - y) ** 2)


def _step(group: _Group, state: Any, share: Any) -> Any:
    """One step of AdamW for all operations and seeds, and the losses before it."""
    x, y = (jnp.asarray(part, jnp.float32) for part in group.samples)
    rate, decay = RATE * _rate(share), group.first.weight_decay * _decay(share)

    def one(p: Any, moments: Any, x: Any, y: Any) -> Any:
        value, gradient = jax.value_and_grad(_loss)(p, x, y, group.first.activation)
        update, moments = ADAM.update(gradient, moments, p)
        shrink = [{"w": decay * layer["w"], "b": 0.0 * layer["b"]} for layer in p]
        new = jax.tree.map(lambda a, b, c: a - rate * (b + c), p, update, shrink)
        return new, moments, value

    each: Any = jax.vmap(jax.vmap(one))
    parameters, moments, value = each(*state, x, y)
    return (parameters, moments), value


def _held(group: _Group, parameters: Any) -> Any:
    """Losses on the validation samples, (operations, seeds)."""
    x, y = (jnp.asarray(part, jnp.float32) for part in group.validation)
    over_seeds = jax.vmap(
        lambda p, x, y: _loss(p, x, y, group.first.activation), in_axes=(0, None, None)
    )
    return jax.vmap(over_seeds)(parameters, x, y)


def _rate(share: Any) -> Any:
    """Learning rate at a share of the epochs, in units of the largest."""
    falling = 0.5 * (1 + jnp.cos(jnp.pi * (share - CONSTANT) / (1 - CONSTANT)))
    return jnp.minimum(1.0, share / WARM_UP) * jnp.where(share < CONSTANT, 1.0, falling + 1e-5)


def _decay(share: Any) -> Any:
    """Weight decay at a share of the epochs, in units of the largest."""
    return jnp.clip((UNDECAYED - share) / (UNDECAYED - CONSTANT), 0.0, 1.0)


def _judged(
    operation: Operation,
    networks: Sequence[tuple[Any, float]],
    curves: tuple[NDArray[np.int64], Matrix, Matrix],
    finish: bool,
    rng: np.random.Generator,
) -> tuple[Operator, tuple[Verdict, ...]]:
    """The network that validates best, finished if asked for, and what became of each seed."""
    at, training, validation = curves
    verdicts, made = [], []
    for s, (parameters, scale) in enumerate(networks):
        network = mlp.to_network(parameters, operation.activation, input_scale(operation), scale)
        made.append(network)
        error, outside = errors_of(network, operation)
        verdicts.append(
            Verdict(
                operation.name,
                s,
                _first_below(at, training[s]),
                _first_below(at, validation[s]),
                float(training[s, -1]),
                float(validation[s, -1]),
                error,
                error,
                outside,
            )
        )
    best = int(np.argmin(validation[:, -1]))
    network = made[best]
    if finish:
        network = finished(operation, *networks[best], rng)
        error, outside = errors_of(network, operation)
        verdicts[best] = replace(verdicts[best], error=error, outside=outside)
    size = float(np.std(operation(operation.grid(TEST_POINTS))))
    rms = float(f"{errors_of(network, operation)[0] * size:.3g}")
    operator = Operator(operation.name, network, operation.reach, rms, operation.formula)
    return operator, tuple(verdicts)


def _first_below(at: NDArray[np.int64], errors: Matrix) -> int | None:
    below = np.flatnonzero(errors < FALLEN)
    return int(at[below[0]]) if len(below) else None


def errors_of(network: Network, operation: Operation) -> tuple[float, float]:
    """RMS error over the range and just outside of it, over the output's standard deviation."""
    inside = operation.grid(TEST_POINTS)
    size = np.std(operation(inside))
    wider = 1.5 * operation.grid(4 * TEST_POINTS)
    wider = wider[np.max(np.abs(wider), axis=1) > operation.reach]

    def rms(x: Matrix) -> float:
        return float(np.sqrt(np.mean((network(x) - operation(x)) ** 2)) / size)

    return rms(inside), rms(wider)


def finished(
    operation: Operation, parameters: Any, scale: float, rng: np.random.Generator
) -> Network:
    """The network after damped Gauss-Newton steps on a dense set, in float64.

    There are fewer samples than weights, so each step is that of least length which makes the
    residual r vanish to first order: ``J.T (J J.T + damping)^-1 r`` (J. Nocedal, S. J. Wright,
    "Numerical Optimization", 2nd ed., section 10.3, written for the smaller of the two sides).
    """
    points = DENSE_POINTS[operation.arguments]
    # Half on a grid with its ends, where random points alone would leave a margin unseen.
    x = np.concatenate([operation.grid(points // 2), operation.stratified(points // 2, rng)])
    y = operation(x) / scale
    with jax.enable_x64(True):
        inputs = jnp.asarray(x * input_scale(operation))
        start = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), parameters)
        flat, unflatten = jax.flatten_util.ravel_pytree(start)

        def value(p: Any, one: Any) -> Any:
            return mlp.apply(unflatten(p), one[None], operation.activation)[0, 0]

        residuals = jax.jit(lambda p: jnp.asarray(y) - jax.vmap(value, (None, 0))(p, inputs))
        jacobian = jax.jit(jax.vmap(jax.grad(value), (None, 0)))
        damping, r = 1e-3, residuals(flat)
        gram: Matrix | None = None
        for _ in range(FINISH_STEPS):
            if gram is None:
                j = jacobian(flat, inputs)
                gram = np.asarray(j @ j.T)
            ridge = damping * np.trace(gram) / len(gram) * np.eye(len(gram))
            trial = flat + j.T @ jnp.asarray(np.linalg.solve(gram + ridge, np.asarray(r)))
            new = residuals(trial)
            if jnp.sum(new**2) < jnp.sum(r**2):
                flat, r, damping, gram = trial, new, damping / 4, None
            else:
                damping *= 8
        best = jax.tree.map(np.asarray, unflatten(flat))
    return mlp.to_network(best, operation.activation, input_scale(operation), scale)

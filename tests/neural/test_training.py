"""Short trainings: one compiled run, the same for the same seed, read back by NumPy alone."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from romzarr.errors import LibraryError
from romzarr.neural.operations import OPERATIONS, operations, own_operation
from romzarr.numerics.dynamics.networks import read_operators, shipped_operators

SHORT = {"epochs": 400, "seeds": 2, "hidden": (24, 24), "curve_points": 40}


@pytest.fixture(scope="module")
def trained(jax):
    from romzarr.neural.training import train

    return train(operations(("identity", "sin", "add")), **SHORT)


def test_every_operation_and_seed_gets_a_verdict_and_curves(trained):
    assert [o.name for o in trained.operators] == ["identity", "sin", "add"]
    for name in trained.verdicts:
        assert trained.training[name].shape == trained.validation[name].shape == (2, 40)
        assert [v.seed for v in trained.verdicts[name]] == [0, 1]
        # The loss of 400 epochs is far below where it began.
        assert (trained.training[name][:, -1] < 0.5 * trained.training[name][:, 0]).all()
    assert_array_equal(trained.epochs, np.arange(10, 401, 10))


def test_finished_networks_are_far_more_accurate(trained):
    for name in ("identity", "add"):
        verdict = trained.best(name)
        assert verdict.error < 0.2 * verdict.unfinished


def test_the_error_of_the_file_is_that_of_the_network(trained):
    x = np.random.default_rng(0).uniform(-5, 5, (5000, 1))
    identity = trained.operators[0]
    measured = np.sqrt(np.mean((identity.network(x)[:] - x[:, 0]) ** 2))
    assert measured == pytest.approx(identity.error, rel=0.2)


def test_the_same_seed_trains_the_same_networks(jax, trained):
    from romzarr.neural.training import train

    again = train(operations(("identity", "sin", "add")), **SHORT, finish=False)
    other = train(operations(("identity",)), **SHORT, finish=False, seed=1)
    assert_array_equal(again.training["sin"], trained.training["sin"])
    assert not np.array_equal(other.training["identity"], trained.training["identity"])


def test_files_are_read_without_a_framework(trained, tmp_path):
    pytest.importorskip("safetensors", reason="romzarr[neural] is not installed")
    from romzarr.neural.files import save_curves, save_operators

    save_operators(tmp_path / "o.safetensors", trained.operators, "a test")
    assert read_operators((tmp_path / "o.safetensors").read_bytes()) == trained.operators
    save_curves(tmp_path / "c.safetensors", trained, "a test")
    from safetensors.numpy import load_file

    assert_array_equal(load_file(tmp_path / "c.safetensors")["epochs"], trained.epochs)


@pytest.mark.parametrize("activation", ["tanh", "relu", "gelu"])
def test_jax_and_numpy_agree(jax, activation):
    from romzarr.neural import mlp

    parameters = mlp.initial(jax.random.PRNGKey(0), (2, 9, 7, 1), 1.5)
    x = np.random.default_rng(0).standard_normal((20, 2)).astype(np.float32)
    network = mlp.to_network(parameters, activation, 0.5, 3.0)
    expected = 3.0 * np.asarray(mlp.apply(parameters, 0.5 * x, activation))[:, 0]
    assert_allclose(network(x.astype(float)), expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: o.name)
def test_samples_lie_in_the_range_one_in_each_cell(operation):
    rng = np.random.default_rng(0)
    x = operation.stratified(operation.samples, rng)
    assert x.shape == (operation.samples, operation.arguments)
    side = round(operation.samples ** (1 / operation.arguments))
    cells = np.floor((x / operation.reach + 1) / 2 * side).astype(int)
    assert len({tuple(cell) for cell in cells.tolist()}) == side**operation.arguments
    grid = operation.grid(100)
    assert np.abs(grid).max() == pytest.approx(operation.reach)
    value = {"x + y": lambda a: a.sum(axis=1), "x*y": lambda a: a.prod(axis=1)}.get(
        operation.formula, lambda a: np.vectorize(getattr(math, operation.name, float))(a[:, 0])
    )
    assert_allclose(operation(grid), value(grid), atol=1e-12)


def test_what_ships_is_what_the_operations_ask_for():
    for operation, operator in zip(OPERATIONS, shipped_operators(), strict=True):
        assert (operation.name, operation.formula, operation.reach, operation.activation) == (
            operator.name, operator.formula, operator.reach, operator.network.activation,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "name", "formula", "arguments", "activation"),
    [
        ("tanh(x)", "tanh", "tanh(x)", 1, "tanh"),
        ("cube = x**3", "cube", "x**3", 1, "gelu"),
        ("x*sin(y)", "x_sin_y", "x * sin(y)", 2, "tanh"),
        ("x/(1 + x**2)", "x_1_x_2", "x / (1 + x**2)", 1, "gelu"),
        ("x**2 - y**2", "x_2_y_2", "x**2 - y**2", 2, "gelu"),
    ],
)
def test_operations_of_a_users_own(text, name, formula, arguments, activation):
    found = own_operation(text, reach=2.0)
    assert (found.name, found.formula, found.arguments) == (name, formula, arguments)
    assert (found.reach, found.activation) == (2.0, activation)
    x = found.grid(100)
    by_name = {"x": x[:, 0], "y": x[:, -1], "sin": np.sin, "tanh": np.tanh}
    assert_allclose(found(x), eval(formula, {}, by_name), atol=1e-12)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("__import__('os')", "not allowed"),
        ("z + 1", "not allowed"),
        ("x.real", "not allowed"),
        ("y**2", "no argument x"),
        ("3", "no argument x"),
        ("x - x", "constant"),
        ("log(x)", "not finite"),
        ("inverse=1/x", "not finite"),
        ("2*x", "needs a name"),
        ("a b=x", "needs a name"),
    ],
)
def test_operations_that_cannot_be_learned_are_refused(text, why):
    with pytest.raises(LibraryError, match=why):
        own_operation(text)
    with pytest.raises(LibraryError, match="reach"):
        own_operation("tanh(x)", reach=0.0)

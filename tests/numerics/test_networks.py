"""Networks in NumPy: values, the file of weights, and what is refused of it."""

import base64
import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from romzarr.errors import LibraryError
from romzarr.numerics.dynamics.networks import (
    MAX_WIDTH,
    ROWS,
    Network,
    Operator,
    operator_from_spec,
    read_operators,
    shipped_operators,
)

FUNCTIONS = {
    "identity": lambda x: x[:, 0],
    "sin": lambda x: np.sin(x[:, 0]),
    "cos": lambda x: np.cos(x[:, 0]),
    "add": lambda x: x[:, 0] + x[:, 1],
    "mul": lambda x: x[:, 0] * x[:, 1],
}
# Of the output's standard deviation, as the operators were asked to be.
ALLOWED = {"identity": 1e-3, "sin": 1e-2, "cos": 1e-2, "add": 1e-3, "mul": 1e-2}


def network(rng, widths=(2, 5, 4, 1), activation="tanh"):
    layers = [
        (rng.standard_normal((n, k)).astype(np.float32), rng.standard_normal(k).astype(np.float32))
        for n, k in pairwise(widths)
    ]
    return Network(tuple(layers), activation)


def operator(rng, **changes):
    values = {"name": "own", "network": network(rng), "reach": 2.0, "error": 0.1, "formula": ""}
    return Operator(**(values | changes))


@pytest.mark.parametrize("shipped", shipped_operators(), ids=lambda o: o.name)
def test_shipped_operators_are_what_they_are_called(shipped):
    rng = np.random.default_rng(7)  # points that nobody has seen
    x = shipped.reach * rng.uniform(-1, 1, (20_000, shipped.arguments))
    truth = FUNCTIONS[shipped.name](x)
    error = np.sqrt(np.mean((shipped.network(x) - truth) ** 2))
    assert error <= ALLOWED[shipped.name] * np.std(truth)
    # What the file says of it is what selection reckons with.
    assert error <= 1.5 * shipped.error
    assert shipped.reach >= (6.28 if shipped.name in ("sin", "cos") else 5.0)


def test_the_five_operators_ship():
    assert [o.name for o in shipped_operators()] == list(FUNCTIONS)
    assert {o.network.widths[1:3] for o in shipped_operators()} == {(128, 128)}


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from(["tanh", "relu", "gelu"]),
    st.lists(st.integers(1, 6), min_size=1, max_size=3),
    st.integers(0, 2**32 - 1),
)
def test_values_are_those_of_a_loop_over_units(activation, hidden, seed):
    rng = np.random.default_rng(seed)
    made = network(rng, (2, *hidden, 1), activation)
    x = rng.standard_normal((3, 2))
    phi = {
        "tanh": np.tanh,
        "relu": lambda v: max(v, 0.0),
        "gelu": lambda v: 0.5 * v * (1 + np.tanh(0.7978845608028654 * (v + 0.044715 * v**3))),
    }[activation]
    for row, value in zip(x, made(x), strict=True):
        units = [float(v) for v in row]
        for k, (w, b) in enumerate(made.layers):
            if k:
                units = [phi(u) for u in units]
            units = [
                float(b[j]) + sum(float(w[i, j]) * u for i, u in enumerate(units))
                for j in range(w.shape[1])
            ]
        assert value == pytest.approx(units[0], rel=1e-12, abs=1e-12)


def test_many_rows_are_evaluated_as_few_are():
    rng = np.random.default_rng(0)
    made, x = network(rng), rng.standard_normal((2 * ROWS + 3, 2))
    assert_allclose(made(x)[::501], made(x[::501]), rtol=1e-12)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 8), min_size=1, max_size=3), st.integers(0, 2**32 - 1))
def test_packed_numbers_make_an_equal_network(hidden, seed):
    made = network(np.random.default_rng(seed), (1, *hidden, 1), "gelu")
    again = Network.unpack(made.packed(), made.widths, made.activation)
    assert again == made
    assert hash(again) == hash(made)
    assert made != Network.unpack(made.packed(), made.widths, "tanh")


def test_a_shipped_operator_is_named_and_another_carried():
    shipped = shipped_operators()[0]
    assert set(shipped.spec()) == {"name", "checksum"}
    own = operator(np.random.default_rng(0), formula="x*y")
    for each in (shipped, own):
        assert operator_from_spec(json.loads(json.dumps(each.spec()))) == each


def changed(**changes):
    spec = operator(np.random.default_rng(0)).spec()
    return {key: value for key, value in (spec | changes).items() if value != "DELETE"}


@pytest.mark.parametrize(
    "spec",
    [
        None,
        [],
        {"name": "sin", "checksum": "0" * 16},
        {"name": "sin", "checksum": None},
        {"name": "exec", "checksum": "0"},
        {"name": ["sin"], "checksum": "0"},
        changed(weights="DELETE"),
        changed(more=1),
        changed(name="a b"),
        changed(name="x" * 100),
        changed(name=3),
        changed(weights="???"),
        changed(weights=3),
        changed(weights=""),
        changed(widths=[2, 5, 4]),
        changed(widths=[3, 5, 4, 1]),
        changed(widths=[2, 5, 1, 1, 1, 1, 1]),
        changed(widths=[2, MAX_WIDTH + 1, 1]),
        changed(widths=[2, 10**12, 1]),
        changed(widths=[2, -5, 1]),
        changed(widths=[2, 5.0, 4, 1]),
        changed(widths="2541"),
        changed(activation="exec"),
        changed(activation=["tanh"]),
        changed(reach=-1.0),
        changed(reach=float("nan")),
        changed(reach=True),
        changed(error="small"),
        changed(formula="__import__('os')"),
        changed(formula="z"),
        changed(formula=3),
    ],
)
def test_hostile_operators_are_refused(spec):
    with pytest.raises(LibraryError):
        operator_from_spec(spec)


def test_weights_that_are_not_finite_are_refused():
    made = network(np.random.default_rng(0))
    made.layers[0][0][0, 0] = np.inf
    spec = changed(weights=base64.b64encode(made.packed()).decode())
    with pytest.raises(LibraryError, match="not finite"):
        operator_from_spec(spec)


def weights_file(header=None, tensors=b"\0" * 12, length=None, **changes):
    facts = {"widths": [2, 1], "activation": "tanh", "reach": 1.0, "error": 0.0, "formula": ""}
    tensor = {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]} | changes
    described = {"__metadata__": {"operators": json.dumps({"own": facts})}, "own": tensor}
    text = json.dumps(described if header is None else header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + tensors


def test_a_file_of_weights_is_read():
    (made,) = read_operators(weights_file())
    assert (made.name, made.network.widths, made.arguments) == ("own", (2, 1), 2)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"12345",
        weights_file(length=2**60),
        weights_file(length=10**6),
        weights_file(header=[]),
        weights_file(header={}),
        weights_file(header={"__metadata__": 3}),
        weights_file(header={"__metadata__": {"operators": "[" * 10**5}}),
        weights_file(header={"__metadata__": {"operators": '{"own": {}}'}}),
        weights_file(header={"__metadata__": {"operators": "{}"}}),
        weights_file(tensors=b""),
        weights_file(dtype="F64"),
        weights_file(data_offsets=[0, 2**40]),
        weights_file(data_offsets=[-12, 0]),
        weights_file(data_offsets=[0, 8]),
        weights_file(data_offsets=[0.0, 12.0]),
        weights_file(data_offsets="12"),
    ],
)
def test_damaged_files_of_weights_are_refused(data):
    with pytest.raises(LibraryError):
        read_operators(data)


def test_the_safetensors_package_reads_the_shipped_file():
    safetensors = pytest.importorskip("safetensors", reason="romzarr[neural] is not installed")
    from importlib.resources import as_file, files

    with (
        as_file(files("romzarr.numerics.dynamics").joinpath("operators.safetensors")) as path,
        safetensors.safe_open(path, framework="numpy") as file,
    ):
        assert sorted(file.keys()) == sorted(FUNCTIONS)
        assert "romzarr neural train" in file.metadata()["command"]
        for each in shipped_operators():
            assert file.get_tensor(each.name).tobytes() == each.network.packed()

"""``romzarr neural``: pages and pictures of runs, formulas, and what is missing is said."""

import sys

import pytest

from romzarr.errors import LibraryError
from romzarr.numerics.dynamics.networks import read_operators
from romzarr_flows.cli import main

MATPLOTLIB = "romzarr[plot] is not installed"


def test_a_run_leaves_a_page_and_a_picture(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason=MATPLOTLIB)
    where = tmp_path / "out"
    assert main(["neural", "run", "best", "--seeds", "2", "--directory", str(where)]) == 0
    page = (where / "run-best.md").read_text()
    assert "exactly right in 2 of 2 seeds" in page
    assert "| identity(a2) | -0.1 |" in page
    assert "add(a1, a2) = identity(a1) + identity(a2)" in page
    assert (where / "run-best.png").read_bytes().startswith(b"\x89PNG")
    assert page in capsys.readouterr().out


def test_formulas_are_printed(capsys):
    assert main(["neural", "distill"]) == 0
    out = capsys.readouterr().out
    assert "| mul | x*y | " in out


def test_a_file_that_holds_no_weights_is_named(tmp_path, capsys):
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"nothing of the kind")
    assert main(["neural", "distill", "--weights", str(path)]) == 1
    assert str(path) in capsys.readouterr().err
    assert issubclass(LibraryError, ValueError)


def test_training_leaves_weights_curves_a_page_and_a_picture(tmp_path, capsys):
    for package in ("jax", "optax", "safetensors"):
        pytest.importorskip(package, reason="romzarr[neural] is not installed")
    pytest.importorskip("matplotlib", reason=MATPLOTLIB)
    arguments = ["--epochs", "200", "--seeds", "1", "--operators", "identity", "--unfinished"]
    assert main(["neural", "train", *arguments, "--directory", str(tmp_path)]) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"operators.safetensors", "curves.safetensors", "training.md", "training.png"}
    capsys.readouterr()
    # 200 epochs do not make an identity.
    assert main(["neural", "distill", "--weights", str(tmp_path / "operators.safetensors")]) in (
        0,
        1,
    )


def test_a_missing_framework_is_named_with_its_extra(tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib", reason=MATPLOTLIB)
    monkeypatch.setitem(sys.modules, "romzarr.neural.router", None)
    monkeypatch.setitem(sys.modules, "jax", None)
    assert main(["neural", "run", "3", "--seeds", "1", "--directory", str(tmp_path)]) == 1
    assert "pip install 'romzarr[neural]'" in capsys.readouterr().err


def test_a_run_takes_system_parameters_noise_and_seed(tmp_path):
    pytest.importorskip("matplotlib", reason=MATPLOTLIB)
    options = "--system duffing --k 2 --c 0 --x0 1.5 --dt 0.04 --length 500 --noise 0.001"
    where = ["--seeds", "1", "--seed", "7", "--directory", str(tmp_path)]
    assert main(["neural", "run", "best", *options.split(), *where]) == 0
    page = (tmp_path / "run-best-duffing.md").read_text()
    assert "0.1 % of each state's rms" in page
    assert "exactly right in 1 of 1 seeds" in page
    assert "| identity(a1) | -2 |" in page
    assert "| identity(a2) | 0 |" in page.split("## a2'")[1]


def test_an_operator_of_a_users_own_is_trained_and_chosen_from(tmp_path):
    for package in ("jax", "optax", "safetensors"):
        pytest.importorskip(package, reason="romzarr[neural] is not installed")
    pytest.importorskip("matplotlib", reason=MATPLOTLIB)
    arguments = ["--epochs", "200", "--seeds", "1", "--unfinished", "--directory", str(tmp_path)]
    own = ["--operator", "tanh(x)", "--operator", "cube=x**3", "--reach", "3"]
    assert main(["neural", "train", *own, *arguments]) == 0
    weights = tmp_path / "operators.safetensors"
    operators = {each.name: each for each in read_operators(weights.read_bytes())}
    assert list(operators) == ["identity", "sin", "cos", "add", "mul", "tanh", "cube"]
    assert operators["cube"].formula == "x**3"
    assert operators["tanh"].reach == 3.0
    page = (tmp_path / "training.md").read_text()
    assert "--operator 'tanh(x)' --operator 'cube=x**3' --reach 3" in page
    run = ["neural", "run", "best", "--seeds", "1", "--weights", str(weights)]
    assert main([*run, "--directory", str(tmp_path)]) == 0
    assert "| tanh(a1) | 0 |" in (tmp_path / "run-best.md").read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "best", "--seeds", "0"],
        ["run", "best", "--sigma", "-1"],
        ["run", "best", "--noise", "-1"],
        ["run", "best", "--length", "10"],
        ["run", "best", "--dt", "0"],
        ["train", "--operator", "x", "--operator", "x=x"],
        ["train", *(word for k in range(12) for word in ("--operator", f"own{k}=x**{k + 1}"))],
    ],
)
def test_settings_out_of_range_are_refused(arguments, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason=MATPLOTLIB)
    assert main(["neural", *arguments, "--directory", str(tmp_path)]) == 2

"""Stores whose library is neural: written, decoded and described without a network framework."""

import json
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

import romzarr
from romzarr.config import Config, LibraryConfig
from romzarr.errors import ConfigError, LibraryError
from romzarr.numerics.dynamics.networks import shipped_operators
from romzarr.store.reading.reader import open_store
from tests.oracles import decoded_errors
from tests.systems_of_odes import LINEAR_OSCILLATOR

NEURAL = Config(library=LibraryConfig(kind="neural", operators=("identity", "sin", "mul")))


def archive():
    times, states = LINEAR_OSCILLATOR.record(400)
    lift = np.linalg.qr(np.random.default_rng(0).standard_normal((200, 2)))[0]
    return xr.Dataset({"u": (("time", "x"), states @ lift.T)}, {"time": times})


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("neural") / "store"
    romzarr.compress(archive(), path, config=NEURAL)
    return path


def test_a_store_with_a_neural_library_keeps_its_bound_and_needs_no_framework(store):
    assert max(decoded_errors(archive(), xr.open_dataset(store, engine="romzarr")).values()) <= 1e-2
    script = (
        "import sys, xarray as xr\n"
        f"xr.open_dataset({str(store)!r}, engine='romzarr').load()\n"
        "assert not {'jax', 'optax', 'safetensors', 'equinox'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_model_is_used_and_the_spec_is_small(store):
    assert romzarr.info(store).kept_samples < 20
    facts = open_store(store).last.facts
    assert facts["model"]["library"]["kind"] == "neural"
    assert len(json.dumps(facts["model"]["library"])) < 1000


def test_equations_are_printed_with_formulas(store):
    text = romzarr.equations(store).text()
    assert "identity(a" in text
    formulas = text.split("replaced by the formula")[1]
    assert "identity" not in formulas.split("left out")[0]
    assert "mathrm{identity}" in romzarr.equations(store).latex()


def test_own_weights_travel_in_the_store(tmp_path):
    from tests.numerics.test_networks import weights_file

    # One linear layer, so an operator of its own that is exactly the identity.
    numbers = np.array([1.0, 0.0], "<f4").tobytes()
    facts = {"widths": [1, 1], "activation": "tanh", "reach": 5.0, "error": 0.0, "formula": "x"}
    header = {
        "__metadata__": {"operators": json.dumps({"line": facts})},
        "line": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    }
    path = tmp_path / "w.safetensors"
    path.write_bytes(weights_file(header=header, tensors=numbers))
    library = LibraryConfig(kind="neural", operators=("line",), weights=str(path))
    romzarr.compress(archive(), tmp_path / "store", config=Config(library=library))
    path.unlink()
    decoded = xr.open_dataset(tmp_path / "store", engine="romzarr")
    assert max(decoded_errors(archive(), decoded).values()) <= 1e-2
    assert "line(a" in romzarr.equations(tmp_path / "store").text()


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"operators": ("tan",)}, LibraryError, "no operator is called tan; there are identity"),
        ({"weights": "/nowhere/w.safetensors"}, ConfigError, r"library\.weights: /nowhere/w"),
    ],
)
def test_wrong_settings_are_refused_before_the_archive_is_opened(settings, error, words, tmp_path):
    config = Config(library=LibraryConfig(kind="neural", **settings))
    with pytest.raises(error, match=words):
        romzarr.compress(tmp_path / "nowhere.zarr", tmp_path / "store", config=config)


def test_the_default_operators_are_those_that_ship_without_the_dependent_one():
    shipped = [o.name for o in shipped_operators()]
    assert list(LibraryConfig().operators) == [name for name in shipped if name != "add"]

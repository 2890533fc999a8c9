"""Stores of many small variables: what they have in common is stored once."""

import json
import re

import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose

import romzarr
from romzarr.errors import StoreError
from tests.store.test_format_page import PAGE

VARIABLES, SNAPSHOTS = 60, 80


@pytest.fixture(scope="module")
def sensors():
    """Waves at many places, each of which is a variable."""
    rng, t = np.random.default_rng(0), np.arange(SNAPSHOTS)
    waves = np.stack([np.sin(0.1 * t), np.cos(0.1 * t), np.sin(0.23 * t)])
    values = 5 + rng.standard_normal((VARIABLES, 3)) @ waves
    values += 1e-4 * rng.standard_normal(values.shape)
    return xr.Dataset({f"sensor_{k}": ("time", each) for k, each in enumerate(values)})


@pytest.fixture(scope="module")
def store(sensors, tmp_path_factory):
    path = tmp_path_factory.mktemp("many") / "s"
    romzarr.compress(sensors, path)
    return path


def test_long_facts_are_in_an_array(store):
    (generation,) = store.glob("2*")
    attribute = json.loads((generation / "zarr.json").read_text())["attributes"]["romzarr"]
    assert set(attribute) == {"arrays"}
    plain = len(json.dumps(romzarr.info(store).to_dict()))
    assert (generation / "facts/c/0").stat().st_size < plain / 2


def test_every_variable_is_within_the_bound(sensors, store):
    found = xr.open_dataset(store, engine="romzarr")
    assert list(found.data_vars) == list(sensors.data_vars)
    for name, source in sensors.data_vars.items():
        error = np.linalg.norm(found[name] - source)
        assert error <= 1e-2 * np.linalg.norm(source - source.mean())


def test_the_snippet_of_the_format_decodes_it(sensors, store):
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    decoded = xr.open_dataset(store, engine="romzarr")
    for name in ("sensor_0", f"sensor_{VARIABLES - 1}"):
        scope = {"store": store, "name": name}
        exec(snippet, scope)
        assert_allclose(scope["values"], decoded[name], rtol=1e-6)


def test_damaged_facts_are_refused(sensors, tmp_path):
    romzarr.compress(sensors, tmp_path / "s")
    (chunk,) = (tmp_path / "s").glob("2*/facts/c/0")
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(StoreError, match="facts/c/0"):
        romzarr.info(tmp_path / "s")
    chunk.unlink()
    with pytest.raises(StoreError, match="facts/c/0: is missing"):
        romzarr.info(tmp_path / "s")

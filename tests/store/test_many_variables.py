"""Stores of many small variables: what they have in common is stored once."""

import json
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import romzarr
from romzarr.errors import StoreError
from romzarr.store.reading.reader import open_store
from tests.forgery import metadata_of, put_metadata, sign_metadata
from tests.format_page import decoded_by_hand

VARIABLES, SNAPSHOTS = 90, 80


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


def test_long_facts_are_compressed(store):
    (generation,) = store.glob("2*")
    plain = len(json.dumps(romzarr.info(store).to_dict()))
    assert (generation / "zarr.json").stat().st_size < plain / 2


def test_every_variable_is_within_the_bound(sensors, store):
    found = xr.open_dataset(store, engine="romzarr")
    assert list(found.data_vars) == list(sensors.data_vars)
    for name, source in sensors.data_vars.items():
        error = np.linalg.norm(found[name] - source)
        assert error <= 1e-2 * np.linalg.norm(source - source.mean())


def test_the_snippet_of_the_format_decodes_it(sensors, store):
    decoded = xr.open_dataset(store, engine="romzarr")
    for name in ("sensor_0", f"sensor_{VARIABLES - 1}"):
        assert_allclose(decoded_by_hand(store, name), decoded[name], rtol=1e-6)


def test_fields_of_few_points_share_an_array(sensors, store):
    """As large as those of one variable with all the points, but for what each needs."""
    one = xr.Dataset({"u": (("time", "x"), np.stack(list(sensors.values()), axis=1))})
    romzarr.compress(one, store.parent / "one")
    assert not list(store.glob("2*/basis/sensor_*"))
    assert len(list(store.glob("2*/shared/fields/c/*/*"))) == 1
    alone = romzarr.info(store.parent / "one").stored_bytes
    assert romzarr.info(store).stored_bytes <= alone + 40 * VARIABLES
    shared, own = (open_store(store.parent / name) for name in ("s", "one"))
    assert shared.parts[-1].rank == own.parts[-1].rank


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("column", VARIABLES, "needs 4 fields and 91 columns"),
        ("column", -1, "'column' must be from 0"),
        ("step", 0.0, "'step' must be positive"),
        ("step", "1", "'step' must be a number"),
        ("step", 1e300, "not finite|largest"),
    ],
)
def test_a_forged_place_in_shared_fields_is_refused(sensors, tmp_path, key, value, message):
    few = sensors[[f"sensor_{k}" for k in range(20)]]
    romzarr.compress(few, tmp_path / "s")
    (generation,) = (tmp_path / "s").glob("2*")
    document = metadata_of(generation)
    document["attributes"]["romzarr"]["variables"]["sensor_3"][key] = value
    put_metadata(generation, document)
    sign_metadata(tmp_path / "s")
    with pytest.raises(StoreError, match=message):
        xr.open_dataset(tmp_path / "s", engine="romzarr")["sensor_3"].load()


@given(
    points=st.lists(st.integers(1, 20), min_size=1, max_size=12), dtype=st.sampled_from("fd"),
    tolerance=st.sampled_from([0.3, 1e-2, 1e-4]), masked=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
@settings(deadline=None, max_examples=12)
def test_bounds_hold_of_variables_with_few_points_and_many(points, dtype, tolerance, masked, seed):
    rng, t = np.random.default_rng(seed), np.arange(40)
    waves = np.stack([np.sin(0.1 * t), np.cos(0.3 * t), rng.standard_normal(40)])
    fields = [10.0 ** rng.integers(-9, 9) * rng.standard_normal((3, n)) for n in points]
    if masked:
        fields[0][:, 0] = np.nan
    dataset = xr.Dataset(
        {f"v{k}": (("time", f"x{k}"), (waves.T @ f).astype(dtype)) for k, f in enumerate(fields)}
    )
    with TemporaryDirectory() as folder:
        romzarr.compress(dataset, f"{folder}/s", tolerance=tolerance)
        found = xr.open_dataset(f"{folder}/s", engine="romzarr").load()
        assert romzarr.verify(f"{folder}/s", dataset).ok
    for name, source in dataset.astype("f8").items():
        error = np.nansum((found[name].astype("f8") - source) ** 2) ** 0.5
        assert error <= tolerance * np.nansum((source - source.mean("time")) ** 2) ** 0.5


@pytest.mark.parametrize("facts", ["", "{", "00", 7, None])
def test_facts_that_cannot_be_unpacked_are_refused(sensors, tmp_path, facts):
    romzarr.compress(sensors[["sensor_0"]], tmp_path / "s")
    (file,) = (tmp_path / "s").glob("2*/zarr.json")
    document = json.loads(file.read_text())
    document["attributes"]["romzarr"]["facts"] = facts
    file.write_text(json.dumps(document))
    sign_metadata(tmp_path / "s")
    with pytest.raises(StoreError, match="facts"):
        romzarr.info(tmp_path / "s")

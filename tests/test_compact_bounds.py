"""Parts are put together within every kind of bound, against the original."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr

import romzarr
from romzarr.compression import written
from romzarr.operations import when_to_compact
from romzarr.store.reading.reader import open_store
from tests.oracles import decoded_errors
from tests.test_climatology import CLIMATOLOGY, anomaly_error, monthly, seasons
from tests.test_compact import (
    NEVER,
    TOLERANCE,
    appended,
    assert_within,
    waves,
    with_levels,
)

NO_TOLERANCE = {"compression.tolerance": "none"}


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    """And what is put together is what the tests ask for."""
    monkeypatch.setattr(when_to_compact, "EARLY_SHARE", NEVER)
    monkeypatch.setattr(written, "SEARCHED_BYTES", 0)
    with dask.config.set(scheduler="synchronous"):
        yield


def put_together(store, source: xr.Dataset, parts: int = 1) -> xr.Dataset:
    """What the store decodes to once its parts are put together."""
    report = romzarr.compact(store)
    assert report.compacted, report.why
    assert report.parts == parts
    found = romzarr.verify(store, source)
    assert found.ok, found.problems
    return xr.open_dataset(store, engine="romzarr").load()


def spiky(snapshots: int) -> xr.Dataset:
    """Positive waves with noise and a few spikes, in float32, and zeros."""
    source = waves(snapshots, points=50, noise=0.02)
    rng = np.random.default_rng(1)
    u = np.exp(source.u + 5.0 * (rng.random(source.u.shape) < 0.01))
    u[:, 7] = 0.0
    return source.assign(u=u.astype("f4"))


@pytest.mark.parametrize(
    ("bound", "tolerance"), [(0.02, {}), ("0.02%", NO_TOLERANCE), ("2% of value", {})]
)
def test_no_value_is_off_by_more_than_its_bound(bound, tolerance, tmp_path):
    """What was compressed first has used up its bound, and stays."""
    store, source = tmp_path / "s", spiky(100)
    config = {"compression.max_error": {"u": bound}, **tolerance}
    appended(store, source.isel(time=slice(75)), [25, 50, 75], **config)
    first = open_store(store).parts[0].name
    decoded = put_together(store, source.isel(time=slice(75)), 2)
    assert open_store(store).parts[0].name == first
    assert_values_within(store, source.isel(time=slice(75)), decoded, bound)
    romzarr.append(store, source)
    assert_values_within(store, source, xr.open_dataset(store, engine="romzarr").load(), bound)


def assert_values_within(store, source: xr.Dataset, decoded: xr.Dataset, bound) -> None:
    x, z = (each.u.values.astype(np.longdouble) for each in (source, decoded))
    ranges = {"0.02%": 0.0002 * (x.max() - x.min()), "2% of value": 0.02 * np.abs(x)}
    assert (np.abs(x - z) <= ranges.get(bound, bound)).all()
    facts = open_store(store).facts
    said = {**facts["largest_pointwise_error"], **facts["largest_relative_error"]}["u"]
    unit = np.abs(x) if bound == "2% of value" else 1
    assert (np.abs(x - z) <= said * unit * (1 + 1e-9)).all()
    assert decoded_errors(source, decoded)["u"] <= facts["relative_l2_error"]["u"] * (1 + 1e-9)
    assert facts["relative_l2_error"]["u"] <= facts["tolerance"]


def test_weighted_sums_stay_exact(tmp_path):
    store, source = tmp_path / "s", with_levels(waves(120, noise=0.05))[["u", "area"]]
    source["u"] = source.u.astype("f4")
    appended(store, source, [20, 60, 120], **{"compression.sums": ["area"]})
    decoded = put_together(store, source)
    assert_within(store, source)
    true, found = ((each.u.astype("f8") * source.area).sum("x") for each in (source, decoded))
    # Twice the roundings of all values, one way or the other.
    unit = float(np.finfo("f4").eps)
    assert (abs(found - true) <= unit * (abs(source.u) * source.area).sum("x")).all()


def test_anomalies_about_a_climatology_are_within_the_bound(tmp_path):
    store, source = tmp_path / "s", seasons(monthly(14))
    appended(store, source, [24, 72, 120, 168], **CLIMATOLOGY)
    assert len(open_store(store).parts) == 4
    decoded = put_together(store, source)
    error = anomaly_error(source.u, decoded.u, source.time.dt.month)
    assert error <= open_store(store).facts["relative_l2_error"]["u"] * (1 + 1e-9) <= TOLERANCE


def test_layers_are_made_anew_with_errors_against_the_original(tmp_path):
    store, source = tmp_path / "s", waves(120, points=200, noise=0.02)
    appended(store, source, [20, 60, 120], **{"compression.layers": [0.2, 0.05]})
    put_together(store, source)
    assert_within(store, source)
    assert open_store(store).last.variables["u"].layers
    for tolerance in (0.2, 0.05):
        coarse = xr.open_dataset(store, engine="romzarr", tolerance=tolerance)
        said = coarse.u.attrs["romzarr_relative_l2_error"]
        error = decoded_errors(source, coarse)["u"]
        assert 3 * TOLERANCE < error <= said * (1 + 1e-6) <= tolerance

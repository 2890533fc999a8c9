"""A decoder that rounds otherwise gives the same values, and never feeds differences back."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from threadpoolctl import threadpool_limits

import romzarr
from romzarr.coding.coefficients import Coefficients
from romzarr.numerics.dynamics import integrate
from romzarr.store.codec import WaveletCodec
from romzarr.store.reading.fields import FieldPart
from romzarr.store.reading.latent import StoredLatent
from romzarr.store.reading.reader import _opened, open_store
from tests.oracles import decoded_errors
from tests.systems_of_odes import LORENZ, KnownSystem

SHAKEN = 1e-12


def lifted(system: KnownSystem, snapshots: int = 3000) -> xr.Dataset:
    """A field with the states of a known system as the coefficients of smooth modes."""
    times, states = system.record(snapshots)
    x = np.linspace(0, np.pi, 200)
    modes = np.array([np.sin((k + 1) * x) for k in range(system.states)])
    return xr.Dataset({"u": (("time", "x"), states @ modes)}, {"time": times, "x": x})


def decoded(store) -> xr.Dataset:
    """Nothing that another decoder remembered."""
    _opened.cache_clear()
    return xr.open_dataset(store, engine="romzarr").load()


def perturbation(function, rng):
    """`function` with each number of its result off by 1e-12."""

    def shaken(*args, **kwargs):
        result = function(*args, **kwargs)
        return result * (1 + SHAKEN * rng.choice([-1.0, 1.0], np.shape(result))).astype(
            result.dtype, copy=False
        )

    return shaken


@pytest.mark.parametrize("tolerance", [3e-3, 1e-3, 1e-4])
def test_results_of_the_decoder_may_all_be_off_by_rounding(tmp_path, monkeypatch, tolerance):
    """Derivatives, steps of the integration, coefficients, their weights, and fields; chaos
    doubles differences every 80 snapshots."""
    source, store = lifted(LORENZ), tmp_path / "store"
    report = romzarr.compress(source, store, tolerance=tolerance)
    assert (open_store(store).last.latent.code().block_model >= 0).all()
    plain, rng = decoded(store), np.random.default_rng(0)
    for place, name in (
        (integrate.Dynamics, "__call__"),
        (integrate, "runge_kutta_step"),
        (Coefficients, "array"),
        (WaveletCodec, "values"),
        (StoredLatent, "span"),
        (FieldPart, "sums"),
    ):
        monkeypatch.setattr(place, name, perturbation(getattr(place, name), rng))
    shaken = decoded(store)
    assert not shaken.identical(plain)
    assert decoded_errors(source, shaken)["u"] <= report.relative_l2_error["u"] <= tolerance
    assert decoded_errors(plain, shaken)["u"] <= 1e-3 * tolerance


def test_other_threads_of_linear_algebra_decode_within_the_bound(tmp_path):
    source, store = lifted(LORENZ), tmp_path / "store"
    report = romzarr.compress(source, store, tolerance=1e-3)
    for threads in (1, 2, 4):
        with threadpool_limits(threads, user_api="blas"):
            assert decoded_errors(source, decoded(store))["u"] <= report.relative_l2_error["u"]

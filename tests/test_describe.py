"""What a store says about itself is true, and equations can be read back."""

from __future__ import annotations

import json
import os
import re

import numpy as np
import pytest
import sympy
import xarray as xr
from numpy.testing import assert_allclose

import romzarr
from romzarr.errors import StoreError
from romzarr.store.reading.reader import open_store
from romzarr_flows.tables import info_table
from tests.oracles import files_below
from tests.systems_of_odes import LORENZ


def lifted(states: np.ndarray, times: np.ndarray, points: int = 200) -> xr.Dataset:
    rng = np.random.default_rng(0)
    q = np.linalg.qr(rng.standard_normal((points, states.shape[1])))[0]
    return xr.Dataset(
        {"u": (("time", "x"), states @ q.T)}, {"time": ("time", times, {"units": "s"})}
    )


@pytest.fixture(scope="module")
def lorenz(tmp_path_factory):
    times, states = LORENZ.record(3000)
    source = lifted(states, times)
    store = tmp_path_factory.mktemp("describe") / "store"
    return source, store, romzarr.compress(source, store, tolerance=1e-3)


def test_bytes_add_up_to_what_lies_on_the_disk(lorenz):
    _, store, report = lorenz
    info = romzarr.info(store)
    on_disk = sum(os.path.getsize(path) for path in files_below(store))
    assert info.stored_bytes == report.stored_bytes == on_disk
    assert sum(info.bytes_by_part.values()) == on_disk
    # A regular time axis is among the facts.
    assert info.bytes_by_part.pop("coordinates") == 0
    assert min(info.bytes_by_part.values()) > 0
    assert info.compression_ratio == info.raw_bytes / on_disk


def test_info_repeats_the_report_and_is_strict_json(lorenz):
    source, store, report = lorenz
    info = romzarr.info(store)
    told = json.loads(json.dumps(info.to_dict(), allow_nan=False))
    for name in (
        "relative_l2_error",
        "tolerance",
        "rank",
        "nonzero_terms",
        "kept_samples",
        "raw_bytes",
    ):
        assert told[name] == getattr(report, name)
    assert told["raw_bytes"] == source.nbytes
    assert_allclose(sum(info.energy_by_mode), 1)
    json.dumps(report.to_dict(), allow_nan=False)


def test_what_foretells_the_coefficients_is_said(lorenz, tmp_path):
    """A model where it serves; polynomials of smooth coefficients far above the step."""
    prediction = romzarr.info(lorenz[1]).prediction
    assert 0 < prediction["modelled_blocks"] <= prediction["blocks"] == 12
    assert prediction["polynomial_orders"] == []

    t = 0.1 * np.arange(300)
    states = np.stack([np.sin(t), np.sin(1.7 * t + 1)], axis=1) * np.exp(-0.02 * t)[:, None]
    source = lifted(states, t)
    romzarr.compress(source, tmp_path / "s", tolerance=1e-6)
    info = romzarr.info(tmp_path / "s")
    first, second = info.prediction["polynomial_orders"]
    assert min(first, second) > 1
    said = f"polynomials of degree {first - 1}, {second - 1} for modes 1, 2"
    assert said in info_table(info.to_dict(), "s")
    assert romzarr.verify(tmp_path / "s", source).ok


def test_energy_of_modes_is_that_of_an_svd(lorenz):
    source, store, report = lorenz
    rows = source.u.values - source.u.values.mean(axis=0)
    energy = np.linalg.svd(rows, compute_uv=False)[: report.rank] ** 2
    assert_allclose(romzarr.info(store).energy_by_mode, energy / energy.sum(), rtol=1e-6)


def test_equations_as_text_and_latex_are_the_model_that_is_integrated(lorenz):
    """Both are parsed by SymPy, which knows nothing of the library."""
    _, store, report = lorenz
    equations = romzarr.equations(store)
    f = open_store(store).last.latent.models[0]
    a = np.random.default_rng(0).standard_normal((5, report.rank))
    lines = [line for line in equations.text().splitlines() if "' =" in line]
    symbols = sympy.symbols(f"a1:{report.rank + 1}")
    expected = f(a)
    for k, line in enumerate(lines):
        terms = re.sub(r"(?<=[0-9]) (?=a)", "*", line.split("=")[1].split("[")[0])
        right = sympy.lambdify(symbols, sympy.sympify(terms.replace("^", "**")))
        values = [float(right(*row)) for row in a]
        assert_allclose(values, expected[:, k], rtol=2e-3, atol=1e-3 * np.abs(expected[:, k]).max())
    latex = equations.latex()
    assert latex.count(r"\dot a_") == report.rank
    assert latex.startswith(r"\begin{align*}")
    assert "in s" in equations.text()


def test_each_regime_has_its_equations_and_its_snapshots(tmp_path):
    """An oscillator that turns faster from snapshot 1100 on; the frequencies are read back."""
    phase = np.cumsum(np.repeat([0.05, 0.15], [1100, 1460]))
    source = lifted(np.stack([np.cos(phase), np.sin(phase)], axis=1), 0.05 * np.arange(len(phase)))
    romzarr.compress(source, tmp_path / "s", tolerance=1e-3)
    equations = romzarr.equations(tmp_path / "s")
    for regime, speed in zip(equations.regimes, (1, 3), strict=True):
        turning = regime.coefficients[[equations.names.index(name) for name in ("a1", "a2")]]
        assert_allclose(np.abs(np.linalg.eigvals(turning).imag), speed, rtol=1e-2)
        assert max(regime.residual) < 0.05
    (first,), (second,) = (regime.spans for regime in equations.regimes)
    assert first[0] == 0
    assert first[1] in (1023, 1279)
    assert second == (second[0], 2559)
    assert second[0] in (1024, 1280)
    text = equations.text()
    assert text.count("a1' =") == text.count("a2' =") == 2
    assert f"snapshots {first[0]} to {first[1]}:" in text
    assert equations.latex().count(r"\begin{align*}") == 2
    assert f"% snapshots {second[0]} to {second[1]}" in equations.latex()
    terms = [np.count_nonzero(regime.coefficients) for regime in equations.regimes]
    assert romzarr.info(tmp_path / "s").nonzero_terms == sum(terms)


def test_a_store_without_modes_has_no_equations(tmp_path):
    still = xr.Dataset({"u": (("time", "x"), np.ones((20, 5)))}, {"time": np.arange(20.0)})
    report = romzarr.compress(still, tmp_path / "still", tolerance=1e-2)
    assert (report.rank, report.kept_samples, report.nonzero_terms) == (0, 0, 0)
    assert "constant in time" in romzarr.equations(tmp_path / "still").text()
    assert romzarr.info(tmp_path / "still").energy_by_mode == ()
    decoded = xr.open_dataset(tmp_path / "still", engine="romzarr")
    xr.testing.assert_identical(decoded, still)


@pytest.mark.parametrize(
    ("points", "least", "most", "words"),
    [(5, 0, 1, ("LARGER", "Do not")), (200, 1, 3, ("hardly worthwhile",))],
)
def test_data_that_no_basis_compresses_is_told_so(tmp_path, points, least, most, words):
    values = np.random.default_rng(0).standard_normal((60, points)).astype(np.float32)
    noise = xr.Dataset({"u": (("time", "x"), values)}, {"time": np.arange(60.0)})
    report = romzarr.compress(noise, tmp_path / "noise", tolerance=1e-3)
    assert least < report.compression_ratio < most
    for each in words:
        assert each in report.advice
    assert romzarr.info(tmp_path / "noise").advice == report.advice


def test_a_good_ratio_needs_no_advice(lorenz):
    _, _, report = lorenz
    assert report.compression_ratio > 3
    assert report.advice == ""


@pytest.mark.parametrize("operation", [romzarr.info, romzarr.equations])
def test_no_store_is_said_by_name(tmp_path, operation):
    with pytest.raises(StoreError, match=r"nowhere.*no romzarr store"):
        operation(tmp_path / "nowhere")

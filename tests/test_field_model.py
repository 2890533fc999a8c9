"""Equations of a field, from its store alone, in coordinates in which they are sparse."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import xarray as xr

import romzarr
from romzarr.errors import ConfigError
from romzarr.operations.field_model import field_model
from romzarr.store.reading import decoding
from romzarr.store.reading.reader import open_store
from romzarr_flows.cli import main
from tests.systems_of_odes import LORENZ, KnownSystem


def lifted(system: KnownSystem, samples: int, points: int, seed: int) -> xr.Dataset:
    """States times random patterns, on an uneven background, with 1 % of noise."""
    rng = np.random.default_rng(seed)
    times, states = system.record(samples)
    patterns = rng.standard_normal((system.states, points)) / states.std(axis=0)[:, None]
    field = states @ patterns + 3 * rng.standard_normal(points)
    field += 0.01 * field.std(axis=0) * rng.standard_normal(field.shape)
    return xr.Dataset(
        {"u": (("time", "x"), field)}, {"time": times, "x": np.arange(points)}, {"title": "lifted"}
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("field") / "lorenz.romzarr"
    romzarr.compress(lifted(LORENZ, 1000, 300, seed=0), path, tolerance=0.02)
    return str(path)


@pytest.fixture(scope="module")
def model(store):
    return field_model(store)


def terms(text: str) -> int:
    return sum(line.count("±") for line in re.findall(r"^d\w+/dt = (.*)$", text, re.MULTILINE))


def test_a_lifted_system_has_few_terms_again(store, model, capsys):
    true = sum(map(len, LORENZ.terms))
    assert model.attrs["sparse"]
    assert model.attrs["terms"] <= true + 1
    assert model.attrs["terms_of_modes"] >= 3 * true
    assert main(["equations", store]) == 0
    text = capsys.readouterr().out
    assert terms(text) == model.attrs["terms"]
    assert "z1 = " in text
    assert all("can be trusted" in sentence for sentence in model.trust.values)


def test_coordinates_and_patterns_are_the_field(store, model):
    """Mean and patterns times coordinates is what the leading modes make of the field."""
    opened = open_store(store)
    a = opened.last.latent.at(np.arange(5))[:, : model.sizes["mode"]]
    z = a @ model.turn.values.T + model["shift"].values
    back = (z - model["shift"].values) @ model.pattern.values.T
    np.testing.assert_allclose(back, a, atol=1e-9 * np.abs(a).max())
    modes = decoding.modes(opened.last, "u", (slice(None),), model.sizes["mode"])
    shown = opened.mean("u") + back @ modes
    np.testing.assert_allclose(
        shown, xr.open_dataset(store, engine="romzarr").u[:5], atol=0.03 * np.abs(shown).max()
    )


def test_an_identified_field_can_be_integrated(store, model):
    a = open_store(store).last.latent.at(np.arange(100))[:, :3]
    z = a @ model.turn.values.T + model["shift"].values
    times = LORENZ.step * np.arange(100)
    path = romzarr.integrate(model, z[0], times)
    # Coordinates have variance one; coding errs by 2 %, and a Lyapunov time is about one.
    assert float(np.abs(path.values - z).max()) < 0.3


def test_json_has_equations_and_coordinates(store, model, capsys):
    assert main(["equations", store, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"modes", "field"}
    assert np.allclose(found["field"]["turn"], model.turn)
    assert found["field"]["sparse"] is True
    assert len(found["field"]["equations"]) == 3


def test_refits_take_degree_states_and_threshold(store, capsys):
    assert main(["equations", store, "--degree", "2", "--threshold", "0.05", "--states", "3"]) == 0
    assert terms(capsys.readouterr().out) <= sum(map(len, LORENZ.terms)) + 1
    assert main(["equations", store, "--modes", "--degree", "1", "--states", "2"]) == 0
    text = capsys.readouterr().out
    assert "da2/dt" in text
    assert "a1*a2" not in text
    # As stored, without the words of a fit.
    assert main(["equations", store, "--modes"]) == 0
    assert "/dt" not in capsys.readouterr().out


def test_what_cannot_be_is_refused_by_name(store):
    with pytest.raises(ConfigError, match=r"states: found 9; .* give 1 to"):
        field_model(store, states=9)
    with pytest.raises(ConfigError, match="degree: found 0"):
        field_model(store, degree=0)
    with pytest.raises(ConfigError, match="degree: found 12"):
        field_model(store, degree=12)
    with pytest.raises(ConfigError, match="threshold: found -1"):
        field_model(store, threshold=-1.0)


def test_a_wave_is_a_rotation_in_its_modes(tmp_path, capsys):
    """Two modes, a quarter of a turn apart: sparse already, which coordinates cannot better."""
    # Whole turns, so that the mean in time is the centre.
    times, x = np.arange(400) * np.pi / 30, np.linspace(0, 2 * np.pi, 64, endpoint=False)
    wave = np.cos(x - 1.5 * times[:, None])
    romzarr.compress(
        xr.Dataset({"u": (("time", "x"), wave)}, {"time": times}), tmp_path / "s", tolerance=1e-3
    )
    model = field_model(tmp_path / "s")
    assert not model.attrs["sparse"]
    turning = model.coefficients.sel(term=["a1", "a2"]).values
    np.testing.assert_allclose(np.abs(turning), [[0, 1.5], [1.5, 0]], atol=0.02)
    assert main(["equations", str(tmp_path / "s")]) == 0
    assert "No coordinates make the equations sparse" in capsys.readouterr().out


def test_noise_has_no_sparse_equations_and_what_is_constant_has_none(tmp_path):
    noise = np.random.default_rng(0).standard_normal((60, 400))
    romzarr.compress(xr.Dataset({"u": (("time", "x"), noise)}), tmp_path / "noise", tolerance=0.5)
    found = field_model(tmp_path / "noise")
    assert found is None or not found.attrs["sparse"]
    still = xr.Dataset({"u": (("time", "x"), np.ones((60, 400)))})
    romzarr.compress(still, tmp_path / "still")
    assert field_model(tmp_path / "still") is None


def test_values_without_modes_get_modes_from_what_they_decode_to(tmp_path, capsys):
    field = lifted(LORENZ, 600, 40, seed=1)
    romzarr.compress(field, tmp_path / "exact", tolerance=0)
    model = field_model(tmp_path / "exact")
    assert model.attrs["terms"] <= sum(map(len, LORENZ.terms)) + 1
    assert not model.attrs["stored"]
    assert main(["equations", str(tmp_path / "exact")]) == 0
    assert "modes of the values in the store" in capsys.readouterr().out


def test_the_report_shows_what_each_coordinate_adds(store, model, tmp_path):
    pytest.importorskip("matplotlib", reason="romzarr[plot] is not installed")
    assert main(["report", store, "-o", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count('aria-label="patterns of coordinates of u"') == 1
    for k in range(3):
        assert f"what z{'₁₂₃'[k]} = 1 adds" in page
    assert f"{model.attrs['terms']} terms, where those of the modes have" in page

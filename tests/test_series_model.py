"""Equations of the series that a store holds, in their own names."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import xarray as xr

import romzarr
from romzarr.operations.series_model import series_model
from romzarr.operations.stretches import MOST_SAMPLES
from romzarr_flows.cli import main
from tests.systems_of_odes import LORENZ, LOTKA_VOLTERRA, VAN_DER_POL, KnownSystem, with_noise


def true_terms(system: KnownSystem) -> list[set[str]]:
    """Of each equation, in the names of the rows of a table: x1, x2, ..."""
    return [
        {re.sub(r"\ba(\d)", r"x\1", name).replace(" ", "*") for name in terms}
        for terms in system.terms
    ]


def printed_terms(text: str) -> list[set[str]]:
    """Of each equation that was printed."""
    lines = re.findall(r"^d\w+/dt = (.*)$", text, re.MULTILINE)
    return [set(re.findall(r"\) ([\w*^]+)", line)) for line in lines]


@pytest.mark.parametrize("noise", [0.0, 0.02])
@pytest.mark.parametrize("system", [LOTKA_VOLTERRA, VAN_DER_POL, LORENZ], ids=lambda s: s.name)
def test_rows_of_a_table_get_their_true_equations(tmp_path, capsys, system, noise):
    _, states = system.record(2000)
    states = with_noise(states, noise, seed=1)
    np.savetxt(tmp_path / "rows.csv", states.T, delimiter=",")
    store = tmp_path / "rows.romzarr"
    romzarr.compress(tmp_path / "rows.csv", store, tolerance=1e-3)
    assert main(["equations", str(store)]) == 0
    assert printed_terms(capsys.readouterr().out) == true_terms(system)
    # Those of the modes are still there.
    assert main(["equations", str(store), "--modes"]) == 0
    assert "/dt = " not in capsys.readouterr().out
    assert main(["equations", str(store), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [
        {term["term"] for term in equation["terms"]} for equation in found["series"]["equations"]
    ] == true_terms(system)


def test_variables_keep_their_names_and_long_records_are_looked_at_in_stretches(tmp_path):
    times, states = LOTKA_VOLTERRA.record(MOST_SAMPLES + 2000)
    source = xr.Dataset({"prey": ("time", states[:, 0]), "fox": ("time", states[:, 1])}).assign(
        still=("time", np.ones(len(times)))
    )
    romzarr.compress(source.assign_coords(time=times), tmp_path / "s", tolerance=1e-3)
    model = series_model(tmp_path / "s")
    assert list(model.state.values) == ["prey", "fox"]
    assert model.samples.values.tolist() == [MOST_SAMPLES // 4] * 4
    found = model.coefficients.sel(state="prey")
    assert set(found.term.values[found.values != 0]) == {"prey", "prey*fox"}


def test_fields_and_series_without_a_model_have_none(tmp_path):
    rng = np.random.default_rng(0)
    field = xr.Dataset({"u": (("time", "x"), rng.standard_normal((60, 40)))})
    gaps = xr.Dataset({"u": (("time", "x"), rng.standard_normal((60, 3)))})
    gaps["u"][:, 1] = np.nan
    for number, source in enumerate((field, gaps)):
        romzarr.compress(source, tmp_path / str(number), tolerance=0.1)
        assert series_model(tmp_path / str(number)) is None

"""What compression would give is foretold, and nothing is written."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr

import romzarr
from romzarr.compression import write_archive
from romzarr.errors import ConfigError
from romzarr.operations import estimate as estimates
from romzarr_flows.cli import main
from tests.oracles import decaying_matrix
from tests.test_direct import waves
from tests.test_values import red_noise


def archive(kind: str, seed: int) -> xr.Dataset:
    rng = np.random.default_rng(seed)
    if kind == "noise":
        values = red_noise(rng, 320, 40, 0.9)
    elif kind == "modes":
        values = decaying_matrix(rng, 240, 64 * 40, 4).reshape(240, 64, 40)
    else:
        values = rng.standard_normal((120, 50, 30)) * np.linspace(0.2, 2, 30)
    dims = ("time", "y", "x")
    return xr.Dataset({"u": (dims, values)}, {"time": np.arange(len(values)) * 0.1}).chunk(time=40)


@pytest.mark.parametrize("kind", ["noise", "modes", "white"])
def test_ratios_of_small_archives_are_those_of_compression(tmp_path, kind):
    source = archive(kind, 0)
    for each in romzarr.estimate(source, tolerances=[1e-1, 1e-2]).estimates:
        store = tmp_path / f"{each.tolerance}.romzarr"
        report = romzarr.compress(source, store, tolerance=each.tolerance)
        info = romzarr.info(store)
        assert info.variables["u"]["coding"] == each.variables["u"].coding
        assert 0.85 < each.compression_ratio / report.compression_ratio < 1.15


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3])
def test_ratios_of_large_archives_are_foretold_from_a_sample(tmp_path, monkeypatch, tolerance):
    """Of what is coded as values: that of modes hangs on what a sample cannot show."""
    monkeypatch.setattr(write_archive, "LEAST_BYTES", 0)
    monkeypatch.setattr(estimates, "LEAST_BYTES", 0)
    monkeypatch.setattr("romzarr.compression.survey.BLOCKS", 8)
    source = archive("noise", 2)
    (found,) = romzarr.estimate(source, tolerances=[tolerance]).estimates
    report = romzarr.compress(source, tmp_path / "s.romzarr", tolerance=tolerance)
    assert found.variables["u"].coding == "direct"
    assert 0.85 < found.compression_ratio / report.compression_ratio < 1.15


def test_coherent_data_are_foretold_to_be_coded_by_their_modes(monkeypatch):
    monkeypatch.setattr(estimates, "LEAST_BYTES", 0)
    source = waves({"time": 512, "x": 800}).to_dataset().assign_coords(time=np.arange(512.0))
    (found,) = romzarr.estimate(source.chunk(time=64), tolerances=[1e-2]).estimates
    assert found.variables["u"].coding == "pod"
    assert "2 modes" in found.variables["u"].why


def test_what_cannot_be_compressed_is_told_for_each_tolerance():
    """Rounding of the values is more than the tightest of the tolerances."""
    values = (1e7 + np.random.default_rng(0).standard_normal((60, 40))).astype("f4")
    source = xr.Dataset({"u": (("time", "x"), values)}, {"time": np.arange(60.0)})
    loose, tight = romzarr.estimate(source, tolerances=[0.5, 1e-9]).estimates
    assert loose.compression_ratio > 1
    assert not loose.problem
    assert "below the rounding of float64" in tight.problem
    assert not tight.variables
    with pytest.raises(ConfigError, match="allowed are 0 < tolerance < 1"):
        romzarr.estimate(source, tolerances=[0.0])


def test_the_command_prints_a_line_for_each_tolerance_and_writes_nothing(tmp_path, capsys):
    path = tmp_path / "run.zarr"
    archive("white", 0).to_zarr(path, zarr_format=3, consolidated=False)
    before = sorted(tmp_path.rglob("*"))
    assert main(["estimate", str(path), "--tolerances", "1e-1,1e-2"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("tolerance") == 2
    assert "values, without POD: modes would take more bytes" in shown
    assert main(["estimate", str(path), "--tolerances", "1e-2", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["estimates"]
    # With a bound of five times the error on average hardly any value needs a residual.
    assert found["variables"]["u"]["max_error_bytes"] < found["stored_bytes"] / 10
    assert sorted(tmp_path.rglob("*")) == before

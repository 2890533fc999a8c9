"""The command line over the real operations: a small archive goes in and comes back."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from romzarr_flows.cli import main

# What scripts may rely on in the JSON of `compress`.
KEYS = {
    "relative_l2_error", "tolerance", "rank", "nonzero_terms", "raw_bytes", "stored_bytes",
    "compression_ratio", "seconds", "bytes_read", "chunks_read",
}  # fmt: skip


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two travelling waves of different size, in units that differ by 1e5."""
    time, x = 0.1 * np.arange(300), np.linspace(0, 2 * np.pi, 400)
    phase = x - time[:, None]
    dataset = xr.Dataset(
        {
            "u": (("time", "x"), np.sin(phase) + 0.1 * np.cos(2 * phase)),
            "p": (("time", "x"), 1e5 + 1e3 * np.cos(phase)),
            "depth": ("x", x**2),
        },
        {"time": time, "x": x},
    )
    path = tmp_path / "waves.zarr"
    dataset.to_zarr(path, encoding={"u": {"chunks": (50, 400)}}, consolidated=False)
    return path


def run(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    out, _ = capsys.readouterr()
    return status, out


def relative_error(expected: xr.DataArray, found: xr.DataArray) -> float:
    missed = np.linalg.norm(found.values - expected.values)
    return float(missed / np.linalg.norm(expected.values - expected.values.mean(axis=0)))


@pytest.mark.parametrize("cluster", ["threads", pytest.param("local", marks=pytest.mark.cluster)])
def test_an_archive_goes_in_and_comes_back_within_the_bound(archive, tmp_path, capsys, cluster):
    store, again = tmp_path / "waves.romzarr", tmp_path / "again.zarr"
    asked = ("--tolerance", "1e-3", "--cluster", cluster, "--json")
    status, out = run(capsys, "compress", archive, store, *asked)
    report = json.loads(out)
    assert status == 0
    assert report.keys() >= KEYS
    assert report["relative_l2_error"].keys() == {"u", "p"}
    assert report["raw_bytes"] == 2 * 300 * 400 * 8 + (300 + 2 * 400) * 8

    status, out = run(capsys, "verify", store, archive, "--json", "--cluster", cluster)
    assert (status, json.loads(out)["ok"]) == (0, True)

    status, _ = run(capsys, "reconstruct", store, again, "--start", 10, "--stop", 60)
    assert status == 0
    expected = xr.open_zarr(archive, consolidated=False).isel(time=slice(10, 60))
    found = xr.open_zarr(again, consolidated=False)
    for name in ("u", "p"):
        # The bound is on the whole record; on a sixth of it the share may be larger.
        assert relative_error(expected[name], found[name]) <= 1e-3 * 6**0.5
    assert found.depth.identical(expected.depth)
    assert found.time.identical(expected.time)


def test_info_and_equations_read_what_was_written(archive, tmp_path, capsys):
    store = tmp_path / "waves.romzarr"
    _, out = run(capsys, "compress", archive, store, "--json")
    report = json.loads(out)
    status, out = run(capsys, "info", store, "--json")
    info = json.loads(out)
    assert status == 0
    for key in ("relative_l2_error", "tolerance", "rank", "stored_bytes", "compression_ratio"):
        assert info[key] == report[key]
    status, out = run(capsys, "info", store)
    assert f"{report['rank']} POD modes" in out
    status, out = run(capsys, "equations", store, "--modes")
    assert (status, "a1' = " in out) == (0, True)
    text = out
    status, out = run(capsys, "equations", store, "--json")
    (regime, *_) = json.loads(out)["modes"]["regimes"]
    for equation in regime["equations"]:
        (line,) = re.findall(rf"^{equation['state']}' = (.*)    \[", text, re.MULTILINE)
        for term in equation["terms"]:
            assert f"{abs(term['coefficient']):.4g}" in line
    status, out = run(capsys, "equations", store, "--latex")
    assert (status, r"\dot a_{1}" in out) == (0, True)


def test_verify_finds_a_store_of_another_archive(archive, tmp_path, capsys):
    store, other = tmp_path / "waves.romzarr", tmp_path / "other.zarr"
    run(capsys, "compress", archive, store)
    changed = xr.open_zarr(archive, consolidated=False).load()
    changed["u"] = 1.1 * changed.u
    changed.to_zarr(other, consolidated=False)
    status, out = run(capsys, "verify", store, other)
    assert status == 1
    assert "BREAKS ITS BOUND" in out


@pytest.mark.parametrize("command", ["compress", "info", "equations", "verify", "reconstruct"])
def test_what_is_not_there_is_named_in_one_line(tmp_path, command):
    # As a process: nothing that a library prints may come before the message.
    paths = [str(tmp_path / name) for name in ("absent.zarr", "out.zarr")]
    paths = paths[:1] if command in ("info", "equations") else paths
    done = subprocess.run(
        [sys.executable, "-m", "romzarr_flows.cli", command, *paths], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("romzarr: error: ")
    assert "absent.zarr" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_exists_is_kept_unless_overwriting_is_asked_for(archive, tmp_path, capsys):
    store = tmp_path / "waves.romzarr"
    run(capsys, "compress", archive, store, "--tolerance", "0.1")
    status, _ = run(capsys, "compress", archive, store, "--tolerance", "0.01")
    assert status == 1
    assert json.loads(run(capsys, "info", store, "--json")[1])["tolerance"] == 0.1
    status, _ = run(capsys, "compress", archive, store, "--tolerance", "0.01", "--overwrite")
    assert status == 0
    assert json.loads(run(capsys, "info", store, "--json")[1])["tolerance"] == 0.01

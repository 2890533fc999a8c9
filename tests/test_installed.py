"""What `pip install romzarr` brings to somebody else's machine, beside files of theirs."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

ROOT = Path(__file__).parents[1]
# Names that people give to files of theirs.
THEIRS = ("pipeline", "flows", "config", "store", "streams", "tests", "reports", "errors")
READ = """
import sys, warnings
warnings.simplefilter("error")
import xarray as xr
assert "dask" not in sys.modules
assert float(xr.open_dataset("theirs.nc").t.sum()) == 6.0
assert "romzarr" in xr.backends.list_engines()
found = xr.open_dataset("run.romzarr", engine="romzarr").u.isel(time=3).values
assert found.shape == (500,)
import romzarr
from romzarr_flows.cli import main
assert romzarr.info("run.romzarr").variables["u"]
assert main(["info", "run.romzarr"]) == 0
"""
ELSEWHERE = """
import os, signal, sys
import distributed  # has a way of its own on each system
sys.modules["fcntl"] = None
for module, names in ((os, ("O_CLOEXEC", "pread", "pwrite")), (signal, ("SIGHUP",))):
    for name in names:
        delattr(module, name)
import importlib, pkgutil
import romzarr, romzarr_flows
for package in (romzarr, romzarr_flows):
    for each in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if ".neural" not in each.name and each.name != "romzarr.latents.transformers":
            importlib.import_module(each.name)
import xarray as xr
assert xr.open_dataset("run.romzarr", engine="romzarr").u.values.shape == (200, 500)
"""


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A folder with a store, a file that is none, and files of the user's own."""
    folder = tmp_path_factory.mktemp("theirs")
    t, x = np.arange(200) * 0.1, np.linspace(0, 1, 500)
    u = np.outer(np.sin(t), np.sin(3 * x)) + np.outer(np.cos(t), np.cos(3 * x))
    xr.Dataset({"u": (("time", "x"), u)}, {"time": t}).to_netcdf(folder / "run.nc")
    xr.Dataset({"t": ("x", [1.0, 2.0, 3.0])}).to_netcdf(folder / "theirs.nc")
    command = [sys.executable, "-m", "romzarr_flows.cli", "compress", "run.nc", "run.romzarr"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    for name in THEIRS:
        (folder / f"{name}.py").write_text("raise RuntimeError('a file of the user was run')")
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
    (found,) = folder.glob("*.whl")
    return found


def names_at_the_top(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name.split("/")[0] for name in archive.namelist()}


@pytest.mark.slow
def test_a_wheel_installs_nothing_but_romzarr(wheel):
    names = {name for name in names_at_the_top(wheel) if not name.endswith(".dist-info")}
    assert names == {"romzarr", "romzarr_flows"}


@pytest.mark.slow
def test_files_of_the_user_are_left_alone(wheel, theirs, tmp_path):
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    (packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    # Dependencies are those of this environment; what is installed in it for development is not.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    done = subprocess.run([python, "-c", READ], cwd=theirs, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_it_imports_and_reads_without_what_other_systems_lack(theirs):
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE], cwd=theirs, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")

"""The compiled kernels, compiled in other ways: the same bits, and nothing outside of arrays."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pipeline" / "romzarr"
COMPILER = shutil.which("gcc") or shutil.which("clang")
DIGESTS = """
import json
from pathlib import Path
from romzarr.coding import kernels
from tests.golden.payloads import payloads
assert kernels.__file__.startswith({folder!r})
assert payloads() == json.loads(Path("tests/golden/payloads.json").read_text())
"""
CODED = (
    "entropy",
    "field",
    "quantise",
    "wavelet",
    "coefficients",
    "differences",
    "coordinates",
    "products",
)

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler here")


def compiled(folder: Path, *flags: str) -> dict[str, str]:
    """Environment in which romzarr is a copy of the package with other kernels."""
    without = shutil.ignore_patterns("_kernels*", "__pycache__")
    kernels = shutil.copytree(PACKAGE, folder / "romzarr", ignore=without) / "coding" / "kernels"
    command = [COMPILER, "-std=c11", "-ffp-contract=off", "-fPIC", "-shared", *flags]
    sources = sorted(map(str, kernels.glob("*.c")))
    subprocess.run([*command, "-o", str(kernels / "_kernels.bin"), *sources], check=True)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (folder, ROOT)))}


@pytest.mark.parametrize("level", ["-O0", "-O2"])
def test_payloads_do_not_depend_on_how_the_kernels_are_compiled(tmp_path, level):
    environment = compiled(tmp_path, level)
    script = DIGESTS.format(folder=str(tmp_path))
    subprocess.run([sys.executable, "-c", script], env=environment, cwd=ROOT, check=True)


def test_warnings_are_errors():
    sources = sorted(map(str, (PACKAGE / "coding" / "kernels").glob("*.c")))
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    subprocess.run([COMPILER, *flags, *sources], check=True)


@pytest.mark.slow
def test_no_bytes_lead_outside_of_arrays_or_to_undefined_behaviour(tmp_path):
    """The property tests of coding, hostile bytes among them, under the sanitizers."""
    flags = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    try:
        environment = compiled(tmp_path, *flags)
    except subprocess.CalledProcessError:
        pytest.skip("this compiler has no sanitizers")
    runtimes = [
        subprocess.check_output([COMPILER, f"-print-file-name=lib{name}.so"], text=True).strip()
        for name in ("asan", "ubsan")
    ]
    if not all(map(os.path.isabs, runtimes)):
        pytest.skip("the libraries of the sanitizers are not those of gcc")
    # Python itself ends without freeing everything.
    environment |= {"LD_PRELOAD": ":".join(runtimes), "ASAN_OPTIONS": "detect_leaks=0"}
    tests = [f"tests/coding/test_{name}.py" for name in CODED]
    # These two count time and memory, which the sanitizers take more of.
    chosen = ["-k", "not take_long and not fill_the_memory", "-p", "no:cacheprovider", "-q"]
    found = subprocess.run(
        [sys.executable, "-m", "pytest", *tests, *chosen],
        env=environment, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout[-4000:] + found.stderr[-4000:]

"""Builds the compiled kernels of `romzarr.coding`; all else is in pyproject.toml.

They are a plain shared library that Python loads with ctypes: one file serves every version of
Python, so a wheel is tagged for its platform alone. It is compiled with $CC, or with the C
compiler of the machine; where there is none, with that of the package ziglang, which pip then
brings for the build. `make dist` builds the wheels of all platforms with the last.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # setuptools < 70.1, without isolation of the build
    from wheel.bdist_wheel import bdist_wheel

KERNELS = Path("pipeline/romzarr/coding/kernels")
# Every machine has to find the same bits: nothing may be contracted or reordered.
FLAGS = ["-std=c11", "-O3", "-ffp-contract=off", "-fvisibility=hidden", "-shared"]
FOUND = [name for name in ("cc", "gcc", "clang") if shutil.which(name)][:1]


def compiler() -> list[str]:
    return shlex.split(os.environ.get("CC", "")) or FOUND or [sys.executable, "-m", "ziglang", "cc"]


class BuildKernels(build_ext):
    """A library with neither the name nor the entry point of a module of Python."""

    def get_ext_filename(self, fullname: str) -> str:
        # A suffix that no Python takes for that of a module. It is loaded by its path.
        return f"{Path(*fullname.split('.'))}.bin"

    def build_extension(self, ext: Extension) -> None:
        path = Path(self.get_ext_fullpath(ext.name))
        path.parent.mkdir(parents=True, exist_ok=True)
        command = compiler()
        # Windows places all code independently.
        is_windows = "windows" in " ".join(command) or sys.platform == "win32"
        flags = FLAGS if is_windows else [*FLAGS, "-fPIC"]
        subprocess.run([*command, *flags, "-o", str(path), *ext.sources], check=True)


class WheelOfPlatform(bdist_wheel):
    """A wheel for any Python 3 on this platform."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[
        Extension(
            "romzarr.coding.kernels._kernels",
            sorted(map(str, KERNELS.glob("*.c"))),
            depends=sorted(str(path) for end in ("h", "inc") for path in KERNELS.glob(f"*.{end}")),
        )
    ],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": WheelOfPlatform},
    # What is asked for here is installed for the build alone.
    setup_requires=[] if FOUND or os.environ.get("CC") else ["ziglang>=0.13"],
)

"""Builds the compiled kernels of `romzarr.coding`; all else is in pyproject.toml.

They are a plain shared library that Python loads with ctypes: one file serves every version of
Python, so a wheel is tagged for its platform alone.
"""

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

KERNELS = Path("pipeline/romzarr/coding/kernels")


class BuildKernels(build_ext):
    """A library with neither the name nor the entry point of a module of Python."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + (
            ".dll" if self.plat_name.startswith("win") else ".so"
        )

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return list(ext.export_symbols)


class WheelOfPlatform(bdist_wheel):
    """A wheel for any Python 3 on this platform."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[
        Extension(
            "romzarr.coding.kernels._kernels",
            sorted(map(str, KERNELS.glob("*.c"))),
            depends=[
                str(path) for end in ("h", "inc") for path in sorted(KERNELS.glob(f"*.{end}"))
            ],
            # Every machine has to find the same bits: nothing may be contracted or reordered.
            extra_compile_args=["-std=c11", "-O3", "-ffp-contract=off", "-fvisibility=hidden"],
        )
    ],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": WheelOfPlatform},
)

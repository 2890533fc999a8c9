"""Compiled loops of the coding: `wavelet.c`, `quantise.c`, `entropy.c`, `coordinates.c` and
`products.c`, with the vectors that `vectors.c` chooses.

The C sources beside this file become one shared library when the package is built (`setup.py`).
It depends on nothing, not even on Python, is loaded when it is first needed, and runs without
the interpreter's lock. All it does are operations of integers, and single IEEE operations in a
fixed order: every machine finds the same bits.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

_loading = Lock()


class Vectors(IntEnum):
    """Vectors that kernels may use, as far as the machine has them; all find the same bits.

    Of 16 bytes; of 32, with AVX2; of 64, with the sums of products of AVX-512.
    """

    NARROW = 0
    WIDE = 1
    WIDEST = 2


def library() -> ctypes.CDLL:
    """The library, with its tables made.

    Raises
    ------
    ImportError
        If it was not built.
    """
    with _loading:
        return _loaded()


def function_for(name: str, dtype: np.dtype[Any]) -> Any:
    """The variant of a function for float32 or float64."""
    return getattr(library(), f"{name}_f{8 * dtype.itemsize}")


def address(array: NDArray[Any]) -> ctypes.c_void_p:
    """Where the data of a contiguous array are, which has to outlive the call."""
    return ctypes.c_void_p(array.ctypes.data)


@cache
def _loaded() -> ctypes.CDLL:
    path = Path(__file__).with_name("_kernels.bin")
    if not path.exists():
        raise ImportError(
            f"{path}: the compiled kernels are missing; install romzarr from a wheel, or build "
            "them where you work on it: pip install -e ."
        )
    loaded = ctypes.CDLL(str(path))
    loaded.encode.restype = loaded.decode.restype = ctypes.c_int64
    loaded.encode_coordinates.restype = ctypes.c_int64
    loaded.make_tables()
    loaded.choose_vectors(Vectors.WIDEST)
    return loaded

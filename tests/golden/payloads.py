"""What the coders make of fixed integers: their bytes are the format."""

from __future__ import annotations

import hashlib

import numpy as np

from romzarr.coding.exact import Packing, to_integers
from romzarr.coding.field import encode_field

# Shapes, levels, dtypes and orders of differences: none, few and many levels, wide and narrow.
FIELDS = [
    ((12, 10), (2, 1), "f8", ()),
    ((7, 33, 20), (0, 3, 3), "f4", ()),
    ((64, 64), (4, 4), "f4", ()),
    ((5, 9, 8, 17), (1, 2, 0, 3), "f8", ()),
    ((300,), (6,), "f8", ()),
    ((1, 1), (0, 0), "f4", ()),
    ((90, 4), (0, 0), "f8", (2, 0, 1, 7)),
    ((90, 3), (5, 0), "f8", (0, 3)),
]
SIZES = (1, 40, 70_000)
EXACT = [((6, 7), (0, 1), "f4"), ((6, 7), (), "f8"), ((5, 4, 3), (2, 0), "f2")]


def integers(shape: tuple[int, ...], most: int) -> np.ndarray:
    """Integers up to `most`, many of them small, without any floating-point arithmetic."""
    state, found = 12345, []
    for _ in range(int(np.prod(shape))):
        state = (1103515245 * state + 12345) % 2**31
        size = (state >> 8) % (1 + (most >> (state >> 4) % 8))
        found.append(size if state & 64 else -size)
    return np.array(found).reshape(shape)


def payloads() -> dict[str, str]:
    """SHA-256 of what each coder makes of each array, by what it is."""
    found = {}
    for shape, levels, dtype, orders in FIELDS:
        for most in SIZES:
            # Integers, and halves of them, are exact in both types; so is what comes of a step 1.
            content = encode_field(integers(shape, most).astype(dtype), 1.0, levels, orders)
            found[f"wavelet {shape} {levels} {dtype} {orders} {most}"] = _digest(content)
    for shape, axes, dtype in EXACT:
        values = integers(shape, 2000).astype(dtype)
        packing = Packing("int16", 1.0, 0.0, None)
        for name, packed in (("", None), (" packed", packing)):
            content = to_integers(values, axes, packed)
            found[f"exact {shape} {axes} {dtype}{name}"] = _digest(content.tobytes())
    return found


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]

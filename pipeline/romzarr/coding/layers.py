"""Layers of a coded array: its integers, first as multiples of larger steps, then what these miss.

The first layer is a coded array by itself, with a larger step. Each further layer has integers
that are added to those which the layers before foretell: the coefficients that these give, in
steps of its own, rounded. All layers together have the integers of the array without layers, so
they decode to the same values, to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from romzarr.coding.bands import coarse_shape
from romzarr.coding.coarse import coarse_coefficients
from romzarr.coding.coefficients import Coefficients
from romzarr.coding.entropy import NARROW
from romzarr.coding.field import (
    Coded,
    encoded,
    read_integers,
    rounded_coefficients,
    share_byte_of,
    share_of,
)
from romzarr.coding.quantise import Integers, restore
from romzarr.contracts import Floats
from romzarr.errors import StoreError

# Integers beyond are no sums of layers.
_LARGEST = 2.0**60
_DOUBLE = np.dtype(np.float64)


class Payload(NamedTuple):
    """The payload of a chunk, or of one layer of it, and the step of its array."""

    content: bytes
    step: float


def lost_squares(
    payload: Payload, shape: Sequence[int], levels: Sequence[int], steps: Sequence[float]
) -> NDArray[np.float64]:
    """Squares of the coefficients that a layer with each of these steps misses.

    Along the first axis, if that has no levels, the first index does not count: of fields it is the
    mean.
    """
    coded, own = read_integers(payload.content, shape, payload.step, levels)
    coefficients = _restored(coded, own)
    counted = slice(1 - bool(levels[0]), None)
    found = []
    for step in steps:
        larger = step * share_of(share_byte_of(payload.content))
        missed = _restored(_quantised(coefficients, levels, larger), larger) - coefficients
        found.append(np.sum(missed[counted] ** 2))
    return np.array(found)


def split(
    payload: Payload, shape: Sequence[int], levels: Sequence[int], steps: Sequence[float]
) -> list[bytes]:
    """Payloads of all layers of a chunk.

    Parameters
    ----------
    payload : Payload
        Of the chunk without layers.
    shape, levels : sequence of int
    steps : sequence of float
        Of the arrays of all layers but the last, decreasing.
    """
    share = share_byte_of(payload.content)
    coded, own = read_integers(payload.content, shape, payload.step, levels)
    coefficients, contents = _restored(coded, own), list[bytes]()
    foretold: Floats = np.zeros(shape)
    for step in [each * share_of(share) for each in steps]:
        layer = _quantised(coefficients, levels, step)
        rest = _narrowed(layer.integers - _multiples(foretold, step))
        contents.append(encoded(Coded(rest, layer.excess), levels, share))
        foretold = _restored(layer, step)
    rest = _narrowed(coded.integers - _multiples(foretold, own))
    return [*contents, encoded(Coded(rest, coded.excess), levels, share)]


def joined(
    payloads: Sequence[Payload],
    shape: Sequence[int],
    levels: Sequence[int],
    dtype: np.dtype[Any],
    halvings: Sequence[int] = (),
) -> Coefficients:
    """Coefficients of a chunk from all of its layers, or from the first ones.

    With `halvings` of its axes they are of that chunk on a coarser grid.

    Raises
    ------
    StoreError
        If payloads are damaged, or no layers of one chunk.
    """
    foretold: Floats = np.zeros(coarse_shape(shape, halvings))
    for number, payload in enumerate(payloads, start=1):
        rest, step = read_integers(payload.content, shape, payload.step, levels, halvings)
        integers = _narrowed(rest.integers + _multiples(foretold, step))
        kind = dtype if number == len(payloads) else _DOUBLE
        foretold = restore(integers, step, rest.excess, kind)
    if any(halvings):
        return coarse_coefficients(foretold, levels, halvings)
    return Coefficients.of(foretold, levels)


def _quantised(coefficients: Floats, levels: Sequence[int], step: float) -> Coded:
    largest = float(np.abs(coefficients).max(initial=0.0)) / step
    return rounded_coefficients(coefficients, largest, step, levels)


def _restored(coded: Coded, step: float) -> Floats:
    return restore(coded.integers, step, coded.excess, _DOUBLE)


def _multiples(values: Floats, step: float) -> NDArray[np.int64]:
    with np.errstate(over="ignore", invalid="ignore"):
        multiples = np.rint(values / step)
        if not np.abs(multiples).max(initial=0.0) < _LARGEST:
            raise StoreError("layers of a coded array do not belong together")
    return multiples.astype(np.int64)


def _narrowed(integers: NDArray[np.int64]) -> Integers:
    """Integers of the type that coding without layers would choose."""
    narrow = np.abs(integers).max(initial=0) < NARROW
    return integers.astype(np.int32 if narrow else np.int64)

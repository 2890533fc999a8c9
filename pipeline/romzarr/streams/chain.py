"""What the newest closed part of a store leaves to those after it: modes to go on with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from romzarr.contracts import ArchivedVariable, BlockSpan, Coding, Mask, Matrix, Vector
from romzarr.store.reading import decoding
from romzarr.store.reading.generation import Generation
from romzarr.store.reading.reader import CoefficientStore
from romzarr.streams.blocks import Frame

# Coefficients that a part may have to be written anew with more snapshots.
MOST_REWRITTEN = 1 << 18


@dataclass(frozen=True)
class Tail:
    """The newest part, if it goes on with modes of others and more snapshots can join it.

    ``a`` (m, r) are whole multiples of ``step``, so they are written again as they are; of the
    modes ``own`` are its own, ``scales`` (own,) their factors, with the steps ``field_steps``
    (V,); ``changing`` is what it carries that changes in time; ``nbytes`` what its arrays of
    coefficients and fields take up.
    """

    own: int
    scales: Matrix
    field_steps: Matrix
    a: Matrix
    step: float
    changing: dict[str, xr.Variable]
    nbytes: int


@dataclass(frozen=True)
class Chain:
    """Modes to go on with, as they decode.

    ``extends`` names the part they end with, ``before`` that which the ``tail`` extends;
    ``masked`` (n,) are points without numbers; ``varies`` (V,) tells the variables that have
    modes; ``fixed_bytes`` is what a part takes up besides coefficients and fields.
    """

    extends: str
    before: str | None
    origin: Matrix
    modes: Matrix
    masked: Mask
    varies: NDArray[np.bool_]
    arithmetic: np.dtype[Any]
    fixed_bytes: int
    tail: Tail | None


def chain_of(store: CoefficientStore, frame: Frame, opened: int) -> Chain | None:
    """The modes of the last part before the `opened` ones; None where it has none for all
    variables and times."""
    number = len(store.parts) - opened - 1
    if number < 0:
        return None
    last, names = store.parts[number], [variable.name for variable in frame.variables]
    codings = {last.variables[name].coding for name in names}
    parts = (*last.before, last)
    if (
        not last.rank
        or codings - {Coding.POD, Coding.CONSTANT}
        or any(len(p.episodes) for p in parts)
    ):
        return None
    modes = [modes_of(last, frame, v) for v in frame.variables]
    origin = np.concatenate([mean_of(last, frame, v) for v in frame.variables])
    sizes = {path: size for path, size in store.sizes().items() if path.startswith(last.name)}
    coded = sum(size for path, size in sizes.items() if _is_coded(path))
    tail = _tail(store, number, frame, coded) if _can_be_joined(last) else None
    return Chain(
        extends=last.name,
        before=last.before[-1].name if tail else None,
        origin=np.nan_to_num(origin),
        modes=np.concatenate(modes, axis=1),
        masked=np.isnan(origin),
        varies=np.array([last.variables[name].coding == Coding.POD for name in names]),
        arithmetic=np.dtype(last.facts["arithmetic"]),
        fixed_bytes=sum(sizes.values()) - coded,
        tail=tail,
    )


def modes_of(part: Generation, frame: Frame, variable: ArchivedVariable) -> Matrix:
    """Modes (r, n) of a variable as they decode, with its points as they are stored."""
    modes = frame.as_stored(variable, decoding.modes(part, variable.name))
    return modes.reshape(part.rank, math.prod(variable.space_shape)).astype(np.float64)


def mean_of(part: Generation, frame: Frame, variable: ArchivedVariable) -> Vector:
    """Its mean (n,)."""
    mean = frame.as_stored(variable, decoding.mean(part, variable.name))
    return np.ravel(mean).astype(np.float64)


def _is_coded(path: str) -> bool:
    return "/c/" in path and path.split("/c/")[0].endswith(("/fields", "/corrections"))


def _can_be_joined(part: Generation) -> bool:
    """Whether all coefficients are multiples of a step, no wavelets, and few enough."""
    path = "latent/corrections"
    if not part.before or path not in part.arrays or part.arrays.codec(path).levels != (0, 0):
        return False
    return part.snapshots * part.rank <= MOST_REWRITTEN


def _tail(store: CoefficientStore, number: int, frame: Frame, nbytes: int) -> Tail:
    part, start = store.parts[number], int(store.starts[number])
    span = slice(start, start + part.snapshots)
    decoded = xr.open_dataset(store.url, engine="romzarr").isel({frame.dim: span})
    paths = [f"basis/{part.variables[v.name].group}/fields" for v in frame.variables]
    steps = [part.arrays.codec(path).step if path in part.arrays else 0.0 for path in paths]
    return Tail(
        own=part.own,
        scales=part.own_values,
        field_steps=np.array(steps),
        a=part.latent.span(BlockSpan(0, part.snapshots)),
        step=part.arrays.codec("latent/corrections").step,
        changing=frame.changing(decoded.variables),
        nbytes=nbytes,
    )

"""Coding of a segment that is still open: modes and coefficients, finer than asked for.

What is coded now is coded once more when the segment is sealed, and what is lost here cannot be
had back. So steps are a few bits finer than a store needs. The basis in use becomes what
readers decode (`IncrementalPOD.adopt`): what modes lose by coding turns up in the next
snapshots, and becomes new modes if it matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from romzarr.coding.fill import fill_masked
from romzarr.coding.rates import NOISE_GAIN, position_within, rates, step_of
from romzarr.coding.tiles import (
    coded_rows,
    coded_tile,
    encode_rows,
    encode_tile,
    field_levels,
    tile_rows,
    tile_shape,
    tiles,
)
from romzarr.compression.weak_systems import CODE_BLOCK
from romzarr.contracts import ArchivedVariable, CodedLatent, LatentFormat, Matrix, Vector
from romzarr.numerics.dynamics.sampling import STRAIGHT_LINE
from romzarr.numerics.pod.incremental import IncrementalPOD
from romzarr.streams.blocks import Frame

# Shares of the squared error allowed that coding may take while a segment is open: the fields of
# all modes of one commit, and all coefficients.
FIELD_SHARE, LATENT_SHARE = 5e-4, 1e-3
# What fields and coefficients decode to.
ARITHMETIC = np.dtype(np.float64)
# A step that proves too long is made so much shorter.
SHORTER = 0.5


@dataclass(frozen=True)
class RunningFields:
    """Fields of one variable: the mean, or zeros, and modes times their `scales`.

    ``contents`` are the tiles as they are stored, by place in the grid; ``decoded``
    (k + 1, points) what they decode to, 0 where nothing is.
    """

    tile: tuple[int, ...]
    step: float
    contents: dict[tuple[int, ...], bytes]
    decoded: Matrix


def code_fields(
    variable: ArchivedVariable, fields: Matrix, valid: NDArray[np.bool_] | None, allowed: float
) -> RunningFields:
    """Code fields (k + 1, points) with the largest step that makes a squared error `allowed`."""
    space = variable.space_shape
    shaped = fields.reshape(-1, *space)
    weight = variable.inner_product.mean_weight
    if valid is not None:
        shaped = np.asarray(fill_masked(shaped, valid.reshape(space)), np.float64)
    unit = float(np.linalg.norm(fields)) or 1.0
    found = rates(shaped, field_levels(space), unit)
    step = step_of(position_within(found, allowed / max(weight, np.finfo(float).tiny)), unit)
    return code_fields_with(variable, fields, valid, step, ARITHMETIC)


def code_fields_with(
    variable: ArchivedVariable,
    fields: Matrix,
    valid: NDArray[np.bool_] | None,
    step: float,
    dtype: np.dtype[Any],
) -> RunningFields:
    """Code fields (k + 1, points) with a given step, to decode to `dtype`."""
    space = variable.space_shape
    shaped = fields.reshape(-1, *space)
    if valid is not None:
        shaped = np.asarray(fill_masked(shaped, valid.reshape(space)), np.float64)
    tile = tile_shape(space, len(fields) - 1, variable.longest_space)
    contents, decoded = {}, np.empty(shaped.shape)
    for index, region in tiles(space, tile):
        part = shaped[(slice(None), *region)]
        contents[index] = encode_tile(part, tile, step)
        decoded[(slice(None), *region)] = coded_tile(part, tile, step, dtype)
    flat = decoded.reshape(len(fields), -1)
    return RunningFields(tile, step, contents, flat if valid is None else np.where(valid, flat, 0))


def code_modes(
    pod: IncrementalPOD, frame: Frame, first: int, tolerance: float
) -> tuple[list[RunningFields | None], Vector]:
    """Code the modes from `first` on, and the mean if that is the first of all, and adopt them.

    Returns the fields of each variable (None: there are none, or it is constant), and the scales
    (k,) of the modes. Scales are the norms of their coefficients: so fields are what adds to the
    squared error as it is. The first field is the mean times the root of the snapshots so far.
    """
    if first and first == pod.rank:
        return [None] * len(frame.variables), np.zeros(0)
    r = pod.triangle
    scales = np.linalg.norm(r[:, 1 + first :], axis=0)
    mean = pod.snapshots**0.5 * pod.origin if first == 0 else np.zeros_like(pod.origin)
    fields = np.concatenate([mean[None], scales[:, None] * pod.modes[first:]])
    found: list[RunningFields | None] = []
    modes, origin = pod.modes[first:].copy(), pod.origin.copy()
    allowed = FIELD_SHARE * tolerance**2 * pod.counting
    for v, (variable, part) in enumerate(zip(frame.variables, frame.edges, strict=True)):
        if pod.fluctuation[v] == 0:
            found.append(None)
            continue
        valid = None if pod.valid is None or pod.valid[part].all() else pod.valid[part]
        coded = code_fields(variable, fields[:, part], valid, allowed[v])
        origin[part] = coded.decoded[0] / pod.snapshots**0.5
        modes[:, part] = coded.decoded[1:] / scales[:, None]
        found.append(coded)
    pod.adopt(first, modes, None if first else origin)
    return found, scales


def code_coefficients(
    a: Matrix, pod: IncrementalPOD, tolerance: float, lost: Vector
) -> tuple[CodedLatent, Matrix]:
    """Code coefficients (m, r), all of them new, and what that loses (V,) in squares.

    `lost` (V,) is what that of the coefficients before has lost: all together may lose a share
    of the bound, each by its snapshots.
    """
    grams = pod.grams
    room = LATENT_SHARE * tolerance**2 * pod.counting
    allowed = np.minimum(room * len(a) / pod.snapshots, (room - lost) / 2)
    per_step = NOISE_GAIN * len(a) / 12 * np.trace(grams, axis1=1, axis2=2)
    moving = per_step > 0
    # Of modes that decode to nothing, which are next to rounding, any coefficients will do.
    step = float(np.sqrt(np.min(allowed[moving] / per_step[moving]))) if moving.any() else 1.0
    rows = tile_rows(*a.shape)
    while True:
        difference = coded_rows(a, rows, step, smooth=True) - a
        missed = np.einsum("mi,vij,mj->v", difference, grams, difference, optimize=True)
        if (missed <= allowed).all():
            break
        step *= SHORTER
    content = encode_rows(a, rows, step, smooth=True)
    return corrections_alone(a, step, rows, content), missed


def corrections_alone(a: Matrix, step: float, rows: int, content: tuple[bytes, ...]) -> CodedLatent:
    """A code of corrections alone, `content` in chunks of `rows`: samples are zero."""
    count, rank = a.shape
    index = np.unique(np.append(np.arange(0, count, CODE_BLOCK), count - 1))
    straight = np.full(-(-count // CODE_BLOCK), STRAIGHT_LINE, np.int16)
    few = tile_rows(len(index), rank)
    form = LatentFormat(index, CODE_BLOCK, straight, 1, rank, step, step, few, rows)
    return CodedLatent(form, correction_bytes=content)

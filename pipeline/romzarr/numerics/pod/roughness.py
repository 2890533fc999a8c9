"""Snapshots that a basis of the others does not fit: an episode of turbulence, noise, a defect.

Each such snapshot asks for a mode of its own, which is the snapshot itself, and for coefficients
besides; coded as they are they may take fewer bytes, and the model of the others is of few modes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from romzarr.contracts import Mask, Matrix
from romzarr.numerics.pod.truncation import tails

# Snapshots of which it is told whether they are rough together.
RUN = 16
# Rough runs need so many times the modes of quiet ones, and the quiet snapshots together at most
# this share of the modes of all: else nothing is gained.
CONTRAST, SIMPLER = 2, 0.5
# A snapshot is rough if the modes of the quiet ones leave so many times the error allowed.
EXCESS = 4.0
# Where more of the record than this is rough, it is the quiet time that is the episode.
MOST = 0.5
# Quiet snapshots between rough ones that are fewer than these are rough too.
SHORTEST = 8


def run_ranks(a: Matrix, share: float) -> NDArray[np.int32]:
    """Modes that each run of `RUN` snapshots of a (m, K) needs, for an error of `share` a snapshot.

    The coefficients are those of modes that are orthonormal; the last run may be shorter.
    """
    padded = np.pad(a, ((0, -len(a) % RUN), (0, 0))).reshape(-1, RUN, a.shape[1])
    energies = np.square(np.linalg.svd(padded, compute_uv=False), dtype=np.float64)
    return np.argmax(tails(energies) <= share * RUN, axis=-1).astype(np.int32)


def quiet_runs(ranks: NDArray[np.int32]) -> Mask | None:
    """Runs that need few modes, but for those beside others; None where all are about alike."""
    least = max(int(ranks.min()), 1)
    if not ranks.max() >= CONTRAST * least:
        return None
    return _inner(ranks <= np.sqrt(int(ranks.max()) * least))


def _inner(quiet: Mask) -> Mask:
    """Without the runs beside rough ones, which may begin or end in them."""
    padded = np.pad(quiet, 1, mode="edge")
    inner = padded[:-2] & quiet & padded[2:]
    return inner if inner.any() else quiet


def principal_directions(r: Matrix, allowed: float) -> Matrix:
    """Directions (K, k) that leave coefficients an error `allowed`, from their triangle R."""
    _, sigma, axes = np.linalg.svd(r, full_matrices=False)
    rank = int(np.argmax(tails(np.square(sigma, dtype=np.float64)) <= allowed))
    return np.ascontiguousarray(axes[:rank].T)


def are_simpler(quiet: Matrix, whole: Matrix) -> bool:
    """Whether quiet snapshots need so few directions, of those of all, that something is gained."""
    return quiet.shape[1] <= SIMPLER * whole.shape[1]


def rough_rows(a: Matrix, directions: Matrix, share: float) -> list[tuple[int, int]]:
    """Runs of rows of a (m, K) of which the directions leave more than their `share`."""
    left = np.sum((a - (a @ directions) @ directions.T) ** 2, axis=1)
    return runs(left > EXCESS * share)


def closed(found: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Rough runs, those joined that have few quiet snapshots between them."""
    joined = list[tuple[int, int]]()
    for start, stop in found:
        if joined and start - joined[-1][1] < SHORTEST:
            start = joined.pop()[0]
        joined.append((start, stop))
    return joined


def runs(mask: Mask) -> list[tuple[int, int]]:
    """First and last but one of each run of true values."""
    edges = np.flatnonzero(np.diff(np.pad(mask.astype(np.int8), 1)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))

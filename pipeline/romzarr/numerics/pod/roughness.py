"""Snapshots that a basis of the others does not fit: an episode of turbulence, noise, a defect.

Each such snapshot asks for a mode of its own, which is the snapshot itself, and for coefficients
besides; coded as they are they may take fewer bytes, and the model of the others is of few modes.
"""

from __future__ import annotations

import itertools

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


def rough_snapshots(a: Matrix, allowed: float) -> Mask | None:
    """Snapshots that need modes of their own, where they are the lesser part.

    Parameters
    ----------
    a : (m, K) float64
        Coefficients in modes that are orthonormal.
    allowed : float
        Squared error that all snapshots together may have.

    Returns
    -------
    (m,) bool, or None
        None where the record is alike all along, or would need as many modes without them.
    """
    if not a.size:
        return None
    share = allowed / len(a)
    padded = np.pad(a, ((0, -len(a) % RUN), (0, 0)))
    ranks = _rank(padded.reshape(-1, RUN, a.shape[1]), share)
    if not ranks.max() >= CONTRAST * max(ranks.min(), 1):
        return None
    quiet = _inner(ranks <= np.sqrt(ranks.max() * max(ranks.min(), 1)))
    modes = _principal(a[np.repeat(quiet, RUN)[: len(a)]], share)
    if modes.shape[1] > SIMPLER * _rank(a, share):
        return None
    left = np.sum((a - (a @ modes) @ modes.T) ** 2, axis=1)
    rough = _closed(left > EXCESS * share)
    return rough if 0 < rough.mean() <= MOST else None


def _inner(quiet: Mask) -> Mask:
    """Without the runs beside rough ones, which may begin or end in them."""
    padded = np.pad(quiet, 1, mode="edge")
    inner = padded[:-2] & quiet & padded[2:]
    return inner if inner.any() else quiet


def _rank(a: Matrix, share: float) -> NDArray[np.int64]:
    """Modes (...) that leave each row of a (..., rows, K) an error of `share`, on average."""
    energies = np.square(np.linalg.svd(a, compute_uv=False), dtype=np.float64)
    return np.asarray(np.argmax(tails(energies) <= share * a.shape[-2], axis=-1))


def _principal(a: Matrix, share: float) -> Matrix:
    """Directions (K, r) that leave each row an error of `share`, on average."""
    axes = np.linalg.svd(a, full_matrices=False)[2]
    return np.ascontiguousarray(axes[: int(_rank(a, share))].T)


def _closed(rough: Mask) -> Mask:
    """With the short runs between rough ones, which are rough too."""
    closed, found = rough.copy(), runs(rough)
    for (_, start), (stop, _) in itertools.pairwise(found):
        if stop - start < SHORTEST:
            closed[start:stop] = True
    return closed


def runs(mask: Mask) -> list[tuple[int, int]]:
    """First and last but one of each run of true values."""
    edges = np.flatnonzero(np.diff(np.pad(mask.astype(np.int8), 1)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))

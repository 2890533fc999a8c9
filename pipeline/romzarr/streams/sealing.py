"""A segment of a stream as the POD of an archive: it is stored as if it had come at once."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from dask.delayed import delayed

from romzarr.archive.archive import Archive
from romzarr.chunked.plan import PODPlan, SpaceBlock
from romzarr.chunked.pod import HeldPOD
from romzarr.chunked.tables import Table
from romzarr.coding.latent import CONTEXT_GAIN
from romzarr.compression.choose_coding import choose_coding
from romzarr.compression.pod import ArchivePOD, Earlier, cut_factor
from romzarr.config import Config
from romzarr.contracts import BlockSpan, Matrix
from romzarr.numerics.pod.factors import RowBlock, TimeFactor
from romzarr.numerics.pod.gram import Gram
from romzarr.numerics.pod.incremental import IncrementalPOD
from romzarr.streams.blocks import Frame


def factored(
    archive: Archive,
    frame: Frame,
    pod: IncrementalPOD,
    a: Matrix,
    earlier: Earlier,
    config: Config,
) -> ArchivePOD:
    """What `romzarr.compression.pod.factor_archive` would find, from basis and coefficients.

    Parameters
    ----------
    archive : Archive
        The snapshots of the segment.
    frame : Frame
    pod : IncrementalPOD
        Settled, unless part of it is of a former process.
    a : (m, r) float64
    earlier : Earlier
    config : Config
    """
    mean = a.mean(axis=0)
    right, turn = _orthonormal_in_time(a - mean, pod)
    rows = turn @ pod.modes
    average = pod.origin + mean @ pod.modes
    blocks = tuple(
        delayed(
            RowBlock(average[part], rows[:, part], None if pod.valid is None else pod.valid[part]),
            pure=False,
            traverse=False,
        )
        for part in frame.edges
    )
    # Rounding does not make a constant vary.
    moving = pod.fluctuation > earlier.fluctuation
    lost = np.where(moving, pod.lost, 0.0)
    grams = np.where(moving[:, None, None], turn @ pod.grams @ turn.T, 0.0)
    numbers = range(len(archive.variables))
    exact = pod.is_exact
    factor = TimeFactor(
        start=0,
        right=right,
        gram=dict(enumerate(map(Gram, grams))),
        # What is lost is orthogonal in time to what is kept; of a former process nobody knows.
        discarded={v: float(lost[v]) if exact else 0.0 for v in numbers},
        apart={v: 0.0 if exact else float(lost[v]) for v in numbers},
    )
    # Where the errors of a former process meet the modes, energies do not simply add.
    totals = np.maximum(pod.fluctuation - earlier.fluctuation, 0.0)
    held = HeldPOD(_plan(archive), blocks, factor.summary, Table.of(right))
    return cut_factor(archive, config, None, held, earlier, totals)


def bytes_foretold(archive: Archive, pod: ArchivePOD, tolerance: float) -> float:
    """Bytes of all that is coded, if the segment is stored as if it had come at once."""
    chosen = choose_coding(archive, pod, tolerance)
    return (CONTEXT_GAIN * chosen.plan.bits + sum(plan.bits for _, plan in chosen.values)) / 8


def _orthonormal_in_time(a: Matrix, pod: IncrementalPOD) -> tuple[Matrix, Matrix]:
    """Orthonormal columns (m, k), and how the modes make the rows (k, n) that belong to them.

    They are the principal axes; those that are rounding of others are left out.
    """
    if not pod.rank:
        return a, np.zeros((0, 0))
    inner = np.einsum("v,vij->ij", pod.balance, pod.grams)
    values, vectors = np.linalg.eigh(inner)
    root = np.sqrt(np.maximum(values, np.finfo(float).eps * values[-1:].sum()))
    right, sigma, axes = scipy.linalg.svd((a @ vectors) * root, full_matrices=False)
    kept = sigma > len(a) * np.finfo(float).eps * sigma[:1].sum()
    turn = (sigma[:, None] * axes / root) @ vectors.T
    return right[:, kept], turn[kept]


def _plan(archive: Archive) -> PODPlan:
    """One block a variable."""
    rows = tuple(
        SpaceBlock(number, number, tuple(slice(0, n) for n in variable.space_shape))
        for number, variable in enumerate(archive.variables)
    )
    whole = BlockSpan(0, len(archive.time.values))
    return PODPlan(rows, (whole,), ((((whole,),)),) * len(rows))

"""Rough snapshots of a record of which the coefficients are in blocks of time."""

from __future__ import annotations

from collections.abc import Sequence

import dask
import numpy as np
from dask.delayed import Delayed, delayed

from romzarr.chunked.slices import joined
from romzarr.chunked.tables import LeftOut, Table
from romzarr.contracts import BlockSpan, Mask, Matrix
from romzarr.numerics.pod.roughness import (
    MOST,
    RUN,
    are_simpler,
    closed,
    principal_directions,
    quiet_runs,
    rough_rows,
    run_ranks,
)
from romzarr.numerics.triangles import square_r


def rough_stretches(a: Table, allowed: float) -> LeftOut | None:
    """Snapshots that need modes of their own, where they are the lesser part. Runs Dask.

    Of the record two bytes for each `RUN` snapshots are here, and a triangle.

    Parameters
    ----------
    a : Table, (m, K)
        Coefficients in modes that are orthonormal, in blocks of whole runs.
    allowed : float
        Squared error that all snapshots together may have.

    Returns
    -------
    LeftOut or None
        None where the record is alike all along, or would need as many modes without them.
    """
    if not a.columns or not len(a):
        return None
    a, count = a.kept(), len(a)
    share = allowed / count
    ranks = dask.compute(*(delayed(run_ranks, pure=False)(block, share) for block in a.blocks))
    quiet = quiet_runs(np.concatenate(ranks))
    if quiet is None:
        return None
    own = np.split(quiet, np.cumsum([len(each) for each in ranks])[:-1])
    rows = int(np.repeat(quiet, RUN)[:count].sum())
    found, whole = dask.compute(_triangle(a, own), _triangle(a, [None] * len(own)))
    directions = principal_directions(found, share * rows)
    if not are_simpler(directions, principal_directions(whole, share * count)):
        return None
    tasks = [delayed(rough_rows, pure=False)(block, directions, share) for block in a.blocks]
    stretches = [
        (first + span.start, last + span.start)
        for span, some in zip(a.spans, dask.compute(*tasks), strict=True)
        for first, last in some
    ]
    rough = LeftOut(tuple(BlockSpan(*each) for each in closed(stretches)))
    return rough if 0 < len(rough) <= MOST * count else None


def _triangle(a: Table, runs: Sequence[Mask | None]) -> Delayed:
    """Triangle R of the rows of some runs of each block (None: of all)."""
    task = delayed(_r_of, pure=False)
    return joined([task(b, some) for b, some in zip(a.blocks, runs, strict=True)], _merged)


def _r_of(block: Matrix, some: Mask | None) -> Matrix:
    return square_r(block if some is None else block[np.repeat(some, RUN)[: len(block)]])


def _merged(triangles: Sequence[Matrix]) -> Matrix:
    return square_r(np.concatenate(triangles))

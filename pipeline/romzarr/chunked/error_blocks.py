"""Squared errors of decoded modes by block of time, from inner products and coefficients alone.

With fields f_k and what they decode to, g_k, in units of their singular values, orthonormal
coefficients v_k(t), and what these decode to, w_k(t), a snapshot is off by
``sum_k v_k (f_k - g_k) + sum_k (v_k - w_k) g_k``. Its square follows from inner products in space
of ``f_k - g_k`` and ``g_k``, and from those of the coefficients in time, which are summed by block.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from dask.delayed import delayed

from romzarr.chunked.slices import added, gathered
from romzarr.chunked.tables import LeftOut, Table
from romzarr.contracts import BlockSpan, Matrix, Vector
from romzarr.numerics.error_blocks import ErrorGrid
from romzarr.numerics.pod.gram import Gram


def squares_in_time(
    right: Table,
    missed: Table,
    sigma: Vector,
    products: Sequence[Gram],
    grids: Sequence[ErrorGrid],
    rough: LeftOut | None,
) -> list[Matrix]:
    """Squared errors of some variables by block of time. Runs Dask.

    Parameters
    ----------
    right : Table (m, K + 1)
        Orthonormal coefficients of all modes, and last the constant.
    missed : Table (m, r)
        What decoding misses of the coefficients a(t) of the leading modes.
    sigma : (r,)
        Their singular values.
    products : sequence of Gram, one of K + 1 + r rows for each variable
        As of `romzarr.chunked.fields.code_tile`.
    grids : sequence of ErrorGrid
        Blocks of time of each variable.
    rough : LeftOut, optional
        Snapshots whose values are not made of modes, and have no errors here.

    Returns
    -------
    list of (blocks, 1, ..., 1)
    """
    function = partial(_block_squares, sigma=sigma, grids=grids, rough=rough or LeftOut())
    task, kept = delayed(function, pure=False), delayed(products, pure=False, traverse=False)
    others = missed.cut(right.spans).blocks
    both = zip(right.blocks, others, right.spans, strict=True)
    tasks = [task(block, other, kept, span) for block, other, span in both]
    flat: Matrix = gathered(tasks, added)
    ends = np.cumsum([grid.counts[0] for grid in grids])[:-1]
    parts = np.split(np.maximum(flat, 0.0), ends)
    return [part.reshape(grid.counts) for part, grid in zip(parts, grids, strict=True)]


def _block_squares(
    right: Matrix,
    missed: Matrix,
    products: Sequence[Gram],
    span: BlockSpan,
    *,
    sigma: Vector,
    grids: Sequence[ErrorGrid],
    rough: LeftOut,
) -> Matrix:
    """What the snapshots of a span add to the blocks of all variables, one after the other."""
    rows = np.concatenate([right, missed / sigma], axis=1)[rough.kept(span)]
    numbers = np.arange(span.start, span.stop)[rough.kept(span)]
    found = [np.zeros(grid.counts[0]) for grid in grids]
    # Variables of one record have blocks of few lengths.
    for length in {grid.lengths[0] for grid in grids}:
        mine = [n for n, grid in enumerate(grids) if grid.lengths[0] == length]
        for number in np.unique(numbers // length).tolist():
            some = rows[numbers // length == number]
            in_time = some.T @ some
            for n in mine:
                found[n][number] += products[n].with_products(in_time)
    return np.concatenate(found)

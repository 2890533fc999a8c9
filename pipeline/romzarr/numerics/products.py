"""Products of matrices in blocks of one shape: a number is the same with whatever others.

What BLAS makes of a row depends on the rows beside it: how sums are ordered is chosen by the
shape, by what is left at the edges, by the number of threads. So readers, who ask for any part
of a record, multiply blocks of one shape only, in which every row and column has its own place.
"""

from __future__ import annotations

import numpy as np

from romzarr.contracts import Floats

# Rows and columns of a block, and terms of a sum made at once. Larger blocks are little faster,
# and whoever reads one snapshot pays for a row of blocks. Together they are 2^18 products, the
# most for which OpenBLAS never takes several threads.
ROWS, COLUMNS, INNER = 16, 64, 256


def product(left: Floats, right: Floats, out: Floats | None = None) -> Floats:
    """``left @ right`` of stacks of matrices, sums in pieces of `INNER` terms.

    Parameters
    ----------
    left : ndarray, shape (..., n, k)
    right : ndarray, shape (..., k, m)
        Its rows lie side by side in memory.
    out : ndarray, shape (..., n, m), optional
    """
    found: Floats = np.matmul(left[..., :INNER], right[..., :INNER, :], out=out)
    for start in range(INNER, left.shape[-1], INNER):
        stop = start + INNER
        found += np.matmul(left[..., start:stop], right[..., start:stop, :])
    return found

"""How far the data that was archived may be from what a store decodes.

With e the difference of the two, ``||e|| <= E`` in the weighted norm over the selected times and
points. Every bound follows from E by Cauchy-Schwarz and the triangle inequality.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from romzarr.answers.selection import Selection
from romzarr.contracts import Coding, Matrix
from romzarr.store.reading.block_errors import error_within

# The decoder rounds fields and their sum as often (`romzarr.numerics.budget`), the answer not.
_DECODING = 22.0


def recorded_error(selected: Selection) -> float:
    """The L2 norm E of the error of a variable where it is selected, in its units; inf if it is
    not known.

    Recorded are the error of the whole by its fluctuation, rounded up, and the square of the
    latter; and the squared errors of blocks, of which those count that the selection touches.
    """
    if selected.stored.coding in (Coding.CONSTANT, Coding.LOSSLESS):
        return 0.0
    return error_within(selected.store, selected.stored.name, selected.rows, selected.places)


def errors_of_sums(selected: Selection, weights: Matrix, norm: float) -> Matrix:
    """E (q,) for the snapshots that count in each of q sums with `weights` (q, m); see `error_of`.

    Snapshots without weight add nothing to the error of a sum.
    """
    rows = (selected.rows[row != 0] for row in weights)
    return np.array([error_of(replace(selected, rows=some), norm) for some in rows])


def error_of(selected: Selection, norm: float) -> float:
    """E for the selected values, as they are before rounding to the variable's dtype.

    `norm` is the norm of the selected values. The recorded error is of rounded values, so sums
    from factors may be off by that rounding, too, and sums over time by that of float64.
    """
    unit = len(selected.rows) * np.finfo(np.float64).eps
    if selected.factored:
        arithmetic = np.dtype(selected.store.last.facts["arithmetic"])
        unit += float(np.finfo(selected.stored.dtype).eps)
        unit += _DECODING * float(np.finfo(arithmetic).eps)
    return recorded_error(selected) * selected.repeats**0.5 + unit * norm

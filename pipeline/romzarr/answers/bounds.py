"""How far the data that was archived may be from what a store decodes.

With e the difference of the two, ``||e|| <= E`` in the weighted norm over time and space. Every
bound follows from E by Cauchy-Schwarz and the triangle inequality.
"""

from __future__ import annotations

import numpy as np

from romzarr.answers.selection import Selection
from romzarr.contracts import Coding
from romzarr.store.reading.facts import l2_error_of

# The decoder rounds fields and their sum as often (`romzarr.numerics.budget`), the answer not.
_DECODING = 22.0


def recorded_error(selected: Selection) -> float:
    """The L2 norm E of the error of the whole variable, in its units; inf if it is not known.

    Recorded is the error by the fluctuation, rounded up, and the square of the latter.
    """
    if selected.stored.coding in (Coding.CONSTANT, Coding.LOSSLESS):
        return 0.0
    return l2_error_of(selected.store.facts, selected.stored.name)


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

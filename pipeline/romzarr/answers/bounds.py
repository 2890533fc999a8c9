"""How far the data that was archived may be from what a store decodes.

With e the difference of the two, ``||e|| <= E`` in the weighted norm over the selected times and
points. Every bound follows from E by Cauchy-Schwarz and the triangle inequality, or by what is
cited where it is used.
"""

from __future__ import annotations

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


def largest_error(selected: Selection) -> float:
    """Bound on the error of each decoded value; inf if none is recorded."""
    if selected.stored.coding in (Coding.CONSTANT, Coding.LOSSLESS):
        return 0.0
    facts = selected.store.facts
    return float(facts.get("largest_pointwise_error", {}).get(selected.stored.name, np.inf))


def rounding_of(selected: Selection) -> float:
    """By how much of their norm the values may be off by rounding.

    The recorded error is of values rounded to the variable's dtype, so sums from factors may be off
    by that rounding, too, and sums over time by that of float64.
    """
    unit = len(selected.rows) * float(np.finfo(np.float64).eps)
    if selected.factored:
        arithmetics = [np.dtype(part.facts["arithmetic"]) for part in selected.store.parts]
        unit += float(np.finfo(selected.stored.dtype).eps)
        unit += _DECODING * max(float(np.finfo(each).eps) for each in arithmetics)
    return unit


def of_squares(norm: float, off: float) -> float:
    """L1 bound on the error of squares, of which the root has this L2 norm and is `off` at most:
    ``|x^2 - y^2| <= (|x - y| + 2 |y|) |x - y|`` and Cauchy-Schwarz."""
    return (2 * norm + off) * off


def of_correlations(found: Matrix, lengths: Matrix, off: float, weights: Matrix) -> float:
    """L2 bound on the error of correlations `found` with a series that is known.

    A correlation r is the cosine of an angle. An error e turns a vector of length b > |e| by an
    angle of sine ``|e| / b`` at most, which changes r by no more than ``(1 + |r|) |e| / b``;
    nothing changes it by more than ``1 + |r|``. The sum of squares is largest where the error turns
    those first that take least of it.

    Parameters
    ----------
    found, lengths, weights : ndarray, shape (n,)
        Correlations, the norms (over time, about the mean) of what is correlated, positive, and
        what each of n counts.
    off : float
        The root of the weighted sum of squared errors.
    """
    costs, gains = weights * lengths**2, weights * (1 + np.abs(found)) ** 2
    order = np.argsort(lengths / (1 + np.abs(found)))
    spent, gained = (np.insert(np.cumsum(each[order]), 0, 0.0) for each in (costs, gains))
    # Beyond all of them nothing is gained.
    return float(np.sqrt(np.interp(off**2, spent, gained)))


def dual_norm(weights: Matrix, counted: Matrix) -> float:
    """The largest of ``weights @ e`` for e of norm 1; inf if a point counts nothing in it."""
    used = weights != 0
    with np.errstate(divide="ignore"):
        return float(np.sqrt(np.sum(weights[used] ** 2 / counted[used])))

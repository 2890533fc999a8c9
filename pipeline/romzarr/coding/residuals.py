"""Residuals: what is added to decoded values so that no single one is off by more than a bound.

They are whole multiples of a step, twice as long as what may be off, to the nearest; where the
decoded value is good enough they are zero. Large residuals keep company in time and space,
which is all that foretells them: there is nothing left to transform.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from romzarr.coding.field import encode_field
from romzarr.coding.tiles import extended
from romzarr.contracts import Floats


def residual_bits(ratio: float) -> float:
    """Bits of a residual, as it is foretold by the error of decoded values.

    Errors are larger in some places than in others, and then have a Laplace distribution
    rather than a normal one.

    Parameters
    ----------
    ratio : float
        Root of the mean squared error, as a share of half a step.
    """
    # Beyond thirty times the error there is nothing.
    edges = 2 * np.arange(math.ceil(15 * ratio) + 2) + 1
    beyond = np.exp(-(2**0.5) * edges / ratio)
    # Of each size but zero; half of them are negative.
    shares = beyond[:-1] - beyond[1:]
    zero, others = 1 - beyond[0], shares[shares > 0]
    return float(-zero * np.log2(max(zero, 1e-300)) - np.sum(others * np.log2(others / 2)))


def rounded_residuals(difference: Floats, step: float) -> Floats:
    """Multiples of `step` nearest to the differences between values and decoded ones.

    Where nothing is (NaN), and where half a step is not exceeded, zero.
    """
    steps: Floats = np.rint(difference / step)
    return np.where(np.isnan(steps), 0.0, steps) * step


def encode_residuals(residuals: Floats, tile: Sequence[int], step: float) -> bytes:
    """Code one tile of `rounded_residuals`, the part of it that lies within the array, exactly.

    `encode_field` may round down what is less than a quarter of a step above the middle
    between two multiples, never what is a multiple; and these lie in the middle of their
    bins, which is where they are decoded to.
    """
    return encode_field(extended(residuals, tile), step, (0,) * len(tile))

"""The most likely model with all terms of a degree, whatever coordinates it is sparse in."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from romzarr.numerics.dynamics.library import PolynomialLibrary
from romzarr.numerics.dynamics.likelihood import Fit, first_noise, most_likely
from romzarr.numerics.dynamics.shooting import Record
from romzarr.numerics.dynamics.stlsq import stlsq
from romzarr.numerics.dynamics.term_selection import leading, weak_triangle


def dense_fit(
    records: Sequence[Record], libraries: Sequence[PolynomialLibrary]
) -> tuple[PolynomialLibrary, Fit] | None:
    """The library and the fit of all its terms that the Bayesian criterion likes best.

    A degree keeps all its terms in other coordinates, so only degrees are compared, from low to
    high: a system may have odd degrees alone, so that one that does not help is no reason to
    stop, unless trajectories of a lower one follow the record already. None if all run away.
    """
    triangle, noise = weak_triangle(records, libraries[-1]), first_noise(records)
    price = math.log(sum(record.states.size for record in records))
    best: tuple[float, PolynomialLibrary, Fit] | None = None
    for library in libraries:
        first = stlsq(leading(triangle, library), threshold=0.0).coefficients
        fit = most_likely(records, library, np.ones(first.shape, bool), first, noise)
        if fit is None:
            continue
        score = fit.deviance + price * first.size
        if best is None or score < best[0]:
            best = (score, library, fit)
        elif best[2].guess.broken == 0:
            break
    return None if best is None else best[1:]

"""Standard errors where errors of neighbouring samples are alike.

Likelihood takes them to be independent. Those that coding leaves hold no high frequencies, and
those of filtered measurements neither, so that all samples say less than as many independent ones.
The estimates remain right, but their covariance is that of the scores summed over all lags [1]_.

References
----------
.. [1] W. K. Newey, K. D. West, "A simple, positive semi-definite, heteroskedasticity and
   autocorrelation consistent covariance matrix", Econometrica 55 (1987) 703.
.. [2] D. W. K. Andrews, "Heteroskedasticity and autocorrelation consistent covariance matrix
   estimation", Econometrica 59 (1991) 817, equation 6.2 (lags of Bartlett's weights).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from romzarr.contracts import Matrix
from romzarr.numerics.dynamics.library import Library
from romzarr.numerics.dynamics.likelihood import Fit, LinearSystem
from romzarr.numerics.dynamics.shooting import Record

# Autocorrelation beyond which that of a first-order process says too many lags.
LARGEST = 0.97


def robust(records: Sequence[Record], library: Library, fit: Fit) -> Fit:
    """The fit with a covariance that holds for errors that are alike.

    Of independent errors that is the one it had, but for chance, which is not to make it smaller.
    A fit with disturbances takes errors that persist for such, so there it may be smaller.
    """
    if not fit.support.any():
        return fit
    try:
        system = LinearSystem(records, library, fit.guess)
    except np.linalg.LinAlgError:
        return fit
    terms, equations = np.nonzero(fit.support)
    columns = system.columns(terms, equations)
    left = system.right() - columns @ fit.coefficients[terms, equations]
    q, inverse = fit.support.shape[1], fit.covariance / fit.variance
    ends = np.cumsum([(len(record.times) - 1) * q for record in records])[:-1]
    scores = [
        part.reshape(-1, q, len(terms)).sum(axis=1)
        for part in np.split(columns * left[:, None], ends)
    ]
    residuals = [part.reshape(-1, q) for part in np.split(left, ends)]
    free = max(len(left) - len(terms), 1)
    summed = inverse @ _long_run(scores, _lags(residuals)) @ inverse * len(left) / free
    least = 0.0 if fit.guess.broken else 1.0
    factor = np.sqrt(np.maximum(np.diag(summed) / np.diag(fit.covariance), least))
    return replace(fit, covariance=fit.covariance * np.outer(factor, factor))


def _lags(residuals: Sequence[Matrix]) -> int:
    """Lags to sum over, by the rule of [2]_ for a process of first order."""
    products = sum(float(np.sum(each[1:] * each[:-1])) for each in residuals)
    squares = sum(float(np.sum(each**2)) for each in residuals)
    alike = min(abs(products) / squares, LARGEST) if squares else 0.0
    length = sum(map(len, residuals))
    return int(1.1447 * (4 * alike**2 / (1 - alike**2) ** 2 * length) ** (1 / 3))


def _long_run(scores: Sequence[Matrix], lags: int) -> Matrix:
    """Covariance (k, k) of the sum of scores (m, k), by Bartlett's weights."""
    total: Matrix = np.zeros((scores[0].shape[1],) * 2)
    for each in scores:
        total += each.T @ each
        for lag in range(1, min(lags, len(each) - 1) + 1):
            lagged = each[lag:].T @ each[:-lag]
            total += (1 - lag / (lags + 1)) * (lagged + lagged.T)
    return total
